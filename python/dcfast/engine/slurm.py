"""Slurm as an engine: the pieces of a step are an array of jobs, whose results come by files.

The run itself is one process, on a login node or in a job of its own. It hands the pieces to ``sbatch`` and then looks
at the folder of the results; Slurm is asked only about pieces from which nothing comes. What a job needs beside a core
(partition, memory, time, account) is said by the variables of sbatch: SBATCH_PARTITION, SBATCH_TIMELIMIT, ...
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dcfast import errors
from dcfast.engine.engine import Engine, check_engine
from dcfast.engine.piece import AT_PIECE, Piece, S, perform
from dcfast.engine.slurm_task import ALIVE, PIECES, RESULTS, Result, Round, round_file
from dcfast.errors import DcfastError, RunError, printable
from dcfast.storage.atomic import write_bytes, write_json
from dcfast.storage.paths import absolute
from dcfast.storage.records import as_record, plain, read_record

FOLDER = "state/slurm"
_PROGRAMS = ("sbatch", "squeue", "scancel")
POLL_SECONDS = 1.0
LOOK_SECONDS = 10.0
"""Without a result, until Slurm is asked which pieces are still in its queue."""
LATE_SECONDS = 30.0
"""After a piece has left the queue, until its result counts as lost: a file system may show it late."""
BEAT_SECONDS = 5.0
MOST_STARTS = 3
"""Of a piece whose job dies without a word: of a node, or for want of memory or time."""
_MOST_TASKS = 1000
"""Of one array: Slurm's usual limit."""
_TASKS_EACH = 4
"""Of a worker: a piece that takes long holds only those of its own task back."""
_END_SECONDS = 60.0
ANSWER_SECONDS = 120.0
"""For which a program of Slurm's is waited: a controller that hangs must not hold up a run without a word."""
_MOST_SAID = 500
_LOG = logging.getLogger("dcfast.run")
_TOKEN = re.compile(r"[0-9a-f]{16}")


class SlurmEngine(Engine):
    """An array of jobs for each step, on nodes that all see pool and run directory under the same paths.

    Args:
        workers: how many jobs may be at work at once, a core each, or a GPU where the piece wants one.
    A piece by itself is done in this process, unless it wants a GPU.
    Raises:
        RunError: see ``check_slurm``.
    """

    name: str = "slurm"

    def __init__(self, workers: int) -> None:
        check_slurm(workers)
        self.workers = workers
        self._jobs: list[str] = []

    def map(self, out: str, pieces: Sequence[Piece[S]]) -> Iterator[tuple[int, S]]:
        if not any(piece.gpus for piece in pieces) and len(pieces) <= 1:
            for i, piece in enumerate(pieces):
                yield i, perform(out, piece)
            return
        end_earlier(out)
        folder = Path(absolute(out), FOLDER, secrets.token_hex(8))
        (folder / RESULTS).mkdir(parents=True)
        data = pickle.dumps(list(pieces))
        write_bytes(folder / PIECES, data)
        step = _Step(out, folder, hashlib.sha256(data).hexdigest(), self.workers, self._jobs)
        try:
            with _alive(folder):
                yield from step.results(pieces)
        except BaseException:
            self.abandon()
            raise
        self._jobs.clear()
        shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        if self._jobs:
            _answer_of("scancel", *self._jobs)
        self._jobs.clear()


