"""Gathers what the stages recorded into one document: the numbers of the report.

Counts come from the stages' summaries; tables are read in bounded stretches (``sampling``). A stage that has not
run leaves its part empty, with a note.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dcfast.acquire.summary import AcquireSummary, read_acquired
from dcfast.errors import DcfastError
from dcfast.report.facts import document, filter_parts, sampling, truth
from dcfast.report.facts.contamination import contaminated_kept, contamination
from dcfast.report.facts.document import Report
from dcfast.report.facts.draw import Choice, draw, thresholds_of
from dcfast.report.facts.inventory import files_of, timings
from dcfast.report.facts.metadata_rows import Examined, examine, metadata_files
from dcfast.report.facts.outcome import compare_scores
from dcfast.report.facts.samples import GalleryRow, QuarantineRow, gallery
from dcfast.report.facts.training import trainings, verdict
from dcfast.report.text import clean
from dcfast.rundir import summaries
from dcfast.rundir.branch import comparison_dir
from dcfast.rundir.layout import FATES, filter_as_asked
from dcfast.rundir.lookup import SampleLookup
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.rundir.stage_table import STAGES
from dcfast.rundir.summaries import FilterSummary, find_summary
from dcfast.rundir.summary import Summary
from dcfast.scales import SCALES
from dcfast.storage.records import Record, replaced

S = TypeVar("S", bound=Summary)
_NOT_FILTERED = FilterSummary("", {}, None, None, {})
"""Stands for the filter stage's where it has not run."""
QUARANTINE_ROWS = 50
DAMAGE_ROWS = 50


class _ManifestSubset(Record):
    sha256: str | None = None


class _Manifest(Record):
    """What the report reads of ``manifest.json``."""

    versions: dict[str, str] = {}
    settings: dict[str, str | int | float | bool | list[str] | dict[str, str | int | float | bool] | None] = {}
    subset: _ManifestSubset = _ManifestSubset()
    recipe_sha256: str | None = None
    non_standard: list[str] = []


class _FilterLook(NamedTuple):
    """What the filter says of some rows of the metadata; ``problem``: why it could not be asked."""

    seen: Examined | None = None
    overlap: filter_parts.Overlap | None = None
    clip_scores: filter_parts.ClipScores | None = None
    source_scores: Sequence[filter_parts.ClipScores] = ()
    rules_truth: filter_parts.RulesTruth | None = None
    problem: str | None = None


def _summary(run: Run, kind: type[S]) -> S | None:
    return find_summary(run.summary_path(kind.stage), kind)


def _departures(settings: Settings, manifest: _Manifest) -> list[str]:
    """Why results of this run are not to be compared with DataComp's own; empty for a standard run."""
    reasons = list(manifest.non_standard)
    recipe = SCALES.get(settings.scale)
    if recipe is None:
        reasons.append(f"scale {settings.scale!r} is unknown")
    elif manifest.recipe_sha256 not in (None, recipe.fingerprint()):
        reasons.append(f"the recipe is not the frozen one of scale {settings.scale}")
    for name in ("shard_size", "max_distance", "max_distance_256"):
        value, usual = getattr(settings, name), getattr(Settings(), name)
        if value != usual:
            reasons.append(f"{name} is {value}, not {usual}")
    return reasons


def _reasons(chosen: FilterSummary) -> list[document.Reason]:
    """Why samples were not kept; the fates in their order, frequent reasons first."""
    by_filter = set(chosen.metadata_outcomes) - {"kept"}
    reasons = []
    for reason, count in chosen.reasons.items():
        other = "unlisted" if reason.startswith("no metadata row") else "quarantined"
        reasons.append(document.Reason("dropped" if reason in by_filter else other, reason, count))
    if missing := chosen.fates.get("missing", 0):
        reasons.append(document.Reason("missing", "no sample of the shards has this uid", missing))
    if chosen.malformed_uids:
        reasons.append(
            document.Reason("quarantined", "uid of a metadata row is not 32 hex digits", chosen.malformed_uids)
        )
    return sorted(reasons, key=lambda row: (FATES.index(row.fate), -row.count, row.reason))


