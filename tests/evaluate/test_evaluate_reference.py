"""Scores beside DataComp's own: numbers that its evaluation gave for the sets and the model of ``reference_sets``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dcfast.evaluate import evaluate_model
from dcfast.evaluate.embed import Embedder
from dcfast.evaluate.results import EvaluationSummary
from dcfast.models.clip import load_model
from dcfast.models.devices import resolve_precision, whole_matmuls
from reference_sets import write_model, write_sets

REFERENCE = json.loads((Path(__file__).parent / "reference_scores.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("reference")
    write_sets(home / "sets")
    write_model(home / "model")
    return home


def _model(home: Path) -> Any:
    return load_model(f"local-dir:{home / 'model/local'}", home / "model/reference-tiny.pt", device="cpu")


@pytest.fixture(scope="module")
def summary(made: Path) -> EvaluationSummary:
    return evaluate_model(_model(made), made / "sets", made / "out", threads=2)


@pytest.mark.parametrize("key", REFERENCE)
def test_every_metric_is_the_references(key: str, summary: EvaluationSummary) -> None:
    metrics = {line.key: line.metrics for line in summary.tasks}[key]
    for name, value in REFERENCE[key].items():
        assert metrics[name] == (None if value is None else pytest.approx(value, abs=1e-6)), name
    # one that the reference does not have
    assert set(metrics) - set(REFERENCE[key]) <= {"acc_worst_region_without_other", "main_metric"}


def test_the_golden_sets_ask_for_what_is_special(summary: EvaluationSummary) -> None:
    """A class list with a blank line, a region "Other" that counts, a group without pictures."""
    assert summary.failed == {}
    remarked = " ".join(summary.notes)
    assert "classnames.txt, line 4 is blank" in remarked
    assert "have a label that classnames.txt has no class for" in remarked
    regions = {line.key: line.metrics for line in summary.tasks}["wilds/fmow"]
    assert regions["acc_worst_region"] == regions["acc_region:5"] < regions["acc_worst_region_without_other"]
    assert regions["acc_region:4"] is None


def test_precisions() -> None:
    assert resolve_precision("auto", "cpu") == ("fp32", False)
    assert resolve_precision("auto", "cuda") == resolve_precision("amp", "cpu") == ("fp32", True)
    assert resolve_precision("bf16", "cuda") == ("bf16", False)
    with pytest.raises(ValueError, match="precision must be one of auto, amp, fp32, fp16, bf16; got 'half'"):
        resolve_precision("half", "cpu")


def test_amp_rounds_texts_and_the_pictures_of_retrieval_alone(made: Path, summary: EvaluationSummary) -> None:
    """As on a GPU the reference's does, here by the CPU's autocast: pictures of classification stay as they are."""
    half = evaluate_model(_model(made), made / "sets", made / "half", threads=2, amp=True)
    assert [line.state.split("-")[1] for line in half.tasks] == ["amp"] * len(REFERENCE)
    whole = evaluate_model(_model(made), made / "sets", made / "half", threads=2)
    assert len(whole.scored) == len(REFERENCE)  # results of one precision are none of another
    assert [line.metrics for line in whole.tasks] == [line.metrics for line in summary.tasks]
    for ours, theirs in zip(half.tasks, whole.tasks, strict=True):
        if ours.main_metric_name:
            assert ours.metrics["main_metric"] == pytest.approx(theirs.metrics["main_metric"], abs=0.1)


def test_what_autocast_reaches(made: Path) -> None:
    from dcfast.evaluate.evalset import open_evalset
    from dcfast.evaluate.tasks import find_tasks

    task, folder = find_tasks(made / "sets")[0]
    evalset = open_evalset(task, folder)
    clip = _model(made)

    def pictures(amp_model: bool, amp: bool) -> torch.Tensor:
        embedder = Embedder(clip, batch_size=8, threads=1, amp=amp_model)
        return torch.cat([batch.features for batch in embedder.pictures(evalset, amp=amp)])

    plain = pictures(False, False)
    assert torch.equal(pictures(True, False), plain)
    assert torch.equal(pictures(False, True), plain)
    rounded = pictures(True, True)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - plain).abs().max() < 0.02
    texts = [
        Embedder(clip, batch_size=8, threads=1, amp=amp).texts(["a river", "a lamp"], "x") for amp in (False, True)
    ]
    assert 0 < (texts[0] - texts[1]).abs().max() < 0.02
    clip.model.half()
    assert Embedder(clip, batch_size=8, threads=1, amp=True).precision == "float16"


def test_training_leaves_no_tf32_to_evaluation() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with whole_matmuls():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
