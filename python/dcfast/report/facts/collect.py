"""Gathers what the stages recorded into one JSON document: the numbers of the report.

Counts come from the stages' summaries; tables are read in bounded stretches (``sampling``). A stage that has not
run leaves its part empty, with a note. Keys: docs/report.md.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dcfast.errors import DcfastError
from dcfast.index.pool import metadata_folder
from dcfast.report.facts import samples
from dcfast.report.facts.contamination import contaminated_kept, contamination
from dcfast.report.facts.copies import MARK
from dcfast.report.facts.filter_parts import clip_scores, gallery_scores, overlap, rules_against_truth, truth_of
from dcfast.report.facts.inventory import files_of, timings
from dcfast.report.facts.metadata_rows import Examined, examine, metadata_files
from dcfast.report.facts.outcome import compare_scores, read_json
from dcfast.report.facts.sampling import head, num_rows
from dcfast.report.facts.training import training, verdict
from dcfast.report.facts.truth import compare_with_truth, mistakes
from dcfast.report.text import clean
from dcfast.rundir.branch import comparison_dir
from dcfast.rundir.layout import FATES
from dcfast.rundir.run_dir import Run, Settings
from dcfast.rundir.stage_table import STAGES
from dcfast.scales import SCALES

__all__ = ["REPORT_VERSION", "Source", "collect"]

REPORT_VERSION = 3
QUARANTINE_ROWS = 50
DAMAGE_ROWS = 50
_SETTINGS = frozenset(f.name for f in fields(Settings))


@dataclass(frozen=True)
class Source:
    """What a report is made of, in JSON types, so that it can travel to another process.

    Attributes:
        out: the run directory.
        settings: of the run (``Settings`` as a dictionary).
        shard_dir: the pool's shards.
        world: whether the pool is the built-in world.
    """

    out: Path
    settings: dict[str, Any]
    shard_dir: Path
    world: bool

    def summary(self, stage: str) -> dict[str, Any]:
        """A stage's summary; empty where it has not run. CorruptDataError: a field is of another type."""
        return read_json(self.out / "state" / f"{stage}.json", stage)

    @property
    def run(self) -> Run:
        """The run, for what follows from its settings; nothing of it is opened."""
        return Run(self.out, Settings(**{k: v for k, v in self.settings.items() if k in _SETTINGS}))


def _departures(source: Source, manifest: dict[str, Any]) -> list[str]:
    """Why results of this run are not to be compared with DataComp's own; empty for a standard run."""
    found = [str(reason) for reason in manifest.get("non_standard", [])]
    name = str(source.settings.get("scale", ""))
    recipe = SCALES.get(name)
    recorded = manifest.get("recipe_sha256")
    if recipe is None:
        found.append(f"scale {name!r} is unknown")
    elif recorded is not None and recorded != recipe.fingerprint():
        found.append(f"the recipe is not the frozen one of scale {name}")
    usual = {f.name: f.default for f in fields(Settings)}
    for setting in ("shard_size", "max_distance"):
        value = source.settings.get(setting, usual[setting])
        if value != usual[setting]:
            found.append(f"{setting} is {value}, not {usual[setting]}")
    return found


