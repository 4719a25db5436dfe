"""Decoders: encoded bytes and a crop window to the square picture that a model takes.

A decoder is handed the window as an argument. What PIL's gives is, pixel for pixel, what open_clip's training
transform gives for the same window: crop, bicubic resize, then RGB; no EXIF turning.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable
from typing import Any, Protocol

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
                    resized = self._cut(picture, window(*picture.size), size)
                pixels: npt.NDArray[np.uint8] = np.asarray(resized.convert("RGB"))
                return pixels
        except Exception as error:  # Pillow's plugins raise many types for damaged files
            said = _ADDRESS.sub("", str(error))  # Pillow names the buffer's place in memory
            raise BadPicture(f"{type(error).__name__}: {said}"[:200]) from None

    def _cut(self, picture: Any, window: tuple[int, int, int, int], size: int) -> Any:
        from PIL import Image

        left, top, wide, tall = window
        cut = picture.crop((left, top, left + wide, top + tall))
        return cut.resize((size, size), Image.Resampling.BICUBIC)


class ReducedPilDecoder(PilDecoder):
    """Pillow, large JPEGs decoded at 1/2, 1/4 or 1/8, as long as the window keeps twice the pixels that are wanted.

    Several times faster for large pictures, and the same as ``PilDecoder`` for those that are not reduced; the
    difference is measured on the training's own samples and stands in its summary.
    """

    def _cut(self, picture: Any, window: tuple[int, int, int, int], size: int) -> Any:
        from PIL import Image

        left, top, wide, tall = window
        width, height = picture.size
        if picture.format != "JPEG" or min(wide, tall) < 4 * size:
            return super()._cut(picture, window, size)
        share = 2 * size / min(wide, tall)
        picture.draft(None, (math.ceil(width * share), math.ceil(height * share)))
        by = round(width / picture.size[0])  # exactly 1, 2, 4 or 8; the last column may cover less
        right, bottom = min((left + wide) / by, picture.size[0]), min((top + tall) / by, picture.size[1])
        box = (left / by, top / by, right, bottom)
        return picture.resize((size, size), Image.Resampling.BICUBIC, box=box)


DECODERS: dict[str, Callable[[], Decoder]] = {"pil": PilDecoder, "pil_reduced": ReducedPilDecoder, "dali": PilDecoder}
"""By name. ``dali`` decodes whole batches (``dcfast.train.dali``); here stands what decodes the rest of them."""


def open_decoder(name: str) -> Decoder:
    """The decoder of that name; ValueError lists those there are."""
    if name not in DECODERS:
        raise ValueError(f"decoder must be one of {', '.join(DECODERS)}; got {name!r}")
    return DECODERS[name]()
