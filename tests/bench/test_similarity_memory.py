"""The bench of a search's memory runs from start to end, and says when a bound is passed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

memory = pytest.importorskip("bench.similarity_memory", reason="bench is part of the checkout, not of the package")


def test_runs_within_its_bound(tmp_path: Path) -> None:
    assert memory.main(["--quick", "--results", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "similarity_memory.jsonl").read_text().splitlines()]
    assert [row["queries"] for row in rows] == list(memory.QUICK_SIZES)
    assert all(1 << 20 < row["peak_bytes"] <= row["bound"] for row in rows)


def test_a_bound_that_is_passed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CONSTANT", 1 << 20)
    assert memory.main(["--quick", "--results", str(tmp_path)]) == 1
