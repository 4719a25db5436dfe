"""Tokens by the core, without the GIL, for captions that open_clip's ``SimpleTokenizer`` neither mends nor unescapes.

Of these, and of no others, it is known what its cleaning makes of them: printable ASCII, tabs and line ends, no ``&``,
no special token written out, no word of more than 256 characters. Most of a web pool's English captions are such.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dcfast._core import tokens as core_tokens

if TYPE_CHECKING:
    from torch import Tensor

_PATTERN = r"""<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
_SPECIAL = ["<start_of_text>", "<end_of_text>"]
_ASCII = 128
_PROBES = (
    "",
    "a photo of a Dog",
    "It's  THEY'LL\tI'd 'tis don''t",
    "12 x 345mm, $6.99!!! (new) __init__",
    "supercalifragilisticexpialidocious http://example.com/a_b-c?d=e",
    'a < b > c <end_of_tex <|x|> ~`@#%^*+={}[]\\|;:"',
    "word " * 100,
)
"""Captions by which a tokenizer is compared before it is believed to be the one that the core knows."""


class CoreTokenizer:
    """Tokens of captions in a buffer. See ``core_tokenizer``; safe for many threads.

    Attributes:
        context: tokens of a caption.
    """

    def __init__(self, pairs: core_tokens.BytePairs, context: int) -> None:
        self._pairs = pairs
        self.context: int = context

    def encode(
        self,
        data: bytes | memoryview,
        begin: npt.NDArray[np.int64],
        size: npt.NDArray[np.int64],
        *,
        threads: int = 1,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Tokens of n captions, where the core is sure of them.

        Args:
            data: bytes; caption i is data[begin[i] : begin[i] + size[i]].
            threads: 0 = one per core.
        Returns:
            (n, context) int64, and (n,) whether a caption was done; the row of one that was not means nothing.
        Raises:
            ValueError: a caption beyond the data.
        Cost: about 2 us a caption of 60 bytes, without the GIL.
        """
        tokens, done = self._pairs.encode(data, begin, size, self.context, threads)
        return tokens.reshape(len(begin), self.context), done


def core_tokenizer(tokenizer: Any) -> CoreTokenizer | None:
    """The same tokenizer in the core; None where it is another than ``SimpleTokenizer`` with its default options.

    Args:
        tokenizer: as ``load_tokenizer`` gives it; open_clip is not typed.
    Memory: 2 MiB.   Cost: 50 ms.
    """
    from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode, get_clean_fn

    if (
        type(tokenizer) is not SimpleTokenizer
        or tokenizer.reduction_fn is not None
        or tokenizer.clean_fn is not get_clean_fn("lower")
        or tokenizer.pat.pattern != _PATTERN
        or not tokenizer.pat.flags & re.IGNORECASE
        or tokenizer.all_special_ids != [tokenizer.encoder[text] for text in _SPECIAL]
    ):
        return None
    encoder, characters = tokenizer.encoder, bytes_to_unicode()
    ranked = sorted((rank, pair) for pair, rank in tokenizer.bpe_ranks.items() if len(pair) == 2)
    # a merge of what is no token never comes about
    merges = [(encoder.get(a, -1), encoder.get(b, -1), encoder.get(a + b, -1)) for _, (a, b) in ranked]
    table = np.array([merge for merge in merges if min(merge) >= 0], np.int32).reshape(-1, 3).T.copy()
    inner, last = (
        np.array([encoder.get(characters[i] + suffix, -1) for i in range(_ASCII)], np.int32) for suffix in ("", "</w>")
    )
    start, end = tokenizer.all_special_ids
    context = int(tokenizer.context_length or 77)
    core = CoreTokenizer(core_tokens.BytePairs(table[0], table[1], table[2], inner, last, start, end), context)
    return core if _agree(core, tokenizer) else None


def _agree(core: CoreTokenizer, tokenizer: Any) -> bool:
    """Whether both say the same of a few captions: another open_clip may do something else by these names."""
    size = np.array([len(text) for text in _PROBES], np.int64)
    tokens, done = core.encode("".join(_PROBES).encode(), np.cumsum(size) - size, size)
    return bool(done.all()) and np.array_equal(tokens, tokenizer(list(_PROBES)).numpy())


_kept_core = lru_cache(maxsize=8)(core_tokenizer)


def tokenize(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """What a tokenizer makes of n texts, (n, context) int64: by the core those that it is sure of."""
    import torch

    core = _kept_core(tokenizer)
    if core is None:
        made: Tensor = tokenizer(list(texts))
        return made
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    size = np.array([len(text) for text in encoded], np.int64)
    tokens, done = core.encode(b"".join(encoded), np.cumsum(size) - size, size)
    left = np.flatnonzero(~done).tolist()
    if left:
        tokens[left] = tokenizer([texts[i] for i in left]).numpy()
    return torch.from_numpy(tokens)
