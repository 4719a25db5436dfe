"""robots.txt (RFC 9309): read once a day for each origin, by Protego; and the opt-outs in headers of an answer."""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence

from protego import Protego
from yarl import URL

from dcfast.acquire.addresses import place_of
from dcfast.acquire.causes import FetchError
from dcfast.storage.lines import split_lines

MOST_ROBOTS_BYTES = 512 << 10
"""What is read of a robots.txt; RFC 9309 wants 500 KiB at least."""
VALID_SECONDS = 86_400.0
FAILED_SECONDS = 300.0
"""Until a robots.txt that a server failed to give is asked for again."""
MOST_HELD_BYTES = 8 << 20
"""Of the texts of those that are remembered."""
MOST_PARSED_BYTES = 256 << 10
"""Of the texts of those that Protego has read: it takes thirty times that, and milliseconds to read one again."""
_HELD_AT_LEAST = 1024
_AGENT_LINE = re.compile(r"user(?:-|\s*)agent(?:\s*:|\s)\s*(.*)", re.IGNORECASE)
_NO_ENDS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
"""What Python, and so Protego, cuts lines at, and RFC 9309 does not."""
_SITE_WIDE = re.compile(r"(?:site-?maps?|host)(?:\s*:|\s)", re.IGNORECASE)
"""Lines that belong to no group."""
MOST_CRAWL_DELAY = 10.0
_AGENT = re.compile(r"\*|[a-z][^\s:]*")
"""Of a header. What has spaces or begins with a digit is part of a date."""
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")

Read = Callable[[URL], Awaitable[tuple[int, bytes]]]


class _Rules:
    """What an origin says to us: ``text`` empty for anything allowed; ``failure`` where it could not be had."""

    def __init__(self, text: str, valid: float, failure: FetchError | None = None) -> None:
        self.text = text
        self.failure = failure
        self.size = max(len(text), _HELD_AT_LEAST)
        self.until = time.monotonic() + valid


class _Store:
    """The rules of origins, of all shards that a process has done."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Rules] = OrderedDict()
        self._held = 0
        self._parsed: OrderedDict[str, tuple[_Rules, Protego | None]] = OrderedDict()

    def get(self, origin: str) -> _Rules | None:
        """Those that are known and valid still."""
        found = self._known.get(origin)
        if found is None or found.until <= time.monotonic():
            return None
        self._known.move_to_end(origin)
        return found

    def put(self, origin: str, found: _Rules) -> None:
        """Remembers rules, and forgets those that were asked for longest ago where there are too many."""
        before = self._known.pop(origin, None)
        self._held += found.size - (before.size if before is not None else 0)
        self._known[origin] = found
        while self._held > MOST_HELD_BYTES and len(self._known) > 1:
            self._held -= self._known.popitem(last=False)[1].size

    def parsed(self, origin: str, found: _Rules) -> Protego | None:
        """What an origin's text says; None for anything allowed."""
        if not found.text:
            return None
        known = self._parsed.pop(origin, None)
        if known is None or known[0] is not found:
            known = (found, _parse(found.text))
            held = found.size + sum(one.size for one, _ in self._parsed.values())
            while held > MOST_PARSED_BYTES and self._parsed:
                held -= self._parsed.popitem(last=False)[1][0].size
        self._parsed[origin] = known
        return known[1]


_STORES: dict[str, _Store] = {}
"""By agent."""


