"""What a server may send: at most a byte more than was asked for is read, and not slower than a floor."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from dcfast.errors import PoolError
from dcfast.storage import http
from dcfast.storage.http import RemoteOptions
from dcfast.storage.ranges import RemoteShard
from dcfast.storage.remote import list_shards

pytest.importorskip("aiohttp", reason="shards behind URLs need dcfast[remote]")

SIZE = 1 << 20
GIGABYTES = 3 << 30
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nAccept-Ranges: bytes\r\n\r\n" % SIZE
RANGE = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-65535/%d\r\n" % SIZE


class Sent:
    """Bytes of bodies that a server could send before its client had enough."""

    count = 0


Body = Callable[[socket.socket, Sent], None]


def flood(head: bytes, piece: bytes) -> Body:
    """Sends a head, and then pieces without end."""

    def send(client: socket.socket, sent: Sent) -> None:
        client.sendall(head)
        while sent.count < GIGABYTES:
            client.sendall(piece)
            sent.count += len(piece)

    return send


def drip(head: bytes) -> Body:
    def send(client: socket.socket, sent: Sent) -> None:
        client.sendall(head)
        while True:
            client.sendall(b"x")
            sent.count += 1
            time.sleep(0.05)

    return send


@contextmanager
def serve(body: Body) -> Iterator[tuple[str, Sent]]:
    """A server that answers HEAD with a size, and every GET with ``body``."""
    server, sent = socket.create_server(("127.0.0.1", 0)), Sent()

    def answer(client: socket.socket) -> None:
        with client:
            try:
                while request := client.recv(1 << 16):
                    if request.startswith(b"HEAD"):
                        client.sendall(HEAD)
                    else:
                        body(client, sent)
                        return
            except OSError:
                return  # the client had enough

    def accept() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/a.tar", sent
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


CHUNK = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
BODIES = {
    "the right range, with gigabytes behind it": flood(
        RANGE + b"Content-Length: %d\r\n\r\n" % GIGABYTES, bytes(1 << 16)
    ),
    "a range without a length": flood(RANGE + b"Connection: close\r\n\r\n", bytes(1 << 16)),
    "endless chunks": flood(RANGE + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK),
    "a whole object of endless chunks": flood(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNK),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_byte_more_than_asked_for_is_read(name: str) -> None:
    with serve(BODIES[name]) as (url, sent):
        shard = RemoteShard(url, RemoteOptions(retries=0, backoff_s=0.001, timeout_s=10))
        shard.open()
        began = time.monotonic()
        with pytest.raises((OSError, PoolError), match=r"asked for|range requests") as caught:
            shard.read(0, 1 << 16)
        assert url in str(caught.value)
        assert time.monotonic() - began < 9
        assert sent.count < 32 << 20  # what the system's buffers take


def test_a_drip_ends_at_the_floor() -> None:
    with serve(drip(RANGE + b"Content-Length: 65536\r\n\r\n")) as (url, _):
        shard = RemoteShard(url, RemoteOptions(retries=0, backoff_s=0.001, timeout_s=0.5))
        shard.open()
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="an answer of at least 1,024 bytes a second") as caught:
            shard.read(0, 1 << 16)
        assert 0.4 < time.monotonic() - began < 4  # long before the deadline of ten times timeout_s
        assert url in str(caught.value)


def test_headers_that_drip_end_at_the_deadline() -> None:
    with serve(drip(b"HTTP/1.1 206 Partial Content\r\nX: ")) as (url, _):
        shard = RemoteShard(url, RemoteOptions(retries=0, backoff_s=0.001, timeout_s=0.2))
        shard.open()
        with pytest.raises(TimeoutError, match="waited for the end of the answer"):
            shard.read(0, 1 << 16)


def test_headers_without_end() -> None:
    with serve(flood(b"HTTP/1.1 206 Partial Content\r\n", b"X: y\r\n" * 10_000)) as (url, sent):
        shard = RemoteShard(url, RemoteOptions(retries=0, backoff_s=0.001, timeout_s=10))
        shard.open()
        with pytest.raises(OSError, match="Too many headers"):
            shard.read(0, 1 << 16)
        assert sent.count < 32 << 20


@pytest.mark.parametrize("head", [b"Transfer-Encoding: chunked", b"Content-Length: %d" % GIGABYTES])
def test_a_listing_without_end(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_LISTING_BYTES", 1 << 20)
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n" + head + b"\r\n\r\n"
    with serve(flood(page, CHUNK if b"chunked" in head else bytes(1 << 16))) as (url, sent):
        with pytest.raises(OSError, match="more than the 1,048,576 bytes asked for"):
            list_shards(url.removesuffix("a.tar"), RemoteOptions(retries=0, backoff_s=0.001))
        assert sent.count < 32 << 20


PAGES = {
    "blanks": b"<a" + b" " * 100_000,
    "tags that do not end": b"<a " * 100_000,
    "attributes": b"<a" + b" x" * 100_000,
}


@pytest.mark.parametrize("name", PAGES)
def test_links_are_searched_soon(name: str) -> None:
    """A search that takes hours would let no signal through."""
    page = b'<A class="x"  HREF="0.tar">0</a><a\n   href=\'1.tar\'>' + PAGES[name] + b'><a href="2.tar">'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(page)
    with serve(lambda client, _: client.sendall(head + page)) as (url, _):
        began = time.monotonic()
        found = list_shards(url.removesuffix("a.tar"), RemoteOptions(retries=0, backoff_s=0.001))
        assert sorted(found.states) == ["0.tar", "1.tar", "2.tar"]
        assert time.monotonic() - began < 5
