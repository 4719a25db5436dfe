"""What a worker may take: of memory for bodies, in lanes by size, so that one of a gigabyte holds up no small
one; and of open files."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

LANES = ((192 << 10, 24), (512 << 10, 12), (1 << 20, 6), (2 << 20, 1))
"""Bytes, and how many bodies of more are held at once; of fewer than the first any number, one a connection."""


_MAPPED_BYTES, _KEPT_BYTES = 8 << 20, 16 << 20
_MALLOPT = {-3: _MAPPED_BYTES, -1: _KEPT_BYTES, -8: 2}
"""glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX."""
_OTHER_FILES = 64
_ARROW_POOL = "ARROW_DEFAULT_MEMORY_POOL"


@cache
def keep_small_blocks() -> None:
    """From here on this process keeps up to 16 MB of what it freed in each of two heaps: new pages for every image
    take a tenth of its time. The system gets blocks of 8 MB back as soon as they are freed.

    As it is, glibc keeps 128 KB, and from the first large block on all that are as large.
    """
    with suppress(AttributeError, OSError):  # another C library
        for option, value in _MALLOPT.items():
            ctypes.CDLL(None).mallopt(option, value)


def load_arrow() -> None:
    """Arrow with the system's allocator for all that it does, where it is not loaded yet: its own keeps 20 MB and more
    of what a table took that was written, and the writer of parquet files has it by no other way.
    """
    if "pyarrow" in sys.modules or _ARROW_POOL in os.environ:
        return
    os.environ[_ARROW_POOL] = "system"  # looked at once, by the import
    try:
        import pyarrow as pa  # noqa: F401
    finally:
        del os.environ[_ARROW_POOL]


@contextmanager
def arrow_of_the_system() -> Iterator[None]:
    """Arrow takes memory of the system's allocator in the block, as far as its caller says whose."""
    load_arrow()
    import pyarrow as pa

    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


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

    def taken(self) -> Lane:
        """Room for a body, until a block ends."""
        return Lane(self._limits)


class Lane:
    """The room that one body has."""

    def __init__(self, limits: tuple[tuple[int, asyncio.Semaphore], ...]) -> None:
        self._limits = limits
        self._held: list[asyncio.Semaphore] = []

    async def grow(self, size: int, *deadlines: asyncio.Timeout) -> None:
        """Room for this many bytes in all; the time that is waited for it is given to the deadlines."""
        for limit, room in self._limits[len(self._held) :]:
            if size <= limit:
                return
            if not room.locked():
                await room.acquire()
                self._held.append(room)
                continue
            ends = [(one, when) for one in deadlines if (when := one.when()) is not None]
            for one, _ in ends:
                one.reschedule(None)
            began = asyncio.get_running_loop().time()
            await room.acquire()
            self._held.append(room)
            for one, when in ends:
                one.reschedule(when + asyncio.get_running_loop().time() - began)

    async def __aenter__(self) -> Lane:
        """Nothing is taken yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Gives it back."""
        while self._held:
            self._held.pop().release()
