"""Starts a training on all GPUs of this machine: a process each, or this process where one is enough.

Not torchrun: its store listens on all addresses, and what it says of a rank that died is a page of tracebacks. Here
ranks meet by a file and talk over the loopback interface, and one line says which rank ended how.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from dcfast.errors import DcfastError, RunError
from dcfast.models.devices import resolve_device
from dcfast.process.advance import tell_advance
from dcfast.process.exit_codes import PEER_LOST
from dcfast.process.signals import POSTPONED, SAVE_SECONDS, Stopped, postponed
from dcfast.rundir.recorder import read_progress
from dcfast.rundir.training_summary import TrainingSummary
from dcfast.storage.atomic import write_json
from dcfast.storage.records import read_record
from dcfast.storage.temporary import temporary_folder
from dcfast.train.meeting import MEETING
from dcfast.train.place import check_world_size, place_of, world_sizes
from dcfast.train.ranks import LAUNCHER, require_training
from dcfast.train.session import train
from dcfast.train.settings import TrainSettings

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 3.0
_LAST_WORDS_SECONDS = 3.0
"""How long the others may take to end, once one has failed: the cause may be among them."""


def launch(
    settings: TrainSettings, *, processes: int | None = None, on_step: Callable[[int], None] | None = None
) -> TrainingSummary:
    """``train`` on as many processes of this machine as divide the batch; its summary.

    Args:
        processes: ranks; None = one a GPU on GPUs (fewer where so many do not divide the global batch), and one on
            the CPU.
        on_step: as for ``train``; only called where one process is enough.
    Raises:
        RunError: a rank failed or was killed; what it said is on standard error.   What ``train`` raises.
        Stopped: a signal asked for the end; the ranks have saved a checkpoint.
    Cost: that of ``train``, and a process a rank.
    Example: ``launch(small_training, processes=1).checkpoint``
    """
    if processes is not None and processes < 1:
        raise ValueError(f"processes must be at least 1; got {processes}")
    require_training()
    settings = replace(settings, device=resolve_device(settings.device))
    batch = settings.recipe().global_batch
    if processes is None:
        processes = processes_here(settings)
    if processes == 1 or place_of().size > 1:  # this process is a rank already
        return train(settings, on_step=on_step)
    check_world_size(batch, processes, settings.accumulation)
    with temporary_folder("dcfast-ranks-") as folder:
        write_json(folder / "settings.json", asdict(settings))
        _run(_start(settings, processes, folder), Path(settings.out) / "train")
    return read_record(Path(settings.out) / "train" / "summary.json", TrainingSummary)


def processes_here(settings: TrainSettings) -> int:
    """Ranks that a training has on this machine where nobody says how many: one a GPU, as far as they divide the
    batch."""
    gpus = _gpus() if settings.device == "cuda" else 1
    sizes = world_sizes(settings.recipe().global_batch, settings.accumulation)
    return max((n for n in sizes if n <= gpus), default=1)


def _start(settings: TrainSettings, count: int, folder: Path) -> list[subprocess.Popen[bytes]]:
    environment = {**os.environ, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    environment |= {MEETING: str(folder / "meeting"), LAUNCHER: str(os.getpid())}
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        environment[name] = "lo"  # whatever a cluster's say: all ranks are here, and nothing listens for others
    if settings.device == "cpu" and settings.threads is None:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count)))
    command = [sys.executable, "-m", "dcfast.train", "--settings", str(folder / "settings.json")]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(count):
            variables = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append(subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL))
    except BaseException:
        _kill(started)
        raise
    return started


def _tell(folder: Path, rank: int) -> None:
    """Tells on what the first rank says of the training in its folder."""
    with suppress(OSError, DcfastError):
        told = read_progress(folder)
        if told is not None and told.pid == rank and told.step is not None and told.step.detail is not None:
            tell_advance(told.step.done, told.step.total, told.step.unit, told.step.detail)


def _run(ranks: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Waits for the end of all ranks; RunError where one fails, Stopped where all end by a signal."""
    passed_on = False
    looked = time.monotonic()
    deadline = math.inf
    try:
        with postponed(SAVE_SECONDS + 2) as asked:
            while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
                number = asked()
                if number is not None and not passed_on:
                    passed_on = True
                    deadline = time.monotonic() + SAVE_SECONDS if number == signal.SIGTERM else math.inf
                    for rank in ranks:
                        rank.send_signal(number)
                elif deadline == math.inf and not passed_on and any(rank.returncode for rank in ranks):
                    deadline = time.monotonic() + _LAST_WORDS_SECONDS
                if time.monotonic() - looked >= _LOOK_SECONDS:
                    looked = time.monotonic()
                    _tell(folder, ranks[0].pid)
                time.sleep(_POLL_SECONDS)
            ends = [rank.poll() for rank in ranks]
    finally:
        _kill(ranks)
    failed = {number: PEER_LOST if status is None else status for number, status in enumerate(ends) if status != 0}
    if not failed:
        return
    stops = {128 + number: number for number in POSTPONED}
    stopped = [stops[status] for status in failed.values() if status in stops]
    if stopped and all(status in stops or status == PEER_LOST for status in failed.values()):
        raise Stopped(stopped[0])
    raise RunError(f"training on {len(ranks)} processes failed: {_cause(failed)}. The same command goes on from the "
                   "latest checkpoint")  # fmt: skip


def _cause(failed: dict[int, int]) -> str:
    """The end that explains the others."""
    for rank, status in failed.items():
        if status < 0:
            name = signal.Signals(-status).name
            why = " (by hand, or the machine ran out of memory)" if -status == signal.SIGKILL else ""
            return f"rank {rank} was killed by {name}{why}"
    for rank, status in failed.items():
        if status != PEER_LOST:
            return f"rank {rank} ended with status {status}; its message is above"
    return f"ranks {', '.join(map(str, failed))} lost each other"


def _kill(ranks: list[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        with suppress(ProcessLookupError):
            rank.kill()
    for rank in ranks:
        rank.wait()


def _gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())
