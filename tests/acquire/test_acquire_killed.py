"""An acquisition that is killed at any moment goes on: the same bytes, and next to nothing asked for twice."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from acquisitions import made, outcomes, write_list
from dcfast.cli import main
from hostile_bytes import picture
from image_server import ImageServer, image_server
from killed_writes import kill_at

KILLS = int(os.environ.get("DCFAST_FAULTS", "3"))
ROWS, WORKERS, CONNECTIONS = 300 * KILLS, 2, 6
"""At a kill at most ``WORKERS * CONNECTIONS`` requests are under way: 4% of its share of the rows."""
PICTURES = 50
OF_TIME = ("duration", "start_time", "end_time")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageServer]:
    folder = tmp_path_factory.mktemp("images")
    for number in range(PICTURES):
        (folder / f"{number}.jpg").write_bytes(picture(seed=number, width=64, height=48))
    with image_server(folder, delay_s=0.03) as running:
        yield running


@pytest.fixture(scope="module")
def table(server: ImageServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list in which a row in fifty is missing at the server; the server counts by path, and rows share paths."""
    urls = [f"{server.url(server.paths[n % PICTURES] if n % 50 else '/missing.jpg')}?row={n}" for n in range(ROWS)]
    return write_list(tmp_path_factory.mktemp("lists") / "l.parquet", urls)


def words_of(table: Path, out: Path, *more: str) -> list[str]:
    words = ["acquire", "--urls", str(table), "--out", str(out), "--shard-size", "100", "--workers", str(WORKERS)]
    words += ["--connections", str(CONNECTIONS), "--host-connections", str(WORKERS * CONNECTIONS), "--host-rate", "0"]
    return [*words, "--allow-private", "127.0.0.1", "--no-robots", "--quiet", *more]


def command(table: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "dcfast", *words_of(table, out, *more)]


@pytest.fixture(scope="module")
def undisturbed(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "pool"
    assert main(words_of(table, out, "--workers", "1", "--connections", "64", "--host-connections", "64")) == 0
    return out


def told(out: Path) -> dict[str, Any]:
    """All that is counted, without the times."""
    stats = {path.name: json.loads(path.read_text()) for path in (out / "shards").glob("*_stats.json")}
    for one in stats.values():
        assert one["end_time"] - one["start_time"] == pytest.approx(one["duration"])
        for name in OF_TIME:
            del one[name]
    summary = json.loads((out / "acquired.json").read_text())
    summary["hosts"] = [{**host, "seconds": 0} for host in summary["hosts"]]
    return {**stats, "acquired.json": summary}


def requests(server: ImageServer) -> int:
    log = server.told()
    return sum(log.requests.values()) + log.missing


@pytest.mark.slow
def test_kill_9_at_random_moments(server: ImageServer, table: Path, undisturbed: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("DCFAST_TEST_SEED", "0")) or random.randrange(1 << 30)
    print(f"DCFAST_TEST_SEED={seed}")
    rng, out, killed = random.Random(seed), tmp_path / "pool", 0
    server.reset()
    for _ in range(KILLS):
        with subprocess.Popen(command(table, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            goal = requests(server) + rng.randrange(ROWS // (KILLS + 1))
            while requests(server) < goal and process.poll() is None:
                time.sleep(rng.uniform(0.001, 0.03))
            killed += process.poll() is None
            process.kill()
    done = subprocess.run(command(table, out), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    twice = requests(server) - ROWS
    print(f"{killed} of {KILLS} were killed at work; {twice} of {ROWS} rows asked for twice")
    assert killed
    assert made(out) == made(undisturbed)
    assert told(out) == told(undisturbed)
    assert 0 <= twice <= 0.05 * ROWS
    assert not list(out.rglob(".tmp-*"))
    assert not list((out / "state/acquire/spool").iterdir())


@pytest.mark.parametrize("moments", [(6, 9), pytest.param(range(1, 16), marks=pytest.mark.long)])
def test_killed_right_before_a_file_gets_its_name(moments: Sequence[int], server: ImageServer, tmp_path: Path) -> None:
    """Nothing that came is asked for again, since no request is under way then."""
    urls = [server.url(server.paths[n]) for n in range(12)]
    table = write_list(tmp_path / "l.parquet", urls)
    more = ("--workers", "1", "--shard-size", "6")
    assert main(words_of(table, tmp_path / "undisturbed", *more)) == 0
    for moment in moments:
        server.reset()
        out = tmp_path / f"{moment}"
        assert kill_at([moment], words_of(table, out, *more)) == 1
        assert main(words_of(table, out, *more)) == 0
        assert made(out) == made(tmp_path / "undisturbed")
        assert told(out) == told(tmp_path / "undisturbed")
        assert requests(server) == len(urls), moment


def test_a_retry_that_is_killed_goes_on(
    server: ImageServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = [server.url(server.paths[0]), *(server.url(f"/{n}.png") for n in range(8))]
    table = write_list(tmp_path / "l.parquet", urls)
    out, more = tmp_path / "pool", ("--workers", "1", "--shard-size", "6")
    assert main(words_of(table, out, *more)) == 0
    before = made(out)
    server.reset()
    assert kill_at((3, 8), words_of(table, out, *more, "--retry", "gone")) == 2
    capsys.readouterr()
    assert main(words_of(table, out, *more)) == 0
    assert requests(server) == 8
    assert "1 images of 9 rows (11.1%) in 4 shards" in capsys.readouterr().out
    after = made(out)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 4
    assert len(json.loads((out / "state/acquire/retries.json").read_text())) == 1


POISON = """
import hashlib, os, signal
import dcfast.images.resize as module
own = module.resize_image
def resize_image(data, *given):
    if hashlib.sha256(bytes(data)).hexdigest() == os.environ["POISON"]:
        os.kill(os.getpid(), signal.SIGSEGV)
    return own(data, *given)
module.resize_image = resize_image
"""


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_an_image_that_kills_its_decoder_does_so_once(workers: int, server: ImageServer, tmp_path: Path) -> None:
    """The next start makes what was at work in a process of its own, and that image counts as one that is none."""
    urls = [server.url(f"/{n}.jpg") for n in range(20)]
    table = write_list(tmp_path / "l.parquet", urls)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(POISON)
    poison = hashlib.sha256(picture(seed=7, width=64, height=48)).hexdigest()
    paths = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "POISON": poison}
    words = command(table, tmp_path / "pool", "--workers", str(workers), "--shard-size", "10")
    first = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == (-signal.SIGSEGV if workers == 1 else 1)
    assert ("a worker process died" in first.stderr) == (workers == 2)
    second = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    found = {row["url"]: (row["cause"], row["error_message"]) for row in outcomes(tmp_path / "pool")}
    bad = found.pop(urls[7])
    assert bad == ("undecodable", "its decoder crashed by signal 11")
    assert set(found.values()) == {("", None)}
    assert len(found) == 19
