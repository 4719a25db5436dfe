"""What a recipe may ask for beside its numbers: compiled models, activations computed again, static graphs, and which
function of open_clip takes the steps."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from dcfast.errors import MissingDependencyError
from dcfast.models.checkpoint import read_checkpoint
from dcfast.models.clip import create_model
from dcfast.train import TrainSource, train
from dcfast.train.recomputed import recomputed_blocks, warn_of_kept_activations
from dcfast.train.stretch import Pair, find_steps
from rank_processes import log_lines
from train_builder import MODEL, build_pool, small

SHORT = {"samples_seen": 24, "checkpoints": 1}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TrainSource:
    return TrainSource(shards=str(build_pool(tmp_path_factory.mktemp("pool"), 60)))


@pytest.fixture(scope="module")
def plain(source: TrainSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain")
    train(small(out, source, overrides=SHORT))
    return out


def checkpoint(out: Path) -> dict[str, Any]:
    return read_checkpoint(out / "train" / "checkpoints" / "epoch_1.pt")


# --- compiled -------------------------------------------------------------------------------------------------------


def compiled_training(source: TrainSource, plain: Path, out: Path) -> None:
    train(small(out, source, overrides=SHORT, compile=True))
    pairs = zip(log_lines(out), log_lines(plain), strict=True)
    assert all(own["loss"] == pytest.approx(other["loss"], rel=1e-4) for own, other in pairs)
    own, other = checkpoint(out), checkpoint(plain)
    assert own.keys() == other.keys()
    assert [*own["state_dict"]] == [*other["state_dict"]]
    assert own["dcfast"]["identity"] == other["dcfast"]["identity"]


def test_a_compiled_model_has_the_same_checkpoints(
    source: TrainSource, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, compiled = torch.nn.Module.compile, []

    def compile_eagerly(self: torch.nn.Module) -> None:
        compiled.append(self)
        own(self, backend="eager")  # traced as ever, and not handed to a compiler of C++

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    compiled_training(source, plain, tmp_path)
    assert len(compiled) == 1
    torch._dynamo.reset()


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_that_is_compiled_for_this_processor(source: TrainSource, plain: Path, tmp_path: Path) -> None:
    compiled_training(source, plain, tmp_path)


# --- activations computed again -------------------------------------------------------------------------------------


def test_blocks_are_computed_again_where_the_recipe_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = create_model(MODEL, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert recomputed_blocks(model) == {"visual": 0, "transformer": 0}
    model.set_grad_checkpointing()
    blocks = recomputed_blocks(model)
    assert blocks["visual"] >= len(model.visual.transformer.resblocks)
    assert blocks["transformer"] >= len(model.transformer.resblocks)
    assert torch.rand(1) == expected
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    warn_of_kept_activations(model, "it")
    assert not caplog.records


def test_a_tower_that_keeps_its_activations_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model = create_model("dcfast-tiny", seed=0)  # open_clip's ResNet knows no checkpointing
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.set_grad_checkpointing()
    with caplog.at_level(logging.WARNING, "dcfast.train"):
        warn_of_kept_activations(model, "dcfast-tiny")
    [record] = caplog.records
    assert "the image tower of dcfast-tiny keeps all activations" in record.message
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


# --- open_clip's function -------------------------------------------------------------------------------------------


@pytest.fixture
def coming(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """open_clip as its 4.x is to be: the function that is called here is in another module and takes mappings."""
    own = importlib.import_module("open_clip_train.train")
    new, legacy = ModuleType("open_clip_train.train"), ModuleType("open_clip_train.legacy_train")

    def train_one_epoch(state: Any, data: Any, args: Any, tb_writer: Any = None) -> None:
        raise AssertionError("the new function is not the one that is called")

    def old(
        model: Any, data: Any, loss: Any, epoch: Any, optimizer: Any, scaler: Any, scheduler: Any, dist_model: Any,
        args: Any, tb_writer: Any = None,
    ) -> None:  # fmt: skip
        class AsMappings:
            num_batches, num_samples = data["train"].num_batches, data["train"].num_samples
            set_epoch = data["train"].set_epoch
            dataloader: Any

            def __iter__(self) -> Iterator[tuple[Any, Any]]:
                for batch in data["train"].dataloader:
                    yield batch["image"], batch["text"]

        wrapped = AsMappings()
        wrapped.dataloader = wrapped
        own.train_one_epoch(
            model, {"train": wrapped}, loss, epoch, optimizer, scaler, scheduler, dist_model, args, tb_writer
        )

    new.train_one_epoch, legacy.train_one_epoch = train_one_epoch, old  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, new.__name__, new)
    monkeypatch.setitem(sys.modules, legacy.__name__, legacy)
    find_steps.cache_clear()
    yield {"new": new, "legacy": legacy}
    find_steps.cache_clear()


def test_the_function_is_chosen_by_its_parameters(
    coming: dict[str, ModuleType], source: TrainSource, plain: Path, tmp_path: Path
) -> None:
    assert find_steps() is coming["legacy"].train_one_epoch
    train(small(tmp_path, source, overrides=SHORT))
    assert [line["loss"] for line in log_lines(tmp_path)] == [line["loss"] for line in log_lines(plain)]


def test_functions_that_are_not_known_are_refused_before_work(
    coming: dict[str, ModuleType], source: TrainSource, tmp_path: Path
) -> None:
    coming["legacy"].train_one_epoch = coming["new"].train_one_epoch
    with pytest.raises(MissingDependencyError) as error:
        train(small(tmp_path, source, overrides=SHORT))
    said = str(error.value)
    assert said.startswith("open_clip_torch 3.")
    assert "open_clip_train.legacy_train: train_one_epoch(state, data, args, tb_writer)" in said
    assert said.endswith("pip install 'open_clip_torch>=3.3,<4'")
    assert not (tmp_path / "train").exists()


def test_a_batch_is_a_pair_and_a_mapping() -> None:
    images, tokens = torch.zeros(1), torch.ones(1)
    pair = Pair(images, tokens)
    first, second = pair
    assert first is images is pair["image"] is pair[0]
    assert second is tokens is pair["text"] is pair[1]
