"""Gathers what the stages recorded into one JSON document: the numbers of the report.

Counts come from the stages' summaries; tables are read in bounded stretches (``sampling``). A stage that has not
run leaves its part empty, with a note. Keys: docs/report.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dcfast.errors import DcfastError
from dcfast.report import samples
from dcfast.report.inventory import files_of, timings
from dcfast.report.sampling import columns_of, head, num_rows, stream
from dcfast.report.text import clean
from dcfast.report.truth import compare_with_truth
from dcfast.scales import SCALES
from dcfast.stages import STAGES
from dcfast.stages.fates import FATES
from dcfast.stages.run_dir import Run, Settings

__all__ = ["REPORT_VERSION", "Source", "collect"]

REPORT_VERSION = 1
QUARANTINE_ROWS = 50
DAMAGE_ROWS = 50
MAX_EVIDENCE_ROWS = 2_000_000
"""Evidence rows that are counted by evaluation set and distance; a larger table says how far it was counted."""
LOOKUP_UIDS = 1 << 20
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
        """A stage's summary; empty where it has not run."""
        return _read_json(self.out / "state" / f"{stage}.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


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


def _count_evidence(path: Path) -> tuple[dict[str, dict[str, int]], dict[int, int], int]:
    """Hits by (evaluation set, method), perceptual hits by distance, rows counted."""
    sets: dict[str, dict[str, int]] = {}
    distances: dict[int, int] = {}
    counted = 0
    if not {"evalset", "method", "distance"} <= set(columns_of(path)):
        return sets, distances, counted
    for batch in stream(path, ["evalset", "method", "distance"]):
        if counted >= MAX_EVIDENCE_ROWS:
            break
        import pyarrow as pa

        keys = ["evalset", "method", "distance"]
        groups = pa.Table.from_batches([batch]).group_by(keys).aggregate([([], "count_all")])
        for row in groups.to_pylist():
            name, method, count = str(row["evalset"]), str(row["method"]), int(row["count_all"])
            one = sets.setdefault(name, {})
            one[method] = one.get(method, 0) + count
            if method == "perceptual":
                distances[int(row["distance"])] = distances.get(int(row["distance"]), 0) + count
        counted += batch.num_rows
    return sets, distances, counted


def _contamination(source: Source) -> dict[str, Any]:
    summary, signatures = source.summary("decontaminate"), source.summary("signatures")
    table = source.out / "contamination.parquet"
    if not summary.get("available"):
        return {"available": False, "evalsets": [], "distances": {}, "pairs": []}
    sets, distances, counted = _count_evidence(table)
    known = {str(s["name"]): s for s in signatures.get("evalsets", [])}
    listed = []
    for name in sorted({*known, *sets}):
        about, hits = known.get(name, {}), sets.get(name, {})
        listed.append(
            {
                "name": name,
                **{key: int(about.get(key, 0)) for key in ("pictures", "unreadable", "flat")},
                "content": hits.get("content", 0),
                "perceptual": hits.get("perceptual", 0),
            }
        )
    rows = num_rows(table)
    limit = int(summary.get("max_distance", source.settings.get("max_distance", 8)))
    return {
        "available": True,
        "uids": int(summary.get("uids", 0)),
        "samples": int(summary.get("samples", 0)),
        "content_samples": int(summary.get("content", 0)),
        "flat_pictures": int(summary.get("flat", 0)),
        "max_distance": limit,
        "evidence_rows": rows,
        "counted_rows": counted,
        "evalsets": listed,
        "distances": {str(d): distances.get(d, 0) for d in range(max([limit, *distances]) + 1)},
        "pairs": samples.evidence_pairs(table),
    }


def _contaminated_kept(out: Path) -> int | None:
    """How many uids of subset.npy are contaminated, a stretch at a time; None where it cannot be said."""
    import numpy as np

    if not (out / "subset.npy").exists() or not (out / "contaminated.npy").exists():
        return None
    from dcfast.uids import load_subset, uid_isin

    try:  # written sorted by this run: a check would read all of a file that may have a billion uids
        subset = load_subset(out / "subset.npy", check=False)
        contaminated = load_subset(out / "contaminated.npy", check=False)
    except (DcfastError, OSError):
        return None
    total = 0
    for start in range(0, len(contaminated), LOOKUP_UIDS):
        block = np.ascontiguousarray(contaminated[start : start + LOOKUP_UIDS])
        total += int(uid_isin(block, subset, check=False).sum())
    return total


def _notes(source: Source, report: dict[str, Any]) -> list[str]:
    """What a reader must know to read the numbers rightly, in sentences."""
    chosen, signatures = source.summary("filter"), source.summary("signatures")
    notes = [str(note) for note in [*chosen.get("notes", []), *signatures.get("notes", [])]]
    run = Run(source.out, Settings(**{k: v for k, v in source.settings.items() if k in _SETTINGS}))
    asked = [s for s in STAGES if s != "report" and run.asks_for(s)]
    not_run = [s for s in asked if s not in report["run"]["stages"]]
    if not_run:
        notes.append(f"Not run yet, so not in this report: {', '.join(not_run)}.")
    if signatures and not signatures.get("decoded"):
        notes.append("Pictures were not decoded in this run, so broken ones are not in quarantine (--verify-images).")
    found = report["contamination"]
    if source.summary("decontaminate") and not found["available"]:
        notes.append("There were no evaluation sets to compare with: contamination is unknown (--evalsets DIR).")
    if found.get("flat_pictures"):
        notes.append(
            f"{found['flat_pictures']:,} pool pictures are flat (one colour or nearly so). They match by identical "
            "bytes alone, never by perceptual hash, which says nothing about them."
        )
    kept = report["subset"].get("contaminated")
    if kept:
        notes.append(f"{kept:,} of the kept uids are contaminated: the filter does not exclude them (~contaminated).")
    if found.get("counted_rows", 0) < found.get("evidence_rows", 0):
        notes.append(f"Hits are counted by evaluation set over the first {found['counted_rows']:,} rows of evidence.")
    return notes


def collect(source: Source) -> dict[str, Any]:
    """The report of a run as a JSON document.

    Memory: a batch of a table at a time. Cost: the summaries, bounded stretches of the tables, and one stream of
    at most MAX_EVIDENCE_ROWS rows of evidence. Raises nothing for parts that are absent.
    """
    chosen, index = source.summary("filter"), source.summary("index")
    manifest = _read_json(source.out / "manifest.json")
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
            "command": manifest.get("command"),
            "stages": [s for s in STAGES if s != "report" and source.summary(s)],
        },
        "standard": not departures,
        "departures": departures,
        "index": index,
        "signatures": source.summary("signatures"),
        "fates": fates,
        "reasons": _reasons(chosen),
        "filter": {
            "expression": chosen.get("filter"),
            "given": source.settings.get("filter"),
            **{k: chosen.get(k) for k in ("thresholds", "metadata_rows", "malformed_uids", "language_model")},
            "metadata_outcomes": chosen.get("metadata_outcomes", {}),
        },
        "subset": {
            "uids": chosen.get("subset"),
            "sha256": manifest.get("subset", {}).get("sha256"),
            "contaminated": _contaminated_kept(source.out),
        },
        "repeated": {
            "in_shards": chosen.get("repeated_in_pool", 0),
            "in_metadata": chosen.get("repeated_in_metadata", 0),
        },
        "contamination": _contamination(source),
        "gallery": samples.gallery(source.out / "fates.parquet"),
        "quarantine": {
            "total": num_rows(source.out / "quarantine.parquet"),
            "rows": [
                {k: clean(v) if isinstance(v, str) else v for k, v in row.items()}
                for row in head(source.out / "quarantine.parquet", QUARANTINE_ROWS)
            ],
        },
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
    report["notes"] = _notes(source, report)
    return report
