"""A run by a real Slurm, whose two nodes are two names of this machine: submitted, warned, requeued, and by arrays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import real_slurm
from rank_processes import log_lines
from real_slurm import Slurm, running
from train_builder import MODEL, build_pool

pytestmark = [
    pytest.mark.soak,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(real_slurm.why_not() is not None, reason=real_slurm.why_not() or ""),
]
HELPERS = Path(__file__).resolve().parents[1] / "helpers"


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    folder = Path(tempfile.mkdtemp(prefix="sl-", dir="/tmp"))  # a socket's path must be short
    try:
        with running(folder / "s") as its:
            its.environment |= {
                "MASTER_ADDR": "127.0.0.1",  # no resolver knows the nodes' names
                "GLOO_SOCKET_IFNAME": "lo",
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join([str(HELPERS), *sys.path]),
            }
            yield its
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def words(pool: Path, out: Path, samples: int, *more: str) -> list[str]:
    recipe = {"model": MODEL, "precision": "fp32", "global_batch": 8, "warmup_steps": 2, "checkpoints": 2}
    return [
        *("--pool", str(pool), "--out", str(out), "--filter", "words >= 2", "--compare", "none", "--device", "cpu"),
        *("--samples-seen", str(samples), "--workers", "2"),
        *(word for name, value in recipe.items() for word in ("--set", f"{name}={json.dumps(value)}")),
        *more,
    ]


def done(out: Path) -> dict[str, Any]:
    """The training's summary, after looking whether anything was done twice."""
    timings = [json.loads(line)["step"] for line in (out / "state/timings.jsonl").read_text().splitlines()]
    assert [step for step, times in Counter(timings).items() if times > 1 and step != "train/train"] == []
    steps = [line["step"] for line in log_lines(out)]
    assert steps == sorted(set(steps))
    return dict(json.loads((out / "train/summary.json").read_bytes()))


def test_a_job_of_two_nodes_is_warned_requeued_and_ends(slurm: Slurm, tmp_path: Path) -> None:
    pool, out = build_pool(tmp_path / "my pool", 60), tmp_path / "my runs" / "out"
    command = [
        sys.executable,
        "-m",
        "dcfast",
        "launch",
        "slurm",
        "--nodes",
        "2",
        "--cpus-per-task",
        "2",
        "--time",
        "30",
    ]
    said = subprocess.run(
        [*command, "--signal-seconds", "30", "--submit", "--", *words(pool, out, 48_000)],
        env=slurm.environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    job = said.splitlines()[-1].split()[1].rstrip(":")
    log = Path(f"{out}.{job}.log")
    slurm.wait(lambda: len(log_lines(out)) > 10, 120)
    began = log_lines(out)[-1]["step"]
    slurm.wait(lambda: _seconds_at_work(slurm, job) > 32, 120)  # as long as a warning before must have been no use
    slurm.run("scancel", "--signal=USR1", job)
    slurm.wait(lambda: slurm.state(job) == "PENDING", 120)
    assert sorted(path.stem[:5] for path in (out / "train/checkpoints").glob("step_*")) != []
    before = log_lines(out)[-1]["step"]
    assert before >= began
    slurm.wait(lambda: slurm.state(job) not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"), 400)
    told = log.read_text()
    assert slurm.state(job) == "COMPLETED", told[-3000:]
    assert f"start 0 of job {job} on n[1-2]" in told
    assert f"start 1 of job {job} on n[1-2]" in told
    assert told.count("stopped; the same command resumes") == 1
    assert "train: goes on from step_" in told
    assert "Traceback" not in told
    summary = done(out)
    assert (summary["world_size"], summary["samples_seen"]) == (2, 48_000)
    assert (out / "report.html").exists()
    assert not (out / "state/ranks").exists()


def _seconds_at_work(slurm: Slurm, job: str) -> int:
    for word in slurm.run("scontrol", "show", "job", job).split():
        if word.startswith("RunTime="):
            hours, minutes, seconds = map(int, word.removeprefix("RunTime=").split(":"))
            return (hours * 60 + minutes) * 60 + seconds
    return 0


def test_the_data_by_arrays_of_jobs(slurm: Slurm, tmp_path: Path) -> None:
    pool = build_pool(tmp_path / "pool", 60)
    outs = [tmp_path / "by jobs", tmp_path / "here"]
    for out, more in zip(outs, (["--engine", "slurm"], []), strict=True):
        subprocess.run(
            [sys.executable, "-m", "dcfast", "run", *words(pool, out, 64, "--to", "verify", "--quiet", *more)],
            env=slurm.environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
    for name in ("subset.npy", "shards/00000000.tar", "index/segment-00000.dcx", "fates.parquet"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes(), name
    assert list((outs[0] / "state/slurm").iterdir()) == []
    accounted = slurm.run("scontrol", "show", "jobs")
    assert accounted.count("ArrayTaskId=") >= 3


def test_a_run_that_is_killed_leaves_no_job_behind(slurm: Slurm, tmp_path: Path) -> None:
    """Its jobs are ended by the next start, which does what they had not done; no piece twice."""
    out = tmp_path / "out"
    (out / "state").mkdir(parents=True)
    program = (
        "import sys\nfrom dcfast.engine import open_engine\nfrom piece_functions import slow\n"
        "out = sys.argv[1]\n"
        "make = lambda i: slow.piece('demo/a', str(i), outputs=[f'{i}.txt'])"
        "(seconds=float(sys.argv[2]), value=i, output=f'{i}.txt')\n"
        "with open_engine('slurm', 2) as engine:\n"
        "    print(sorted((i, stats.value) for i, stats in engine.map(out, [make(i) for i in range(2)])))\n"
    )
    first = subprocess.Popen([sys.executable, "-c", program, str(out), "300"], env=slurm.environment)
    slurm.wait(lambda: slurm.run("squeue", "-h", "-t", "running", "-o", "%A").split() != [], 60)
    first.kill()
    first.wait()
    again = subprocess.run(
        [sys.executable, "-c", program, str(out), "0"],
        env=slurm.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout == "[(0, 0), (1, 1)]\n"
    assert sorted((out / "calls.log").read_text().split()) == ["0.txt", "1.txt"]
    assert slurm.run("squeue", "-h", "-t", "running", "-o", "%A").split() == []
