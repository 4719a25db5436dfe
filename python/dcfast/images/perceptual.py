"""``perceptual_hash``: the 64-bit hash of pictures as people have them: encoded, in files, of Pillow, as arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast, overload

import numpy as np
import numpy.typing as npt

from dcfast.images.signatures import STATUS, grey_levels, image_signatures, phash_grey, signatures_of
from dcfast.process.compute import thread_count
from dcfast.process.read_ahead import read_ahead

if TYPE_CHECKING:
    from PIL import Image

Picture: TypeAlias = "bytes | bytearray | memoryview | str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]"

_BYTES = (bytes, bytearray, memoryview)
_START = np.zeros(1, np.uint64)


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


@overload
def perceptual_hash(  # type: ignore[overload-overlap]  # bytes and str are sequences, too
    pictures: Picture, *, threads: int | None = None, full: bool = False
) -> PerceptualHash: ...
@overload
def perceptual_hash(
    pictures: Sequence[Picture], *, threads: int | None = None, full: bool = False
) -> PerceptualHashes: ...
def perceptual_hash(
    pictures: Picture | Sequence[Picture], *, threads: int | None = None, full: bool = False
) -> PerceptualHash | PerceptualHashes:
    """The 64-bit perceptual hash of pictures; it survives resizing, recompression and changed proportions.

    Two pictures show the same where neither is flat and their hashes differ in at most 8 bits (``hamming_join``).
    The definition, bit for bit, is in docs/formats.md.

    Args:
        pictures: one picture, or a sequence of them: encoded (bytes), the path of a file, a Pillow image, or a uint8
            array of shape (height, width) for grey, (height, width, 3) for RGB.
        threads: for a sequence; None means one per core. The result is the same for any number.
        full: decode JPEGs at full scale (see ``image_signatures``), which makes the hash that of the decoded picture.

    Returns:
        ``PerceptualHash(hash, flat, status)`` for one, ``PerceptualHashes`` of arrays of shape (N,) for a
        sequence. Pictures that cannot be decoded have hash 0, are flat, and their status says why.

    Raises:
        TypeError: a picture is none of these.   ValueError: an array of another shape.
        OSError: a file is not there, or cannot be read.

    Memory: at most 8 bytes a pixel while a picture is decoded, a thread.
    Cost: that of decoding, which nearly all of it is.
    Example: ``perceptual_hash([bytes(jpg) for jpg in reader.read([0, 1], "jpg")]).hash``
    """
    count = thread_count(threads)
    if isinstance(pictures, (str, os.PathLike, *_BYTES)) or not isinstance(pictures, Sequence):
        hashed, flat, status = _hash(pictures, full)
        return PerceptualHash(hashed, flat, STATUS[status])
    if all(isinstance(picture, _BYTES) for picture in pictures):
        many = signatures_of(cast(Sequence[bytes], pictures), threads=threads, full=full)
        return PerceptualHashes(many.phash, many.flat, many.status)
    count = count or len(os.sched_getaffinity(0))
    hashes = list(read_ahead(partial(_hash, full=full), pictures, threads=count, ahead=2 * count))
    columns = zip(*hashes, strict=True)
    return PerceptualHashes(*map(np.array, columns, (np.uint64, np.bool_, np.uint8)))


def _hash(picture: object, full: bool) -> tuple[int, bool, int]:
    """Hash, flatness and number of the status of a picture."""
    if isinstance(picture, (str, os.PathLike)):
        # a file is as a shard of one member; the core reads it, and refuses what is no file
        many = image_signatures(picture, _START, np.array([os.stat(picture).st_size], np.uint64), threads=1, full=full)
    elif isinstance(picture, _BYTES):
        many = signatures_of([bytes(picture)], threads=1, full=full)
    else:
        try:
            return *phash_grey(_as_grey(picture)), STATUS.index("ok")
        except OSError:  # of a Pillow image, which is decoded when it is asked for pixels
            return 0, True, STATUS.index("broken")
    return int(many.phash[0]), bool(many.flat[0]), int(many.status[0])


def _as_grey(picture: object) -> npt.NDArray[np.uint8]:
    """Grey levels of a Pillow image, or of an array of pixels."""
    if any(kind.__module__ == "PIL.Image" for kind in type(picture).__mro__):
        return grey_levels(cast("Image.Image", picture))
    if not isinstance(picture, np.ndarray):
        raise TypeError(
            "pictures must be bytes (an encoded picture each), paths, Pillow images or arrays; got "
            f"{type(picture).__name__}: pass one of these, or a list of them"
        )
    if picture.dtype != np.uint8:
        raise TypeError(f"pictures: an array must have dtype uint8; got {picture.dtype}: scale its levels to 0 to 255")
    if picture.ndim == 2:
        return np.ascontiguousarray(picture)
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(
            f"pictures: an array must be of shape (height, width) or (height, width, 3); got {picture.shape}: "
            "pass one picture an array"
        )
    from PIL import Image

    return grey_levels(Image.fromarray(picture))
