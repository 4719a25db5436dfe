"""Checkpoints that a thread writes while the steps go on: the same bytes, and whole or absent whatever happens."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dcfast.process.signals import Stopped
from dcfast.train import TrainSource, keeper, train
from dcfast.train.checkpoint import KEPT_STEPS, _Remembering, write_checkpoint
from dcfast.train.progress import Progress
from dcfast.train.saving import Aside, Saver
from dcfast.train.sharded import ShardedRecord, finish_shards
from rank_processes import started
from train_builder import build_pool, small, wait_for_disk

pytestmark = pytest.mark.xdist_group("ranks")

SHORT = {"samples_seen": 48, "checkpoints": 2}  # six steps


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TrainSource:
    return TrainSource(shards=str(build_pool(tmp_path_factory.mktemp("pool"), 60)))


def saved(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "train" / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def whole(source: TrainSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    train(small(out, source, overrides=SHORT))
    return out


def test_steps_go_on_while_a_checkpoint_is_written_and_it_holds_what_was_then(
    source: TrainSource, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, later = threading.Event(), threading.Event()
    begun: list[str] = []

    def write(path: Path, content: object, rest: Callable[[], None]) -> None:
        begun.append(path.name)
        at_work.set()
        if path.name == "epoch_1.pt":
            assert later.wait(60)  # until the weights are others: three steps more were begun
        write_checkpoint(path, content, rest)

    def on_step(step: int) -> None:
        if step == 5:
            assert at_work.wait(60)
            assert begun == ["epoch_1.pt"]
            later.set()

    monkeypatch.setattr(keeper, "write_checkpoint", write)
    train(small(tmp_path, source, overrides=SHORT), on_step=on_step)
    assert begun == ["epoch_1.pt", "epoch_2.pt"]
    assert saved(tmp_path) == saved(whole)


def test_a_copy_is_made_in_the_memory_of_the_last_one() -> None:
    aside = Aside()
    state: dict[str, Any] = {"a": torch.arange(4.0), "b": [torch.ones(2, 3).T, 7], "c": {"d": "text"}}
    first: Any = aside.copy(state, set())
    place = first["a"].data_ptr()
    state["a"] += 1
    assert first["a"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert first["b"][0].stride() == (1, 3)
    second: Any = aside.copy(state, set())
    assert second["a"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert second["a"].data_ptr() == place
    third: Any = aside.copy({**state, "a": torch.zeros(5)}, set())  # of another form
    assert third["a"].shape == (5,)
    assert third["b"][0].data_ptr() == second["b"][0].data_ptr()


def test_a_disk_that_fills_up_stops_the_training_at_the_next_step(
    source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def write(path: Path, content: object, rest: Callable[[], None]) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        finally:
            failed.set()

    def on_step(step: int) -> None:
        steps.append(step)
        if step == 3:
            assert failed.wait(60)
            wait_for_disk()

    steps: list[int] = []
    monkeypatch.setattr(keeper, "write_checkpoint", write)
    with pytest.raises(OSError, match="No space left on device"):
        train(small(tmp_path, source, overrides={**SHORT, "samples_seen": 800}, save_every_steps=3), on_step=on_step)
    assert steps == [0, 1, 2, 3]


def test_a_saver_tells_an_error_once(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "the disk is gone")

    saver = Saver()
    saver.start(fail)
    with pytest.raises(OSError, match="the disk is gone"):
        saver.wait()
    saver.wait()
    assert not saver.failed()
    saver.start(fail)
    saver.close()
    assert [record.message for record in caplog.records] == [
        "  train: the last checkpoint was not written: [Errno 5] the disk is gone"
    ]


def test_a_signal_waits_for_the_disk(source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, content: object, rest: Callable[[], None]) -> None:
        time.sleep(0.3)
        write_checkpoint(path, content, rest)

    def on_step(step: int) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(keeper, "write_checkpoint", write)
    with pytest.raises(Stopped):
        train(small(tmp_path, source, overrides=SHORT), on_step=on_step)
    assert [*saved(tmp_path)] == ["step_2.pt"]


_write = _Remembering.write


def _kill_in_the_middle(self: _Remembering, data: bytes) -> int | None:
    written = _write(self, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
    return written


def _killed_in_the_second() -> None:
    def write(path: Path, content: object, rest: Callable[[], None]) -> None:
        if path.name == "step_4.pt":
            _Remembering.write = _kill_in_the_middle  # type: ignore[method-assign]
        write_checkpoint(path, content, rest)

    keeper.write_checkpoint = write  # type: ignore[attr-defined]


def test_a_kill_within_a_write_leaves_the_checkpoint_before(source: TrainSource, whole: Path, tmp_path: Path) -> None:
    settings = small(tmp_path / "out", source, overrides=SHORT, save_every_steps=2)
    with started(tmp_path / "ranks", settings, prepare=_killed_in_the_second) as ranks:
        assert ranks.statuses() == [-signal.SIGKILL], ranks.said(0)
    files = sorted(saved(tmp_path / "out"))
    assert [name for name in files if not name.startswith(".tmp-")] == ["epoch_1.pt", "step_2.pt"]
    assert len(files) == 3  # what was half written, and goes with the next start
    steps: list[int] = []
    train(settings, on_step=steps.append)
    assert steps == [3, 4, 5]
    again = saved(tmp_path / "out")
    assert sorted(again) == ["epoch_1.pt", "epoch_2.pt", "step_2.pt", "step_4.pt"]
    assert again["epoch_2.pt"] == saved(whole)["epoch_2.pt"]


def test_a_new_checkpoint_outlives_damaged_ones_of_larger_numbers(source: TrainSource, tmp_path: Path) -> None:
    identity = small(tmp_path, source).identity(["f"])
    for number in (20, 30):
        (tmp_path / f"step_{number}.pt").write_bytes(b"damaged")
        (tmp_path / f"step_{number}.sharded").mkdir()
    for number in (10, 12):
        write_checkpoint(tmp_path / f"step_{number}.pt", {"number": number})
        (tmp_path / ".tmp-shards").mkdir()
        progress = Progress(step=number, samples_seen=8, identity=identity)
        record = ShardedRecord(epoch=0, name="m", files={}, dcfast=progress)
        finish_shards(tmp_path / f"step_{number}.sharded", tmp_path / ".tmp-shards", lambda _, r=record: r, KEPT_STEPS)
        assert {p.name for p in tmp_path.iterdir()} == {
            f"step_{number}.pt", "step_30.pt", f"step_{number}.sharded", "step_30.sharded"
        }  # fmt: skip


def test_a_wait_that_ctrl_c_interrupted_waits_again() -> None:
    def stop(*_: object) -> None:
        raise Stopped(signal.SIGINT)

    saver, go = Saver(), threading.Event()
    before = signal.signal(signal.SIGALRM, stop)
    try:
        saver.start(lambda: print("written", go.wait(20)))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Stopped):
            saver.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not saver.is_idle()
    threading.Timer(0.1, go.set).start()
    saver.close()
    assert go.is_set()
    assert saver.is_idle()
