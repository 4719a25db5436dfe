"""The bytes of a downloaded image to the member of a shard, as img2dataset makes it, by OpenCV.

``how="exact"`` gives the pixels that img2dataset 1.47 gives: nothing is turned by EXIF, grey stays grey, transparency
is laid on white, levels of 16 bits are kept and saturate in an encoder of 8 bits, smaller by areas, larger by Lanczos,
and everything is encoded anew. Faces alone are blurred as its release 1.40 did, which made DataComp
(``dcfast.images.blur``). ``how="scaled"`` differs for JPEGs that become smaller by half or more: their decoder makes
1/2, 1/4 or 1/8 of them at once, and areas the rest.

Before OpenCV sees a byte, the kind is told by the first bytes and must be one of ``KINDS``, and the bounds of
``dcfast.images.costs`` hold. OpenCV's own threads are off in the process from the first call on: callers decode in
threads of theirs, for which OpenCV gives the lock of the interpreter back.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import threading
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dcfast._core import images as core_images
from dcfast.errors import first_line
from dcfast.images import costs
from dcfast.images.blur import blur_boxes
from dcfast.images.costs import BadImage, pixel_parts
from dcfast.images.decode import open_image
from dcfast.process.libraries import require_library

MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")
ENCODE_FORMATS = {
    "jpg": ("IMWRITE_JPEG_QUALITY", 100),
    "png": ("IMWRITE_PNG_COMPRESSION", 9),
    "webp": ("IMWRITE_WEBP_QUALITY", 100),
}
"""Name -> OpenCV's parameter for ``quality``, and its largest value."""
HOW = ("exact", "scaled")
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Of ``dcfast.images.decode.FORMATS`` what OpenCV reads. AVIF depends on its build."""

MAX_WIDE_PIXELS = 1 << 26
"""Pixels of a PNG of 16 bits, which take up to 24 bytes each."""

_LOADING = threading.Lock()
"""OpenCV takes itself out of ``sys.modules`` while it is loaded: another thread would find none."""
_SHORTER = ("keep_ratio", "center_crop")
_REDUCED = {8: 64, 4: 32, 2: 16}
"""Scale -> OpenCV's flag for decoding at one over it, in as many channels as the image has."""
_OWN_HEADERS = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP", re.DOTALL)
"""JPEG, PNG, WebP: the core tells their size, and Pillow is not asked."""
_BLOCK_PIXELS = 1 << 16
"""Pixels that are laid on white at a time."""


class ResizeError(ValueError):
    """This image is left out by a rule, or cannot be made what was asked for; the text is img2dataset's."""


