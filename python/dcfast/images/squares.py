"""Whole JPEGs as the squares that models take, by the core (``dcfast._core.images.resize_squares``): Pillow's pixels.

A picture is resized by its shorter side and cut in the middle, or squashed, as torchvision computes sizes and places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dcfast._core import images as core_images
from dcfast.images.crops import ELSEWHERE, pillow_rule


@dataclass(frozen=True)
class Square:
    """Squares of ``side`` pixels, of the middle of pictures, or of all of them where they are ``squashed``."""

    side: int
    squashed: bool = False

    def targets(self, sizes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """(n, 4): width and height that pictures are resized to, left and top of the square in them.

        Args:
            sizes: (n, 2), width and height, 1 or more; their quotient is such that the targets are below 2^31.
        """
        side = self.side
        if self.squashed:
            return np.tile(np.array([side, side, 0, 0], np.int32), (len(sizes), 1))
        whole = sizes.astype(np.int64)
        short = whole.min(axis=1, keepdims=True)
        resized = (side * whole / short).astype(np.int64)  # cut off, as torchvision's int() does
        return np.concatenate([resized, np.rint((resized - side) / 2)], axis=1).astype(np.int32)


def write_squares(
    data: memoryview,
    begin: npt.NDArray[np.int64],
    size: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int32],
    square: Square,
    out: npt.NDArray[np.uint8],
    at: npt.NDArray[np.int64],
) -> npt.NDArray[np.uint8]:
    """Decodes n pictures into rows of ``out``, without the GIL, in this thread.

    Args:
        data: the pictures' bytes; picture i is data[begin[i] : begin[i] + size[i]].
        sizes: (n, 2) width and height by the headers.
        out: (m, side, side, 3), RGB.   at: (n,) the row of each; those of pictures that are not done are undefined.
    Returns:
        (n,) status, see ``dcfast.images.crops``; all ELSEWHERE where Pillow's pixels are others than the core's.
    Raises:
        ValueError: places that are not in ``data`` or ``out``.
    """
    rule = pillow_rule()
    if rule.difference or not len(begin):
        return np.full(len(begin), ELSEWHERE, np.uint8)
    places = data, begin, size, square.targets(sizes), np.ascontiguousarray(sizes)
    return core_images.resize_squares(*places, out, at, 1, rule.tall_first_down)
