"""What an acquisition takes of memory, whatever servers send and however many rows there are."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from acquisitions import causes, write_list
from dcfast.acquire.memory import connections_at_once
from drawn_pictures import drawing, encode
from hostile_bytes import picture
from hostile_web import hostile_web
from image_server import image_server

psutil = pytest.importorskip("psutil", reason="the memory of processes is read by psutil")
MOST = 250_000_000
"""Bytes of a process, what it shares with others divided by them."""


class Taken(NamedTuple):
    """Bytes of a process: all of it, shared pages divided by those who share them; and those that no file is of."""

    pss: int
    anonymous: int

    @staticmethod
    def of(pid: int) -> Taken:
        lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
        found = {name: 1024 * int(kilobytes) for name, kilobytes, _ in lines}
        return Taken(found["Pss:"], found["Anonymous:"])


def most_taken(words: list[str], open_files: int = 1024) -> list[Taken]:
    """The most that an acquisition and each of its workers had, looked at every 20 ms."""
    most: dict[int, Taken] = {}
    command = ["bash", "-c", f'ulimit -n {open_files}; exec "$@"', "bash", sys.executable, "-m", "dcfast", "acquire"]
    command += ["--contact", "me@example.org", "--no-robots", "--quiet", *words]
    with subprocess.Popen(
        [*command, "--host-rate", "0", "--allow-private", "127.0.0.1"], stdout=subprocess.DEVNULL
    ) as run:
        while run.poll() is None:
            try:
                parent = psutil.Process(run.pid)
                for one in (parent, *parent.children(recursive=True)):
                    now, before = Taken.of(one.pid), most.get(one.pid, Taken(0, 0))
                    most[one.pid] = Taken(max(now.pss, before.pss), max(now.anonymous, before.anonymous))
            except (psutil.Error, OSError):  # it has ended meanwhile
                continue
            time.sleep(0.02)
    print(*(f"{one.pss / 1e6:.0f} MB, {one.anonymous / 1e6:.0f} anonymous;" for one in most.values()))
    return list(most.values())


@pytest.mark.parametrize("count", [12, pytest.param(100, marks=pytest.mark.long)])
def test_bodies_without_end(count: int, tmp_path: Path) -> None:
    names = ("endless", "gzip_bomb", "deflate_bomb", "body_1gb_no_length", "body_1gb", "gzip_15mb")
    with hostile_web() as web:
        urls = [web.url(name, f"n={n}", host=f"h{n}.hostile.test") for n in range(count) for name in names]
        table = write_list(tmp_path / "l.parquet", urls)
        words = ["--urls", str(table), "--out", str(tmp_path / "pool"), "--nameservers", web.dns.address]
        [most] = most_taken([*words, "--workers", "1"])
    assert causes(tmp_path / "pool") == {"too_large": len(urls) - count, "undecodable": count}
    assert most.pss <= MOST


@pytest.mark.soak
def test_ten_times_the_rows_take_no_more(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(40):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(encode(drawing(number, 800, 600), "JPEG"))
    found = {}
    with image_server(tmp_path / "images", delay_s=0.01) as server:
        for rows in (2_000, 20_000):
            urls = [f"{server.url(server.paths[n % 40])}?{n}" for n in range(rows)]
            table = write_list(tmp_path / f"{rows}.parquet", urls)
            words = ["--urls", str(table), "--out", str(tmp_path / f"{rows}"), "--shard-size", str(rows // 2)]
            all_taken = most_taken([*words, "--workers", "2", "--host-connections", "256"])
            found[rows] = Taken(*map(max, zip(*all_taken, strict=True)))
    assert max(one.pss for one in found.values()) <= MOST
    assert found[20_000].anonymous - found[2_000].anonymous <= 15_000_000, "some kilobytes a row of a shard"


@pytest.mark.parametrize(("port", "scheme"), [("web", "http"), pytest.param("tls", "https", marks=pytest.mark.long)])
def test_connections_to_many_hosts_are_not_kept(port: str, scheme: str, tmp_path: Path) -> None:
    """Six hundred hosts of a row each, and 240 files that may be open."""
    hosts = 600
    with hostile_web({"/a.jpg": picture()}) as web:
        urls = [web.at("/a.jpg", f"h{n}.hostile.test", port, scheme) for n in range(hosts)]
        words = ["--urls", str(write_list(tmp_path / "l.parquet", urls)), "--out", str(tmp_path / "pool")]
        words += ["--nameservers", web.dns.address, "--no-verify-tls", "--workers", "1"]
        [most] = most_taken(words, open_files=240)
        assert web.connections == hosts
    assert causes(tmp_path / "pool") == {"": hosts}
    assert most.pss <= MOST


def test_requests_at_once_are_as_many_as_files_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1024, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, given: now.__setitem__(slice(None), given))
    assert connections_at_once(128) == 128
    assert now == [1024, 4096]
    assert connections_at_once(1000) == 1000
    assert now == [2064, 4096]
    assert connections_at_once(4096) == 2016
    assert now == [4096, 4096]
    now[:] = [resource.RLIM_INFINITY] * 2
    assert connections_at_once(4096) == 4096
    now[:] = [60, 60]
    assert connections_at_once(128) == 1
