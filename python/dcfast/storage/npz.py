"""npy and npz files: whole or absent, whole arrays or, where they are larger than memory, a block of rows at a time.

``numpy.savez`` and ``numpy.load`` hold whole arrays; the embeddings of a metadata file of DataComp take gigabytes.
What is written here is what ``numpy.save`` and ``numpy.savez`` would write (not compressed: embeddings do not shrink),
byte for byte the same for equal arrays. Nothing is ever unpickled. The length of a header, the shape, the type and the
size of what follows are looked at before they are read or memory is taken for them: docs/limits.md. What is read has
whatever dtype its file says: ``NDArray[Any]``.
"""

from __future__ import annotations

import errno
import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.errors import CorruptDataError
from dcfast.storage.atomic import atomic_path
from dcfast.storage.inputs import StrPath, open_input
from dcfast.storage.mapped import map_array
from dcfast.storage.zip_directory import open_zip

MAX_HEADER_BYTES = 10_000
"""Of an npy: NumPy parses no longer ones, but reads them."""
MAX_ROW_BYTES = 1 << 20
"""Of an array in an npz; embeddings have some thousands."""
MAX_BLOCK_BYTES = 256 << 20
"""Of an array in an npz that are read at a time."""
MAX_INFLATED_BYTES, MAX_INFLATED_RATIO = 1 << 30, 100
"""A compressed array of an npz, and all of them together, grow to at most this, or this many times what is stored."""
_SHOWN = 16  # arrays that a message names
_LOCAL_LENGTHS = 26  # where a member's own header has the lengths of its name and its extra field
_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's first moment, as numpy.savez writes it
_HEADERS = {
    (1, 0): (2, np.lib.format.read_array_header_1_0),
    (2, 0): (4, np.lib.format.read_array_header_2_0),
}
"""Version of npy -> bytes of a header's length, and what parses both."""


class Array(NamedTuple):
    """Shape and dtype of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])


def save_array(path: StrPath, array: npt.ArrayLike, *, sync: bool = True) -> None:
    """Writes an npy, atomically (see ``atomic_path``). ValueError: Python objects, which are never pickled."""
    with atomic_path(path, sync=sync) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)


def save_scratch(path: StrPath, array: npt.ArrayLike) -> None:
    """Writes an npy that this process alone reads, and removes: as ``save_array``, but in place, and not synced."""
    with open(path, "wb") as file:
        np.save(file, array, allow_pickle=False)


def load_array(path: StrPath, *, mmap: bool = False) -> npt.NDArray[Any]:
    """The array of an npy; with ``mmap`` mapped, read-only (``dcfast.storage.mapped``).

    CorruptDataError: no npy, cut off, or pickled; names it.   OSError: it cannot be read.
    """
    with open_input(path) as file:
        try:
            array, columns_first = _whole_header(file, os.fstat(file.fileno()).st_size)
            if not mmap:
                file.seek(0)
                return np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise CorruptDataError(
                f"{path} is no npy file that can be read ({error}); it is cut off or damaged: write it again", path=path
            ) from error
        start = file.tell()
    return map_array(path, array.dtype, array.shape, start, columns_first=columns_first)


def array_bytes(array: npt.ArrayLike) -> bytes:
    """What ``save_array`` would write."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def parse_array(data: bytes | memoryview) -> npt.NDArray[Any]:
    """The array of the bytes of an npy; ValueError says what else they are."""
    file = io.BytesIO(data)
    _whole_header(file, len(data))
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _whole_header(file: IO[bytes], size: int) -> tuple[Array, bool]:
    """``read_header`` of a file of ``size`` bytes; ValueError where not all of the array is in it, as it is."""
    array, columns_first = read_header(file)
    if array.dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    missing = file.tell() + array.dtype.itemsize * math.prod(array.shape) - size
    if missing > 0:
        raise ValueError(f"{missing} bytes are missing")
    return array, columns_first


