"""What a training says of its steps: log lines, the line on screen, reporters, and scores between checkpoints."""

from __future__ import annotations

import importlib.util
import json
import logging
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from dcfast.errors import MissingDependencyError
from dcfast.rundir.training_summary import LogLine
from dcfast.storage.records import as_record
from dcfast.train import TrainSettings, TrainSource, evaluating, reporters, telling, train
from dcfast.train.dry_run import plan_training
from dcfast.train.learner import Learner
from dcfast.train.ranks import Ranks
from evalset_builder import NAMES, labelled, write_set
from rank_processes import log_lines
from train_builder import build_pool, small

SHORT = {"samples_seen": 32, "checkpoints": 2}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TrainSource:
    return TrainSource(shards=str(build_pool(tmp_path_factory.mktemp("pool"), 60)))


def test_a_line_of_the_log(source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    own = Learner.gradient_norm

    def norm(self: Learner) -> float:
        gradients = [p.grad.double().flatten() for p in self.bare.parameters() if p.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))
        return own(self)

    monkeypatch.setattr(Learner, "gradient_norm", norm)
    train(small(tmp_path, source, overrides=SHORT, log_every=2))
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 4]
    assert [line["gradient_norm"] for line in lines] == pytest.approx(norms, rel=1e-5)  # of these steps alone
    for line in lines:
        assert 0 <= line["wait"] <= 1
        assert 1 << 27 < line["memory"] < 1 << 38
        assert line["world_size"] == 1


def test_gradients_that_a_scaler_has_scaled_are_told_as_they_are(source: TrainSource, tmp_path: Path) -> None:
    for name, precision in (("amp", "amp"), ("fp32", "fp32")):
        train(small(tmp_path / name, source, overrides={**SHORT, "precision": precision}))
    own, other = ([line["gradient_norm"] for line in log_lines(tmp_path / name)] for name in ("amp", "fp32"))
    assert own == pytest.approx(other, rel=0.05)


def test_lines_of_older_versions_are_read() -> None:
    old = {"step": 1, "samples_seen": 8, "loss": 1.0, "learning_rate": 0.1}
    line = as_record(old, LogLine, "log.jsonl")
    assert (line.wait, line.memory, line.gradient_norm) == (None, None, None)


def test_the_line_on_screen_says_how_much_was_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [100.0]
    monkeypatch.setattr(telling.time, "monotonic", lambda: clock[0])
    told = telling.Telling(tmp_path, Ranks(), 100, 8, lambda line: None)
    with caplog.at_level(logging.INFO, "dcfast.train"):
        for done in range(1, 5):
            told.step(done, 5)
            clock[0] += 10
            told.waited += 0.3
    assert next(record.message for record in caplog.records) == (
        "  train: step 2 of 100, 1 samples/s, about 980 s left, wait 3%; 5 samples replaced"
    )


def test_a_plan_says_how_often_a_sample_comes(source: TrainSource, tmp_path: Path) -> None:
    lines = plan_training(small(tmp_path, source, overrides={"samples_seen": 120}), None)
    assert "(120, from 60, each 2.0 times on average)" in lines[1]


