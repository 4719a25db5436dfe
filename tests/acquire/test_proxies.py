"""Proxies of the environment: all goes through them that does not stand in NO_PROXY."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from acquisitions import acquire, causes, web_of, write_list
from hostile_bytes import picture
from hostile_web import HostileWeb, hostile_web
from loop_thread import LoopThread


@dataclass
class Proxy:
    """What was asked of it: (method, target), and the Proxy-Authorization headers."""

    port: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    authorizations: set[str] = field(default_factory=set)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, target, _ = head.partition("\r\n")[0].split(" ")
            self.asked.append((method, target))
            self.authorizations |= {
                line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith("proxy-authorization")
            }
            if method == "CONNECT":
                port, first = int(target.rpartition(":")[2]), b""
                writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            else:
                parts = urlsplit(target)
                port = parts.port or 80
                first = head.replace(target, parts.path, 1).replace("\r\n", "\r\nConnection: close\r\n", 1).encode()
            there, out = await asyncio.open_connection("127.0.0.1", port)  # whatever the name: it resolves itself
            out.write(first)
            await asyncio.gather(self.copy(there, writer), self.copy(reader, out))
        except (OSError, EOFError, ValueError):
            writer.transport.abort()

    @staticmethod
    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
        target.close()


@contextmanager
def proxy_server() -> Iterator[Proxy]:
    proxy, thread = Proxy(), LoopThread("proxy")
    try:
        server = thread.call(asyncio.start_server(proxy.talk, "127.0.0.1", 0))
        proxy.port = server.sockets[0].getsockname()[1]
        thread.closes.append(server.close)
        yield proxy
    finally:
        thread.end()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileWeb]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with hostile_web({f"/{n}.jpg": picture(seed=n) for n in range(4)}) as running:
        yield running


def test_requests_go_through_the_proxy_but_for_hosts_that_are_named(
    web: HostileWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = ["by-proxy.hostile.test", "by-proxy.hostile.test", "direct.hostile.test"]
    urls = [web.at(f"/{n}.jpg", host) for n, host in enumerate(hosts)]
    with proxy_server() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "direct.hostile.test")
        monkeypatch.setenv("no_proxy", "direct.hostile.test")
        acquire(tmp_path / "pool", write_list(tmp_path / "l.parquet", urls), web_of(web))
        assert causes(tmp_path / "pool") == {"": 3}
        asked = [target for _, target in proxy.asked]
        assert sorted(asked) == sorted([*urls[:2], web.at("/robots.txt", hosts[0])])
        assert proxy.authorizations == {"Basic bWU6c2VjcmV0"}
    assert web.dns.queries(hosts[0]) == 0, "the proxy resolves"
    assert web.dns.queries(hosts[2]) == 2
    for path in (tmp_path / "pool").rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes()


def test_https_goes_through_a_tunnel(web: HostileWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.files["/tls.jpg"] = picture()
    urls = [web.at("/tls.jpg", scheme="https", port="tls")]
    with proxy_server() as proxy:
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{proxy.port}")  # without a scheme, as curl takes it
        acquire(tmp_path / "pool", write_list(tmp_path / "l.parquet", urls), web_of(web, verify_tls=False))
        assert causes(tmp_path / "pool") == {"": 1}
        assert {method for method, _ in proxy.asked} == {"CONNECT"}


def test_a_proxy_that_is_dead_is_a_cause_of_its_own_host(
    web: HostileWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{web.ports['closed']}")
    acquire(tmp_path / "pool", write_list(tmp_path / "l.parquet", [web.at("/0.jpg")]), web_of(web))
    assert causes(tmp_path / "pool") == {"connection": 1}


def test_addresses_in_urls_are_refused_though_a_proxy_would_ask(
    web: HostileWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy_server() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        odd = [f"http://{host}/a.jpg" for host in ("10.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.0x1")]
        table = write_list(tmp_path / "l.parquet", ["http://10.0.0.1/a.jpg", "http://[fd00::1]/a.jpg", *odd])
        acquire(tmp_path / "pool", table, web_of(web))
        assert causes(tmp_path / "pool") == {"private_address": 2, "invalid_url": 5}
        assert proxy.asked == []


def test_a_proxy_is_not_asked_for_images_of_its_own(
    web: HostileWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name may stand for a private address, for requests through it alone."""
    table = write_list(tmp_path / "l.parquet", [web.at("/0.jpg", host="proxy.hostile.test")])
    monkeypatch.setenv("https_proxy", f"http://proxy.hostile.test:{web.ports['web']}")
    acquire(tmp_path / "pool", table, web_of(web, allow_private=[]))
    assert causes(tmp_path / "pool") == {"private_address": 1}
    assert web.requests == []


def test_a_kind_of_proxy_that_cannot_be_asked_is_refused_before_work(
    web: HostileWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9050")
    table = write_list(tmp_path / "l.parquet", [web.at("/0.jpg")])
    with pytest.raises(ValueError, match="all_proxy is socks5://; expected a proxy of http"):
        acquire(tmp_path / "pool", table, web_of(web))
    assert not (tmp_path / "pool").exists()
