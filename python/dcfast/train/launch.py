"""Starts a training on all GPUs of this machine: torchrun with a process each, or this process where one is enough."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcfast.errors import RunError
from dcfast.storage.atomic import write_json
from dcfast.train.loop import world_sizes
from dcfast.train.session import train
from dcfast.train.settings import TrainSettings

__all__ = ["launch"]


def launch(
    settings: TrainSettings, *, processes: int | None = None, on_step: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """``train`` on as many processes of this machine as divide the batch; its summary.

    Args:
        processes: ranks; None = one a GPU for device ``cuda`` (fewer where so many do not divide the global batch),
            and one on the CPU.
        on_step: as for ``train``; only called where one process is enough.
    Raises:
        RunError: a rank failed; what it said is on standard error.   What ``train`` raises.
    """
    wanted = _gpus() if processes is None and settings.device == "cuda" else processes or 1
    sizes = world_sizes(settings.recipe().global_batch, settings.accumulation)
    count = max((n for n in sizes if n <= wanted), default=1) if processes is None else wanted
    if count == 1 or "WORLD_SIZE" in os.environ:  # torchrun started this process already
        return train(settings, on_step=on_step)
    folder = Path(settings.out) / "train"
    write_json(folder / "settings.json", asdict(settings))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += ["-m", "dcfast.train", "--settings", str(folder / "settings.json")]
    environment = {**os.environ}
    if settings.device == "cpu" and settings.threads is None:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count)))
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as started:
        try:
            status = started.wait()
        except BaseException:
            started.terminate()  # it ends its ranks, which a kill of it would leave behind
            raise
    if status != 0:
        raise RunError(
            f"training on {count} processes failed (exit status {status}); the ranks' messages are above. "
            "The same command goes on from the latest checkpoint"
        )
    return dict(json.loads((folder / "summary.json").read_bytes()))


def _gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())
