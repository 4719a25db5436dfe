"""Batches that a training waits for as long as it likes, and no longer: whoever makes them may hang.

A loader that was stopped, or a disk that never answers, gives no error. So the batches are fetched in a thread, and the
training asks every now and then whether the next one is here; meanwhile it can hear signals and talk to other ranks.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from dcfast.train.batch import Batch, join_batches
from dcfast.train.failures import Failure, worker_death

__all__ = ["Feed"]

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

    def __init__(self, chunks: Iterator[Batch | Failure], per_batch: int, end: Callable[[], None]) -> None:
        self.waited = 0.0
        self._end = end
        self._closed = False
        self._batch: Batch | None = None
        self._asked = False
        self._came, self._seen = [0], 0  # chunks that have come; those that ``ready`` knows of
        self._wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._made: queue.SimpleQueue[Batch | BaseException] = queue.SimpleQueue()
        work = (chunks, per_batch, self._wanted, self._made, self._came)
        # a daemon: one that hangs must not keep the process from its end
        self._thread = threading.Thread(target=_fetch, args=work, name="dcfast-feed", daemon=True)
        self._thread.start()

    def ready(self, seconds: float | None) -> bool:
        """Whether the next batch is here; waits up to so many seconds for it, None = as long as it takes."""
        if self._batch is not None:
            return True
        if not self._asked:
            self._asked = True
            self._wanted.put(True)
        try:
            made = self._made.get(timeout=seconds)
            if isinstance(made, BaseException):
                raise made
        except queue.Empty:
            came = self._came[0]
            self.waited = self.waited + (seconds or 0.0) if came == self._seen else 0.0
            self._seen = came
            return False
        except Exception as error:  # that of the thread, or of a signal which told torch that a worker died
            self.close()
            died = worker_death(error)
            if died is None:
                raise
            raise died from None
        self._asked, self.waited = False, 0.0
        self._batch = made
        return True

    def __next__(self) -> Batch:
        if self._closed:
            raise StopIteration
        self.ready(None)
        batch, self._batch = self._batch, None
        assert batch is not None
        return batch

    def close(self) -> None:
        """Ends the thread and those who make the chunks, whatever they wait for."""
        if self._closed:
            return
        self._closed = True
        self._wanted.put(False)
        if not self._asked:  # else it waits for what may never come
            self._thread.join(_CLOSE_SECONDS)
        self._end()


def _fetch(
    chunks: Iterator[Batch | Failure],
    per_batch: int,
    wanted: queue.SimpleQueue[bool],
    made: queue.SimpleQueue[Batch | BaseException],
    came: list[int],
) -> None:
    """The thread of a Feed; it knows no more of it than its queues, so that a forgotten one can go."""
    try:
        while wanted.get():
            parts = []
            for chunk in islice(chunks, per_batch):
                if isinstance(chunk, Failure):
                    chunk.reraise()
                came[0] += 1
                parts.append(chunk)
            if not parts:
                raise StopIteration
            made.put(join_batches(parts))
    except BaseException as error:
        made.put(error)
    finally:
        close: Any = getattr(chunks, "close", lambda: None)
        close()
