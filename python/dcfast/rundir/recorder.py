"""What a run at work says of itself in its directory: a small file, written anew every few seconds, and a log.

``state/progress.json`` is for ``dcfast status``, from any process and machine that sees the directory;
``state/log.txt`` has what happened, with times, ``state/command.txt`` how the run was last started. None is part of a
result.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from dcfast.engine.piece import AT_PIECE
from dcfast.engine.progress import Progress, StepProgress, ended_line, step_line
from dcfast.errors import CorruptDataError, DcfastError, first_line
from dcfast.storage.atomic import append_lines, write_bytes, write_json
from dcfast.storage.inputs import open_input, read_input
from dcfast.storage.records import Count, Record, plain, read_record

PROGRESS = "progress.json"
LOG = "log.txt"
COMMAND = "command.txt"
RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"
_SECONDS_BETWEEN_WRITES = 3.0
_SECONDS_BETWEEN_LOGGED = 60.0
_MOST_LOG_BYTES = 1 << 20
_KEPT_LOG_BYTES = 1 << 18
_TRACEBACK_LINES = 40
_MOST_READ = 4 << 20


class RunProgress(Record, omit_defaults=True):
    """``progress.json``.

    Attributes:
        host, pid, place: the process, and in which machine's list of processes its number stands (boot and namespace).
        started, updated, ended: seconds since 1970; ``updated`` is the last sign of life.
        state: ``running``, ``done``, ``failed``, ``stopped`` (by a signal).
        engine, workers: of a run; of a training ``train`` and its ranks.
        stages: of this start.   stage: the one at work, or the last.   step: what of it moves.
        unchanged: stage -> pieces of it, where there was nothing to do.
        error, piece: of one that failed.
        job: of Slurm.
    """

    host: str
    pid: Count
    place: str
    started: float
    updated: float
    state: str
    engine: str
    workers: Count
    stages: list[str]
    unchanged: dict[str, Count] = {}
    stage: str | None = None
    step: StepProgress | None = None
    ended: float | None = None
    error: str | None = None
    piece: str | None = None
    job: str | None = None


def read_progress(folder: Path) -> RunProgress | None:
    """What a run says in its ``state`` folder, or a training in its ``train``; None where there is no such file.

    CorruptDataError: the file is none of dcfast's.   OSError: it cannot be read.
    """
    try:
        return read_record(folder / PROGRESS, RunProgress, most=_MOST_READ)
    except (FileNotFoundError, NotADirectoryError):
        return None


def note_command(folder: Path) -> None:
    """Writes this process's command line as a run was started by it; it stays as it is where it is the same."""
    program = Path(sys.argv[0])
    start = [program.name]
    if program.name == "__main__.py":
        package = program.parent.name
        start = ["python", "-m", package if package == "dcfast" else f"dcfast.{package}"]
    line = f"{shlex.join([*start, *sys.argv[1:]])}\n".encode("utf-8", "surrogateescape")
    path = folder / COMMAND
    if not path.is_file() or path.read_bytes() != line:
        write_bytes(path, line, sync=False)


def read_command(folder: Path) -> str | None:
    """The command line of the last start of a run; None where none is there that can be read."""
    try:
        return read_input(folder / COMMAND, _MOST_READ).decode("utf-8", "replace").strip() or None
    except (OSError, CorruptDataError):
        return None


