"""The losses of 2 and 4 ranks against open_clip's own in the same processes; ``loss_ranks.py`` is what runs there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip", reason="open_clip is what the losses are compared with")


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.soak)])
def test_all_modes_equal_open_clip(ranks: int, repo_root: Path) -> None:
    """What the ranks found: errors of each case beside those of open_clip in the same precision, and checks."""
    command = [sys.executable, "-W", "ignore", str(repo_root / "tests/helpers/loss_ranks.py"), str(ranks)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    bars = {"float64": 1e-12, "float32": 2e-6, "bfloat16": 5e-3}
    assert len(found["errors"]) == 4 * 2 * 13 + 1 + 4 * 2
    too_far = {
        name: (error, plain)
        for name, (error, plain) in found["errors"].items()
        if not error <= max(bars.get(name.split()[-1], 2e-6), 2 * plain)
    }
    assert not too_far
    assert len(found["checks"]) >= 12
    assert [name for name, held in found["checks"].items() if not held] == []


class _Group:
    """Stands in for a process group."""


def test_ranks_on_gpus_agree_on_each_new_shape_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host waits for the answer only then; a new group agrees anew."""
    from dcfast.loss.ranks import Ranks
    from torch._subclasses.fake_tensor import FakeTensorMode

    asked: list[int] = []

    def all_max(ranks: Ranks, x: Any) -> Any:
        asked.append(ranks.rank)
        return SimpleNamespace(tolist=lambda: [[1], [-1]])

    monkeypatch.setattr(Ranks, "all_max", all_max)
    group = _Group()
    for owner, rows, dtype, times in (
        (group, 8, torch.float32, 1),
        (group, 8, torch.float32, 1),
        (group, 5, torch.float32, 2),
        (group, 5, torch.bfloat16, 3),
        (group, 8, torch.float32, 3),
        (_Group(), 8, torch.float32, 4),
    ):
        with FakeTensorMode():
            features = torch.empty(rows, 4, dtype=dtype, device="cuda")
            Ranks(0, 2, owner).check_same(features)
        assert len(asked) == times
