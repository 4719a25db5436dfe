"""Which device a piece of work computes on, where several processes share the GPUs of a machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dcfast.process.options import one_of
from dcfast.process.shared_options import DEVICE, PRECISION
from dcfast.storage.lock import take_lock
from dcfast.storage.temporary import own_folder

PER_GPU = 2
"""Processes at work on a GPU at a time: one decodes while the other computes."""
_POLL_S = 0.2


def has_gpu() -> bool:
    """Whether torch sees a GPU on this machine."""
    import torch

    return torch.cuda.is_available()


def resolve_device(device: str) -> str:
    """``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ValueError: another name, or ``cuda`` where torch sees no GPU.
    """
    one_of("device", device, DEVICE.choices)
    if device == "cpu":
        return "cpu"
    if has_gpu():
        return "cuda"
    if device == "cuda":
        raise ValueError("device cuda was asked for, but torch sees no GPU on this machine; use --device cpu or auto")
    return "cpu"


def resolve_precision(precision: str, device: str) -> tuple[str, bool]:
    """The precision of the weights, as open_clip names it, and whether the reference's autocast is used.

    Args:
        precision: ``auto`` (as DataComp's own evaluation: ``amp`` on a GPU, ``fp32`` on the CPU), ``amp`` (weights of
            float32; texts, and pictures of retrieval and WinoGAViL, in float16 autocast), ``fp32``, ``fp16``, ``bf16``.
    Raises:
        ValueError: another name.
    """
    one_of("precision", precision, PRECISION.choices)
    if precision == "auto":
        precision = "fp32" if device == "cpu" else "amp"
    return ("fp32", True) if precision == "amp" else (precision, False)


@contextmanager
def whole_matmuls() -> Iterator[None]:
    """Matrices of float32 are multiplied in float32: a training in the same process may have allowed TF32."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def count_gpus(device: str) -> int:
    """GPUs of this machine that pieces share; 0 for ``cpu``."""
    import torch

    return 0 if device == "cpu" else torch.cuda.device_count()


def decode_threads(device: str) -> int:
    """Threads of one process that decode ahead of its model.

    One on the CPU, where pieces fill the cores. For a GPU all cores that are its own where GPUs share them evenly, 16
    at most: of two processes at work on it, one may wait for the other.
    """
    if device == "cpu":
        return 1
    return max(1, min(16, len(os.sched_getaffinity(0)) // max(1, count_gpus(device))))


def gpu_share(device: str) -> float:
    """What a piece asks a cluster for: the share of a GPU that one process takes; 0 for ``cpu``."""
    return 0.0 if device == "cpu" else 1.0 / PER_GPU


def _slots() -> list[tuple[str, Path]]:
    import torch

    # tasks of Slurm that each see a GPU of their own all know it as the first
    numbers = "SLURM_JOB_GPUS" if "SLURM_ARRAY_TASK_ID" in os.environ else "CUDA_VISIBLE_DEVICES"
    visible = os.environ.get(numbers, "").split(",")
    folder = own_folder()
    slots = []
    for turn in range(PER_GPU):
        for number in range(torch.cuda.device_count()):
            name = visible[number] if number < len(visible) and visible[number] else str(number)
            name = "".join(c if c.isalnum() or c == "-" else "_" for c in name)
            slots.append((f"cuda:{number}", folder / f"gpu-{name}-{turn}.lock"))
    return slots


@contextmanager
def borrowed_device(device: str) -> Iterator[str]:
    """A device for the time of a block: ``cpu``, or ``cuda:N`` with few other processes on it.

    Processes of one user on one machine share the GPUs by lock files in that user's folder of the directory for
    temporary files, which a dying process lets go of; who finds none free waits.

    Raises:
        ValueError: see ``resolve_device``.
    """
    if resolve_device(device) == "cpu":
        yield "cpu"
        return
    while True:
        for slot, path in _slots():
            try:
                lock = take_lock(path, mode=0o600, follow=False)
            except BlockingIOError:
                continue
            try:
                yield slot
            finally:
                os.close(lock)
            return
        time.sleep(_POLL_S)


@contextmanager
def one_thread(device: str) -> Iterator[None]:
    """On the CPU pieces, not torch's threads, fill the cores; one thread also gives the same bits everywhere."""
    import torch

    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
