"""Models that are spread over the ranks: the same losses, and checkpoints that any number of ranks goes on from."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dcfast.errors import CheckpointError
from dcfast.models.checkpoint import read_checkpoint
from dcfast.train import TrainSettings, TrainSource, keeper, train
from dcfast.train.checkpoint import latest_checkpoint
from dcfast.train.spread import shard_model
from rank_processes import log_lines, started
from train_builder import build_pool, small

pytestmark = pytest.mark.xdist_group("ranks")

SHORT = {"samples_seen": 8 * 12, "checkpoints": 2, "precision": "amp", "grad_checkpointing": True}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TrainSource:
    return TrainSource(shards=str(build_pool(tmp_path_factory.mktemp("pool"), 60)))


def on_ranks(folder: Path, settings: TrainSettings, ranks: int) -> Path:
    out = Path(settings.out)
    with started(folder, *[settings] * ranks) as processes:
        assert processes.statuses() == [0] * ranks, processes.said(0) + processes.said(1)
    return out


@pytest.fixture(scope="module")
def plain(source: TrainSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks that each hold the whole model."""
    folder = tmp_path_factory.mktemp("plain")
    return on_ranks(folder / "ranks", small(folder / "out", source, overrides=SHORT), 2)


@pytest.fixture(scope="module")
def spread(source: TrainSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks that hold a part each."""
    folder = tmp_path_factory.mktemp("spread")
    settings = small(folder / "out", source, overrides=SHORT, fsdp=True, save_every_steps=4)
    return on_ranks(folder / "ranks", settings, 2)


def same_losses(a: Path, b: Path) -> bool:
    lines = [log_lines(out) for out in (a, b)]
    assert len(lines[0]) == len(lines[1]) == 12
    bounds = {"loss": 5e-4, "gradient_norm": 0.01}  # the optimizer makes more of what rounding leaves
    pairs = [(x[name], y[name], bounds[name]) for x, y in zip(*lines, strict=True) for name in bounds]
    return all(x == pytest.approx(y, rel=bound) for x, y, bound in pairs)


def test_a_model_that_is_spread_learns_the_same(plain: Path, spread: Path) -> None:
    assert same_losses(plain, spread)
    own, other = (read_checkpoint(out / "train" / "checkpoints" / "epoch_2.pt") for out in (spread, plain))
    assert own.keys() == other.keys()
    assert own["state_dict"].keys() == other["state_dict"].keys()
    for name, value in other["state_dict"].items():
        assert own["state_dict"][name].shape == value.shape
        assert torch.allclose(own["state_dict"][name], value, atol=2e-3), name
    assert own["optimizer"]["param_groups"] == other["optimizer"]["param_groups"]
    for number, kept in other["optimizer"]["state"].items():
        assert {name: v.shape for name, v in own["optimizer"]["state"][number].items()} == {
            name: value.shape for name, value in kept.items()
        }


def test_each_rank_writes_its_part(spread: Path) -> None:
    folder = spread / "train" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [
        "epoch_1.pt", "epoch_2.pt", "step_6.sharded", "step_8.sharded"
    ]  # fmt: skip
    names = sorted(path.name for path in (folder / "step_8.sharded").iterdir())
    assert len(names) == 3
    assert names[0] == "checkpoint.json"
    assert all(name.endswith(".safetensors") for name in names[1:])


@pytest.mark.parametrize(("ranks", "fsdp"), [(1, False), (2, False), (4, True)])
def test_any_number_of_ranks_goes_on(source: TrainSource, spread: Path, tmp_path: Path, ranks: int, fsdp: bool) -> None:
    """From the shards of step 8, in the same form or the other."""
    out = tmp_path / "out"
    shutil.copytree(spread, out)
    (out / "train" / "checkpoints" / "epoch_2.pt").unlink()
    settings = small(out, source, overrides=SHORT, fsdp=fsdp)
    if ranks == 1:
        steps: list[int] = []
        train(settings, on_step=steps.append)
        assert steps == [8, 9, 10, 11]
    else:
        on_ranks(tmp_path / "ranks", settings, ranks)
    assert same_losses(out, spread)


def test_the_open_clip_form_goes_on_spread(source: TrainSource, plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(plain, out)
    (out / "train" / "checkpoints" / "epoch_2.pt").unlink()
    on_ranks(tmp_path / "ranks", small(out, source, overrides=SHORT, fsdp=True), 2)
    assert same_losses(out, plain)


def test_shards_that_are_damaged_are_passed_over(spread: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(spread / "train" / "checkpoints", folder)
    steps = {1: 6, 2: 12}
    (folder / "epoch_2.pt").unlink()
    assert latest_checkpoint(folder, steps) == (folder / "step_8.sharded", [])
    file = next((folder / "step_8.sharded").glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    path, [note] = latest_checkpoint(folder, steps)
    assert path == folder / "step_6.sharded"
    assert "step_8.sharded cannot be read and was passed over" in note
    assert "is damaged: another hash" in note
    next((folder / "step_6.sharded").glob("*.safetensors")).unlink()
    path, notes = latest_checkpoint(folder, steps)
    assert path == folder / "epoch_1.pt"
    assert "is gone" in notes[1]


def test_shards_of_another_model_are_refused(source: TrainSource, spread: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(spread, out)
    (out / "train" / "checkpoints" / "epoch_2.pt").unlink()
    record = out / "train" / "checkpoints" / "step_8.sharded" / "checkpoint.json"
    content = json.loads(record.read_text())
    content["dcfast"]["identity"]["recipe"]["model"] = "dcfast-tiny"
    record.write_text(json.dumps(content))
    settings = small(out, source, overrides={**SHORT, "model": "dcfast-tiny"})
    with pytest.raises(CheckpointError, match=r"step_8.sharded is of another model than .*: \d+ tensors are there or"):
        train(settings)
    with pytest.raises(CheckpointError, match=r"step_8.sharded is of another training"):
        train(replace(settings, seed=1))


def _killed_in_the_second() -> None:
    write = keeper.write_shards

    def killed(temporary: Path, *rest: object) -> None:
        write(temporary, *rest)  # type: ignore[arg-type]
        if "step_8" in temporary.name:
            os.kill(os.getpid(), signal.SIGKILL)

    keeper.write_shards = killed  # type: ignore[attr-defined]


def test_a_kill_within_the_write_leaves_the_shards_before(source: TrainSource, spread: Path, tmp_path: Path) -> None:
    settings = small(tmp_path / "out", source, overrides=SHORT, fsdp=True, save_every_steps=4)
    with started(tmp_path / "ranks", settings, settings, prepare=_killed_in_the_second) as ranks:
        assert -signal.SIGKILL in ranks.statuses(), ranks.said(0)
    names = sorted(path.name for path in (tmp_path / "out" / "train" / "checkpoints").iterdir())
    assert names[0].startswith(".tmp-")
    assert names[1:] == ["epoch_1.pt", "step_4.sharded", "step_6.sharded"]
    on_ranks(tmp_path / "ranks", settings, 2)
    assert same_losses(tmp_path / "out", spread)


def test_shards_are_copied_and_gone_on_from(source: TrainSource, spread: Path, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    settings = small(tmp_path / "out", source, overrides=SHORT, fsdp=True, save_every_steps=4, copy_to=str(copies))
    on_ranks(tmp_path / "ranks", settings, 2)
    folders = (copies / "checkpoints", tmp_path / "out" / "train" / "checkpoints")
    there, here = ({p.relative_to(folder) for p in folder.rglob("*.*") if p.is_file()} for folder in folders)
    assert there == here
    assert len(there) == 8
    shutil.rmtree(tmp_path / "out")  # the machine is lost, before the last checkpoint was copied
    (copies / "checkpoints" / "epoch_2.pt").unlink()
    steps: list[int] = []
    train(replace(settings, fsdp=False), on_step=steps.append)
    assert steps == [8, 9, 10, 11]
    assert same_losses(tmp_path / "out", spread)


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def test_a_disk_that_is_full_for_shards_is_named(source: TrainSource, tmp_path: Path) -> None:
    settings = small(tmp_path / "out", source, overrides=SHORT, fsdp=True, save_every_steps=2)
    with started(tmp_path / "ranks", settings, settings, prepare=_small_files) as ranks:
        assert None not in ranks.statuses(60)
        assert 0 not in ranks.statuses(1)
        said = ranks.said(0)
    assert "free some space, and run the same command again to resume" in said
    assert "step_2.sharded" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "out" / "train").glob("checkpoints/*"))


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="fsdp: the model has no list of blocks"):
        shard_model(torch.nn.Linear(2, 2), "cpu", 2)
