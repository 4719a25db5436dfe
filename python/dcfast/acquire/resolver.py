"""Names to addresses within the process, by c-ares: bounded, remembered, and never to a private address unasked."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence, Set
from contextlib import suppress

import aiodns
import pycares
from aiohttp.abc import AbstractResolver, ResolveResult

from dcfast.acquire.addresses import Allowed
from dcfast.acquire.causes import FetchError

MOST_LOOKUPS = 64
"""At once in a process; halved whenever the resolver does not answer, and won back one by one."""
REMEMBERED_SECONDS = 300.0
_MOST_REMEMBERED = 20_000
_ANSWER_SECONDS, _TRIES = 3.0, 2
_NOT_FOUND = (pycares.errno.ARES_ENOTFOUND, pycares.errno.ARES_ENODATA, pycares.errno.ARES_ENONAME)
_NEVER = (*_NOT_FOUND, pycares.errno.ARES_EBADNAME)


class PublicResolver(AbstractResolver):
    """A resolver of aiohttp's.

    Args:
        nameservers: ``ADDRESS`` or ``ADDRESS:PORT``; none: those of the system.
        allowed: other addresses are not given; None: those of the public net alone.
        trusted: names that may have such, as a proxy's.
    What it raises is FetchError: ``dns_not_found``, ``dns_temporary``, or ``private_address`` where a name has no
    public address. Memory: 20,000 names.
    """

    def __init__(
        self, nameservers: Sequence[str] = (), *, allowed: Allowed | None = None, trusted: Set[str] = frozenset()
    ) -> None:
        servers, port = _servers(nameservers)
        self._resolver = aiodns.DNSResolver(
            servers or None, timeout=_ANSWER_SECONDS, tries=_TRIES, udp_port=port, tcp_port=port
        )
        self._allowed, self._trusted = allowed or Allowed(), trusted
        self._known: dict[str, tuple[float, list[tuple[str, int]] | FetchError]] = {}
        self._asked: dict[str, asyncio.Future[list[tuple[str, int]]]] = {}
        self._at_once = MOST_LOOKUPS
        self._at_work = 0
        self._freed = asyncio.Event()
        self.lookups: int = 0
        """Names that were asked for."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name; one lookup a name at a time, whoever asks."""
        known = self._known.get(host)
        if known is None or known[0] < time.monotonic():
            addresses = await self._shared(host)
        elif isinstance(known[1], FetchError):
            raise known[1].fresh()
        else:
            addresses = known[1]
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=flags)
            for address, kind in addresses
            if family in (socket.AF_UNSPEC, kind)
        ]

    async def close(self) -> None:
        """Ends it."""
        await self._resolver.close()

    async def _shared(self, host: str) -> list[tuple[str, int]]:
        """A lookup that goes on though who asked first has given up."""
        if host not in self._asked:
            task = asyncio.ensure_future(self._look_up(host))
            self._asked[host] = task
            task.add_done_callback(lambda done: (self._asked.pop(host, None), done.cancelled() or done.exception()))
        return await asyncio.shield(self._asked[host])

    async def _look_up(self, host: str) -> list[tuple[str, int]]:
        while self._at_work >= self._at_once:
            self._freed.clear()
            await self._freed.wait()
        self._at_work += 1
        self.lookups += 1
        try:
            answer = await self._resolver.getaddrinfo(host, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM)
            found = [(_text(node.addr[0]), int(node.family)) for node in answer.nodes]
            takes_any = host in self._trusted
            addresses = [one for one in dict.fromkeys(found) if takes_any or one[0] in self._allowed]
            if not addresses:
                raise FetchError("private_address", f"{host} stands for {found[0][0] if found else 'no address'}")
            self._at_once = min(MOST_LOOKUPS, self._at_once + 1)
        except aiodns.error.DNSError as error:
            code, words = (*error.args, "")[:2]
            if code in _NEVER:
                failure = FetchError("dns_not_found", "<urlopen error [Errno -2] Name or service not known>")
                self._remember(host, failure)
            else:
                self._at_once = max(1, self._at_once // 2)
                failure = FetchError("dns_temporary", f"<urlopen error [Errno -3] {words or code}>"[:200])
            raise failure from None
        except FetchError as error:
            self._remember(host, error)
            raise
        finally:
            self._at_work -= 1
            self._freed.set()
        self._remember(host, addresses)
        return addresses

    def _remember(self, host: str, what: list[tuple[str, int]] | FetchError) -> None:
        while len(self._known) >= _MOST_REMEMBERED:
            with suppress(StopIteration):
                self._known.pop(next(iter(self._known)))
        self._known[host] = (time.monotonic() + REMEMBERED_SECONDS, what)


def _text(address: str | bytes) -> str:
    return address.decode("ascii", "replace") if isinstance(address, bytes) else address


def _servers(given: Sequence[str]) -> tuple[list[str], int | None]:
    """The addresses of name servers, and the one port that they have; ValueError: two ports."""
    servers, ports = [], set()
    for text in given:
        address, colon, port = text.rpartition(":")
        if colon and port.isdecimal() and (":" not in address or address.endswith("]")):
            servers.append(address.strip("[]"))
            ports.add(int(port))
        else:
            servers.append(text.strip("[]"))
    if len(ports) > 1:
        raise ValueError(f"--nameservers must have one port; got {sorted(ports)}")
    return servers, ports.pop() if ports else None
