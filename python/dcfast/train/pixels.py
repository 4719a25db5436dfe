"""Pixels of a chunk, written straight into the memory of a batch: by the core without the GIL, or by Pillow.

The core decodes plain JPEGs bit for bit as Pillow does, which a few pictures confirm as a training starts: another
version of Pillow may round otherwise, and then it decodes all. What the core leaves is Pillow's too, and counted.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from threading import Event

import numpy as np
import numpy.typing as npt

from dcfast._core import images as core_images
from dcfast.errors import DcfastError
from dcfast.images.costs import BadImage
from dcfast.train.decode import PilDecoder, ReducedPilDecoder, open_decoder
from dcfast.train.source import RawSamples

Draw = Callable[[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike], npt.NDArray[np.int32]]
"""(sample numbers, widths, heights) -> windows, (n, 4): left, top, width, height."""
PIECE = 32
"""Pictures that the core decodes at a time: between two pieces a loader hears that it is to end."""
KINDS = ("JPEG", "JPEG of another size than indexed", "damaged JPEG", "PNG", "WEBP", "others")
"""Of pictures that Pillow decodes; a JPEG as such is one that the core leaves: CMYK, 12 bits, arithmetic coding, ..."""
_ANOTHER_SIZE, _DAMAGED = 2, 3  # the core's statuses; 0 is done, 1 is left to Pillow


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
    Attributes:
        why_pillow: in words, why Pillow decodes all; empty where the core does what it can.
    """

    def __init__(self, decoder: str, ended: Event) -> None:
        self._pillow = open_decoder(decoder)
        self._reduced = decoder == "pil_reduced"
        self._ended = ended
        self.why_pillow: str = core_differs()

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
        if self.why_pillow:
            return status
        for first in range(0, len(chosen), PIECE):
            if self._ended.is_set():
                raise LoaderEnded
            part = chosen[first : first + PIECE]
            status[first : first + PIECE] = core_images.crop_resize(
                raw.data.data, raw.pictures.begin[part], raw.pictures.size[part], crops.windows[part],
                np.maximum(crops.sizes[part], 1),
                pixels, at[first : first + PIECE], 1, self._reduced,
            )  # fmt: skip
        return status


def _kind(picture: memoryview, status: int) -> str:
    head = bytes(picture[:12])
    if head[:3] == b"\xff\xd8\xff":
        return KINDS[status - 1] if status in (_ANOTHER_SIZE, _DAMAGED) else "JPEG"
    if head[:4] == b"\x89PNG":
        return "PNG"
    return "WEBP" if head[:4] + head[8:] == b"RIFFWEBP" else "others"


@cache
def core_differs() -> str:
    """Why the pixels of this Pillow cannot be had from the core, in words; empty where both are equal.

    Tried on a few pictures, once a process. Cost: 20 ms.
    """
    from PIL import Image, __version__

    rng = np.random.default_rng(20)
    for size, window, side in (
        ((97, 61), (3, 2, 90, 55), 32), ((40, 200), (0, 0, 40, 190), 48), ((31, 17), (1, 1, 29, 16), 64),
        ((300, 220), (7, 9, 288, 209), 24),
    ):  # fmt: skip
        small = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        data = np.frombuffer(file.getvalue(), np.uint8)
        for reduced, pillow in ((False, PilDecoder()), (True, ReducedPilDecoder())):
            ours = np.zeros((1, side, side, 3), np.uint8)
            try:
                [status] = core_images.crop_resize(
                    data.data, np.zeros(1, np.int64), np.array([len(data)], np.int64), np.array([window], np.int32),
                    np.array([size], np.int32), ours, np.zeros(1, np.int64), 1, reduced,
                )  # fmt: skip
            except DcfastError as error:
                return str(error)
            theirs = pillow(data.data, lambda *_, window=window: window, side)
            if status or not np.array_equal(ours[0], theirs):
                return f"Pillow {__version__} gives other pixels than the core"
    return ""
