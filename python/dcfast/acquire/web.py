"""One attempt to get the bytes of a URL: redirects by hand, every limit held, whatever the server does."""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple, Protocol
from urllib.request import proxy_bypass

import aiohttp
from yarl import URL

from dcfast.acquire.addresses import Allowed, parse_url, place_of, refuse_literal
from dcfast.acquire.causes import REDIRECTS, FetchError, cause_of_status
from dcfast.acquire.kinds import refuse_first_bytes, refuse_type
from dcfast.acquire.memory import Lanes
from dcfast.acquire.options import AGENT, WebOptions
from dcfast.acquire.proxies import proxies, proxy_names
from dcfast.acquire.redirects import Moved, Trail
from dcfast.acquire.resolver import REMEMBERED_SECONDS, PublicResolver
from dcfast.acquire.robots import MOST_ROBOTS_BYTES, Robots, opts_out

MOST_REDIRECTS = 10
RATE_SECONDS = 5.0
"""Between two looks at how many bytes a body has brought; half of the deadline where that is shorter."""
KEPT_SECONDS = 5.0
"""Idle connections to a host of which rows wait."""
_GONE = "HTTP Error"
_OPTED_OUT = "Use of image disallowed by X-Robots-Tag directive"
_PIECE_BYTES = 1 << 16
"""What is read and decompressed at a time."""
_LEAST_PART = 1 << 12
_COMPRESSED = ("gzip", "x-gzip", "deflate")

Grow = Callable[[int, asyncio.Timeout, asyncio.Timeout], Awaitable[None]]
"""Takes room for so many bytes of a body."""


class Hosts(Protocol):
    """What is known of hosts, ``Turns`` say."""

    def pause(self, host: str, seconds: float) -> None:
        """No request to a host for some time."""

    def asked(self, host: str) -> None:
        """A request was made to a host beyond that of a row's turn."""

    def is_down(self, host: str) -> bool:
        """Whether it is not to be asked."""

    def is_over(self, host: str) -> bool:
        """Whether it will hardly be asked again."""


class Answer(NamedTuple):
    """The bytes of an image, and where they came from."""

    data: bytes
    final_url: str
    http_status: int


