"""The bench of memory runs from start to end, draws its plot, and says when a bound is passed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.bench

memory = pytest.importorskip("bench.similarity_memory", reason="bench is part of the checkout, not of the package")


def test_runs_within_its_bounds(tmp_path: Path) -> None:
    assert memory.main(["--quick", "--results", str(tmp_path), "--plot", str(tmp_path / "plot.svg")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "similarity_memory.jsonl").read_text().splitlines()]
    sizes = list(memory.QUICK_SIZES)
    assert [(row["op"], row["rows"]) for row in rows] == [(op, size) for op in memory.CASES for size in sizes]
    assert all(1 << 20 < row["peak_bytes"] <= row["bound"] for row in rows)
    assert "</svg>" in (tmp_path / "plot.svg").read_text()


def test_a_bound_that_is_passed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CASES", {"topk_memory": (memory.topk_peak, 1 << 20, 0, "too little")})
    assert memory.main(["--quick", "--results", str(tmp_path), "--plot", str(tmp_path / "plot.svg")]) == 1
