"""Checkpoints of a training that were damaged, replaced or removed: what is passed over, and what the summary lists."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dcfast.models.checkpoint import read_checkpoint
from dcfast.train import TrainSource, train
from train_builder import build_pool, small, wait_for_disk


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TrainSource:
    return TrainSource(shards=str(build_pool(tmp_path_factory.mktemp("pool"), 60)))


@pytest.fixture(scope="module")
def whole(source: TrainSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of 4 steps and as many checkpoints."""
    out = tmp_path_factory.mktemp("whole")
    train(small(out, source, overrides={"samples_seen": 32, "checkpoints": 4}))
    return out


def flip_a_bit(path: Path) -> None:
    """The last bit of a weight: torch loads it."""
    weight = read_checkpoint(path)["state_dict"]["visual.proj"]
    data = bytearray(path.read_bytes())
    data[data.index(weight.numpy().tobytes())] ^= 1
    path.write_bytes(data)
    assert not torch.equal(torch.load(path, weights_only=True)["state_dict"]["visual.proj"], weight)


def become_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").write_text("somebody's")


def become_a_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (flip_a_bit, r"cannot be read and was passed over: .*damaged: Bad CRC-32"),
        (become_a_directory, r"is a directory and was passed over; its name is epoch_4\.pt\.aside now"),
        (become_a_link_to_nothing, "cannot be read and was passed over: .*no such file"),
    ],
)
def test_what_is_no_whole_checkpoint_is_passed_over(
    whole: Path, source: TrainSource, tmp_path: Path, damage: Callable[[Path], None], note: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    last = out / "train" / "checkpoints" / "epoch_4.pt"
    expected = last.read_bytes()
    damage(last)
    steps: list[int] = []
    settings = small(out, source, overrides={"samples_seen": 32, "checkpoints": 4})
    summary = train(settings, on_step=steps.append)
    assert steps == [3]
    [said] = summary.notes
    assert said.startswith("checkpoint epoch_4.pt ")
    assert re.search(note, said)
    assert last.read_bytes() == expected
    if damage is become_a_directory:
        assert (last.parent / "epoch_4.pt.aside" / "file").read_text() == "somebody's"


def test_the_summary_lists_the_checkpoints_that_are_there(source: TrainSource, tmp_path: Path) -> None:
    def remove(step: int) -> None:
        if step == 3:
            wait_for_disk()
            shutil.rmtree(tmp_path / "train" / "checkpoints")

    summary = train(small(tmp_path, source, overrides={"samples_seen": 32, "checkpoints": 4}), on_step=remove)
    assert summary.checkpoints == ["train/checkpoints/epoch_4.pt"]
    assert summary.notes == [
        "checkpoints that somebody removed: " + ", ".join(f"train/checkpoints/epoch_{k}.pt" for k in (1, 2, 3))
    ]
