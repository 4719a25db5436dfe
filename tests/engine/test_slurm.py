"""The engine ``slurm``: arrays of jobs, whose results come by files; with programs that stand for Slurm's own."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dcfast.engine import check_ready, open_engine, slurm, slurm_task
from dcfast.engine.piece import Piece, read_marker
from dcfast.errors import CorruptDataError, RunError
from dcfast.storage.atomic import write_json
from fake_slurm import installed, scripts
from piece_functions import Value, die, die_once, fail, slow, square

HELPERS = Path(__file__).resolve().parents[1] / "helpers"


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the jobs of a Slurm that begins them at once."""
    folder = tmp_path / "jobs"
    for name, value in installed(folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HELPERS), *sys.path]))
    monkeypatch.setenv("SLURM_NTASKS", "7")  # of a job that the run is in
    for name, seconds in {"POLL": 0.02, "LOOK": 0.1, "LATE": 0.1, "BEAT": 0.2}.items():
        monkeypatch.setattr(slurm, f"{name}_SECONDS", seconds)
    return folder


def run_folder(tmp_path: Path) -> Path:
    out = tmp_path / "a run"
    (out / "state").mkdir(parents=True)
    return out


def squares(count: int) -> list[Piece[Value]]:
    return [
        square.piece("demo/squares", f"{i:05d}", outputs=[f"{i}.txt"])(value=i, output=f"{i}.txt") for i in range(count)
    ]


def test_an_array_of_pieces_gives_what_this_machine_gives(tmp_path: Path, jobs: Path) -> None:
    out, pieces = run_folder(tmp_path), squares(5)
    with open_engine("slurm", 1) as engine:
        found = dict(engine.map(str(out), pieces))
    assert found == {i: Value(i * i) for i in range(5)}
    assert [read_marker(out, piece) for piece in pieces] == [found[i] for i in range(5)]
    assert sorted((out / "calls.log").read_text().split()) == [f"{i}.txt" for i in range(5)]
    [script] = scripts(jobs)
    assert "#SBATCH --array=0-3%1\n" in script  # four tasks for five pieces, one at a time
    assert "--gpus" not in script
    assert list((out / "state/slurm").iterdir()) == []


def test_a_piece_by_itself_needs_no_job(tmp_path: Path, jobs: Path) -> None:
    with open_engine("slurm", 4) as engine:
        assert list(engine.map(str(run_folder(tmp_path)), squares(1))) == [(0, Value(0))]
    assert scripts(jobs) == []


def test_an_error_of_a_piece_is_said_with_its_log(tmp_path: Path, jobs: Path) -> None:
    out = run_folder(tmp_path)
    pieces = [fail.piece("demo/a", "0")(value=7), slow.piece("demo/a", "1")(seconds=60, value=1, output="1.txt")]
    with (
        pytest.raises(
            RunError, match=r"^ValueError: piece 7 cannot be done \(its log: (.*round-0\.0\.log)\)"
        ) as caught,
        open_engine("slurm", 2) as engine,
    ):
        list(engine.map(str(out), pieces))
    assert "at work: demo/a/0" in caught.value.__notes__
    log = Path(str(caught.value).partition("its log: ")[2].rstrip(")"))
    assert "ValueError: piece 7 cannot be done" in log.read_text()
    calls = (jobs / "calls").read_text().splitlines()
    assert "scancel 1" in calls  # the other piece does not go on
    assert not (out / "1.txt").exists()


def test_a_job_that_dies_is_begun_again(tmp_path: Path, jobs: Path) -> None:
    out = run_folder(tmp_path)
    names = [f"{i}.txt" for i in range(2)]
    pieces = [die_once.piece("demo/a", name, outputs=[name])(value=i, output=name) for i, name in enumerate(names)]
    with open_engine("slurm", 2) as engine:
        assert dict(engine.map(str(out), pieces)) == {0: Value(0), 1: Value(1)}
    assert ["--array=0-1%2" in scripts(jobs)[0], "--array=0-0%2" in scripts(jobs)[1]] == [True, True]
    assert sorted((out / "calls.log").read_text().split()) == names  # nothing was done twice


def test_a_job_that_always_dies_is_named(tmp_path: Path, jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "MOST_STARTS", 2)
    pieces = [die.piece("demo/a", "0")(), *squares(1)]
    said = (
        r"the piece demo/a/0 was lost 2 times: its job 2_0 ended without a word \(.*\)\. Its log is .*round-1\.0\.log"
    )
    with pytest.raises(RunError, match=said), open_engine("slurm", 2) as engine:
        list(engine.map(str(run_folder(tmp_path)), pieces))
    assert len(scripts(jobs)) == 2


