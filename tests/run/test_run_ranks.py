"""``python -m dcfast.run`` in ranks: one does the data and the scores, all train, and each hears when one is gone."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dcfast.errors import PoolError, RunError
from dcfast.run import comparison, team, workflow
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.storage.lock import locked
from rank_processes import log_lines, started, wait_for_step
from train_builder import MODEL, build_pool

pytestmark = pytest.mark.xdist_group("ranks")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_pool(tmp_path_factory.mktemp("pool"), 60)


def settings_of(pool: Path, samples: int = 64) -> Settings:
    recipe = {"model": MODEL, "precision": "fp32", "global_batch": 8, "warmup_steps": 2, "checkpoints": 2}
    return Settings(
        pool=str(pool), filter="no_filter", compare="none", device="cpu", samples_seen=samples, overrides=recipe
    )


def words(pool: Path, out: Path, *more: str, samples: int = 64) -> list[str]:
    given = settings_of(pool, samples)
    changes = [f"{name}={json.dumps(value)}" for name, value in (given.overrides or {}).items()]
    return [
        *("--pool", str(pool), "--out", str(out), "--filter", "no_filter", "--compare", "none", "--device", "cpu"),
        *("--samples-seen", str(samples), "--workers", "1", "--quiet"),
        *(word for change in changes for word in ("--set", change)),
        *more,
    ]


def summary(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "train/summary.json").read_bytes()))


def test_one_rank_does_the_data_and_all_train(pool: Path, tmp_path: Path) -> None:
    """From nothing to the report: at an address, as ranks of several machines."""
    out = tmp_path / "out"
    world = ["rows=64", "rows_per_shard=32", "eval_scale=0.01", "teacher_pairs=10"]
    command = [*words(pool, out)[2:], "--world", *world, "--features", "none", "--sets", "world-shapes"]
    command += ["--filter", "words >= 1"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        told = {"DCFAST_MEETING": "", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    with started(tmp_path / "ranks", command, command, told=[told, told]) as ranks:
        assert ranks.statuses() == [0, 0], ranks.said(0) + ranks.said(1)
        assert ranks.said(0).splitlines()[-1] == f"report: {out / 'report.html'}"
        assert ranks.said(1) == ""
    assert summary(out)["world_size"] == 2
    assert summary(out)["samples_seen"] == 64
    assert len({line["step"] for line in log_lines(out)}) == len(log_lines(out)) > 1
    assert not (out / "state/ranks").exists()
    timings = [json.loads(line) for line in (out / "state/timings.jsonl").read_text().splitlines()]
    assert len(timings) > 15
    assert {line["skipped"] for line in timings} == {0}  # no step was begun a second time


@pytest.mark.long
def test_a_signal_reaches_all_ranks_and_the_same_command_goes_on(pool: Path, tmp_path: Path) -> None:
    out, command = tmp_path / "out", words(pool, tmp_path / "out", "--to", "train", samples=1600)
    with started(tmp_path / "ranks", command, command) as ranks:
        wait_for_step(out, 20)
        ranks.send(1, signal.SIGUSR1)
        assert ranks.statuses(30) == [138, 138]
        assert ranks.said(0).splitlines() == ["stopped; the same command resumes"]
        assert ranks.said(1) == ""
    assert [path.stem[:5] for path in (out / "train/checkpoints").glob("step_*")] == ["step_"]
    for _ in range(2):  # the second time nothing is left to do
        with started(tmp_path / "ranks", command, command) as ranks:
            assert ranks.statuses() == [0, 0], ranks.said(0) + ranks.said(1)
    assert summary(out)["samples_seen"] == 1600
    assert not (out / "state/ranks").exists()


def test_ranks_that_were_told_different_things(pool: Path, tmp_path: Path) -> None:
    with started(tmp_path / "ranks", words(pool, tmp_path / "out"), words(pool, tmp_path / "out", "--seed", "7")) as it:
        assert it.statuses(30) == [1, 1]
        said = "error: the ranks of a training differ in settings.seed: 0 on rank 0, 7 on rank 1. Start all of them by"
        assert it.said(0).startswith(said), it.said(0)
        assert it.said(0).count("\n") == 1
        assert it.said(1) == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--set", "global_batch=9"], "error: global batch 9 does not divide among 2 ranks x accumulation 1; numbers"),
        pytest.param(["--workers", "0"], "error: --workers must be at least 1; got 0\n", marks=pytest.mark.long),
    ],
)
def test_a_command_that_is_wrong_everywhere_is_said_once(
    pool: Path, tmp_path: Path, extra: list[str], said: str
) -> None:
    with started(tmp_path / "ranks", *[words(pool, tmp_path / "out", *extra)] * 2) as ranks:
        assert ranks.statuses(30) == [2, 2]
        assert ranks.said(0).startswith(said), ranks.said(0)
        assert ranks.said(0).count("\n") == 1
        assert ranks.said(1) == ""
    assert not (tmp_path / "out").exists()


def _blind() -> None:
    """Rank 1 is on another node, which lacks what BLIND names."""
    if os.environ["RANK"] == "1":
        socket.gethostname = lambda: "node7"
        exists = os.path.exists
        os.path.exists = lambda path: str(path) != os.environ["BLIND"] and exists(path)
        if os.environ["BLIND"] == "--out":
            team._is_seen = lambda its: False


@pytest.mark.parametrize("what", ["--pool", pytest.param("--out", marks=pytest.mark.long)])
def test_a_node_without_a_mount_is_named(pool: Path, tmp_path: Path, what: str) -> None:
    path = pool if what == "--pool" else tmp_path / "out"
    told = [{"BLIND": str(path) if what == "--pool" else what}] * 2
    with started(tmp_path / "ranks", *[words(pool, tmp_path / "out")] * 2, told=told, prepare=_blind) as ranks:
        assert ranks.statuses(30) == [1, 1]
        assert ranks.said(0) == (
            f"error: {what} {path} is not there on node7, and another rank sees it: mount it under this path on every "
            "node, then start the same command again\n"
        )
        assert ranks.said(1) == ""
    assert not (tmp_path / "out/state/settings.json").exists()


def _local_locks() -> None:
    """Rank 1 is on another node, whose locks nobody else sees."""
    if os.environ["RANK"] == "1":
        socket.gethostname = lambda: "node7"
        team.take_lock = lambda path: os.open(os.devnull, os.O_RDONLY)


def test_locks_that_hold_on_one_machine_alone_are_told(pool: Path, tmp_path: Path) -> None:
    command = words(pool, tmp_path / "out", "--no-train", "--to", "index")
    with started(tmp_path / "ranks", command, command, prepare=_local_locks) as ranks:
        assert ranks.statuses(60) == [0, 0], ranks.said(0)
        said = f"locks in --out do not hold between machines (node7 took one that {socket.gethostname()} holds): a"
        assert said in ranks.said(0)
        assert ranks.said(1) == ""
    assert not (tmp_path / "out/state/ranks").exists()


def test_a_second_start_leaves_the_first_alone(pool: Path, tmp_path: Path) -> None:
    folder, command = tmp_path / "out/state/ranks", words(pool, tmp_path / "out")
    folder.mkdir(parents=True)
    for name in (team.LEADER, "rank-00001"):
        (folder / name).write_text("of the first")
    with locked(folder / team.HELD, "busy"), started(tmp_path / "ranks", command, command) as ranks:
        assert ranks.statuses(30) == [1, 1]
        assert ranks.said(0).startswith(f"error: --out {tmp_path / 'out'}: another process is running there; wait")
        assert ranks.said(1) == ""
    assert {path.read_text() for path in folder.iterdir() if path.name != team.HELD} == {"of the first"}


def _slow_data() -> None:
    """The first stage of the data takes half a minute, within which the core holds no sign of life back."""
    team._POLL_SECONDS = 0.05

    def wait(*arguments: Any) -> Any:
        Path(os.environ["BEGUN"]).touch()
        time.sleep(float(os.environ["DATA_SECONDS"]))
        raise PoolError("the pool is gone")

    workflow.run_one = comparison.run_one = wait


@pytest.mark.parametrize(("stopped", "other"), [(0, 1), pytest.param(1, 0, marks=pytest.mark.long)])
def test_who_stops_during_the_data_is_noticed_and_not_before(
    pool: Path, tmp_path: Path, stopped: int, other: int
) -> None:
    command = words(pool, tmp_path / "out", "--rank-timeout", "1.5")
    told = [{"BEGUN": str(tmp_path / "begun"), "DATA_SECONDS": "30"}] * 2
    with started(tmp_path / "ranks", command, command, told=told, prepare=_slow_data) as ranks:
        deadline = time.monotonic() + 30
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(2.5)  # longer than the limit: both live
        assert [process.exitcode for process in ranks.processes] == [None, None]
        ranks.send(stopped, signal.SIGSTOP)
        began = time.monotonic()
        assert ranks.statuses(20, enough=1)[other] == 1
        assert 1.2 < time.monotonic() - began < 15
        [line] = ranks.said(other).splitlines()
        does = "which does the data of this run, " if stopped == 0 else ""
        assert line.startswith(
            f"error: rank {stopped} of {socket.gethostname()}, {does}has given no sign of life for 2"
        )


def test_what_goes_wrong_with_the_data_ends_all_ranks(pool: Path, tmp_path: Path) -> None:
    told = [{"BEGUN": str(tmp_path / "begun"), "DATA_SECONDS": "0"}] * 2
    with started(tmp_path / "ranks", *[words(pool, tmp_path / "out")] * 2, told=told, prepare=_slow_data) as ranks:
        assert ranks.statuses(30) == [1, 1]
        assert ranks.said(0) == "error: the pool is gone\n"
        assert ranks.said(1) == ""
    assert not (tmp_path / "out/state/ranks").exists()


def test_a_plan_is_made_by_one_rank(pool: Path, tmp_path: Path) -> None:
    with started(tmp_path / "ranks", *[words(pool, tmp_path / "out", "--dry-run")] * 2) as ranks:
        assert ranks.statuses(60) == [0, 0]
        assert ranks.said(0).startswith(f"plan for {tmp_path / 'out'} (nothing is done)")
        assert ranks.said(1) == ""


def test_a_run_as_a_function_is_one_process(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match="torchrun started 2 ranks of this program, and each of them calls dcfast"):
        run(tmp_path / "out", replace(settings_of(pool), train=False))
    assert not (tmp_path / "out").exists()


def test_a_directory_that_vanishes_ends_a_rank_that_waits(tmp_path: Path) -> None:
    """As a mount does; a moment without it ends nothing."""
    its = team._Team(team.Place(1, 2), tmp_path / "gone", "start", ["a", "b"], 0.6)
    began = time.monotonic()
    with pytest.raises(RunError, match=r"leader\.json cannot be read any more on b, since 1 s: is its disk still mo"):
        its.hear()
    assert time.monotonic() - began > 0.6
