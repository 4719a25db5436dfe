"""Ctrl-C and SIGTERM: the exit status, one line and no more, no process left, and the same bytes when resumed.

The signals are real and come at a fixed place: a process sends them to its own group, or blocks until it is sent one.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dcfast import resharding as resharder
from dcfast.engine.ray import RayEngine
from dcfast.process import signals as stopping
from dcfast.process.signals import Stopped, stoppable
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.uids.sets import save_subset
from pool_builder import plain_pool
from reshard_reference import make_uid, subset_of, write_pool

#: as its stage "filter" begins, a run sends a signal to its process group, its workers among it
RUN = """
import os, sys
from dcfast.run import workflow as run
one = run.run_one
def run_one(current, engine, name, show):
    if name == "filter":
        print([process.pid for process in engine._pool._processes.values()] if workers > 1 else [])
        sys.stdout.flush()
        os.killpg(0, number)
    return one(current, engine, name, show)
run.run_one = run_one
number, workers = int(sys.argv[1]), int(sys.argv[2])
sys.exit(run.main([*sys.argv[3:], "--workers", sys.argv[2]]))
"""
#: a reshard sends it at the renaming of this number, from the thread that renames
RESHARD = """
import os, sys
from dcfast.resharding import cli
import dcfast.storage.atomic
number, after = int(sys.argv[1]), int(sys.argv[2])
replace = os.replace
def renamed(*names):
    global after
    after -= 1
    if after == 0:
        os.killpg(0, number)
    replace(*names)
os.replace = renamed
sys.exit(cli.main(sys.argv[3:]))
"""
#: a call that no signal interrupts: a mutex locked twice
STUCK = """
import ctypes, sys
from dcfast.process import signals as stopping
stopping.GRACE_SECONDS = 0.05
def command():
    lock, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    libc.pthread_mutex_lock(lock)
    print("stuck", flush=True)
    libc.pthread_mutex_lock(lock)
    return 0
sys.exit(stopping.stoppable(command, "stopped; go on so"))
"""


def ended(words: list[str]) -> subprocess.CompletedProcess[str]:
    """A script in a process group of its own."""
    return subprocess.run(
        [sys.executable, "-c", *words], capture_output=True, text=True, start_new_session=True, timeout=300, check=False
    )


def tables(out: Path) -> dict[str, bytes]:
    names = [*out.glob("*.npy"), *out.glob("*.parquet"), *out.glob("shards/*"), *out.glob("index/*")]
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(names) if path.is_file()}


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_a_stopped_run_says_one_line_and_resumes_to_the_same_bytes(tmp_path: Path, number: int, workers: int) -> None:
    plain_pool(tmp_path / "pool").write()
    settings = Settings(pool=str(tmp_path / "pool"), filter="basic_filter", train=False)
    run(tmp_path / "whole", settings)
    out = tmp_path / "out"
    options = ["--pool", str(tmp_path / "pool"), "--filter", "basic_filter", "--no-train", "--quiet", "--out", str(out)]
    done = ended([RUN, str(int(number)), str(workers), *options])
    assert (done.returncode, done.stderr) == (128 + number, "stopped; the same command resumes\n")
    started = json.loads(done.stdout)
    assert len(started) == (2 if workers > 1 else 0)
    assert not [pid for pid in started if lives(pid)]
    assert not (out / "fates.parquet").exists()
    run(out, settings)
    assert tables(out) == tables(tmp_path / "whole")


@pytest.mark.parametrize(("number", "workers", "after"), [(signal.SIGINT, 1, 4), (signal.SIGINT, 2, 7), (15, 2, 1)])
def test_a_stopped_reshard_says_one_line_and_resumes_to_the_same_bytes(
    tmp_path: Path, number: int, workers: int, after: int
) -> None:
    samples = [(f"{i}", {"txt": b"a", "json": json.dumps({"uid": make_uid(i)}).encode()}) for i in range(20)]
    write_pool(tmp_path / "p", [samples])
    save_subset(tmp_path / "s.npy", subset_of([make_uid(i) for i in range(20)]))
    options: dict[str, Any] = {"shard_size": 4, "resume": True}
    resharder.reshard(tmp_path / "p", tmp_path / "whole", tmp_path / "s.npy", **options)
    words = ["-i", tmp_path / "p", "-o", tmp_path / "out", "-s", tmp_path / "s.npy", "-j", workers, "--shard-size", 4]
    done = ended([RESHARD, str(int(number)), str(after), *map(str, words)])
    assert done.returncode == 128 + number
    assert (done.stdout, done.stderr) == ("", "stopped; the same command with --resume goes on\n")
    assert not (tmp_path / "out/meta.json").exists()
    resharder.reshard(tmp_path / "p", tmp_path / "out", tmp_path / "s.npy", **options)
    found = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("out", "whole")]
    assert found[0] == found[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_far_from_python_ends_too(number: int) -> None:
    words = [sys.executable, "-c", STUCK]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (128 + number, "stopped; go on so\n")


def test_what_the_command_returns_and_raises_is_passed_on() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    assert stoppable(lambda: 7, "stopped") == 7
    with pytest.raises(KeyError):
        stoppable(lambda: {}[1], "stopped")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(wakeup) == wakeup


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is not ended, however busy the machine is."""
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 300.0)


