"""Ranks of a training as real processes, forked from one that has torch loaded: a start costs a second, not ten."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from dcfast.train import TrainSettings

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["open_clip_train.train", "open_clip_train.scheduler", "dcfast.loss.functional", "dcfast.train.__main__",
     "dcfast.run.workflow"]
)  # fmt: skip


def _run(
    program: str, words: list[str], environment: dict[str, str], output: str, prepare: Callable[[], None] | None
) -> None:
    os.environ.update(environment)
    os.setpgid(0, 0)
    with open(output, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    main = importlib.import_module(program).main
    if prepare is not None:
        prepare()
    status = main(words)
    sys.stdout.flush()
    sys.exit(status)


class Ranks:
    """Started ranks of one training, or of a run (its words): their processes, exit statuses and what they said."""

    def __init__(
        self,
        folder: Path,
        ranks: Sequence[TrainSettings | list[str]],
        prepare: Callable[[], None] | None,
        told: Sequence[dict[str, str]] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        meeting = str(folder / f"meeting-{secrets.token_hex(4)}")
        self.outputs = [folder / f"output-{rank}" for rank in range(len(ranks))]
        self.processes: list[BaseProcess] = []
        for rank, settings in enumerate(ranks):
            program, words = "dcfast.run.workflow", settings
            if isinstance(settings, TrainSettings):
                path = folder / f"settings-{rank}.json"
                path.write_text(json.dumps(asdict(settings)))
                program, words = "dcfast.train.__main__", ["--settings", str(path)]
            environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(ranks))}
            environment |= {"DCFAST_MEETING": meeting, "GLOO_SOCKET_IFNAME": "lo"}
            environment |= told[rank] if told else {}
            arguments = (program, words, environment, str(self.outputs[rank]), prepare)
            process = _CONTEXT.Process(target=_run, args=arguments)
            process.start()
            self.processes.append(process)

    def send(self, rank: int, number: int) -> None:
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def statuses(self, seconds: float = 90.0, enough: int | None = None) -> list[int | None]:
        """Exit statuses of all, None for one that has not ended in time, or when ``enough`` others had."""
        deadline = time.monotonic() + seconds
        wanted = len(self.processes) if enough is None else enough
        while sum(p.exitcode is not None for p in self.processes) < wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        return [process.exitcode for process in self.processes]

    def said(self, rank: int) -> str:
        return self.outputs[rank].read_text(errors="replace")

    def kill(self) -> None:
        for rank, process in enumerate(self.processes):
            if process.is_alive():
                self.send(rank, signal.SIGCONT)
                process.kill()
            process.join()


@contextmanager
def started(
    folder: Path,
    *ranks: TrainSettings | list[str],
    prepare: Callable[[], None] | None = None,
    told: Sequence[dict[str, str]] = (),
) -> Iterator[Ranks]:
    """A training on as many ranks as settings are given, or a run by as many command lines.

    It is killed at the end of the block, where it is still at work.

    Args:
        prepare: called in each process before training; must be a function of a module.
        told: of each rank, variables of its environment that differ from those of a usual start.
    """
    processes = Ranks(folder, list(ranks), prepare, told)
    try:
        yield processes
    finally:
        processes.kill()


def log_lines(out: Path) -> list[dict[str, Any]]:
    """The whole lines of a training's log so far."""
    path = out / "train" / "log.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def wait_for_step(out: Path, step: int, seconds: float = 90.0) -> None:
    """Until the log has a step."""
    deadline = time.monotonic() + seconds
    while not any(line["step"] >= step for line in log_lines(out)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no step {step} in {out}: {log_lines(out)[-1:]}")
        time.sleep(0.02)
