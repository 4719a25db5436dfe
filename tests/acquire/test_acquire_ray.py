"""An acquisition on a Ray cluster: the same bytes as on one machine, also where a node is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from acquisitions import acquire, causes, made, web_of, write_list
from hostile_bytes import picture
from hostile_web import HostileWeb, hostile_web

pytest.importorskip("ray", reason="the engine ray needs dcfast[ray]")
COUNT, SIZE = 40, 5


@pytest.fixture(scope="module")
def web() -> Iterator[HostileWeb]:
    with hostile_web({f"/{n}.jpg": picture(seed=n) for n in range(COUNT)}) as running:
        yield running


@pytest.fixture
def table(web: HostileWeb, tmp_path: Path) -> Path:
    urls = [web.at(f"/{n}.jpg") if n % 7 else web.url("status_404", f"n={n}") for n in range(COUNT)]
    return write_list(tmp_path / "l.parquet", urls)


@pytest.mark.xdist_group("ray")
def test_ray_gives_the_same_bytes(web: HostileWeb, table: Path, tmp_path: Path, ray_nodes: None) -> None:
    one = acquire(tmp_path / "local", table, web_of(web), shard_size=SIZE)
    two = acquire(tmp_path / "ray", table, web_of(web), shard_size=SIZE, engine="ray", workers=2)
    assert made(tmp_path / "ray") == made(tmp_path / "local")
    assert (two.rows, two.successes, two.causes, two.attempts) == (one.rows, one.successes, one.causes, one.attempts)
    assert len(made(tmp_path / "ray")) == 2 * COUNT // SIZE


LOST = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from dcfast.cli import main

out = Path(sys.argv[sys.argv.index("--out") + 1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False, logging_level=40)
cluster.wait_for_nodes()

def lose():
    while len(list(out.glob("shards/*.tar"))) < 2:
        time.sleep(0.01)
    cluster.remove_node(node, allow_graceful=False)
    print("lost with", len(list(out.glob("shards/*.tar"))), "of 8 shards", file=sys.stderr)

thread = threading.Thread(target=lose)
thread.start()
status = main(sys.argv[1:])
thread.join()
ray.shutdown()
cluster.shutdown()
sys.exit(status)
"""


@pytest.mark.soak
@pytest.mark.xdist_group("ray")
def test_a_node_that_is_lost_loses_nothing(web: HostileWeb, table: Path, tmp_path: Path, repo_root: Path) -> None:
    """One of two nodes is killed while both are at work; what it had is fetched by the other, from where it was."""
    acquire(tmp_path / "undisturbed", table, web_of(web), shard_size=SIZE)
    web.files_after_s = 0.3
    begun = len(web.requests)
    words = ["acquire", "--urls", str(table), "--out", str(tmp_path / "pool"), "--shard-size", str(SIZE), "--quiet"]
    words += [
        "--nameservers",
        web.dns.address,
        "--allow-private",
        "127.0.0.1",
        "--no-robots",
        "--host-connections",
        "2",
    ]
    path = os.pathsep.join([str(repo_root / "tests/helpers"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", LOST, *words, "--engine", "ray", "--workers", "2"],
        env={k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": path},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    web.files_after_s = 0.0
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lost with" in done.stderr
    assert made(tmp_path / "pool") == made(tmp_path / "undisturbed")
    assert sum(causes(tmp_path / "pool").values()) == COUNT
    assert len(web.requests) - begun <= COUNT + 2 * SIZE