# --- reporters ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_steps_are_told_to_all_that_are_asked_for(
    source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_MODE", "offline")
    train(small(tmp_path / "out", source, overrides=SHORT, report_to=["tensorboard", "wandb"]))
    lines = log_lines(tmp_path / "out")
    events = EventAccumulator(str(tmp_path / "out" / "train" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx([line["loss"] for line in lines])
    assert "train/wait" in events.Tags()["scalars"]

    [file] = (tmp_path / "out" / "train" / "wandb").glob("offline-run-*/*.wandb")
    data = file.read_bytes()
    assert data.count(b"train/gradient_norm") >= 4
    assert b"learning_rate" in data


@pytest.fixture
def trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """trackio in a folder of its own: it wants an older Pillow than the rest is tested with, and does without."""
    needed = ("trackio", "gradio_client", "orjson", "brotli", "starlette", "uvicorn", "python-multipart", "websockets")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(tmp_path / "packages"),
        *needed,
    ]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_steps_are_told_to_trackio(trackio: None, source: TrainSource, tmp_path: Path) -> None:
    train(small(tmp_path / "out", source, overrides=SHORT, report_to=["trackio"]))
    with sqlite3.connect(tmp_path / "trackio" / "dcfast.db") as database:
        rows = database.execute("select step, metrics from metrics order by step").fetchall()
    database.close()
    assert [(step, json.loads(values)["train/loss"]) for step, values in rows] == [
        (line["step"], line["loss"]) for line in log_lines(tmp_path / "out")
    ]


def test_a_reporter_that_fails_ends_nothing_and_is_told_of_once(
    source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[int] = []

    class Failing:
        def __init__(self, *args: object) -> None: ...

        def tell(self, step: int, values: Mapping[str, float]) -> None:
            asked.append(step)
            if step == 2:
                raise ConnectionError("nobody is there\nsecond line")

        def close(self) -> None:
            raise AssertionError("it is not asked again")

    monkeypatch.setitem(reporters._KINDS, "tensorboard", Failing)
    train(small(tmp_path, source, overrides=SHORT, report_to=["tensorboard"]))
    assert asked == [1, 2]
    [record] = [record for record in caplog.records if "told no more" in record.message]
    assert "tensorboard is told no more, the training goes on: ConnectionError: nobody is there" in record.message
    assert "second line" not in record.message


def test_what_a_reporter_lacks_is_said_before_work(
    source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings(*names: str) -> TrainSettings:
        return small(tmp_path, source, overrides=SHORT, report_to=list(names))

    with pytest.raises(ValueError, match="no reporter 'tensorbord'; did you mean 'tensorboard'"):
        settings("tensorbord")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="there is no login of wandb here; run wandb login, export WANDB_API_KEY"):
        train(settings("wandb"))
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai login user password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    reporters.require_reporters(["wandb"])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trackio" else find(name))
    with pytest.raises(MissingDependencyError, match="the package trackio is not installed: pip install trackio"):
        train(settings("trackio"))
    assert not (tmp_path / "train").exists()


# --- scores between checkpoints -------------------------------------------------------------------------------------


def test_checkpoints_are_scored_while_the_training_goes_on(
    source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, dict[str, Any]]] = []
    monkeypatch.setattr(reporters.Reports, "tell", lambda self, step, values: told.append((step, dict(values))))
    write_set(tmp_path / "sets", "vtab-cifar10", labelled(16), NAMES)
    settings = small(
        tmp_path / "out", source, overrides={**SHORT, "model": "dcfast-tiny"}, evaluate_every=1,
        evaluate_on=str(tmp_path / "sets"),
    )  # fmt: skip
    train(settings)
    first, line = [json.loads(text) for text in (tmp_path / "out/train/evaluations.jsonl").read_text().splitlines()]
    assert (first["step"], first["checkpoint"]) == (2, "epoch_1.pt")
    assert (line["step"], line["checkpoint"]) == (4, "epoch_2.pt")
    [(key, score)] = line["scores"].items()
    assert 0 <= score <= 1
    assert told[-1] == (4, {f"eval/{key}": score})


def test_an_evaluation_that_fails_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told: list[object] = []
    scores = evaluating.Evaluations(tmp_path, ["--evalsets", "none"], lambda *what: told.append(what))
    scores.start(3, tmp_path / "epoch_1.pt")
    scores.finish()
    [record] = caplog.records
    assert "epoch_1.pt was not scored, the training goes on: " in record.message
    assert "--model" in record.message
    assert not told
    with pytest.raises(ValueError, match="no directory with evaluation sets"):
        evaluating.check_evaluations(str(tmp_path / "none"))


def test_an_evaluation_that_cannot_begin_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scores = evaluating.Evaluations(tmp_path, ["--evalsets", "none"], lambda *what: None)
    (tmp_path / "evaluations").write_bytes(b"")
    scores.start(3, tmp_path / "epoch_1.pt")
    assert scores.is_idle()
    (tmp_path / "evaluations").unlink()
    scores.start(5, tmp_path / "epoch_2.pt")
    (tmp_path / "evaluations" / "epoch_2" / "evaluate.log").unlink()
    scores.finish()
    first, second = caplog.messages
    assert "epoch_1.pt was not scored, the training goes on" in first
    assert "epoch_2.pt was not scored, the training goes on: exit status 2" in second
