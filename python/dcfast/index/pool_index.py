"""``PoolIndex``: the index of a pool in a directory, asked by uid.

The files are those of the stage ``index`` (docs/formats.md, "The run directory"): ``segment-NNNNN.dcx``, ``pool.npy``
and, written last, ``index.json``. ``dcfast.refresh_index`` makes them, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.errors import CorruptDataError, PoolError
from dcfast.index.rows import FLAGS_WITHOUT_UID, make_row_ids, sample_records, split_row_ids
from dcfast.index.segments import Segment
from dcfast.index.streams import record_stream
from dcfast.storage.json_files import read_json
from dcfast.storage.npz import save_scratch
from dcfast.storage.paths import absolute, is_url
from dcfast.storage.pickled import FileState, check_state, file_state, reduced
from dcfast.storage.records import Count, Record, as_record, read_record
from dcfast.storage.temporary import temporary_folder
from dcfast.uids.sets import RECORD_DTYPE, MergeReport, merge_runs, open_records, record_sort, uid_format, uid_lookup

PathLike = str | os.PathLike[str]
MissingUids = Literal["raise", "skip"]

UIDS_NOTE = ".uids.json"
"""Says, while ``index.json`` is away, that the uids are not those of the json, or not all of one kind."""
_ROWS_AT_ONCE = 1 << 18
_FILES = ("index.json", "pool.npy")


class UidRule(Record):
    """Where the uids of an index come from, of ``UID_SOURCES``; ``mixed``: a stopped refresh left several."""

    uid_from: str = "json"


class IndexLayout(Record, omit_defaults=True):
    """``index.json``: the number of shards, and the first and the number of those of each segment; see ``UidRule``."""

    shards: Count
    segments: list[tuple[Count, Count]]
    uid_from: str | None = None


class PoolRows(NamedTuple):
    """The rows of n uids, r in all: those of one uid in the order of the pool, uid after uid as asked.

    Attributes:
        shard: (r,) u32 ordinals of the shards.   row: (r,) u32 sample in the shard, from 0.
        counts: (n,) i64 rows of each uid; 0 where the pool has none.
    """

    shard: npt.NDArray[np.uint32]
    row: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.int64]

    @property
    def row_ids(self) -> npt.NDArray[np.uint64]:
        """(r,) u64 ``shard << 32 | row``, as ``dcfast.read_members`` takes them."""
        return make_row_ids(self.shard, self.row)


def check_missing(missing: object) -> None:
    """ValueError where this is no ``MissingUids``."""
    if missing not in ("raise", "skip"):
        raise ValueError(f"missing must be 'raise' or 'skip'; got {missing!r}: use one of these")


def refuse_missing(uids: npt.NDArray[np.void], counts: npt.NDArray[np.int64], missing: MissingUids) -> None:
    """PoolError, with ``missing="raise"``, where one of some uids has no row."""
    check_missing(missing)
    if missing == "skip" or counts.all():
        return
    absent = np.flatnonzero(counts == 0)
    [text] = uid_format(np.ascontiguousarray(uids[absent[:1]]), as_list=True, threads=1)
    raise PoolError(
        f"uid {text} is in no whole sample of the pool ({len(absent)} of {len(counts)} looked up together); "
        "pass missing='skip' to go on without"
    )


class PoolIndex:
    """uid -> every (shard, row) that has it, from a sorted file that is mapped, not read.

    Attributes:
        folder: the index directory.   records: (rows,) sorted records of uid and row id, mapped.
        segment_first_shard: ordinals at which the segments begin, and the number of shards.

    Rows without a readable uid are not in it; rows in which their shard is cut off are (``Segment.flags`` tells, and
    ``dcfast.PoolReader.find`` leaves them out). It goes to another process as the path of its directory, in which
    ``index.json`` and ``pool.npy`` have to be as they were when it was opened.
    Example: ``PoolIndex.open("index").find(uids).row_ids``
    """

    def __init__(self, folder: Path, records: npt.NDArray[np.void], segment_first_shard: list[int]) -> None:
        self.folder = folder
        self.records = records
        self.segment_first_shard = segment_first_shard
        self._states: list[FileState | None] | None = None

    @classmethod
    def open(cls, index_dir: PathLike, *, verify: bool = False) -> PoolIndex:
        """Opens an index directory, or a run directory with ``index`` in it.

        Args:
            verify: check that the records are sorted, which reads them once.
        Raises:
            PoolError: no finished index there.   CorruptDataError: a file that is not what its format says.
        Memory: none but the page cache.   Cost: O(segments).
        """
        folder = index_folder(index_dir)
        states = [file_state(folder / name) for name in _FILES]
        layout = _read_layout(folder / "index.json")
        records = open_records(folder / "pool.npy", check=verify)
        index = cls(folder, records, layout)
        index._states = states
        return index

    def __reduce__(self) -> tuple[Callable[..., PoolIndex], tuple[Any, ...]]:
        if self._states is None:  # made of arrays, not of files
            return reduced("PoolIndex", PoolIndex, self.folder, np.asarray(self.records), self.segment_first_shard)
        return reduced("PoolIndex", _opened_again, absolute(self.folder), self._states)

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"<PoolIndex {str(self.folder)!r}: {self.num_shards} shards, {len(self)} rows with uid>"

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The rows, sorted by uid, by Arrow's C interface: ``polars.DataFrame(index)``, ``pyarrow.table(index)``.

        Columns uid (fixed_size_binary(16)), shard and row (u32), as ``find`` has them.
        Memory: of a batch of 262,144 rows, 80 bytes each.   Cost: each row is copied once.
        """
        return record_stream(self.records).__arrow_c_stream__(requested_schema)

    @property
    def num_shards(self) -> int:
        return self.segment_first_shard[-1]

    def find(
        self, uids: npt.NDArray[np.void], *, missing: MissingUids = "skip", threads: int | None = None
    ) -> PoolRows:
        """All rows of each of some uids.

        Args:
            uids: (n,) "u8,u8" in any order, repeats allowed; see ``dcfast.uid_parse``.
            missing: uids that the pool has not: 'skip', or 'raise': a PoolError that names the first.
            threads: None = one per core; the answer does not depend on it.
        Raises:
            TypeError, ValueError: uids is not a one-dimensional "u8,u8" array.
        Memory: 40 bytes a uid, 24 a row, and at most 72 MiB.   Cost: one or two cache misses a uid: a million in well
        under a second where the file is in the page cache.   GIL: released in the search.
        """
        first, count = uid_lookup(self.records, uids, threads=threads)
        refuse_missing(uids, count, missing)
        if len(count) and int(count.max()) <= 1:  # nearly always: no uid twice
            at = first[count > 0]
        else:
            total = np.cumsum(count)
            at = np.arange(int(total[-1]) if len(total) else 0) + np.repeat(first - (total - count), count)
        return PoolRows(*split_row_ids(self.records["f2"][at]), count)

    def contains(self, uids: npt.NDArray[np.void], *, threads: int | None = None) -> npt.NDArray[np.bool_]:
        """(n,) bool: whether the pool has each uid; otherwise as ``find``."""
        return uid_lookup(self.records, uids, threads=threads)[1] > 0

    @cached_property
    def shard_names(self) -> list[str]:
        """Names of the shards by ordinal. Memory: the names; read from the segments when first asked for."""
        names: list[str] = []
        for number, first in enumerate(self.segment_first_shard[:-1]):
            path = self.folder / segment_name(number)
            segment = Segment.open(path, verify=False)
            if segment.num_shards != self.segment_first_shard[number + 1] - first:
                raise CorruptDataError(
                    f"{path}: not the segment that index.json lists; refresh the index", path=str(path)
                )
            names += segment.shard_names
        return names


