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
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dcfast.errors import PoolError, first_line
from dcfast.index.metadata import check_uid_type, open_metadata, parse_uids, shown_uid
from dcfast.index.pool import list_parquet
from dcfast.index.pool_index import uid_rule
from dcfast.storage.json_files import read_json
from dcfast.storage.listing import temporary_name
from dcfast.storage.npz import load_array, write_npy
from dcfast.uids.files import count_repeats
from dcfast.uids.sets import merge_runs, open_records, record_sort, save_records, uid_isin, uid_lookup

__all__ = ["BoxTable", "Metadata", "check_uid_rule", "make_box_table"]

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
        refused: of a table that was made, not opened: rows of metadata that were refused; ``named``: the first of
            them, in words.
        unlisted: of such a table: that uids of the subset have no row in the metadata, in words; empty where all may
            have one.
    """

    records: NDArray[Any]
    boxes: NDArray[np.float64]
    refused: int = 0
    named: list[str] = field(default_factory=list)
    unlisted: str = ""

    @property
    def notes(self) -> list[str]:
        """What was refused or not found, in words."""
        more = self.refused - len(self.named)
        rest = [f"boxes: {more:,} more rows were refused"] if more else []
        return self.named + rest + ([self.unlisted] if self.unlisted else [])

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> BoxTable:
        """Maps what ``make_box_table`` wrote. Raises CorruptDataError, OSError or ValueError where it is not that."""
        boxes = load_array(Path(directory) / "boxes.npy", mmap=True)
        if boxes.dtype != np.float64 or boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(
                f"{directory}: boxes.npy must hold (b, 4) float64; got {boxes.dtype} of shape {boxes.shape}"
            )
        return cls(open_records(Path(directory) / "box_records.npy"), boxes)

    def look_up(self, uids: NDArray[Any]) -> list[NDArray[np.float64] | None]:
        """The boxes of each uid, None where it has none; with NaN where any were refused. Memory: the answer.

        Of a uid with several rows all of their boxes, each once: whichever row knows of a face, it is found.
        """
        found: list[NDArray[np.float64] | None] = [None] * len(uids)
        if len(self.records) == 0 or len(uids) == 0:
            return found
        first, count = uid_lookup(self.records, np.ascontiguousarray(uids))
        for i in np.flatnonzero(count):
            rows = self.records["f2"][int(first[i]) : int(first[i]) + int(count[i])].tolist()
            parts = [self.boxes[row >> 16 : (row >> 16) + (row & _MOST_BOXES)] for row in rows]
            boxes = np.concatenate(parts)
            if len(parts) > 1:
                boxes = boxes[np.sort(np.unique(boxes, axis=0, return_index=True)[1])]
            found[int(i)] = boxes
        return found


def make_box_table(
    metadata: Metadata, subset: NDArray[Any], directory: str | os.PathLike[str], uid_from: str = "json"
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
    refused = _Refused()
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    runs: list[Path] = []
    total = 0
    raw = folder / temporary_name("boxes")
    try:
        with open(raw, "wb") as out:
            for number, path in enumerate(files):
                records = [np.empty(0, "u8,u8,u8")]
                for part, boxes in _read_boxes(path, subset, total, refused, uid_from):
                    records.append(part)
                    total += len(boxes)
                    out.write(boxes.tobytes())
                run = folder / temporary_name(f"boxes-{number}.npy")
                runs.append(run)
                save_records(run, record_sort(np.concatenate(records)))
        merge_runs(runs, folder / "box_records.npy")
        with open(raw, "rb") as source:
            write_npy(folder / "boxes.npy", (total, 4), np.float64, _blocks(source), sync=False)
    finally:
        for path in (raw, *runs):
            path.unlink(missing_ok=True)
    if refused.count >= 2 and refused.count == refused.rows:
        raise PoolError(
            f"boxes: all {refused.count:,} rows with boxes are refused; the first: {refused.named[0]}. "
            + (_MENDS["uid"] if refused.nameless == refused.count else _MENDS["box"])
        )
    table = BoxTable.open(folder)
    table.refused, table.named = refused.count, refused.named
    if (absent := len(subset) - count_repeats(subset) - refused.listed) > 0:
        if not refused.listed:
            raise PoolError(
                f"boxes: none of the {refused.rows_read:,} rows of the metadata, with faces or without, is of a uid of "
                f"the subset, so that no face could be found; expected the metadata of the pool, {_RULES[uid_from]}"
            )
        table.unlisted = (
            f"boxes: {absent:,} or more uids of the subset have no row in the metadata: faces in their pictures stay "
            "as they are"
        )
    return table


def check_uid_rule(segments: Iterable[Any], uid_from: str) -> None:
    """PoolError where an index says that the uids of its segments are of another rule than those of the boxes.

    Args:
        segments: paths, or objects with a ``path``. Of one outside of an index directory nothing is known.
    """
    for folder in {Path(path).parent for path in map(_segment_path, segments) if path is not None}:
        known = uid_rule(folder)
        if known not in (None, uid_from):
            mend = "refresh the index first" if known == "mixed" else f"give uid_from={known!r}"
            raise PoolError(
                f"boxes: the uids of the index in {folder} come from {known}, but uid_from is {uid_from!r}, by which "
                f"faces would not be found: {mend}"
            )


def _segment_path(segment: Any) -> str | None:
    path = segment if isinstance(segment, (str, os.PathLike)) else getattr(segment, "path", None)
    return os.fspath(path) if path is not None and Path(path).match("segment-*.dcx") else None


_RULES = {
    "json": "with the uids of the samples' json in its column uid (uids that are made of what is there: uid_from)",
    "url": "with the urls that the uids are made of",
    "key": "with the keys that the uids are made of, in files named like the shards (00000.parquet of 00000.tar)",
}


_MENDS = {
    "uid": "Faces are found by uid: expected uids of 32 hex digits, no dashes (uid_from makes them of others)",
    "box": "Boxes must be [x0, y0, x1, y1] as fractions of width and height, x0 < x1 and y0 < y1",
}


@dataclass
class _Refused:
    """What was refused of the rows with boxes, and which rows there were."""

    rows_read: int = 0
    listed: int = 0  # of a uid of the subset, with boxes or without
    rows: int = 0  # with boxes, of the subset or without a uid
    count: int = 0
    nameless: int = 0  # of those refused, the rows whose uid is none
    named: list[str] = field(default_factory=list)


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
        raise PoolError(f"boxes: no parquet files in {metadata}")
    return files


def _files_of_map(path: Path) -> list[Path]:
    try:
        entries = read_json(path)
        files = [str(entry["parquet"]) for entry in entries.values()]
    except ValueError as error:
        raise PoolError(f"boxes: {first_line(error)}; expected DataComp's map, or parquet files") from error
    except (AttributeError, TypeError, KeyError) as error:
        raise PoolError(
            f'boxes: {path} is no map of metadata: expected a json object whose values have "parquet" and "shards", as '
            'in {"0": {"parquet": "00000.parquet", "shards": ["00000.tar"]}}'
        ) from error
    return [path.parent / file for file in dict.fromkeys(files)]


def _read_boxes(
    path: Path, subset: NDArray[Any], first_box: int, refused: _Refused, uid_from: str
) -> Iterator[tuple[NDArray[Any], NDArray[np.float64]]]:
    """(records, boxes) of the rows of a file that are in the subset and have boxes, part by part."""
    try:
        file = open_metadata(path, uid_from)
    except PoolError as error:
        if error.__cause__ is None:  # it is one, but lacks what the uids are made of
            raise PoolError(f"boxes: {error}") from error
        raise PoolError(f"boxes: {path} is not a parquet file: {error.__cause__}") from error
    row = 0
    with file:
        if missing := {"uid", "face_bboxes"} - set(file.schema.names):
            raise PoolError(f"boxes: {path} has no column {', '.join(sorted(missing))}; got {file.schema.names}")
        check_uid_type(file)
        for batch in file.batches(["uid", "face_bboxes"], _ROWS_AT_ONCE):
            uids, valid, count, boxes = _columns(batch, path, row)
            nameless = (count > 0) & ~valid
            listed = valid & np.asarray(uid_isin(uids, subset, check=False))
            chosen = (count > 0) & listed
            refused.rows_read += len(batch)
            refused.listed += int(listed.sum())
            refused.rows += int((nameless | chosen).sum())
            owner = np.repeat(np.arange(len(count)), count)
            why = _complaints(boxes)
            bad = np.zeros(len(count), np.bool_)
            bad[owner[why > 0]] = True
            failed = np.flatnonzero(nameless | (bad & chosen))
            refused.count += len(failed)
            refused.nameless += int(nameless.sum())
            for i in failed[: _NAMED - len(refused.named)].tolist():
                if nameless[i]:
                    words = f"its uid is not 32 hex digits: {shown_uid(batch, i)!r:.80}"
                    if uid_from != "json":
                        words = f"it has no {uid_from} to make a uid of"
                else:
                    first = int(np.flatnonzero((owner == i) & (why > 0))[0])
                    # as it was written: the array has NaN for what is no number
                    given = batch.column("face_bboxes")[i].as_py()[first - int(np.searchsorted(owner, i))]
                    words = f"box {given!r:.200} {_COMPLAINTS[why[first]]}"
                refused.named.append(f"boxes: {path}, row {row + i}: {words}")
            row += len(batch)
            if not chosen.any():
                continue
            # a row with a bad box keeps its first place alone, as NaN
            place = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
            boxes[bad[owner]] = np.nan
            kept_box = chosen[owner] & (~bad[owner] | (place == 0))
            kept = np.where(bad, 1, count)[chosen]
            records = np.empty(len(kept), "u8,u8,u8")
            records["f0"], records["f1"] = uids["f0"][chosen], uids["f1"][chosen]
            begins = (first_box + np.cumsum(kept) - kept).astype(np.uint64)
            records["f2"] = begins << np.uint64(16) | kept.astype(np.uint64)
            taken = np.clip(boxes[kept_box], 0.0, 1.0)  # what is beyond is rounding; NaN stays
            first_box += len(taken)
            yield records, taken


_COMPLAINTS = (
    "",
    "is not four finite numbers",
    "leaves the picture: expected fractions of 0 to 1",
    "has its corners swapped",
    "has no area inside the picture",
)


def _complaints(boxes: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(b,) which of ``_COMPLAINTS`` is true of each box, 0 for none."""
    with np.errstate(invalid="ignore"):
        swapped = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
        inside = np.clip(boxes, 0.0, 1.0)
        empty = (inside[:, 2] <= inside[:, 0]) | (inside[:, 3] <= inside[:, 1])
        outside = ((boxes < -_ROUNDING) | (boxes > 1 + _ROUNDING)).any(axis=1)
    finite = np.isfinite(boxes).all(axis=1)
    found: NDArray[np.uint8] = np.select([~finite, outside, swapped, empty], [1, 2, 3, 4], 0).astype(np.uint8)
    return found


def _columns(
    batch: Any, path: Path, row: int
) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.int64], NDArray[np.float64]]:
    """uids, whether each is one, number of boxes of each row, all boxes; NaN for what is not four numbers."""
    import pyarrow as pa

    uids, valid = parse_uids(batch)
    lists = batch.column("face_bboxes")
    try:
        lists = lists.cast(pa.list_(pa.list_(pa.float64())))
        outer = lists.flatten()
        count = np.asarray(lists.value_lengths().fill_null(0)).astype(np.int64)
        inner = np.asarray(outer.value_lengths().fill_null(0)).astype(np.int64)
        numbers = np.asarray(outer.flatten()).astype(np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, AttributeError) as error:
        raise PoolError(f"boxes: {path}: face_bboxes must be lists of [x0, y0, x1, y1]; got {lists.type}") from error
    if len(count) and int(count.max()) > _MOST_BOXES:
        raise PoolError(f"boxes: {path}, rows {row} and on: more than {_MOST_BOXES} boxes in one row")
    boxes = np.full((len(inner), 4), np.nan)
    four = inner == 4
    boxes[four] = numbers[(np.cumsum(inner) - inner)[four][:, None] + np.arange(4)]
    return uids, valid, count, boxes