def read_header(file: IO[bytes]) -> tuple[Array, bool]:
    """Shape and dtype of the npy that begins where an open file stands, and whether columns come first.

    The file stands at the data then. ValueError: it is no header, or has a shape that no file holds.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"format version {version[0]}.{version[1]}")
        size, parse = _HEADERS[version]
        prefix = file.read(size)
        length = int.from_bytes(prefix, "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {length:,} bytes; at most {MAX_HEADER_BYTES:,}")
        shape, columns_first, dtype = parse(io.BytesIO(prefix + file.read(length)))
        if min(shape, default=0) < 0 or dtype.itemsize == 0 or math.prod(n or 1 for n in shape) >= 1 << 60:
            raise ValueError(f"shape {shape} of {dtype.itemsize} bytes each")
    except OSError:
        raise
    except Exception as error:  # NumPy parses the header as Python text and lets that parser's errors through
        raise ValueError(str(error)) from error
    return Array(tuple(shape), dtype), columns_first


class NpyWriter:
    """An ``.npy`` of known shape, written a block of rows at a time to an open file.

    ``close`` raises ValueError where rows are missing; ``write`` where there are too many, or of another shape.
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._file = file
        self.array: Array = Array(tuple(int(n) for n in shape), np.dtype(dtype))
        self.written: int = 0
        descr = np.lib.format.dtype_to_descr(self.array.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": self.array.shape}
        np.lib.format.write_array_header_1_0(file, header)

    def write(self, block: npt.NDArray[np.generic]) -> None:
        """Appends rows, cast to the array's dtype."""
        if block.shape[1:] != self.array.shape[1:] or self.written + len(block) > self.array.shape[0]:
            raise ValueError(
                f"rows of shape {block.shape} do not fit behind row {self.written} of an array of {self.array.shape}"
            )
        self._file.write(np.ascontiguousarray(block, self.array.dtype).tobytes())
        self.written += len(block)

    def close(self) -> None:
        """Checks that all rows were written; leaves the file open."""
        if self.written != self.array.shape[0]:
            raise ValueError(f"{self.written} of {self.array.shape[0]} rows were written")


def write_npy(
    path: StrPath,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    blocks: Iterable[npt.NDArray[np.generic]],
    *,
    sync: bool = True,
) -> None:
    """Writes an npy, atomically, of blocks of rows. ValueError: they are not its rows. Memory: a block."""
    with atomic_path(path, sync=sync) as temporary, open(temporary, "wb") as file:
        _write_blocks(file, Array(shape, np.dtype(dtype)), blocks)


def _write_blocks(file: IO[bytes], array: Array, blocks: Iterable[npt.NDArray[np.generic]]) -> None:
    writer = NpyWriter(file, array.shape, array.dtype)
    for block in blocks:
        writer.write(block)
    writer.close()


def write_npz(path: StrPath, arrays: Iterable[tuple[str, Array, Iterable[npt.NDArray[np.generic]]]]) -> None:
    """Writes an npz, atomically, of (name, shape and dtype, blocks of rows) one array after the other.

    ValueError: the blocks of an array are not its rows. Memory: a block.
    """
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        for name, array, blocks in arrays:
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as member:
                _write_blocks(member, array, blocks)


# what zipfile raises of an archive that is damaged, encrypted or of a later kind
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, UnicodeError, zlib.error, EOFError)


@contextmanager
def _open_npz(path: StrPath) -> Iterator[zipfile.ZipFile]:
    try:
        with open_zip(path) as archive:
            size, total = os.path.getsize(path), sum(info.file_size for info in archive.infolist())
            if total > max(MAX_INFLATED_BYTES, MAX_INFLATED_RATIO * size):  # members may lie over each other
                raise zipfile.BadZipFile(f"its arrays grow from {size:,} to {total:,} bytes in all")
            yield archive
    except _ZIP_ERRORS as error:
        raise CorruptDataError(
            f"{path} is no npz file ({error}); it is cut off or damaged: write or download it again", path=path
        ) from None


