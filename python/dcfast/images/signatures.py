"""Signatures of pictures: status, size, content hash and perceptual hash, straight from the bytes of a shard.

JPEG, PNG and WebP are decoded by the core. What it calls ``unsupported`` (GIF, BMP, TIFF, animated WebP, ...)
is decoded by Pillow where that is installed, and then hashed by the core like the rest.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

import dcfast._core as _core

__all__ = [
    "FORMATS",
    "STATUS",
    "PerceptualHash",
    "PerceptualHashes",
    "perceptual_hash",
    "phash_grey",
    "picture_signature",
    "picture_signatures",
]

#: Names of the status numbers: ok, empty, unsupported, truncated, broken, too_large.
STATUS: tuple[str, ...] = _core.picture_statuses
#: Names of the format numbers: unknown, jpeg, png, webp, gif, bmp, tiff.
FORMATS: tuple[str, ...] = _core.picture_formats

_OK, _UNSUPPORTED, _TRUNCATED, _BROKEN, _TOO_LARGE = (
    STATUS.index(name) for name in ("ok", "unsupported", "truncated", "broken", "too_large")
)
# Formats that Pillow decodes by itself (some of its plugins start programs) and that begin with a mark of their own.
# Not JPEG: which of its rare kinds a Pillow decodes depends on how it was built.
_FALLBACK_FORMATS = ("GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "ICO")

Signatures = dict[str, npt.NDArray[Any]]


class PerceptualHash(NamedTuple):
    """The hash of one picture. ``flat`` pictures, and those whose ``status`` is not ok, match nothing."""

    hash: int
    flat: bool
    status: str


class PerceptualHashes(NamedTuple):
    """Hashes of many pictures: uint64, bool and uint8 (an index into ``STATUS``), shape (N,)."""

    hash: npt.NDArray[np.uint64]
    flat: npt.NDArray[np.bool_]
    status: npt.NDArray[np.uint8]


def picture_signatures(
    path: str | os.PathLike[str],
    offsets: npt.ArrayLike,
    sizes: npt.ArrayLike,
    *,
    threads: int = 0,
    full: bool = False,
    fallback: bool = True,
) -> Signatures:
    """Signatures of the members of one shard, each read once.

    Args:
        path: the shard, a local file.
        offsets: where each member's data begins, bytes, shape (N,), uint64.
        sizes: how long it is, bytes, shape (N,), uint64.
        threads: 0 means one per core. The result is the same for any number.
        full: decode JPEGs at full scale, slower and with more memory; hashes may differ in a few bits from those of
            the default, which halves the scale while the shorter side keeps 64 pixels.
        fallback: decode with Pillow what the core does not decode, if Pillow is installed.

    Returns:
        Arrays of shape (N,) by name: ``status`` uint8 (index into ``STATUS``), ``format`` uint8 (index into
        ``FORMATS``), ``width`` and ``height`` uint32 (pixels, 0 where unknown), ``content_hash`` "u8,u8"
        (XXH3-128 of the member's bytes, high half first), ``phash`` uint64, ``flat`` bool. Where the status is
        not ok, ``phash`` is 0 and ``flat`` True. No bytes of a member, whatever they are, raise an error.

    Raises:
        TypeError: ``offsets`` or ``sizes`` is not uint64.
        ValueError: they are not one-dimensional or differ in length.
        OSError: the file cannot be read.
        dcfast.errors.CorruptDataError: a member reaches beyond the end of the file.

    Memory: one member (at most 256 MiB; larger ones are hashed in pieces and ``too_large``) and its decoding (at
    most 8 bytes a pixel and 178,956,970 pixels) a thread; 43 bytes a member for the result.
    """
    begin, size = _extents(offsets, "offsets"), _extents(sizes, "sizes")
    if begin.shape != size.shape:
        raise ValueError(f"offsets and sizes must have one length; got {begin.size} and {size.size}")
    result: Signatures = _core.picture_signatures(os.fsencode(path), begin, size, _threads(threads), bool(full))
    if fallback and (result["status"] == _UNSUPPORTED).any():
        with open(path, "rb") as file:
            for i in np.flatnonzero(result["status"] == _UNSUPPORTED):
                file.seek(int(begin[i]))
                _by_pillow(file.read(int(size[i])), result, int(i))
    return result


def picture_signature(picture: bytes, *, full: bool = False, fallback: bool = True) -> dict[str, Any]:
    """The signature of one encoded picture in memory; the fields of ``picture_signatures`` as Python values.

    ``status`` and ``format`` are names, ``content_hash`` is a pair of integers (high half first).

    Raises:
        TypeError: ``picture`` is not bytes-like.
    """
    arrays = _signatures_of([_as_bytes(picture)], 1, full, fallback)
    values = {name: array[0].item() for name, array in arrays.items()}
    return {**values, "status": STATUS[values["status"]], "format": FORMATS[values["format"]]}


@overload
def perceptual_hash(pictures: bytes, *, threads: int = 0, full: bool = False) -> PerceptualHash: ...
@overload
def perceptual_hash(pictures: Sequence[bytes], *, threads: int = 0, full: bool = False) -> PerceptualHashes: ...
def perceptual_hash(
    pictures: bytes | Sequence[bytes], *, threads: int = 0, full: bool = False
) -> PerceptualHash | PerceptualHashes:
    """The 64-bit perceptual hash of encoded pictures; it survives resizing, recompression and changed proportions.

    Two pictures show the same where neither is flat and their hashes differ in at most 8 bits (``hamming_join``).
    The definition, bit for bit, is in docs/formats.md.

    Args:
        pictures: one encoded picture (bytes), or a sequence of them.
        threads: for a sequence; 0 means one per core. The result is the same for any number.
        full: decode JPEGs at full scale (see ``picture_signatures``).

    Returns:
        ``PerceptualHash(hash, flat, status)`` for one, ``PerceptualHashes`` of arrays of shape (N,) for a
        sequence. Pictures that cannot be decoded have hash 0, are flat, and their status says why.

    Raises:
        TypeError: an element is not bytes-like.

    Memory: at most 8 bytes a pixel while a picture is decoded, a thread.
    """
    if isinstance(pictures, bytes | bytearray | memoryview):
        one = picture_signature(bytes(pictures), full=full)
        return PerceptualHash(one["phash"], one["flat"], one["status"])
    many = _signatures_of([_as_bytes(picture) for picture in pictures], threads, full, True)
    return PerceptualHashes(many["phash"], many["flat"], many["status"])


def phash_grey(grey: npt.NDArray[np.uint8]) -> tuple[int, bool]:
    """Perceptual hash and flatness of grey levels, uint8, shape (height, width), contiguous.

    Raises:
        TypeError: another dtype or number of dimensions.
        ValueError: no pixels, more than 2^32, or not contiguous.
    """
    if not isinstance(grey, np.ndarray):
        raise TypeError(f"grey must be a two-dimensional uint8 array; got {type(grey).__name__}")
    bits, flat = _core.phash_grey(grey)
    return int(bits), bool(flat)


def _signatures_of(pictures: list[bytes], threads: int, full: bool, fallback: bool) -> Signatures:
    result: Signatures = _core.picture_signatures_of(pictures, _threads(threads), bool(full))
    if fallback:
        for i in np.flatnonzero(result["status"] == _UNSUPPORTED):
            _by_pillow(pictures[i], result, int(i))
    return result


def _by_pillow(data: bytes, result: Signatures, i: int) -> None:
    """Decodes ``data`` with Pillow and fills row ``i``; leaves ``unsupported`` what Pillow does not know either."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        return
    Image.init()  # which formats a build of Pillow has is known only after this
    formats = [name for name in _FALLBACK_FORMATS if name in Image.OPEN]
    try:
        # Pillow warns of odd metadata and of pictures above half its limit; the status says what matters here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=formats) as image:
                result["width"][i], result["height"][i] = image.size
                if image.width * image.height > _core.max_picture_pixels:
                    result["status"][i] = _TOO_LARGE
                    return
                image.load()
                grey = _grey(image)
        result["phash"][i], result["flat"][i] = phash_grey(grey)
        result["status"][i] = _OK
    except UnidentifiedImageError:
        pass
    except Image.DecompressionBombError:
        result["status"][i] = _TOO_LARGE
    except MemoryError:
        raise
    except Exception as error:  # plugins raise what they like on bad data: OSError, SyntaxError, struct.error, ...
        early = isinstance(error, EOFError) or "truncated" in str(error).lower()
        result["status"][i] = _TRUNCATED if early else _BROKEN


def _grey(image: Any) -> npt.NDArray[np.uint8]:
    """Grey levels of a loaded Pillow image; 16-bit ones by their high byte, as the core does."""
    if image.mode.startswith("I;16"):
        return np.ascontiguousarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.ascontiguousarray(image.convert("L"), dtype=np.uint8)


def _as_bytes(picture: Any) -> bytes:
    if not isinstance(picture, bytes | bytearray | memoryview):
        raise TypeError(f"pictures must be bytes (an encoded picture each); got {type(picture).__name__}")
    return bytes(picture)


def _extents(values: npt.ArrayLike, name: str) -> npt.NDArray[np.uint64]:
    array = np.asarray(values)
    if array.size == 0 and not isinstance(values, np.ndarray):
        array = array.astype(np.uint64)  # an empty list has no dtype of its own
    if array.dtype != np.uint64:
        raise TypeError(f"{name} must have dtype uint64 (bytes); got {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional; got shape {array.shape}")
    return np.require(array, np.uint64, ["C", "A"])


def _threads(threads: Any) -> int:
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer):
        raise TypeError(f"threads must be an integer; got {type(threads).__name__}")
    if not 0 <= threads <= 4096:
        raise ValueError(f"threads must be 0 (one per core) to 4096; got {threads}")
    return int(threads)
