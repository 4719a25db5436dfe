"""Who computes on which GPU: one process after the other, by lock files; pretended here, since there is none."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from dcfast.models import devices
from dcfast.models.devices import borrowed_device, count_gpus, decode_threads, gpu_share, resolve_device


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "own_folder", lambda: tmp_path)
    monkeypatch.setattr(devices, "_POLL_S", 0.001)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_processes_spread_and_the_last_waits(two_gpus: None) -> None:
    with borrowed_device("auto") as a, borrowed_device("cuda") as b, borrowed_device("auto") as c:
        assert (a, b, c) == ("cuda:0", "cuda:1", "cuda:0")
        with borrowed_device("auto") as d:
            assert d == "cuda:1"
            got: list[str] = []
            released = threading.Event()

            def wait() -> None:
                with borrowed_device("auto") as late:
                    got.append(late if released.is_set() else "too early")

            waiting = threading.Thread(target=wait)
            waiting.start()
            waiting.join(0.05)
            assert waiting.is_alive()
            released.set()
        waiting.join(10)
    assert got == ["cuda:1"]


def test_the_cpu_is_not_borrowed(two_gpus: None, tmp_path: Path) -> None:
    with borrowed_device("cpu") as device:
        assert device == "cpu"
    assert list(tmp_path.iterdir()) == []
    assert (gpu_share("cpu"), gpu_share("auto")) == (0.0, 1 / devices.PER_GPU)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (3, 1), (8, 4), (64, 16)])
def test_gpus_share_the_cores_for_decoding(
    cores: int, threads: int, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(cores)))
    assert decode_threads("cuda:1") == threads
    assert decode_threads("cpu") == 1
    assert (count_gpus("cuda"), count_gpus("cpu")) == (2, 0)


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(ValueError, match="device cuda was asked for, but torch sees no GPU"):
        resolve_device("cuda")
    with pytest.raises(ValueError, match="device must be one of auto, cpu, cuda; got 'gpu'; did you mean 'cuda'"):
        resolve_device("gpu")
