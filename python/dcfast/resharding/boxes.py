"""Boxes of pictures by uid: gathered from metadata once, then looked up by the workers of a reshard.

On disk, in one directory: ``boxes.npy``, (b, 4) f64 x0, y0, x1, y1 as fractions; and ``box_records.npy``, sorted uid
records whose payload is (first box << 16 | number of boxes). Both are mapped, so that neither has to fit in memory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dcfast.errors import PoolError
from dcfast.uids.sets import merge_runs, open_records, record_sort, save_records, uid_isin, uid_lookup, uid_parse

__all__ = ["BoxTable", "Metadata", "make_box_table"]

Metadata = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
_ROWS_AT_ONCE = 1 << 16
_MOST_BOXES = (1 << 16) - 1


@dataclass
class BoxTable:
    """See the module. ``records``: (n,) "u8,u8,u8"; ``boxes``: (b, 4) f64."""

    records: NDArray[Any]
    boxes: NDArray[np.float64]

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> BoxTable:
        """Maps what ``make_box_table`` wrote. Raises CorruptDataError, OSError or ValueError where it is not that."""
        boxes = np.load(Path(directory) / "boxes.npy", mmap_mode="r", allow_pickle=False)
        if boxes.dtype != np.float64 or boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(
                f"{directory}: boxes.npy must hold (b, 4) float64; got {boxes.dtype} of shape {boxes.shape}"
            )
        return cls(open_records(Path(directory) / "box_records.npy"), boxes)

    def look_up(self, uids: NDArray[Any]) -> list[NDArray[np.float64] | None]:
        """The boxes of each uid, None where it has none. Memory: the answer."""
        found: list[NDArray[np.float64] | None] = [None] * len(uids)
        if len(self.records) == 0 or len(uids) == 0:
            return found
        first, count = uid_lookup(self.records, np.ascontiguousarray(uids))
        for i in np.flatnonzero(count):
            payload = int(self.records[first[i]]["f2"])
            begin = payload >> 16
            found[int(i)] = np.array(self.boxes[begin : begin + (payload & _MOST_BOXES)])
        return found


def make_box_table(metadata: Metadata, subset: NDArray[Any], directory: str | os.PathLike[str]) -> BoxTable:
    """Gathers the boxes of a subset's uids from metadata with the columns ``uid`` and ``face_bboxes``.

    Args:
        metadata: a directory of parquet files, some of them, or DataComp's map (a json file whose values name a
            ``parquet`` and its ``shards``).
        subset: (s,) "u8,u8" sorted; may be memory-mapped.
        directory: made where missing; the two files in it are replaced.
    Returns:
        The table, mapped. Of a uid that comes more than once, the first row in the order of the files counts.
    Raises:
        PoolError: no files, no such columns, a uid or box that is none: names the file, and the row.   OSError.
    Memory: 65,536 rows, 24 bytes a row of one file that has boxes, and 256 MiB while runs are merged.
    """
    files = _metadata_files(metadata)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    runs: list[Path] = []
    total = 0
    raw = folder / ".tmp-boxes"
    try:
        with open(raw, "wb") as out:
            for number, path in enumerate(files):
                records = [np.empty(0, "u8,u8,u8")]
                for part, boxes in _read_boxes(path, subset, total):
                    records.append(part)
                    total += len(boxes)
                    out.write(boxes.tobytes())
                run = folder / f".tmp-boxes-{number}.npy"
                runs.append(run)
                save_records(run, record_sort(np.concatenate(records)))
        merge_runs(runs, folder / "box_records.npy", unique=True)
        with open(folder / ".tmp-boxes.npy", "wb") as whole, open(raw, "rb") as source:
            _write_npy(whole, source, total)
        os.replace(folder / ".tmp-boxes.npy", folder / "boxes.npy")
    finally:
        for path in (raw, *runs):
            path.unlink(missing_ok=True)
    return BoxTable.open(folder)


def _write_npy(whole: BinaryIO, source: BinaryIO, total: int) -> None:
    header = {"descr": "<f8", "fortran_order": False, "shape": (total, 4)}
    np.lib.format.write_array_header_1_0(whole, header)
    shutil.copyfileobj(source, whole, 1 << 20)


def _metadata_files(metadata: Metadata) -> list[Path]:
    if not isinstance(metadata, (str, os.PathLike)):
        files = [Path(item) for item in metadata]
    elif Path(metadata).is_dir():
        files = sorted(Path(metadata).glob("*.parquet"))
    elif os.fspath(metadata).endswith(".json"):
        files = _files_of_map(Path(metadata))
    else:
        files = [Path(metadata)]
    if not files:
        raise PoolError(f"boxes: no parquet files in {metadata}")
    return files


def _files_of_map(path: Path) -> list[Path]:
    try:
        entries = json.loads(path.read_bytes())
        files = [str(entry["parquet"]) for entry in entries.values()]
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise PoolError(
            f'boxes: {path}: expected a json object whose values have "parquet" and "shards" ({error!r})'
        ) from error
    return [path.parent / file for file in dict.fromkeys(files)]


def _read_boxes(path: Path, subset: NDArray[Any], first_box: int) -> Iterator[tuple[NDArray[Any], NDArray[np.float64]]]:
    """(records, boxes) of the rows of a file that are in the subset and have boxes, part by part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        missing = {"uid", "face_bboxes"} - set(file.schema_arrow.names)
    except pa.ArrowInvalid as error:
        raise PoolError(f"boxes: {path} is not a parquet file: {error}") from error
    if missing:
        raise PoolError(f"boxes: {path} has no column {', '.join(sorted(missing))}; got {file.schema_arrow.names}")
    row = 0
    with file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["uid", "face_bboxes"]):
            uids, count, boxes = _columns(batch, path, row, uid_parse)
            row += len(batch)
            chosen = (count > 0) & np.asarray(uid_isin(uids, subset, check=False))
            if not chosen.any():
                continue
            kept = count[chosen]
            records = np.empty(len(kept), "u8,u8,u8")
            records["f0"], records["f1"] = uids["f0"][chosen], uids["f1"][chosen]
            records["f2"] = (first_box + np.cumsum(kept) - kept).astype(np.uint64) << np.uint64(16) | kept.astype(
                np.uint64
            )
            taken = boxes[np.repeat(chosen, count)]
            first_box += len(taken)
            yield records, taken


def _columns(
    batch: Any, path: Path, row: int, uid_parse: Any
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """uids, number of boxes of each row, all boxes."""
    import pyarrow as pa

    try:
        uids, _ = uid_parse(batch.column("uid"))
    except ValueError as error:
        raise PoolError(f"boxes: {path}, rows {row} and on: {error}") from error
    lists = batch.column("face_bboxes")
    try:
        lists = lists.cast(pa.list_(pa.list_(pa.float64())))
        outer = lists.flatten()
        count = np.asarray(lists.value_lengths().fill_null(0)).astype(np.int64)
        inner = np.asarray(outer.value_lengths().fill_null(0))
        boxes = np.asarray(outer.flatten()).astype(np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, AttributeError) as error:
        raise PoolError(f"boxes: {path}: face_bboxes must be lists of [x0, y0, x1, y1]; got {lists.type}") from error
    if (inner != 4).any() or not np.isfinite(boxes).all():
        raise PoolError(f"boxes: {path}, rows {row} and on: a box that is not four finite numbers")
    if len(count) and int(count.max()) > _MOST_BOXES:
        raise PoolError(f"boxes: {path}, rows {row} and on: more than {_MOST_BOXES} boxes in one row")
    return uids, count, np.clip(boxes.reshape(-1, 4), 0.0, 1.0)