def _reasons(chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """Why samples were not kept: fate, reason, count; the fates in their order, frequent reasons first."""
    by_filter = set(chosen.get("metadata_outcomes", {})) - {"kept"}
    found = []
    for reason, count in chosen.get("reasons", {}).items():
        if reason in by_filter:
            fate = "dropped"
        else:
            fate = "unlisted" if reason.startswith("no metadata row") else "quarantined"
        found.append({"fate": fate, "reason": reason, "count": int(count)})
    if missing := chosen.get("fates", {}).get("missing", 0):
        found.append({"fate": "missing", "reason": "no sample of the shards has this uid", "count": int(missing)})
    if malformed := chosen.get("malformed_uids", 0):
        reason = "uid of a metadata row is not 32 hex digits"
        found.append({"fate": "quarantined", "reason": reason, "count": int(malformed)})
    order = {name: place for place, name in enumerate(FATES)}
    return sorted(found, key=lambda r: (order[r["fate"]], -r["count"], r["reason"]))


def _notes(source: Source, report: dict[str, Any]) -> list[str]:
    """What a reader must know to read the numbers rightly, in sentences."""
    signatures = source.summary("signatures")
    stages = (source.summary("filter"), source.summary("index"), signatures)
    notes = [str(note) for stage in stages for note in stage.get("notes", [])]
    run = source.run
    asked = [s for s in STAGES if s != "report" and run.asks_for(s)]
    not_run = [s for s in asked if s not in report["run"]["stages"]]
    if not_run:
        notes.append(f"Not run yet, so not in this report: {', '.join(not_run)}.")
    if signatures and not signatures.get("decoded"):
        notes.append("Pictures were not decoded in this run, so broken ones are not in quarantine (--verify-images).")
    if report["look_problem"]:
        notes.append(report["look_problem"])
    scores, trained = report["scores"], report["training"]
    notes += [f"Scores: {words}." for words in scores["refused"]]
    bad = [clean(row["dataset"], 60) for row in scores["sets"] if row["error"]]
    if bad:
        notes.append(f"Scores: these sets could not be scored, so no average counts them: {', '.join(bad)}.")
    notes += [f"The two trainings: {words}." for words in trained["unfair"]]
    notes += [f"Training: {note}" for note in (trained["run"] or {}).get("notes") or []]
    if report["comparison"] and scores["available"] and not scores["common"]["sets"]:
        notes.append("The comparison run has no scores yet: the scores stand alone.")
    found = report["contamination"]
    if source.summary("decontaminate") and not found["available"]:
        notes.append("There were no evaluation sets to compare with: contamination is unknown (--evalsets DIR).")
    kept = report["subset"].get("contaminated")
    if kept:
        notes.append(f"{kept:,} of the kept uids are contaminated: the filter does not exclude them (~contaminated).")
    other = scores["trained_on"]["comparison"]
    if other is not None and other["marked"]:
        notes.append(f"The comparison run trained on {other['words']}: its scores on these sets are marked {MARK}.")
    if found.get("counted_rows", 0) < found.get("evidence_rows", 0):
        notes.append(f"Hits are counted by evaluation set over the first {found['counted_rows']:,} rows of evidence.")
    return notes


def _clean_share(against_truth: dict[str, Any] | None) -> float | None:
    share = (against_truth or {}).get("filter", {}).get("precision")
    return None if share is None else float(share)


def _comparison(expression: str | None, out: Path | None, world: bool) -> dict[str, Any]:
    """The comparison run: its filter, subset (and how much of it is clean) and times; empty where there is none."""
    if out is None or not (out / "state").is_dir():
        return {}
    chosen = read_json(out / "state" / "filter.json", "filter")
    return {
        "filter": chosen.get("filter", expression),
        "out": str(out),
        "uids": chosen.get("subset"),
        "kept": chosen.get("fates", {}).get("kept"),
        "clean": _clean_share(compare_with_truth(out) if world else None),
        "timings": timings(out / "state" / "timings.jsonl"),
    }


def _thresholds(chosen: dict[str, Any]) -> dict[str, float]:
    """The thresholds that the filter stage found, which it records as decimal text."""
    return {key: float(text) for key, text in (chosen.get("thresholds") or {}).items()}


def _pool_dir(shard_dir: Path) -> Path:
    return shard_dir.parent if shard_dir.name == "shards" else shard_dir


def _look(source: Source, chosen: dict[str, Any]) -> tuple[Examined | None, str | None]:
    """Rows of the metadata under the filter, or why they cannot be looked at."""
    if not chosen.get("filter") or not (source.out / "subset.npy").exists():
        return None, None
    files = metadata_files(source.out, metadata_folder(_pool_dir(source.shard_dir)))
    if not files:
        return None, "The metadata is not where it was: no overlap of the filter's rules, no CLIP scores."
    try:
        return examine(source.out, files, chosen["filter"], source.settings, _thresholds(chosen)), None
    except (DcfastError, OSError, ValueError, KeyError) as error:  # moved, or a model that this machine lacks
        return None, f"The filter cannot be asked again, so its rules' overlap is not shown: {clean(str(error))}"


def _filter_parts(source: Source, report: dict[str, Any]) -> None:
    """Overlap of the rules, CLIP scores, and the rules against the truth, where they can be had."""
    chosen = source.summary("filter")
    seen, problem = _look(source, chosen)
    report |= {"overlap": {}, "clip_scores": {}, "rules_truth": None, "look_problem": problem}
    if seen is not None:
        truth = truth_of(seen, source.out) if source.world else {}
        report["overlap"] = overlap(seen)
        report["clip_scores"] = clip_scores(seen, chosen["filter"], _thresholds(chosen), truth)
        report["rules_truth"] = rules_against_truth(seen, truth)
    for rows in report["gallery"].values():
        gallery_scores(seen, rows, report["clip_scores"].get("column"))


def _filter_facts(source: Source, chosen: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "filter": {
            "expression": chosen.get("filter"),
            "given": source.settings.get("filter"),
            **{k: chosen.get(k) for k in ("thresholds", "metadata_rows", "malformed_uids", "language_model")},
            "metadata_outcomes": chosen.get("metadata_outcomes", {}),
        },
        "subset": {
            "uids": chosen.get("subset"),
            "sha256": manifest.get("subset", {}).get("sha256"),
            "contaminated": contaminated_kept(source.out),
        },
        "repeated": {
            "in_shards": chosen.get("repeated_in_pool", 0),
            "in_metadata": chosen.get("repeated_in_metadata", 0),
        },
    }


def _quarantine(table: Path) -> dict[str, Any]:
    rows = head(table, QUARANTINE_ROWS)
    shown = [{k: clean(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows]
    return {"total": num_rows(table), "rows": shown}


def collect(source: Source) -> dict[str, Any]:
    """The report of a run as a JSON document.

    Memory: a batch of a table at a time. Cost: the summaries, bounded stretches of the tables, and one stream of
    at most MAX_EVIDENCE_ROWS rows of evidence. Raises nothing for parts that are absent or no JSON; CorruptDataError
    names file and field where a field is of another type than the stage writes.
    """
    chosen, index = source.summary("filter"), source.summary("index")
    manifest = read_json(source.out / "manifest.json", "manifest")
    fates = {name: int(chosen.get("fates", {}).get(name, 0)) for name in FATES} if chosen else {}
    departures = _departures(source, manifest)
    report: dict[str, Any] = {
        "version": REPORT_VERSION,
        "run": {
            "out": str(source.out),
            "scale": source.settings.get("scale"),
            "pool": source.settings.get("pool"),
            "evalsets": source.settings.get("evalsets"),
            "built_in_world": source.world,
            "stages": [s for s in STAGES if s != "report" and source.summary(s)],
        },
        "standard": not departures,
        "departures": departures,
        "index": index,
        "signatures": source.summary("signatures"),
        "fates": fates,
        "reasons": _reasons(chosen),
        **_filter_facts(source, chosen, manifest),
        "contamination": contamination(
            source.out,
            source.summary("decontaminate"),
            source.summary("signatures"),
            int(source.settings.get("max_distance", 8)),
        ),
        "gallery": samples.gallery(source.out / "fates.parquet") | (mistakes(source.out) if source.world else {}),
        "quarantine": _quarantine(source.out / "quarantine.parquet"),
        "damage": {
            "shards": chosen.get("damaged_shards", index.get("damaged_shards", 0)),
            "listed": [[clean(str(part)) for part in d] for d in chosen.get("damage", [])[:DAMAGE_ROWS]],
        },
        "reshard": source.summary("reshard"),
        "verify": source.summary("verify"),
        "world": compare_with_truth(source.out) if source.world else None,
        "timings": timings(source.out / "state" / "timings.jsonl"),
        "files": files_of(source.out),
        "manifest": manifest,
    }
    _filter_parts(source, report)
    comparison = comparison_dir(source.run)
    report["comparison"] = _comparison(source.run.compare, comparison, source.world)
    report["scores"] = compare_scores(source.out, comparison, source.run.evalset_dir)
    report["training"] = training(source.out, comparison)
    report["verdict"] = verdict(report)
    report["notes"] = _notes(source, report)
    return report
