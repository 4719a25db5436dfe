"""Part of stage ``filter``: scores of one's own, brought to the rows of the metadata by uid.

Runs of a file's records (uid, score) are sorted and merged into one sorted file, in which no uid may repeat; then,
for each metadata file, comes a column of the rows' scores (``score_path``, NaN where there is none). Thresholds are
counted on these columns and the filter reads them, as if they stood in the metadata.
Memory a worker: 200 MB while a run is sorted, 256 MiB in the merge; in the join the scores of one metadata file and the
look-ups of a batch: nothing grows with the score file. Disk: 48 bytes a score, and 2 to 8 bytes a metadata row (for
12.8 billion of each 0.7 TB). Cost: one read of the score file, a sort, a merge, and a look-up a metadata row.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.engine.piece import Nothing, Piece, piece
from dcfast.errors import PoolError
from dcfast.filters import numbers, score_dtype
from dcfast.filters.score_sources import ScoreFile
from dcfast.index.metadata import COLUMN_TYPES, column_matches, open_metadata, parse_uids, shown_uid
from dcfast.index.pool import list_parquet
from dcfast.rundir.layout import MERGE_BYTES, score_name, score_path
from dcfast.rundir.run_dir import Run
from dcfast.stages.filter.score_arrays import array_batches, array_facts, is_array_file
from dcfast.stages.filter.score_columns import ScoreColumns, Scored, scored_of
from dcfast.stages.runner import Do
from dcfast.storage.npz import save_array
from dcfast.storage.parquet import Kind, ParquetFile
from dcfast.storage.paths import absolute
from dcfast.uids.files import uid_records
from dcfast.uids.sets import RECORD_DTYPE, merge_runs, open_records, record_sort, save_records, uid_format, uid_lookup

if TYPE_CHECKING:
    import pyarrow as pa

SCORES = Kind("score file", "write it again", PoolError)
RUN_ROWS = 1 << 22
"""Of a sorted run, at 24 bytes each."""
_ROWS_AT_ONCE = 1 << 20


def _parts(file: ScoreFile) -> list[str]:
    """The parquet files of a score file: itself, or those of a folder. PoolError: there are none."""
    root = absolute(file.path)
    if not os.path.isdir(root):
        return [root]
    names = list_parquet(root)
    if not names:
        raise PoolError(
            f"filter {file.key}: no *.parquet, *.npy or *.npz in the folder {root}; name the file, or its folder"
        )
    return [os.path.join(root, name) for name in names]


def _look(path: str, column: str) -> tuple[pa.DataType, list[int]]:
    """The type of the scores of a file, and the rows of its row groups: a NumPy file is one."""
    import pyarrow as pa

    if is_array_file(path):
        rows, dtype = array_facts(path, column)
        return pa.from_numpy_dtype(dtype), [rows]
    with ParquetFile(path, SCORES) as part:
        return _score_type(path, column, part.schema), part.group_rows


def _score_type(path: str, column: str, schema: pa.Schema) -> pa.DataType:
    """The type of the scores of a file; PoolError where it, or that of the uids, is another than it must be."""
    import pyarrow as pa

    expected = {"uid": f"uid as {COLUMN_TYPES['uid'][0]}", column: "scores as floats (float16, float32, float64)"}
    for name, what in expected.items():
        count = len(schema.get_all_field_indices(name))
        if count != 1:
            found = f"{count} columns of that name" if count else f"the columns {', '.join(schema.names) or 'none'}"
            raise PoolError(
                f"score file {path}: expected {what} in the column {name!r}; got {found}; write it so, or name the "
                'column of the scores: score("...", column=NAME, fraction=0.3)'
            )
        kind = schema.field(name).type
        if not (column_matches("uid", kind) if name == "uid" else pa.types.is_floating(kind)):
            raise PoolError(f"score file {path}: expected {what} in the column {name!r}; got {kind}")
    return schema.field(column).type


def check_score_file(file: ScoreFile) -> None:
    """Looks at the footers or headers of a score file, before any work.

    Raises:
        PoolError: one is no parquet file, lacks a column, or has no rows.   OSError: it is not there.
    """
    if not sum(sum(_look(path, file.column)[1]) for path in _parts(file)):
        raise PoolError(
            f"filter {file.key}: {absolute(file.path)} has no rows, so no sample would have a score; write the scores"
        )


def _score_batches(path: str, column: str, groups: Sequence[int]) -> Iterator[npt.NDArray[np.void]]:
    """Records of uid and score (its bits as float64), in the order of the file; PoolError where a uid is none."""
    if is_array_file(path):
        yield from array_batches(path, column)
        return
    with ParquetFile(path, SCORES) as file:
        at = sum(file.group_rows[: groups[0]])
        for batch in file.batches(["uid", column], groups=groups):
            uids, valid = parse_uids(batch)
            if not valid.all():
                row = int(np.flatnonzero(~valid)[0])
                raise PoolError(
                    f"score file {path}, row {at + row}: expected a uid of 32 hex digits; got {shown_uid(batch, row)!r}"
                )
            scores = numbers(batch.column(column)).astype(np.float64)
            yield uid_records(uids, scores.view(np.uint64))
            at += batch.num_rows


@piece(native=True)
def sort_scores(out: Path, path: str, column: str, groups: tuple[int, int], runs: Sequence[str]) -> Nothing:
    """Piece: some row groups of a score file as runs of at most RUN_ROWS records, each sorted."""
    waiting, rows, names = [np.empty(0, RECORD_DTYPE)], 0, iter(runs)

    def flush() -> None:
        save_records(out / next(names), record_sort(np.concatenate(waiting), threads=1))
        waiting[:] = [np.empty(0, RECORD_DTYPE)]

    for records in _score_batches(path, column, range(*groups)):
        while len(records):
            part, records = records[: RUN_ROWS - rows], records[RUN_ROWS - rows :]
            waiting.append(part)
            rows += len(part)
            if rows == RUN_ROWS:
                flush()
                rows = 0
    if rows:
        flush()
    return Nothing()


@piece(native=True)
def merge_scores(out: Path, runs: Sequence[str], path: str, output: str) -> Nothing:
    """Piece: the sorted records of a score file. PoolError: a uid has more than one score."""
    merge_runs([out / run for run in runs], out / output, memory_bytes=MERGE_BYTES)
    records = open_records(out / output)
    for begin in range(0, len(records), _ROWS_AT_ONCE):
        part = records[begin : begin + _ROWS_AT_ONCE + 1]
        repeats = np.flatnonzero((part["f0"][1:] == part["f0"][:-1]) & (part["f1"][1:] == part["f1"][:-1]))
        if len(repeats):
            two = part[repeats[0] : repeats[0] + 2]
            uids = np.empty(1, [("f0", "<u8"), ("f1", "<u8")])
            uids["f0"], uids["f1"] = two["f0"][0], two["f1"][0]
            first, other = np.ascontiguousarray(two["f2"]).view(np.float64).tolist()
            raise PoolError(
                f"score file {path}: uid {uid_format(uids, as_list=True)[0]} has two scores, {first!r} and {other!r}; "
                "write one row a uid"
            )
    return Nothing()


@piece(native=True)
def join_scores(out: Path, key: str, files: Sequence[str], records: str, dtype: str, uid_from: str = "json") -> Scored:
    """Piece: the scores of the rows of some metadata files."""
    known, done = open_records(out / records), []
    for path in (str(out / name) for name in files):
        parts = [np.empty(0, dtype)]
        with open_metadata(path, uid_from) as file:
            for batch in file.batches(["uid"]):
                uids, valid = parse_uids(batch)
                first, count = uid_lookup(known, uids, threads=1)
                found = valid & (count > 0)
                scores = np.full(len(uids), np.nan)
                scores[found] = np.ascontiguousarray(known["f2"][first[found]]).view(np.float64)
                parts.append(scores.astype(dtype))
        whole = np.concatenate(parts)
        save_array(out / score_path(key, path), whole)
        done.append(scored_of(whole))
    return Scored.sum(done)


def _sorting(file: ScoreFile) -> tuple[list[Piece[Nothing]], list[str], str]:
    """The pieces that sort a score file, their runs, and what its scores are counted as."""
    pieces: list[Piece[Nothing]] = []
    runs: list[str] = []
    types = []
    name = score_name(file.key)
    for path in _parts(file):
        kind, sizes = _look(path, file.column)
        types.append(kind)
        for begin, end in _stretches(sizes):
            outputs = -(-sum(sizes[begin:end]) // RUN_ROWS)
            own = [f"state/filter/scores/{name}-{len(runs) + i:06d}.npy" for i in range(outputs)]
            sort = sort_scores.piece(
                f"filter/scores-{name}",
                f"{len(pieces):05d}",
                inputs=[path],
                outputs=own,
                weight=sum(sizes[begin:end]),
            )
            pieces.append(sort(path=path, column=file.column, groups=(begin, end), runs=own))
            runs += own
    return pieces, runs, score_dtype(types)


def _stretches(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Row groups of these sizes, some neighbours at a time: up to RUN_ROWS rows, or one larger group; none is empty."""
    begin, rows = 0, 0
    for end, size in enumerate(sizes):
        if rows and rows + size > RUN_ROWS:
            yield begin, end
            begin, rows = end, 0
        rows += size
    if rows:
        yield begin, len(sizes)


def make_file_scores(run: Run, do: Do, file: ScoreFile) -> ScoreColumns:
    """Brings the scores of a score file to the metadata."""
    name = score_name(file.key)
    pieces, runs, dtype = _sorting(file)
    do(pieces)
    records = f"state/filter/scores/{name}.npy"
    merge = merge_scores.piece(f"filter/scores-{name}-merge", "scores", inputs=runs, outputs=[records])
    do.one(merge(runs=runs, path=absolute(file.path), output=records))
    joined = do(
        join_scores.piece(
            f"filter/scores-{name}-join",
            f"{group:05d}",
            inputs=[*names, records],
            outputs=[score_path(file.key, name) for name in names],
            weight=sum(os.path.getsize(run.out / name) for name in names),
        )(key=file.key, files=names, records=records, dtype=dtype, uid_from=run.settings.uid_from)
        for group, (_, names) in enumerate(run.metadata_groups())
    )
    made = ScoreColumns.of(file, dtype, joined)
    if made.rows and not made.scored:
        raise PoolError(
            f"filter {file.key}: none of the {made.rows:,} metadata rows has a score: the uids are of another pool; "
            "give the scores of this one"
        )
    return made
