"""The GPU bench from start to end on the CPU (tiny sizes, Triton's interpreter), its exit statuses, its rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels need Triton")
pytest.importorskip("bench.gpu", reason="bench is part of the checkout, not of the package")
pytestmark = pytest.mark.bench

ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def run_gpu(repo_root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repo_root / "bench" / "gpu.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)


@pytest.mark.slow
@pytest.mark.xdist_group("kernels")
@pytest.mark.soak
def test_dry_run(repo_root: Path, tmp_path: Path) -> None:
    done = run_gpu(repo_root, "--dry-run", "--out", str(tmp_path), "--limit", "600")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    ops = {row["op"] for row in rows}
    assert ops >= {"environment", "copy", "mm", "check", "clip_step", "clip_part"}
    assert ops >= {"assign", "join", "topk 1", "topk 10", "topk 32", "pool_join"}
    for row in rows:
        assert row["dry_run"] is True
        assert row["gpu"] == "none: dry run on the CPU"
        assert row["date_utc"].endswith("Z")
        assert {"torch", "triton", "dcfast"} <= set(row["versions"])
    checks = [row for row in rows if row["op"] == "check" and "checked" in row]
    assert len(checks) >= 15
    assert all(row["checked"] for row in checks)
    ours = [row for row in rows if row["op"] == "clip_step" and row["provider"] == "dcfast"]
    assert ours
    assert all(row["checked"] and row["errors"]["image"] < 1e-2 and row["median_s"] > 0 for row in ours)
    # each peer is there, or says why not
    for provider in ("open_clip, eager", "open_clip, torch.compile", "Inf-CL", "cut-cross-entropy"):
        found = [row for row in rows if row["op"] == "clip_step" and row["provider"] == provider]
        assert found
        assert all("median_s" in row or row["note"].startswith("absent: ") for row in found)
    # the table is last, and says that its times mean nothing
    assert "they mean nothing" in done.stdout.split("sanitizer")[-1]
    assert "0 wrong answers" in done.stdout.splitlines()[-1]


def test_without_a_device(repo_root: Path, tmp_path: Path) -> None:
    done = run_gpu(repo_root, "--out", str(tmp_path / "out"))
    assert done.returncode == 3
    assert "needs a CUDA device" in done.stderr
    assert not (tmp_path / "out").exists()


def test_no_time_to_check_is_no_success(repo_root: Path, tmp_path: Path) -> None:
    done = run_gpu(repo_root, "--dry-run", "--out", str(tmp_path), "--limit", "1e-9")
    assert done.returncode == 1
    assert "no time left for: environment, correctness, similarity, similarity timing, timing, sanitizer" in done.stdout
    done = run_gpu(repo_root, "--limit", "0")
    assert done.returncode == 2
    assert "--limit must be positive" in done.stderr


BROKEN = """
import os, sys
os.environ.update(TRITON_INTERPRET="1", DCFAST_LOSS_BACKEND="triton")
from bench import gpu, gpu_checks, gpu_losses
right = gpu_losses.dcfast_clip
def wrong():
    loss = right()
    return lambda image, text, scale: 1.001 * loss(image, text, scale)
def fails():
    raise RuntimeError("a launch failed")
gpu_losses.dcfast_clip = {"wrong": wrong, "fails": fails}[sys.argv[1]]
gpu_checks.shapes = lambda run: [(3, 8, 10.0)]
gpu_checks.CHECKS = (gpu_checks.clip_answers,)
gpu.stages = lambda options: [("correctness", 0, gpu_checks.correctness)]
sys.exit(gpu.main(["--dry-run", "--out", sys.argv[2]]))
"""


BROKEN_SIMILARITY = """
import os, sys
os.environ["TRITON_INTERPRET"] = "1"
from bench import gpu, gpu_similarity

right = gpu_similarity.screens
def wrong(run):
    screen = right(run)["torch"]
    best_two = screen.best_two
    def shifted(rows, cols):
        high, place, following = best_two(rows, cols)
        return high, place.flip(0), following.fill_(-9)
    screen.best_two = shifted
    return {"torch": screen}
gpu_similarity.screens = wrong if sys.argv[1] == "wrong" else lambda run: {"torch": right(run)["torch"]}
gpu.stages = lambda options: [("similarity", 0, gpu_similarity.correctness)]
sys.exit(gpu.main(["--dry-run", "--out", sys.argv[2]]))
"""


@pytest.mark.parametrize(("how", "status"), [("wrong", 1), ("right", 0)])
def test_a_wrong_answer_of_similarity_is_status_1(repo_root: Path, tmp_path: Path, how: str, status: int) -> None:
    command = [sys.executable, "-c", BROKEN_SIMILARITY, how, str(tmp_path)]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == status, done.stderr[-2000:]
    assert ("WRONG: similarity, torch" in done.stdout) == (how == "wrong")
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert any(row["provider"] == "fused kernels" and row["note"].startswith("absent: ") for row in rows)


@pytest.mark.parametrize(("how", "says"), [("wrong", "WRONG: clip N=3 D=8 float32"), ("fails", "a launch failed")])
@pytest.mark.soak
def test_a_wrong_answer_is_status_1(repo_root: Path, tmp_path: Path, how: str, says: str) -> None:
    command = [sys.executable, "-c", BROKEN, how, str(tmp_path)]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 1, done.stderr[-2000:]
    assert says in done.stdout
    assert "nothing was timed" in done.stdout
    assert (tmp_path / "gpu.jsonl").exists()
