"""A DNS server on this machine, over UDP and TCP, that answers from a table, with the faults of resolvers as answers.

``aiodns.DNSResolver(nameservers=["127.0.0.1"], udp_port=server.port, tcp_port=server.port)`` asks it, as does
``aiodns.DNSResolver(nameservers=[server.address])``. c-ares reads /etc/hosts first and asks for names with the search
domains of /etc/resolv.conf appended where a name is not found; ``lookups="b", domains=[]`` keeps it from the former.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from loop_thread import LoopThread, sockets_of_one_port

#: addresses of both families (none: the name is there without an address), "NXDOMAIN", "SERVFAIL", "REFUSED" or
#: "TIMEOUT" (no answer at all)
Answer = Sequence[str] | str
RCODES = {"SERVFAIL": 2, "NXDOMAIN": 3, "REFUSED": 5}
TYPES = {1: "A", 28: "AAAA"}
UDP_BYTES = 512


@dataclass
class DnsServer:
    """What is answered, and what was asked.

    Attributes:
        names: name -> its answer, or a function from the number of earlier queries of the name and type to it; a name
            that begins with ``*.`` stands for all below it that have none of their own. Others do not exist.
        delay_s: passes before each answer. ttl_s: of each answer.
        asked: (name, "A", "AAAA" or the type's number) -> queries. by_tcp: how many of all came over TCP.
        most_at_once: the most queries that waited for their answers at one time.
    """

    names: dict[str, Answer | Callable[[int], Answer]] = field(default_factory=dict)
    delay_s: float = 0.0
    ttl_s: int = 60
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_tcp: int = 0
    most_at_once: int = 0
    port: int = 0
    _at_once: int = 0

    @property
    def address(self) -> str:
        """As a list of name servers takes it."""
        return f"127.0.0.1:{self.port}"

    def queries(self, name: str = "") -> int:
        """How often a name was asked for, in all types; of all names without one."""
        return sum(count for (asked, _), count in self.asked.items() if not name or asked == name)

    def _answer(self, name: str, kind: str) -> Answer:
        found = self.names.get(name)
        above = name
        while found is None and "." in above:
            above = above.partition(".")[2]
            found = self.names.get(f"*.{above}")
        earlier = self.asked[name, kind]
        self.asked[name, kind] += 1
        if found is None:
            return "NXDOMAIN"
        return found(earlier) if callable(found) else found

    async def reply(self, query: bytes, most: int) -> bytes | None:
        """The packet that answers one, or None; an answer of more than ``most`` bytes is cut, and says so."""
        number, flags, questions = struct.unpack_from("!3H", query)
        labels, place = [], 12
        while query[place]:
            labels.append(query[place + 1 : place + 1 + query[place]].decode("latin-1"))
            place += 1 + query[place]
        question = query[12 : place + 5]
        (kind,) = struct.unpack_from("!H", question, len(question) - 4)
        if flags & 0x8000 or questions != 1:
            return None
        answer = self._answer(".".join(labels).lower(), TYPES.get(kind, str(kind)))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        self._at_once -= 1
        if answer == "TIMEOUT":
            return None
        records = [] if isinstance(answer, str) else [self._record(address, kind) for address in answer]
        found = [record for record in records if record]
        body = b"".join(found)
        cut = 0x0200 if 12 + len(question) + len(body) > most else 0
        code = RCODES[answer] if isinstance(answer, str) else 0
        counts = (1, 0 if cut else len(found), 0, 0)
        head = struct.pack("!6H", number, 0x8080 | (flags & 0x0100) | cut | code, *counts)
        return head + question + (b"" if cut else body)

    def _record(self, address: str, kind: int) -> bytes:
        packed = ipaddress.ip_address(address).packed
        if TYPES.get(kind) != ("A" if len(packed) == 4 else "AAAA"):
            return b""
        return struct.pack("!3HIH", 0xC00C, kind, 1, self.ttl_s, len(packed)) + packed


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # of another class before Python 3.12

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        task = asyncio.get_running_loop().create_task(self._reply(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reply(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            packet = await self._server.reply(data, UDP_BYTES)
        except (struct.error, IndexError):
            return  # no query
        if packet is not None:
            self._transport.sendto(packet, addr)


async def _start(server: DnsServer) -> list[Callable[[], None]]:
    stream, datagrams = sockets_of_one_port((socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM))
    server.port = stream.getsockname()[1]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (size,) = struct.unpack("!H", await reader.readexactly(2))
                query = await reader.readexactly(size)
                server.by_tcp += 1
                packet = await server.reply(query, 65535)
                if packet is not None:
                    writer.write(struct.pack("!H", len(packet)) + packet)
        except (OSError, EOFError, struct.error, IndexError, asyncio.CancelledError):
            writer.transport.abort()

    streams = await asyncio.start_server(talk, sock=stream)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(server), sock=datagrams)
    return [streams.close, transport.close]


@contextmanager
def dns_server(names: Mapping[str, Answer | Callable[[int], Answer]], delay_s: float = 0.0) -> Iterator[DnsServer]:
    """A server that answers from the table; ``server.names`` may be changed while it runs."""
    server = DnsServer(dict(names), delay_s)
    thread = LoopThread("dns_server")
    try:
        thread.closes += thread.call(_start(server))
        yield server
    finally:
        thread.end()
