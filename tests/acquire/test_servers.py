"""The servers that downloads are tested with do what they say: the hostile web, DNS, the server of images."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path
from urllib.parse import quote, unquote

import aiodns
import aiohttp
import pytest
from dns_server import DnsServer, dns_server
from hostile_bytes import picture
from hostile_catalogue import CATALOGUE
from hostile_exchange import Behaviour
from hostile_urls import BAD_URLS, ODD_URLS, PRIVATE_ADDRESSES
from hostile_web import HostileWeb, hostile_web
from image_server import ImageServer, Log, image_server
from yarl import URL

MOST_BYTES = 3 << 20
STATUSES = {401: "refused", 403: "refused", 407: "refused", 429: "throttled", 999: "refused", 503: "throttled"}
#: what only a downloader tells from a picture that arrives
ARRIVES = {"undecodable", "too_many_pixels", "opt_out", "robots", "robots_unreachable"}


@pytest.fixture(scope="module")
def web() -> Iterator[HostileWeb]:
    with hostile_web(drip_s=0.1) as running:
        yield running


class PrivateError(Exception):
    pass


class Resolver(aiohttp.abc.AbstractResolver):
    """Asks the web's DNS server; says no to private addresses other than this machine's."""

    def __init__(self, port: int) -> None:
        self._dns = aiodns.DNSResolver(nameservers=["127.0.0.1"], udp_port=port, tcp_port=port, timeout=0.2, tries=2)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[aiohttp.abc.ResolveResult]:
        found = await self._dns.getaddrinfo(host, port=port, type=socket.SOCK_STREAM, family=family)
        addresses = [(node.family, node.addr[0].decode()) for node in found.nodes]
        if any(address not in ("127.0.0.1", "::1") for _, address in addresses):
            raise PrivateError(addresses)
        return [
            {"hostname": host, "host": address, "port": port, "family": kind, "proto": 0, "flags": 0}
            for kind, address in addresses
        ]

    async def close(self) -> None:
        await self._dns.close()


def session(web: HostileWeb) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(resolver=Resolver(web.dns.port), limit=0)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


def written(url: str) -> URL:
    """A URL as it goes over the wire."""
    url = url.replace("bücher.hostile", "xn--bcher-kva.hostile")
    return URL(quote(url.partition("#")[0], safe="%/:?#[]@!$&'()*+,;=~"), encoded=True)


async def one_request(client: aiohttp.ClientSession, url: URL, cookies: dict[str, str]) -> tuple[str, URL | None]:
    """What came of a request, and where it moved to."""
    async with client.get(url, allow_redirects=False, cookies=cookies) as response:
        status, kind = response.status, response.headers.get("Content-Type", "image/jpeg")
        cookies |= {name: morsel.value for name, morsel in response.cookies.items()}
        if 300 <= status < 400:
            place = response.headers.get("Location")
            return "redirects", url.join(written(place)) if place else None
        if status != 200:
            usual = "gone" if status < 500 else "server_error"
            usual = STATUSES.get(status, usual) if status != 503 or "Retry-After" in response.headers else usual
            return usual, None
        if kind.partition("/")[0] in ("audio", "text") or "svg" in kind:
            return "not_image", None
        body = b""
        async for part in response.content.iter_any():
            body += part
            if len(body) > MOST_BYTES:
                return "too_large", None
        magic = body.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8"))
        return ("" if magic else "not_image"), None


async def attempt(client: aiohttp.ClientSession, first: str) -> str:
    """The cause that a small downloader would write of a request and its redirects."""
    url, cookies = written(first), dict[str, str]()
    try:
        for _ in range(11):
            cause, place = await one_request(client, url, cookies)
            if place is None:
                return cause
            if place.scheme not in ("http", "https"):
                return "redirects"
            if (place.host or "").replace(".", "").isdigit() or ":" in (place.host or ""):
                return "private_address"
            url = place
    except TimeoutError:
        return "timeout"
    except PrivateError:
        return "private_address"
    except aiodns.error.DNSError as error:
        missing = error.args[0] in (aiodns.error.ARES_ENOTFOUND, aiodns.error.ARES_ENODATA)
        return "dns_not_found" if missing else "dns_temporary"
    except (aiohttp.ClientSSLError, ssl.SSLError):
        return "tls"
    except (aiohttp.ClientError, ConnectionError):
        return "connection"
    except ValueError:
        return "redirects"
    return "redirects"


async def outcome(client: aiohttp.ClientSession, web: HostileWeb, one: Behaviour) -> str:
    """Of so many attempts as it takes to succeed; of one where none does."""
    seconds = 1.5 if one.causes() & {"timeout", "too_slow"} else 60.0
    for number in range(max(one.attempts, 1)):
        try:
            cause = await asyncio.wait_for(attempt(client, web.url(one.name)), seconds)
        except TimeoutError:
            cause = "timeout"
        assert cause or number == one.attempts_of(1) - 1, f"{one.name} succeeds too soon"
    return cause


@pytest.mark.long
def test_the_web_does_what_it_says(web: HostileWeb) -> None:
    chosen = web.behaviours("robots")

    async def all_of_them() -> list[str]:
        async with session(web) as client:
            return list(await asyncio.gather(*(outcome(client, web, one) for one in chosen)))

    found = dict(zip(chosen, asyncio.run(all_of_them()), strict=True))
    bad = {
        one.name: (cause, one.causes())
        for one, cause in found.items()
        if cause not in one.causes() and not (cause in ("", "too_large") and one.causes() & ARRIVES)
    }
    assert not bad
    silent = {one.name for one in chosen if not web.requests_of(one.arrives_at)}
    named = {name for name in CATALOGUE if name.startswith(("dns_", "private_name", "tls_", "mute", "full", "closed"))}
    assert silent == named | {"plain_http_of_tls"}
    assert len(web.requests_of(web.of("redirect_ten"))) == 11
    assert len(web.requests_of(web.of("status_500_twice"))) == 3
    assert 3 << 20 <= web.sent[web.of("endless")] < 20 << 20
    assert web.dns.queries("dns-fails.hostile.test") > 1


def test_the_catalogue_is_in_order() -> None:
    causes = {"", "gone", "refused", "throttled", "server_error", "dns_temporary", "dns_not_found", "timeout"}
    causes |= {"too_slow", "connection", "tls", "redirects", "private_address", "robots", "robots_unreachable"}
    causes |= {"opt_out", "not_image", "too_large", "undecodable", "too_many_pixels"}
    assert {one.cause for one in CATALOGUE.values()} == causes
    for one in CATALOGUE.values():
        assert one.causes() <= causes | {"invalid_url"}
        assert one.path.startswith("/"), one.name
    assert len({one.arrives_at for one in CATALOGUE.values()}) == len(CATALOGUE)
    assert len({one.arrives_as for one in CATALOGUE.values()}) == len(CATALOGUE)
    assert CATALOGUE["status_500"].attempts_of(3) == 3
    assert CATALOGUE["status_404"].attempts_of(3) == 1
    assert CATALOGUE["throttled_once"].attempts_of(3) == 2
    assert CATALOGUE["length_too_short"].attempts_of(3, "connection") == 3


def test_urls_that_must_not_be_asked_for() -> None:
    assert len(set(BAD_URLS)) == len(BAD_URLS) > 15
    wrapped = {"::ffff:10.0.0.1", "::ffff:127.0.0.2", "64:ff9b::10.0.0.1", "2002:a00:1::"}
    plain = [ipaddress.ip_address(one) for one in PRIVATE_ADDRESSES if one not in wrapped]
    assert all(not one.is_global or one.is_multicast for one in plain)
    assert all(socket.inet_aton(URL(url).host or "") in (b"\n\0\0\1", b"\x7f\0\0\2") for url in ODD_URLS)


def test_connections_that_stay_open(web: HostileWeb) -> None:
    before = len(web.requests)
    with closing(HTTPConnection("127.0.0.1", web.ports["web"], timeout=5)) as client:
        client.request("GET", "/stale_keep_alive.jpg")
        assert client.getresponse().read() == picture()
        client.request("GET", "/stale_keep_alive.jpg")
        with pytest.raises(RemoteDisconnected):
            client.getresponse()
    came = web.requests[before:]
    assert [(one.number, one.host) for one in came] == [(0, "127.0.0.1"), (1, "127.0.0.1")]
    assert len({one.peer for one in came}) == 1


def test_more_than_was_announced(web: HostileWeb) -> None:
    with socket.create_connection(("127.0.0.1", web.ports["web"]), timeout=5) as plain:
        plain.sendall(b"GET /smuggles.jpg HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head, _, body = plain.makefile("rb").read().partition(b"\r\n\r\n")
    assert f"Content-Length: {len(picture())}".encode() in head
    assert body.startswith(picture())
    assert body.endswith(b"\r\n\r\nimpostor!")


def test_files_robots_and_requests_at_one_time() -> None:
    with hostile_web({"/a.jpg": b"body"}) as web:
        web.files_after_s = 0.05
        web.robots["one.hostile.test"] = "User-agent: *\nDisallow: /\n"

        async def asked() -> list[str]:
            async with session(web) as client:
                hosts = [*["one.hostile.test"] * 4, "two.hostile.test"]
                places = [web.at("/a.jpg", host) for host in hosts]
                places += [web.at("/robots.txt", host) for host in ("one.hostile.test", "two.hostile.test")]
                answers = await asyncio.gather(*(client.get(place) for place in places))
                return [await answer.text() for answer in answers]

        assert asyncio.run(asked()) == ["body"] * 5 + ["User-agent: *\nDisallow: /\n", ""]
        assert web.most_at_once["one.hostile.test"] >= 4
        assert web.most_at_once["two.hostile.test"] <= 2
        assert len(web.requests_of("one.hostile.test")) == 4
        assert len(web.requests_of("one.hostile.test", robots=True)) == 1
        assert web.connections == 7


def test_a_certificate_that_is_trusted(web: HostileWeb) -> None:
    context = ssl.create_default_context(cafile=web.certificate)
    context.verify_flags |= ssl.VERIFY_X509_STRICT

    async def asked() -> int:
        async with session(web) as client, client.get(web.url("tls_self_signed"), ssl=context) as answer:
            return answer.status

    assert asyncio.run(asked()) == 200


def test_the_web_ends_whatever_it_does() -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        with hostile_web() as web:
            for name in ("silent", "endless", "one_byte_a_second", "slow_headers", "early_hints_for_ever", "good_jpeg"):
                plain = stack.enter_context(socket.create_connection(("127.0.0.1", web.ports["web"])))
                plain.sendall(f"GET /{name}.jpg HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            stack.enter_context(socket.create_connection(("127.0.0.1", web.ports["tls"])))
            stack.enter_context(socket.create_connection(("127.0.0.1", web.dns.port)))
            begun = time.monotonic()
        assert time.monotonic() - begun < 2
    assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", web.ports["web"]))


def test_what_the_client_leaves_is_given_up(web: HostileWeb) -> None:
    with socket.create_connection(("127.0.0.1", web.ports["web"])) as plain:
        plain.sendall(b"GET /silent.jpg HTTP/1.1\r\nHost: left.hostile.test\r\n\r\n")
        until(lambda: web.at_once["left.hostile.test"] == 1)
    until(lambda: web.at_once["left.hostile.test"] == 0)
    assert web.most_at_once["left.hostile.test"] == 1


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.005)


NAMES = {
    "*.x.test": ["127.0.0.1"],
    "both.test": ["127.0.0.1", "::1"],
    "many.test": [f"10.0.0.{i}" for i in range(200)],
    "fails.test": "SERVFAIL",
    "silent.test": "TIMEOUT",
    "refused.test": "REFUSED",
    "empty.test": [],
    "other.x.test": "NXDOMAIN",
}


def test_names() -> None:
    wanted: dict[str, set[str] | int] = {
        "a.x.test": {"127.0.0.1"},
        "A.b.X.test": {"127.0.0.1"},
        "both.test": {"127.0.0.1", "::1"},
        "many.test": set(NAMES["many.test"]),
        "fails.test": aiodns.error.ARES_ESERVFAIL,
        "silent.test": aiodns.error.ARES_ETIMEOUT,
        "refused.test": aiodns.error.ARES_EREFUSED,
        "empty.test": aiodns.error.ARES_ENODATA,
        "other.x.test": aiodns.error.ARES_ENOTFOUND,
        "x.test": aiodns.error.ARES_ENOTFOUND,
    }

    async def look_up(resolver: aiodns.DNSResolver, name: str) -> set[str] | int:
        try:
            found = await resolver.getaddrinfo(name, family=socket.AF_UNSPEC)
        except aiodns.error.DNSError as error:
            return int(error.args[0])
        return {node.addr[0].decode() for node in found.nodes}

    async def look_all_up(dns: DnsServer) -> dict[str, set[str] | int]:
        async with aiodns.DNSResolver(nameservers=[dns.address], timeout=0.2, tries=1) as resolver:
            return {name: await look_up(resolver, name) for name in wanted}

    with dns_server(NAMES) as dns:
        assert asyncio.run(look_all_up(dns)) == wanted
        assert dns.asked["both.test", "A"] == dns.asked["both.test", "AAAA"] == 1
        assert dns.queries("many.test") == 3  # A again, over TCP
        assert dns.by_tcp == 1
        assert dns.queries() >= 2 * len(wanted)


def test_answers_that_change_and_wait() -> None:
    """A name whose second answer is another address, when answers may not be kept."""

    async def look_up(dns: DnsServer) -> list[str]:
        async with aiodns.DNSResolver(nameservers=["127.0.0.1"], udp_port=dns.port, tcp_port=dns.port) as resolver:
            await asyncio.gather(*(resolver.getaddrinfo(f"{i}.x.test", family=socket.AF_INET) for i in range(8)))
            found = [await resolver.getaddrinfo("turns.test", family=socket.AF_INET) for _ in range(2)]
            return [one.nodes[0].addr[0].decode() for one in found]

    with dns_server({**NAMES, "turns.test": lambda earlier: ["10.0.0.1"] if earlier else ["127.0.0.1"]}) as dns:
        dns.delay_s, dns.ttl_s = 0.02, 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
            plain.sendto(b"no query", ("127.0.0.1", dns.port))  # changes nothing
        assert asyncio.run(look_up(dns)) == ["127.0.0.1", "10.0.0.1"]
        assert dns.most_at_once == 8


@pytest.mark.parametrize("processes", [1, 2])
def test_the_server_of_images(processes: int, tmp_path: Path) -> None:
    bodies = {f"/a%20b/{i}.jpg": bytes([i]) * 5000 for i in range(5)}
    for path, body in bodies.items():
        file = tmp_path / unquote(path[1:])
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(body)

    async def asked(server: ImageServer) -> dict[str, bytes]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=3)) as client:
            found = {}
            for url in [*server.urls, server.url("/none.jpg"), *server.urls]:
                async with client.get(URL(url, encoded=True)) as answer:
                    found[answer.url.raw_path] = await answer.read()
            return found

    with image_server(tmp_path, processes) as server:
        assert asyncio.run(asked(server)) == {**bodies, "/none.jpg": b"missing"}
        assert server.told() == Log(dict.fromkeys(bodies, 2), 1, 1)
        server.reset()
        assert server.told() == Log({}, 0, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))
