"""What a run directory says of the run in it: read, never written, by any process and on any machine that sees it."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from dcfast.engine.progress import StepProgress
from dcfast.errors import RunError
from dcfast.report.facts.reading import read_rows
from dcfast.rundir.branch import branch_stages
from dcfast.rundir.claim import read_settings
from dcfast.rundir.recorder import (
    DONE,
    FAILED,
    LOG,
    RUNNING,
    STOPPED,
    RunProgress,
    is_alive,
    read_command,
    read_progress,
)
from dcfast.rundir.run_dir import Run
from dcfast.rundir.stage_table import STAGES
from dcfast.storage.inputs import open_input
from dcfast.storage.lines import split_lines
from dcfast.storage.paths import absolute
from dcfast.storage.records import Count, Record, replaced

TO_DO, GONE, UNTOLD = "to do", "gone", "untold"
SILENT_SECONDS = 60.0
"""Without a sign of life, until a process of another machine counts as gone: shared file systems show files late."""
LOG_LINES = 12
_LOG_BYTES = 16 << 10
_NAMED_RUNS = 5


class StageStatus(Record, omit_defaults=True):
    """A stage.

    Attributes:
        state: ``done``, ``running``, ``to do``, ``failed``, ``stopped``.
        seconds, pieces: that it took over all starts, as far as they are known.
        unchanged: pieces, where this start had nothing to do.
        step: of one that is under way, or that failed.
    """

    name: str
    state: str
    seconds: float | None = None
    pieces: Count | None = None
    unchanged: Count | None = None
    step: StepProgress | None = None


class RunStatus(Record, omit_defaults=True):
    """A run.

    Attributes:
        run: its directory.   name: of a comparison run its filter's directory.
        state: ``running``; ``done``, ``failed``, ``stopped``: as the last start ended; ``gone``: its process is gone
            without a word (killed, or its machine was); ``untold``: no start has told anything (an older release).
        host, pid, job: of the last start; ``job`` of Slurm.
        alive: whether that process is there; None where that cannot be told from this machine.
        engine, workers: ``local``, ``ray``, or ``train``: a training that was started by itself.
        started, ended: seconds since 1970.   silent: seconds since the last sign of life.
        error, piece: of one that failed.   log: the last lines, where it failed or is gone.
        command: what it was last started by.   checkpoint: the latest of its training, where that has not ended.
        stages: in their order.   parts: the comparison run.
    """

    run: str
    state: str
    stages: list[StageStatus]
    parts: list[RunStatus] = []
    name: str | None = None
    host: str | None = None
    pid: Count | None = None
    job: str | None = None
    alive: bool | None = None
    engine: str | None = None
    workers: Count | None = None
    started: float | None = None
    ended: float | None = None
    silent: float | None = None
    error: str | None = None
    piece: str | None = None
    log: list[str] | None = None
    command: str | None = None
    checkpoint: str | None = None


class _Time(Record):
    step: str
    seconds: float
    pieces: Count = 0


def read_status(out: str | os.PathLike[str]) -> RunStatus:
    """The status of a run directory, or of that of a training of its own.

    Raises:
        RunError: there is no run; with those that lie below it.   CorruptDataError: a file in it was altered.
        OSError: one cannot be read.
    Cost: a few small files and the end of the log, whatever the size of the pool.
    """
    root = Path(absolute(os.path.expanduser(out)))
    training = read_progress(root / "train")
    if not (root / "state" / "settings.json").is_file():
        if training is None:
            raise RunError(_no_run(root))
        stage = StageStatus("train", _ended_state(training), step=training.step)
        return _with_process(RunStatus(str(root), UNTOLD, [stage]), training, root / "train")
    run = Run(root, read_settings(root / "state" / "settings.json"))
    status = _of_run(run, [name for name in STAGES if run.asks_for(name)], training)
    parts = []
    for folder in sorted((root / "compare").glob("*")):
        if (folder / "state" / "settings.json").is_file():
            branch = Run(folder, read_settings(folder / "state" / "settings.json"))
            part = _of_run(branch, branch_stages(branch), read_progress(folder / "train"))
            parts.append(replaced(part, name=folder.name))
    return replaced(status, parts=parts)


def _no_run(root: Path) -> str:
    if not root.exists():
        return f"{root}: no such directory; expected the --out of a run"
    below = [path.parents[1] for depth in ("*", "*/*", "*/*/*") for path in root.glob(f"{depth}/state/settings.json")]
    names = ", ".join(str(path) for path in sorted(below)[:_NAMED_RUNS])
    hint = f"; below it are runs: {names}{', ...' if len(below) > _NAMED_RUNS else ''}" if below else ""
    return f"{root} is no run directory: it has no state/settings.json; expected the --out of a run{hint}"


def _ended_state(told: RunProgress) -> str:
    """How a start stands: as it says, or gone."""
    if told.state != RUNNING:
        return told.state
    alive = is_alive(told)
    if alive is None:
        alive = time.time() - told.updated < SILENT_SECONDS
    return RUNNING if alive else GONE


def _of_run(run: Run, names: list[str], training: RunProgress | None) -> RunStatus:
    told = read_progress(run.out / "state")
    own, folder = told, "state"
    if training is not None and (told is None or training.updated > told.updated + SILENT_SECONDS):
        own, folder = training, "train"  # it was started by itself, on what the run made
    state = UNTOLD if own is None else _ended_state(own)
    times = _times(run.out / "state" / "timings.jsonl")
    stages = [_stage(run, name, own, state, times.get(name)) for name in names]
    status = RunStatus(str(run.out), state, stages)
    return status if own is None else _with_process(status, own, run.out / folder)


def _stage(run: Run, name: str, told: RunProgress | None, state: str, took: _Time | None) -> StageStatus:
    seconds, pieces = (None, None) if took is None else (round(took.seconds, 3), took.pieces)
    unchanged = None if told is None else told.unchanged.get(name)
    is_last = told is not None and told.stage == name
    if is_last and told is not None and state in (RUNNING, FAILED, STOPPED, GONE):
        return StageStatus(name, STOPPED if state == GONE else state, seconds, pieces, unchanged, told.step)
    return StageStatus(name, DONE if run.has_summary(name) else TO_DO, seconds, pieces, unchanged)


def _times(path: Path) -> dict[str, _Time]:
    """Stage -> what its steps took over all starts; other lines are passed over."""
    times: dict[str, _Time] = {}
    for one in read_rows(path, _Time):
        stage = one.step.partition("/")[0]
        before = times.get(stage, _Time(stage, 0.0))
        times[stage] = _Time(stage, before.seconds + one.seconds, before.pieces + one.pieces)
    return times


def _with_process(status: RunStatus, told: RunProgress, folder: Path) -> RunStatus:
    state = _ended_state(told)
    is_over = state in (FAILED, GONE, STOPPED)
    trains = any(stage.name == "train" and stage.state != DONE for stage in status.stages)
    return replaced(
        status,
        state=state,
        host=told.host,
        pid=told.pid,
        job=told.job,
        alive=is_alive(told) if told.state == RUNNING else None,
        engine=told.engine,
        workers=told.workers,
        started=told.started,
        ended=told.ended,
        silent=round(max(0.0, time.time() - told.updated), 1) if told.state == RUNNING else None,
        error=told.error,
        piece=told.piece,
        log=_log_end(folder / LOG) if is_over else None,
        command=read_command(folder),
        checkpoint=_latest_checkpoint(folder.parent) if is_over and trains else None,
    )


def _latest_checkpoint(out: Path) -> str | None:
    """The one written last, by its name in the run directory; whether it is whole, the training looks."""
    times = []
    folder = out / "train" / "checkpoints"
    for path in [*folder.glob("*.pt"), *folder.glob("*.sharded")]:
        with suppress(OSError):
            times.append((path.stat().st_mtime_ns, str(path.relative_to(out))))
    return max(times)[1] if times else None


def _log_end(path: Path) -> list[str]:
    """The last lines of a log; none where there is none."""
    try:
        with open_input(path) as file:
            file.seek(max(0, path.stat().st_size - _LOG_BYTES))
            data = file.read(2 * _LOG_BYTES)
    except OSError:
        return []
    return split_lines(data.decode("utf-8", "replace"))[-LOG_LINES:]
