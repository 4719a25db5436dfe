"""Where a run's files are and where its time went."""

from __future__ import annotations

import os
from pathlib import Path

from dcfast.report.facts.reading import read_rows
from dcfast.rundir.stage_table import STAGES
from dcfast.storage.records import Record

MAX_LISTED = 20_000
"""Files of a directory that are counted; beyond, the count is a lower bound and says so."""

FILES = {
    # path -> what it is, in the order a reader wants them
    "subset.npy": "the uids kept: of samples that stand in the shards",
    "subset_metadata.npy": "the uids of all metadata rows that pass, downloaded or not: DataComp's subset file",
    "shards": "the kept samples as new shards",
    "fates.parquet": "every sample with its fate and reason",
    "quarantine.parquet": "broken samples and damaged shards, with reasons",
    "contaminated.npy": "uids of pool pictures that are evaluation pictures",
    "contamination.parquet": "the evidence for each of them",
    "duplicates.npy": "uids of samples that are copies of others, or of an older pool's",
    "duplicates.parquet": "the evidence for each of them, with the one that is kept",
    "eval_results.jsonl": "the model's score on every evaluation set, in DataComp's form",
    "train": "checkpoints, log and summary of the training",
    "evaluate": "results by checkpoint",
    "compare": "the comparison run, with its own subset, training and scores",
    "verify.json": "what was compared, and how it came out",
    "manifest.json": "versions, settings, recipe, fingerprints",
    "report.json": "the numbers of this page",
    "index": "where every sample lies in the shards",
    "signatures": "hashes and decode status of every picture",
    "teacher": "the model that made the CLIP scores",
    "features": "CLIP scores and embeddings, as DataComp lays them out",
    "older": "the index of the older pools that this one was compared with, and hashes of their pictures",
    "filter": "what the filter said of every metadata row",
    "reshard": "the plan of the new shards",
    "world": "the built-in world: pool, evaluation sets, truth",
    "state": "markers and parts, for resuming",
}


class StepTime(Record):
    """A step over all starts of a run."""

    stage: str
    step: str
    seconds: float
    pieces: int


class Timings(Record):
    """``stages``: stage -> seconds."""

    total_seconds: float
    stages: dict[str, float]
    steps: list[StepTime]


class ListedFile(Record, omit_defaults=True):
    """``files``, ``bytes``: left out where they are not known; ``whole`` is false where not all files were counted."""

    path: str
    what: str
    files: int | None = None
    bytes: int | None = None
    whole: bool | None = None


class _TimingLine(Record):
    step: str
    seconds: float
    pieces: int = 0


def timings(path: Path) -> Timings:
    """Seconds by step and stage; a step may have several lines (it was resumed, or has parts), which add up."""
    steps: dict[str, StepTime] = {}
    for line in read_rows(path, _TimingLine):
        before = steps.get(line.step)
        seconds, pieces = (before.seconds, before.pieces) if before is not None else (0.0, 0)
        stage = line.step.partition("/")[0]
        steps[line.step] = StepTime(stage, line.step, round(seconds + line.seconds, 3), pieces + line.pieces)
    order = {name: place for place, name in enumerate(STAGES)}
    rows = [step for step in steps.values() if step.stage != "report"]
    rows.sort(key=lambda step: order.get(step.stage, len(order)))
    stages: dict[str, float] = {}
    for row in rows:
        stages[row.stage] = round(stages.get(row.stage, 0.0) + row.seconds, 3)
    return Timings(round(sum(stages.values()), 3), stages, rows)


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


def files_of(out: Path) -> list[ListedFile]:
    """What a run left, with sizes."""
    listed = []
    for name, what in FILES.items():
        path = out / name
        # this very file is not there yet, and the state grows while the report is made: no sizes of these
        if name == "report.json" or path.exists():
            sizes = _size_of(path) if name not in ("report.json", "state") else (None, None, None)
            listed.append(ListedFile(name + ("/" if path.is_dir() else ""), what, *sizes))
    return listed
