"""Captions of any length: as much of one is read as a model can see, by one rule for features, training, evaluation.

open_clip's byte-pair tokenizer takes minutes for a word of a megabyte. It merges pairs over a whole word, in time that
grows with the square of its length, and cleans and merges the whole caption, of which a model sees 77 tokens. Here it
stops where the model does. It keeps every word it has met, too: here it forgets.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Tokenizer = Callable[[list[str]], "Tensor"]
"""Of n captions: int64 (n, context length)."""
MAX_CAPTION_BYTES = 1 << 16
"""Of a caption that are read at all; in that many, only blanks and what is cleaned away leave a context unfilled."""
_MAX_LINES = 4096
"""Of a caption that are read; each is cleaned by itself, and a line of one letter is a token."""
_MAX_CHARACTERS = 2048
"""That other tokenizers are given, of which some take quadratic time."""
_FIRST_LOOK = 2048
_CACHED_WORDS = 1 << 18
_BEYOND = 512
"""Bytes of a word that are looked at behind the last that a token can reach: a merge depends on its neighbours."""
_BLANK_LINES = re.compile(r"\n[\x00-\x20\x7f]*\n")
"""Cleaned, they are one blank; each by itself costs as much as a line with words."""


def read_caption(data: bytes | memoryview, errors: str = "replace") -> str:
    """A caption's bytes as text, as far as ``MAX_CAPTION_BYTES``; the rest is not even decoded.

    Args:
        errors: what becomes of bytes that are not UTF-8: ``replace`` (by U+FFFD) or ``strict``.
    Raises:
        UnicodeDecodeError: ``strict``, and they are not.
    """
    begin = bytes(data[:MAX_CAPTION_BYTES])
    # not the last: bytes of a character that the cut has left at the end are kept back
    return codecs.getincrementaldecoder("utf-8")(errors).decode(begin, final=len(data) == len(begin))


class _WordCache(dict[str, str]):
    """The words met so far; where they are too many all are forgotten."""

    def __setitem__(self, word: str, parts: str) -> None:
        if len(self) >= _CACHED_WORDS:
            self.clear()
        super().__setitem__(word, parts)


def read_as_far_as_the_model(tokenizer: Tokenizer) -> Tokenizer:
    """Makes an open_clip ``SimpleTokenizer`` read as much of a caption as its context holds; the tokens stay the same.

    Other tokenizers, and those that choose words from the whole caption, are given its first 2,048 characters.
    Memory: 262,144 words.   Cost: at most 0.5 s a caption.
    """
    from open_clip.tokenizer import SimpleTokenizer

    if not isinstance(tokenizer, SimpleTokenizer) or tokenizer.reduction_fn is not None:
        return lambda texts: tokenizer([t[:_MAX_CHARACTERS] for t in ([texts] if isinstance(texts, str) else texts)])
    context = int(tokenizer.context_length or 77)
    longest = max(map(len, tokenizer.encoder))  # of a token, in bytes

    def encode(text: str) -> list[int]:
        tokens: list[int] = []
        for beginning in _growing(text):
            tokens = []
            for match in tokenizer.pat.finditer(tokenizer.clean_fn(beginning)):
                most = (context - len(tokens)) * longest + _BEYOND
                word = "".join(tokenizer.byte_encoder[b] for b in match[0][:most].encode("utf-8")[:most])
                tokens += [tokenizer.encoder[part] for part in tokenizer.bpe(word).split(" ")]
                if len(tokens) >= context:
                    return tokens  # the rest is cut off
        return tokens

    tokenizer.cache = _WordCache(tokenizer.cache)
    tokenizer.encode = encode
    bounded: Tokenizer = tokenizer
    return bounded


def same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers are known to give the same tokens: one and the same, or open_clip's plain one twice.

    Cost: 10 ms where they are two.
    """
    from open_clip.tokenizer import SimpleTokenizer

    if one is other:
        return True
    if type(one) is not SimpleTokenizer or type(other) is not SimpleTokenizer:
        return False
    names = ("reduction_fn", "context_length", "clean_fn", "pat", "all_special_ids", "bpe_ranks", "encoder")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _growing(text: str) -> Iterator[str]:
    """The beginning of a caption up to the end of a line, longer each time, at last all of it.

    Cleaning goes line by line, and no word crosses the end of one: its tokens are the first of the whole caption's.
    """
    text = text[:MAX_CAPTION_BYTES]
    size = _FIRST_LOOK
    if len(text) > size:
        text = "\n".join(_BLANK_LINES.sub("\n", text).split("\n", _MAX_LINES)[:_MAX_LINES])
    while size < len(text):
        end = text.find("\n", size) + 1
        if end == 0:
            break
        yield text[:end]
        size = 4 * end
    yield text
