"""Samples drawn for a gallery by what somebody wants to see: a filter expression, a fate, a reason, a shard.

The draw depends on the run's files and the seed alone. Unless all rows are asked for, a bounded look is taken: at most
65,536 rows from all over, and whoever shows the draw says of how many.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.dedup.duplicates import DUPLICATES
from dcfast.errors import FilterError, PoolError
from dcfast.filters import compile_filter, numbers
from dcfast.filters.files import move_files
from dcfast.filters.term import CONTAMINATED, DUPLICATE, SCORES
from dcfast.index.metadata import parse_uids
from dcfast.report.facts.metadata_rows import every_row, load_scores, metadata_files, stretches
from dcfast.report.facts.samples import FATE_COLUMNS, GalleryRow
from dcfast.report.facts.sampling import columns_of, num_rows, rows_of, spread, stream
from dcfast.rundir.lookup import Place, SampleLookup
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import FilterSummary, find_summary
from dcfast.storage.arrow import text_buffers
from dcfast.storage.hashing import hash_members
from dcfast.storage.paths import real
from dcfast.storage.records import Record, replaced
from dcfast.uids.sets import load_subset, uid_format, uid_parse

if TYPE_CHECKING:
    import pyarrow as pa

    from dcfast.filters.compiled import Filter

SPARE = 50
"""Candidates that are kept for each sample shown, where the fate of the rows that pass is looked up afterwards."""
SCORE_COLUMNS = (SCORES["l14"], SCORES["b32"])
"""The first that a row has is shown."""


class Choice(NamedTuple):
    """What to draw; None: whatever it is.

    Attributes:
        expression: that the sample's metadata row passes.   reason: text that the reason holds, in any case.
        most: samples.   all_rows: look at every row, instead of a bounded number.
    """

    expression: str | None = None
    fate: str | None = None
    reason: str | None = None
    shard: str | None = None
    most: int = 12
    seed: int = 0
    all_rows: bool = False

    def takes(self, row: GalleryRow) -> bool:
        wanted = self.reason is None or self.reason.casefold() in (row.reason or "").casefold()
        return wanted and self.fate in (None, row.fate)


class Draw(Record):
    """Samples to show, and what they were drawn from.

    Attributes:
        looked: rows looked at, of ``of`` in all (None where they were not counted).
        matching: rows of those that are as was asked; of an expression, those that pass it.
        unit: what the rows are of.
    """

    rows: list[GalleryRow]
    looked: int
    of: int | None
    matching: int
    unit: str


def thresholds_of(run: Run) -> dict[str, float]:
    """The thresholds by fraction that the run's filter found, by their key."""
    chosen = find_summary(run.summary_path("filter"), FilterSummary)
    # recorded as decimal text; a filter would take text for the hexadecimal form
    return {key: float(text) for key, text in ((chosen.thresholds if chosen else None) or {}).items()}


def draw(run: Run, samples: SampleLookup, choice: Choice) -> Draw:
    """Draws samples.

    Raises:
        FilterError: the expression cannot be read, or needs what this run has not found.
        PoolError: the metadata is not where it was, or lacks a column.   LookupError: no such shard.
    Memory: a batch of rows, and ``most`` rows (with an expression and a fate or reason 50 times as many).
    """
    if choice.expression is not None:
        return _by_expression(run, samples, choice)
    if choice.shard is not None:
        return _of_shard(samples, choice)
    table = run.out / "fates.parquet"
    if not columns_of(table).issuperset(FATE_COLUMNS):
        return Draw([], 0, 0, 0, "rows of fates.parquet")
    batches = stream(table, FATE_COLUMNS) if choice.all_rows else spread(table, FATE_COLUMNS)
    looked = matching = 0
    best: list[tuple[int, int, GalleryRow]] = []
    for batch in batches:
        looked += batch.num_rows
        some = _taken(batch, choice)
        best = _best(best, some, _ranks(some, choice.seed), choice.most, matching)
        matching += some.num_rows
    return Draw([row for _, _, row in best], looked, num_rows(table), matching, "rows of fates.parquet")


