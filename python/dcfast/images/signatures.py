"""Signatures of pictures: status, size, content hash and perceptual hashes, straight from the bytes of a shard.

JPEG, PNG and WebP are decoded by the core. What it calls ``unsupported`` (GIF, BMP, TIFF, animated WebP, ...)
goes through ``dcfast.images.decode`` where Pillow is installed, and is then hashed by the core like the rest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast._core import images as core_images
from dcfast.images.costs import BadImage
from dcfast.images.decode import eight_bits, open_image
from dcfast.process.arguments import uint64_array
from dcfast.process.compute import thread_count

if TYPE_CHECKING:
    from PIL import Image


#: Names of the status numbers: ok, empty, unsupported, truncated, broken, too_large.
STATUS: tuple[str, ...] = tuple(core_images.status_names())
#: Names of the format numbers: unknown, jpeg, png, webp, gif, bmp, tiff.
FORMATS: tuple[str, ...] = tuple(core_images.format_names())

#: The ``quality`` below which a picture is flat for the 256-bit hash.
FLAT_QUALITY: int = core_images.flat_quality
#: What the eight hashes of ``hash_variants`` are of, by Pillow's names: turns are against the clock.
VARIANTS = (
    "identity",
    "rotate_90",
    "rotate_180",
    "rotate_270",
    "flip_left_right",
    "flip_top_bottom",
    "transpose",
    "transverse",
)

_OK, _UNSUPPORTED, _JPEG = STATUS.index("ok"), STATUS.index("unsupported"), FORMATS.index("jpeg")


class Signatures(NamedTuple):
    """Signatures of many pictures: arrays of shape (N,). Where the status is not ok, hashes are 0, ``flat`` is True.

    Attributes:
        status, format: indices into ``STATUS`` and ``FORMATS``.
        width, height: pixels, 0 where unknown.
        content_hash: "u8,u8", XXH3-128 of the encoded bytes, high half first.
        phash, flat: the 64-bit hash; flat pictures match nothing by it.
        phash256: the 256-bit hash, shape (N, 4): bit i is bit i % 64 of word i // 64. (0, 4) unless ``wide``.
        quality: how far its bits are from changing, grey levels of the frequencies, at most 255. (0,) unless ``wide``.
    """

    status: npt.NDArray[np.uint8]
    format: npt.NDArray[np.uint8]
    width: npt.NDArray[np.uint32]
    height: npt.NDArray[np.uint32]
    content_hash: npt.NDArray[np.void]
    phash: npt.NDArray[np.uint64]
    flat: npt.NDArray[np.bool_]
    phash256: npt.NDArray[np.uint64]
    quality: npt.NDArray[np.uint8]

    @property
    def flat256(self) -> npt.NDArray[np.bool_]:
        """Which pictures match nothing by the 256-bit hash: ``quality`` below FLAT_QUALITY, or not decoded."""
        return self.quality < FLAT_QUALITY


class Signature(NamedTuple):
    """The signature of one picture: as ``Signatures``, with names for status and format.

    ``phash256`` is all zeros, and ``quality`` 0, unless ``wide`` was asked for.
    """

    status: str
    format: str
    width: int
    height: int
    content_hash: tuple[int, int]
    phash: int
    flat: bool
    phash256: tuple[int, ...] = (0, 0, 0, 0)
    quality: int = 0


def image_signatures(
    path: str | os.PathLike[str],
    offsets: npt.ArrayLike,
    sizes: npt.ArrayLike,
    *,
    threads: int | None = None,
    full: bool = False,
    fallback: bool = True,
    wide: bool = False,
) -> Signatures:
    """Signatures of the members of one shard, each read once.

    Args:
        path: the shard, a local file.
        offsets: where each member's data begins, bytes, shape (N,), uint64.
        sizes: how long it is, bytes, shape (N,), uint64.
        threads: None means one per core. The result is the same for any number.
        full: decode JPEGs at full scale, slower and with more memory; hashes may differ in a few bits from those of
            the default, which halves the scale while the shorter side keeps 64 pixels.
        fallback: decode with Pillow what the core does not decode, if Pillow is installed.
        wide: make the 256-bit hash too, of the same decoding; some 15 microseconds a picture.

    Returns:
        Arrays of shape (N,). No bytes of a member, whatever they are, raise an error.

    Raises:
        TypeError: ``offsets`` or ``sizes`` is not uint64.
        ValueError: they are not one-dimensional or differ in length.
        OSError: the file cannot be read.
        dcfast.errors.CorruptDataError: a member reaches beyond the end of the file.

    Memory: one member (at most 256 MiB; larger ones are hashed in pieces and ``too_large``) and its decoding (at
    most 8 bytes a pixel, 16 by Pillow, and 178,956,970 pixels) a thread; 43 bytes a member for the result,
    76 with ``wide``.
    """
    begin, size = uint64_array(offsets, "offsets", "bytes"), uint64_array(sizes, "sizes", "bytes")
    if begin.shape != size.shape:
        raise ValueError(f"offsets and sizes must have one length; got {begin.size} and {size.size}")
    result = _signatures(
        core_images.image_signatures(os.fsencode(path), begin, size, thread_count(threads), full, wide)
    )
    if fallback and (result.status == _UNSUPPORTED).any():
        with open(path, "rb") as file:  # a regular file: the core has read it
            for i in np.flatnonzero(result.status == _UNSUPPORTED):
                file.seek(int(begin[i]))
                _by_pillow(file.read(int(size[i])), result, int(i))
    return result


def image_signature(picture: bytes, *, full: bool = False, fallback: bool = True, wide: bool = False) -> Signature:
    """The signature of one encoded picture in memory; see ``image_signatures``.

    Raises:
        TypeError: ``picture`` is not bytes-like.
    """
    many = signatures_of([picture], threads=1, full=full, fallback=fallback, wide=wide)
    status, kind, *rest = (array[0].item() for array in many[:7])
    own = Signature(STATUS[status], FORMATS[kind], *rest)
    return own._replace(phash256=tuple(many.phash256[0].tolist()), quality=int(many.quality[0])) if wide else own


def phash_grey(grey: npt.NDArray[np.uint8]) -> tuple[int, bool]:
    """Perceptual hash and flatness of grey levels, uint8, shape (height, width), contiguous.

    Raises:
        TypeError: another dtype or number of dimensions.
        ValueError: no pixels, more than 2^32, or not contiguous.
    """
    if not isinstance(grey, np.ndarray):
        raise TypeError(f"grey must be a two-dimensional uint8 array; got {type(grey).__name__}")
    return core_images.phash_grey(grey)


def phash256_grey(grey: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint64], int]:
    """The 256-bit hash, shape (4,), and quality of grey levels; as ``phash_grey``."""
    if not isinstance(grey, np.ndarray):
        raise TypeError(f"grey must be a two-dimensional uint8 array; got {type(grey).__name__}")
    return core_images.phash256_grey(grey)


def hash_variants(phash256: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The 256-bit hashes of a picture turned and mirrored in each way of ``VARIANTS``, by its own hash alone.

    They are those of the turned grey levels, but for bits of frequencies that are exactly 0. Who compares pictures in
    all these ways makes them of one side only.

    Args:
        phash256: uint64, shape (4,), or (N, 4) for many.

    Returns:
        uint64, shape (8, 4), or (N, 8, 4); the first of the eight is the hash itself.

    Raises:
        TypeError: another dtype.
        ValueError: another shape.

    Cost: about 0.4 microseconds a hash. Memory: 256 bytes a hash.
    """
    words = np.asarray(phash256)
    if words.dtype != np.uint64:
        raise TypeError(f"phash256 must have dtype uint64; got {words.dtype}: pass that of image_signatures")
    if words.ndim not in (1, 2) or words.shape[-1] != 4:
        raise ValueError(
            f"phash256 must have shape (4,) or (N, 4); got {words.shape}: pass phash256 of image_signatures"
        )
    turned = core_images.hash_variants(np.ascontiguousarray(words).reshape(-1))
    return turned.reshape(*words.shape[:-1], len(VARIANTS), 4)