class Robots:
    """The rules of origins, for one agent.

    Args:
        agent: the token that robots.txt knows us by.
        read: asks for a URL, redirects followed: (status, at most ``MOST_ROBOTS_BYTES``); raises FetchError.
    An answer of 4xx allows everything, one of 5xx nothing. Memory: ``MOST_HELD_BYTES``, and thirty times
    ``MOST_PARSED_BYTES``.
    """

    def __init__(self, agent: str, read: Read) -> None:
        self._agent, self._read = agent, read
        self._store = _STORES.setdefault(agent, _Store())
        self._asked: dict[str, asyncio.Future[_Rules]] = {}

    async def check(self, url: URL) -> float:
        """The seconds that its host wants between requests. FetchError: robots, robots_unreachable, or why it could
        not be asked for."""
        origin = f"{url.scheme}://{place_of(url)}"
        found = self._store.get(origin) or await self._shared(origin)
        if found.failure is not None:
            raise found.failure.fresh()
        rules = self._store.parsed(origin, found)
        if rules is None:
            return 0.0
        if not rules.can_fetch(str(url), self._agent):
            raise FetchError("robots", "disallowed by robots.txt", final_url=str(url))
        return min(float(rules.crawl_delay(self._agent) or 0.0), MOST_CRAWL_DELAY)

    async def _shared(self, origin: str) -> _Rules:
        if origin not in self._asked:
            task = asyncio.ensure_future(self._ask(origin))
            self._asked[origin] = task
            task.add_done_callback(lambda done: (self._asked.pop(origin, None), done.cancelled() or done.exception()))
        return await asyncio.shield(self._asked[origin])

    async def _ask(self, origin: str) -> _Rules:
        try:
            status, text = await self._read(URL(f"{origin}/robots.txt", encoded=True))
        except FetchError as error:
            if error.cause in ("redirects", "gone", "too_large", "not_image", "private_address", "invalid_url"):
                found = _Rules("", VALID_SECONDS)  # there is none that could be read
            else:
                is_brief = error.cause in ("timeout", "connection")
                found = _Rules("", 0.0 if is_brief else FAILED_SECONDS, error.fresh())
        else:
            found = _rules_of(status, text, self._agent)
        self._store.put(origin, found)
        return found


def _rules_of(status: int, text: bytes, agent: str) -> _Rules:
    if status >= 500 or status == 429:
        message = f"robots.txt: HTTP Error {status}"
        return _Rules("", FAILED_SECONDS, FetchError("robots_unreachable", message, http_status=status))
    # a mark of the order of bytes is no part of a rule
    ours = _lines_of(text.decode("utf-8-sig", "replace"), agent) if status < 300 else ""
    return _Rules(ours, VALID_SECONDS)


def _parse(text: str) -> Protego | None:
    try:
        return Protego.parse(text)
    except Exception:  # a parser of a stranger's text: what it cannot read rules nothing out
        return None


def _lines_of(text: str, agent: str) -> str:
    """The groups of a robots.txt that are for an agent, or for all.

    Protego gives each rule to each agent of its group: of ten thousand agents with ten thousand rules it would make
    minutes and gigabytes.
    """
    kept: list[str] = []
    names = ("*", agent.lower())
    is_ours = begins = False
    for line in split_lines(_NO_ENDS.sub(" ", text).replace("\r", "\n")):
        line = line.partition("#")[0].strip()
        if not line or _SITE_WIDE.match(line):
            continue
        if match := _AGENT_LINE.match(line):
            is_ours, begins = is_ours and begins, True
            name = match[1].strip().lower()
            name = name if name == "*" else name.replace("*", "").partition("/")[0].strip()
            if name in names:
                is_ours = True
                kept.append(f"User-agent: {name}")
        else:
            begins = False
            if is_ours:
                kept.append(line)
    return "\n".join(kept)


def opts_out(headers: Iterable[str], agent: str, directives: Sequence[str]) -> bool:
    """Whether ``X-Robots-Tag`` headers forbid the use of an image to an agent.

    Directives stand between commas; semicolons are taken for such. An agent and a colon before one make it and those
    behind it that agent's alone, until another is named; ``*`` is all of them. ``none`` stands for noindex and
    nofollow. A directive with a value (``unavailable_after: 25 Jun 2030 15:00:00 PST``) is no agent, and forbids
    nothing.
    """
    forbidden = {directive.lower() for directive in directives}
    if "noindex" in forbidden:
        forbidden |= {"none"}
    for header in headers:
        is_ours = True
        for part in re.split(r"[,;]", header.lower()):
            head, colon, rest = part.partition(":")
            if colon and head.strip() not in _WITH_VALUE and _AGENT.fullmatch(head.strip()):
                is_ours = head.strip().partition("/")[0] in ("*", agent.lower())
                part = rest
            if is_ours and part.strip() in forbidden:
                return True
    return False