def _notes(run: Run, chosen: FilterSummary, report: Report) -> list[str]:
    """What a reader must know to read the numbers rightly, in sentences."""
    stages = (chosen, report.index, report.signatures)
    notes = [note for stage in stages if stage is not None for note in stage.notes]
    waiting = [s for s in STAGES if s != "report" and run.asks_for(s) and s not in report.run.stages]
    if waiting:
        notes.append(f"Not run yet, so not in this report: {', '.join(waiting)}.")
    if report.signatures is not None and not report.signatures.decoded:
        notes.append("Pictures were not decoded in this run, so broken ones are not in quarantine (--verify-images).")
    if report.look_problem:
        notes.append(report.look_problem)
    scores, trained = report.scores, report.training
    notes += [f"Scores: {reason}." for reason in scores.refused]
    failed = [clean(row.dataset, 60) for row in scores.sets if row.error]
    if failed:
        notes.append(f"Scores: these sets could not be scored, so no average counts them: {', '.join(failed)}.")
    notes += [f"The two trainings: {reason}." for reason in trained.unfair]
    notes += [f"Training: {note}" for note in (trained.run.notes if trained.run is not None else [])]
    if report.comparison is not None and scores.available and not scores.common.sets:
        notes.append("The comparison run has no scores yet: the scores stand alone.")
    evidence = report.contamination
    notes += evidence.notes
    if "decontaminate" in report.run.stages and not evidence.available:
        notes.append("There were no evaluation sets to compare with: contamination is unknown (--evalsets DIR).")
    kept = report.subset.contaminated
    if kept:
        notes.append(f"{kept:,} of the kept uids are contaminated: the filter does not exclude them (~contaminated).")
    other = scores.trained_on.comparison
    if other is not None and other.marked:
        notes.append(f"The comparison run trained on {other.words}: its scores on these sets are marked \u2020.")
    counted = evidence.counted_rows or 0
    if counted < (evidence.evidence_rows or 0):
        notes.append(f"Hits are counted by evaluation set over the first {counted:,} rows of evidence.")
    return notes


def _comparison(run: Run, out: Path | None) -> document.Comparison | None:
    """The comparison run: its filter, subset (and how much of it is clean) and times; None where there is none."""
    if out is None or not (out / "state").is_dir():
        return None
    chosen = find_summary(out / "state" / "filter.json", FilterSummary) or _NOT_FILTERED
    judged = truth.compare_with_truth(out) if run.is_world else None
    clean_share = judged.filter.precision if judged is not None and judged.filter is not None else None
    expression, kept = chosen.filter or run.compare, chosen.fates.get("kept")
    times = timings(out / "state" / "timings.jsonl")
    return document.Comparison(expression, str(out), chosen.subset, kept, clean_share, times)


def _look(run: Run, chosen: FilterSummary) -> _FilterLook:
    """Asks the filter again, over some rows of the metadata."""
    if not chosen.filter or not (run.out / "subset.npy").exists():
        return _FilterLook()
    files = metadata_files(run)
    if not files:
        problem = "The metadata is not where it was: no overlap of the filter's rules, no CLIP scores."
        return _FilterLook(problem=problem)
    try:
        thresholds = thresholds_of(run)
        seen = examine(run, files, chosen.filter, thresholds)
    except (DcfastError, OSError, ValueError, KeyError) as error:  # moved, or a model that this machine lacks
        problem = f"The filter cannot be asked again, so its rules' overlap is not shown: {clean(str(error))}"
        return _FilterLook(problem=problem)
    masks = truth.truth_masks(filter_parts.uids_of(seen), run.out) if run.is_world else {}
    clip = filter_parts.clip_scores(seen, chosen.filter, thresholds, masks)
    sources = filter_parts.source_scores(seen, masks)
    rules = filter_parts.rules_against_truth(seen, masks)
    return _FilterLook(seen, filter_parts.overlap(seen), clip, sources, rules)


def _gallery(
    run: Run, look: _FilterLook, expression: str | None
) -> tuple[dict[str, list[GalleryRow]], document.GalleryDraw]:
    table = run.out / "fates.parquet"
    drawn = gallery(table)
    chosen = drawn.sections | (truth.mistakes(run.out) if run.is_world else {})
    if look.seen is not None and look.clip_scores is not None:
        chosen = filter_parts.with_scores(chosen, look.seen, look.clip_scores.column)
    asked = None
    if expression is not None:
        rows, asked = _asked(run, expression)
        chosen["asked"] = rows
    return chosen, document.GalleryDraw(drawn.rows, sampling.num_rows(table), asked)