def _opened_again(folder: str, states: list[FileState | None]) -> PoolIndex:
    index = PoolIndex.open(folder)
    for name, state in zip(_FILES, states, strict=True):
        check_state(index.folder / name, state)
    return index


def build_pool_records(
    segments: Iterable[Segment | PathLike],
    out_path: PathLike,
    *,
    memory_bytes: int = 256 << 20,
    threads: int | None = None,
) -> MergeReport:
    """Writes the sorted (uid, row id) records of segments: ``pool.npy``. Out of core.

    Args:
        segments: in pool order; shard ordinals count over them. Opened one after the other.
        out_path: replaced atomically. Its bytes depend on the segments alone.
        memory_bytes: for everything held beside mapped files; at least 4 MiB.
    Raises:
        ValueError: memory_bytes too small.   OSError: a file cannot be written.
    Disk: sorted runs in a ``.tmp-*`` directory beside out_path, 24 bytes a row, until the merge is done.
    Cost: one sort of runs of memory_bytes / 3 and one merge.
    """
    if memory_bytes < 4 << 20:
        raise ValueError(f"memory_bytes must be at least {4 << 20}; got {memory_bytes}")
    final = Path(out_path)
    final.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(".tmp-runs-", final.parent) as folder:
        runs = _Runs(folder, memory_bytes // (3 * RECORD_DTYPE.itemsize), threads)
        first_shard = 0
        for item in segments:
            segment = Segment.open(item, verify=False) if isinstance(item, (str, os.PathLike)) else item
            runs.add(segment, first_shard)
            first_shard += segment.num_shards
        runs.flush()
        paths = runs.paths
        del runs  # its buffer: the merge has one of its own
        return merge_runs(paths, final, memory_bytes=memory_bytes)


class _Runs:
    """Collects records and writes them, sorted, as run files of a fixed number of rows."""

    def __init__(self, folder: Path, rows: int, threads: int | None) -> None:
        self.paths: list[Path] = []
        self._folder = folder
        self._threads = threads
        self._buffer = np.empty(rows, RECORD_DTYPE)
        self._used = 0

    def add(self, segment: Segment, first_shard: int) -> None:
        at = 0
        while at < segment.num_samples:
            # the columns are mapped: only this slice of them is touched
            last = min(segment.num_samples, at + min(_ROWS_AT_ONCE, len(self._buffer) - self._used))
            usable = at + np.flatnonzero((segment.flags[at:last] & FLAGS_WITHOUT_UID) == 0)
            self._buffer[self._used : self._used + len(usable)] = sample_records(segment, first_shard, usable)
            self._used += len(usable)
            at = last
            if self._used == len(self._buffer):
                self.flush()

    def flush(self) -> None:
        if self._used or not self.paths:
            self.paths.append(self._folder / f"{len(self.paths):05d}.npy")
            save_scratch(self.paths[-1], record_sort(self._buffer[: self._used], threads=self._threads))
        self._used = 0


def uid_rule(folder: Path) -> str | None:
    """The rule of the uids of an index directory, see ``UidRule``. None: neither file is there.

    By ``index.json``; of a half exchanged index by the note that was left for it.
    """
    for name in ("index.json", UIDS_NOTE):
        try:
            value = read_json(folder / name, names=True)
        except (OSError, ValueError):
            continue
        rule: UidRule = as_record(value, UidRule, str(folder / name))
        return rule.uid_from
    return None


def index_folder(index_dir: PathLike) -> Path:
    """The directory itself, or ``index`` in it where that is a run directory. PoolError: a URL."""
    if is_url(index_dir):
        raise PoolError(
            f"{index_dir}: expected a directory with an index, got a URL: copy the index here; its shards may stay "
            "there"
        )
    folder = Path(index_dir)
    return folder / "index" if (folder / "index").is_dir() else folder


def segment_name(number: int) -> str:
    """The file name of a segment in an index directory."""
    return f"segment-{number:05d}.dcx"


_FOREIGN = "is not of this index; remove it, or make the index whole with refresh_index"


def check_layout(folder: Path, segments: list[Path]) -> None:
    """Makes sure that the segment files of an index directory are those of its ``index.json``, where it has one.

    Raises:
        PoolError: segments are missing or too many, or a refresh was stopped between the files.
        CorruptDataError: ``index.json`` is none.
    """
    layout = folder / "index.json"
    if layout.exists():
        expected = {segment_name(n) for n in range(len(_read_layout(layout)) - 1)}
        present = {path.name for path in segments}
        if present != expected:
            odd = sorted(present ^ expected)[0]
            is_missing = odd in expected
            what = "is missing; make it whole with refresh_index, or the run again" if is_missing else _FOREIGN
            raise PoolError(f"pool index {folder}: {odd} {what}")
    elif (folder / ".lock").exists():
        raise PoolError(f"no finished pool index in {folder}: a refresh was stopped; complete it with refresh_index")


def _read_layout(path: Path) -> list[int]:
    """Ordinals at which the segments begin, and the number of shards."""
    try:
        layout = read_record(path, IndexLayout, advice="refresh the index")
    except FileNotFoundError:
        raise PoolError(f"no finished pool index in {path.parent}: make or complete it with refresh_index") from None
    first, problem = [0], ""
    for begin, count in layout.segments:
        if begin != first[-1] or count < 1:
            problem = f"a segment of {count} shards begins at {begin}, expected {first[-1]}"
            break
        first.append(first[-1] + count)
    if not problem and layout.shards != first[-1]:
        problem = f"shards is {layout.shards}, the segments have {first[-1]}"
    if problem:
        raise CorruptDataError(f"{path}: not an index layout: {problem}; refresh the index", path=str(path))
    return first