class Web:
    """What asks for URLs; opened by ``open_web``. For one event loop.

    Memory: ``Lanes``, the resolver's and robots' bounds, and 64 KiB a connection.
    """

    def __init__(self, options: WebOptions, session: aiohttp.ClientSession) -> None:
        self._options = options
        self._session = session
        self._proxies = proxies()
        self._trusted = proxy_names()
        self._allowed = Allowed(options.allow_private or ())
        self._lanes = Lanes()
        self._robots = Robots(AGENT, self._read_robots) if options.robots else None

    @asynccontextmanager
    async def fetch(self, text: str | None, hosts: Hosts, trail: Trail | None = None) -> AsyncIterator[Answer]:
        """The answer for a URL; its bytes count as held until the block ends.

        Args:
            hosts: are paused where they want time between requests.
            trail: of a row that was led to another host, and goes on there.
        FetchError: why there is none.   Moved: it is at another host, to be asked in its turn.
        """
        async with self._lanes.taken() as lane:
            trail = trail or Trail(parse_url(text))
            began = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(self._options.timeout - trail.spent) as deadline:
                    yielded = await self._follow(trail, lane.grow, deadline, hosts)
            except TimeoutError:
                raise FetchError("timeout", "<urlopen error timed out>", final_url=str(trail.url)) from None
            except Moved:
                trail.spent += asyncio.get_running_loop().time() - began
                raise
            except FetchError as error:
                error.final_url = error.final_url or str(trail.url)
                raise
            except (aiohttp.ClientError, OSError, ValueError, zlib.error) as error:
                raise _failure(error, str(trail.url)) from None
            yield yielded

    async def _follow(self, trail: Trail, grow: Grow, deadline: asyncio.Timeout, hosts: Hosts) -> Answer:
        """The answer behind any redirects of a host to itself."""
        while True:
            place = place_of(trail.url)
            self._refuse(trail.url)
            if self._robots is not None and (between := await self._robots.check(trail.url)):
                hosts.pause(place, between)
            # idle connections to hosts by the thousand would take all open files, and 300 kB each where they are of TLS
            headers = {"Connection": "close"} if hosts.is_over(place) else {}
            if cookies := trail.cookies:
                headers["Cookie"] = cookies
            async with self._get(trail.url, headers) as response:
                if response.status not in REDIRECTS or "Location" not in response.headers:
                    return await self._answer(response, trail.url, grow, deadline)
                trail.take_cookies(response)
                trail.url = self._target(trail.url, response)
            trail.hops += 1
            if trail.hops > MOST_REDIRECTS:
                raise FetchError("redirects", f"more than {MOST_REDIRECTS} redirects")
            if place_of(trail.url) != place and trail.may_wait:
                raise Moved(trail)
            hosts.asked(place_of(trail.url))
            if hosts.is_down(place_of(trail.url)):
                message = f"redirected to {place_of(trail.url)}, which failed many times in a row"
                raise FetchError("host_down", message)

    def _refuse(self, url: URL) -> None:
        refuse_literal(url, self._allowed)
        if url.raw_host in self._trusted and self._proxy(url) is None:
            raise FetchError("private_address", f"{url.raw_host} is a proxy", final_url=str(url))

    def _get(self, url: URL, headers: dict[str, str]) -> aiohttp.client._RequestContextManager:
        return self._session.get(url, headers=headers, allow_redirects=False, proxy=self._proxy(url))

    def _proxy(self, url: URL) -> str | None:
        proxy = self._proxies.get(url.scheme)
        return None if not proxy or proxy_bypass(url.raw_host or "") else proxy

    @staticmethod
    def _target(url: URL, response: aiohttp.ClientResponse) -> URL:
        location = response.headers["Location"]
        try:
            # headers are bytes; what is no ASCII in them is UTF-8, as browsers have it
            location = location.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            return parse_url(str(url.join(URL(location, encoded=True))))
        except (FetchError, ValueError) as error:
            message = f"HTTP Error {response.status}: redirected to no URL of http"
            raise FetchError("redirects", message, http_status=response.status) from error

    async def _answer(
        self,
        response: aiohttp.ClientResponse,
        url: URL,
        grow: Grow,
        deadline: asyncio.Timeout,
    ) -> Answer:
        _check_status(response)
        if opts_out(response.headers.getall("X-Robots-Tag", ()), AGENT, self._options.directives):
            raise FetchError("opt_out", _OPTED_OUT, http_status=response.status)
        refuse_type(response.headers.get("Content-Type", ""), response.status)
        if (response.content_length or 0) > self._options.max_bytes:
            raise _too_large(self._options.max_bytes, response.status)
        data = await _body(response, self._options, grow, deadline, refuse_first_bytes)
        refuse_first_bytes(data, whole=True)
        return Answer(data, str(url), response.status)

    async def _read_robots(self, url: URL) -> tuple[int, bytes]:
        """The status and text of a robots.txt; redirects are followed, under the limits of any request."""
        try:
            async with asyncio.timeout(self._options.timeout):
                for _ in range(MOST_REDIRECTS // 2 + 1):
                    self._refuse(url)
                    async with self._get(url, {}) as response:
                        if response.status in REDIRECTS and "Location" in response.headers:
                            target = self._target(url, response)
                        elif response.status != 200:
                            return response.status, b""
                        else:
                            return 200, await _start_of(response, MOST_ROBOTS_BYTES)
                    url = target
        except TimeoutError:
            raise FetchError("timeout", "<urlopen error timed out>", final_url=str(url)) from None
        except (aiohttp.ClientError, OSError, ValueError, zlib.error) as error:
            raise _failure(error, str(url)) from None
        raise FetchError("redirects", "robots.txt: too many redirects", final_url=str(url))


async def _start_of(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The first bytes of a body, decompressed: some send it so though they were not asked to."""
    unpack = _unpacker(response)
    parts, size = [], 0
    async for chunk in response.content.iter_any():
        parts.append(chunk if unpack is None else unpack.decompress(chunk, most - size))
        size += len(parts[-1])
        if size >= most or (unpack is not None and unpack.eof):
            break
    return b"".join(parts)[:most]


def _unpacker(response: aiohttp.ClientResponse) -> zlib._Decompress | None:
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32) if coding in _COMPRESSED else None


def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if 200 <= status < 300:
        return
    message = f"{_GONE} {status}: {(response.reason or '')[:100]}"
    after = _seconds(response.headers.get("Retry-After"))
    cause = cause_of_status(status, asks_for_patience=after is not None)
    raise FetchError(cause, message, http_status=status, retry_after=after)


def _seconds(text: str | None) -> float | None:
    """``Retry-After``: seconds, or a date; None where it says nothing that is understood."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _too_large(most: int, status: int) -> FetchError:
    return FetchError("too_large", f"more than {most:,} bytes", http_status=status)


async def _body(
    response: aiohttp.ClientResponse,
    options: WebOptions,
    grow: Grow,
    deadline: asyncio.Timeout,
    look: Callable[[bytes], None],
) -> bytes:
    """The body, decompressed; FetchError: too large, too slow, no image by its first bytes."""
    unpack = _unpacker(response)
    transport = response.connection and response.connection.transport
    if transport is not None and hasattr(transport, "max_size"):
        transport.max_size = _PIECE_BYTES  # else asyncio takes four times as much at once
    told = response.content_length or 0
    parts: list[bytes] = []
    size, looked, is_whole = 0, False, False
    between = min(RATE_SECONDS, options.timeout / 2)
    while not is_whole:
        window = 0
        try:
            async with asyncio.timeout(between) as rate:
                while not is_whole and (chunk := await response.content.readany()):
                    window += len(chunk)
                    for piece in _unpacked(unpack, chunk):
                        size += len(piece)
                        if size > options.max_bytes:
                            raise _too_large(options.max_bytes, response.status)
                        if parts and len(parts[-1]) < _LEAST_PART:  # a byte at a time would take fifty
                            parts[-1] += piece
                        else:
                            parts.append(piece)
                        if not looked and size >= 16:
                            looked = True
                            look(parts[0][:16])
                        await grow(max(size, told), deadline, rate)
                    is_whole = unpack is not None and unpack.eof  # what follows would be held, however much it is
                is_whole = True
        except TimeoutError:
            if deadline.expired():
                raise
            if window < options.min_rate * between:
                raise FetchError(
                    "too_slow", f"fewer than {options.min_rate:,} bytes a second", http_status=response.status
                ) from None
    if unpack is not None and not unpack.eof:
        raise FetchError("connection", "its compression is cut short", http_status=response.status)
    return b"".join(parts)


def _unpacked(unpack: zlib._Decompress | None, chunk: bytes) -> Iterator[bytes]:
    """A chunk decompressed, piece by piece: a thousand times as much may come of it, for which there has to be room."""
    if unpack is None:
        yield chunk
        return
    piece = bytes(_PIECE_BYTES)
    while chunk or len(piece) == _PIECE_BYTES:
        piece = unpack.decompress(chunk, _PIECE_BYTES)
        chunk = unpack.unconsumed_tail
        yield piece


def _failure(error: Exception, at: str) -> FetchError:
    """What an error of aiohttp or of the system means."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, FetchError):
            return FetchError(inner.cause, inner.message, final_url=at)
        inner = inner.__cause__ or inner.__context__
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return FetchError("tls", f"<urlopen error {_line(error)}>", final_url=at)
    if isinstance(error, aiohttp.InvalidURL):
        return FetchError("invalid_url", _line(error), final_url=at)
    if isinstance(error, asyncio.TimeoutError):
        return FetchError("timeout", "<urlopen error timed out>", final_url=at)
    if isinstance(error, zlib.error):
        return FetchError("connection", f"its compression is broken: {_line(error)}", final_url=at)
    return FetchError("connection", f"{type(error).__name__}: {_line(error)}", final_url=at)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


@asynccontextmanager
async def open_web(options: WebOptions) -> AsyncIterator[Web]:
    """What asks for URLs by these options, until the block ends."""
    allowed = Allowed(options.allow_private or ())
    resolver = PublicResolver(options.nameservers or (), allowed=allowed, trusted=proxy_names())
    connector = aiohttp.TCPConnector(
        resolver=resolver,
        limit=0,  # the turns hold the limits
        ttl_dns_cache=int(REMEMBERED_SECONDS),
        dns_cache_max_size=20_000,
        ssl=options.verify_tls,
        keepalive_timeout=KEPT_SECONDS,
    )
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=options.timeout, sock_read=None),
        headers={"User-Agent": options.user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
        read_bufsize=_PIECE_BYTES // 2,
    )
    try:
        async with session:
            yield Web(options, session)
    finally:
        await resolver.close()
