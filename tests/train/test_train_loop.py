"""Training: open_clip's arithmetic, exact steps, resume, and what goes wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from dcfast.errors import CheckpointError, CorruptDataError, RunError, SubsetError
from dcfast.models.checkpoint import read_checkpoint
from dcfast.models.clip import create_model, load_model
from dcfast.rundir.training_summary import DecoderDifference, TrainingSummary
from dcfast.scales import SCALES
from dcfast.storage.lock import locked
from dcfast.storage.records import read_record
from dcfast.train import TrainSettings, TrainSource, launch, parse_sources, train
from dcfast.train.batch import BatchSpec
from dcfast.train.batches import BatchMaker
from dcfast.train.learner import create_scaler, parameter_groups
from dcfast.train.loop import Trainer, boundaries, num_steps
from dcfast.train.objective import NonFiniteLossError, WatchedLoss, create_loss
from dcfast.train.place import world_sizes
from dcfast.train.source import prepare_source
from rank_processes import started
from train_builder import MODEL, both_sources, build_pool, small, wait_for_disk

STEPS = 50
LONG = {"samples_seen": 8 * STEPS, "warmup_steps": 10, "checkpoints": 2}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TrainSource:
    broken = {5: {"jpg": b"no picture"}}
    return TrainSource(shards=str(build_pool(tmp_path_factory.mktemp("pool"), 60, broken=broken)))


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "train" / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in log(out)]


def weights(out: Path, name: str = "epoch_2.pt") -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(out / "train" / "checkpoints" / name)["state_dict"])


@pytest.fixture(scope="module")
def whole(source: TrainSource, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingSummary]:
    """A training of 50 steps, never interrupted."""
    out = tmp_path_factory.mktemp("whole")
    return out, train(small(out, source, overrides=LONG))


def conv_model(folder: Path) -> str:
    """A small ResNet of open_clip's; returns its name."""
    config = json.loads((Path(MODEL.removeprefix("local-dir:")) / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"] = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
    (folder / "conv").mkdir()
    (folder / "conv" / "open_clip_config.json").write_text(json.dumps(config))
    return f"local-dir:{folder / 'conv'}"


def main_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The optimizer groups as open_clip's main forms them."""

    def exclude(n: str, p: torch.Tensor) -> bool:
        return p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n

    named = list(model.named_parameters())
    return [
        {"params": [p for n, p in named if exclude(n, p) and p.requires_grad], "weight_decay": 0.0},
        {"params": [p for n, p in named if not exclude(n, p) and p.requires_grad], "weight_decay": weight_decay},
    ]


def reference_losses(settings: TrainSettings, work: Path) -> list[float]:
    """open_clip's training spelled out: its loss, schedule, AdamW and clamp, one plain step after the other."""
    from open_clip.loss import ClipLoss
    from open_clip.transform import PreprocessCfg
    from open_clip_train.scheduler import cosine_lr

    recipe = settings.recipe()
    files = prepare_source(settings.sources[0], work, 0)
    spec = BatchSpec(settings, (files,), 64)
    maker = BatchMaker(spec)
    torch.manual_seed(0)
    model = create_model(recipe.model, seed=0)
    model.train()
    betas = (recipe.beta1, recipe.beta2)
    optimizer = torch.optim.AdamW(
        main_groups(model, recipe.weight_decay), lr=recipe.learning_rate, betas=betas, eps=recipe.eps
    )
    schedule = cosine_lr(optimizer, recipe.learning_rate, recipe.warmup_steps, STEPS)
    loss = ClipLoss()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (PreprocessCfg().mean, PreprocessCfg().std))
    found = []
    for step in range(STEPS):
        schedule(step)
        batch = maker.make(step)
        optimizer.zero_grad()
        value = loss(**model((batch.images.float() / 255 - mean) / std, batch.tokens))
        value.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        found.append(value.item())
    return found


def test_50_steps_equal_open_clips_arithmetic(
    whole: tuple[Path, TrainingSummary], source: TrainSource, tmp_path: Path
) -> None:
    expected = reference_losses(small(tmp_path, source, overrides=LONG), tmp_path)
    assert losses(whole[0]) == pytest.approx(expected, rel=2e-4)
    assert expected[-1] < expected[0]
    train(small(tmp_path / "theirs", source, overrides=LONG, loss="open_clip"))
    assert losses(tmp_path / "theirs") == pytest.approx(expected, rel=2e-4)


def test_the_summary_says_what_was_trained(whole: tuple[Path, TrainingSummary]) -> None:
    out, summary = whole
    assert summary == read_record(out / "train" / "summary.json", TrainingSummary)
    assert summary.samples_seen == 400
    assert summary.steps == STEPS
    assert f"samples_seen 400 instead of {SCALES['tiny'].samples_seen}" in summary.non_standard
    assert summary.replaced > 0
    assert [line["samples_seen"] for line in log(out)] == [8 * (i + 1) for i in range(STEPS)]
    import hashlib

    checkpoint = out / summary.checkpoint
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() == summary.checkpoint_sha256
    clip = load_model(MODEL, str(checkpoint))
    assert clip.content_hash == summary.checkpoint_sha256


def test_checkpoints_have_open_clips_keys_and_open_clip_loads_them(whole: tuple[Path, TrainingSummary]) -> None:
    import open_clip
    from open_clip_train.file_utils import pt_load

    content = pt_load(str(whole[0] / "train" / "checkpoints" / "epoch_1.pt"), map_location="cpu")
    assert (content["epoch"], content["name"]) == (1, MODEL)
    model = create_model(MODEL, seed=3)
    optimizer = torch.optim.AdamW(main_groups(model, 0.2), lr=1.0)
    model.load_state_dict(content["state_dict"])
    optimizer.load_state_dict(content["optimizer"])
    assert not open_clip.load_checkpoint(model, str(whole[0] / "train" / "checkpoints" / "epoch_2.pt")).missing_keys
    assert [sorted(p.name for p in (whole[0] / "train" / "checkpoints").iterdir())] == [["epoch_1.pt", "epoch_2.pt"]]


def test_optimizer_groups_equal_those_of_open_clips_main(tmp_path: Path) -> None:
    convolutional = conv_model(tmp_path)
    for name in (MODEL, "dcfast-tiny", convolutional):
        model = create_model(name, seed=0)
        model.visual.requires_grad_(name != convolutional)  # frozen parameters are in no group
        ours, theirs = parameter_groups(model, 0.2), main_groups(model, 0.2)
        for a, b in zip(ours, theirs, strict=True):
            assert [id(p) for p in a["params"]] == [id(p) for p in b["params"]]
            assert a["weight_decay"] == b["weight_decay"]


def wait_for_lock(path: Path, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with locked(path, "busy"):
                return
        except RunError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def die_in_step_37() -> None:
    after = Trainer._after

    def die_or_go_on(self: Trainer, step: int, *rest: Any) -> None:
        if step == 37:
            wait_for_disk()
            os.kill(os.getpid(), signal.SIGKILL)
        after(self, step, *rest)

    Trainer._after = die_or_go_on  # type: ignore[method-assign]


@pytest.mark.xdist_group("ranks")  # they share the process that ranks are forked from
def test_killed_in_the_middle_it_goes_on_with_the_same_samples(
    whole: tuple[Path, TrainingSummary], source: TrainSource, tmp_path: Path
) -> None:
    settings = small(tmp_path, source, overrides=LONG, save_every_steps=15, workers=1)
    with started(tmp_path / "ranks", settings, prepare=die_in_step_37) as ranks:
        assert ranks.statuses() == [-signal.SIGKILL], ranks.said(0)
    wait_for_lock(tmp_path / "train" / ".lock")  # its worker holds it a moment longer
    names = sorted(p.name for p in (tmp_path / "train" / "checkpoints").iterdir())
    assert names == ["epoch_1.pt", "step_15.pt", "step_30.pt"]
    with open(tmp_path / "train" / "log.jsonl", "a") as file:
        file.write('{"step": 38, "sam')  # half a line, as a kill may leave it
    steps: list[int] = []
    summary = train(settings, on_step=steps.append)
    assert steps == list(range(30, STEPS))
    assert summary.samples_seen == whole[1].samples_seen
    assert summary.replaced == whole[1].replaced
    assert [line["step"] for line in log(tmp_path)] == list(range(1, STEPS + 1))
    assert losses(tmp_path) == pytest.approx(losses(whole[0]), rel=1e-5)
    again = weights(tmp_path)
    for name, value in weights(whole[0]).items():
        assert torch.allclose(again[name], value, atol=1e-5), name
    before = (tmp_path / summary.checkpoint).stat().st_mtime_ns
    assert train(settings, on_step=steps.append) == summary  # a third time there is nothing left to do
    assert len(steps) == 20
    assert (tmp_path / summary.checkpoint).stat().st_mtime_ns == before


def test_a_cut_off_checkpoint_is_passed_over_and_said(source: TrainSource, tmp_path: Path) -> None:
    settings = small(tmp_path, source, overrides={"checkpoints": 4})
    summary = train(settings)
    expected = weights(tmp_path, "epoch_4.pt")
    for name in ("epoch_4.pt", "epoch_3.pt"):
        path = tmp_path / "train" / "checkpoints" / name
        path.write_bytes(path.read_bytes()[:-1000])
    steps: list[int] = []
    again = train(settings, on_step=steps.append)
    assert steps == [4, 5, 6, 7]
    assert [note[:22] for note in again.notes] == ["checkpoint epoch_4.pt ", "checkpoint epoch_3.pt "]
    assert "cut off" in again.notes[0]
    assert again.checkpoint_sha256 == summary.checkpoint_sha256
    for name, value in weights(tmp_path, "epoch_4.pt").items():
        assert torch.equal(value, expected[name])


def test_all_checkpoints_cut_off_begins_anew(source: TrainSource, tmp_path: Path) -> None:
    settings = small(tmp_path, source, overrides={"samples_seen": 16, "checkpoints": 1})
    train(settings)
    (tmp_path / "train" / "checkpoints" / "epoch_1.pt").write_bytes(b"")
    steps: list[int] = []
    assert "empty (0 bytes)" in train(settings, on_step=steps.append).notes[0]
    assert steps == [0, 1]


def test_index_and_shards_train_the_same_model(tmp_path: Path) -> None:
    short = {"samples_seen": 24, "checkpoints": 1}
    found = []
    for i, source in enumerate(both_sources(tmp_path, 30, list(range(4, 28)))):
        found.append(train(small(tmp_path / str(i), source, overrides=short)))
    assert found[0].checkpoint_sha256 == found[1].checkpoint_sha256
    assert found[0] == found[1]


def test_accumulation_equals_one_large_batch(source: TrainSource, tmp_path: Path) -> None:
    short = {"samples_seen": 24, "checkpoints": 1}
    train(small(tmp_path / "a", source, overrides=short))
    train(small(tmp_path / "b", source, overrides=short, accumulation=2))
    assert losses(tmp_path / "b") == pytest.approx(losses(tmp_path / "a"), rel=1e-4)
    train(small(tmp_path / "c", source, overrides={**short, "grad_checkpointing": True}))
    assert losses(tmp_path / "c") == pytest.approx(losses(tmp_path / "a"), rel=1e-6)


@pytest.mark.parametrize("kind", ["amp_bf16", "amp"])
def test_mixed_precision(source: TrainSource, tmp_path: Path, kind: str) -> None:
    short = {"samples_seen": 24, "checkpoints": 1}
    train(small(tmp_path / "a", source, overrides=short))
    train(small(tmp_path / "b", source, overrides={**short, "precision": kind}))
    assert losses(tmp_path / "b") == pytest.approx(losses(tmp_path / "a"), rel=0.03)
    content = read_checkpoint(tmp_path / "b" / "train" / "checkpoints" / "epoch_1.pt")
    assert ("scaler" in content) == (kind == "amp")
    assert create_scaler("fp32", "cpu") is None


@pytest.mark.soak  # tests/loss/test_loss_ranks.py and tests/train/test_train_ranks.py have two ranks, too
def test_two_ranks_under_torchrun_equal_one_process(
    whole: tuple[Path, TrainingSummary], source: TrainSource, tmp_path: Path
) -> None:
    summary = whole[1]
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(dataclasses.asdict(small(tmp_path, source, overrides=LONG))))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*command, "-m", "dcfast.train", "--settings", str(path)], check=True)
    two = json.loads((tmp_path / "train" / "summary.json").read_text())
    assert two["world_size"] == 2
    assert two["replaced"] == summary.replaced > 0
    assert two["samples_seen"] == summary.samples_seen
    assert losses(tmp_path) == pytest.approx(losses(whole[0]), rel=2e-4)
    # saved by rank 0 without the wrapper's prefix
    assert weights(tmp_path).keys() == weights(whole[0]).keys()


