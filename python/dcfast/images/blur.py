"""Boxes blurred in pictures in memory, as DataComp does it with img2dataset 1.40.

Follows the published way of obfuscating faces in ImageNet (Yang et al. 2022): each box is widened by a tenth of its
longer side, all boxes make one mask, and picture and mask are blurred by one Gaussian whose sigma is a tenth of the
longest side of a box, so that no edge shows where the blur ends. img2dataset 1.46 and later lost that sigma, and leave
faces three times sharper. The arithmetic is the core's (csrc/core/images/blur.hpp).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dcfast._core import images as core_images
from dcfast.images.costs import MAX_BLUR_SIDE, BadImage
from dcfast.images.decode import eight_bits, open_image


def blur_image(data: bytes, boxes: NDArray[np.float64], quality: int = 100) -> bytes:
    """An encoded picture with boxes blurred, encoded anew as WebP.

    Args:
        data: of a kind in ``dcfast.images.decode.FORMATS``. Not turned by its EXIF orientation: boxes are of the
            picture as stored.
        boxes: (b, 4) f64 x0, y0, x1, y1 as fractions of width and height.
        quality: 0 to 100 of libwebp's lossy coder.
    Raises:
        ValueError: the bytes are no such picture, are cut short, decode to more than the limit of pixels, or to a side
            that is longer than WebP holds; no box reaches over a pixel.
    Memory: about 20 bytes a pixel of the picture.
    """
    try:
        with open_image(data) as opened:
            if max(opened.size) > MAX_BLUR_SIDE:
                raise BadImage("too_large", f"a side of more than {MAX_BLUR_SIDE:,} pixels, as WebP holds", opened.size)
            image = eight_bits(opened)
            alpha = "A" in image.getbands() or "transparency" in image.info
            pixels = np.asarray(image.convert("RGBA" if alpha else "RGB"))
    except BadImage as error:
        raise ValueError(f"cannot be decoded: {error}") from error
    blurred = blur_boxes(pixels, boxes)
    if blurred is pixels and len(boxes):
        raise ValueError("its boxes are smaller than a pixel: nothing was blurred")
    height, width, channels = blurred.shape
    return core_images.encode_webp(np.ascontiguousarray(blurred).reshape(-1), height, width, channels, quality)


def blur_boxes(pixels: NDArray[np.uint8], boxes: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(h, w, c) u8 with boxes blurred; see ``blur_image``. The input is not changed; without boxes it is returned.

    Raises:
        ValueError: a box is not four numbers of 0 to 1, or a side of the picture is 0 or beyond ``MAX_BLUR_SIDE``.
        TypeError: the pixels are not u8.
    Cost: less than 200 multiplications a byte near a box, in the thread that calls; no lock is held.
    """
    if pixels.ndim != 3:
        raise ValueError(f"pixels must have three dimensions (height, width, channels); got shape {pixels.shape}")
    corners = np.ascontiguousarray(boxes, np.float64)
    if corners.size == 0:
        return pixels
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ValueError(f"boxes must be of shape (b, 4); got {corners.shape}")
    height, width, channels = pixels.shape
    flat = np.ascontiguousarray(pixels).reshape(-1)
    blurred = core_images.blur_boxes(flat, height, width, channels, corners.reshape(-1))
    return blurred.reshape(pixels.shape) if blurred.size else pixels
