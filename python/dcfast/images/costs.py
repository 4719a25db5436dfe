"""What an image may cost: the bounds, and what is looked at before Pillow opens it.

The bounds on pixels, bytes, parts and scans are the core's (csrc/core/images/image.hpp), where it holds them itself.
What no pixel is made of (texts, profiles, EXIF, the frames of an animated PNG) is left out before Pillow sees it: it
takes seconds and gigabytes over some that a decoder skips. docs/limits.md has the table.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import numpy as np

from dcfast._core import images as core_images

MAX_BYTES = core_images.max_image_bytes
MAX_PIXELS = core_images.max_image_pixels
"""What Pillow takes for an attack."""
MAX_JPEG2000_PIXELS = 1 << 24
"""A precinct or block of a few pixels takes hundreds of bytes of OpenJPEG's memory, and no byte of the file."""
MAX_SLOW_PIXELS = 1 << 25
"""Of a GIF or an AVIF that is resized: 15 to 40 ns of processor time each, however few bytes the file has."""
MAX_PARTS = core_images.max_image_parts
"""Segments of a JPEG before its first scan, chunks of a PNG, values of a tag of TIFF."""
MAX_READS = 1 << 20
"""Reads of a file by Pillow: some of its decoders (RLE of BMP, PPM of an odd range) are Python, and read each pixel."""
MAX_RUN_PIXELS = 1 << 22
"""Pixels of a BMP that is written as runs: one run may fill all of them, a pixel at a time in Python."""
MAX_RESIZED = 1 << 26
"""Pixels of a whole picture at a model's size: a line of 1 x 60,000 would become gigabytes."""
MAX_BLUR_SIDE = core_images.max_blur_side
"""Pixels of the longer side of an image whose boxes are blurred: WebP holds no longer ones."""

max_scans: Callable[[int], int] = core_images.max_scans
"""pixels -> how many scans a JPEG of as many may have."""

Status = Literal["unsupported", "truncated", "broken", "too_large"]

_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # in a scan FF is followed by 00 or a restart, or is filling
_PROGRESSIVE = re.compile(rb"\xff\xc2\x00[\x0b\x11\x14]\x08")
_ALONE = frozenset((0x01, 0xD8))
"""Markers without a length."""
_END, _SCAN = 0xD9, 0xDA
_UNUSED = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))
"""Segments that no decoder looks at: applications' own but for JFIF's and Adobe's, comments."""
_BYTES_TYPES = (1, 2, 7)
_VALUES = {1: "B", 6: "B", 3: "H", 8: "H", 16: "Q", 17: "Q", 18: "Q"}
"""Types of TIFF; others are taken for 32 bits."""
_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value of a type; of others one."""
_DIRECTORIES = (34665, 34853, 40965)
"""Tags that lead to more directories: EXIF, GPS, interoperability."""
_WIDTH, _LENGTH, _COMPRESSION, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 259, 322, 323  # tags of TIFF
_JPEGS_IN_TIFF = frozenset((6, 7))


class BadImage(ValueError):  # noqa: N818  (callers make it their own status or error)
    """These bytes are no image that is read; the text says why, in a few words on one line.

    Attributes:
        status: as in ``dcfast.images.signatures``; ``unsupported`` is whatever Pillow does not identify.
        size: width and height by the header, 0 where it was not read.
    """

    def __init__(self, status: Status, reason: str, size: tuple[int, int] = (0, 0)) -> None:
        super().__init__(reason)
        self.status: Status = status
        self.size = size


class CountedReads(io.BytesIO):
    """The bytes of an image as a file that is read at most MAX_READS times, then raises BadImage."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > MAX_READS:
            raise BadImage("broken", f"takes more than {MAX_READS:,} reads")
        return super().read(size)