@dataclass(frozen=True)
class ResizeOptions:
    """What becomes of an image; names and defaults are DataComp's.

    Attributes:
        size: pixels of the longer side (``keep_ratio_largest``, ``border``) or the shorter one (``keep_ratio``,
            ``center_crop``).
        mode: one of ``MODES``. ``border`` pads the other side with white, ``center_crop`` cuts it.
        only_if_bigger: an image whose side is not above ``size`` is only encoded anew: not padded, not cut.
        encode_format: of ``ENCODE_FORMATS``.
        quality: 0 to 100; for png the compression, 0 to 9.
        how: of ``HOW``; see the module.
        min_size: pixels that both sides must have.
        max_area: pixels that an image may have.
        max_aspect: the longer side over the shorter one, at most.
        max_pixels: that are decoded; more than ``costs.MAX_PIXELS`` never are.
    Raises:
        ValueError: a value is none of these.
    """

    size: int = 512
    mode: str = "keep_ratio_largest"
    only_if_bigger: bool = True
    encode_format: str = "jpg"
    quality: int = 95
    how: str = "scaled"
    min_size: int = 0
    max_area: float = math.inf
    max_aspect: float = math.inf
    max_pixels: int = costs.MAX_PIXELS

    def __post_init__(self) -> None:
        for name, allowed in (("mode", MODES), ("encode_format", tuple(ENCODE_FORMATS)), ("how", HOW)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        most = ENCODE_FORMATS[self.encode_format][1]
        if not 0 <= self.quality <= most:
            means = "the compression, " if self.encode_format == "png" else ""
            raise ValueError(f"quality of {self.encode_format} must be {means}0 to {most}; got {self.quality}")
        if not 1 <= self.size <= costs.MAX_BLUR_SIDE:
            raise ValueError(f"size must be 1 to {costs.MAX_BLUR_SIDE:,} pixels; got {self.size}")


class Resized(NamedTuple):
    """The encoded image, its sides in pixels, and those of the image that came."""

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int


def resize_image(data: bytes | memoryview, options: ResizeOptions, boxes: NDArray[np.float64] | None = None) -> Resized:
    """The image as the options want it.

    Args:
        data: an encoded image of one of ``KINDS``.
        boxes: (b, 4) f64 x0, y0, x1, y1 of faces as fractions of width and height, to be blurred after resizing and
            before cutting or padding; grey levels of 16 bits then become 8.
    Raises:
        BadImage: it is no such image, cannot be decoded, or is over a bound of ``dcfast.images.costs``.
        ResizeError: "image too small", "image area too large", "aspect ratio too large"; the boxes cannot be blurred;
            the format cannot hold the result.
        MissingDependencyError: OpenCV is missing; ImportError: Pillow, for kinds other than JPEG, PNG and WebP.
    Cost: 4 to 6 ms of processor time for a megapixel, nearly all of it without the lock of the interpreter.
    Memory, bytes a pixel: 2 of grey, 6 of colour, 8 with transparency, 16 of AVIF and of 16 bits; 3 to 6 more of a
        progressive JPEG. At the bounds 0.4 to 2 GB. Scaled, a baseline JPEG takes next to nothing.

    Example: ``resize_image(bytes(picture), ResizeOptions(size=256, mode="center_crop")).width``
    """
    cv2 = _opencv()
    lean, size = _checked(bytes(data), options.max_pixels)
    _check_rules(size, options)
    target = _target(size, options)
    image = _decoded(cv2, lean, size, target if options.how == "scaled" else None)
    if target is not None and target != (image.shape[1], image.shape[0]):
        image = _resized(cv2, image, target, smaller=_is_smaller(size, options))
    if boxes is not None and len(boxes):
        image = _blurred(image, boxes)
    if target is not None and options.mode == "center_crop":
        top, left = ((side - options.size) // 2 for side in image.shape[:2])
        image = np.ascontiguousarray(image[top : top + options.size, left : left + options.size])
    elif target is not None and options.mode == "border":
        high, wide = (max(0, options.size - side) for side in image.shape[:2])
        edges = (high // 2, high - high // 2, wide // 2, wide - wide // 2)
        image = cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    height, width = image.shape[:2]
    return Resized(_encoded(cv2, image, options), width, height, *size)


@cache  # a second time would take what Python writes, too
def silence_codecs() -> None:
    """From here on nothing that C libraries write on this process's standard error is seen; what Python writes is.

    libjpeg, libpng and libtiff say there what is odd about an image, past OpenCV's own log, which is off anyway. For
    processes that decode images of strangers, at their start: a crash is then told by the exit status alone.
    """
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    sys.stderr.flush()
    sys.stderr = open(os.dup(2), "w", buffering=1, errors="backslashreplace")  # noqa: SIM115  (the process's)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def pixels_of(data: bytes) -> int:
    """The pixels of an image by its header, 0 where that is not known."""
    width, height = core_images.image_size(data)
    return width * height


@cache
def _opencv() -> ModuleType:
    with _LOADING:
        require_library("cv2", "resizing images", "pip install 'dcfast[acquire]'")
        limit = "OPENCV_IO_MAX_IMAGE_PIXELS"  # read once, when the library is loaded
        own = limit not in os.environ
        if own:
            os.environ[limit] = str(costs.MAX_PIXELS)
        import cv2

        if own:
            del os.environ[limit]
        cv2.setNumThreads(1)
        # renamed in 4.12
        set_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
        set_level(0)  # silent
        return cv2


def _checked(data: bytes, max_pixels: int) -> tuple[bytes, tuple[int, int]]:
    """What the pixels are made of, and (width, height); or BadImage."""
    most = min(max_pixels, costs.MAX_PIXELS)
    if not _OWN_HEADERS.match(data):
        with open_image(data) as image:  # which holds the bounds
            if image.format not in KINDS:
                raise BadImage("unsupported", f"{image.format} is not read here", image.size)
            lean, size = pixel_parts(data), image.size
            if image.format in ("GIF", "AVIF"):
                most = min(most, costs.MAX_SLOW_PIXELS)
    else:
        if len(data) > costs.MAX_BYTES:
            raise BadImage("too_large", f"more than {costs.MAX_BYTES >> 20} MiB")
        lean = pixel_parts(data)
        size = core_images.image_size(lean)
        if lean[:1] == b"\x89" and lean[24:25] == b"\x10":
            most = min(most, MAX_WIDE_PIXELS)
        if 0 in size:
            raise BadImage("broken", "Image decoding error")
        if lean[:1] == b"\x89" and not _is_whole(lean):
            raise BadImage("truncated", "Image decoding error", size)
    if size[0] * size[1] > most:
        raise BadImage("too_large", f"more than {most:,} pixels", size)
    return lean, size


def _is_whole(png: bytes) -> bool:
    """Whether its chunks, as long as they say, lead to its end: OpenCV makes room for what they say, 4 GB each."""
    at = 8
    while png[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(png[at : at + 4], "big")
        if at > len(png) - 12:
            return False
    return at + 12 == len(png)


def _check_rules(size: tuple[int, int], options: ResizeOptions) -> None:
    if min(size) < options.min_size:
        raise ResizeError("image too small")
    if size[0] * size[1] > options.max_area:
        raise ResizeError("image area too large")
    if max(size) / min(size) > options.max_aspect:
        raise ResizeError("aspect ratio too large")


def _is_smaller(size: tuple[int, int], options: ResizeOptions) -> bool:
    return (min(size) if options.mode in _SHORTER else max(size)) > options.size


def _target(size: tuple[int, int], options: ResizeOptions) -> tuple[int, int] | None:
    """(width, height) before cutting or padding, None where the image is left as large as it is."""
    if options.mode == "no" or (options.only_if_bigger and not _is_smaller(size, options)):
        return None
    scale = options.size / (min(size) if options.mode in _SHORTER else max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    if width * height > costs.MAX_RESIZED:
        raise BadImage("too_large", "too long and thin", size)
    return width, height


def _decoded(cv2: ModuleType, data: bytes, size: tuple[int, int], target: tuple[int, int] | None) -> NDArray[Any]:
    """(h, w) or (h, w, 3) u8 or u16, blue first; of a JPEG a reduced one that is no smaller than the target."""
    flags, expected = cv2.IMREAD_UNCHANGED, size
    if target is not None and data[:3] == b"\xff\xd8\xff":
        for by, flag in _REDUCED.items():
            reduced = (-(-size[0] // by), -(-size[1] // by))
            if reduced[0] >= target[0] and reduced[1] >= target[1]:
                flags, expected = flag | cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION, reduced
                break
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadImage("broken", first_line(error)[:120], size) from None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise BadImage("broken", "Image decoding error", size)
    if (image.shape[1], image.shape[0]) != expected:
        raise BadImage("broken", "its header tells another size", size)
    return _on_white(cv2, image) if image.ndim == 3 and image.shape[2] == 4 else image


def _on_white(cv2: ModuleType, image: NDArray[Any]) -> NDArray[Any]:
    """(h, w, 4) to (h, w, 3) u8; of 16 bits by the formula for 8, as img2dataset does it."""
    if image.dtype == np.uint8 and image[..., 3].min() == 255:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)  # type: ignore[no-any-return]
    out = np.empty((*image.shape[:2], 3), np.uint8)
    rows = max(1, _BLOCK_PIXELS // image.shape[1])
    for top in range(0, len(image), rows):
        block = image[top : top + rows]
        if image.dtype == np.uint8:  # the same to the last digit as what follows: a product over 255 is never a half
            *colours, alpha = cv2.split(block)
            ground = cv2.bitwise_not(alpha)
            mixed = cv2.merge([cv2.add(cv2.multiply(c, alpha, scale=1 / 255), ground) for c in colours])
        else:
            alpha = block[..., 3:]
            mixed = np.rint((alpha / 255 * block[..., :3] + 255 - alpha).clip(0, 255))
        out[top : top + rows] = mixed
    return out


def _resized(cv2: ModuleType, image: NDArray[Any], target: tuple[int, int], *, smaller: bool) -> NDArray[Any]:
    """The image of (width, height): smaller by areas, in colour by the core, which makes the same pixels sooner."""
    (width, height), (old_height, old_width) = target, image.shape[:2]
    is_whole = old_width % width == 0 and old_height % height == 0  # OpenCV's sums are whole numbers then
    is_ours = core_images.shrinks_fast and image.dtype == np.uint8 and image.ndim == 3
    if smaller and is_ours and not is_whole and width <= old_width and height <= old_height:
        pixels = core_images.shrink(image.reshape(-1), old_height, old_width, height, width)
        return pixels.reshape(height, width, 3)
    return cv2.resize(image, target, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LANCZOS4)  # type: ignore[no-any-return]


def _blurred(image: NDArray[Any], boxes: NDArray[np.float64]) -> NDArray[np.uint8]:
    pixels = image if image.dtype == np.uint8 else np.minimum(image, 255).astype(np.uint8)
    try:
        return blur_boxes(pixels.reshape(*image.shape[:2], -1), boxes).reshape(image.shape)
    except (TypeError, ValueError) as error:
        raise ResizeError(f"faces cannot be blurred: {first_line(error)}") from None


def _encoded(cv2: ModuleType, image: NDArray[Any], options: ResizeOptions) -> bytes:
    parameter = getattr(cv2, ENCODE_FORMATS[options.encode_format][0])
    try:
        done, encoded = cv2.imencode(f".{options.encode_format}", image, [parameter, options.quality])
    except cv2.error:
        done = False
    if not done:
        raise ResizeError(f"{options.encode_format} cannot hold {image.shape[1]} x {image.shape[0]} pixels")
    return encoded.tobytes()  # type: ignore[no-any-return]
