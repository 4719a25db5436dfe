"""Boxes of pictures by uid: gathered from metadata once, then looked up by the workers of a reshard.

On disk, in one directory: ``boxes.npy``, (b, 4) f64 x0, y0, x1, y1 as fractions; and ``box_records.npy``, sorted uid
records whose payload is (first box << 16 | number of boxes), one for each row of metadata that has boxes. Both are
mapped, so that neither has to fit in memory.
A row of metadata whose boxes are none that can be blurred has one box of NaN: its sample is never written as it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dcfast.errors import CorruptDataError, PoolError, first_line
from dcfast.index.metadata import check_uid_type, open_metadata, parse_uids, shown_uid
from dcfast.index.pool import list_parquet
from dcfast.index.pool_index import uid_rule
from dcfast.storage.npz import load_array, write_npy
from dcfast.storage.records import Record, read_record
from dcfast.storage.temporary import temporary_folder
from dcfast.uids.files import RECORD_DTYPE, count_repeats
from dcfast.uids.sets import merge_runs, open_records, record_sort, save_records, uid_isin, uid_lookup

if TYPE_CHECKING:
    import pyarrow as pa

    from dcfast.resharding.sources import SegmentItem
    from dcfast.storage.parquet import ParquetFile

Metadata = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
_ROWS_AT_ONCE = 1 << 16
_MOST_BOXES = (1 << 16) - 1
_ROUNDING = 1e-3
"""How far beyond 0..1 a box may reach: the error of float16 near 1."""
_NAMED = 20
"""Refused rows that are told one by one."""


@dataclass
class BoxTable:
    """See the module.

    Attributes:
        records: (n,) "u8,u8,u8".   boxes: (b, 4) f64.
        refused: of a table that was made, not opened: rows of metadata that were refused.
        notes: the same: what was refused, or has no row in the metadata, in words.
    """

    records: NDArray[np.void]
    boxes: NDArray[np.float64]
    refused: int = 0
    notes: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> BoxTable:
        """Maps what ``make_box_table`` wrote. Raises CorruptDataError, OSError or ValueError where it is not that."""
        boxes = load_array(Path(directory) / "boxes.npy", mmap=True)
        if boxes.dtype != np.float64 or boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(
                f"{directory}: boxes.npy must hold (b, 4) float64; got {boxes.dtype} of shape {boxes.shape}"
            )
        return cls(open_records(Path(directory) / "box_records.npy"), boxes)

    def look_up(self, uids: NDArray[np.void]) -> list[NDArray[np.float64] | None]:
        """The boxes of each uid, None where it has none; with NaN where any were refused. Memory: the answer.

        Of a uid with several rows all of their boxes, each once: whichever row knows of a face, it is found.
        """
        boxes_of: list[NDArray[np.float64] | None] = [None] * len(uids)
        first, count = uid_lookup(self.records, np.ascontiguousarray(uids))
        for i in np.flatnonzero(count).tolist():
            rows = self.records["f2"][int(first[i]) : int(first[i]) + int(count[i])].tolist()
            parts = [self.boxes[row >> 16 : (row >> 16) + (row & _MOST_BOXES)] for row in rows]
            boxes = np.concatenate(parts)
            if len(parts) > 1:
                boxes = boxes[np.sort(np.unique(boxes, axis=0, return_index=True)[1])]
            boxes_of[i] = boxes
        return boxes_of


def make_box_table(
    metadata: Metadata, subset: NDArray[np.void], directory: str | os.PathLike[str], uid_from: str = "json"
) -> BoxTable:
    """Gathers the boxes of a subset's uids from metadata with the columns ``uid`` and ``face_bboxes``.

    Args:
        metadata: a directory of parquet files, some of them, or DataComp's map (a json file whose values name a
            ``parquet`` and its ``shards``).
        subset: (s,) "u8,u8" sorted; may be memory-mapped.
        directory: made where missing; the two files in it are replaced.
        uid_from: where the subset's uids come from, see ``open_metadata``: ``url`` or ``key`` stands for ``uid``.
    Returns:
        The table, mapped. A uid that comes more than once has the boxes of all of its rows. Rows with boxes are
        refused, and told in ``refused``, where the uid is none, or a box is not four finite numbers, leaves the picture
        beyond rounding or has its corners swapped.
    Raises:
        PoolError: no files, no such columns; no row is of a uid of the subset: it is the metadata of another pool, or
            of uids by another rule; or all rows with boxes are refused, of two or more: names the file, and the row.
            OSError.
    Memory: 65,536 rows, 24 bytes a row of one file that has boxes, and 256 MiB while runs are merged.
    """
    files = _metadata_files(metadata)
    gathered = _Gathered(subset, uid_from)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(".tmp-boxes-", folder) as work:
        runs = [work / f"{number}.npy" for number in range(len(files))]
        with open(work / "boxes", "wb") as out:
            for path, run in zip(files, runs, strict=True):
                records = [np.empty(0, RECORD_DTYPE)]
                for part, boxes in gathered.read(path):
                    records.append(part)
                    out.write(boxes.tobytes())
                save_records(run, record_sort(np.concatenate(records)))
        merge_runs(runs, folder / "box_records.npy")
        with open(work / "boxes", "rb") as raw:
            write_npy(folder / "boxes.npy", (gathered.boxes, 4), np.float64, _blocks(raw), sync=False)
    table = BoxTable.open(folder)
    table.refused, table.notes = gathered.refused, gathered.conclude()
    return table


def check_uid_rule(segments: Iterable[SegmentItem], uid_from: str) -> None:
    """PoolError where an index says that the uids of its segments are of another rule than those of the boxes.

    Args:
        segments: paths, or objects with a ``path``. Of one outside of an index directory nothing is known.
    """
    items = (item if isinstance(item, (str, os.PathLike)) else getattr(item, "path", "") for item in segments)
    for folder in {path.parent for path in map(Path, items) if path.match("segment-*.dcx")}:
        known = uid_rule(folder)
        if known not in (None, uid_from):
            mend = "refresh the index first" if known == "mixed" else f"give uid_from={known!r}"
            raise PoolError(
                f"boxes: the uids of the index in {folder} come from {known}, but uid_from is {uid_from!r}, by which "
                f"faces would not be found: {mend}"
            )


_RULES = {
    "json": "with the uids of the samples' json in its column uid (uids that are made of what is there: uid_from)",
    "url": "with the urls that the uids are made of",
    "key": "with the keys that the uids are made of, in files named like the shards (00000.parquet of 00000.tar)",
}
_MENDS = {
    "uid": "Faces are found by uid: expected uids of 32 hex digits, no dashes (uid_from makes them of others)",
    "box": "Boxes must be [x0, y0, x1, y1] as fractions of width and height, x0 < x1 and y0 < y1",
}


def _blocks(raw: BinaryIO) -> Iterator[NDArray[np.float64]]:
    while len(block := np.fromfile(raw, np.float64, 4 * _ROWS_AT_ONCE)):
        yield block.reshape(-1, 4)


def _metadata_files(metadata: Metadata) -> list[Path]:
    if not isinstance(metadata, (str, os.PathLike)):
        files = [Path(item) for item in metadata]
    elif Path(metadata).is_dir():
        files = [Path(metadata, name) for name in list_parquet(metadata)]
    elif os.fspath(metadata).endswith(".json"):
        files = _files_of_map(Path(metadata))
    else:
        files = [Path(metadata)]
    if not files:
        raise PoolError(f"boxes: no parquet files in {metadata}; give the folder of the pool's metadata")
    return files


class _MapEntry(Record):
    """Of DataComp's map of metadata: a file, relative to the map. The shards that it is of are not needed."""

    parquet: str