def test_launch_takes_this_process_where_one_is_enough(source: TrainSource, tmp_path: Path) -> None:
    steps: list[int] = []
    launch(small(tmp_path, source, overrides={"samples_seen": 16, "checkpoints": 1}), on_step=steps.append)
    assert steps == [0, 1]


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_and_saves_the_uids(
    source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dcfast.train import learner

    class Failing:
        calls = 0

        def __init__(self, loss: Any) -> None:
            self.loss = loss

        def __call__(self, *args: Any, **named: Any) -> Any:
            Failing.calls += 1
            factor = math.nan if Failing.calls == 6 else 1.0
            return {name: value * factor for name, value in self.loss(*args, **named).items()}

    monkeypatch.setattr(learner, "create_loss", lambda *a: Failing(create_loss(*a)))
    with pytest.raises(
        NonFiniteLossError, match=r"the loss of step 5 is nan; .*The 8 uids of the batch are in "
    ) as info:
        train(small(tmp_path, source))
    assert info.value.step == 5
    saved = json.loads((tmp_path / "train" / "nonfinite-00000.json").read_text())
    assert saved["step"] == 5
    from dcfast import uid_format

    files = prepare_source(source, tmp_path / "work", 0)
    spec = BatchSpec(small(tmp_path, source), (files,), 64)
    assert saved["uids"] == uid_format(BatchMaker(spec).make(5).uids, as_list=True)
    assert [p.name for p in (tmp_path / "train" / "checkpoints").iterdir()] == ["epoch_1.pt"]  # of step 4
    assert len(log(tmp_path)) == 5
    # the same command goes on from there, and what it leaves behind is of its own start
    (tmp_path / "train" / "nonfinite-00007.json").write_text("{}")  # there were more ranks then
    assert train(small(tmp_path, source)).samples_seen == 64
    assert not list((tmp_path / "train").glob("nonfinite-*"))


def test_a_watched_loss_keeps_the_mean_of_its_micro_batches() -> None:
    values = iter([1.0, 3.0, 5.0, 7.0])
    watched = WatchedLoss(lambda **_: {"loss": torch.tensor(next(values))}, 2, 10)
    for _ in range(4):
        watched(output_dict=True, logit_scale=torch.tensor(1.0))
    assert (watched.mean(10), watched.mean(11)) == (2.0, 6.0)


def test_a_number_of_ranks_that_does_not_divide_the_batch(
    source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"global batch 8 does not divide among 3 ranks .* that do: 1, 2, 4, 8\. "):
        train(small(tmp_path, source))
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ValueError, match="accumulation 3; numbers of ranks that do: none"):
        train(small(tmp_path, source, accumulation=3))
    assert world_sizes(90_112, 1)[:6] == [1, 2, 4, 8, 11, 16]


