"""The EXIF of an image as img2dataset's field ``exif`` has it: a text that is a JSON object, made by ExifRead."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

from dcfast.process.libraries import require_library

MAX_BLOCK = 1 << 16
"""Bytes of an EXIF block that are looked at; a JPEG holds no more."""
MAX_READS = 1 << 14
"""Reads by ExifRead, one a number: entries may lead to others without end, and to the same bytes again and again."""
MAX_READ_BYTES = 1 << 18
MAX_TEXT = 1 << 16
"""Characters of the field; of thousands of rows it stands in memory."""
_MAX_SEGMENTS = 512

_NONE = "{}"
_STOP = "Tag 0xFEFE"


def exif_json(data: bytes) -> str:
    """JSON object of "IFD name" -> text, as ExifRead gives it without details (no maker notes, no thumbnails).

    Looks at the EXIF segment of a JPEG, the EXIF chunk of a WebP, and the directories of a TIFF, where img2dataset
    looks. ``{}`` where there is none, or where it is broken; what a block has beyond the bounds is left out.

    Raises:
        MissingDependencyError: ExifRead is missing.
    Cost: microseconds where there is none, half a millisecond for a camera's, at most 0.1 s; all with the
        interpreter's lock.
    """
    process_file = _exifread()
    block = _exif_block(data)
    if block[:2] not in (b"II", b"MM"):
        return _NONE
    try:
        tags = process_file(_Bounded(block), stop_tag=_STOP, details=False, extract_thumbnail=False)
        text = json.dumps({name: str(value).strip() for name, value in tags.items() if value is not None})
    except Exception:  # whatever a broken block makes of its reader
        return _NONE
    return text if len(text) <= MAX_TEXT else _NONE


class _Bounded(io.BytesIO):
    """Once much was read, every number is that of ``_STOP``, at which each directory ends: what was found is kept."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads, self._bytes = 0, 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > MAX_READS or self._bytes > MAX_READ_BYTES:
            if self._reads > 2 * MAX_READS:
                raise EOFError
            return b"\xfe" * size if size and 0 < size <= 8 else b""
        piece = super().read(MAX_READ_BYTES if size is None or size < 0 else min(size, MAX_READ_BYTES))
        self._bytes += len(piece)
        return piece


@cache
def _exifread() -> Callable[..., dict[str, Any]]:
    require_library("exifread", "reading EXIF", "pip install 'dcfast[acquire]'")
    import exifread

    logging.getLogger("exifread").setLevel(logging.CRITICAL)  # it warns of every odd block
    return exifread.process_file


def _exif_block(data: bytes) -> bytes:
    """What begins with II or MM; b"" where there is none."""
    if data[:2] == b"\xff\xd8":
        block = _segment(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        block = _chunk(data)
    else:
        return data if data[:2] in (b"II", b"MM") else b""
    return block.removeprefix(b"Exif\0\0")[:MAX_BLOCK]


def _segment(jpeg: bytes) -> bytes:
    at = 2
    for _ in range(_MAX_SEGMENTS):
        marker, length = jpeg[at : at + 2], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker[:1] != b"\xff" or length < 2 or marker[1:] == b"\xda":
            break
        if marker == b"\xff\xe1" and jpeg[at + 4 : at + 8] == b"Exif":
            return jpeg[at + 4 : at + 2 + length]
        at += 2 + length
    return b""


def _chunk(webp: bytes) -> bytes:
    if webp[12:16] != b"VP8X" or not webp[20:21] or not webp[20] & 8:
        return b""
    at = 12
    for _ in range(_MAX_SEGMENTS):
        size = int.from_bytes(webp[at + 4 : at + 8], "little")
        if webp[at : at + 4] == b"EXIF":
            return webp[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    return b""
