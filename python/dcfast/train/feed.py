"""Batches that a training waits for as long as it likes, and no longer: whoever makes them may hang.

A loader that was stopped, or a disk that never answers, gives no error. So the batches are fetched in a thread, and the
training asks every now and then whether the next one is here; meanwhile it can hear signals and talk to other ranks.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from itertools import islice

from dcfast.train.batch import Batch, join_batches

_CLOSE_SECONDS = 5.0
"""How long ``close`` waits for a thread that has nothing to fetch any more."""


class Feed(Iterator[Batch]):
    """Batches in order, each fetched when it is asked for.

    Args:
        chunks: what they are made of; its errors are raised here, by whoever waits. Used in a thread, and closed there.
        per_batch: chunks of a batch.
        end: ends those who make the chunks, which may hang; called once, by ``close``.
    Attributes:
        waited: seconds that ``ready`` has waited since a chunk came last. The time in which nobody asked does not
            count, nor that in which this very process was stopped.
    Iterating waits for as long as it takes. The end, and an error, close it. Memory: one batch.
    """

    def __init__(self, chunks: Iterator[Batch], per_batch: int, end: Callable[[], object]) -> None:
        self.waited: float = 0.0
        self._end = end
        self._closed = False
        self._next: Future[Batch] | None = None
        self._received, self._counted = [0], 0  # chunks that have come; those that ``ready`` knows of
        self._requests: queue.SimpleQueue[Future[Batch] | None] = queue.SimpleQueue()
        work = (chunks, per_batch, self._requests, self._received)
        # a daemon: one that hangs must not keep the process from its end
        self._thread = threading.Thread(target=_fetch, args=work, name="dcfast-feed", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._requests.put, None)

    def ready(self, seconds: float | None) -> bool:
        """Whether the next batch is here; waits up to so many seconds for it, None = as long as it takes."""
        try:
            if self._next is None:
                self._next = Future()
                self._requests.put(self._next)
            wait([self._next], seconds)
            if self._next.done():
                self._next.result()
                self.waited = 0.0
                return True
        except Exception:  # that of the thread
            self.close()
            raise
        received = self._received[0]
        self.waited = self.waited + (seconds or 0.0) if received == self._counted else 0.0
        self._counted = received
        return False

    def __next__(self) -> Batch:
        if self._closed:
            raise StopIteration
        self.ready(None)
        assert self._next is not None
        batch, self._next = self._next.result(), None
        return batch

    def close(self) -> None:
        """Ends the thread and those who make the chunks, whatever they wait for."""
        if self._closed:
            return
        self._closed = True
        self._requests.put(None)
        if self._next is None or self._next.done():  # else it waits for what may never come
            self._thread.join(_CLOSE_SECONDS)
        self._end()


def _fetch(
    chunks: Iterator[Batch],
    per_batch: int,
    requests: queue.SimpleQueue[Future[Batch] | None],
    received: list[int],
) -> None:
    """The thread of a Feed; it knows no more of it than its queue, so that a forgotten one can go."""
    try:
        while (request := requests.get()) is not None:
            parts = []
            for chunk in islice(chunks, per_batch):
                received[0] += 1
                parts.append(chunk)
            if not parts:
                raise StopIteration
            request.set_result(join_batches(parts))
            del request, parts  # one batch at a time
    except BaseException as error:
        assert request is not None
        request.set_exception(error)
    finally:
        if isinstance(chunks, Generator):
            chunks.close()