class _Step:
    """The jobs of one step."""

    def __init__(self, out: str, folder: Path, digest: str, workers: int, jobs: list[str]) -> None:
        self._out, self._folder, self._digest, self._workers = out, folder, digest, workers
        self._jobs = jobs
        self._task: dict[int, tuple[str, int, Path]] = {}  # piece -> its job, number in the array, log
        self._starts: dict[int, int] = {}
        self._gone: dict[int, float] = {}  # pieces that are in the queue no more, and since when
        self._rounds = 0
        self._warned = False

    def results(self, pieces: Sequence[Piece[S]]) -> Iterator[tuple[int, S]]:
        waiting = set(range(len(pieces)))
        self._submit(sorted(waiting), any(piece.gpus for piece in pieces))
        moved = time.monotonic()
        while waiting:
            found = self._found(waiting)
            for number in found:
                result = read_record(self._folder / RESULTS / f"{number}.json", Result)
                if result.error is not None:
                    raise self._raised(pieces[number], result, self._task[number][2])
                kind = pieces[number].function.stats_type
                waiting.discard(number)
                yield number, as_record(result.stats, kind, str(self._folder))
            if found:
                moved = time.monotonic()
            elif time.monotonic() - moved >= LOOK_SECONDS:
                moved = time.monotonic()
                self._look(waiting, pieces)
            if waiting and not found:
                time.sleep(POLL_SECONDS)

    def _found(self, waiting: set[int]) -> list[int]:
        with os.scandir(self._folder / RESULTS) as entries:
            numbers = [int(e.name.removesuffix(".json")) for e in entries if e.name.removesuffix(".json").isdecimal()]
        return sorted(number for number in numbers if number in waiting)

    def _submit(self, numbers: list[int], wants_gpu: bool) -> None:
        tasks = min(len(numbers), self._workers * _TASKS_EACH, _MOST_TASKS)
        name = f"round-{self._rounds}"
        write_json(self._folder / round_file(self._rounds), plain(Round(self._out, numbers, tasks)))
        words = [sys.executable, "-m", "dcfast.engine.slurm_task", str(self._folder), self._digest, str(self._rounds)]
        log = f"{str(self._folder).replace('%', '%%')}/{name}.%a.log"
        lines = [
            f"--job-name=dcfast-{self._folder.name}",
            f"--array=0-{tasks - 1}%{self._workers}",
            f"--output={log}",
            "--open-mode=append",
            "--no-requeue",  # the run does it, and knows
            "--ntasks=1",
            "--cpus-per-task=1",
            *(["--gpus=1"] if wants_gpu else []),
        ]
        directives = "\n".join(f"#SBATCH {shlex.quote(line)}" for line in lines)
        script = self._folder / f"{name}.sbatch"
        write_bytes(script, f"#!/bin/bash\n{directives}\nexec {shlex.join(words)}\n".encode())
        said = _answer_of("sbatch", "--parsable", str(script))
        job = said.stdout.strip().partition(";")[0]
        if said.returncode or not job.isdecimal():
            raise RunError(
                f"sbatch did not take the pieces of this step: {words_of(said)}. Say by its variables what a job needs "
                "here (SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT), then start the same command again"
            )
        self._jobs.append(job)
        self._rounds += 1
        for place, number in enumerate(numbers):
            self._task[number] = (job, place % tasks, self._folder / f"{name}.{place % tasks}.log")
            self._starts[number] = self._starts.get(number, 0) + 1
            self._gone.pop(number, None)

    def _look(self, waiting: set[int], pieces: Sequence[Piece[S]]) -> None:
        """Asks Slurm which pieces will still come; those that will not are handed in again."""
        queued = _queued(self._jobs)
        if isinstance(queued, str):  # it may answer tomorrow
            if not self._warned:
                _LOG.warning("squeue does not answer (%s): the run waits for the results of its jobs meanwhile", queued)
            self._warned = True
            return
        now = time.monotonic()
        for number in waiting:
            if self._task[number][:2] in queued:
                self._gone.pop(number, None)
            else:
                self._gone.setdefault(number, now)
        lost = sorted(number for number in waiting if now - self._gone.get(number, now) >= LATE_SECONDS)
        if not lost:
            return
        for number in lost:
            if self._starts[number] >= MOST_STARTS:
                job, task, log = self._task[number]
                raise RunError(
                    f"the piece {pieces[number].step}/{pieces[number].name} was lost {MOST_STARTS} times: its job "
                    f"{job}_{task} ended without a word (killed, a node that failed, out of memory or time). Its log "
                    f"is {log}. Give the jobs more (SBATCH_MEM_PER_CPU, SBATCH_TIMELIMIT), then start the same command "
                    "again"
                )
        self._submit(lost, any(pieces[number].gpus for number in lost))

    def _raised(self, piece: Piece[S], result: Result, log: Path) -> Exception:
        """The piece's own error, as far as its class is one of dcfast's."""
        kind, message = getattr(errors, result.error or "", None), f"{result.message} (its log: {log})"
        is_ours = isinstance(kind, type) and issubclass(kind, DcfastError)
        error: Exception = RunError(f"{result.error}: {message}")
        if is_ours:
            with suppress(TypeError):  # one that is made of more than a message
                error = kind(message)  # type: ignore[misc]
        error.add_note(f"{AT_PIECE}{piece.step}/{piece.name}")
        return error


