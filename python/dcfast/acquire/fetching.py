"""The rows of a shard at work: fetched in turns of their hosts, decoded in threads beside, put into the spool."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from dcfast.acquire.addresses import host_of
from dcfast.acquire.apart import make_apart
from dcfast.acquire.causes import CAUSES, FetchError
from dcfast.acquire.members import make_member
from dcfast.acquire.memory import connections_at_once, keep_small_blocks
from dcfast.acquire.options import ImageOptions, WebOptions
from dcfast.acquire.redirects import Moved, Trail
from dcfast.acquire.rows import Row, Rows
from dcfast.acquire.spool import Fetched, Spool
from dcfast.acquire.stats import Live
from dcfast.acquire.turns import Turns
from dcfast.acquire.web import Web, open_web
from dcfast.errors import first_line
from dcfast.storage.atomic import write_json
from dcfast.storage.records import plain, replaced

LIVE_SECONDS = 2.0
DECODERS = 2
"""Threads that decode, of a worker."""
_CONNECTION = ("timeout", "too_slow", "connection", "dns_temporary", "dns_not_found", "tls", "throttled")
"""Causes that say that a host is not to be reached now, rather than that it refuses one of its images: one that asks
for a minute's patience again and again would hold a shard for days."""
_MOST_DOUBLINGS = 6
"""Of the pause between attempts."""


async def fetch_rows(rows: Rows, spool: Spool, image: ImageOptions, options: WebOptions, live: Path) -> None:
    """Every row has its outcome in the spool when it returns.

    Args:
        rows: of the shard, those too that are in the spool already.   live: where it says how far it is.
    Raises:
        OSError: the spool cannot be written.   MissingDependencyError, ImportError: a package is not there.
    """
    keep_small_blocks()
    async with open_web(options) as web:
        work = _Work(rows, spool, image, options, web)
        telling = asyncio.create_task(work.tell(live))
        try:
            await work.fetch()
        finally:
            telling.cancel()


class _Work:
    """The rows of a shard in an event loop."""

    def __init__(
        self,
        rows: Rows,
        spool: Spool,
        image: ImageOptions,
        options: WebOptions,
        web: Web,
    ) -> None:
        self._rows, self._spool, self._image, self._options = rows, spool, image, options
        self._web = web
        self._decoders = asyncio.Semaphore(DECODERS)
        self._turns = Turns(options.host_connections, options.host_rate, options.host_failures)
        self._slots = asyncio.Semaphore(connections_at_once(options.connections))
        self._attempts: defaultdict[int, int] = defaultdict(int)
        self._seconds: defaultdict[int, float] = defaultdict(float)
        self._trails: dict[int, Trail] = {}
        """Rows that a redirect has led to another host, whose turn they wait for."""
        self._last: dict[int, FetchError] = {}
        """Why the last attempt of a row that is put off failed."""

    async def fetch(self) -> None:
        """All rows; see ``fetch_rows``."""
        for row in self._rows:
            if row.number not in self._spool:
                self._turns.add(row.number, host_of(row.url))
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._slots.acquire()
                    turn = await self._turns.next()
                    if turn is None:
                        return
                    tasks.create_task(self._attempt(self._rows.of(turn[0]), turn[1]))
        except BaseExceptionGroup as group:  # a full disk, say: whatever else failed did so by it
            raise group.exceptions[0] from None

    async def tell(self, path: Path) -> None:
        """Says how far it is, until it is cancelled."""
        while True:
            with suppress(OSError):  # it is for the eye alone
                spool = self._spool
                live = Live(len(self._rows), len(spool), spool.successes, dict(self._turns.slowest()))
                write_json(path, plain(live), sync=False)
            await asyncio.sleep(LIVE_SECONDS)

    async def _attempt(self, row: Row, host: str) -> None:
        """One attempt of a row: its outcome goes into the spool, or it is put off."""
        began = time.monotonic()
        failure: FetchError | None = None
        was_down = self._turns.is_down(host)
        try:
            await self._get(row, host, began)
        except Moved as moved:
            self._trails[row.number] = moved.trail
            self._seconds[row.number] += time.monotonic() - began
            self._turns.moved(row.number, moved.host)
        except FetchError as error:
            failure = error.fresh()  # its frames would hold this one, which holds it, and the body, until gc finds them
        except MemoryError:
            raise
        except Exception as error:  # of a library, on what a stranger sent: one row of millions, and it is counted
            if self._spool.is_broken:
                raise
            failure = FetchError("unforeseen", f"{type(error).__name__}: {first_line(error)}"[:300])
        finally:
            self._slots.release()
        if failure is not None:
            self._seconds[row.number] += time.monotonic() - began
            self._failed(row, host, failure)
        # what a server answered is no failure of its connection
        failed = failure is not None and failure.cause in (*_CONNECTION, "host_down")
        self._turns.done(host, failed=was_down or failed)

    async def _get(self, row: Row, host: str, began: float) -> None:
        """An attempt, or what is left of one after a redirect. FetchError: there is no image.   Moved: there may be one
        at another host."""
        trail = self._trails.pop(row.number, None)
        if row.problem:
            raise FetchError("bad_row", row.problem)
        if self._turns.is_down(host):
            message = f"{host} failed {self._options.host_failures} times in a row"
            raise self._last.pop(row.number, None) or FetchError(
                "host_down", message, final_url="" if trail is None else str(trail.url)
            )
        self._attempts[row.number] += trail is None
        async with self._web.fetch(row.url, self._turns, trail) as answer:
            async with self._decoders:  # the threads are asyncio's own
                make = make_apart if row.number in self._spool.suspects else make_member
                self._spool.decoding(row.number)
                fetched, data = await asyncio.to_thread(make, row, answer, self._image)
            self._seconds[row.number] += time.monotonic() - began
            self._add(row, fetched, data)

    def _failed(self, row: Row, host: str, failure: FetchError) -> None:
        attempt, options, asked = self._attempts[row.number], self._options, failure.retry_after
        if asked is not None:
            self._turns.pause(host, min(asked, options.max_wait))
        may_help = CAUSES[failure.cause].again and attempt <= options.retries and (asked or 0.0) <= options.max_wait
        if may_help and not self._turns.is_down(host):
            pause = max(options.backoff * 2.0 ** min(attempt - 1, _MOST_DOUBLINGS), asked or 0.0)
            self._last[row.number] = failure
            self._turns.again(row.number, host_of(row.url), min(pause, options.max_wait))
            return
        fetched = Fetched(
            number=row.number,
            status=CAUSES[failure.cause].status,
            cause=failure.cause,
            message=failure.message,
            final_url=failure.final_url,
            http_status=failure.http_status,
        )
        self._add(row, fetched, b"")

    def _add(self, row: Row, fetched: Fetched, data: bytes) -> None:
        number = row.number
        self._last.pop(number, None)
        seconds = round(self._seconds.pop(number, 0.0), 3)
        self._spool.add(replaced(fetched, attempts=self._attempts.pop(number, 0), seconds=seconds), data)
