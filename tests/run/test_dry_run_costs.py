"""``--dry-run``: what training costs, where it cannot be tried, was begun, or is of a model too large to be tried."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dcfast.errors import RunError
from dcfast.run import dry_run, model_probes, training_plan
from dcfast.run.dry_run import describe, plan
from dcfast.run.model_probes import model_size
from dcfast.run.probes import Rates, measure
from dcfast.run.training_plan import ROOM, StepsLeft, checkpoint_bytes, cost_lines, steps_left
from dcfast.run.workflow import main, run
from dcfast.rundir.run_dir import Run, look_at_run
from dcfast.rundir.settings import Settings
from dcfast.scales import SCALES
from dcfast.stages import train
from dcfast.train import TrainSettings, TrainSource
from dcfast.train.checkpoint import checkpoint_content, write_checkpoint
from dcfast.train.learner import create_learner
from dcfast.train.progress import Progress
from dcfast.train.ranks import Ranks
from pool_builder import plain_pool


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return plain_pool(tmp_path / "pool").write()


@pytest.mark.parametrize(
    ("hours", "words"),
    [
        (1, "60 min"),
        (9_999, "9,999.0 h"),
        (20_000, "2.3 years"),
        (438_300, "50.0 years"),
        (477_563, "more than 50 years"),
    ],
)
def test_long_times_are_years(hours: float, words: str) -> None:
    assert dry_run._time(hours * 3600) == words


def test_columns_never_run_together() -> None:
    cells = ["compare/reshard", "to do", "999,999.9 TB", "999,999.9 TB", "more than 50 years", "why"]
    row = f" {dry_run._row(*cells)} "
    assert all(f" {cell} " in row for cell in cells)


def test_a_model_is_sized_without_being_made() -> None:
    small, tiny = model_size("ViT-B-32"), model_size("dcfast-tiny")
    assert (small.parameters, small.image_size) == (151_277_313, 224)
    assert small.operations == pytest.approx(14.78e9, rel=0.05)  # as open_clip lists it
    assert tiny.operations < small.operations / 50
    assert tiny.image_size == 48


def test_a_model_too_large_is_reckoned(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*_: object, **__: object) -> None:
        raise AssertionError("it is made")

    monkeypatch.setattr(model_probes, "TRIAL_SECONDS", 0.0)
    monkeypatch.setattr(model_probes, "matmul_rate", lambda device, precision: 1e9)
    for maker in ("create_learner", "load_model"):
        monkeypatch.setattr(model_probes, maker, made)
    rates = measure(Run(tmp_path / "o", Settings(pool=str(pool), compare="none", device="cpu")), ["train"])
    forth = model_size("dcfast-tiny").operations / 1e9
    assert rates.train == {"dcfast-tiny": pytest.approx(3 * forth)}  # forth, and back, which is twice that
    assert rates.embed == {"dcfast-tiny": pytest.approx(forth)}
    assert rates.decode == {"dcfast-tiny": rates.picture}
    said = [line for line in rates.how if "too large to be tried in" in line]
    assert [line.partition(",")[0] for line in said] == ["training steps of dcfast-tiny", "embeddings of dcfast-tiny"]


def test_checkpoints_are_as_large_as_planned(tmp_path: Path) -> None:
    recipe = SCALES["tiny"]
    settings = TrainSettings(str(tmp_path), (TrainSource(shards="."),))
    learner = create_learner(settings, Ranks(device="cpu"))
    for parameter in learner.bare.parameters():
        parameter.grad = torch.zeros_like(parameter)
    learner.optimizer.step()
    saved = tmp_path / "epoch_1.pt"
    progress = Progress(step=1, samples_seen=128, identity=settings.identity())
    write_checkpoint(saved, checkpoint_content(recipe.model, learner, 1, progress))
    files = recipe.checkpoints + 3  # two of other steps, and a third before the first of them goes
    planned = checkpoint_bytes(recipe) // files
    assert planned - ROOM <= saved.stat().st_size <= planned


def test_without_a_gpu_the_data_half_is_planned(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["--pool", str(pool), "--out", str(tmp_path / "o"), "--scale", "small", "--dry-run"]
    assert main(words) == 1
    said = capsys.readouterr()
    assert "scale small wants a GPU for stage train" in said.err
    for stage in ("index", "signatures", "decontaminate", "filter", "reshard", "verify", "report"):
        assert re.search(rf"^{stage} +to do +\d.* \d+ s$", said.out, re.MULTILINE), said.out
    # each of 12,800,000 samples is read, of a pool whose pairs have some hundred bytes
    assert re.search(r"^train +to do +\d+\.\d GB +14\.\d GB +\?$", said.out, re.MULTILINE), said.out
    assert re.search(r"^read in all: about \d+\.\d GB, over the network where the pool is not on .* it sees it$",
                     said.out, re.MULTILINE), said.out  # fmt: skip
    assert "GPU-hours by the steps" not in said.out
    assert re.search(r"^in all about \d+ s without train; 1 training, about 4 A100", said.out, re.MULTILINE), said.out
    here = "are here (less than 0.01%); the figures are for these; "
    assert f"{here}the whole scale: about 450.0 GB of shards, about 4 A100 GPU-hours" in said.out


def test_what_training_takes_of_network_and_gpus(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Run(tmp_path / "o", Settings(pool=str(pool), compare="none", samples_seen=7200, device="auto"))
    stages = [("index", 5_000_000, 1.0), ("train", 30_000_000, 10.0), ("compare/train", 30_000_000, 5.0)]
    words = (dry_run._amount, dry_run._time)
    monkeypatch.setattr(training_plan, "has_gpu", lambda: True)
    assert cost_lines(chosen, stages, {"dcfast-tiny": 0.5}, *words) == [
        "read in all: about 65 MB, over the network where the pool is not on this machine's disks; of these 60 MB by "
        "training, which reads each sample as often as it sees it: 4 MB a second",
        "a training of 7,200 samples: 1.0 GPU-hours by the steps that were tried here; 8 min on eight such GPUs, if "
        "their number costs nothing and data come in time (assumed)",
    ]
    monkeypatch.setattr(training_plan, "has_gpu", lambda: False)
    untimed = [(name, read, None) for name, read, _ in stages]
    [line] = cost_lines(chosen, untimed, {}, *words)
    assert line.endswith("by training, which reads each sample as often as it sees it")
    assert cost_lines(chosen, stages[:1], {}, *words) == []


def test_a_training_that_was_begun_has_the_steps_left(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(settings: TrainSettings) -> None:
        raise RunError("stopped")

    out = tmp_path / "o"
    settings = Settings(pool=str(pool), compare="none", device="cpu", samples_seen=400, overrides={"global_batch": 4})
    monkeypatch.setattr(train, "launch", stopped)
    with pytest.raises(RunError, match="stopped"):
        run(out, settings)
    monkeypatch.setattr(dry_run, "measure", lambda run, stages: Rates())
    stages = ["index", "signatures", "decontaminate", "filter", "reshard", "verify", "train"]
    current = look_at_run(out, settings)
    assert steps_left(current) == StepsLeft(100, 100, None)
    (out / "train/checkpoints").mkdir()
    (out / "train/checkpoints/epoch_1.pt").write_bytes(b"")
    line = {"samples_seen": 1, "loss": 1.0, "learning_rate": 1.0}
    lines = [{**line, "step": step, "seconds": seconds} for step, seconds in ((1, 30.0), (10, 9.0), (20, 5.0))]
    (out / "train/log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert steps_left(current) == StepsLeft(100, 80, 0.5)
    assert plan(current, stages, 1).stages[-1].seconds == 40
    assert "train: 80 of 100 steps are left" in describe(current, stages, 1)
    # another training begins anew
    other = look_at_run(out, replace(settings, loss="open_clip"), overwrite=True)
    assert steps_left(other) == StepsLeft(100, 100, None)
