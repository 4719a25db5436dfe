"""What a worker may take: of memory for bodies, in lanes by size, so that one of a gigabyte holds up no small
one; and of open files."""

from __future__ import annotations

import asyncio
import ctypes
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache

LANES = ((192 << 10, 24), (512 << 10, 12), (1 << 20, 6), (2 << 20, 1))
"""Bytes, and how many bodies of more are held at once; of fewer than the first any number, one a connection."""


_M_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 8 << 20
_OTHER_FILES = 64


@cache
def free_large_blocks() -> None:
    """From here on the system gets blocks of 8 MB back as soon as this process frees them.

    glibc does so only until the first such block is freed: later ones come of its heap, which keeps them.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


def connections_at_once(wanted: int) -> int:
    """As many requests at once as may have files open: each needs one, and one that idles beside it.

    The limit of this process is raised for it where the system lets it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + _OTHER_FILES
    if soft < needed and soft != resource.RLIM_INFINITY:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft >= needed or soft == resource.RLIM_INFINITY else max(1, (soft - _OTHER_FILES) // 2)


class Lanes:
    """Room for the bodies of an event loop.

    Memory: 192 KiB a connection, 22 MB, and one body of the largest. A body that grows waits for room in the lane of
    its size, and holds that of the smaller ones meanwhile: those in the largest lane wait for nothing, so that none
    waits for ever.
    """

    def __init__(self) -> None:
        self._limits = tuple((limit, asyncio.Semaphore(bodies)) for limit, bodies in LANES)

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