def _files_of_map(path: Path) -> list[Path]:
    try:
        entries = read_record(path, dict[str, _MapEntry], names=False)
    except CorruptDataError as error:
        raise PoolError(
            f"boxes: {first_line(error)}; it is no map of metadata: expected a json object whose values have "
            '"parquet" and "shards", as in {"0": {"parquet": "00000.parquet", "shards": ["00000.tar"]}}'
        ) from error
    return [path.parent / file for file in dict.fromkeys(entry.parquet for entry in entries.values())]


def _open(path: Path, uid_from: str) -> ParquetFile:
    try:
        return open_metadata(path, uid_from)
    except PoolError as error:
        if error.__cause__ is None:  # it is one, but lacks what the uids are made of
            raise PoolError(f"boxes: {error}") from error
        raise PoolError(f"boxes: {path} is not a parquet file: {error.__cause__}; download it again") from error


@dataclass
class _Gathered:
    """The boxes of metadata as they are read, file by file, and what was refused of the rows with boxes."""

    subset: NDArray[np.void]
    uid_from: str
    boxes: int = 0
    rows_read: int = 0
    listed: int = 0  # rows of a uid of the subset, with boxes or without
    rows: int = 0  # with boxes, of the subset or without a uid
    refused: int = 0
    nameless: int = 0  # of those refused, the rows whose uid is none
    named: list[str] = field(default_factory=list)

    def read(self, path: Path) -> Iterator[tuple[NDArray[np.void], NDArray[np.float64]]]:
        """(records, boxes) of the rows of a file that are in the subset and have boxes, part by part."""
        row = 0
        with _open(path, self.uid_from) as file:
            if missing := {"uid", "face_bboxes"} - set(file.schema.names):
                raise PoolError(
                    f"boxes: {path} has no column {', '.join(sorted(missing))}; got {file.schema.names}. "
                    "Give the pool's metadata, whose rows have them"
                )
            check_uid_type(file)
            for batch in file.batches(["uid", "face_bboxes"], _ROWS_AT_ONCE):
                part = self._part(batch, path, row)
                row += len(batch)
                if len(part[0]):
                    yield part

    def _part(self, batch: pa.RecordBatch, path: Path, row: int) -> tuple[NDArray[np.void], NDArray[np.float64]]:
        uids, valid = parse_uids(batch)
        count, boxes = _columns(batch, path, row)
        nameless = (count > 0) & ~valid
        listed = valid & uid_isin(uids, self.subset, check=False)
        chosen = (count > 0) & listed
        owner = np.repeat(np.arange(len(count)), count)
        why = _complaints(boxes)
        bad = np.zeros(len(count), np.bool_)
        bad[owner[why > 0]] = True
        failed = np.flatnonzero(nameless | (bad & chosen))
        self.rows_read += len(batch)
        self.listed += int(listed.sum())
        self.rows += int((nameless | chosen).sum())
        self.refused += len(failed)
        self.nameless += int(nameless.sum())
        for i in failed[: _NAMED - len(self.named)].tolist():
            complaint = self._uid_complaint(batch, i) if nameless[i] else _box_complaint(batch, i, why[owner == i])
            self.named.append(f"boxes: {path}, row {row + i}: {complaint}")
        # a row with a bad box keeps its first place alone, as NaN
        place = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        boxes[bad[owner]] = np.nan
        taken = boxes[chosen[owner] & (~bad[owner] | (place == 0))]
        kept = np.where(bad, 1, count)[chosen]
        records = np.empty(len(kept), RECORD_DTYPE)
        records["f0"], records["f1"] = uids["f0"][chosen], uids["f1"][chosen]
        begins = (self.boxes + np.cumsum(kept) - kept).astype(np.uint64)
        records["f2"] = begins << np.uint64(16) | kept.astype(np.uint64)
        self.boxes += len(taken)
        return records, np.clip(taken, 0.0, 1.0)  # what is beyond is rounding; NaN stays

    def _uid_complaint(self, batch: pa.RecordBatch, row: int) -> str:
        if self.uid_from != "json":
            return f"it has no {self.uid_from} to make a uid of"
        return f"its uid is not 32 hex digits: {shown_uid(batch, row)!r:.80}"

    def conclude(self) -> list[str]:
        """Notes on all that was read; PoolError where it is of no use."""
        if self.refused >= 2 and self.refused == self.rows:
            raise PoolError(
                f"boxes: all {self.refused:,} rows with boxes are refused; the first: {self.named[0]}. "
                + _MENDS["uid" if self.nameless == self.refused else "box"]
            )
        notes = list(self.named)
        if more := self.refused - len(notes):
            notes.append(f"boxes: {more:,} more rows were refused")
        absent = len(self.subset) - count_repeats(self.subset) - self.listed
        if absent > 0 and not self.listed:
            raise PoolError(
                f"boxes: none of the {self.rows_read:,} rows of the metadata, with faces or without, is of a uid of "
                f"the subset, so that no face could be found; expected the metadata of the pool, "
                + _RULES[self.uid_from]
            )
        if absent > 0:
            notes.append(
                f"boxes: {absent:,} or more uids of the subset have no row in the metadata: faces in their pictures "
                "stay as they are"
            )
        return notes


