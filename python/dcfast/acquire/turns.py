"""Whose turn it is: rows wait by host, so that one slow host holds up its own rows and no others."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

_LONGEST_SLEEP = 60.0


@dataclass(slots=True)
class _Host:
    name: str
    rows: list[int] = field(default_factory=list)
    """That wait, the next one first; no deque, which takes 700 bytes for the one row that most hosts have."""
    active: int = 0
    not_before: float = 0.0
    failures: int = 0
    """Connections that failed, one after the other."""
    is_waiting: bool = False
    """Stands in the queue of those that are ready, or among those that come later."""


class Turns:
    """The rows of a shard, in turns of their hosts.

    Args:
        connections: of a host at once.   per_second: requests to a host, 0 for no limit.
        most_failures: of connections to a host in a row, until its other rows are given up; 0 for never.
    A row that is tried again waits without holding a place. Memory: 40 bytes a row, 300 a host.
    """

    def __init__(self, connections: int, per_second: float, most_failures: int) -> None:
        self._connections, self._most_failures = connections, most_failures
        self._between = 1.0 / per_second if per_second else 0.0
        self._hosts: dict[str, _Host] = {}
        self._ready: deque[_Host] = deque()
        self._later: list[tuple[float, int, _Host, int]] = []  # time, order, host, row (-1: the host itself)
        self._order = 0
        self._changed = asyncio.Event()
        self.waiting: int = 0
        self.active: int = 0

    def add(self, row: int, host: str) -> None:
        """A row that is to be fetched."""
        place = self._place(host)
        place.rows.append(row)
        self.waiting += 1
        self._offer(place)

    def again(self, row: int, host: str, seconds: float) -> None:
        """A row that is to be fetched after some time."""
        self.waiting += 1
        self._push(time.monotonic() + seconds, self._place(host), row)

    def pause(self, host: str, seconds: float) -> None:
        """No request to a host for some time."""
        place = self._place(host)
        place.not_before = max(place.not_before, time.monotonic() + seconds)

    def done(self, host: str, *, failed: bool) -> None:
        """A row of a host is no longer at work; ``failed``: its connection was."""
        place = self._hosts[host]
        place.active -= 1
        self.active -= 1
        place.failures = place.failures + 1 if failed else 0
        self._offer(place)

    def moved(self, row: int, host: str) -> None:
        """A row that a redirect leads to a host: it comes before those that have not begun.

        The place that it held at another one is given back by ``done``. It holds none while it waits, so that no two
        hosts wait for each other.
        """
        place = self._place(host)
        place.rows.insert(0, row)
        self.waiting += 1
        self._offer(place)

    def asked(self, host: str) -> None:
        """A request was made to a host beyond that of a row's turn, as of a redirect to itself."""
        place = self._place(host)
        place.not_before = max(place.not_before, time.monotonic()) + self._between

    def is_over(self, host: str) -> bool:
        """Whether none of its rows waits for a turn, so that a connection to it need not be kept."""
        place = self._hosts.get(host)
        return place is None or not place.rows

    def is_down(self, host: str) -> bool:
        """Whether so many connections to it have failed that the others would, too."""
        place = self._hosts.get(host)
        return place is not None and 0 < self._most_failures <= place.failures

    def slowest(self, most: int = 3) -> list[tuple[str, int]]:
        """The hosts with most rows that wait, and how many."""
        counts = ((place.name, len(place.rows) + place.active) for place in self._hosts.values())
        return heapq.nlargest(most, (one for one in counts if one[1]), key=lambda one: one[1])

    async def next(self) -> tuple[int, str] | None:
        """The next row and its host, as soon as it is its turn; None when all are done."""
        while True:
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                self._come_up(*heapq.heappop(self._later)[2:])
            while self._ready:
                place = self._ready.popleft()
                place.is_waiting = False
                if place.not_before > now:
                    self._put_off(place)
                elif place.rows and place.active < self._connections:
                    return self._take(place, now)
            if not self.waiting and not self.active:
                return None
            self._changed.clear()
            seconds = min(self._later[0][0] - now, _LONGEST_SLEEP) if self._later else _LONGEST_SLEEP
            await _wait_for(self._changed, seconds)

    def _place(self, host: str) -> _Host:
        if (place := self._hosts.get(host)) is None:
            place = self._hosts[host] = _Host(host)
        return place

    def _take(self, place: _Host, now: float) -> tuple[int, str]:
        row = place.rows.pop(0)
        place.active += 1
        self.active += 1
        self.waiting -= 1
        place.not_before = max(place.not_before, now + self._between)
        self._offer(place)
        return row, place.name

    def _offer(self, place: _Host) -> None:
        if place.rows and place.active < self._connections and not place.is_waiting:
            place.is_waiting = True
            self._ready.append(place)
        self._changed.set()

    def _put_off(self, place: _Host) -> None:
        place.is_waiting = True
        self._push(place.not_before, place, -1)

    def _push(self, when: float, place: _Host, row: int) -> None:
        self._order += 1
        heapq.heappush(self._later, (when, self._order, place, row))
        self._changed.set()

    def _come_up(self, place: _Host, row: int) -> None:
        if row >= 0:
            place.rows.append(row)
        else:
            place.is_waiting = False
        self._offer(place)


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    handle: Callable[[], None] = asyncio.get_running_loop().call_later(max(0.0, seconds), event.set).cancel
    try:
        await event.wait()
    finally:
        handle()
