"""``--dry-run``: images a second and GPU-hours of features, measured, of the last time, or assumed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from dcfast.run import dry_run, model_probes
from dcfast.run.dry_run import describe
from dcfast.run.feature_plan import A100_RATE, ASSUMED_SHARE, feature_names, feature_words, pair_seconds
from dcfast.run.model_probes import model_size
from dcfast.run.probes import Rates, measure
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.storage.atomic import write_bytes
from features_reference import save_checkpoint
from pool_builder import plain_pool

NAMES = ["dcfast-tiny", "RN50"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    weights = save_checkpoint(tmp_path / "clip.safetensors")
    features = {"l14": f"dcfast-tiny:{weights}"}
    pool = plain_pool(tmp_path / "pool").write()
    return Settings(pool=str(pool), features=features, train=False, device="cpu")


def rates(**more: object) -> Rates:
    tried = Rates(decode=dict.fromkeys(NAMES, 0.004), embed={"dcfast-tiny": 0.006, "RN50": 0.01})
    return replace(tried, **more)


def test_a_pair_is_decoded_once_for_all_models() -> None:
    assert pair_seconds(rates(), NAMES, 2) == pytest.approx(0.01)
    assert pair_seconds(rates(), ["RN50"], 1) == pytest.approx(0.014)
    # on GPUs, what takes longer counts
    assert pair_seconds(rates(gpus=2), NAMES, 1) == pytest.approx(0.008)
    assert pair_seconds(rates(gpus=2), NAMES, 4) == pytest.approx(0.008)
    assert pair_seconds(rates(gpus=1), NAMES, 4) == pytest.approx(0.016)
    assert pair_seconds(rates(gpus=8), NAMES, 1) == pytest.approx(0.004)
    assert pair_seconds(Rates(), NAMES, 2) == 0


def test_words(settings: Settings, tmp_path: Path) -> None:
    run = Run(tmp_path / "o", replace(settings, features={"b32": "RN50:openai", "l14": "dcfast-tiny:x"}))
    assert feature_names(run) == NAMES[::-1]
    said = feature_words(run, 7_200_000, 3600.0, rates(gpus=4), False)
    assert said == ("features by RN50, dcfast-tiny in one pass: about 2,000 images a second as tried here; 4 GPU-hours")
    assert "2,000 images a second by the last time here; 4 GPU" in feature_words(
        run, 7_200_000, 3600.0, rates(gpus=4), True
    )
    one = Run(tmp_path / "o", replace(settings, features={"l14": "RN50:openai"}))
    rate = A100_RATE * ASSUMED_SHARE / model_size("RN50").operations
    said = feature_words(one, 10**9, 1e9, rates(reckoned=["RN50"]), False)
    assert said.startswith(
        "features by RN50: about 1 images a second (assumed of RN50, by its arithmetic); on an A100 "
    )
    assert f"on an A100 {rate:,.0f} a second and {1e9 / rate / 3600:,.0f} GPU-hours (assumed: 30% of its 312 " in said
    assert feature_words(one, 10**9, None, Rates(), False).startswith(
        "features by RN50: not measured here; on an A100 "
    )


def test_it_is_tried_and_said(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_probes, "TRIAL_SECONDS", 600.0)  # on a machine that does other things, too
    run = Run(tmp_path / "o", settings)
    tried = measure(run, ["features"])
    assert tried.decode["dcfast-tiny"] > 0
    assert tried.embed["dcfast-tiny"] > 0
    assert (tried.reckoned, tried.gpus) == ([], 0)
    monkeypatch.setattr(dry_run, "measure", lambda run, stages: tried)
    said = describe(run, ["index", "features"], 1)
    (line,) = re.findall("^features by .*", said, re.MULTILINE)
    rate = 1 / (tried.decode["dcfast-tiny"] + tried.embed["dcfast-tiny"])
    assert line.startswith(f"features by dcfast-tiny: about {rate:,.0f} images a second as tried here; on an A100 ")
    # of the last time here
    timing = {"step": "features/embed", "seconds": 0.004, "pieces": 1, "skipped": 0}
    write_bytes(tmp_path / "o/state/timings.jsonl", json.dumps(timing).encode() + b"\n")
    assert "about 3,000 images a second by the last time here" in describe(run, ["index", "features"], 1)
    assert "images a second" not in describe(run, ["index"], 1)