@pytest.mark.usefixtures("patient")
def test_a_signal_of_this_process_ends_the_command_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        select.select([], [], [], 300)
        return 0

    assert stoppable(command, "stopped") == 143
    assert capsys.readouterr().err == "stopped\n"
    with pytest.raises(Stopped):
        raise Stopped(2)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("ending", ["raises", "returns 1", "returns 0"])
def test_a_stopped_command_that_ends_otherwise(ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker that the signal reached too: what waits for it raises while the command is stopped, or even says so."""

    def command() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            select.select([], [], [], 300)
        finally:
            if ending == "raises":
                raise RuntimeError("a worker was killed by signal: Terminated")
            return int(ending[-1])  # noqa: B012

    expected = (0, "") if ending == "returns 0" else (143, "stopped\n")
    assert (stoppable(command, "stopped"), capsys.readouterr().err) == expected


@pytest.mark.usefixtures("patient")
def test_ray_leaves_the_handlers_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """It puts its own in their place when it starts."""

    def init(**options: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None, __version__="2.60.0")
    ray.get_runtime_context = lambda: SimpleNamespace(gcs_address="127.0.0.1:6379")
    ray.remote, ray.cluster_resources = (lambda **options: lambda function: function), dict
    monkeypatch.setitem(sys.modules, "ray", ray)

    def command() -> int:
        with RayEngine(1):
            os.kill(os.getpid(), signal.SIGTERM)
            select.select([], [], [], 5)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    assert stoppable(command, "stopped") == 143
    assert signal.getsignal(signal.SIGTERM) == before
    try:
        with RayEngine(1):
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN, "no command runs"
    finally:
        signal.signal(signal.SIGTERM, before)


#: a Ctrl-C while processes are started, in a process without other threads
SPAWNS = """
import os, signal, sys
from dcfast.process.signals import spawning, stoppable
def command():
    with spawning():
        os.kill(os.getpid(), signal.SIGINT)
        print("inside", signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
    print("behind")
    return 0
sys.exit(stoppable(command, "stopped"))
"""


def test_ctrl_c_waits_while_processes_are_started() -> None:
    done = ended([SPAWNS])
    assert (done.returncode, done.stdout, done.stderr) == (130, "inside True\n", "stopped\n")


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    script = (
        "import os, signal, sys; from dcfast.process.signals import stoppable\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "def command():\n    os.kill(os.getpid(), signal.SIGINT)\n    return 6\n"
        "sys.exit(stoppable(command, 'stopped'))"
    )
    done = ended([script])
    assert (done.returncode, done.stderr) == (6, "")


#: a command forks a process that says how its signals are set, and one that is ended by SIGTERM
FORKS = """
import os, signal, sys
from dcfast.process.signals import stoppable
def command():
    child = os.fork()
    if child == 0:
        plain = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and signal.set_wakeup_fd(-1) == -1
        os._exit(7 if plain else 8)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, b"1")
        signal.pause()
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    return 5
sys.exit(stoppable(command, "stopped"))
"""


def test_a_signal_to_a_forked_worker_is_none_to_its_parent() -> None:
    done = ended([FORKS])
    assert (done.returncode, done.stderr) == (5, "")


def test_other_threads_leave_signals_alone() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(stoppable, lambda: 3, "stopped").result() == 3
