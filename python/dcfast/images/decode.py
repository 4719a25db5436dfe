"""Encoded bytes to a Pillow image: the one place of the package that opens them.

The kind is told by the first bytes, never by a name. Pillow reads each of ``FORMATS`` by itself; others of its plugins
start programs (Ghostscript for EPS), and are never asked. Of several pictures in a file the first counts; a
multi-picture JPEG (MPO) is the JPEG it begins with. Nothing is turned by EXIF. Of 16 bits a channel the upper 8 are
taken, as in the core; pixels of other depths beyond 8 bits have no range that is known, and are refused. What an image
may cost stands in ``dcfast.images.costs``.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from dcfast.errors import first_line
from dcfast.images import costs
from dcfast.images.costs import BadImage, CountedReads, pixel_parts

if TYPE_CHECKING:
    from PIL import Image, ImageFile


FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")
"""Pillow's names of what is read, where its build has them."""
_WIDE_16 = ("PNG", "PPM")
"""Kinds whose 32-bit integers in Pillow are grey levels of 16 bits."""
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF

_ADDRESS = re.compile(r" <[\w.]+ object at \w+>")


class _Quiet:
    """Pillow's warnings (odd metadata, palettes, large pictures) are off while any thread is inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters: warnings.catch_warnings[None]

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:  # the filters are the process's: only the first sets and the last restores them
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


quiet: _Quiet = _Quiet()
"""Entered by ``open_image``; also to be entered around threads that open images."""


@contextmanager
def open_image(data: bytes | memoryview) -> Iterator[ImageFile.ImageFile]:
    """The PIL image, its pixels not decoded yet: ``draft``, ``crop`` or ``load`` it in the block.

    Whatever Pillow raises in the block becomes BadImage, but for MemoryError, which is no fault of the image.

    Raises:
        BadImage: see there.   ImportError: there is no Pillow.
    """
    from PIL import Image, UnidentifiedImageError

    size = (0, 0)
    try:
        if len(data) > costs.MAX_BYTES:
            raise BadImage("too_large", f"more than {costs.MAX_BYTES >> 20} MiB")
        file = CountedReads(pixel_parts(bytes(data)))
        with quiet, Image.open(file, formats=_formats()) as image:
            if image.format == "ICO":
                image.load()  # its directory may lie about the size of the picture
            size = image.size
            most = costs.MAX_JPEG2000_PIXELS if image.format == "JPEG2000" else costs.MAX_PIXELS
            if image.width * image.height > most:
                raise BadImage("too_large", f"more than {most:,} pixels", size)
            _check_depth(image)
            yield image
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage("unsupported", "not a picture of a known kind") from None
    except Image.DecompressionBombError:
        raise BadImage("too_large", f"more than {costs.MAX_PIXELS:,} pixels", size) from None
    except Exception as error:  # plugins raise what they like on bad data: OSError, SyntaxError, struct.error, ...
        reason = _ADDRESS.sub("", first_line(error))[:120]
        early = isinstance(error, EOFError) or "truncated" in reason.lower()
        raise BadImage("truncated" if early else "broken", reason, size) from None


def _check_depth(image: ImageFile.ImageFile) -> None:
    """BadImage for pixels that no rule scales to 8 bits; what passes is right after ``eight_bits``."""
    size = image.size
    if image.mode == "F" or (image.mode == "I" and image.format not in _WIDE_16):
        raise BadImage("unsupported", "pixels of 32 bits, whose range is unknown", size)
    if image.mode.startswith("I;16") and image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        if tags.get(_BITS_PER_SAMPLE, (16,))[0] != 16:
            raise BadImage("unsupported", "pixels of 9 to 15 bits", size)
        if tags.get(_PHOTOMETRIC) == 0:
            raise BadImage("unsupported", "16 bits from white to black", size)  # which Pillow does not turn round


def eight_bits(image: Image.Image) -> Image.Image:
    """The image, grey levels of 16 bits by their upper 8 (mode L), palettes with alpha as RGBA; others as they are.

    Whatever turns an image that ``open_image`` gave into RGB, grey or another size does this first: Pillow's own
    ``convert`` takes all levels from 256 on for white, and its ``resize`` mixes the numbers of a palette's colours
    where there is alpha. Memory: 4 bytes a pixel.
    """
    if image.mode == "PA":
        return image.convert("RGBA")
    if not image.mode.startswith("I"):
        return image
    from PIL import Image

    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def load_image(data: bytes | memoryview) -> Image.Image:
    """The PIL image, decoded, in its own mode, but see ``eight_bits``; raises BadImage. Memory: 4 bytes a pixel."""
    with open_image(data) as image:
        image.load()
        return eight_bits(image)


def decode_image(data: bytes | memoryview) -> Image.Image:
    """The PIL image in RGB as ``convert`` makes it, whatever its mode; raises BadImage. Memory: 8 bytes a pixel."""
    with open_image(data) as image:
        return eight_bits(image).convert("RGB")


def check_resized(image: Image.Image, side: int) -> None:
    """BadImage where the image with its shorter side scaled to ``side`` would be huge, as long and thin ones are."""
    if max(image.size) * side**2 > costs.MAX_RESIZED * min(image.size):
        raise BadImage("too_large", "too long and thin", image.size)


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()  # which formats a build of Pillow has is known only after this
    return tuple(name for name in FORMATS if name in Image.OPEN)
