"""Nothing that Ray starts listens where others can reach it, and nobody joins a cluster without a token."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dcfast.engine import ray as engine
from dcfast.engine.ray import RayEngine
from dcfast.errors import MissingDependencyError, RunError

pytest.importorskip("ray", reason="the engine ray needs dcfast[ray]")
psutil = pytest.importorskip("psutil", reason="the table of sockets is read by psutil")

LOCAL = r"""
import os, subprocess, sys
import psutil, ray
from dcfast.engine.ray import RayEngine
from piece_functions import square

with RayEngine(1) as engine:
    list(engine.map(sys.argv[1], [square.piece("demo/a", "0")(value=3, output="n")]))
    me = psutil.Process()
    sockets = [c for p in [me, *me.children(recursive=True)] for c in p.net_connections("inet")]
    found = [c.laddr for c in sockets if c.status == "LISTEN"]
    assert len(found) >= 4, found
    print("listening", sorted({address.ip.removeprefix("::ffff:") for address in found}))
    join = f"import ray; ray.init(address={ray.get_runtime_context().gcs_address!r}, logging_level=40)"
    stranger = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")} | {"RAY_AUTH_MODE": "token"}
    stranger |= {"RAY_AUTH_TOKEN": "0" * 64, "RAY_NUM_REDIS_GET_RETRIES": "1"}
    done = subprocess.run([sys.executable, "-c", join], env=stranger, capture_output=True, timeout=100)
    print("stranger", "refused for its token" if b"RAY_AUTH_TOKEN" in done.stderr else done.stderr)
print("left", sorted(name for name in os.environ if name.startswith("RAY_AUTH")))
"""


@pytest.mark.xdist_group("ray")
def test_a_cluster_of_this_machine_is_private(tmp_path: Path, repo_root: Path) -> None:
    (tmp_path / "state").mkdir()
    path = os.pathsep.join([str(repo_root / "tests/helpers"), *sys.path])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", LOCAL, str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert said == ["listening ['127.0.0.1']", "stranger refused for its token", "left []"], (
        done.stdout + done.stderr[-2000:]
    )


@pytest.mark.parametrize("mode", [None, "", "disabled"])
@pytest.mark.parametrize("by", ["argument", "variable"])
def test_no_cluster_is_joined_without_a_token(mode: str | None, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("joined"))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    if by == "variable":
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(RunError, match=r"Ray at 10\.0\.0\.1:6379 is to be joined without a token.*RAY_AUTH_MODE=token"):
        RayEngine(1, "10.0.0.1:6379" if by == "argument" else None)


def test_the_floor_is_that_of_the_project(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    assert '"ray>={}.{},'.format(*engine.FLOOR) in (repo_root / "pyproject.toml").read_text()
    monkeypatch.setattr(ray, "__version__", "2.51.9")
    with pytest.raises(MissingDependencyError, match=r"needs Ray 2\.52 or newer.*got 2\.51\.9"):
        RayEngine(1)


def test_no_cluster_is_found_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address Ray joins the cluster that a file in /tmp names, which any user may have written."""
    import ray

    def init(**options: object) -> None:
        raise KeyError(options["address"])

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = dict(os.environ)
    with pytest.raises(KeyError, match="local"):
        RayEngine(1)
    assert dict(os.environ) == before
    assert ray._private.ray_constants.ENABLE_RAY_CLUSTER