def _taken(batch: pa.RecordBatch, choice: Choice) -> pa.RecordBatch:
    """The rows of a batch of fates that have the fate and the reason."""
    import pyarrow.compute as pc

    if choice.fate is not None:
        batch = batch.filter(pc.equal(batch.column("fate"), choice.fate))
    if choice.reason is not None:
        holds = pc.match_substring(batch.column("reason"), choice.reason, ignore_case=True)
        batch = batch.filter(pc.fill_null(holds, False))
    return batch


def _ranks(batch: pa.RecordBatch, seed: int) -> npt.NDArray[np.uint64]:
    """(n,) a fixed shuffle of the rows, by a hash of uid, shard and key."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.large_string()
    names = [pc.fill_null(batch.column(name).cast(kind), "") for name in ("uid", "shard", "key")]
    return _hashes(pc.binary_join_element_wise(*names, pa.scalar(str(seed), kind), pa.scalar("\0", kind)))


def _hashes(texts: pa.Array) -> npt.NDArray[np.uint64]:
    data, begin = text_buffers(texts)
    hashes: npt.NDArray[np.uint64] = hash_members(data.data, begin[:-1].astype(np.int64), np.diff(begin), threads=1)[
        "f0"
    ]
    return hashes


def _best(
    best: list[tuple[int, int, GalleryRow]], batch: pa.RecordBatch, ranks: npt.NDArray[np.uint64], most: int, at: int
) -> list[tuple[int, int, GalleryRow]]:
    """The first of (rank, number, row) with those of a batch."""
    some = np.sort(np.argsort(ranks, kind="stable")[:most])
    rows = rows_of(batch.take(some), GalleryRow, Path("fates.parquet"))
    return heapq.nsmallest(most, [*best, *zip(ranks[some].tolist(), (some + at).tolist(), rows, strict=True)])


def _of_shard(samples: SampleLookup, choice: Choice) -> Draw:
    assert choice.shard is not None
    _, number, inside = samples.shard(choice.shard)
    places = [Place(choice.shard, row, number, sample) for row, sample in enumerate(inside)]
    rows = [row for row in _rows(samples, places) if choice.takes(row)]
    texts = [f"{row.uid or ''}\0{row.shard}\0{row.key}\0{choice.seed}" for row in rows]
    order: list[int] = np.argsort(_hashes(_large(texts)), kind="stable")[: choice.most].tolist()
    return Draw([rows[i] for i in order], len(places), len(places), len(rows), "samples of the shard")


def _large(texts: list[str]) -> pa.Array:
    import pyarrow as pa

    return pa.array(texts, pa.large_string())


def _rows(samples: SampleLookup, places: list[Place]) -> list[GalleryRow]:
    fates = samples.fates(places)
    return [
        GalleryRow(p.shard, p.row, samples.key_of(p), samples.uid_of(p), fate.reason, fate.fate)
        for p, fate in zip(places, fates, strict=True)
    ]


def _joined_scores(run: Run) -> set[str]:
    """The keys of the scores that the run's filter joined with the metadata."""
    chosen = find_summary(run.summary_path("filter"), FilterSummary)
    return set() if chosen is None else {s.key for s in compile_filter(chosen.filter, run_code=False).scores}


def _with_scores(run: Run, expression: str, compiled: Filter) -> Filter:
    """The expression with its score files named as the run names them; FilterError for one that it did not join."""
    if not compiled.scores:
        return compiled
    compiled, joined = compile_filter(move_files(expression, real)), _joined_scores(run)
    for file in compiled.scores:
        if file.key not in joined:
            raise FilterError(
                f"filter {expression!r} asks for {file.key}, which only a run whose filter names it joins with the "
                "metadata, and this one did not; give a run that did, or write a column of the metadata: "
                "column(NAME) >= 0.3"
            )
    return compiled


def _compiled(run: Run, expression: str) -> Filter:
    """The expression, where it can be asked of single rows; else FilterError says what it lacks."""
    compiled = compile_filter(expression)
    if compiled.sampling is not None:
        raise FilterError(
            f"filter {expression!r} draws among all rows, which a look cannot; leave sample(...) out, or ask for what "
            "the run drew by its fate: kept"
        )
    compiled = _with_scores(run, expression, compiled)
    known = thresholds_of(run)
    for quantile in compiled.quantiles:
        if quantile.key not in known:
            raise FilterError(
                f"filter {expression!r} asks for the top {quantile.fraction} of {quantile.column}, which takes a look "
                "at all of it and which this run has not found; write the score instead: threshold=0.28"
            )
    if compiled.clusters:
        raise FilterError(f"filter {expression!r} asks for clusters of embeddings, which are not computed for a look")
    if CONTAMINATED in compiled.uid_sets and not (run.out / "contaminated.npy").exists():
        raise FilterError(f"filter {expression!r} uses contaminated, and this run has not looked for copies")
    if DUPLICATE in compiled.uid_sets and not (run.out / DUPLICATES).exists():
        raise FilterError(f"filter {expression!r} uses duplicate, and this run has not looked for duplicates")
    compiled.check_needs()
    return compiled


