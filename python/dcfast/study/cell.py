"""``python -m dcfast.study.cell FILE``: one cell of a study, in a process of its own.

The file is the cell as JSON. What comes of it stands in ``result.json`` of its run directory: a study that is run
again reads it instead of starting a process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcfast.engine.piece import fingerprint_files
from dcfast.evaluate.results import mean
from dcfast.evaluate.scores import read_scores
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE, USAGE
from dcfast.process.terminal import log_printably, say
from dcfast.run.workflow import run, run_branch
from dcfast.rundir.claim import located, read_settings, with_uid_hashes
from dcfast.rundir.settings import Settings
from dcfast.rundir.summaries import FilterSummary, TrainingSummary
from dcfast.storage.atomic import write_json
from dcfast.storage.json_files import read_json
from dcfast.study.grid import Cell

__all__ = ["main", "perform_cell", "read_result"]

RESULT = "result.json"
RESULT_VERSION = 1
BASE_STAGE = "decontaminate"
"""The last stage that all cells of a seed share."""


def _result_path(cell: Cell) -> Path:
    return Path(cell.directory) / "state" / RESULT


def _key(cell: Cell) -> dict[str, Any]:
    """What a result stands on: other settings, or another base, make it void."""
    base = Path(cell.base)
    marks = [f"state/{BASE_STAGE}.json", "state/index.json"]
    return {
        "version": RESULT_VERSION,
        "settings": asdict(with_uid_hashes(located(cell.settings))),
        "base": fingerprint_files(base, [name for name in marks if (base / name).exists()]),
    }


def read_result(cell: Cell) -> dict[str, Any] | None:
    """The result of a cell that is done, None where it must be run (again)."""
    try:
        found = read_json(_result_path(cell), names=True)
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or _with_defaults(found.get("key")) != _key(cell):
        return None
    results = Path(cell.directory) / "eval_results.jsonl"
    if cell.label is not None and not results.exists():
        return None
    return dict(found["result"])


def _with_defaults(key: Any) -> Any:
    """A key as it would be now: one of before a setting existed had its default."""
    if not isinstance(key, dict) or not isinstance(key.get("settings"), dict):
        return None
    return {**key, "settings": {**asdict(Settings()), **key["settings"]}}


def perform_cell(cell: Cell, workers: int, *, overwrite: bool = False) -> dict[str, Any]:
    """Runs a cell, or what of it is left to do; returns and records its result."""
    if cell.label is None:
        run(cell.directory, cell.settings, last=BASE_STAGE, workers=workers, overwrite=overwrite)
        result: dict[str, Any] = {"base": True}
    else:
        shared = read_settings(Path(cell.base) / "state/settings.json")
        summaries = run_branch(cell.base, shared, cell.directory, cell.settings, workers=workers, overwrite=overwrite)
        scores = read_scores(cell.directory)
        chosen, trained = summaries["filter"], summaries["train"]
        assert isinstance(chosen, FilterSummary)
        assert isinstance(trained, TrainingSummary)
        result = {
            "filter": chosen.filter,
            "notes": chosen.notes,
            "kept": chosen.fates["kept"],
            "rows": chosen.metadata_rows,
            "samples_seen": trained.samples_seen,
            "contaminated": None if chosen.contaminated is None else chosen.contaminated.samples,
            "tasks": scores.tasks,
            "chance": scores.chance,
            "unscored": list(scores.unscored),
            "failed_sets": scores.failed,
            "score": mean(list(scores.tasks.values())),  # the study compares cells over the sets that all of them have
        }
        _drop_older_checkpoints(Path(cell.directory), trained)
    write_json(_result_path(cell), {"key": _key(cell), "result": result})
    return result


def _drop_older_checkpoints(folder: Path, trained: TrainingSummary) -> None:
    """Keeps the last of a cell that is done: a study of a hundred cells would fill a disk with the others."""
    for name in trained.checkpoints:
        if name != trained.checkpoint:
            (folder / name).unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``python -m dcfast.study.cell``; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) not in (2, 3):
        say("usage: python -m dcfast.study.cell FILE WORKERS [overwrite] (a study starts it)", error=True)
        return USAGE
    return run_command(lambda: _main(words), "stopped; the study resumes it")


def _main(words: list[str]) -> int:
    log_printably()
    cell = Cell.from_json(read_json(words[0], names=True))
    perform_cell(cell, int(words[1]), overwrite="overwrite" in words[2:])
    return DONE


if __name__ == "__main__":
    sys.exit(main())
