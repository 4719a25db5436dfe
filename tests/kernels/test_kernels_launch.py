"""The launches of the losses and of similarity as a GPU gets them, up to the machine code, on a machine without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).resolve().parents[1] / "helpers"

pytest.importorskip("triton", reason="the kernels need Triton")

ENTRIES = {
    *("clip_grad", "clip_online", "clip_restate", "clip_shift", "clip_stats", "clip_sweep", "row_dots", "row_norms"),
    *("scale_cast", "seed_positives", "siglip_tile", "select_best", "select_above", "pair_sums", "halve"),
}


@pytest.mark.cuda
@pytest.mark.xdist_group("kernels")
@pytest.mark.parametrize(
    ("capability", "most"), [((9, 0), 232448), pytest.param((12, 0), 101376, marks=pytest.mark.soak)]
)
def test_launches(capability: tuple[int, int], most: int, tmp_path: Path) -> None:
    """Arguments fit, tiles fit into shared memory, and a new size of a batch compiles nothing anew."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TRITON_INTERPRET", None)
    script = str(HELPERS / "kernel_launches.py")
    done = subprocess.run(
        [sys.executable, script, *map(str, capability)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, *others = json.loads(done.stdout.splitlines()[-1])
    assert {name for name, _ in first} == ENTRIES
    assert [(name, size) for name, size in first if size > most] == []
    assert others == [[], [], []]