def check_slurm(workers: int) -> None:
    """RunError where Slurm's programs are not there; ValueError for a number of workers that makes no sense."""
    check_engine("slurm", workers)
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        raise RunError(
            f"engine 'slurm' needs Slurm's programs, and there is no {', '.join(missing)} here: start the run where "
            "jobs are submitted, or use --engine local"
        )


def end_earlier(out: str) -> None:
    """Ends the jobs that a killed run left at work in its directory, and removes what they wrote for it.

    RunError: they do not end, or Slurm does not say whether they have.
    """
    place = Path(out, FOLDER)
    for folder in sorted(place.iterdir()) if place.is_dir() else ():
        if not _TOKEN.fullmatch(folder.name):
            continue
        deadline = time.monotonic() + _END_SECONDS
        while still := _still_there(f"dcfast-{folder.name}"):
            if time.monotonic() > deadline:
                raise RunError(still)
            time.sleep(POLL_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def _still_there(name: str) -> str:
    """Ends the jobs of a name; a sentence where there were any, or where that is not known; else empty."""
    said = _answer_of("squeue", "--noheader", f"--name={name}", "--format=%A")
    if said.returncode:
        return (
            f"squeue does not say whether jobs of an earlier start of this run ({name}) are at work: {words_of(said)}. "
            "Start the same command again when Slurm answers"
        )
    jobs = sorted({job for job in said.stdout.split() if job.isdecimal()})
    if not jobs:
        return ""
    _answer_of("scancel", *jobs)
    return (
        f"job {jobs[0]} of an earlier start of this run does not end: scancel {jobs[0]}, and start the same command "
        "again when it is gone"
    )


@contextmanager
def _alive(folder: Path) -> Iterator[None]:
    """For the time of a block the jobs see that the run lives: those of a killed one end by themselves."""
    ended = threading.Event()

    def beat() -> None:
        count = 0
        while True:
            with suppress(OSError):  # a full disk is said by those that need it
                (folder / ALIVE).write_text(str(count), encoding="ascii")
            count += 1
            if ended.wait(BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, name="dcfast-slurm", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _queued(jobs: Sequence[str]) -> set[tuple[str, int]] | str:
    """Job and number of each task that waits or is at work; what is said instead, where Slurm does not answer."""
    found: set[tuple[str, int]] = set()
    for job in jobs:
        said = _answer_of("squeue", "--noheader", "--array", f"--jobs={job}", "--format=%F:%K")
        if said.returncode:
            if "Invalid job id" in said.stderr:
                continue  # it ended long ago
            return words_of(said)
        for word in said.stdout.split():
            its, _, task = word.partition(":")
            if task.isdecimal():
                found.add((its, int(task)))
    return found


def _environment() -> Mapping[str, str]:
    """Without what a job says of itself: jobs that it submits have their own."""
    kept = ("SLURM_CONF",)
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name in kept}


def _answer_of(*words: str) -> subprocess.CompletedProcess[str]:
    """What a program of Slurm's answers; one that hangs, or cannot be started, has failed with a word about it."""
    try:
        return subprocess.run(
            words, env=_environment(), capture_output=True, text=True, errors="replace", check=False,
            stdin=subprocess.DEVNULL, timeout=ANSWER_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", f"no answer within {ANSWER_SECONDS:.0f} s")
    except OSError as error:
        return subprocess.CompletedProcess(words, 1, "", str(error))


def words_of(said: subprocess.CompletedProcess[str]) -> str:
    """What a program of Slurm's says of its failure, in a line of at most ``_MOST_SAID`` characters."""
    return printable(" ".join((said.stderr or said.stdout).split())[:_MOST_SAID]) or f"status {said.returncode}"