def signatures_of(
    pictures: Sequence[bytes],
    *,
    threads: int | None = None,
    full: bool = False,
    fallback: bool = True,
    wide: bool = False,
) -> Signatures:
    """Signatures of encoded pictures in memory. Arguments as of ``image_signatures``."""
    encoded = [_as_bytes(picture) for picture in pictures]
    result = _signatures(core_images.image_signatures_of(encoded, thread_count(threads), full, wide))
    if fallback:
        for i in np.flatnonzero(result.status == _UNSUPPORTED):
            _by_pillow(encoded[int(i)], result, int(i))
    return result


def _signatures(columns: Sequence[npt.NDArray[Any]]) -> Signatures:
    *narrow, words, quality = columns
    return Signatures._make([*narrow, words.reshape(-1, 4), quality])


def _by_pillow(data: bytes, result: Signatures, i: int) -> None:
    """Decodes ``data`` with Pillow and fills row ``i``; leaves ``unsupported`` what Pillow does not know either."""
    try:
        with open_image(data) as image:
            size, grey = image.size, grey_levels(image)
    except ImportError:
        return  # there is no Pillow
    except BadImage as error:
        if result.format[i] != _JPEG:  # of a rare kind of JPEG the core has seen more than Pillow tells
            result.status[i] = STATUS.index(error.status)
        size = error.size
    else:
        result.phash[i], result.flat[i] = phash_grey(grey)
        if len(result.quality):
            result.phash256[i], result.quality[i] = phash256_grey(grey)
        result.status[i] = _OK
    if size != (0, 0):
        result.width[i], result.height[i] = size


def grey_levels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Grey levels of a Pillow image; 16-bit ones by their high byte, as the core does."""
    image = eight_bits(image)
    in_rgb = image.convert("RGB") if image.mode == "LAB" else image  # which has no way of its own to grey
    return np.ascontiguousarray(in_rgb.convert("L"), dtype=np.uint8)


def _as_bytes(picture: object) -> bytes:
    if not isinstance(picture, bytes | bytearray | memoryview):
        raise TypeError(f"pictures must be bytes (an encoded picture each); got {type(picture).__name__}")
    return bytes(picture)
