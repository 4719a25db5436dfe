"""Decoders: encoded bytes and a crop window to the square picture that a model takes.

A decoder is handed the window as an argument. What PIL's gives is, pixel for pixel, what open_clip's training
transform gives for the same window: crop, bicubic resize, then RGB; no EXIF turning.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["DECODERS", "BadPicture", "Decoder", "PilDecoder", "open_decoder"]

_ADDRESS = re.compile(r" <_io\.BytesIO object at \w+>")
Window = Callable[[int, int], tuple[int, int, int, int]]
"""(width, height) -> (left, top, width, height) of the crop."""


class BadPicture(Exception):  # noqa: N818  (it never leaves the loader)
    """A sample cannot be used; the text says why."""


class Decoder(Protocol):
    """Decodes one picture; raises BadPicture where it cannot."""

    def __call__(self, data: memoryview, window: Window, size: int) -> npt.NDArray[np.uint8]:
        """(size, size, 3) uint8, RGB."""
        ...


class PilDecoder:
    """Pillow, whole picture: the reference that every other decoder is measured against."""

    def __call__(self, data: memoryview, window: Window, size: int) -> npt.NDArray[np.uint8]:
        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # odd EXIF blocks, and large pictures: Pillow's own limit holds
                with Image.open(io.BytesIO(data)) as picture:
                    left, top, wide, tall = window(*picture.size)
                    cut = picture.crop((left, top, left + wide, top + tall))
                resized = cut.resize((size, size), Image.Resampling.BICUBIC)
                pixels: npt.NDArray[np.uint8] = np.asarray(resized.convert("RGB"))
                return pixels
        except Exception as error:  # Pillow's plugins raise many types for damaged files
            said = _ADDRESS.sub("", str(error))  # Pillow names the buffer's place in memory
            raise BadPicture(f"{type(error).__name__}: {said}"[:200]) from None


DECODERS: dict[str, Callable[[], Decoder]] = {"pil": PilDecoder}


def open_decoder(name: str) -> Decoder:
    """The decoder of that name; ValueError lists those there are."""
    if name not in DECODERS:
        raise ValueError(f"decoder must be one of {', '.join(DECODERS)}; got {name!r}")
    return DECODERS[name]()
