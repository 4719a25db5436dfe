"""A store that goes away while a training reads it: the training ends by name of the store, and replaces nothing."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from dcfast.access.reader import PoolReader
from dcfast.errors import RunError
from dcfast.train import TrainSource, loop, train
from dcfast.train.saving import Saver
from train_builder import build_pool, small

SHORT = {"samples_seen": 48, "checkpoints": 2}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TrainSource:
    return TrainSource(shards=str(build_pool(tmp_path_factory.mktemp("pool"), 60)))


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOTCONN, errno.EIO, errno.EACCES])
def test_a_mount_that_goes_away_ends_the_training(
    source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What a server of files that is gone answers: a stale handle, no connection, a bad disk, no right any more."""
    read, reads = PoolReader.read_located, []

    def read_once(self: PoolReader, *what: Any, **how: Any) -> Any:
        reads.append(None)
        if len(reads) == 5:
            raise OSError(number, os.strerror(number), "/mnt/pool/00000001.tar")
        return read(self, *what, **how)

    monkeypatch.setattr(PoolReader, "read_located", read_once)
    settings = small(tmp_path, source, overrides=SHORT)
    with pytest.raises(RunError, match=r"a shard cannot be read as it was indexed \(.*/mnt/pool/00000001\.tar") as info:
        train(settings)
    assert str(info.value).endswith("the same command goes on from the latest checkpoint")
    assert not list((tmp_path / "train").glob("replaced-*"))
    assert len(reads) == 5  # nothing was read in its place
    assert train(settings).samples_seen == 48


def test_a_shard_that_vanishes_before_it_is_read(
    source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(str(source.shards), pool, copy_function=shutil.copy2)
    begin = loop.iterate_batches

    def vanish(*what: Any, **how: Any) -> Any:
        sorted(pool.rglob("*.tar"))[1].unlink()
        return begin(*what, **how)

    monkeypatch.setattr(loop, "iterate_batches", vanish)
    with pytest.raises(RunError, match=r"a shard cannot be read as it was indexed \(.*00000001\.tar"):
        train(small(tmp_path / "out", TrainSource(shards=str(pool)), overrides=SHORT))
    assert not list((tmp_path / "out" / "train").glob("replaced-*"))


def test_a_disk_that_is_full_for_the_log_is_named(
    source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that is being written meanwhile is brought to its end."""
    waited: list[Saver] = []
    close = Saver.close

    def close_and_note(self: Saver) -> None:
        close(self)
        waited.append(self)
        assert self.is_idle()

    def full(path: Path, lines: Any) -> None:
        if path.name == "log.jsonl" and sum(1 for _ in lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Saver, "close", close_and_note)
    settings = small(tmp_path, source, overrides=SHORT, save_every_steps=1, log_every=4)

    def on_step(step: int) -> None:
        if step == 3:
            monkeypatch.setattr("dcfast.train.telling.append_records", full)

    with pytest.raises(OSError, match="No space left on device"):
        train(settings, on_step=on_step)
    assert len(waited) == 1
    assert (tmp_path / "train" / "checkpoints" / "epoch_1.pt").is_file()  # of step 3, the last that was begun
