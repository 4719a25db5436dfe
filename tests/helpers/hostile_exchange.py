"""A request to the hostile web, and the means to answer it: well, badly, or byte by byte."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from hostile_web import HostileWeb

Headers = Iterable[tuple[str, str]]
JPEG = (("Content-Type", "image/jpeg"),)
RETRIED = {"throttled", "server_error", "dns_temporary", "timeout", "too_slow", "connection"}
#: as many as a downloader makes at all
ALL = -1


@dataclass(frozen=True)
class Request:
    """What came.

    Attributes:
        host: of the Host header, without a port. target: path and query, as they came. headers: by small name; more
            than one of a name are joined by ", ".
        at: time.monotonic(). peer: the client's port, which tells connections apart. number: of the request on its
            connection, from 0. secure: whether over TLS.
    """

    method: str
    host: str
    target: str
    headers: dict[str, str]
    at: float
    peer: int
    number: int
    secure: bool

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(self.target.partition("?")[2]).items()}


@dataclass
class Exchange:
    """One request and its answer, which a reply writes.

    Attributes:
        visit: how many requests with its host and target there were before it.
        keep: whether the connection goes on to a next request.
    """

    web: HostileWeb
    request: Request
    writer: asyncio.StreamWriter
    visit: int
    keep: bool = True

    async def write(self, data: bytes | str) -> None:
        """Bytes as they are, once the client has taken most of the earlier ones."""
        data = data if isinstance(data, bytes) else data.encode("latin-1")
        self.writer.write(data)
        await self.writer.drain()
        self.web.sent[self.request.host] += len(data)

    async def answer(self, status: int = 200, body: bytes = b"", headers: Headers = JPEG) -> None:
        """A whole, honest response; a Content-Length or Transfer-Encoding among the headers stands as it is."""
        names = {name.lower() for name, _ in headers}
        lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in headers)]
        if not names & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(body)}")
        await self.write("\r\n".join([*lines, "", ""]).encode("utf-8") + body)

    async def redirect(self, location: str, status: int = 302, headers: Headers = ()) -> None:
        await self.answer(status, b"moved", (("Content-Type", "text/html"), ("Location", location), *headers))

    async def trickle(self, data: bytes) -> None:
        """Byte by byte, with ``web.drip_s`` between them."""
        for byte in data:
            await self.write(bytes([byte]))
            await asyncio.sleep(self.web.drip_s)

    async def stream(self, unit: bytes, total: int | None = None) -> None:
        """The same bytes again and again, as fast as they are taken, up to so many, or for ever."""
        left = total
        while left is None or left > 0:
            await self.write(unit if left is None else unit[:left])
            if left is not None:
                left -= len(unit)
            await asyncio.sleep(0)  # a client that reads fast must not keep the others waiting

    def close(self) -> None:
        self.keep = False

    def reset(self) -> None:
        """Ends the connection by RST, which throws away what the client has not read."""
        self.keep = False
        plain = self.writer.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def wait(self) -> None:
        """For ever: until the client goes, which the connection's reader sees, or the web ends."""
        await asyncio.Event().wait()


Reply = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True)
class Behaviour:
    """What the web does at one URL, and what a downloader should make of it.

    Attributes:
        cause: of the row's outcome, "" where it succeeds; also: causes that are as right.
        attempts: that the row takes where a downloader makes three, ALL for as many as it makes.
        path: as a URL of a table has it (with its query); target: as it must arrive, where that differs by more than
            a fragment.
        host: under ``.hostile.test``, where it is not the behaviour's name.
        scheme, port: of the URL; "web", "tls", "closed", "mute" (accepts, never reads) or "full" (never accepts).
        needs: "robots" (that robots.txt is read), "ipv6" (that this machine has it), "" nothing.
        robots: what /robots.txt answers at its host.
    """

    name: str
    cause: str
    attempts: int = 1
    also: tuple[str, ...] = ()
    path: str = ""
    target: str = ""
    host: str = ""
    scheme: str = "http"
    port: str = "web"
    needs: str = ""
    reply: Reply | None = None
    robots: Reply | None = None

    @property
    def host_name(self) -> str:
        return f"{self.host or self.name.replace('_', '-')}.hostile.test"

    @property
    def arrives_as(self) -> str:
        """The target of its requests, without what a test adds to the query."""
        return self.target or self.path.partition("#")[0]

    @property
    def arrives_at(self) -> str:
        """The host of its requests."""
        return self.host_name.encode("idna").decode()

    def causes(self) -> set[str]:
        return {self.cause, *self.also}

    def attempts_of(self, tries: int, cause: str | None = None) -> int:
        """The attempts its row takes where a downloader makes at most ``tries``, which must suffice to succeed.

        Args:
            cause: that the row got, where it may be one of ``also``.
        """
        attempts = self.attempts
        if cause is not None and cause != self.cause:
            attempts = ALL if cause in RETRIED else 1
        return tries if attempts == ALL else attempts


@dataclass
class Traffic:
    """What went on, for tests to count.

    Attributes:
        requests: all of them, in order of arrival. sent: host name -> bytes that were taken off the server.
        connections: accepted so far; open: now.
        most_at_once: host name -> the most requests of it that were being answered at one time.
    """

    requests: list[Request] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    open: int = 0
    most_at_once: Counter[str] = field(default_factory=Counter)
    at_once: Counter[str] = field(default_factory=Counter)

    def requests_of(self, host: str, robots: bool = False) -> list[Request]:
        """Those to a host name; without those for its robots.txt, or these alone."""
        return [one for one in self.requests if one.host == host and (one.path == "/robots.txt") == robots]


def request_of(head: bytes, peer: int, number: int, secure: bool) -> Request | None:
    """The request whose head this is, up to the blank line; None where it is none."""
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, _, rest = first.partition(" ")
    target, _, version = rest.rpartition(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name = name.strip().lower()
        headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
    if not target or not version.startswith("HTTP/"):
        return None
    host = headers.get("host", "").lower()
    host = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
    return Request(method, host, target, headers, time.monotonic(), peer, number, secure)
