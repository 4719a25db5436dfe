"""Stage ``filter``: what the filter expression says of every metadata row, then the fate of every sample.

Thresholds by fraction first (histogram passes over the metadata files), then the expression on each file, then
``subsets`` and ``fates``, then how many of the kept are copies of evaluation pictures. Writes ``filter/outcomes.npy``
(uid -> code, sorted); these two write the rest. Where the pool has no shards yet, there are no fates. Memory: the rows
of a piece's metadata files at about 100 bytes each in a worker; no whole column.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcfast.engine.piece import Piece
from dcfast.errors import FilterError, PoolError
from dcfast.features.files import sibling_npz
from dcfast.filters import (
    NUM_BINS,
    QuantileSearch,
    compile_filter,
    default_filter,
    numbers,
    score_dtype,
    score_histogram,
)
from dcfast.filters.term import CONTAMINATED, ORACLE, SCORES, TEACHER_PAIRS
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
)
from dcfast.rundir.run_dir import Run
from dcfast.stages.filter import fates
from dcfast.stages.filter.centroids import BLOCK_ROWS
from dcfast.stages.filter.clusters import ClusterSet, FileClusters, check_clusters, cluster_steps
from dcfast.stages.filter.leaked import contaminated_steps
from dcfast.stages.filter.notes import malformed_notes, repeated_notes, unmatched_notes
from dcfast.stages.index import refuse_metadata_without_uids
from dcfast.stages.runner import Steps
from dcfast.storage.atomic import atomic_path
from dcfast.storage.npz import load_array, save_array
from dcfast.storage.parquet import BATCH_ROWS, read_table
from dcfast.storage.paths import absolute
from dcfast.storage.published import without_places
from dcfast.uids.sets import (
    RECORD_DTYPE,
    load_subset,
    merge_runs,
    open_records,
    record_sort,
    save_records,
    save_subset,
    uid_parse,
    uid_unique,
)

if TYPE_CHECKING:
    from dcfast.filters.compiled import Filter

__all__ = ["check_metadata", "resolve_expression", "steps"]

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
    schema = _expected_schema(run, first, metadata_schema(first, run.settings.uid_from))
    available = run.evalset_dir is not None and not run.metadata_only
    notes: list[str] = []
    text = run.settings.filter
    if text is None:
        text, notes = default_filter(set(schema.names), available)
        if run.metadata_only and run.evalset_dir is not None:
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
    if CONTAMINATED in compiled.uid_sets and not available:
        raise FilterError(
            f"filter {text!r} uses contaminated, but there are no evaluation sets to compare with: "
            "give --evalsets DIR, or leave the term out"
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
    for name, path in _uid_set_paths(run, compiled.uid_sets).items():
        if name not in (CONTAMINATED, ORACLE):
            load_subset(path)  # whole and sorted, or SubsetError; the pieces do not look again
    return str(compiled), notes


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
        schema = _expected_schema(run, path, metadata_schema(path, run.settings.uid_from))
        compiled.check_columns(schema, path)

    for _ in read_ahead(look, run.pool.metadata, threads=_FOOTERS_AT_ONCE, ahead=4 * _FOOTERS_AT_ONCE):
        pass


def _expected_schema(run: Run, path: str, schema: Any) -> Any:
    """The schema that the filter will find: the pool's, with the columns that the features stage adds."""
    import pyarrow as pa

    for prefix in run.features:
        name = SCORES[prefix]
        found, field = schema.get_all_field_indices(name), pa.field(name, pa.float32())
        if len(found) > 1:
            raise PoolError(f"metadata {path} has {len(found)} columns {name!r}, one of which was to be replaced")
        schema = schema.set(found[0], field) if found else schema.append(field)
    return schema


def _uid_set_paths(run: Run, names: list[str]) -> dict[str, str]:
    """Where each uid set of a filter lies; those of the run relative to its directory."""
    own = {CONTAMINATED: "contaminated.npy", ORACLE: ORACLE_PATH, TEACHER_PAIRS: run.settings.teacher_uids}
    return {name: str(own.get(name) or absolute(name)) for name in names}


