"""Files of uids and of uid records; public through ``dcfast.uids``. Formats: docs/formats.md."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast._core import uids as core_uids
from dcfast.errors import CorruptDataError, DcfastError, SubsetError
from dcfast.storage.atomic import atomic_path
from dcfast.storage.inputs import open_input
from dcfast.storage.listing import temporary_name
from dcfast.storage.mapped import map_array
from dcfast.storage.npz import read_header, save_array, save_scratch

PathLike = str | os.PathLike[str]

#: A uid: high half, low half.
UID_DTYPE = np.dtype([("f0", "<u8"), ("f1", "<u8")])
#: A uid with a 64-bit payload (in a pool index: shard ordinal << 32 | row in the shard).
RECORD_DTYPE = np.dtype([("f0", "<u8"), ("f1", "<u8"), ("f2", "<u8")])

MIN_MERGE_BYTES, MIN_MERGE_FILES = 1 << 20, 3
"""Of memory, and of open files: what a merge takes at least."""
_MAGIC = b"\x93NUMPY"
_ROWS_AT_ONCE = 1 << 20
# what people pass by mistake, by its first bytes
_OTHER_KINDS = {b"PK\x03\x04": "a zip archive (.npz?)", b"PAR1": "a parquet file", b"ARROW1": "an Arrow file"}


class MergeReport(NamedTuple):
    """What :func:`merge_runs` did: rows read from the runs, rows in the result, passes over the data."""

    rows_in: int
    rows_out: int
    passes: int


def load_subset(path: PathLike, *, mmap: bool = True, check: bool = True) -> npt.NDArray[Any]:
    """The uids of a subset file: an ``.npy`` of dtype ``"u8,u8"``, or a raw memmap of the same records.

    Args:
        path: a local file. What begins with NumPy's magic bytes is read as ``.npy``, anything else as raw.
        mmap: map the file read-only rather than reading it into memory. Where somebody cuts it meanwhile,
            CorruptDataError is raised at the next step (``dcfast.storage.mapped``).
        check: make sure that the uids are sorted, which reads all of them. Without it a file that is
            neither ``.npy`` nor uids, but a multiple of 16 bytes long, cannot be told from a subset.

    Returns:
        (n,) ``"u8,u8"``, sorted; read-only where mapped. Repeats are kept: the sample is meant that often.

    Raises:
        SubsetError: another dtype or shape, unsorted, truncated, followed by other bytes, empty.
        OSError: the file is missing or cannot be read.

    Memory: none but the page cache where mapped, else 16 bytes a uid. Pickles are never loaded.
    Source: docs/formats.md, DataComp's README "subset file".
    """
    array = _open_array(path, UID_DTYPE, SubsetError, "subset file", raw=True, mmap=mmap)
    if check:
        at = core_uids.uid_first_unsorted(array, 0)
        if at < len(array):
            raise SubsetError(
                f"subset file {os.fspath(path)}: expected uids sorted by high then low half; got {_text(array[at])} at "
                f"row {at} after {_text(array[at - 1])}: load it with check=False and save_subset(path, uid_sort(uids))"
            )
    return array


def open_records(path: PathLike, *, mmap: bool = True, check: bool = False) -> npt.NDArray[Any]:
    """The uid records of an ``.npy`` file, as :func:`merge_runs` and :func:`save_records` write them.

    Returns:
        (n,) ``RECORD_DTYPE``, sorted by all three fields; read-only where mapped.

    Raises:
        CorruptDataError: another dtype or shape, truncated; with ``check`` also unsorted.
        OSError: the file is missing or cannot be read.
    """
    array = _open_array(path, RECORD_DTYPE, CorruptDataError, "record file", raw=False, mmap=mmap)
    if check:
        at = core_uids.record_first_unsorted(array, 0)
        if at < len(array):
            raise CorruptDataError(
                f"record file {os.fspath(path)}: expected records sorted by all fields; row {at} is below row {at - 1}",
                path=os.fspath(path),
            )
    return array


def save_subset(path: PathLike, uids: npt.NDArray[Any]) -> None:
    """Writes a subset file, atomically; the bytes are those of ``numpy.save`` and depend on the uids alone.

    Args:
        path: replaced where it exists.
        uids: (n,) ``"u8,u8"``, sorted; may be memory-mapped.

    Raises:
        TypeError, ValueError: another dtype, not one-dimensional, not sorted; nothing is written.
        OSError: the file cannot be written; an old file at path stays as it was.
    """
    _save_sorted(path, uids, UID_DTYPE, '"u8,u8"', "uids", "uid_sort", core_uids.uid_first_unsorted)


def save_records(path: PathLike, records: npt.NDArray[Any]) -> None:
    """Writes sorted uid records (``RECORD_DTYPE``) as a run for :func:`merge_runs`; see :func:`save_subset`."""
    _save_sorted(path, records, RECORD_DTYPE, '"u8,u8,u8"', "records", "record_sort", core_uids.record_first_unsorted)


def merge_runs(
    run_paths: Sequence[PathLike],
    out_path: PathLike,
    *,
    unique: bool = False,
    memory_bytes: int = 256 << 20,
    max_open_files: int = 256,
) -> MergeReport:
    """Merges sorted ``.npy`` files of uids, or of uid records, into one sorted file, in bounded memory.

    Args:
        run_paths: at least one; all of one dtype, each sorted, which is checked while they are read.
        out_path: replaced atomically; may be one of the runs.
        unique: keep one element for each uid: of records the one with the smallest payload.
        memory_bytes: for all buffers together; at least 1 MiB.
        max_open_files: at once; at least 3.

    Returns:
        The numbers of rows read and written, and of passes over the data.

    Raises:
        CorruptDataError: a run is unsorted, truncated or of another dtype; names it, with the offset.
        ValueError: no runs, or an option out of range.   OSError: a file cannot be read or written.

    Memory: memory_bytes. Disk: where runs are more than fit at once (255, or memory_bytes / 64 KiB - 2),
    intermediate files beside out_path need once more the size of the data. The result's bytes depend on the
    elements alone. A killed merge leaves ``.tmp-*`` files beside out_path, which
    ``dcfast.storage.atomic.remove_leftovers`` clears. Cost: one sequential read and write of the data a pass.
    """
    if isinstance(run_paths, (str, bytes, os.PathLike)):
        raise TypeError("run_paths must be a sequence of paths; got one path")
    paths = [os.fsencode(path) for path in run_paths]
    with atomic_path(out_path) as temporary:
        if memory_bytes >= MIN_MERGE_BYTES and max_open_files >= MIN_MERGE_FILES:
            whole = _merge_in_memory(run_paths, temporary, unique, memory_bytes)
            if whole is not None:
                return whole
        return MergeReport(
            *core_uids.uid_merge_runs(paths, os.fsencode(temporary), unique, int(memory_bytes), int(max_open_files))
        )


def _merge_in_memory(runs: Sequence[PathLike], out: Path, unique: bool, memory_bytes: int) -> MergeReport | None:
    """The same for runs that fit the memory three times: sorted anew, by all cores, in a fraction of a merge's time.

    None where they do not fit, or something is wrong with one of them: the merge then says what.
    """
    size = sum(os.stat(path).st_size for path in runs if os.path.isfile(path))
    if not 0 < 3 * size <= memory_bytes:
        return None
    try:
        dtype = _open_dtype(runs[0])
        parts = [_open_array(path, dtype, CorruptDataError, "run", raw=False, mmap=True) for path in runs]
    except (OSError, ValueError):
        return None
    is_uids = dtype == UID_DTYPE
    first_unsorted = core_uids.uid_first_unsorted if is_uids else core_uids.record_first_unsorted
    if any(first_unsorted(part, 0) < len(part) for part in parts):
        return None
    whole = np.concatenate(parts)
    rows = len(whole)
    whole = core_uids.uid_sort(whole, unique, 0) if is_uids else core_uids.record_sort(whole, 0)
    if unique and not is_uids and rows:
        first = np.ones(rows, np.bool_)
        first[1:] = (whole["f0"][1:] != whole["f0"][:-1]) | (whole["f1"][1:] != whole["f1"][:-1])
        whole = whole[first]
    save_scratch(out, whole)
    return MergeReport(rows, len(whole), 1)


def _open_dtype(path: PathLike) -> np.dtype[Any]:
    """Of a run: of uids or of records, by its header; ValueError for anything else."""
    with open_input(path) as file:
        array, _ = read_header(file)
    if array.dtype not in (UID_DTYPE, RECORD_DTYPE):
        raise ValueError(f"{array.dtype} is not that of a run")
    return array.dtype


def external_sort(
    array: npt.NDArray[Any],
    out_path: PathLike,
    *,
    unique: bool = False,
    memory_bytes: int = 256 << 20,
    threads: int = 0,
) -> MergeReport:
    """Sorts uids or uid records that may be larger than memory (a memmap) into an ``.npy`` file.

    Args:
        array: (n,) ``UID_DTYPE`` or ``RECORD_DTYPE``, in any order.
        out_path, unique, memory_bytes: as :func:`merge_runs`; at least 1 MiB.

    Returns:
        As :func:`merge_runs`.

    Raises:
        TypeError, ValueError: another dtype, not one-dimensional.   OSError: a file cannot be written.

    Memory: memory_bytes for uids that are hashes (a slice, its sorted copy and a scratch of at most as much).
    Disk: runs in ``.tmp-*`` files beside out_path, as large as the array, until the merge is done.
    """
    if array.dtype not in (UID_DTYPE, RECORD_DTYPE):
        raise TypeError(f'array must have dtype "u8,u8" or "u8,u8,u8"; got {array.dtype}')
    if array.ndim != 1:
        raise ValueError(f"array must be one-dimensional; got shape {array.shape}")
    if memory_bytes < 1 << 20:
        raise ValueError(f"memory_bytes must be at least {1 << 20}; got {memory_bytes}")
    final = Path(out_path)
    final.parent.mkdir(parents=True, exist_ok=True)
    is_uids = array.dtype == UID_DTYPE
    rows = memory_bytes // (3 * array.dtype.itemsize)
    runs: list[Path] = []
    try:
        for begin in range(0, max(1, len(array)), rows):
            part = borrowable(array[begin : begin + rows])
            part = core_uids.uid_sort(part, unique, threads) if is_uids else core_uids.record_sort(part, threads)
            runs.append(final.with_name(temporary_name(f"{final.name}.run{len(runs)}")))
            save_scratch(runs[-1], part)
        report = merge_runs(runs, final, unique=unique, memory_bytes=memory_bytes)
    finally:
        for run in runs:
            run.unlink(missing_ok=True)
    return report._replace(rows_in=len(array))


def count_repeats(rows: npt.NDArray[Any]) -> int:
    """Rows of sorted uids or records that have the uid of the row before. Memory: a window of a mapped file."""
    count = 0
    for first in range(0, max(len(rows) - 1, 0), _ROWS_AT_ONCE):
        part = rows[first : first + _ROWS_AT_ONCE + 1]
        count += int(((part["f0"][1:] == part["f0"][:-1]) & (part["f1"][1:] == part["f1"][:-1])).sum())
    return count


def borrowable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself where the core can borrow it, else a contiguous copy aligned to 8 bytes."""
    view = np.ascontiguousarray(array)
    # NumPy's own flag does not tell: it calls a structured array aligned at any address
    return view.copy() if view.__array_interface__["data"][0] % 8 else view


