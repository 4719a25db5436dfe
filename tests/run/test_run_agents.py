"""The whole workflow by two agents of torchrun on one machine, as two nodes; ranks and agents that die."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from rank_processes import log_lines, wait_for_step
from train_builder import MODEL

pytestmark = pytest.mark.xdist_group("agents")

RECIPE = {"model": MODEL, "precision": "fp32", "global_batch": 8, "warmup_steps": 2, "checkpoints": 2}
WORLD = ("rows=64", "rows_per_shard=32", "eval_scale=0.01", "teacher_pairs=10")


def words(out: Path, samples: int) -> list[str]:
    return [
        *("--out", str(out), "--world", *WORLD, "--features", "none", "--filter", "words >= 1", "--compare", "none"),
        *("--device", "cpu", "--samples-seen", str(samples), "--workers", "1", "--sets", "world-shapes"),
        *("--rank-timeout", "4", "--quiet", "--to", "report"),
        *(word for name, value in RECIPE.items() for word in ("--set", f"{name}={json.dumps(value)}")),
    ]


class Agents:
    """Two nodes at work on a run."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        node = [sys.executable, "-m", "dcfast", "launch", "torchrun", "--nodes", "2", "--processes", "1"]
        folder.mkdir(exist_ok=True)
        self.logs = [folder / f"node-{number}" for number in range(2)]
        self.processes = []
        for log in self.logs:
            with open(log, "wb") as out:
                line = [*node, "--endpoint", f"127.0.0.1:{port}", "--", *command]
                self.processes.append(subprocess.Popen(line, env=environment, stdout=out, stderr=out))

    def rank(self, node: int) -> int:
        """The process of a node's rank."""
        agent = self.processes[node].pid
        [child] = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        return int(child)

    def number(self, node: int) -> int:
        """Which rank a node has."""
        variables = Path(f"/proc/{self.rank(node)}/environ").read_bytes().split(b"\0")
        return next(int(value[5:]) for value in variables if value.startswith(b"RANK="))

    def statuses(self, seconds: float) -> list[int | None]:
        deadline = time.monotonic() + seconds
        while any(p.poll() is None for p in self.processes) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [process.poll() for process in self.processes]

    def said(self) -> str:
        return "".join(log.read_text(errors="replace") for log in self.logs)

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                with suppress(OSError, ValueError):
                    os.kill(self.rank(self.processes.index(process)), signal.SIGKILL)
                process.kill()
            process.wait()


@contextmanager
def nodes(folder: Path, command: list[str]) -> Iterator[Agents]:
    agents = Agents(folder, command)
    try:
        yield agents
    finally:
        agents.stop()


def summary(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "train/summary.json").read_bytes()))


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def check_ends(out: Path, folder: Path, command: list[str], samples: int) -> None:
    """The same command goes on, to the report."""
    with nodes(folder, command) as agents:
        assert agents.statuses(300) == [0, 0], agents.said()
        said = agents.said()
    assert said.count(f"report: {out / 'report.html'}") == 1
    assert "Traceback" not in said
    assert (summary(out)["world_size"], summary(out)["samples_seen"]) == (2, samples)
    steps = [line["step"] for line in log_lines(out)]
    assert steps == sorted(set(steps))
    assert not (out / "state/ranks").exists()


@pytest.mark.long
def test_two_nodes_go_from_nothing_to_the_report_though_a_rank_is_killed(tmp_path: Path) -> None:
    out, samples = tmp_path / "out", 800
    command = words(out, samples)
    with nodes(tmp_path / "first", command) as agents:
        wait_for_step(out, 5)
        killed = agents.number(1)
        os.kill(agents.rank(1), signal.SIGKILL)
        began = time.monotonic()
        statuses = agents.statuses(30)
        assert 0 not in statuses, agents.said()
        assert None not in statuses, agents.said()
        assert time.monotonic() - began < 20
        said = agents.said()
    assert f"error: rank {killed} was killed by SIGKILL: by hand, or the machine ran out of memory. All ranks" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 4, said
    check_ends(out, tmp_path / "second", command, samples)


def _kill_agent(agents: Agents, node: int) -> None:
    agents.processes[node].kill()


def _stop_rank(agents: Agents, node: int) -> None:
    os.kill(agents.rank(node), signal.SIGSTOP)


def _signal(number: int) -> Any:
    return lambda agents, node: agents.processes[node].send_signal(number)


@pytest.mark.soak
@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_kill_agent, "stopped; the same command resumes"),
        (_stop_rank, "has given no sign of life for 4 s"),
        (_signal(signal.SIGUSR1), "stopped; the same command resumes"),
        (_signal(signal.SIGTERM), "stopped; the same command resumes"),
    ],
)
def test_whatever_happens_to_one_node_ends_both_and_the_same_command_goes_on(
    tmp_path: Path, node: int, fault: Any, message: str
) -> None:
    out, samples = tmp_path / "out", 4_000
    command = words(out, samples)
    with nodes(tmp_path / "first", command) as agents:
        wait_for_step(out, 20)
        ranks = [agents.rank(0), agents.rank(1)]
        fault(agents, node)
        stopped = {node} if fault is _stop_rank else set()  # who is stopped cannot end, nor who waits for it
        found = agents.statuses(20 if stopped else 60)
        statuses = [status for number, status in enumerate(found) if number not in stopped]
        ended = [rank for number, rank in enumerate(ranks) if number not in stopped]
        deadline = time.monotonic() + 30
        while not all(map(is_gone, ended)) and time.monotonic() < deadline:
            time.sleep(0.1)
        said = agents.said()
        assert None not in statuses, said
        assert 0 not in statuses, said
        assert all(map(is_gone, ended)), said
    assert message in said, said
    assert "Traceback" not in said, said
    assert len(said.splitlines()) <= 5, said
    check_ends(out, tmp_path / "second", command, samples)


@pytest.mark.soak
@pytest.mark.parametrize("node", [0, 1])
def test_a_rank_that_dies_while_the_other_does_the_data(tmp_path: Path, node: int) -> None:
    """Within the rendering of a larger world."""
    out, samples = tmp_path / "out", 800
    command = [word.replace("rows=64", "rows=4096").replace("shard=32", "shard=64") for word in words(out, samples)]
    with nodes(tmp_path / "first", command) as agents:
        deadline = time.monotonic() + 60
        while len(list((out / "state/ranks").glob("rank-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        killed = agents.number(node)
        os.kill(agents.rank(node), signal.SIGKILL)
        assert 0 not in agents.statuses(40), agents.said()
        said = agents.said()
    assert f"error: rank {killed} was killed by SIGKILL" in said
    # by the other rank, or by its agent, where that met the others at the node that is gone
    told = f"error: rank {killed} of {socket.gethostname()}, ", "stopped; the same command resumes"
    assert any(words in said for words in told), said
    assert "Traceback" not in said, said
    check_ends(out, tmp_path / "second", command, samples)