def _batches(compiled: Filter, path: str, columns: list[str], uid_from: str, rows: int = BATCH_ROWS) -> Iterator[Any]:
    """The batches of a metadata file that has what the filter reads; PoolError where it lacks it."""
    with open_metadata(path, uid_from) as file:
        check_uid_type(file)
        compiled.check_columns(file.schema, path)
        yield from file.batches(columns, rows)


def histogram(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: one pass of the threshold search over some metadata files."""

    root = Path(out)
    compiled = compile_filter(args["filter"])
    search = QuantileSearch.from_json(args["search"])
    counts = np.zeros(NUM_BINS, dtype=np.uint64)
    for path in (str(root / name) for name in args["files"]):
        for batch in _batches(compiled, path, [args["column"]], args.get("uid_from", "json")):
            counts += score_histogram(numbers(batch.column(0)), search.prefix, dtype=search.dtype)
    save_array(root / args["output"], counts)
    return {}


def _search_threshold(run: Run, text: str, number: int, column: str, fraction: float) -> Any:
    """Sub-steps of the threshold search: yields pieces of one pass after the other, returns the search, done."""

    compiled = compile_filter(text)
    types = []
    for name in run.metadata_files:
        path = str(run.out / name)
        schema = metadata_schema(path, run.settings.uid_from)
        compiled.check_columns(schema, path)
        types.append(schema.field(column).type)
    search = QuantileSearch(fraction, score_dtype(types))
    groups = run.metadata_groups()
    while not search.done:
        turn = len(search.prefix)
        outputs = [f"state/filter/histograms/{number}-{turn}-{g:05d}.npy" for g in range(len(groups))]
        yield [
            Piece(
                f"filter/threshold-{number}-{turn}",
                f"{g:05d}",
                "dcfast.stages.filter.outcomes:histogram",
                {
                    "files": files,
                    "filter": text,
                    "column": column,
                    "search": search.to_json(),
                    "output": outputs[g],
                    **run.uid_rule,
                },
                inputs=tuple(files),
                outputs=(outputs[g],),
                weight=sum(os.path.getsize(run.out / f) for f in files),
                native=True,
            )
            for g, (_, files) in enumerate(groups)
        ]
        merged = np.zeros(NUM_BINS, dtype=np.uint64)
        for output in outputs:
            merged += load_array(run.out / output)
        search.feed(merged)
    return search


class _Malformed:
    """Rows without a uid that is one: all counted, the first MAX_NOTED named."""

    def __init__(self) -> None:
        self.count = 0
        self.named: dict[str, list[Any]] = {"file": [], "row": [], "uid": []}

    def note(self, path: str, file_row: int, batch: Any, valid: Any) -> None:
        for i in np.flatnonzero(~valid):
            self.count += 1
            if len(self.named["row"]) < MAX_NOTED:
                value = shown_uid(batch, int(i))
                self.named["file"].append(Path(path).name)
                self.named["row"].append(file_row + int(i))
                self.named["uid"].append(None if value is None else value[:200])

    def save(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([("file", pa.string()), ("row", pa.uint64()), ("uid", pa.string())])
        with atomic_path(path) as temporary:
            pq.write_table(pa.table(self.named, schema=schema), temporary)

    @property
    def first(self) -> list[Any] | None:
        return [column[0] for column in self.named.values()] if self.count else None


def evaluate(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the outcome code of every row of some metadata files, as a run of records sorted by uid."""
    root = Path(out)
    compiled = compile_filter(args["filter"])
    uid_sets = {name: load_subset(root / path, check=False) for name, path in args["uid_sets"].items()}
    given = zip(compiled.clusters, args.get("clusters", ()), strict=True)
    sets = [ClusterSet(root, clusters.key, files, args["device"]) for clusters, files in given]
    columns = list(dict.fromkeys(["uid", *compiled.column_names]))
    uid_from = args.get("uid_from", "json")
    records: list[Any] = []
    malformed = _Malformed()
    total = 0
    counts = np.zeros(len(compiled.reasons), dtype=np.int64)
    verdicts = np.zeros((len(sets), 3), dtype=np.int64)
    for path in (str(root / name) for name in args["files"]):
        clusters = FileClusters(path, sets)
        file_row = 0
        for batch in _batches(compiled, path, columns, uid_from, BLOCK_ROWS if sets else BATCH_ROWS):
            uids, valid = parse_uids(batch)
            asked = clusters.of_batch(len(uids))
            codes = np.asarray(compiled.evaluate(batch, args["thresholds"], uid_sets, uids, asked))
            counts += np.bincount(codes[valid], minlength=len(counts))
            part = np.empty(int(valid.sum()), dtype=RECORD_DTYPE)
            part["f0"], part["f1"] = uids["f0"][valid], uids["f1"][valid]
            rows = np.arange(total, total + len(uids), dtype=np.uint64)
            part["f2"] = codes[valid].astype(np.uint64) << np.uint64(CODE_SHIFT) | rows[valid]
            records.append(part)
            malformed.note(path, file_row, batch, valid)
            total += len(uids)
            file_row += len(uids)
        for number, known in enumerate(clusters.verdicts):
            save_array(root / mask_path(number, path), known)
            verdicts[number] += np.bincount(known, minlength=3)
    everything = np.concatenate(records) if records else np.empty(0, dtype=RECORD_DTYPE)
    save_records(root / outcome_run(args["number"]), record_sort(everything, threads=1))
    malformed.save(root / malformed_path(args["number"]))
    return {
        "rows": total,
        "malformed": malformed.count,
        "first_malformed": malformed.first,
        "codes": counts.tolist(),
        "clusters": verdicts.tolist(),
    }


def write_oracle(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the uids of the built-in world's rows without any defect, as the filter ``oracle`` keeps them."""
    import pyarrow.compute as pc

    root = Path(out)
    truth = read_table(root / "world/truth.parquet", columns=["uid", "clean"])
    uids, _ = uid_parse(truth["uid"].filter(pc.fill_null(truth["clean"], False)).combine_chunks())
    clean = uid_unique(uids, threads=1)
    save_subset(root / ORACLE_PATH, clean)
    return {"uids": len(clean)}


def merge_outcomes(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: merges the runs into ``filter/outcomes.npy``; counts repeated uids."""
    root = Path(out)
    runs = [root / outcome_run(n) for n in range(args["groups"])]
    merge_runs(runs, root / OUTCOMES, memory_bytes=MERGE_BYTES)
    return {"rows": len(open_records(root / OUTCOMES))}


def _asked(stats: list[dict[str, Any]], number: int) -> dict[str, int]:
    """How many rows the number-th cluster set was asked about, and how many of them are inside."""
    outside, inside = (sum(s["clusters"][number][kind] for s in stats) for kind in (OUTSIDE, INSIDE))
    return {"rows_asked": outside + inside, "rows_inside": inside}


def _thresholds(run: Run, text: str, compiled: Filter, notes: list[str]) -> Any:
    """The steps that find the thresholds; returns them by key, as ``evaluate`` wants them and as they are shown."""
    exact: dict[str, str] = {}
    shown: dict[str, str] = {}
    for number, quantile in enumerate(compiled.quantiles):
        search = yield from _search_threshold(run, text, number, quantile.column, quantile.fraction)
        exact[quantile.key] = search.threshold_text
        shown[quantile.key] = repr(search.threshold)
        if search.missing_scores:
            notes.append(f"{quantile.column}: fewer rows have a score than the fraction {quantile.fraction} asks for")
    return exact, shown


def _evaluation(run: Run, text: str, compiled: Filter, thresholds: dict[str, str]) -> Any:
    """The steps from the thresholds to the outcome of every row; returns the pieces' statistics, and what was done for
    the clusters."""
    sets = _uid_set_paths(run, compiled.uid_sets)
    if ORACLE in sets:
        yield [
            Piece(
                "filter/oracle",
                "oracle",
                "dcfast.stages.filter.outcomes:write_oracle",
                {},
                inputs=("world/truth.parquet",),
                outputs=(ORACLE_PATH,),
            )
        ]
    groups = run.metadata_groups()
    cluster_files, clusters = yield from cluster_steps(run, compiled.clusters)
    arguments: dict[str, Any] = {"filter": text, "thresholds": thresholds, "uid_sets": sets, **run.uid_rule}
    arguments["models"] = compiled.fingerprint()
    if cluster_files:
        arguments |= {"clusters": cluster_files, "device": run.settings.device}
    of_clusters = tuple(path for files in cluster_files for path in files.values())
    stats = yield [
        Piece(
            "filter/evaluate",
            f"{number:05d}",
            "dcfast.stages.filter.outcomes:evaluate",
            {"number": number, "files": files, **arguments},
            inputs=(*files, *sets.values(), *of_clusters, *(map(sibling_npz, files) if cluster_files else ())),
            outputs=(
                outcome_run(number),
                malformed_path(number),
                *(mask_path(i, name) for i in range(len(cluster_files)) for name in files),
            ),
            weight=sum(os.path.getsize(run.out / f) for f in files),
            gpus=gpu_share(run.settings.device) if cluster_files else 0.0,
            native=not cluster_files and compiled.is_native,
        )
        for number, (_, files) in enumerate(groups)
    ]
    yield [
        Piece(
            "filter/merge",
            "outcomes",
            "dcfast.stages.filter.outcomes:merge_outcomes",
            {"groups": len(groups)},
            inputs=tuple(outcome_run(n) for n in range(len(groups))),
            outputs=(OUTCOMES,),
        )
    ]
    return stats, {c.key: {**clusters[i], **_asked(stats, i)} for i, c in enumerate(compiled.clusters)}


def steps(run: Run) -> Steps:
    """Thresholds, outcomes, the metadata's subset; where there are shards, fates and the subset of their samples."""
    if run.metadata_only:
        refuse_metadata_without_uids(run)  # else the index stage has
    text, notes = resolve_expression(run)
    compiled = compile_filter(text)
    thresholds, shown = yield from _thresholds(run, text, compiled, notes)
    stats, clusters = yield from _evaluation(run, text, compiled, thresholds)
    codes = np.sum([s["codes"] for s in stats], axis=0).tolist()
    metadata_subset = Piece(
        "filter/subset_metadata",
        "subset_metadata",
        "dcfast.stages.filter.subsets:write_metadata_subset",
        {"rows": codes[0]},
        inputs=(OUTCOMES,),
        outputs=(METADATA_SUBSET,),
        native=True,
    )
    # fates.parquet is published: a uid file is named by its last part
    reasons = list(without_places(dict.fromkeys(compiled.reasons)))
    rows, malformed = sum(s["rows"] for s in stats), sum(s["malformed"] for s in stats)
    # pieces that an earlier release wrote do not name the first
    first = next((s["first_malformed"] for s in stats if s.get("first_malformed")), None)
    only = run.metadata_only
    notes += malformed_notes(first, rows, malformed, run.settings.uid_from, metadata_only=only)
    if only:
        yield [metadata_subset]
        settled, contaminated = fates.of_no_samples(), None
        notes.append(
            f"pool {run.pool.root.name} has no shards yet, so its metadata was filtered and nothing else: the same "
            "command, without --to filter, goes on when they are there"
        )
    else:
        settled = yield from fates.assign_outcomes(
            run, reasons, [s["malformed"] for s in stats], beside=[metadata_subset]
        )
        contaminated = yield from contaminated_steps(run)
        notes += unmatched_notes(settled["fates"], rows, malformed, run.settings.uid_from)
        notes += repeated_notes(settled, run.settings.uid_from)
    return {
        "filter": text,
        "notes": notes,
        "thresholds": shown,
        "clusters": clusters,
        "metadata_rows": rows,
        "malformed_uids": malformed,
        "metadata_outcomes": {reason: codes[i] for i, reason in enumerate(reasons) if codes[i]},
        "subset_metadata": codes[0],
        "models": compiled.fingerprint(),
        "contaminated": contaminated,
        **settled,
    }
