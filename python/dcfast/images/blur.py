"""Boxes blurred in pictures: the arithmetic, on one picture in memory.

Follows the published way of obfuscating faces in ImageNet (Yang et al. 2022): each box is widened by a tenth of its
longer side, all boxes make one mask, and picture and mask are blurred by one Gaussian that reaches a tenth of the
longest side of a box, so that no edge shows where the blur ends. The numbers are img2dataset's, whose results the tests
compare.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcfast.images.costs import MAX_BLUR_OPERATIONS, MAX_BLUR_WEIGHTS
from dcfast.images.decode import BadImage, eight_bits, open_image

__all__ = ["blur_boxes", "blur_image"]


def blur_image(data: bytes, boxes: NDArray[np.float64], quality: int = 100) -> bytes:
    """An encoded picture with boxes blurred, encoded anew as WebP.

    Args:
        data: of a kind in ``dcfast.images.decode.FORMATS``. Not turned by its EXIF orientation: boxes are of the
            picture as stored.
        boxes: (b, 4) f64 x0, y0, x1, y1 as fractions of width and height.
        quality: 0 to 100 of libwebp's lossy coder.
    Raises:
        ValueError: the bytes are no such picture, are cut short, or decode to more than the limit of pixels; no box
            reaches over a pixel, or they reach over too much of too large a picture (``dcfast.images.costs``).
    Memory: about 30 bytes a pixel of the picture, and 16 for each pair of rows or columns near a box, at most 1 GiB.
    """
    from PIL import Image

    try:
        with open_image(data) as image:
            image = eight_bits(image)
            alpha = "A" in image.getbands() or "transparency" in image.info
            pixels = np.asarray(image.convert("RGBA" if alpha else "RGB"))
    except BadImage as error:
        raise ValueError(f"cannot be decoded: {error}") from error
    blurred = blur_boxes(pixels, boxes)
    if blurred is pixels and len(boxes):
        raise ValueError("its boxes are smaller than a pixel: nothing was blurred")
    out = io.BytesIO()
    Image.fromarray(blurred).save(out, "WEBP", quality=quality)
    return out.getvalue()


def blur_boxes(pixels: NDArray[np.uint8], boxes: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(h, w, c) u8 with boxes blurred; see ``blur_image``. The input is not changed; without boxes it is returned."""
    height, width = pixels.shape[:2]
    mask = np.zeros((height, width), np.float32)
    longest = 0
    for x0, y0, x1, y1 in np.asarray(boxes, np.float64).tolist():
        left, top, right, bottom = int(x0 * width), int(y0 * height), int(x1 * width), int(y1 * height)
        side = max(right - left, bottom - top)
        longest = max(longest, side)
        margin = 0.1 * side
        columns = slice(_inside(left - margin, width), _inside(right + margin, width))
        mask[_inside(top - margin, height) : _inside(bottom + margin, height), columns] = 1.0
    if longest == 0 or not mask.any():
        return pixels
    reach = math.ceil(0.1 * longest)
    sigma = 0.3 * (reach - 1) + 0.8  # OpenCV's rule for a kernel of 2 reach + 1
    rows, columns = _support(mask.max(axis=1), reach), _support(mask.max(axis=0), reach)
    tall, wide = rows.stop - rows.start, columns.stop - columns.start
    operations = tall * width * (height + wide) * (1 + pixels.shape[2])
    if tall * height + wide * width > MAX_BLUR_WEIGHTS or operations > MAX_BLUR_OPERATIONS:
        raise ValueError(f"its boxes cover too much of {width} x {height} pixels to be blurred")
    down, across = _gaussian(height, rows, sigma, reach), _gaussian(width, columns, sigma, reach)
    weight = (down @ mask @ across.T)[..., None]
    part = pixels[rows, columns].astype(np.float32)
    blurred = np.stack([down @ pixels[..., c].astype(np.float32) @ across.T for c in range(pixels.shape[2])], axis=-1)
    out = pixels.copy()
    # cut to whole numbers as the reference does; the small addend is the noise of float32 arithmetic
    out[rows, columns] = np.clip(part + (blurred - part) * weight + 1e-3, 0, 255)
    return out


def _inside(place: float, size: int) -> int:
    return min(max(int(place), 0), size - 1)


def _support(used: NDArray[np.float32], reach: int) -> slice:
    """The stretch of an axis that a blur of this reach changes."""
    at = np.flatnonzero(used)
    return slice(max(int(at[0]) - reach, 0), min(int(at[-1]) + reach + 1, len(used)))


def _gaussian(size: int, out: slice, sigma: float, reach: int) -> NDArray[np.float32]:
    """(out, size) matrix that blurs along an axis; what lies beyond its ends is mirrored (without the end itself)."""
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    places = np.arange(out.start, out.stop)[:, None] + offsets
    if size > 1:
        places = np.abs(places) % (2 * size - 2)
        places = np.minimum(places, 2 * size - 2 - places)
    else:
        places[:] = 0
    matrix: NDArray[Any] = np.zeros((len(places), size))
    np.add.at(matrix, (np.arange(len(places))[:, None], places), kernel)
    return matrix.astype(np.float32)
