"""``dcfast launch``: the script for Slurm, the line of torchrun, the job of Ray; nothing of them is run here."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dcfast.errors import RunError
from dcfast.process.exit_codes import PEER_LOST
from dcfast.run.agent import TorchrunOptions, _failed, run_agent, torchrun_words
from dcfast.run.launch_command import main
from dcfast.run.slurm_script import seconds_of
from fake_slurm import installed, scripts

Say = Callable[[list[str]], tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Runs the command in an empty folder: status, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def run(words: list[str]) -> tuple[int, str, str]:
        status = main(words)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def run_words(out: Path, *more: str) -> list[str]:
    return ["--", "--out", str(out), "--device", "cpu", "--quiet", *more]


def test_the_script_asks_for_what_it_was_given(say: Say, tmp_path: Path) -> None:
    out = tmp_path / "my runs" / "it's 100%%j"
    given = ["slurm", "--nodes", "4", "--gpus-per-node", "8", "--cpus-per-task", "12", "--time", "1-12:00"]
    given += ["--partition", "gpu", "--account", "a b", "--sbatch=--qos=low", "--signal-seconds", "180"]
    status, said, _ = say([*given, *run_words(out, "--filter", "words >= 3 & ~contaminated")])
    assert status == 0
    assert said.splitlines()[-1] == f"submit it: sbatch {shlex.quote(str(out) + '.sbatch')}"
    assert f"log: {out}.JOB.log" in said.splitlines()
    path = Path(f"{out}.sbatch")
    lines = path.read_text().splitlines()
    directives = [shlex.split(line.removeprefix("#SBATCH "))[0] for line in lines if line.startswith("#SBATCH ")]
    assert directives == [
        "--job-name=dcfast-it's 100%%j", "--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=12",
        "--time=1-12:00", "--partition=gpu", "--account=a b", "--requeue", "--open-mode=append",
        f"--output={str(out).replace('%', '%%')}.%j.log", "--signal=USR1@180", "--qos=low",
    ]  # fmt: skip
    [command] = [line for line in lines if "dcfast.run" in line]
    words = shlex.split(command.removesuffix("|| status=$?"))
    assert words == [
        sys.executable, "-m", "dcfast.run", "--out", str(out), "--device", "cpu", "--quiet", "--filter",
        "words >= 3 & ~contaminated",
    ]  # fmt: skip
    assert f"cd {shlex.quote(os.getcwd())} || exit 1" in lines
    assert not out.exists()
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize(
    ("srun", "ended", "requeued"),
    [("exit 138", 138, True), ("exit 0", 0, False), ("exit 1", 1, False), ("kill -TERM $$", 143, False)],
)
def test_a_job_that_was_warned_goes_into_the_queue_again(
    say: Say, tmp_path: Path, srun: str, ended: int, requeued: bool
) -> None:
    variables = installed(tmp_path / "jobs")
    program = tmp_path / "jobs/bin/srun"
    program.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/srun\n{srun}\n')
    program.chmod(0o755)
    assert say(["slurm", "--nodes", "2", *run_words(tmp_path / "out", "--filter", "words >= 3")])[0] == 0
    script = (tmp_path / "out.sbatch").read_text().replace('"$SECONDS" -lt 120', '"$SECONDS" -lt 0')
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, **variables, "SLURM_JOB_ID": "7"}, check=False, capture_output=True
    )
    assert done.returncode == ended
    calls = tmp_path / "jobs/calls"
    assert (calls.exists() and calls.read_text() == "scontrol requeue 7\n") == requeued
    assert (tmp_path / "srun").read_text().splitlines()[-2:] == ["--filter", "words >= 3"]


def test_a_job_that_is_warned_at_once_is_not_requeued_for_ever(say: Say, tmp_path: Path) -> None:
    variables = installed(tmp_path / "jobs")
    program = tmp_path / "jobs/bin/srun"
    program.write_text("#!/bin/bash\nexit 138\n")
    program.chmod(0o755)
    say(["slurm", "--nodes", "1", *run_words(tmp_path / "out")])
    done = subprocess.run(
        ["bash", str(tmp_path / "out.sbatch")], env={**os.environ, **variables}, check=False, capture_output=True
    )
    assert b"give the job more time (--time). It is not requeued" in done.stdout
    assert not (tmp_path / "jobs/calls").exists()


def test_a_script_is_submitted_and_written_again(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["slurm", "--nodes", "1", "--submit", *run_words(tmp_path / "out")]
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, said = say(command)
    assert (status, "there is no sbatch here" in said) == (1, True)
    monkeypatch.setenv("PATH", path)
    for name, value in installed(tmp_path / "jobs").items():
        monkeypatch.setenv(name, value)
    (tmp_path / "jobs/bin/srun").write_text("#!/bin/sh\n")
    assert say(command)[1].splitlines()[-1].startswith("job 1: squeue --job 1, dcfast status ")
    assert scripts(tmp_path / "jobs") == [(tmp_path / "out.sbatch").read_text()]
    monkeypatch.setenv("FAKE_SLURM_REFUSES", "Invalid account\nor none")
    assert "sbatch did not take" in say(command)[2]
    (tmp_path / "out.sbatch").write_text("#!/bin/bash\n# mine\n")
    assert "is there, and no script of this command: remove it, or name another (--script)" in say(command)[2]
    assert (tmp_path / "out.sbatch").read_text() == "#!/bin/bash\n# mine\n"


TWO, CPU = ["slurm", "--nodes", "2"], ["--", "--device", "cpu"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["slurm", *CPU], "these have to be given: --nodes N"),
        ([*TWO, "--", "--out", "a\nrm -rf b"], "the command has a sign that cannot stand in a script: 'a\\nrm -rf b'"),
        ([*TWO, "--partition", "a\n#SBATCH b", *CPU], "the job has a sign that"),
        ([*TWO, "--time", "5 days", *CPU], "--time must be a limit as Slurm writes it (90, 24:00:00, 2-12:00); got"),
        ([*TWO, "--time", "4", *CPU], "--time 4 is 240 s, and the job is warned up to 180 s before its end: give it"),
        ([*TWO, "--sbatch", "qos=low", *CPU], "--sbatch must be an option of sbatch, as --sbatch=--qos=low; got 'qos"),
        (["slurm", "--nodes", "3", "--gpus-per-node", "5", "--"], "global batch 128 does not divide among 15 ranks"),
        (["slurm", "--nodes", "3", "--", "--scale", "small", "--pool", "."], "scale small trains on GPUs: give --gpus"),
        ([*TWO, "--", "--seed", "-1"], "--seed must be 0 to 2^63 - 1; got -1"),
        (["torchrun", "--nodes", "2", *CPU], "2 machines meet somewhere: give --endpoint HOST:PORT, the same on each"),
        (["torchrun", "--endpoint", "node1", "--print", "--"], "--endpoint must be HOST:PORT, as node1:29400; got"),
        ([*TWO, "--", "--out", "s3://mine/run"], "--out must be a directory of this machine; got the URL s3://mine/run"),
        (["ray", "--", "--engine", "ray"], "a job of Ray does the data on all machines of a cluster"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said_before_any_queue(say: Say, tmp_path: Path, words: list[str], said: str) -> None:
    status, _, error = say(words)
    assert (status, said in error) == (2, True), error
    assert list(tmp_path.iterdir()) == []


def test_options_of_the_run_before_the_dashes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["slurm", "--nodes", "2", "--out", str(tmp_path / "out")])
    said = "--out is an option of dcfast.run: give all of those behind --, as ... -- --out"
    assert said in capsys.readouterr().err


def test_the_line_of_torchrun(say: Say) -> None:
    words = [
        "torchrun",
        "--nodes",
        "2",
        "--processes",
        "4",
        "--endpoint",
        "n1:29400",
        "--print",
        "--",
        "--filter",
        "a b",
    ]
    assert "no filter" in say(words)[2] or say(words)[0] == 1  # it is the run's own check
    words[-1] = "words >= 3"
    assert say(words)[1] == (
        "TORCHELASTIC_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 torchrun --nnodes=2 --nproc-per-node=4 "
        "--rdzv-backend=c10d --max-restarts=0 --rdzv-endpoint=n1:29400 --rdzv-id=dcfast -m dcfast.run --filter "
        "'words >= 3'\n"
    )


def test_a_job_of_ray(say: Say, tmp_path: Path) -> None:
    words = ["ray", "--address", "http://h:8265", "--", "--engine", "ray", "--no-train", "--filter", "words >= 3"]
    said = shlex.split(say(words)[1])
    assert said[:4] == ["ray", "job", "submit", "--address=http://h:8265"]
    assert said[-3:-1] == ["sh", "-c"]
    folder, command = said[-1].split(" && exec ")
    assert shlex.split(folder) == ["cd", str(tmp_path)]
    assert shlex.split(command)[2:] == ["dcfast.run", "--engine", "ray", "--no-train", "--filter", "words >= 3"]


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("90", 5400), ("90:30", 5430), ("24:00:00", 86400), ("2-12", 216000), ("2-12:30", 217800), ("1-0:0:5", 86405),
     ("UNLIMITED", None)],
)  # fmt: skip
def test_limits_of_time(limit: str, seconds: int | None) -> None:
    assert seconds_of(limit) == seconds


def test_what_the_agent_says_of_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
    from torch.distributed.elastic.rendezvous.api import RendezvousTimeoutError

    ends: list[Exception] = []
    given: list[Any] = []

    def end(arguments: Any) -> None:
        given.append(arguments)
        raise ends[-1]

    monkeypatch.setattr(run, "run", end)
    for name in ("TORCH_CPP_LOG_LEVEL", "TORCHELASTIC_SIGNALS_TO_HANDLE", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    words = torchrun_words(TorchrunOptions(nodes=2, processes=3, endpoint="n1:29400"), "cpu", ["--seed", "7"])
    ends.append(SignalException("", signal.SIGUSR1))
    assert run_agent(words) == 138
    assert (given[0].nnodes, given[0].nproc_per_node, given[0].rdzv_endpoint) == ("2", "3", "n1:29400")
    assert (given[0].training_script, given[0].training_script_args) == ("dcfast.run", ["--seed", "7"])
    assert os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"].endswith("SIGUSR1")
    for error in (RendezvousTimeoutError("late"), RuntimeError("the store is gone"), ConnectionResetError("reset")):
        ends.append(error)
        with pytest.raises(
            RunError, match=r"the machines of torchrun do not find each other, or one is gone \(.*\)\. Is"
        ):
            run_agent(words)
    ends.append(ChildFailedError("dcfast.run", {4: ProcessFailure(1, 99, 3, "/none")}))
    assert run_agent(words) == 3


def test_how_the_ranks_of_an_agent_ended() -> None:
    assert _failed({0: 1, 1: PEER_LOST}) == 1
    assert _failed({0: PEER_LOST, 3: 2}) == 2
    assert _failed({1: 138, 0: 138}) == 138
    assert _failed({0: -15}) == 1  # ended by the agent, as another one failed
    with pytest.raises(RunError, match=r"rank 2 was killed by SIGKILL: by hand, or the machine ran out of mem"):
        _failed({0: 1, 2: -9})