def _save_sorted(
    path: PathLike,
    array: npt.NDArray[Any],
    dtype: np.dtype[Any],
    shown: str,
    name: str,
    function: str,
    first_unsorted: Any,
) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be a NumPy array of dtype {shown}; got {got}")
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional; got shape {array.shape}")
    view = borrowable(array)
    at = first_unsorted(view, 0)
    if at < len(view):
        raise ValueError(
            f"{name} must be sorted; element {at} is below element {at - 1}: pass dcfast.uids.{function}({name})"
        )
    save_array(path, view)


def _open_array(
    path: PathLike, dtype: np.dtype[Any], error: type[DcfastError], what: str, *, raw: bool, mmap: bool
) -> npt.NDArray[Any]:
    name = f"{what} {os.fspath(path)}"
    item = dtype.itemsize
    with open_input(path) as file:
        size = os.fstat(file.fileno()).st_size
        begins = file.read(len(_MAGIC))
        if begins == _MAGIC or (not raw and size):
            count, offset = _read_header(file, dtype, error, name)
            if size != offset + count * item:
                wrong = "truncated: write it again" if size < offset + count * item else "followed by other bytes"
                raise error(
                    f"{name}: its header says {count} rows, which are {offset + count * item} bytes; the file has "
                    f"{size}: it is {wrong}"
                )
        elif size == 0:
            raise error(
                f"{name}: expected an .npy file; got 0 bytes: an empty one has a header (save_subset writes it)"
            )
        else:
            for magic, kind in _OTHER_KINDS.items():
                if begins.startswith(magic):
                    raise error(f'{name}: expected an .npy file of dtype "u8,u8" or a raw memmap of it; got {kind}')
            if size % item:
                raise error(
                    f'{name}: expected an .npy file of dtype "u8,u8", or a raw memmap of it with {item} bytes a uid; '
                    f"got no .npy header and {size} bytes, which is {size % item} more than a multiple of {item}"
                )
            count, offset = size // item, 0
        if count == 0:
            return np.empty(0, dtype)
        if not mmap:
            file.seek(offset)
            array = np.fromfile(file, dtype, count)
            if len(array) != count:
                raise error(f"{name}: ended while it was read, after {len(array)} of {count} rows")
            return array
    return map_array(path, dtype, (count,), offset)


def _read_header(file: Any, dtype: np.dtype[Any], error: type[DcfastError], name: str) -> tuple[int, int]:
    """Number of rows and where they begin."""
    file.seek(0)
    shown = '"u8,u8"' if dtype == UID_DTYPE else '"u8,u8,u8"'
    try:
        (shape, found), _ = read_header(file)
    except ValueError as cause:
        raise error(
            f"{name}: expected an .npy file of dtype {shown}; got a header that cannot be read ({cause})"
        ) from cause
    if found != dtype:
        raise error(
            f"{name}: expected dtype {shown} (little-endian: {dtype.descr}); got {found.descr}: "
            f"save it again with numpy.save(path, array.astype({shown}))"
        )
    if len(shape) != 1:
        raise error(f"{name}: expected a one-dimensional array; got shape {shape}: save array.ravel()")
    return int(shape[0]), file.tell()


def _text(uid: Any) -> str:
    return bytes(core_uids.uid_format(np.array([uid], UID_DTYPE), 1)).decode("ascii")