def test_too_few_samples(source: TrainSource, tmp_path: Path) -> None:
    with pytest.raises(SubsetError, match="the sources hold 60 samples, fewer than one batch of 64"):
        train(small(tmp_path, source, overrides={"global_batch": 64}))


def test_another_training_in_the_same_place(source: TrainSource, tmp_path: Path) -> None:
    settings = small(tmp_path, source, overrides={"samples_seen": 16, "checkpoints": 1})
    train(settings)
    with pytest.raises(CheckpointError, match=r"epoch_1.pt is of another training \(seed: 0 there, 1 now\)"):
        train(dataclasses.replace(settings, seed=1))
    with pytest.raises(CheckpointError, match=r"learning_rate: .* there, 0.5 now"):
        train(dataclasses.replace(settings, overrides={**settings.overrides, "learning_rate": 0.5}))
    path = tmp_path / "train" / "checkpoints" / "epoch_1.pt"
    torch.save({"epoch": 1, "state_dict": weights(tmp_path, "epoch_1.pt")}, path)
    with pytest.raises(CheckpointError, match="is not one of dcfast's training"):
        train(settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overrides": {"lr": 1}}, "no recipe field 'lr'; did you mean 'learning_rate'?"),
        ({"overrides": {"samples_seen": 7}}, "less than one batch of 8"),
        ({"overrides": {"precision": "fp8"}}, "precision must be one of fp32"),
        ({"overrides": {"crop_scale": 0.0}}, "crop_scale must be in"),
        ({"overrides": {"checkpoints": 0}}, "checkpoints must be at least 1"),
        ({"scale": "smal"}, "did you mean 'small'"),
        ({"loss": "l2"}, "loss must be one of dcfast, open_clip"),
        ({"accumulation": 0}, "accumulation must be at least 1"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"seed": -1}, "seed must be 0 to"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(tmp_path, TrainSource(shards="x"), **options)


def test_sources_that_make_no_sense(tmp_path: Path) -> None:
    for fields, message in (
        ({}, "either shards="),
        ({"shards": "a", "index": "b"}, "either shards="),
        ({"index": "a", "shards_dir": "b"}, "either subset= or positions="),
        ({"index": "a", "subset": "b"}, "needs shards_dir"),
        ({"shards": "a", "weight": 0.0}, "positive number"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainSource(**fields)
    with pytest.raises(ValueError, match="sources must name at least one"):
        small(tmp_path)
    with pytest.raises(ValueError, match="weights of sources need resample"):
        small(tmp_path, *parse_sources("a::b", "1::2"), resample=False)
    assert parse_sources("a::b", "1::2")[1] == TrainSource(shards="b", weight=2.0)
    for shards, given, message in (("a::", None, "one is empty"), ("a::b", "1", "expected 2"), ("a", "x", "numbers")):
        with pytest.raises(ValueError, match=message):
            parse_sources(shards, given)


def test_a_gpu_that_is_not_there(source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no GPU"):
        train(small(tmp_path, source, device="cuda"))


def test_an_unknown_model_and_a_damaged_shard(tmp_path: Path) -> None:
    pool = build_pool(tmp_path / "pool", 20)
    with pytest.raises(ValueError, match="did you mean 'ViT-B-32'"):
        train(small(tmp_path / "a", TrainSource(shards=str(pool)), overrides={"model": "ViT-B32"}))
    tar = pool / "shards" / "00000000.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(CorruptDataError, match="damaged at byte"):
        train(small(tmp_path / "b", TrainSource(shards=str(pool))))


def test_steps_are_exact() -> None:
    assert [num_steps(s.samples_seen, s.global_batch) for s in SCALES.values() if s.name != "tiny"] == [
        125,
        3125,
        31_250,
        156_250,
        142_045,
    ]
    assert boundaries(3125, 5) == {1: 625, 2: 1250, 3: 1875, 4: 2500, 5: 3125}
    assert boundaries(10, 3) == {1: 3, 2: 6, 3: 10}
    assert boundaries(3, 5) == {3: 1, 4: 2, 5: 3}
    assert boundaries(1, 5) == {5: 1}
    assert num_steps(5, 100) == 1


def test_an_error_of_a_worker_is_one_line_at_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from dcfast.train.__main__ import main

    pool = build_pool(tmp_path / "pool", 16, broken={n: {"jpg": b"broken"} for n in range(16)})
    settings = small(tmp_path / "out", TrainSource(shards=str(pool)), workers=1)
    (tmp_path / "settings.json").write_text(json.dumps(dataclasses.asdict(settings)))
    assert main(["--settings", str(tmp_path / "settings.json")]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower()]
    assert line.startswith("error: step 0: no usable sample was found in place of ")
    assert str(pool) in line


def test_a_convolutional_model_trains_with_channels_last(source: TrainSource, tmp_path: Path) -> None:
    """The memory format changes no result beyond rounding, and checkpoints load as ever."""
    name = conv_model(tmp_path)
    summary = train(small(tmp_path, source, overrides={"samples_seen": 16, "checkpoints": 1, "model": name}))
    clip = load_model(name, str(tmp_path / summary.checkpoint))
    files = prepare_source(source, tmp_path / "work", 0)
    spec = BatchSpec(small(tmp_path, source, overrides={"model": name}), (files,), 64)
    batch = BatchMaker(spec).make(0)
    model = create_model(name, seed=0)
    from open_clip.loss import ClipLoss
    from open_clip.transform import PreprocessCfg

    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (PreprocessCfg().mean, PreprocessCfg().std))
    expected = ClipLoss()(**model(((batch.images.float() / 255 - mean) / std).contiguous(), batch.tokens))
    assert losses(tmp_path)[0] == pytest.approx(expected.item(), rel=1e-4)
    assert clip.content_hash == summary.checkpoint_sha256


def test_another_decoder_is_measured_on_the_trainings_own_samples(
    whole: tuple[Path, TrainingSummary], source: TrainSource, tmp_path: Path
) -> None:
    assert whole[1].decoder_difference is None
    short = {"samples_seen": 8, "checkpoints": 1}
    summary = train(small(tmp_path, source, overrides=short, decoder="pil_reduced"))
    # the pool's pictures are too small to be reduced
    assert summary.decoder_difference == DecoderDifference(samples=8, mean=0.0, largest=0)
    assert summary.recipe["decoder"] == "pil_reduced"
