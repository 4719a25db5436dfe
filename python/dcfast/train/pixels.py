"""Pixels of a chunk, written straight into the memory of a batch: by the core without the GIL, or by Pillow.

The core decodes plain JPEGs bit for bit as Pillow does, which a few pictures confirm as a training starts: where
another version of Pillow differs, Pillow decodes all. What the core leaves is Pillow's too, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

import numpy as np
import numpy.typing as npt

from dcfast._core import images as core_images
from dcfast.images.costs import BadImage
from dcfast.images.crops import DAMAGED, OTHER_SIZE, pillow_rule
from dcfast.train.decode import open_decoder
from dcfast.train.source import RawSamples

Draw = Callable[[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike], npt.NDArray[np.int32]]
"""(sample numbers, widths, heights) -> windows, (n, 4): left, top, width, height."""
PIECE = 32
"""Pictures that the core decodes at a time: between two pieces a loader hears that it is to end."""
KINDS = ("JPEG", "JPEG of another size than indexed", "damaged JPEG", "PNG", "WEBP", "others")
"""Of pictures that Pillow decodes; a JPEG as such is one that the core leaves: CMYK, 12 bits, arithmetic coding, ..."""


class LoaderEnded(Exception):  # noqa: N818  (it never leaves the loader)
    """Nobody waits for the chunk any more."""


@dataclass(frozen=True)
class Crops:
    """Windows of n samples, drawn for the sizes that the index has; drawn anew where a header was wrong.

    Attributes:
        g: (n,) int64, numbers of the samples.   sizes: (n, 2) int32, width and height; 0 where unknown.
        windows: (n, 4) int32: left, top, width, height.
    """

    draw: Draw
    g: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int32]
    windows: npt.NDArray[np.int32]

    def of(self, i: int) -> Callable[[int, int], tuple[int, ...]]:
        """The window of sample i by the size that a decoder found; it is kept in ``windows``."""

        def window(width: int, height: int) -> tuple[int, ...]:
            if (width, height) != tuple(self.sizes[i].tolist()):
                self.windows[i] = self.draw([int(self.g[i])], [width], [height])[0]
            return tuple(self.windows[i].tolist())

        return window


class PixelWriter:
    """Writes the pixels of pictures. Safe for many threads.

    Args:
        decoder: its name. Of ``dali`` this is what decodes the rest.
        ended: set where nobody waits for pixels any more.
    """

    def __init__(self, decoder: str, ended: Event) -> None:
        self._pillow = open_decoder(decoder)
        self._reduced = decoder == "pil_reduced"
        self._ended = ended
        self._rule = pillow_rule()

    def write(
        self,
        raw: RawSamples,
        chosen: npt.NDArray[np.int64],
        crops: Crops,
        pixels: npt.NDArray[np.uint8],
        at: npt.NDArray[np.int64],
        by_pillow: Counter[str],
    ) -> dict[int, str]:
        """Decodes pictures of some samples.

        Args:
            chosen: (k,) numbers of samples in ``raw`` and ``crops``; each has a picture.
            pixels: (n, size, size, 3), RGB.   at: (k,) the row of each.
            by_pillow: counts the pictures that Pillow decoded, by their kind.
        Returns:
            sample -> why it cannot be used, of those that cannot.
        Raises:
            LoaderEnded: see ``ended``.
        """
        failed = {}
        status = self._by_core(raw, chosen, crops, pixels, at)
        for k in np.flatnonzero(status).tolist():
            if self._ended.is_set():
                raise LoaderEnded
            i = int(chosen[k])
            picture = raw.picture(i)
            assert picture is not None
            by_pillow[_kind(picture, int(status[k]))] += 1
            try:
                pixels[at[k]] = self._pillow(picture, crops.of(i), pixels.shape[1])
            except BadImage as error:
                failed[i] = str(error)
        return failed

    def _by_core(
        self,
        raw: RawSamples,
        chosen: npt.NDArray[np.int64],
        crops: Crops,
        pixels: npt.NDArray[np.uint8],
        at: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.uint8]:
        """(k,) the core's status of each."""
        status = np.ones(len(chosen), np.uint8)
        if self._rule.difference:  # another version of Pillow: its pixels are the reference
            return status
        for first in range(0, len(chosen), PIECE):
            if self._ended.is_set():
                raise LoaderEnded
            part = chosen[first : first + PIECE]
            status[first : first + PIECE] = core_images.crop_resize(
                raw.data.data, raw.pictures.begin[part], raw.pictures.size[part], crops.windows[part],
                np.maximum(crops.sizes[part], 1),
                pixels, at[first : first + PIECE], 1, self._reduced, self._rule.tall_first_down,
            )  # fmt: skip
        return status


def _kind(picture: memoryview, status: int) -> str:
    head = bytes(picture[:12])
    if head[:3] == b"\xff\xd8\xff":
        return KINDS[status - 1] if status in (OTHER_SIZE, DAMAGED) else "JPEG"
    if head[:4] == b"\x89PNG":
        return "PNG"
    return "WEBP" if head[:4] + head[8:] == b"RIFFWEBP" else "others"
