"""Runs the cells of a study in processes of their own, some at once; what fails is said and the others go on."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dcfast.errors import last_line
from dcfast.storage.atomic import unfollowed, write_json
from dcfast.storage.records import plain
from dcfast.study.cell import read_result
from dcfast.study.grid import Cell
from dcfast.study.records import CellResult, Failure

LOG_TAIL = 2_000
"""Characters of a failed cell's output that are looked at for its last line."""


@dataclass
class _Process:
    cell: Cell
    process: subprocess.Popen[bytes]
    log: Path
    started: float


@dataclass
class _Waiting:
    """The cells that wait, in order. ``bases``: directory of a base run that has ended -> why it failed, or nothing."""

    cells: list[Cell]
    base_of: Callable[[Cell], Cell]
    bases: dict[str, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def take(self, busy: set[str]) -> Cell | None:
        """The next cell that can begin, off the list, or its base run; None where all must wait for busy folders."""
        for cell in list(self.cells):
            base = self.base_of(cell)
            if base.directory in busy:
                continue
            if base.directory not in self.bases:
                if read_result(base) is None:
                    return base
                self.bases[base.directory] = ""
            self.cells.remove(cell)
            if not self.bases[base.directory]:
                return cell
            self.failures.append(Failure(cell.name, f"its base run failed: {self.bases[base.directory]}"))
        return None


def _die_with_parent() -> None:
    # a study that is killed must not leave trainings behind
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _start(cell: Cell, threads: int, overwrite: bool) -> _Process:
    state = Path(cell.directory) / "state"
    state.mkdir(parents=True, exist_ok=True)
    task, log = state / "cell.json", state / "cell.log"
    write_json(task, plain(cell))
    threaded = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(threaded, str(threads))}
    words = [sys.executable, "-m", "dcfast.study.cell", str(task), str(threads), *(["overwrite"] if overwrite else [])]
    with open(log, "wb", opener=unfollowed) as file:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, preexec_fn=_die_with_parent
        )
    return _Process(cell, process, log, time.monotonic())


def _last_words(running: _Process) -> str:
    code = running.process.returncode
    try:
        last = last_line(running.log.read_bytes()[-LOG_TAIL:].decode("utf-8", "replace"))
    except OSError:
        last = ""
    said = last.removeprefix("error: ") if last else "it said nothing"
    killed = f" (killed by signal {-code})" if code is not None and code < 0 else ""
    return f"{said}{killed}; its output is in {running.log}"


def execute(
    cells: Iterable[Cell],
    base_of: Callable[[Cell], Cell],
    *,
    jobs: int,
    cores: int,
    overwrite: bool,
    finished: Callable[[Cell, CellResult, float], None],
    say: Callable[[str], None],
) -> list[Failure]:
    """Runs what is not done, base runs before the cells that branch from them, at most ``jobs`` at once.

    Args:
        cells: in the order in which they are to be begun.
        base_of: the base run of a cell.
        jobs, cores: each process has cores // jobs threads.
        finished: is given each result as it comes, and the seconds it took (0 where it was there).
        say: is given a line when a cell begins.
    Returns:
        The cells that failed, and those whose base did.
    """
    threads = max(1, cores // jobs)
    waiting = _Waiting([], base_of)
    for cell in cells:
        known = read_result(cell)
        if isinstance(known, CellResult):
            finished(cell, known, 0.0)
        else:
            waiting.cells.append(cell)
    running: list[_Process] = []
    try:
        while waiting.cells or running:
            while len(running) < jobs and (task := waiting.take({job.cell.directory for job in running})):
                say(f"{task.name} ...")
                running.append(_start(task, threads, overwrite))
            time.sleep(0.2)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                result = read_result(job.cell) if job.process.returncode == 0 else None
                if isinstance(result, CellResult):
                    finished(job.cell, result, time.monotonic() - job.started)
                    continue
                reason = "" if result is not None else _last_words(job)
                if reason:
                    waiting.failures.append(Failure(job.cell.name, reason))
                    say(f"{job.cell.name}: failed: {reason}")
                if job.cell.label is None:
                    waiting.bases[job.cell.directory] = reason
    finally:
        for job in running:
            job.process.kill()
            job.process.wait()
    return waiting.failures
