"""XXH3 hashes of members of shards, of files and of bytes (seed 0, canonical order), and SHA-256 of files."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from dcfast._core import hashing as core_hashing
from dcfast.process.compute import thread_count
from dcfast.storage.inputs import StrPath, open_input

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Buffer


def hash_members(
    source: StrPath | Buffer, offsets: npt.ArrayLike, sizes: npt.ArrayLike, *, threads: int | None = None
) -> npt.NDArray[np.void]:
    """XXH3-128 of ranges of one file or of bytes in memory, such as the members of a shard.

    Args:
        source: a local file, as str or path; or a contiguous bytes-like object. (Of a mapped file the system ends the
            process, with SIGBUS, if it is cut meanwhile: pass its path where others may write.)
        offsets, sizes: (n,) bytes, unsigned 64-bit or other integers that are not negative. Ranges may come
            in any order, overlap and repeat.
        threads: None means one per core. The result is the same for any number.

    Returns:
        (n,) ``"u8,u8"``: high and low half, as ``xxhash.xxh3_128_hexdigest`` writes them; sorts and looks up
        as uids do.

    Raises:
        CorruptDataError: a range ends beyond the end of the file; names the file and the range's offset.
        ValueError, TypeError: offsets and sizes differ in length, are not such integers, or end beyond the bytes.
        OSError: the file cannot be read.

    Memory: 1 MiB a thread however long the ranges are, and 40 bytes a range. Cost: one read of the ranges (of a file:
    those with gaps up to 16 KiB are read together); bytes are hashed about as fast as memory is read.
    Example: ``uid_format(hash_members("pool/shards/00000000.tar", [0, 512], [512, 1024]))``
    """
    from dcfast.process.arguments import unsigned_array

    count = thread_count(threads)
    ranges = unsigned_array(offsets, "offsets"), unsigned_array(sizes, "sizes")
    if isinstance(source, (str, os.PathLike)):
        return core_hashing.hash_ranges(os.fsencode(source), *ranges, count)
    return core_hashing.hash_buffer_ranges(source, *ranges, count)


def hash_file(path: StrPath) -> str:
    """XXH3-128 of a whole file: 32 lower-case hexadecimal digits. Memory: 512 KiB."""
    return hex_digits(*core_hashing.hash_file(os.fsencode(path)))


def sha256_file(path: StrPath) -> str:
    """SHA-256 of a whole file: 64 lower-case hexadecimal digits. Memory: 256 KiB.   Raises OSError."""
    with open_input(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_bytes(data: Buffer) -> str:
    """XXH3-128 of a contiguous bytes-like object: 32 lower-case hexadecimal digits."""
    return hex_digits(*core_hashing.xxh3_128(data))


def hex_digits(*words: int) -> str:
    """A hash of words of 64 bits, the high one first: 16 lower-case hexadecimal digits each."""
    return "".join(f"{word:016x}" for word in words)
