"""``python -m dcfast.study.cell FILE``: one cell of a study, in a process of its own.

The file is the cell as JSON. What comes of it stands in ``result.json`` of its run directory: a study that is run
again reads it instead of starting a process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Generic, TypeVar

from dcfast.engine.piece import fingerprint_files
from dcfast.evaluate.results import mean
from dcfast.evaluate.scores import read_scores
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE, USAGE
from dcfast.process.terminal import log_printably, say
from dcfast.run.comparison import run_branch
from dcfast.run.workflow import run
from dcfast.rundir.claim import located, read_settings, with_uid_hashes
from dcfast.rundir.settings import Settings
from dcfast.rundir.summaries import FilterSummary, read_summary
from dcfast.rundir.training_summary import TrainingSummary
from dcfast.storage.atomic import write_json
from dcfast.storage.json_files import read_json
from dcfast.storage.records import Record, as_record, plain, read_record
from dcfast.study.grid import Cell
from dcfast.study.records import CellResult

RESULT = "result.json"
RESULT_VERSION = 1
BASE_STAGE = "dedup"
"""The last stage that all cells of a seed share."""


R = TypeVar("R")


class BaseResult(Record):
    """Of a base run, which has no scores."""

    base: bool = True


class _Key(Record):
    """What a result stands on: other settings, or another base, make it void. A setting that the file lacks had its
    default."""

    version: int
    settings: Settings
    base: str


class _Stored(Record, Generic[R]):
    key: _Key
    result: R


def _result_path(cell: Cell) -> Path:
    return Path(cell.directory) / "state" / RESULT


def _key(cell: Cell) -> _Key:
    base = Path(cell.base)
    marks = [f"state/{name}.json" for name in ("decontaminate", "dedup", "index")]
    files = fingerprint_files(base, [name for name in marks if (base / name).exists()])
    return _Key(RESULT_VERSION, with_uid_hashes(located(cell.settings)), files)


def read_result(cell: Cell) -> CellResult | BaseResult | None:
    """The result of a cell that is done, None where it must be run (again)."""
    stored: _Stored[CellResult] | _Stored[BaseResult]
    try:
        path = _result_path(cell)
        value = read_json(path, names=True)
        if cell.label is None:
            stored = as_record(value, _Stored[BaseResult], str(path))
        else:
            stored = as_record(value, _Stored[CellResult], str(path))
    except (OSError, ValueError):
        return None
    given = value["key"]
    if {*given} != {"version", "settings", "base"} or {*given["settings"]} - asdict(Settings()).keys():
        return None  # of a release that knows more than this one
    scored = cell.label is None or (Path(cell.directory) / "eval_results.jsonl").exists()
    return stored.result if scored and stored.key == _key(cell) else None


def perform_cell(cell: Cell, workers: int, *, overwrite: bool = False) -> CellResult | BaseResult:
    """Runs a cell, or what of it is left to do; returns and records its result."""
    result: CellResult | BaseResult = BaseResult()
    if cell.label is None:
        run(cell.directory, cell.settings, last=BASE_STAGE, workers=workers, overwrite=overwrite)
    else:
        shared = read_settings(Path(cell.base) / "state/settings.json")
        run_branch(cell.base, shared, cell.directory, cell.settings, workers=workers, overwrite=overwrite)
        result = _scored(Path(cell.directory))
    write_json(_result_path(cell), {"key": plain(_key(cell)), "result": plain(result)})
    return result


def _scored(folder: Path) -> CellResult:
    """The result of a run directory. Of its checkpoints the last is kept: a study of a hundred cells would fill a disk
    with the others."""
    filtered = read_summary(folder / "state/filter.json", FilterSummary)
    trained = read_summary(folder / "state/train.json", TrainingSummary)
    scores = read_scores(folder)
    for name in trained.checkpoints:
        if name != trained.checkpoint:
            (folder / name).unlink(missing_ok=True)
    return CellResult(
        filter=filtered.filter,
        notes=filtered.notes,
        kept=filtered.fates["kept"],
        rows=filtered.metadata_rows,
        samples_seen=trained.samples_seen,
        contaminated=None if filtered.contaminated is None else filtered.contaminated.samples,
        tasks=scores.tasks,
        chance=scores.chance,
        unscored=list(scores.unscored),
        failed_sets=scores.failed,
        score=mean(list(scores.tasks.values())),  # the study compares cells over the sets that all of them have
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``python -m dcfast.study.cell``; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) not in (2, 3):
        say("usage: python -m dcfast.study.cell FILE WORKERS [overwrite] (a study starts it)", error=True)
        return USAGE
    return run_command(lambda: _main(arguments), "stopped; the study resumes it")


def _main(arguments: list[str]) -> int:
    log_printably()
    perform_cell(read_record(arguments[0], Cell), int(arguments[1]), overwrite="overwrite" in arguments[2:])
    return DONE


if __name__ == "__main__":
    sys.exit(main())