def test_jobs_of_a_killed_run_are_ended_first(tmp_path: Path, jobs: Path) -> None:
    out, token = run_folder(tmp_path), secrets.token_hex(8)
    folder = out / "state/slurm" / token
    folder.mkdir(parents=True)
    (folder / "old.sbatch").write_text(f"#!/bin/bash\n#SBATCH --job-name=dcfast-{token}\nexec sleep 60\n")
    subprocess.run(["sbatch", str(folder / "old.sbatch")], check=True, capture_output=True)
    process = int((jobs / "job-1-0").read_text().split()[0])
    (out / "state/slurm/mine").mkdir()
    slurm.end_earlier(str(out))
    state = Path(f"/proc/{process}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"
    assert [path.name for path in (out / "state/slurm").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", "Unable to contact slurm con"),
        ("exec sleep 60", "no answer within 0 s"),
    ],
)
def test_jobs_of_which_squeue_says_nothing_count_as_at_work(
    tmp_path: Path, jobs: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    out, token = run_folder(tmp_path), secrets.token_hex(8)
    (out / "state/slurm" / token).mkdir(parents=True)
    (jobs / "squeue").write_text(script)
    monkeypatch.setattr(slurm, "_END_SECONDS", 0.1)
    with monkeypatch.context() as brief:
        if "sleep" in script:
            brief.setattr(slurm, "ANSWER_SECONDS", 0.4)
        with pytest.raises(RunError, match=f"squeue does not say whether jobs .*{token}.* are at work: .*{said}"):
            slurm.end_earlier(str(out))
    assert (out / "state/slurm" / token).exists()
    (jobs / "squeue").write_text("echo Good morning")  # a word of the site, and no job
    slurm.end_earlier(str(out))
    assert not (out / "state/slurm" / token).exists()


def test_a_squeue_that_fails_is_said_once_and_the_results_come(
    tmp_path: Path, jobs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (jobs / "squeue").write_text("echo 'no \033controller' >&2; exit 1")
    pieces = [slow.piece("demo/a", f"{i}")(seconds=1.5, value=i, output=f"{i}.txt") for i in range(2)]
    with open_engine("slurm", 2) as engine:
        assert dict(engine.map(str(run_folder(tmp_path)), pieces)) == {0: Value(0), 1: Value(1)}
    assert (jobs / "calls").read_text().count("squeue") > 1
    assert len(scripts(jobs)) == 1  # nothing was taken for lost
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("squeue does not answer (no ")
    assert "\033" not in line


def test_an_sbatch_that_cannot_be_started_is_said(tmp_path: Path, jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(jobs / "bin"))  # none behind it
    (jobs / "bin/sbatch").write_text("#!/no/such/program\n")
    with (
        pytest.raises(RunError, match=r"sbatch did not take the pieces of this step: .*No such file"),
        open_engine("slurm", 2) as engine,
    ):
        list(engine.map(str(run_folder(tmp_path)), squares(2)))


def test_what_sbatch_refuses_is_said(tmp_path: Path, jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SLURM_REFUSES", "invalid partition specified: gpu" + " \033[2J" * 10_000)
    with (
        pytest.raises(
            RunError, match="sbatch did not take the pieces of this step: sbatch: error: invalid partition"
        ) as caught,
        open_engine("slurm", 2) as engine,
    ):
        list(engine.map(str(run_folder(tmp_path)), squares(2)))
    assert len(str(caught.value)) < 3000
    assert "\033" not in str(caught.value)


def test_a_machine_without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="engine 'slurm' needs Slurm's programs, and there is no sbatch, squeue, sc"):
        check_ready("slurm", 2)
    with pytest.raises(ValueError, match="workers must be at least 1"):
        check_ready("slurm", 0)


def test_a_job_takes_no_other_pickle_than_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pieces.pickle").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorruptDataError, match="is not the file that the run wrote; start the same command again"):
        slurm_task.main([str(tmp_path), "0" * 64, "0"])
    assert not (tmp_path / "ran").exists()


def test_a_job_ends_when_its_run_is_gone(tmp_path: Path) -> None:
    (tmp_path / "alive").write_text("7")
    write_json(tmp_path / "x", {})
    program = (
        "import sys, threading, time; from pathlib import Path; from dcfast.engine import slurm_task as t\n"
        "t.GONE_SECONDS = 0.6; threading.Thread(target=t._watch, args=(Path(sys.argv[1]),), daemon=True).start()\n"
        "time.sleep(60)"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "alive")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "the run that started this job gives no sign of life: ended\n"
    assert time.monotonic() - began < 40
