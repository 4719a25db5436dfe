"""Encoded bytes to a Pillow image: the one place of the package that opens them.

The kind is told by the first bytes, never by a name. Pillow reads each of ``FORMATS`` by itself; others of its plugins
start programs (Ghostscript for EPS), and are never asked. Of several pictures in a file the first counts; a
multi-picture JPEG (MPO) is the JPEG it begins with. Nothing is turned by EXIF. Of 16 bits a channel the upper 8 are
taken, as in the core; pixels of other depths beyond 8 bits have no range that is known, and are refused.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import numpy as np

from dcfast.errors import first_line

__all__ = [
    "FORMATS",
    "BadImage",
    "check_resized",
    "decode_image",
    "eight_bits",
    "load_image",
    "open_image",
    "quiet",
    "too_many_scans",
]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")
"""Pillow's names of what is read, where its build has them."""
MAX_BYTES = 256 << 20
MAX_PIXELS = 178_956_970
"""What Pillow takes for an attack, and the core's bound."""
MAX_SCANS = 500
"""Of a JPEG, as in the core: each is a pass over all of its pixels, and may take 36 bytes."""
MAX_RESIZED = 1 << 26
"""Pixels of a whole picture at a model's size: a line of 1 x 60,000 would become gigabytes."""

_WIDE_16 = ("PNG", "PPM")
"""Kinds whose 32-bit integers in Pillow are grey levels of 16 bits."""
_BITS_PER_SAMPLE = 258  # a tag of TIFF

_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # in a scan FF is followed by 00 or a restart
_ADDRESS = re.compile(r" <_io\.BytesIO object at \w+>")


class BadImage(ValueError):  # noqa: N818  (callers make it their own status or error)
    """These bytes are no image that is read; the text says why, in a few words on one line.

    Attributes:
        status: as in ``dcfast.images.signatures``; ``unsupported`` is whatever Pillow does not identify.
        size: width and height by the header, 0 where it was not read.
    """

    def __init__(
        self,
        status: Literal["unsupported", "truncated", "broken", "too_large"],
        reason: str,
        size: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.size = size


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


quiet = _Quiet()
"""Entered by ``open_image``; also to be entered around threads that open images."""


@contextmanager
def open_image(data: bytes | memoryview) -> Iterator[Any]:
    """The PIL image, its pixels not decoded yet: ``draft``, ``crop`` or ``load`` it in the block.

    Whatever Pillow raises in the block becomes BadImage, but for MemoryError, which is no fault of the image.

    Raises:
        BadImage: see there.   ImportError: there is no Pillow.
    """
    from PIL import Image, UnidentifiedImageError

    size = (0, 0)
    try:
        if len(data) > MAX_BYTES:
            raise BadImage("too_large", f"more than {MAX_BYTES >> 20} MiB")
        data = bytes(data)
        if too_many_scans(data):
            raise BadImage("broken", f"more than {MAX_SCANS} scans")
        with quiet, Image.open(io.BytesIO(data), formats=_formats()) as image:
            if image.format == "ICO":
                image.load()  # its directory may lie about the size of the picture
            size = image.size
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            _check_depth(image)
            yield image
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage("unsupported", "not a picture of a known kind") from None
    except Image.DecompressionBombError:
        raise BadImage("too_large", f"more than {MAX_PIXELS:,} pixels", size) from None
    except Exception as error:  # plugins raise what they like on bad data: OSError, SyntaxError, struct.error, ...
        reason = _ADDRESS.sub("", first_line(error))[:120]
        early = isinstance(error, EOFError) or "truncated" in reason.lower()
        raise BadImage("truncated" if early else "broken", reason, size) from None


def _check_depth(image: Any) -> None:
    """BadImage for pixels that no rule scales to 8 bits; what passes is right after ``eight_bits``."""
    size = image.size
    if image.mode == "F" or (image.mode == "I" and image.format not in _WIDE_16):
        raise BadImage("unsupported", "pixels of 32 bits, whose range is unknown", size)
    if image.mode.startswith("I;16") and image.format == "TIFF" and image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0] != 16:
        raise BadImage("unsupported", "pixels of 9 to 15 bits", size)


def eight_bits(image: Any) -> Any:
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


def load_image(data: bytes | memoryview) -> Any:
    """The PIL image, decoded, in its own mode, but see ``eight_bits``; raises BadImage. Memory: 4 bytes a pixel."""
    with open_image(data) as image:
        image.load()
        return eight_bits(image)


def decode_image(data: bytes | memoryview) -> Any:
    """The PIL image in RGB as ``convert`` makes it, whatever its mode; raises BadImage. Memory: 8 bytes a pixel."""
    with open_image(data) as image:
        return eight_bits(image).convert("RGB")


def check_resized(image: Any, side: int) -> None:
    """BadImage where the image with its shorter side scaled to ``side`` would be huge, as long and thin ones are."""
    if max(image.size) * side**2 > MAX_RESIZED * min(image.size):
        raise BadImage("too_large", "too long and thin", image.size)


def too_many_scans(data: bytes) -> bool:
    """Whether these are the bytes of a JPEG of more than ``MAX_SCANS`` scans, counted up to its end-of-image marker."""
    if data[:3] != b"\xff\xd8\xff" or data.count(b"\xff\xda") <= MAX_SCANS:
        return False
    at, scans = 2, 0
    while (found := _MARKER.search(data, at)) and found[1] != b"\xd9":
        scans += found[1] == b"\xda"
        at = found.end()
        if found[1] not in (b"\x01", b"\xd8"):  # the others have a length
            at += int.from_bytes(data[at : at + 2], "big")
    return scans > MAX_SCANS


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()  # which formats a build of Pillow has is known only after this
    return tuple(name for name in FORMATS if name in Image.OPEN)
