"""A bounded read-ahead: threads work on the next items while the caller has a result in use."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(
    work: Callable[[T], R],
    items: Iterable[T],
    *,
    threads: int,
    ahead: int,
    size: Callable[[T], int] = lambda item: 0,
    memory_bytes: int = 0,
    name: str = "dcfast-ahead",
) -> Generator[R, None, None]:
    """The results of ``work`` for each item, in order.

    Args:
        work: called in ``threads`` threads (at least one).
        items: taken in the caller's thread, as they are needed; may be endless.
        ahead: results that are made, or wait, beside the one in use; 0 makes each when it is asked for.
        size: bytes of an item's result; those made, waiting and in use have ``memory_bytes`` together at most, but a
            larger one comes alone.
        name: of the threads.
    Raises:
        ValueError: ``ahead`` is negative.
        Whatever ``work`` or ``items`` raised, as it is and in its place: after the results that come before it.
    Memory: ``ahead`` + 1 results and items. After an error, and where the caller stops early (``close``), what is not
    begun is not begun any more, and the threads have ended: that waits for the calls under way.
    """
    if ahead < 0:
        raise ValueError(f"ahead must be at least 0; got {ahead}")
    waiting: deque[tuple[int, Future[R]]] = deque()
    held = 0  # bytes of the results that wait, and of the one in use
    rest = iter(items)
    taken: list[T] = []  # at most one: it was too large to be begun
    failure: Exception | None = None
    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix=name)
    is_finalizing = sys.is_finalizing  # of a generator that is dropped as Python ends, the modules are empty by then
    try:
        while True:
            while failure is None and len(waiting) <= ahead:
                try:
                    taken = taken or [next(rest)]
                except StopIteration:
                    break
                except Exception as error:
                    failure = error
                    break
                needed = size(taken[0])
                if held and held + needed > memory_bytes:
                    break
                held += needed
                waiting.append((needed, pool.submit(work, taken.pop())))
            if not waiting:
                break
            needed = waiting[0][0]
            yield waiting.popleft()[1].result()  # without a name, which would keep it here
            held -= needed
    finally:
        if not is_finalizing():  # else the threads have ended
            pool.shutdown(wait=True, cancel_futures=True)
    if failure is not None:
        raise failure
