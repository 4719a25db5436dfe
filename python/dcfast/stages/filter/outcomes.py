"""Stage ``filter``: what the filter expression says of every metadata row, then the fate of every sample.

Thresholds by fraction first (histogram passes over the metadata files), then the expression on each file, then
``subsets`` and ``fates``, then how many of the kept are copies of evaluation pictures. Writes ``filter/outcomes.npy``
(uid -> code, sorted); these two write the rest. Without shards there are no fates. Memory: 100 bytes a row of a piece.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from dcfast.acquire.summary import unasked_rows
from dcfast.engine.piece import Nothing, Piece, piece
from dcfast.errors import FilterError, RunError
from dcfast.features.files import sibling_npz
from dcfast.features.metadata import with_scores
from dcfast.filters import (
    NUM_BINS,
    Quantile,
    QuantileSearch,
    compile_filter,
    default_filter,
    numbers,
    score_dtype,
    score_histogram,
)
from dcfast.filters.functions import SAMPLE_ROWS
from dcfast.filters.term import CONTAMINATED, DRAWN, DUPLICATE, ORACLE, SCORES, TEACHER_PAIRS
from dcfast.index.metadata import check_uid_type, metadata_schema, open_metadata, parse_uids, shown_uid
from dcfast.models.devices import gpu_share
from dcfast.process.read_ahead import read_ahead
from dcfast.rundir.layout import (
    CODE_SHIFT,
    INSIDE,
    MERGE_BYTES,
    METADATA_SUBSET,
    ORACLE_PATH,
    OUTCOMES,
    OUTSIDE,
    malformed_path,
    mask_path,
    outcome_run,
    score_path,
)
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import ClusterCounts, FilterSummary, Models
from dcfast.stages.filter import fates, sampled
from dcfast.stages.filter.centroids import BLOCK_ROWS
from dcfast.stages.filter.clusters import ClusterFiles, ClusterSet, FileClusters, check_clusters, make_clusters
from dcfast.stages.filter.leaked import count_contaminated
from dcfast.stages.filter.notes import MalformedRow, malformed_notes, repeated_notes, unmatched_notes
from dcfast.stages.filter.sampled import ASKED, Candidates, candidate_run, make_draw, sampled_notes
from dcfast.stages.filter.score_columns import ScoreColumns, find_threshold
from dcfast.stages.filter.scores import check_scores, make_scores
from dcfast.stages.filter.subsets import write_metadata_subset
from dcfast.stages.index import refuse_metadata_without_uids
from dcfast.stages.runner import Do
from dcfast.storage.npz import load_array, save_array
from dcfast.storage.parquet import BATCH_ROWS, read_table, write_table
from dcfast.storage.published import without_places
from dcfast.storage.records import Count, Record, replaced
from dcfast.uids.files import uid_records
from dcfast.uids.sets import (
    RECORD_DTYPE,
    load_subset,
    merge_runs,
    record_sort,
    save_records,
    save_subset,
    uid_parse,
    uid_unique,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from dcfast.filters.compiled import Filter

_FOOTERS_AT_ONCE = 16
MAX_NOTED = 1_000
"""Malformed uids that a piece writes out one by one; all are counted."""


def resolve_expression(run: Run) -> tuple[str, list[str]]:
    """The expression of this run (the default one where none was given) and notes for the report.

    Raises:
        FileNotFoundError, SubsetError: a uid file it names is not there, or is none.
        FilterError: it cannot be read, or names ``contaminated`` where there are no evaluation sets.
        PoolError: the pool's first metadata file lacks a column or embeddings that it needs.
    """
    first = run.pool.metadata[0]
    schema = _expected_schema(run, first)
    available = run.has_evaluation_sets and not run.metadata_only
    notes: list[str] = []
    text = run.settings.filter
    if text is None:
        text, notes = default_filter(set(schema.names), available)
        if run.metadata_only and run.has_evaluation_sets:
            notes[-1] = f"~{CONTAMINATED} is left out of the default filter until the shards are there"
    if run.settings.teacher_uids is not None:
        whole = compile_filter(text)  # before it is put in parentheses: an error points at the user's own text
        text = f"({whole}) & ~{TEACHER_PAIRS}"
        notes = [*notes, "pairs that the teacher trained on are held out (~teacher_pairs)"]
    compiled = compile_filter(text)
    if CONTAMINATED in compiled.uid_sets and run.metadata_only:
        raise FilterError(
            f"filter {text!r} uses contaminated, which is found by looking at pictures, and pool {run.pool_dir} has no "
            "shards yet: leave the term out until they are downloaded"
        )
    if DUPLICATE in compiled.uid_sets and run.metadata_only:
        raise FilterError(
            f"filter {text!r} uses duplicate, which is found by looking at pictures, and pool {run.pool_dir} has no "
            "shards yet: leave the term out until they are downloaded"
        )
    if CONTAMINATED in compiled.uid_sets and not available:
        raise FilterError(
            f"filter {text!r} uses contaminated, but there are no evaluation sets to compare with: "
            "give --evalsets DIR or --signatures FILE, or leave the term out"
        )
    if ORACLE in compiled.uid_sets and not run.is_world:
        raise FilterError(
            f"filter {text!r} uses oracle, which knows the truth of the built-in world alone; leave the term out, "
            "or leave --pool out"
        )
    if TEACHER_PAIRS in compiled.uid_sets and run.settings.teacher_uids is None:
        raise FilterError(
            f"filter {text!r} uses teacher_pairs, but no teacher trains on pairs of the pool: "
            "give --teacher-uids FILE, or leave the term out"
        )
    compiled.check_columns(schema, first)
    compiled.check_needs()
    check_clusters(run, compiled)
    check_scores(run, compiled.scores)
    sampled.check_sampling(run, compiled.sampling)
    if set(compiled.column_names) <= set(metadata_schema(first, run.settings.uid_from).names):
        check_functions(compiled, first, run.settings.uid_from)  # else the features stage adds what they read
    for name, path in run.uid_set_paths(compiled.uid_sets).items():
        if name not in (CONTAMINATED, DUPLICATE, ORACLE, DRAWN):
            load_subset(path)  # whole and sorted, or SubsetError; the pieces do not look again
    return str(compiled), notes


def check_functions(compiled: Filter, path: str, uid_from: str) -> None:
    """FilterError where a Python function of the filter fails on the first rows of a metadata file, or is not pure."""
    if compiled.functions:
        with open_metadata(path, uid_from) as file:
            for batch in file.batches(sorted({c for f in compiled.functions for c in f.columns}), SAMPLE_ROWS):
                compiled.check_functions(batch)
                return


def check_metadata(run: Run, text: str) -> None:
    """Looks at the schema of every metadata file of the pool, before any work: the footers alone are read.

    Args:
        text: the filter expression.
    Raises:
        PoolError: a file is no parquet file, or lacks a column, has it twice or of a type that is not read; names
            file and column.
    Cost: a read of each footer, 16 at a time.
    """
    compiled = compile_filter(text)

    def look(path: str) -> None:
        schema = _expected_schema(run, path)
        compiled.check_columns(schema, path)

    for _ in read_ahead(look, run.pool.metadata, threads=_FOOTERS_AT_ONCE, ahead=4 * _FOOTERS_AT_ONCE):
        pass


def _expected_schema(run: Run, path: str) -> pa.Schema:
    """The schema that the filter will find: the pool's, with the columns that the features stage adds."""
    schema = metadata_schema(path, run.settings.uid_from)
    return with_scores(schema, path, [SCORES[prefix] for prefix in run.features])


