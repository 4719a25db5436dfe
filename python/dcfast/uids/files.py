"""Files of uids and of uid records; public through ``dcfast.uids``. Formats: docs/formats.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast._core import uids as core_uids
from dcfast.errors import CorruptDataError, DcfastError, SubsetError
from dcfast.storage.atomic import atomic_path
from dcfast.storage.inputs import open_input
from dcfast.storage.mapped import map_array
from dcfast.storage.npz import read_header, save_array, save_scratch

PathLike = str | os.PathLike[str]

UidArray = npt.NDArray[np.void]

#: A uid: high half, low half.
UID_DTYPE = np.dtype([("f0", "<u8"), ("f1", "<u8")])
#: A uid with a 64-bit payload (in a pool index: shard ordinal << 32 | row in the shard).
RECORD_DTYPE = np.dtype([("f0", "<u8"), ("f1", "<u8"), ("f2", "<u8")])


def uid_records(uids: UidArray, payload: npt.NDArray[np.uint64]) -> UidArray:
    """(n,) ``RECORD_DTYPE`` of n uids and their payload."""
    records = np.empty(len(uids), RECORD_DTYPE)
    records["f0"], records["f1"], records["f2"] = uids["f0"], uids["f1"], payload
    return records


MIN_MERGE_BYTES, MIN_MERGE_FILES = 1 << 20, 3
"""Of memory, and of open files: what a merge takes at least."""
_MAGIC = b"\x93NUMPY"
_ROWS_AT_ONCE = 1 << 20
# what people pass by mistake, by its first bytes
_OTHER_KINDS = {b"PK\x03\x04": "a zip archive (.npz?)", b"PAR1": "a parquet file", b"ARROW1": "an Arrow file"}


class ArrayKind(NamedTuple):
    """Uids, or uid records: their dtype, and what the core does with arrays of them.

    Attributes:
        sort: a sorted copy; (array, unique, threads). Of records all are kept.
        first_unsorted: the first index below its predecessor, or the length; (array, threads).
        sort_name: the public function that sorts, for messages.
    """

    dtype: np.dtype[np.void]
    shown: str
    sort: Callable[[UidArray, bool, int], UidArray]
    first_unsorted: Callable[[UidArray, int], int]
    sort_name: str

    def check_sorted(self, array: UidArray, name: str, threads: int = 0) -> None:
        """ValueError where an array is not sorted."""
        at = self.first_unsorted(array, threads)
        if at < len(array):
            advice = f"pass dcfast.uids.{self.sort_name}({name})"
            raise ValueError(f"{name} must be sorted; element {at} is below element {at - 1}: {advice}")


def _sort_records(records: UidArray, unique: bool, threads: int) -> UidArray:
    return core_uids.record_sort(records, threads)


UIDS = ArrayKind(UID_DTYPE, '"u8,u8"', core_uids.uid_sort, core_uids.uid_first_unsorted, "uid_sort")
RECORDS = ArrayKind(RECORD_DTYPE, '"u8,u8,u8"', _sort_records, core_uids.record_first_unsorted, "record_sort")


class MergeReport(NamedTuple):
    """What :func:`merge_runs` did: rows read from the runs, rows in the result, passes over the data."""

    rows_in: int
    rows_out: int
    passes: int


def load_subset(path: PathLike, *, mmap: bool = True, check: bool = True) -> UidArray:
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
    Example: ``len(load_subset("subset.npy")) == 6``
    """
    array = _open_array(path, UIDS, SubsetError, "subset file", raw=True, mmap=mmap)
    if check:
        at = UIDS.first_unsorted(array, 0)
        if at < len(array):
            raise SubsetError(
                f"subset file {os.fspath(path)}: expected uids sorted by high then low half; got {_text(array[at])} at "
                f"row {at} after {_text(array[at - 1])}: load it with check=False and save_subset(path, uid_sort(uids))"
            )
    return array


def open_records(path: PathLike, *, mmap: bool = True, check: bool = False) -> UidArray:
    """The uid records of an ``.npy`` file, as :func:`merge_runs` and :func:`save_records` write them.

    Returns:
        (n,) ``RECORD_DTYPE``, sorted by all three fields; read-only where mapped.

    Raises:
        CorruptDataError: another dtype or shape, truncated; with ``check`` also unsorted.
        OSError: the file is missing or cannot be read.
    """
    array = _open_array(path, RECORDS, CorruptDataError, "record file", raw=False, mmap=mmap)
    if check:
        at = RECORDS.first_unsorted(array, 0)
        if at < len(array):
            raise CorruptDataError(
                f"record file {os.fspath(path)}: expected records sorted by all fields; row {at} is below row {at - 1}",
                path=os.fspath(path),
            )
    return array


