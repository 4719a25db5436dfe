"""Decoders: encoded bytes and a crop window to the square picture that a model takes.

A decoder is handed the window as an argument. What PIL's gives is, pixel for pixel, what open_clip's training
transform gives for the same window: crop, bicubic resize, then RGB; no EXIF turning. The core gives the same pixels of
plain JPEGs, several times faster and without the GIL; whatever it leaves is Pillow's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from dcfast.images.decode import eight_bits, open_image

if TYPE_CHECKING:
    from PIL.Image import Image

Window = Callable[[int, int], tuple[int, ...]]
"""(width, height) -> (left, top, width, height) of the crop."""


class Decoder(Protocol):
    """Decodes one picture; raises ``dcfast.images.decode.BadImage`` where it cannot."""

    def __call__(self, data: memoryview, window: Window, size: int) -> npt.NDArray[np.uint8]:
        """(size, size, 3) uint8, RGB."""
        ...


class PilDecoder:
    """Pillow, whole picture: the reference that every other decoder is measured against."""

    def __call__(self, data: memoryview, window: Window, size: int) -> npt.NDArray[np.uint8]:
        with open_image(data) as image:
            resized = self._cut(image, window(*image.size), size)
            pixels: npt.NDArray[np.uint8] = np.asarray(resized.convert("RGB"))
            return pixels

    def _cut(self, image: Image, window: tuple[int, ...], size: int) -> Image:
        from PIL.Image import Resampling

        left, top, wide, tall = window
        cut: Image = eight_bits(image.crop((left, top, left + wide, top + tall)))
        return cut.resize((size, size), Resampling.BICUBIC)


class ReducedPilDecoder(PilDecoder):
    """Pillow, large JPEGs decoded at 1/2, 1/4 or 1/8, as long as the window keeps twice the pixels that are wanted.

    Several times faster for large pictures, and the same as ``PilDecoder`` for those that are not reduced; the
    difference is measured on the training's own samples and stands in its summary.
    """

    def _cut(self, image: Image, window: tuple[int, ...], size: int) -> Image:
        from PIL.Image import Resampling

        left, top, wide, tall = window
        width, height = image.size
        if image.format != "JPEG" or min(wide, tall) < 4 * size:
            return super()._cut(image, window, size)
        share = 2 * size / min(wide, tall)
        image.draft(None, (math.ceil(width * share), math.ceil(height * share)))
        by = round(width / image.size[0])  # exactly 1, 2, 4 or 8; the last column may cover less
        right, bottom = min((left + wide) / by, image.size[0]), min((top + tall) / by, image.size[1])
        box = (left / by, top / by, right, bottom)
        return image.resize((size, size), Resampling.BICUBIC, box=box)


DECODERS: dict[str, Callable[[], Decoder]] = {"pil": PilDecoder, "pil_reduced": ReducedPilDecoder, "dali": PilDecoder}
"""By name. ``dali`` decodes whole batches (``dcfast.train.dali``); here stands what decodes the rest of them."""


def open_decoder(name: str) -> Decoder:
    """The decoder of that name; ValueError lists those there are."""
    if name not in DECODERS:
        raise ValueError(f"decoder must be one of {', '.join(DECODERS)}; got {name!r}")
    return DECODERS[name]()