def _batches(
    compiled: Filter, path: str, columns: list[str], uid_from: str, rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """The batches of a metadata file that has what the filter reads; PoolError where it lacks it."""
    with open_metadata(path, uid_from) as file:
        check_uid_type(file)
        compiled.check_columns(file.schema, path)
        yield from file.batches(columns, rows)


@piece(native=True)
def histogram(
    out: Path,
    files: Sequence[str],
    filter: str,
    column: str,
    search: QuantileSearch,
    output: str,
    uid_from: str = "json",
) -> Nothing:
    """Piece: one pass of the threshold search over some metadata files."""
    compiled = compile_filter(filter)
    counts = np.zeros(NUM_BINS, dtype=np.uint64)
    for path in (str(out / name) for name in files):
        for batch in _batches(compiled, path, [column], uid_from):
            counts += score_histogram(numbers(batch.column(0)), search.prefix, dtype=search.dtype)
    save_array(out / output, counts)
    return Nothing()


def _bytes_of(run: Run, files: Sequence[str]) -> int:
    return sum(os.path.getsize(run.out / name) for name in files)


def _column_dtype(run: Run, compiled: Filter, column: str) -> str:
    """What a column of all metadata files is counted as."""
    types = []
    for name in run.metadata_files:
        path = str(run.out / name)
        schema = metadata_schema(path, run.settings.uid_from)
        compiled.check_columns(schema, path)
        types.append(schema.field(column).type)
    return score_dtype(types)


def _search_threshold(
    run: Run, do: Do, text: str, number: int, quantile: Quantile, scores: ScoreColumns | None
) -> QuantileSearch:
    """The search, done, one pass over the metadata, or over a source's columns, after the other."""
    if scores is not None:
        return find_threshold(run, do, scores, quantile.fraction)
    search = QuantileSearch(quantile.fraction, _column_dtype(run, compile_filter(text), quantile.column))
    groups = [files for _, files in run.metadata_groups()]
    while not search.done:
        turn = len(search.prefix)
        outputs = [f"state/filter/histograms/{number}-{turn}-{g:05d}.npy" for g in range(len(groups))]
        pieces: list[Piece[Nothing]] = []
        for g, (files, output) in enumerate(zip(groups, outputs, strict=True)):
            step, name, weight = f"filter/threshold-{number}-{turn}", f"{g:05d}", _bytes_of(run, files)
            count = histogram.piece(step, name, inputs=files, outputs=[output], weight=weight)
            column, uid_from = quantile.column, run.settings.uid_from
            pieces.append(
                count(files=files, filter=text, column=column, search=search, output=output, uid_from=uid_from)
            )
        do(pieces)
        search.feed(sum((load_array(run.out / output) for output in outputs), np.zeros(NUM_BINS, np.uint64)))
    return search


class _Malformed:
    """Rows without a uid that is one: all counted, the first MAX_NOTED named."""

    def __init__(self) -> None:
        self.count = 0
        self.named: list[MalformedRow] = []

    def note(self, path: str, file_row: int, batch: pa.RecordBatch, valid: npt.NDArray[np.bool_]) -> None:
        for i in map(int, np.flatnonzero(~valid)):
            self.count += 1
            if len(self.named) < MAX_NOTED:
                value = shown_uid(batch, i)
                self.named.append((Path(path).name, file_row + i, None if value is None else value[:200]))

    def save(self, path: Path) -> None:
        import pyarrow as pa

        schema = pa.schema([("file", pa.string()), ("row", pa.uint64()), ("uid", pa.string())])
        rows = [dict(zip(schema.names, row, strict=True)) for row in self.named]
        write_table(pa.Table.from_pylist(rows, schema=schema), path)


class Evaluated(Record):
    """Of some metadata files.

    Attributes:
        malformed: rows without a uid that is one; ``first_malformed`` is the first of them.
        codes: rows of each outcome.
        clusters: of each cluster set rows that are OUTSIDE, INSIDE and UNASKED.
    """

    rows: Count
    malformed: Count
    codes: list[Count]
    clusters: list[list[Count]] = []
    first_malformed: MalformedRow | None = None


@piece()
def evaluate(
    out: Path,
    number: int,
    files: Sequence[str],
    filter: str,
    thresholds: Mapping[str, str],
    uid_sets: Mapping[str, str],
    models: Models,
    clusters: Sequence[ClusterFiles] = (),
    device: str = "",
    uid_from: str = "json",
) -> Evaluated:
    """Piece: the outcome code of every row of some metadata files, as a run of records sorted by uid.

    Args:
        models: in use, for the piece's key.
        clusters, device: of the cluster sets that the filter uses.
    """
    del models
    compiled = compile_filter(filter)
    asked, candidates = compiled.candidates, Candidates()
    subsets = {name: load_subset(out / path, check=False) for name, path in uid_sets.items()}
    sets = [ClusterSet(out, c.key, given, device) for c, given in zip(compiled.clusters, clusters, strict=True)]
    columns = list(dict.fromkeys(["uid", *compiled.column_names]))
    records, malformed, total = [np.empty(0, dtype=RECORD_DTYPE)], _Malformed(), 0
    counts = np.zeros(len(compiled.reasons), dtype=np.int64)
    verdicts = np.zeros((len(sets), 3), dtype=np.int64)
    for path in (str(out / name) for name in files):
        of_file = FileClusters(path, sets)
        columns_of = {s.key: load_array(out / score_path(s.key, path), mmap=True) for s in compiled.scores}
        file_row = 0
        for batch in _batches(compiled, path, columns, uid_from, BLOCK_ROWS if sets else BATCH_ROWS):
            uids, valid = parse_uids(batch)
            inside = of_file.of_batch(len(uids))
            scores = {key: column[file_row : file_row + len(uids)] for key, column in columns_of.items()}
            codes = np.asarray(asked.evaluate(batch, thresholds, subsets, uids, inside, scores))
            if compiled.sampling is not None:
                candidates.add(uids, scores[compiled.sampling.source.key], (codes == 0) & valid)
            counts += np.bincount(codes[valid], minlength=len(counts))
            rows = np.arange(total, total + len(uids), dtype=np.uint64)
            payload = codes[valid].astype(np.uint64) << np.uint64(CODE_SHIFT) | rows[valid]
            records.append(uid_records(uids[valid], payload))
            malformed.note(path, file_row, batch, valid)
            total += len(uids)
            file_row += len(uids)
        for place, verdict in enumerate(of_file.verdicts):
            save_array(out / mask_path(place, path), verdict)
            verdicts[place] += np.bincount(verdict, minlength=3)
    save_records(out / outcome_run(number), record_sort(np.concatenate(records), threads=1))
    malformed.save(out / malformed_path(number))
    if compiled.sampling is not None:
        candidates.save(out / candidate_run(number))
    return Evaluated(
        rows=total,
        malformed=malformed.count,
        codes=counts.tolist(),
        clusters=verdicts.tolist(),
        first_malformed=next(iter(malformed.named), None),
    )


@piece()
def write_oracle(out: Path) -> Nothing:
    """Piece: the uids of the built-in world's rows without any defect, as the filter ``oracle`` keeps them."""
    import pyarrow.compute as pc

    truth = read_table(out / "world/truth.parquet", columns=["uid", "clean"])
    uids, _ = uid_parse(truth["uid"].filter(pc.fill_null(truth["clean"], False)).combine_chunks())
    save_subset(out / ORACLE_PATH, uid_unique(uids, threads=1))
    return Nothing()


@piece()
def merge_outcomes(out: Path, groups: int, output: str = OUTCOMES) -> Nothing:
    """Piece: merges the runs into ``filter/outcomes.npy``, or into what copies are drawn from first."""
    merge_runs([out / outcome_run(n) for n in range(groups)], out / output, memory_bytes=MERGE_BYTES)
    return Nothing()


def _thresholds(
    run: Run, do: Do, text: str, compiled: Filter, scores: Sequence[ScoreColumns], notes: list[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The thresholds by key, as ``evaluate`` wants them and as they are shown."""
    exact: dict[str, str] = {}
    shown: dict[str, str] = {}
    by_key = {columns.source.key: columns for columns in scores}
    for number, quantile in enumerate(compiled.quantiles):
        search = _search_threshold(run, do, text, number, quantile, by_key.get(quantile.column))
        exact[quantile.key] = search.threshold_text
        shown[quantile.key] = repr(search.threshold)
        columns = by_key.get(quantile.column)
        if search.missing_scores and (columns is None or columns.scored):  # else the notes say that none has a score
            notes.append(f"{quantile.column}: fewer rows have a score than the fraction {quantile.fraction} asks for")
    return exact, shown


def _evaluate_all(
    run: Run, do: Do, text: str, compiled: Filter, scores: Sequence[ScoreColumns], thresholds: dict[str, str]
) -> tuple[list[Evaluated], dict[str, ClusterCounts]]:
    """From the thresholds to the outcome of every row: the pieces' statistics, and what was done for the clusters."""
    sets = run.uid_set_paths(compiled.candidates.uid_sets)
    if ORACLE in sets:
        oracle = write_oracle.piece("filter/oracle", "oracle", inputs=["world/truth.parquet"], outputs=[ORACLE_PATH])
        do.one(oracle())
    groups, device = [files for _, files in run.metadata_groups()], run.settings.device
    cluster_files, clusters = make_clusters(run, do, compiled.clusters)
    of_clusters = [path for files in cluster_files for path in (files.centroids, files.chosen)]
    stats = do(
        evaluate.piece(
            "filter/evaluate",
            f"{number:05d}",
            inputs=[
                *files,
                *sets.values(),
                *of_clusters,
                *(map(sibling_npz, files) if cluster_files else ()),
                *(path for columns in scores for path in columns.paths(files)),
            ],
            outputs=[
                outcome_run(number),
                malformed_path(number),
                *(mask_path(i, name) for i in range(len(cluster_files)) for name in files),
                *([candidate_run(number)] if compiled.sampling is not None else ()),
            ],
            weight=_bytes_of(run, files),
            gpus=gpu_share(device) if cluster_files else 0.0,
            native=not cluster_files and compiled.is_native,
        )(
            number=number,
            files=files,
            filter=text,
            thresholds=thresholds,
            uid_sets=sets,
            models=compiled.fingerprint(),
            clusters=tuple(cluster_files),
            device=device if cluster_files else "",
            uid_from=run.settings.uid_from,
        )
        for number, files in enumerate(groups)
    )
    runs = [outcome_run(n) for n in range(len(groups))]
    if compiled.sampling is None:
        do.one(merge_outcomes.piece("filter/merge", "outcomes", inputs=runs, outputs=[OUTCOMES])(groups=len(groups)))
    else:
        merge = merge_outcomes.piece("filter/merge", "asked", inputs=runs, outputs=[ASKED])
        do.one(merge(groups=len(groups), output=ASKED))
    for i, counts in enumerate(clusters):
        outside, inside = (sum(s.clusters[i][verdict] for s in stats) for verdict in (OUTSIDE, INSIDE))
        clusters[i] = replaced(counts, rows_asked=outside + inside, rows_inside=inside)
    return stats, {c.key: counts for c, counts in zip(compiled.clusters, clusters, strict=True)}


def steps(run: Run, do: Do) -> FilterSummary:
    """Thresholds, outcomes, the metadata's subset; where there are shards, fates and the subset of their samples."""
    if run.metadata_only:
        refuse_metadata_without_uids(run)  # else the index stage has
    text, notes = resolve_expression(run)
    compiled, rule = compile_filter(text), run.settings.uid_from
    if DUPLICATE in compiled.uid_sets and not run.has_summary("dedup"):
        raise RunError(f"filter {text!r} uses duplicate, and {run.out} has not looked for duplicates: run dedup first")
    check_functions(compiled, str(run.out / run.metadata_files[0]), rule)
    scores = make_scores(run, do, compiled.scores)
    notes += [note for columns in scores for note in columns.notes]
    thresholds, shown = _thresholds(run, do, text, compiled, scores, notes)
    stats, clusters = _evaluate_all(run, do, text, compiled, scores, thresholds)
    codes = np.sum([s.codes for s in stats], axis=0).tolist()
    drawn = None if compiled.sampling is None else make_draw(do, text, len(stats))
    passing = None
    if drawn is not None:
        codes[0], codes[-1] = drawn.rows, codes[0] - drawn.rows
    else:
        passing = write_metadata_subset.piece(
            "filter/subset_metadata", "subset_metadata", inputs=[OUTCOMES], outputs=[METADATA_SUBSET]
        )(rows=codes[0])
    # fates.parquet is published: a uid file is named by its last part
    reasons = list(without_places(dict.fromkeys(compiled.reasons)))
    rows, malformed = sum(s.rows for s in stats), sum(s.malformed for s in stats)
    first = next((s.first_malformed for s in stats if s.first_malformed), None)
    notes += malformed_notes(first, rows, malformed, rule, metadata_only=run.metadata_only)
    summary = FilterSummary(
        filter=text,
        fates={},
        subset=None,
        thresholds=shown,
        models=compiled.fingerprint(),
        clusters=clusters,
        metadata_rows=rows,
        malformed_uids=malformed,
        metadata_outcomes={reason: codes[i] for i, reason in enumerate(reasons) if codes[i]},
        subset_metadata=codes[0] if drawn is None else drawn.copies.copies,
        sampled=UNSET if drawn is None else drawn.copies,
        unasked=unasked_rows(run.pool.root),
    )
    if run.metadata_only:
        if passing is not None:
            do.one(passing)
        notes += sampled_notes(summary)
        notes.append(
            f"pool {run.pool.root.name} has no shards yet, so its metadata was filtered and nothing else: the same "
            "command, without --to filter, goes on when they are there"
        )
        return replaced(summary, notes=notes)
    summary = fates.assign_outcomes(run, do, summary, reasons, [s.malformed for s in stats], beside=passing)
    notes += unmatched_notes(summary.fates, rows, malformed, rule)
    notes += sampled_notes(summary)
    notes += repeated_notes(summary.repeated_in_metadata, summary.repeated_in_pool, rule)
    return replaced(summary, notes=notes, contaminated=count_contaminated(run, do))