def pixel_parts(data: bytes) -> bytes:
    """The image less what no pixel is made of; or BadImage, where that can be told before it is opened.

    Time: some microseconds, and 0.5 a part. Memory: a copy of the bytes, if anything is left out.
    """
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg_parts(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png_parts(data)
    if data[:2] in (b"II", b"MM"):
        return _tiff_parts(data)
    elif data[:2] == b"BM":
        _check_bitmap(data, 14)
    elif data[:4] == b"\0\0\1\0":  # an icon: bitmaps, or PNGs
        for place in range(18, min(6 + 16 * int.from_bytes(data[4:6], "little"), len(data) - 3), 16):
            _check_bitmap(data, int.from_bytes(data[place : place + 4], "little"))
    elif data[:2] in (b"P1", b"P2", b"P3"):  # Pillow takes time with the square of the number of comments
        raise BadImage("unsupported", "pixels written as text")
    return data


def _count(parts: int) -> None:
    if parts > MAX_PARTS:
        raise BadImage("broken", f"more than {MAX_PARTS:,} parts")


def _jpeg_parts(data: bytes) -> bytes:
    kept, at, count, pixels = [data[:2]], 2, 0, 0
    while match := _MARKER.search(data, at):
        marker, begin, at = match[1][0], match.start(), match.end()
        if marker not in _ALONE:
            length = int.from_bytes(data[at : at + 2], "big")
            if marker < 0xC0 or marker in (_END, _SCAN) or length < 2 or length > len(data) - at:
                at = begin  # the decoder's business, as all behind it
                break
            at += length
        count += 1
        _count(count)
        if marker not in _UNUSED:
            kept.append(data[begin:at])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at - begin >= 9:  # a frame's header
            height, width = struct.unpack_from(">HH", data, begin + 5)
            pixels = max(pixels, height * width)
    whole = sum(map(len, kept)) == at
    lean = data if whole else b"".join((*kept, memoryview(data)[at:]))  # no copy of a copy
    if too_many_scans(lean, pixels):
        raise BadImage("broken", f"more than {max_scans(pixels)} scans")
    return lean


def _png_parts(data: bytes) -> bytes:
    kept, at, count = [data[:8]], 8, 0
    while at + 12 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        if kind == b"IEND":
            return b"".join((*kept, data[at:end]))
        count += 1
        _count(count)
        if not kind[0] & 32 or kind == b"tRNS":  # a small first letter: not needed for the pixels, but transparency
            kept.append(data[at:end])
        at = end
    return b"".join((*kept, data[at:]))


def _check_bitmap(data: bytes, at: int) -> None:
    """BadImage where a bitmap, whose header stands there, has many pixels in runs (compression 1 or 2)."""
    if len(data) < at + 20:
        return  # cut off
    size, width, height, compression = struct.unpack_from("<Iii4xI", data, at)
    if 40 <= size <= 124 and compression in (1, 2) and abs(width * height) > MAX_RUN_PIXELS:
        raise BadImage("too_large", f"more than {MAX_RUN_PIXELS:,} pixels in runs")


def _tiff_parts(data: bytes) -> bytes:
    """Without the directories of EXIF, GPS and the like; BadImage where the tags of the first directory have more
    values or bytes than are read, or tiles or scans cost too much."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:3] == b"+"
    if data[:4] == b"MM\0+":  # libtiff's kind, which Pillow takes for another, with another directory
        raise BadImage("unsupported", "a BigTIFF with the high bytes first")
    # of a tag that stands twice, decoders do not agree which counts
    values: dict[int, list[int]] = {tag: [] for tag in (_WIDTH, _LENGTH, _COMPRESSION, _TILE_WIDTH, _TILE_LENGTH)}
    lean, total = bytearray(data), 0
    with suppress(struct.error, IndexError, OverflowError):  # cut off: what Pillow has read by then, it takes
        (at,) = struct.unpack_from(order + ("Q" if big else "L"), data, 8 if big else 4)
        (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
        at += 8 if big else 2
        _count(entries)
        for place in range(at, at + entries * (20 if big else 12), 20 if big else 12):
            tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHL"), data, place)
            total += count * _SIZES.get(kind, 1)
            if kind not in _BYTES_TYPES:
                _count(count)
            if tag in _DIRECTORIES:
                lean[place : place + 2] = b"\xff\xff"  # a tag that means nothing
            if tag in values:
                values[tag] += struct.unpack_from(order + _VALUES.get(kind, "L"), data, place + (12 if big else 8))
    if total > len(data):  # older releases of Pillow keep all of it
        raise BadImage("broken", "tags of more bytes than the file has")
    width, length, wide, tall = (max(values[tag], default=0) for tag in (_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH))
    if wide and tall and (-(-width // wide) or 1) * wide * (-(-length // tall) or 1) * tall > MAX_PIXELS:
        raise BadImage("too_large", f"tiles of more than {MAX_PIXELS:,} pixels")  # each is decoded whole
    if not _JPEGS_IN_TIFF.isdisjoint(values[_COMPRESSION]) and _PROGRESSIVE.search(data):
        raise BadImage("unsupported", "progressive JPEG in TIFF")
    return bytes(lean)


def _pairs(data: bytes, pair: bytes) -> int:
    """``data.count(pair)`` of two unlike bytes, in an eighth of its time."""
    even, odd = (np.frombuffer(data, np.uint16, (len(data) - at) // 2, at) for at in (0, 1))
    wanted = np.frombuffer(pair, np.uint16)
    return int(np.count_nonzero(even == wanted) + np.count_nonzero(odd == wanted))


def too_many_scans(data: bytes, pixels: int) -> bool:
    """Whether a JPEG of so many pixels has more scans than ``max_scans``, counted up to its end-of-image marker."""
    most = max_scans(pixels)
    if data[:3] != b"\xff\xd8\xff" or _pairs(data, b"\xff\xda") <= most:
        return False
    at, scans, parts = 2, 0, 0
    while (match := _MARKER.search(data, at)) and (marker := match[1][0]) != _END:
        at = match.end()
        scans += marker == _SCAN
        parts += 1
        if scans > most or parts > 2 * MAX_PARTS:
            return True
        if marker not in _ALONE:
            at += int.from_bytes(data[at : at + 2], "big")
    return False
