"""robots.txt (RFC 9309): read once a day for each origin, by Protego; and the opt-outs in headers of an answer."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence

from protego import Protego
from yarl import URL

from dcfast.acquire.causes import FetchError

MOST_ROBOTS_BYTES = 512 << 10
"""What is read of a robots.txt; RFC 9309 wants 500 KiB at least."""
VALID_SECONDS = 86_400.0
FAILED_SECONDS = 300.0
"""Until a robots.txt that a server failed to give is asked for again."""
MOST_HELD_BYTES = 8 << 20
"""Of the texts of those that are remembered; what Protego makes of them takes some ten times that."""
_HELD_AT_LEAST = 1024
MOST_CRAWL_DELAY = 10.0
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")

Read = Callable[[URL], Awaitable[tuple[int, bytes]]]


class _Rules:
    """What an origin says: ``rules`` None for anything allowed; ``failure`` where it could not be had."""

    def __init__(self, rules: Protego | None, failure: FetchError | None, size: int, valid: float) -> None:
        self.rules = rules
        self.failure = failure
        self.size = max(size, _HELD_AT_LEAST)
        self.until = time.monotonic() + valid


class _Store:
    """The rules of origins, of all shards that a process has done."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Rules] = OrderedDict()
        self._held = 0

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


_STORES: dict[str, _Store] = {}
"""By agent."""


class Robots:
    """The rules of origins, for one agent.

    Args:
        agent: the token that robots.txt knows us by.
        read: asks for a URL, redirects followed: (status, at most ``MOST_ROBOTS_BYTES``); raises FetchError.
    An answer of 4xx allows everything, one of 5xx nothing. Memory: some ten times ``MOST_HELD_BYTES``.
    """

    def __init__(self, agent: str, read: Read) -> None:
        self._agent, self._read = agent, read
        self._store = _STORES.setdefault(agent, _Store())
        self._asked: dict[str, asyncio.Future[_Rules]] = {}

    async def check(self, url: URL) -> float:
        """The seconds that its host wants between requests. FetchError: robots, robots_unreachable, or why it could
        not be asked for."""
        origin = str(url.origin())
        found = self._store.get(origin) or await self._shared(origin)
        if found.failure is not None:
            raise found.failure.fresh()
        if found.rules is None:
            return 0.0
        if not found.rules.can_fetch(str(url), self._agent):
            raise FetchError("robots", "disallowed by robots.txt", final_url=str(url))
        return min(float(found.rules.crawl_delay(self._agent) or 0.0), MOST_CRAWL_DELAY)

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
                found = _Rules(None, None, 0, VALID_SECONDS)  # there is none that could be read
            else:
                found = _Rules(None, error, 0, 0.0 if error.cause in ("timeout", "connection") else FAILED_SECONDS)
        else:
            found = _rules_of(status, text)
        self._store.put(origin, found)
        return found


def _rules_of(status: int, text: bytes) -> _Rules:
    if status >= 500 or status == 429:
        message = f"robots.txt: HTTP Error {status}"
        return _Rules(None, FetchError("robots_unreachable", message, http_status=status), 0, FAILED_SECONDS)
    if status >= 300:
        return _Rules(None, None, 0, VALID_SECONDS)
    try:
        rules = Protego.parse(text.decode("utf-8-sig", "replace"))  # a mark of the order of bytes is no part of a rule
    except Exception:  # a parser of a stranger's text: what it cannot read rules nothing out
        return _Rules(None, None, 0, VALID_SECONDS)
    return _Rules(rules, None, len(text), VALID_SECONDS)


def opts_out(headers: Iterable[str], agent: str, directives: Sequence[str]) -> bool:
    """Whether ``X-Robots-Tag`` headers forbid the use of an image.

    A value may begin with an agent and a colon, and is then for that one alone; a colon behind a directive that has a
    value (``unavailable_after: 25 Jun 2030 15:00:00 PST``) names no agent.
    """
    forbidden = {directive.lower() for directive in directives}
    for header in headers:
        head, colon, rest = header.partition(":")
        if colon and head.strip().lower() not in _WITH_VALUE and "," not in head:
            if head.strip().lower() != agent.lower():
                continue
            header = rest
        if forbidden & {part.strip().lower() for part in header.split(",")}:
            return True
    return False
