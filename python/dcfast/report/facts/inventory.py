"""Where a run's files are and where its time went."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dcfast.rundir.stage_table import STAGES
from dcfast.storage.json_files import parse_json
from dcfast.storage.lines import read_lines

__all__ = ["files_of", "timings"]

MAX_LISTED = 20_000
"""Files of a directory that are counted; beyond, the count is a lower bound and says so."""

FILES = (
    # path, what it is; in the order a reader wants them
    ("subset.npy", "the uids kept: of samples that stand in the shards"),
    ("subset_metadata.npy", "the uids of all metadata rows that pass, downloaded or not: DataComp's subset file"),
    ("shards", "the kept samples as new shards"),
    ("fates.parquet", "every sample with its fate and reason"),
    ("quarantine.parquet", "broken samples and damaged shards, with reasons"),
    ("contaminated.npy", "uids of pool pictures that are evaluation pictures"),
    ("contamination.parquet", "the evidence for each of them"),
    ("eval_results.jsonl", "the model's score on every evaluation set, in DataComp's form"),
    ("train", "checkpoints, log and summary of the training"),
    ("evaluate", "results by checkpoint"),
    ("compare", "the comparison run, with its own subset, training and scores"),
    ("verify.json", "what was compared, and how it came out"),
    ("manifest.json", "versions, settings, recipe, fingerprints"),
    ("report.json", "the numbers of this page"),
    ("index", "where every sample lies in the shards"),
    ("signatures", "hashes and decode status of every picture"),
    ("teacher", "the model that made the CLIP scores"),
    ("features", "CLIP scores and embeddings, as DataComp lays them out"),
    ("filter", "what the filter said of every metadata row"),
    ("reshard", "the plan of the new shards"),
    ("world", "the built-in world: pool, evaluation sets, truth"),
    ("state", "markers and parts, for resuming"),
)


def timings(path: Path) -> dict[str, Any]:
    """Seconds by step and stage; a step may have several lines (it was resumed, or has parts), which add up."""
    steps: dict[str, dict[str, Any]] = {}
    lines = read_lines(path, errors="replace") if path.exists() else []
    for line in lines:
        try:
            row = parse_json(line)
            name, seconds = str(row["step"]), float(row["seconds"])
            pieces = int(row.get("pieces", 0))
        except (ValueError, KeyError, TypeError):
            continue  # a line cut short by a kill
        one = steps.setdefault(name, {"stage": name.partition("/")[0], "step": name, "seconds": 0.0, "pieces": 0})
        one["seconds"] = round(one["seconds"] + seconds, 3)
        one["pieces"] += pieces
    order = {name: place for place, name in enumerate(STAGES)}
    rows = [s for s in steps.values() if s["stage"] != "report"]
    rows.sort(key=lambda s: order.get(s["stage"], len(order)))
    stages: dict[str, float] = {}
    for row in rows:
        stages[row["stage"]] = round(stages.get(row["stage"], 0.0) + row["seconds"], 3)
    return {"total_seconds": round(sum(stages.values()), 3), "stages": stages, "steps": rows}


def _size_of(path: Path) -> tuple[int, int, bool]:
    """(files, bytes, whether all were counted) of a file or of a directory."""
    if not path.is_dir():
        return 1, path.stat().st_size, True
    files = size = 0
    for parent, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            try:
                size += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue
            files += 1
            if files >= MAX_LISTED:
                return files, size, False
    return files, size, True


def files_of(out: Path) -> list[dict[str, Any]]:
    """What a run left, with sizes: ``path``, ``what``, and ``files``, ``bytes``, ``whole`` where they are known."""
    found = []
    for name, what in FILES:
        path = out / name
        # this very file is not there yet, and the state grows while the report is made: no sizes of these
        if name == "report.json":
            found.append({"path": name, "what": what})
        elif path.exists():
            entry: dict[str, Any] = {"path": name + ("/" if path.is_dir() else ""), "what": what}
            if name != "state":
                files, size, whole = _size_of(path)
                entry |= {"files": files, "bytes": size, "whole": whole}
            found.append(entry)
    return found
