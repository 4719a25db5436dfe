"""robots.txt and the opt-outs of headers: what they forbid is not fetched, and what they do not say is."""

from __future__ import annotations

import asyncio
import time

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


def test_rules_that_were_read_are_read_again_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robots, "MOST_PARSED_BYTES", 3 * 1024)
    server = Server(200, RULES)
    urls = [f"http://h{n}.de/{part}/x" for _ in range(2) for n in range(6) for part in ("ours", "all")]
    assert checked(server, *urls) == ["robots", 0.0] * 12
    assert server.asked == 6
    [store] = robots._STORES.values()
    assert len(store._parsed) == 3


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
        (["none"], True),
        (["NONE, noarchive"], True),
        (["*: noai"], True),
        (["*: none"], True),
        (["all; noai"], True),
        (["noai; noindex"], True),
        (["DCFast/0.1: noimageai"], True),
        (["dcfaster: noai"], False),
        (["otherbot: noindex, noai"], False),
        (["otherbot: nofollow, dcfast: noai"], True),
        (["dcfast: nofollow, otherbot: noai"], False),
        (["otherbot: noai, *: noindex"], True),
        (["otherbot: all", "all", "dcfast:noindex"], True),
        (["unavailable_after: Tuesday, 25 Jun 2030 15:00:00 PST, noindex"], True),
        (["unavailable_after: 2030-06-25T15:00:00+00:00; noai"], True),
        (["max-image-preview: none"], False),
        (["noaicado", "no ai"], False),
        ([":noai"], False),
    ],
)
def test_opt_outs(headers: list[str], out: bool) -> None:
    assert opts_out(headers, "dcfast", DIRECTIVES) == out
    assert not opts_out(headers, "dcfast", ())


def test_opt_outs_are_those_that_are_asked_for() -> None:
    assert opts_out(["none"], "dcfast", ["noindex"])
    assert not opts_out(["none"], "dcfast", ["noai"]), "which stands for noindex and nofollow"
    assert opts_out(["noml"], "dcfast", ["noml"])
    began = time.process_time()
    assert not opts_out([",:;" * 100_000], "dcfast", DIRECTIVES)
    assert time.process_time() - began < 2


def test_rules_for_ten_thousand_agents_take_no_time() -> None:
    """Each agent of a group has each of its rules: a hundred million of them, in half a megabyte."""
    agents = "".join(f"User-agent: a{n}\n" for n in range(12_000))
    text = f"{agents}User-agent: dcfast\n" + "".join(f"Allow: /{n}\n" for n in range(10_000)) + "Disallow: /x\n"
    began = time.monotonic()
    hidden = text.replace("\n", "\x0b").replace("User-agent: dcfast\x0b", "\rUser-agent: dcfast\r")
    assert checked(Server(200, hidden.encode()), "http://a.de/x") == [0.0], "one line, and no rule of it"
    assert checked(Server(200, text.encode()), "http://a.de/x", "http://a.de/1", "http://a.de/y") == [
        "robots",
        0.0,
        0.0,
    ]
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("User-agent: other\nDisallow: /x", [0.0, 0.0]),
        ("User-agent: other\nUser-agent: *\nDisallow: /x", ["robots", 0.0]),
        ("User-agent: *\nUser-agent: other\nDisallow: /x", ["robots", 0.0]),
        ("User-agent: *\nSitemap: http://a.de/s\nUser-agent: other\nDisallow: /x", ["robots", 0.0]),
        ("User-agent: *\nDisallow: /y\n\nUser-agent: other\nDisallow: /x", [0.0, "robots"]),
        ("User-agent: other\nDisallow: /x\nUser-agent: DCFAST/0.1 # us\nDisallow: /y", [0.0, "robots"]),
        ("user agent dcfast*\ndisallow /x\nUser-Agent:*\nDisallow: /y", ["robots", 0.0]),
        ("User-agent: dcfaster\nDisallow: /", [0.0, 0.0]),
        ("Disallow: /x\nUser-agent: *\nDisallow: /y", [0.0, "robots"]),
        ("User-agent: *\n# User-agent: other\n\nDisallow: /x", ["robots", 0.0]),
    ],
)
def test_groups_of_others_are_left_out_and_no_others(text: str, found: list[str | float]) -> None:
    assert checked(Server(200, text.encode()), "http://a.de/x", "http://a.de/y") == found
