"""A web server on this machine that does to its clients what the web does, and worse.

``with hostile_web() as web:`` serves every behaviour of ``hostile_catalogue.CATALOGUE`` under a host name of its own,
``NAME.hostile.test``, which the DNS server ``web.dns`` resolves to 127.0.0.1: what one does to its host (a Retry-After,
connections that fail) does not touch the others. Downloaders under test must be told of that DNS server, and to let
127.0.0.1/32 and ::1/128 pass where they refuse private addresses.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dns_server import DnsServer, dns_server
from hostile_bytes import write_certificate
from hostile_catalogue import CATALOGUE, NAMES
from hostile_exchange import Behaviour, Exchange, Traffic, request_of
from hostile_replies import text
from loop_thread import LoopThread, has_ipv6, sockets_of_one_port

LONGEST_HEAD = 1 << 20


class _Reader(asyncio.StreamReader):
    """One that tells when the client has gone."""

    def __init__(self) -> None:
        super().__init__(LONGEST_HEAD)
        self.gone = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.gone.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.gone.set()


@dataclass
class HostileWeb(Traffic):
    """The running web, what it serves beside the catalogue, and what was asked of it.

    Attributes:
        files: path -> body, served as JPEGs at every host, before the catalogue.
        robots: host name -> the text of its robots.txt; hosts without one, which have none in the catalogue either,
            answer 404.
        files_after_s: passes before each of ``files`` is answered.
        drip_s: between the bytes of what trickles.
        certificate: a PEM file; clients that trust it find ``https`` good.
        ports: "web" (127.0.0.1 and ::1), "tls", "closed", "mute", "full" -> the number of the port.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    robots: dict[str, str] = field(default_factory=dict)
    files_after_s: float = 0.0
    drip_s: float = 1.0
    certificate: Path = Path()
    ports: dict[str, int] = field(default_factory=dict)
    ipv6: bool = True
    dns: DnsServer = field(default_factory=DnsServer)
    _visits: Counter[tuple[str, str]] = field(default_factory=Counter)

    def behaviours(self, *needs: str) -> list[Behaviour]:
        """Those that this machine can show: those that need nothing, and those that need something given."""
        able = {"", *needs, *(["ipv6"] if self.ipv6 else [])}
        return [one for one in CATALOGUE.values() if one.needs in able]

    def url(self, name: str, query: str = "", host: str = "") -> str:
        """The URL of a behaviour; one with another query is another to the web, which counts visits by URL.

        A host (``127.0.0.1``, ``anything.hostile.test``) stands in place of the behaviour's own.
        """
        one = CATALOGUE[name]
        path = one.path + (("&" if "?" in one.path else "?") + query if query else "")
        return f"{one.scheme}://{host or one.host_name}:{self.ports[one.port]}{path}"

    def at(self, path: str, host: str = "files.hostile.test", port: str = "web", scheme: str = "http") -> str:
        """The URL of a path, of ``files`` say, at any host."""
        return f"{scheme}://{host}:{self.ports[port]}{path}"

    def of(self, name: str) -> str:
        """The host name of a behaviour, by which requests and bytes are counted."""
        return CATALOGUE[name].arrives_at

    def _reply(self, exchange: Exchange) -> Behaviour | bytes | None:
        target = exchange.request.target
        found = BY_PATH.get(exchange.request.path)
        if found is not None and not target.startswith(found.arrives_as):
            return None  # of its query
        return self.files.get(exchange.request.path, found)

    async def _answer(self, exchange: Exchange) -> None:
        host, path = exchange.request.host, exchange.request.path
        if path == "/robots.txt":
            if host in self.robots:
                return await text(self.robots[host])(exchange)
            return await ROBOTS.get(host, text("", 404))(exchange)
        found = self._reply(exchange)
        if isinstance(found, bytes):
            await asyncio.sleep(self.files_after_s)
            return await exchange.answer(200, found)
        return await ((found and found.reply) or text("nothing", 404))(exchange)

    async def _requests(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        peer, number, keep = writer.get_extra_info("peername")[1], 0, True
        secure = writer.get_extra_info("ssl_object") is not None
        while keep:
            first = await reader.readexactly(1)
            request = None
            if first.isalpha():  # no TLS
                request = request_of(first + await reader.readuntil(b"\r\n\r\n"), peer, number, secure)
            if request is None:
                writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                return
            self.requests.append(request)
            visit, number = self._visits[request.host, request.target], number + 1
            self._visits[request.host, request.target] += 1
            self.at_once[request.host] += 1
            self.most_at_once[request.host] = max(self.most_at_once[request.host], self.at_once[request.host])
            exchange = Exchange(self, request, writer, visit)
            try:
                await self._until_it_goes(exchange, reader)
            finally:
                self.at_once[request.host] -= 1
            keep = exchange.keep and request.headers.get("connection", "").lower() != "close"

    async def _until_it_goes(self, exchange: Exchange, reader: _Reader) -> None:
        """Answers, or stops doing so when the client has closed the connection."""
        answer = asyncio.ensure_future(self._answer(exchange))
        gone = asyncio.ensure_future(reader.gone.wait())
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ConnectionResetError("the client went")
            answer.result()
        finally:
            for task in (answer, gone):
                task.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)

    async def _talk(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            await self._requests(reader, writer)
            writer.close()
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self.open -= 1

    async def start(self, folder: Path) -> list[Callable[[], None]]:
        """Listens; returns what closes all of it."""
        self.certificate = folder / "certificate.pem"
        write_certificate(self.certificate, "*.hostile.test")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self.ipv6 = has_ipv6()
        stream = socket.SOCK_STREAM
        families = [socket.AF_INET, socket.AF_INET6] if self.ipv6 else [socket.AF_INET]
        web = sockets_of_one_port(*((family, stream) for family in families))
        [tls], [closed], [mute], [full] = (sockets_of_one_port((socket.AF_INET, stream)) for _ in range(4))
        loop = asyncio.get_running_loop()
        servers = [
            await loop.create_server(
                lambda: asyncio.StreamReaderProtocol(_Reader(), self._talk),  # type: ignore[arg-type]
                sock=one,
                ssl=context if one is tls else None,
            )
            for one in (*web, tls)
        ]
        mute.listen(128)
        full.listen(0)
        named = {"web": web[0], "tls": tls, "closed": closed, "mute": mute, "full": full}
        self.ports = {name: one.getsockname()[1] for name, one in named.items()}
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:  # they take the places that a queue of none has
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(full.getsockname())
        closable: list[asyncio.Server | socket.socket] = [*servers, closed, mute, full, *waiting]
        return [one.close for one in closable]


BY_PATH = {one.arrives_as.partition("?")[0]: one for one in CATALOGUE.values()}
ROBOTS = {one.host_name: one.robots for one in CATALOGUE.values() if one.robots is not None}


@contextmanager
def hostile_web(files: Mapping[str, bytes] | None = None, drip_s: float = 1.0) -> Iterator[HostileWeb]:
    """The web and its DNS server, in threads; both end with the block, whatever they wait for."""
    web = HostileWeb(files=dict(files or {}), drip_s=drip_s)
    with tempfile.TemporaryDirectory() as folder, dns_server(NAMES) as web.dns:
        thread = LoopThread("hostile_web")
        try:
            thread.closes += thread.call(web.start(Path(folder)))
            yield web
        finally:
            thread.end()
