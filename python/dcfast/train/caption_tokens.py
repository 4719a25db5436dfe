"""Tokens of a chunk's captions: by the core without the GIL, or by open_clip's tokenizer where the core leaves them."""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.models.captions import MAX_CAPTION_BYTES, read_caption
from dcfast.models.clip import load_tokenizer
from dcfast.models.tokens import CoreTokenizer, core_tokenizer
from dcfast.train.source import RawSamples

if TYPE_CHECKING:
    import torch

_CACHED_CAPTIONS = 1 << 16
_REMEMBERED_CHARACTERS = 2048
"""Of a caption whose tokens are kept; with longer ones, strangers could fill the memory."""


@cache
def _core_of(model: str) -> CoreTokenizer | None:
    return core_tokenizer(load_tokenizer(model))


class CaptionTokens:
    """The tokenizer of a model for many threads. Memory: the tokens of at most 65,536 captions that the core leaves.

    Attributes:
        context: tokens of a caption.
    """

    def __init__(self, model: str) -> None:
        self._tokenizer = load_tokenizer(model)
        self._core = _core_of(model)
        self.context: int = int(self._tokenizer([""]).shape[1]) if self._core is None else self._core.context
        self._known: dict[str, torch.Tensor] = {}
        self._lock = threading.Lock()  # open_clip's own keeps the words it has met

    def write(self, raw: RawSamples, tokens: npt.NDArray[np.int64], at: npt.NDArray[np.int64]) -> dict[int, str]:
        """Writes the tokens of n samples.

        Args:
            tokens: (m, context).   at: (n,) the row of each.
        Returns:
            sample -> why it cannot be used, of those whose caption is missing or no text.
        """
        failed, texts = {}, {}
        left = np.arange(len(raw))
        if self._core is not None:
            begin, size = raw.captions.begin, np.minimum(raw.captions.size, MAX_CAPTION_BYTES)
            rows, done = self._core.encode(raw.texts.data, begin, np.maximum(size, 0))
            done &= size >= 0
            tokens[at[done]] = rows[done]
            left = np.flatnonzero(~done)
        for i in left.tolist():
            caption = raw.caption(i)
            if caption is None:
                failed[i] = raw.lacking
                continue
            try:
                texts[i] = read_caption(caption, "strict")
            except UnicodeDecodeError:
                failed[i] = "the caption is not UTF-8"
        if texts:
            tokens[at[list(texts)]] = self._by_open_clip(list(texts.values()))
        return failed

    def _by_open_clip(self, captions: list[str]) -> npt.NDArray[np.int64]:
        import torch

        with self._lock:
            unknown = sorted({c for c in captions if c not in self._known})
            if len(self._known) + len(unknown) > _CACHED_CAPTIONS:
                self._known.clear()
                unknown = sorted(set(captions))
            if unknown:
                # captions come back some ten times in a training: their tokens are kept
                self._known.update(zip(unknown, self._tokenizer(unknown), strict=True))
            tokens: npt.NDArray[np.int64] = torch.stack([self._known[c] for c in captions]).numpy()
            for caption in unknown:
                if len(caption) > _REMEMBERED_CHARACTERS:
                    del self._known[caption]
        return tokens