def save_subset(path: PathLike, uids: UidArray) -> None:
    """Writes a subset file, atomically; the bytes are those of ``numpy.save`` and depend on the uids alone.

    Args:
        path: replaced where it exists.
        uids: (n,) ``"u8,u8"``, sorted; may be memory-mapped.

    Raises:
        TypeError, ValueError: another dtype, not one-dimensional, not sorted; nothing is written.
        OSError: the file cannot be written; an old file at path stays as it was.
    Cost: O(n): the order is looked at, and the file is written once and fsynced.
    Example: ``save_subset("half.npy", uid_sort(uids[::2]))``
    """
    _save_sorted(path, uids, UIDS, "uids")


def save_records(path: PathLike, records: UidArray) -> None:
    """Writes sorted uid records (``RECORD_DTYPE``) as a run for :func:`merge_runs`; see :func:`save_subset`."""
    _save_sorted(path, records, RECORDS, "records")


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
        with open_input(runs[0]) as file:
            kind = UIDS if read_header(file)[0].dtype == UID_DTYPE else RECORDS
        parts = [_open_array(path, kind, CorruptDataError, "run", raw=False, mmap=True) for path in runs]
    except (OSError, ValueError):
        return None
    if any(kind.first_unsorted(part, 0) < len(part) for part in parts):
        return None
    whole = np.concatenate(parts)
    rows = len(whole)
    whole = kind.sort(whole, unique, 0)
    if unique and kind is RECORDS and rows:
        first = np.ones(rows, np.bool_)
        first[1:] = (whole["f0"][1:] != whole["f0"][:-1]) | (whole["f1"][1:] != whole["f1"][:-1])
        whole = whole[first]
    save_scratch(out, whole)
    return MergeReport(rows, len(whole), 1)


def count_repeats(rows: UidArray) -> int:
    """Rows of sorted uids or records that have the uid of the row before. Memory: a window of a mapped file."""
    count = 0
    for first in range(0, max(len(rows) - 1, 0), _ROWS_AT_ONCE):
        part = rows[first : first + _ROWS_AT_ONCE + 1]
        count += int(((part["f0"][1:] == part["f0"][:-1]) & (part["f1"][1:] == part["f1"][:-1])).sum())
    return count


def borrowable(array: UidArray) -> UidArray:
    """The array itself where the core can borrow it, else a contiguous copy aligned to 8 bytes."""
    view = np.ascontiguousarray(array)
    # NumPy's own flag does not tell: it calls a structured array aligned at any address
    return view.copy() if view.__array_interface__["data"][0] % 8 else view


def _save_sorted(path: PathLike, array: UidArray, kind: ArrayKind, name: str) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != kind.dtype:
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be a NumPy array of dtype {kind.shown}; got {got}")
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional; got shape {array.shape}")
    view = borrowable(array)
    kind.check_sorted(view, name)
    save_array(path, view)


def _open_array(
    path: PathLike, kind: ArrayKind, error: type[DcfastError], what: str, *, raw: bool, mmap: bool
) -> UidArray:
    name = f"{what} {os.fspath(path)}"
    dtype, item = kind.dtype, kind.dtype.itemsize
    with open_input(path) as file:
        size = os.fstat(file.fileno()).st_size
        begins = file.read(len(_MAGIC))
        if begins == _MAGIC or (not raw and size):
            count, offset = _read_header(file, kind, error, name)
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
            for magic, other in _OTHER_KINDS.items():
                if begins.startswith(magic):
                    raise error(f'{name}: expected an .npy file of dtype "u8,u8" or a raw memmap of it; got {other}')
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


def _read_header(file: BinaryIO, kind: ArrayKind, error: type[DcfastError], name: str) -> tuple[int, int]:
    """Number of rows and where they begin."""
    file.seek(0)
    try:
        (shape, dtype), _ = read_header(file)
    except ValueError as cause:
        raise error(
            f"{name}: expected an .npy file of dtype {kind.shown}; got a header that cannot be read ({cause})"
        ) from cause
    if dtype != kind.dtype:
        raise error(
            f"{name}: expected dtype {kind.shown} (little-endian: {kind.dtype.descr}); got {dtype.descr}: "
            f"save it again with numpy.save(path, array.astype({kind.shown}))"
        )
    if len(shape) != 1:
        raise error(f"{name}: expected a one-dimensional array; got shape {shape}: save array.ravel()")
    return int(shape[0]), file.tell()


def _text(uid: np.void) -> str:
    return bytes(core_uids.uid_format(np.array([uid], UID_DTYPE), 1)).decode("ascii")
