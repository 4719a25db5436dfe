"""Bodies that come compressed though nobody asked: their rules are read, and what stands behind them is not held."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import pytest
from dcfast.acquire import WebOptions, robots
from dcfast.acquire.causes import FetchError
from dcfast.acquire.turns import Turns
from dcfast.acquire.web import open_web
from hostile_bytes import picture

PICTURE = picture()
TAIL = 48
GZIP = b"Content-Type: image/jpeg\r\nContent-Encoding: gzip\r\n"

Serve = Callable[[bytes], Iterable[bytes]]


def fetched(serve: Serve, **options: object) -> bytes | str:
    """What an attempt brings, or its cause; ``serve`` gives the answer to a path, in parts."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        with suppress(OSError):
            for part in serve(head.split()[1]):
                writer.write(part)
                await writer.drain()
            writer.close()

    async def once() -> bytes | str:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        how = WebOptions(allow_private=["127.0.0.1"], **options)  # type: ignore[arg-type]
        async with server, open_web(how) as web:
            try:
                async with web.fetch(f"http://127.0.0.1:{port}/a.jpg", Turns(8, 0, 0)) as got:
                    return got.data
            except FetchError as error:
                return error.cause

    robots._STORES.clear()
    return asyncio.run(once())


@pytest.mark.parametrize("rules", [b"User-agent: *\nDisallow: /\n", b"\xef\xbb\xbfUser-agent: *\nDisallow: /\n"])
@pytest.mark.parametrize("packed", [True, False])
def test_rules_count_however_they_come(rules: bytes, packed: bool) -> None:
    def serve(path: bytes) -> Iterator[bytes]:
        body = PICTURE if path != b"/robots.txt" else gzip.compress(rules) if packed else rules
        coding = b"Content-Encoding: gzip\r\n" if packed and path == b"/robots.txt" else b""
        yield b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + coding + b"\r\n" + body

    assert fetched(serve) == "robots"
    assert fetched(serve, robots=False) == PICTURE


def test_rules_of_a_bomb_are_read_to_their_bound() -> None:
    def serve(path: bytes) -> Iterator[bytes]:
        body = gzip.compress(b"User-agent: *\nDisallow: /\n" + bytes(64 << 20)) if path == b"/robots.txt" else PICTURE
        yield b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + GZIP + b"\r\n" + body

    assert fetched(serve) == "robots"


def test_what_follows_a_compressed_body_is_not_held() -> None:
    def serve(path: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + GZIP + b"\r\n" + gzip.compress(PICTURE)
        block = bytes(1 << 20)
        yield from [block] * TAIL

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert fetched(serve, robots=False) == PICTURE
        assert tracemalloc.get_traced_memory()[1] - before < TAIL / 4 * (1 << 20)
    finally:
        tracemalloc.stop()