def _passing(
    run: Run, compiled: Filter, choice: Choice
) -> Iterator[tuple[int, npt.NDArray[np.void], npt.NDArray[np.float64]]]:
    """(rows looked at, uids of those that pass, their scores) of each batch of the metadata."""
    files = metadata_files(run)
    if not files:
        raise PoolError(
            f"the metadata of {run.out} is not where it was: no parquet file in {run.pool_dir}; bring it back"
        )
    thresholds = thresholds_of(run)
    sets = {name: load_subset(run.out / path) for name, path in run.uid_set_paths(compiled.uid_sets).items()}
    columns = list(dict.fromkeys(["uid", *compiled.column_names, *SCORE_COLUMNS]))
    look = every_row if choice.all_rows else stretches
    for path, begin, batch in look(files, columns, run.settings.uid_from):
        compiled.check_columns(batch.schema, str(path))
        uids, valid = parse_uids(batch)
        of_files = {
            source.key: load_scores(run.out, source.key, path, begin, batch.num_rows) for source in compiled.scores
        }
        passes = valid & (compiled.evaluate(batch, thresholds, sets, uids, scores=of_files) == 0)
        score = np.full(batch.num_rows, np.nan)
        for name in SCORE_COLUMNS:
            if name in batch.schema.names:
                score = np.where(np.isnan(score), numbers(batch.column(name)).astype(np.float64), score)
        yield batch.num_rows, uids[passes], score[passes]


def _by_expression(run: Run, samples: SampleLookup, choice: Choice) -> Draw:
    compiled = _compiled(run, str(choice.expression))
    kept = choice.most if choice.fate is None and choice.reason is None else SPARE * choice.most
    looked = matching = 0
    best: dict[str, tuple[int, int, str, float]] = {}  # uid -> rank, number, uid, score: of several rows the first
    for rows, uids, scores in _passing(run, compiled, choice):
        looked += rows
        if len(uids):
            texts = uid_format(np.ascontiguousarray(uids), as_list=True)
            ranks = _hashes(_large([f"{text}\0{choice.seed}" for text in texts]))
            for i in np.argsort(ranks, kind="stable")[:kept].tolist():
                best.setdefault(texts[i], (int(ranks[i]), matching + i, texts[i], float(scores[i])))
            best = {row[2]: row for row in heapq.nsmallest(kept, best.values())}
        matching += len(uids)
    ordered = list(best.values())
    shown: list[GalleryRow] = []
    for begin in range(0, len(ordered), max(choice.most, 1)):
        shown += [row for row in _of_uids(samples, ordered[begin : begin + choice.most]) if choice.takes(row)]
        if len(shown) >= choice.most:
            break
    chosen = find_summary(run.summary_path("filter"), FilterSummary)
    return Draw(shown[: choice.most], looked, chosen.metadata_rows if chosen else None, matching, "metadata rows")


def _of_uids(samples: SampleLookup, best: list[tuple[int, int, str, float]]) -> list[GalleryRow]:
    """The first sample of each uid, or its metadata row where the shards have none."""
    uids, _ = uid_parse([uid for _, _, uid, _ in best])
    places = samples.find(uids)
    rows = iter(_rows(samples, [found[0] for found in places if found]))
    missing = "no sample of the shards has this uid"
    named = [
        next(rows) if found else GalleryRow(uid=uid, fate="missing", reason=missing)
        for found, (_, _, uid, _) in zip(places, best, strict=True)
    ]
    scores = [None if np.isnan(score) else round(score, 4) for _, _, _, score in best]
    return [replaced(row, clip_score=score) for row, score in zip(named, scores, strict=True)]
