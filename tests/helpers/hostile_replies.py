"""Makers of what the hostile web answers."""

from __future__ import annotations

from collections.abc import Callable

import hostile_bytes as bytes_of
from hostile_exchange import JPEG, Exchange, Headers, Reply

OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"
HTML = b"<!doctype html><html><body>This picture is no longer available</body></html>"


def says(status: int, body: bytes = b"", headers: Headers = JPEG, times: int | None = None) -> Reply:
    """Says the same each time, or the first ``times``, and then a good picture."""

    async def reply(exchange: Exchange) -> None:
        if times is not None and exchange.visit >= times:
            return await exchange.answer(200, bytes_of.picture())
        return await exchange.answer(status, body, headers)

    return reply


def moves(location: str | Callable[[Exchange], str], status: int = 302) -> Reply:
    async def reply(exchange: Exchange) -> None:
        await exchange.redirect(location if isinstance(location, str) else location(exchange), status)

    return reply


def shows(kind: str = "JPEG", *headers: tuple[str, str]) -> Reply:
    """A good picture."""

    async def reply(exchange: Exchange) -> None:
        told = [*headers] or [("Content-Type", f"image/{kind.lower()}")]
        await exchange.answer(200, bytes_of.picture(kind), told)

    return reply


def raw(*parts: bytes) -> Reply:
    """These bytes, as they are, and the end of the connection."""

    async def reply(exchange: Exchange) -> None:
        exchange.close()
        for part in parts:
            await exchange.write(part)

    return reply


def hops(most: int) -> Reply:
    """Moves so many times from ``?hop=1`` on, each time to another URL, and then shows a picture."""

    async def reply(exchange: Exchange) -> None:
        hop = int(exchange.request.query.get("hop", "0"))
        if hop >= most:
            return await exchange.answer(200, bytes_of.picture())
        return await exchange.redirect(f"{exchange.request.path}?hop={hop + 1}", (301, 302, 303, 307, 308)[hop % 5])

    return reply


def packed(encoding: str, body: Callable[[], bytes]) -> Reply:
    """A body with a Content-Encoding."""

    async def reply(exchange: Exchange) -> None:
        await exchange.answer(200, body(), (*JPEG, ("Content-Encoding", encoding)))

    return reply


def endless(kind: str, begin: bytes, total: int | None = None, length: bool = False) -> Reply:
    """A body of some first bytes and then zeros, for ever or up to ``total`` bytes, which Content-Length may say."""

    async def reply(exchange: Exchange) -> None:
        exchange.close()
        told = f"Content-Length: {total}\r\n" if length else ""
        await exchange.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{told}\r\n".encode() + begin)
        await exchange.stream(bytes(1 << 16), None if total is None else total - len(begin))

    return reply


def tagged(*tags: str) -> Reply:
    """A good picture, with X-Robots-Tag headers."""
    return shows("JPEG", *JPEG, *(("X-Robots-Tag", tag) for tag in tags))


def text(body: str, status: int = 200, kind: str = "text/plain") -> Reply:
    return says(status, body.encode(), [("Content-Type", kind)])
