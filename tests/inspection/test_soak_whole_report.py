"""``make soak``: the report, ``dcfast why`` and ``dcfast inspect`` of a run of 128 million samples, which is simulated.

DCFAST_SOAK_SAMPLES says how many; DCFAST_SOAK_RUN names a folder that ``tests/helpers/simulated_run.py`` wrote before.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from dcfast.uids.sets import uid_format
from simulated_run import FILTER, REASONS, Simulation, simulate

SAMPLES = int(os.environ.get("DCFAST_SOAK_SAMPLES") or 128_000_000)
BYTES_A_SAMPLE = 250
MOST_SECONDS, MOST_PAGE, MOST_MEMORY = 300, 5_000_000, 2_000_000_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Simulation]:
    """The simulated run, and the rule it was made by."""
    if given := os.environ.get("DCFAST_SOAK_RUN"):
        return Path(given) / "run", Simulation(SAMPLES)
    folder = tmp_path_factory.mktemp("whole")
    if shutil.disk_usage(folder).free < BYTES_A_SAMPLE * SAMPLES:
        pytest.skip(f"needs {BYTES_A_SAMPLE * SAMPLES / 1e9:.0f} GB of disk")
    out, _, simulation = simulate(folder, SAMPLES)
    return out, simulation


def measured(*words: str) -> tuple[str, float, int]:
    """What a command said, its seconds, and its largest memory in bytes."""
    started = time.monotonic()
    command = [sys.executable, "-m", "dcfast", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stdout.read()
        error = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, error
    return said, time.monotonic() - started, usage.ru_maxrss * 1024


@pytest.mark.soak
def test_the_report_of_a_whole_run(whole: tuple[Path, Simulation]) -> None:
    out, simulation = whole
    settings = ["--scale", "medium", "--pool", str(out.parent / "pool"), "--evalsets", str(out.parent / "evalsets")]
    (out / "state/report.json").unlink(missing_ok=True)
    shutil.rmtree(out / "state/report", ignore_errors=True)
    words = ("report", *settings, "--filter", FILTER, "--no-train", "--out", str(out), "--quiet")
    _, seconds, memory = measured(*words, "--gallery", "clip_score(l14, threshold=0.31) & ~contaminated")
    size = (out / "report.html").stat().st_size
    print(f"report of {simulation.samples:,}: {seconds:.1f} s, {size / 1e6:.2f} MB, {memory / 1e6:.0f} MB of memory")
    assert (seconds < MOST_SECONDS, size < MOST_PAGE, memory < MOST_MEMORY) == (True, True, True)
    report = json.loads((out / "report.json").read_bytes())
    assert sum(report["fates"].values()) == simulation.samples
    assert len(report["gallery"]["kept"]) == len(report["gallery"]["asked"]) == 12
    assert "A sample, not all: drawn from 65,536 of" in (out / "report.html").read_text("utf-8")


@pytest.mark.soak
def test_samples_of_a_whole_run(whole: tuple[Path, Simulation], tmp_path: Path) -> None:
    out, simulation = whole
    for sample in np.random.default_rng(5).integers(0, 600_000, 6).tolist():
        uid = uid_format(simulation.uids_of(np.array([sample])), as_list=True)[0]
        said, seconds, memory = measured("why", uid, "--out", str(out), "--json")
        (facts,) = json.loads(said)["samples"]
        kind = int(simulation.kind_of(np.array([sample]))[0])
        print(f"why {uid}: {seconds:.2f} s, {memory / 1e6:.0f} MB of memory: {REASONS[kind]}")
        assert (facts["shard"], facts["row"]) == (f"{sample // 10_000:08d}.tar", sample % 10_000)
        assert facts["reason"] in (REASONS[kind], None)
        assert facts["metadata"]["row"] == sample % 10_000
        assert "--copies" in facts["copies"]["problem"]
        assert (seconds < 10, memory < MOST_MEMORY) == (True, True)
    page = tmp_path / "page.html"
    for words in (["--outcome", "dropped"], ["--filter", "clip_score(l14, threshold=0.34)"]):
        _, seconds, memory = measured("inspect", str(out), *words, "--html", str(page))
        print(f"inspect {words}: {seconds:.1f} s, {page.stat().st_size / 1e6:.2f} MB, {memory / 1e6:.0f} MB of memory")
        assert (seconds < MOST_SECONDS, page.stat().st_size < MOST_PAGE, memory < MOST_MEMORY) == (True, True, True)
