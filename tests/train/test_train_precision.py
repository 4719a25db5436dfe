"""The warning of a processor that has no bf16 instructions; seeds of any size."""

from __future__ import annotations

from pathlib import Path

import pytest
from dcfast.train import TrainSource, precision, train
from train_builder import build_pool, small


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TrainSource:
    return TrainSource(shards=str(build_pool(tmp_path_factory.mktemp("pool"), 24)))


@pytest.mark.parametrize(
    ("lines", "lacks"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", False),
        ("flags : fpu amx_bf16\n", False),
        ("Features\t: fp asimd bf16\n", False),
        ("Features\t: fp asimd\n", True),
        ("model name : bf16\n", False),  # it says nothing of instructions
        ("", False),
        (None, False),
    ],
)
def test_whether_a_processor_has_bf16_instructions(tmp_path: Path, lines: str | None, lacks: bool) -> None:
    if lines is not None:
        (tmp_path / "cpuinfo").write_text(lines)
    assert precision.cpu_lacks_bf16(tmp_path / "cpuinfo") is lacks


def test_slow_bf16_is_said_once_and_changes_nothing(
    source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    short = {"samples_seen": 16, "checkpoints": 1}
    summaries = []
    precision._say.cache_clear()  # another test of this process may have trained on a processor without them
    for place, lacks in (("a", False), ("b", True), ("c", True)):
        monkeypatch.setattr(precision, "cpu_lacks_bf16", lambda lacks=lacks: lacks)
        summaries.append(train(small(tmp_path / place, source, overrides={**short, "precision": "amp_bf16"})))
    (said,) = [r.getMessage() for r in caplog.records if "bf16 instructions" in r.getMessage()]
    assert said.startswith("precision amp_bf16 is slow on this processor")
    assert "Use a GPU" in said
    assert "\n" not in said
    assert summaries[0] == summaries[1] == summaries[2]
    precision.warn_of_slow_precision("fp32", "cpu")
    precision.warn_of_slow_precision("bf16", "cuda:0")
    assert sum("bf16 instructions" in r.getMessage() for r in caplog.records) == 1


def test_every_seed_that_is_accepted_trains(source: TrainSource, tmp_path: Path) -> None:
    """torch takes 64 bits, of which a saved step and a rank have a part; the largest seed must not fail at a step."""
    short = {"samples_seen": 16, "checkpoints": 2}
    for seed in (1 << 44, (1 << 63) - 1):
        assert train(small(tmp_path / str(seed), source, overrides=short, seed=seed)).steps == 2