_COMPLAINTS = (
    "",
    "is not four finite numbers",
    "leaves the picture: expected fractions of 0 to 1",
    "has its corners swapped",
    "has no area inside the picture",
)


def _box_complaint(batch: pa.RecordBatch, row: int, why: NDArray[np.uint8]) -> str:
    """Of the first bad box of a row: ``why`` is which of ``_COMPLAINTS`` is true of each of its boxes."""
    first = int(np.flatnonzero(why)[0])
    # as it was written: the array has NaN for what is no number
    return f"box {batch.column('face_bboxes')[row].as_py()[first]!r:.200} {_COMPLAINTS[why[first]]}"


def _complaints(boxes: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(b,) which of ``_COMPLAINTS`` is true of each box, 0 for none."""
    with np.errstate(invalid="ignore"):
        swapped = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
        inside = np.clip(boxes, 0.0, 1.0)
        empty = (inside[:, 2] <= inside[:, 0]) | (inside[:, 3] <= inside[:, 1])
        outside = ((boxes < -_ROUNDING) | (boxes > 1 + _ROUNDING)).any(axis=1)
    finite = np.isfinite(boxes).all(axis=1)
    return np.select([~finite, outside, swapped, empty], [1, 2, 3, 4], 0).astype(np.uint8)


def _columns(batch: pa.RecordBatch, path: Path, row: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The number of boxes of each row, and all boxes; NaN for what is not four numbers."""
    import pyarrow as pa

    lists = batch.column("face_bboxes")
    try:
        lists = lists.cast(pa.list_(pa.list_(pa.float64())))
        outer = lists.flatten()
        count = np.asarray(lists.value_lengths().fill_null(0)).astype(np.int64)
        inner = np.asarray(outer.value_lengths().fill_null(0)).astype(np.int64)
        numbers = np.asarray(outer.flatten()).astype(np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, AttributeError) as error:
        raise PoolError(
            f"boxes: {path}: face_bboxes must be lists of [x0, y0, x1, y1]; got {lists.type}: write the column so"
        ) from error
    if len(count) and int(count.max()) > _MOST_BOXES:
        raise PoolError(f"boxes: {path}, rows {row} and on: more than {_MOST_BOXES} boxes in one row")
    boxes = np.full((len(inner), 4), np.nan)
    four = inner == 4
    boxes[four] = numbers[(np.cumsum(inner) - inner)[four][:, None] + np.arange(4)]
    return count, boxes
