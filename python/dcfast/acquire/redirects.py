"""Where a row's redirects have led: each host that one leads to is asked when it is that host's turn."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp
from yarl import URL

from dcfast.acquire.addresses import place_of

_MOST_KEPT_CHARACTERS = 4096
"""Of the URL and the cookies of a row that waits for its turn at another host: rows wait by the ten thousand."""


@dataclass
class Trail:
    """A row's URL as far as redirects have led, and what goes on with them.

    Attributes:
        url: that is asked for next.   hops: redirects until there.   spent: seconds of the row's deadline.
    """

    url: URL
    hops: int = 0
    spent: float = 0.0
    _jar: aiohttp.CookieJar | None = None

    def take_cookies(self, response: aiohttp.ClientResponse) -> None:
        """Those that an answer of ``url`` sets, for the rest of the chain."""
        if response.cookies:
            self._jar = self._jar if self._jar is not None else aiohttp.CookieJar(unsafe=True)
            self._jar.update_cookies(response.cookies, self.url)

    @property
    def cookies(self) -> str:
        """Those that ``url`` gets, as a header has them."""
        found = self._jar.filter_cookies(self.url) if self._jar is not None else {}
        return "; ".join(f"{name}={cookie.coded_value}" for name, cookie in found.items())

    @property
    def may_wait(self) -> bool:
        """Whether it is short enough to be kept while others have their turns."""
        cookies = sum(len(one.key) + len(one.coded_value) for one in self._jar or ())
        return len(str(self.url)) + cookies <= _MOST_KEPT_CHARACTERS


class Moved(Exception):  # noqa: N818  (no error: the row goes on elsewhere)
    """A redirect leads to another host, whose turn it is not.

    Attributes:
        trail: what ``Web.fetch`` takes then.   host: where.
    """

    def __init__(self, trail: Trail) -> None:
        super().__init__(str(trail.url))
        self.trail = trail
        self.host: str = place_of(trail.url)
