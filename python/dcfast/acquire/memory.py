"""What bodies may take together: three lanes by size, so that one of a gigabyte holds up no small one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SMALL_BYTES = 256 << 10
"""Any number of bodies up to this size are held, one a connection."""
MIDDLE_BYTES = 2 << 20
MIDDLE_BODIES = 12
"""Bodies beyond ``SMALL_BYTES`` that are held at once; and one beyond ``MIDDLE_BYTES``."""


class Lanes:
    """Room for the bodies of an event loop.

    Memory: ``SMALL_BYTES`` a connection, ``MIDDLE_BODIES`` of ``MIDDLE_BYTES``, and one of the largest. A body that
    grows waits for room in the lane of its size, and holds that of the smaller one meanwhile: those in the largest
    lane wait for nothing, so that none waits for ever.
    """

    def __init__(self, max_bytes: int) -> None:
        self._middle = asyncio.Semaphore(MIDDLE_BODIES)
        self._large = asyncio.Semaphore(1)
        self._limits = ((SMALL_BYTES, self._middle), (MIDDLE_BYTES, self._large))
        self.max_bytes = max_bytes

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[Lane]:
        """Room for a body, until the block ends."""
        lane = Lane(self._limits)
        try:
            yield lane
        finally:
            lane.leave()


class Lane:
    """The room that one body has."""

    def __init__(self, limits: tuple[tuple[int, asyncio.Semaphore], ...]) -> None:
        self._limits = limits
        self._held: list[asyncio.Semaphore] = []

    async def grow(self, size: int, deadline: asyncio.Timeout) -> None:
        """Room for this many bytes in all; the time that is waited for it is given to the deadline."""
        for limit, room in self._limits[len(self._held) :]:
            if size <= limit:
                return
            began = asyncio.get_running_loop().time()
            if room.locked() and (when := deadline.when()) is not None:
                deadline.reschedule(None)
                await room.acquire()
                deadline.reschedule(when + asyncio.get_running_loop().time() - began)
            else:
                await room.acquire()
            self._held.append(room)

    def leave(self) -> None:
        """Gives it back."""
        while self._held:
            self._held.pop().release()