def process_place() -> str:
    """In which list of processes a number of one is to be looked for: boots of machines and containers differ."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}:{_start_of('self')}"
    except (OSError, ValueError):
        return ""


def is_alive(told: RunProgress) -> bool | None:
    """Whether the process that wrote this is there; None where that cannot be told from here."""
    here, there = process_place().split(":"), told.place.split(":")
    if len(there) != 3 or here[:2] != there[:2]:
        return None
    return _start_of(str(told.pid)) == there[2]


def _start_of(process: str) -> str | None:
    """When a process began, in clock ticks since the boot: its number may be another's by now. None: it is gone."""
    try:
        fields = Path("/proc", process, "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


class Recorder:
    """Writes both files of a directory that this process holds the lock of, for the time of a block.

    Args:
        folder: ``OUT/state``, or ``OUT/train`` of a training.
        engine, workers, stages: see ``RunProgress``.
        keep: the files stay after a good end, and where it failed before anything moved; those of a training go.
    Cost: a file of about 1 kB in three seconds, by a thread. A full disk ends nothing here: it is for what is left out.
    """

    def __init__(self, folder: Path, *, engine: str, workers: int, stages: Sequence[str], keep: bool = True) -> None:
        self._folder, self._keep = folder, keep
        self._engine, self._workers, self._stages = engine, workers, list(stages)
        self._started = time.time()
        self._unchanged: dict[str, int] = {}
        self._stage: str | None = None
        self._progress: Progress | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dcfast-recorder", daemon=True)

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._stage = name
        self.log(f"{name} ...")

    def unchanged(self, stage: str, pieces: int) -> None:
        """A stage had nothing to do."""
        self._unchanged = {**self._unchanged, stage: pieces}

    @contextmanager
    def following(self, progress: Progress) -> Iterator[None]:
        """For the time of a block, a step at work; one that fails stays in the file."""
        self._progress = progress
        yield
        self._progress = None
        self.log(ended_line(progress.state()))

    def log(self, text: str) -> None:
        """Appends lines to the log, with the time."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        lines = [f"{now} {line}".encode("ascii", "backslashreplace").decode() for line in text.split("\n")]
        with suppress(OSError):
            append_lines(self._folder / LOG, lines)

    def __enter__(self) -> Recorder:
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._cut_log()
        self.log(f"process {os.getpid()} on {os.uname().nodename}: {', '.join(self._stages)}")
        self._write(RUNNING)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if not self._keep and (error is None or self._progress is None or not self._progress.has_heard):
            for name in (PROGRESS, LOG):
                (self._folder / name).unlink(missing_ok=True)
            return
        state = DONE if error is None else STOPPED if isinstance(error, (KeyboardInterrupt, SystemExit)) else FAILED
        self.log(state if error is None or state == STOPPED else _described(error))
        self._write(state, error)

    def _run(self) -> None:
        logged = time.monotonic()
        while not self._ended.wait(_SECONDS_BETWEEN_WRITES):
            self._write(RUNNING)
            progress = self._progress
            if progress is not None and time.monotonic() - logged >= _SECONDS_BETWEEN_LOGGED:
                logged = time.monotonic()
                self.log(step_line(progress.state()))

    def _write(self, state: str, error: BaseException | None = None) -> None:
        now, progress = time.time(), self._progress
        told = RunProgress(
            host=os.uname().nodename,
            pid=os.getpid(),
            place=process_place(),
            started=round(self._started, 3),
            updated=round(now, 3),
            state=state,
            engine=self._engine,
            workers=self._workers,
            stages=self._stages,
            unchanged=self._unchanged,
            stage=self._stage,
            step=None if progress is None else progress.state(),
            ended=None if state == RUNNING else round(now, 3),
            error=f"{type(error).__name__}: {first_line(error)}" if state == FAILED and error is not None else None,
            piece=None if error is None else _piece_of(error),
            job=os.environ.get("SLURM_JOB_ID"),
        )
        with suppress(OSError):
            write_json(self._folder / PROGRESS, plain(told), sync=False)

    def _cut_log(self) -> None:
        """Keeps the end of a log that has grown long over many starts."""
        path = self._folder / LOG
        if path.is_file() and not path.is_symlink() and path.stat().st_size > _MOST_LOG_BYTES:
            with open_input(path) as file:
                file.seek(-_KEPT_LOG_BYTES, os.SEEK_END)
                lines = file.read(_KEPT_LOG_BYTES).partition(b"\n")[2]
            write_bytes(path, lines, sync=False)


def _piece_of(error: BaseException) -> str | None:
    notes = [note for note in getattr(error, "__notes__", ()) if isinstance(note, str) and note.startswith(AT_PIECE)]
    return notes[0].removeprefix(AT_PIECE) if notes else None


def _described(error: BaseException) -> str:
    """An error for the log: of one that was not foreseen with the end of its traceback."""
    if isinstance(error, (DcfastError, OSError)):
        return f"failed: {type(error).__name__}: {str(error).strip()}"
    lines = "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
    return "failed:\n" + "\n".join(lines[-_TRACEBACK_LINES:])
