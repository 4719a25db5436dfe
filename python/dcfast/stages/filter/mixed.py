"""Part of stage ``filter``: columns of the metadata and arrays of its npz as scores, and weighted sums of scores.

Ranks are exact: the scores of the whole pool are sorted on disk once a part (24 bytes a row, 256 MiB of memory), and a
row's rank is how many are below it, ties in the middle, divided so that the lowest is 0 and the highest 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast.engine.piece import Nothing, piece
from dcfast.errors import PoolError
from dcfast.features.files import sibling_npz
from dcfast.filters import numbers
from dcfast.filters.rules import Numbers, score_at_least
from dcfast.filters.score_sources import ArrayScore, ColumnScore, MixedScore, WithinScore
from dcfast.filters.thresholds import order_keys, parse_threshold
from dcfast.index.metadata import count_metadata_rows, open_metadata
from dcfast.rundir.layout import MERGE_BYTES, score_name, score_path
from dcfast.rundir.run_dir import Run
from dcfast.stages.filter.score_columns import ScoreColumns, Scored, find_threshold, scored_of
from dcfast.stages.runner import Do
from dcfast.storage.npz import iterate_npz, load_array, npz_arrays, save_array
from dcfast.storage.records import Record
from dcfast.uids.files import uid_records
from dcfast.uids.sets import RECORD_DTYPE, UID_DTYPE, merge_runs, open_records, record_sort, save_records, uid_lookup


def check_column(run: Run, source: ArrayScore) -> None:
    """PoolError: a metadata file has no npz, or the first no such array in it, or another than a number a row."""
    for number, metadata in enumerate(run.pool.metadata):
        path = sibling_npz(metadata)
        if not os.path.isfile(path):
            raise PoolError(f"filter {source.key} needs {source.name} in {path}, which is not there; download the npz")
        if number == 0:  # of the others, perhaps thousands, each piece looks at its own
            _check_array(path, source.name, count_metadata_rows(metadata))


def _check_array(path: str | Path, name: str, rows: int) -> None:
    arrays = npz_arrays(path)
    if name not in arrays:
        raise PoolError(f"{path} has no array {name!r} ({', '.join(arrays) or 'none'}); name one that is there")
    array = arrays[name]
    if array.shape != (rows,) or array.dtype.kind not in "fiu":
        raise PoolError(
            f"{path}, {name}: expected {rows} numbers, one a row of its metadata; got {array.dtype} of shape "
            f"{array.shape}; give the npz of this metadata, or name another array"
        )


def _array_blocks(path: Path, npz: Path, name: str) -> Iterator[Numbers]:
    _check_array(npz, name, count_metadata_rows(str(path)))
    yield from iterate_npz(npz, name)


def _column_blocks(path: Path, name: str, uid_from: str) -> Iterator[Numbers]:
    with open_metadata(str(path), uid_from) as file:
        for batch in file.batches([name]):
            yield numbers(batch.column(0))


@piece(native=True)
def copy_scores(out: Path, key: str, files: Sequence[str], name: str, is_array: bool, uid_from: str) -> Scored:
    """Piece: a column of the metadata, or an array beside it, as scores: float64, NaN for null."""
    done = []
    for path in files:
        blocks = (
            _array_blocks(out / path, out / sibling_npz(path), name)
            if is_array
            else _column_blocks(out / path, name, uid_from)
        )
        scores = np.concatenate([np.empty(0), *(block.astype(np.float64) for block in blocks)])
        save_array(out / score_path(key, path), scores)
        done.append(scored_of(scores))
    return Scored.sum(done)


def make_copied(run: Run, do: Do, source: ColumnScore | ArrayScore) -> ScoreColumns:
    """The columns of ``column(NAME)`` or ``array(NAME)``."""
    is_array = isinstance(source, ArrayScore)
    stats = do(
        copy_scores.piece(
            f"filter/scores-{score_name(source.key)}",
            f"{group:05d}",
            inputs=[*files, *(map(sibling_npz, files) if is_array else ())],
            outputs=[score_path(source.key, file) for file in files],
        )(key=source.key, files=files, name=source.name, is_array=is_array, uid_from=run.settings.uid_from)
        for group, (_, files) in enumerate(run.metadata_groups())
    )
    return ScoreColumns.of(source, "float64", stats)


def _records(scores: Numbers) -> npt.NDArray[np.void]:
    """Records that sort as the scores do; rows without a score are left out."""
    known = scores[~np.isnan(scores)].astype(np.float64)
    uids = np.zeros(len(known), UID_DTYPE)
    uids["f0"] = order_keys(known)
    return uid_records(uids, np.zeros(len(known), np.uint64))


@piece(native=True)
def sort_for_ranks(out: Path, columns: Sequence[str], output: str) -> Nothing:
    """Piece: the scores of some metadata files, sorted."""
    parts = [np.empty(0, RECORD_DTYPE), *(_records(load_array(out / name)) for name in columns)]
    save_records(out / output, record_sort(np.concatenate(parts), threads=1))
    return Nothing()


@piece(native=True)
def merge_for_ranks(out: Path, runs: Sequence[str], output: str) -> Nothing:
    """Piece: the scores of the whole pool, sorted."""
    merge_runs([out / run for run in runs], out / output, memory_bytes=MERGE_BYTES)
    return Nothing()


def _ranks(scores: npt.NDArray[np.float64], known: npt.NDArray[np.void]) -> npt.NDArray[np.float64]:
    """Each score's place among ``known``, which holds it, 0 to 1; ties have the middle of theirs."""
    uids = np.zeros(len(scores), UID_DTYPE)
    uids["f0"] = order_keys(scores)
    first, count = uid_lookup(known, uids, threads=1)
    middle: npt.NDArray[np.float64] = first + (count.astype(np.float64) - 1) / 2
    return middle / max(len(known) - 1, 1)