def _asked(run: Run, expression: str) -> tuple[list[GalleryRow], document.AskedGallery]:
    """The samples that an expression asked for, or why there are none."""
    try:
        drawn = draw(run, SampleLookup(run.out), Choice(expression))
    except (DcfastError, OSError, ValueError, KeyError) as error:
        return [], document.AskedGallery(expression, problem=clean(str(error), 600))
    return drawn.rows, document.AskedGallery(expression, drawn.looked, drawn.of, drawn.matching)


def _filter_facts(given: str | None, chosen: FilterSummary, acquired: AcquireSummary | None) -> document.FilterFacts:
    has_run = chosen is not _NOT_FILTERED
    return document.FilterFacts(
        chosen.filter or None,
        given,
        chosen.thresholds,
        chosen.metadata_rows if has_run else None,
        chosen.malformed_uids if has_run else None,
        chosen.models.get("language_model"),
        chosen.metadata_outcomes,
        filter_as_asked(chosen.filter or None, "" if acquired is None else acquired.chosen_by),
        chosen.sampled,
    )


def _quarantine(table: Path) -> document.Quarantine:
    def shown(text: str | None) -> str | None:
        return None if text is None else clean(text)

    rows = sampling.head(table, QuarantineRow, QUARANTINE_ROWS)
    rows = [QuarantineRow(shown(r.shard), r.row, shown(r.key), shown(r.uid), shown(r.reason)) for r in rows]
    return document.Quarantine(sampling.num_rows(table), rows)


def collect(run: Run, gallery_filter: str | None = None) -> Report:
    """The report of a run; with samples that pass ``gallery_filter``, where it is given.

    Memory: a batch of a table at a time. Cost: the summaries, bounded stretches of the tables, and one stream of
    at most MAX_EVIDENCE_ROWS rows of evidence. Raises nothing for parts that are absent or no JSON; CorruptDataError
    names file and field where a field is of another type than the stage writes.
    """
    out, settings = run.out, run.settings
    chosen, index = _summary(run, FilterSummary) or _NOT_FILTERED, _summary(run, summaries.IndexSummary)
    signatures = _summary(run, summaries.SignaturesSummary)
    decontaminate = _summary(run, summaries.DecontaminateSummary)
    has_run = [s for s in STAGES if s != "report" and find_summary(run.summary_path(s), Summary) is not None]
    manifest = find_summary(out / "manifest.json", _Manifest) or _Manifest()
    departures = _departures(settings, manifest)
    damaged = index.damaged_shards if index is not None and chosen is _NOT_FILTERED else chosen.damaged_shards
    look = _look(run, chosen)
    compared = comparison_dir(run)
    comparison = _comparison(run, compared)
    scores = compare_scores(out, compared, run.evalset_dir)
    trained = trainings(out, compared)
    shown, drawn = _gallery(run, look, gallery_filter)
    acquired = None if run.is_world else read_acquired(run.pool_dir)
    report = Report(
        document.RunFacts(str(out), settings.scale, settings.pool, settings.evalsets, run.is_world, has_run),
        not departures,
        departures,
        acquired,
        index,
        signatures,
        fates={name: chosen.fates.get(name, 0) for name in FATES} if "filter" in has_run else {},
        reasons=_reasons(chosen),
        filter=_filter_facts(settings.filter, chosen, acquired),
        subset=document.Subset(chosen.subset, manifest.subset.sha256, contaminated_kept(out)),
        repeated=document.Repeated(chosen.repeated_in_pool, chosen.repeated_in_metadata),
        dedup=_summary(run, summaries.DedupSummary),
        contamination=contamination(out, decontaminate, signatures, settings.max_distance),
        gallery=shown,
        draw=drawn,
        quarantine=_quarantine(out / "quarantine.parquet"),
        damage=document.Damage(damaged, [(clean(name), clean(what)) for name, what in chosen.damage[:DAMAGE_ROWS]]),
        reshard=_summary(run, summaries.ReshardSummary),
        verify=_summary(run, summaries.VerifySummary),
        world=truth.compare_with_truth(out) if run.is_world else None,
        timings=timings(out / "state" / "timings.jsonl"),
        files=files_of(out),
        manifest=find_summary(out / "manifest.json", dict[str, Any]),
        overlap=look.overlap,
        clip_scores=look.clip_scores,
        source_scores=list(look.source_scores),
        rules_truth=look.rules_truth,
        look_problem=look.problem,
        comparison=comparison,
        scores=scores,
        training=trained,
        verdict=verdict(scores, trained, chosen.subset, None if comparison is None else comparison.uids),
        notes=[],
    )
    return replaced(report, notes=_notes(run, chosen, report))