def _read_header(member: IO[bytes], name: str, path: StrPath) -> Array:
    try:
        array, columns_first = read_header(member)
        if columns_first and len(array.shape) > 1:
            raise ValueError("columns first")
        if array.dtype.hasobject:
            raise ValueError("Python objects, which are never loaded")
        if not 0 < array.row_bytes <= MAX_ROW_BYTES and array.shape[:1] != (0,):
            raise ValueError(f"rows of {array.row_bytes:,} bytes; 1 to {MAX_ROW_BYTES:,} are read")
    except ValueError as error:
        raise CorruptDataError(f"{path}, {name}: no array that can be read ({error})", path=path) from None
    return array


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """A member that is open; BadZipFile where it is compressed otherwise than NumPy does, or would grow too much."""
    info = archive.getinfo(name)
    if info.file_size > max(MAX_INFLATED_BYTES, MAX_INFLATED_RATIO * info.compress_size):
        raise zipfile.BadZipFile(f"{name} grows from {info.compress_size:,} to {info.file_size:,} bytes")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"compressed by method {info.compress_type}; expected none or deflate")
    try:
        return archive.open(info)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise zipfile.BadZipFile(f"{name} lies outside of the file") from None


def npz_arrays(path: StrPath) -> dict[str, Array]:
    """The arrays of an npz: name -> shape and dtype, by their headers alone. Errors as ``iterate_npz``."""
    arrays = {}
    with _open_npz(path) as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                with _member(archive, name) as member:
                    array = _read_header(member, name, path)
                    size, given = member.tell() + array.row_bytes * math.prod(array.shape[:1]), archive.getinfo(name)
                if size > given.file_size:  # what counts on the shape would take it for any number of rows
                    got = f"{given.file_size:,} of {size:,} bytes"
                    raise CorruptDataError(f"{path}, {name} is cut off: {got}; write it again", path=path)
                arrays[name.removesuffix(".npy")] = array
    return arrays


def _named(archive: zipfile.ZipFile, name: str, path: StrPath) -> str:
    """The member of an array; CorruptDataError where there is none."""
    file = f"{name}.npy"
    if file not in archive.namelist():
        have = ", ".join(n.removesuffix(".npy") for n in archive.namelist()[:_SHOWN]) or "nothing"
        raise CorruptDataError(f"{path} holds no array {name!r} ({have})", path=path)
    return file


def map_npz(path: StrPath, name: str) -> npt.NDArray[Any]:
    """An array of an npz, read-only: mapped where it is stored, read where it is compressed.

    Its checksum is not looked at where it is mapped: read it by ``iterate_npz`` first.

    Raises:
        CorruptDataError: as of ``iterate_npz``.   OSError: it cannot be read.
    Memory: the page cache, or the whole array (at most MAX_INFLATED_BYTES, or MAX_INFLATED_RATIO times its bytes).
    """
    with _open_npz(path) as archive:
        file = _named(archive, name, path)
        info = archive.getinfo(file)
        with _member(archive, file) as member:
            array = _read_header(member, file, path)
            header = member.tell()
    size = header + math.prod(array.shape) * array.dtype.itemsize
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size < size:
        return np.concatenate([np.empty((0, *array.shape[1:]), array.dtype), *iterate_npz(path, name)])
    with open_input(path) as raw:
        raw.seek(info.header_offset + _LOCAL_LENGTHS)
        lengths = struct.unpack("<HH", raw.read(4))
    return map_array(path, array.dtype, array.shape, info.header_offset + _LOCAL_LENGTHS + 4 + sum(lengths) + header)


def iterate_npz(path: StrPath, name: str, rows: int = 65_536) -> Iterator[npt.NDArray[Any]]:
    """An array of an npz, stored or compressed, in blocks of ``rows`` rows, or fewer where they are wide.

    Raises:
        CorruptDataError: no npz, no such array, cut off, or its checksum is wrong.   OSError: it cannot be read.
    Memory: a block, at most MAX_BLOCK_BYTES.
    """
    with _open_npz(path) as archive:
        file = _named(archive, name, path)
        try:
            with _member(archive, file) as member:
                array = _read_header(member, file, path)
                left = array.shape[0] if array.shape else 0
                while left:
                    count = min(rows, left, MAX_BLOCK_BYTES // array.row_bytes)
                    data = member.read(count * array.row_bytes)
                    if len(data) != count * array.row_bytes:
                        raise CorruptDataError(f"{path}, {file} is cut off: {left} rows are missing", path=path)
                    left -= count
                    yield np.frombuffer(data, array.dtype).reshape(count, *array.shape[1:])
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise CorruptDataError(f"{path}, {file} is damaged ({error})", path=path) from None