class Part(Record):
    """A score of a mixture.

    Attributes:
        key: of its source.   low, high: of the whole pool, where they serve.
        ranks: the sorted scores of the pool, "" where min and max serve.
    """

    key: str
    weight: float
    low: float
    high: float
    ranks: str = ""


@piece(native=True)
def mix_scores(out: Path, key: str, files: Sequence[str], parts: Sequence[Part]) -> Scored:
    """Piece: the weighted sums of some metadata files, float64; NaN where a part has no score."""
    sorted_scores = {part.key: open_records(out / part.ranks) for part in parts if part.ranks}
    done = []
    for path in files:
        total = np.zeros(0)
        for place, part in enumerate(parts):
            scores = load_array(out / score_path(part.key, path)).astype(np.float64)
            known = np.flatnonzero(~np.isnan(scores))
            if part.ranks:
                scores[known] = _ranks(scores[known], sorted_scores[part.key])
            else:
                width = part.high - part.low
                scores[known] = (scores[known] - part.low) / width if width > 0 else 0.0
            total = total + part.weight * scores if place else part.weight * scores
        save_array(out / score_path(key, path), total)
        done.append(scored_of(total))
    return Scored.sum(done)


@piece(native=True)
def score_within(out: Path, key: str, files: Sequence[str], first: str, threshold: str, second: str) -> Scored:
    """Piece: the second score of rows whose first reaches a threshold, NaN of the others."""
    done, limit = [], parse_threshold(threshold)
    for path in files:
        passes = score_at_least(load_array(out / score_path(first, path)), limit)
        scores = np.where(passes, load_array(out / score_path(second, path)).astype(np.float64), np.nan)
        save_array(out / score_path(key, path), scores)
        done.append(scored_of(scores))
    return Scored.sum(done)


def make_within(run: Run, do: Do, source: WithinScore, made: Mapping[str, ScoreColumns]) -> ScoreColumns:
    """The columns of ``within``, whose parts are made."""
    first, second = source.parts
    search = find_threshold(run, do, made[first.key], source.first)
    stats = do(
        score_within.piece(
            f"filter/scores-{score_name(source.key)}",
            f"{group:05d}",
            inputs=[score_path(part.key, file) for part in source.parts for file in files],
            outputs=[score_path(source.key, file) for file in files],
        )(key=source.key, files=files, first=first.key, threshold=search.threshold_text, second=second.key)
        for group, (_, files) in enumerate(run.metadata_groups())
    )
    more = []
    if search.missing_scores:
        have = made[first.key]
        more.append(
            f"{source.key}: first={source.first!r} asks for more rows than have {first.key}, {have.scored:,} of "
            f"{have.rows:,}, so no row is within; give a lower first="
        )
    return ScoreColumns.of(source, "float64", stats, more)


def _sorted_part(run: Run, do: Do, columns: ScoreColumns) -> str:
    name = score_name(columns.source.key)
    groups = [columns.paths(files) for _, files in run.metadata_groups()]
    runs = [f"state/filter/scores/{name}-ranks-{group:05d}.npy" for group in range(len(groups))]
    do(
        sort_for_ranks.piece(f"filter/scores-{name}-sort", f"{group:05d}", inputs=paths, outputs=[runs[group]])(
            columns=paths, output=runs[group]
        )
        for group, paths in enumerate(groups)
    )
    merged = f"state/filter/scores/{name}-ranks.npy"
    do.one(
        merge_for_ranks.piece(f"filter/scores-{name}-ranks", "ranks", inputs=runs, outputs=[merged])(
            runs=runs, output=merged
        )
    )
    return merged


def make_mixed(run: Run, do: Do, source: MixedScore, made: Mapping[str, ScoreColumns]) -> ScoreColumns:
    """The columns of ``mix``, whose parts are made.   PoolError: a part has an infinite score, which has no place."""
    parts, inputs = [], []
    for weight, part in zip(source.weights, source.parts, strict=True):
        columns = made[part.key]
        ranks = _sorted_part(run, do, columns) if source.normalize == "rank" else ""
        if not ranks and not np.isfinite([columns.low, columns.high]).all():
            raise PoolError(
                f"filter {source.key}: {part.key} has infinite scores, {columns.low} to {columns.high}, which cannot "
                "be brought to 0..1; use normalize=rank"
            )
        parts.append(Part(part.key, weight, *((0.0, 0.0) if ranks else (columns.low, columns.high)), ranks))
        inputs += [ranks] if ranks else []
    name = score_name(source.key)
    stats = do(
        mix_scores.piece(
            f"filter/scores-{name}",
            f"{group:05d}",
            inputs=[*inputs, *(score_path(part.key, file) for part in source.parts for file in files)],
            outputs=[score_path(source.key, file) for file in files],
        )(key=source.key, files=files, parts=parts)
        for group, (_, files) in enumerate(run.metadata_groups())
    )
    return ScoreColumns.of(source, "float64", stats)
