"""robots.txt and the opt-outs of headers: what they forbid is not fetched, and what they do not say is."""

from __future__ import annotations

import asyncio

import pytest
from dcfast.acquire import robots
from dcfast.acquire.causes import FetchError
from dcfast.acquire.options import DIRECTIVES
from dcfast.acquire.robots import Robots, opts_out
from yarl import URL


class Server:
    """What is answered for robots.txt, and how often it was asked for."""

    def __init__(self, status: int, text: bytes = b"", error: FetchError | None = None) -> None:
        self.status, self.text, self.error, self.asked = status, text, error, 0

    async def read(self, url: URL) -> tuple[int, bytes]:
        self.asked += 1
        assert url.path == "/robots.txt"
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.status, self.text


def checked(server: Server, *urls: str, agent: str = "dcfast") -> list[str | float]:
    """Of each URL the cause why it is not fetched, or the seconds between requests."""

    robots._STORES.clear()  # what other tests asked for

    async def all_of() -> list[str | float]:
        rules, found = Robots(agent, server.read), []
        for url in urls:
            try:
                found.append(await rules.check(URL(url)))
            except FetchError as error:
                found.append(error.cause)
        return found

    return asyncio.run(all_of())


RULES = b"User-agent: *\nDisallow: /all/\nCrawl-delay: 2\n\nUser-agent: dcfast\nDisallow: /ours/\nAllow: /ours/but/\n"


def test_rules_are_those_of_the_agent() -> None:
    urls = ("http://a.de/all/x", "http://a.de/ours/x", "http://a.de/ours/but/x")
    assert checked(Server(200, RULES), *urls) == [0.0, "robots", 0.0]
    assert checked(Server(200, RULES), *urls, agent="another") == ["robots", 2.0, 2.0]


def test_an_origin_is_asked_once() -> None:
    server = Server(200, RULES)

    async def many() -> None:
        rules = Robots("dcfast", server.read)
        await asyncio.gather(*(rules.check(URL(f"http://a.de/{n}")) for n in range(20)))
        await rules.check(URL("https://a.de/1"))

    robots._STORES.clear()
    asyncio.run(many())
    asyncio.run(many())  # of another shard
    assert server.asked == 2


def test_what_a_server_answers_instead() -> None:
    url = "http://a.de/x"
    assert checked(Server(404), url) == [0.0]
    assert checked(Server(403), url) == [0.0]
    assert checked(Server(503), url, url) == ["robots_unreachable"] * 2
    assert checked(Server(429), url) == ["robots_unreachable"]
    assert checked(Server(200, bytes(range(256)) * 40), url) == [0.0]
    assert checked(Server(0, error=FetchError("redirects", "")), url) == [0.0]
    assert checked(Server(0, error=FetchError("dns_not_found", "")), url, url) == ["dns_not_found"] * 2


def test_rules_of_many_origins_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robots, "MOST_HELD_BYTES", 8 * 1024)
    server = Server(200, RULES)
    checked(server, *(f"http://h{n}.de/x" for n in range(20)), "http://h19.de/x", "http://h0.de/x")
    assert server.asked == 21


@pytest.mark.parametrize(
    ("headers", "out"),
    [
        (["noai"], True),
        (["NoImageIndex"], True),
        (["all"], False),
        (["nosnippet, noindex"], True),
        (["dcfast: noai"], True),
        (["otherbot: noai"], False),
        (["otherbot: noai", "noimageai"], True),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST"], False),
        (["max-snippet: 20, noindex"], True),
        ([], False),
        ([""], False),
    ],
)
def test_opt_outs(headers: list[str], out: bool) -> None:
    assert opts_out(headers, "dcfast", DIRECTIVES) == out
    assert not opts_out(headers, "dcfast", ())
