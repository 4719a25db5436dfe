"""Batches, made ahead of the training by threads of its process: the same for any number of them.

A thread makes a chunk of a batch at a time, into the memory that the training is given; reading, decoding and
tokenizing go on without the GIL. The threads are daemons: one that waits for a disk which does not answer keeps no
process alive.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from functools import partial

from dcfast.process.read_ahead import read_ahead
from dcfast.train.batch import Batch, BatchSpec, Room
from dcfast.train.batches import BatchMaker
from dcfast.train.dali import DaliDecoder
from dcfast.train.feed import Feed

CHUNK = 256
"""Samples that a thread makes at a time, at most: what Python does for a chunk takes some two milliseconds."""
_SMALL_CHUNK = 64
"""Chunks of more samples are made smaller where there are threads without one."""
_AHEAD_BYTES = 64 << 20  # of pixels a thread makes ahead, at most
_LAST_CHUNK_SECONDS = 2.0
"""How long the threads of a training that ends may take to hear of it; those that hang end with the process."""


class ChunksAhead(Iterator[Batch]):
    """Chunks in order, made by threads before they are asked for.

    Args:
        make: makes chunk i; called in the threads.
        count: of all chunks.
        threads: at least 1.
        ahead: chunks that are made, or wait, beside the one that is asked for; 0 makes each when it is asked for.
        ended: set by ``close``, for ``make`` to hear of it.
    Raises, as a chunk is asked for, what ``make`` raised for it.
    """

    def __init__(
        self, make: Callable[[int], Batch], count: int, threads: int, ahead: int, ended: threading.Event
    ) -> None:
        self._state = _State(make, count, ahead, ended)
        work = [
            threading.Thread(target=_work, args=(self._state,), name=f"dcfast-loader-{i}", daemon=True)
            for i in range(min(threads, count))
        ]
        for thread in work:
            thread.start()
        # also where nobody closes it, and as Python ends: a thread must not come back from the core into its ruins
        self.close: Callable[[], object] = weakref.finalize(self, _end, self._state, work)

    def __next__(self) -> Batch:
        state = self._state
        with state.changed:
            number = state.taken
            if number == state.count:
                raise StopIteration
            state.asked = number + 1
            state.changed.notify_all()
            state.changed.wait_for(lambda: number in state.made or state.ended.is_set())
            if number not in state.made:
                raise StopIteration
            made = state.made[number]
            if isinstance(made, BaseException):
                raise made
            del state.made[number]
            state.taken += 1
            return made


class _State:
    """What the threads share; they know no more, so that forgotten chunks can go."""

    def __init__(self, make: Callable[[int], Batch], count: int, ahead: int, ended: threading.Event) -> None:
        self.make, self.count, self.ahead, self.ended = make, count, ahead, ended
        self.changed = threading.Condition()
        self.begun = self.asked = self.taken = 0
        self.made: dict[int, Batch | BaseException] = {}

    def may_begin(self) -> bool:
        return self.begun < min(self.count, self.asked + self.ahead)


def _work(state: _State) -> None:
    while True:
        with state.changed:
            state.changed.wait_for(lambda: state.may_begin() or state.ended.is_set() or state.begun == state.count)
            if state.ended.is_set() or state.begun == state.count:
                return
            number = state.begun
            state.begun += 1
        try:
            made: Batch | BaseException = state.make(number)
        except BaseException as error:  # it is the training's: whoever waits for the chunk raises it
            made = error
        with state.changed:
            state.made[number] = made
            if isinstance(made, BaseException):
                state.begun = state.count  # what comes after an error nobody asks for
            del made
            state.changed.notify_all()


def _end(state: _State, threads: list[threading.Thread]) -> None:
    deadline = time.monotonic() + _LAST_CHUNK_SECONDS
    with state.changed:
        state.ended.set()
        state.changed.notify_all()
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))


class _Chunks:
    """Chunk i of a training, counted from its first step on.

    Args:
        rooms: whether the chunks of a batch lie in one memory.   pinned: it is page-locked.
    """

    def __init__(
        self, maker: BatchMaker, first_step: int, last_step: int, workers: int, *, rooms: bool, pinned: bool
    ) -> None:
        spec = maker.spec
        self.maker = maker
        self._first, self._rooms, self._pinned = first_step, rooms, pinned
        self._accumulation, self._samples = spec.settings.accumulation, spec.micro_batch
        self.per_batch: int = max(-(-spec.micro_batch // CHUNK), min(workers, spec.micro_batch // _SMALL_CHUNK))
        self.count: int = (last_step - first_step) * spec.settings.accumulation * self.per_batch
        self._lock = threading.Lock()
        self._open: dict[int, tuple[Room, int]] = {}  # batch -> its memory, and the chunks not begun

    def make(self, i: int) -> Batch:
        number, chunk = divmod(i, self.per_batch)
        step, micro = divmod(number, self._accumulation)
        first, last = (self._samples * k // self.per_batch for k in (chunk, chunk + 1))
        room = self._room(number) if self._rooms else None
        return self.maker.make(self._first + step, micro, first, last, room)

    def _room(self, number: int) -> Room:
        with self._lock:
            if number not in self._open:
                self._open[number] = self.maker.room(self._samples, pinned=self._pinned), self.per_batch
            room, left = self._open.pop(number)
            if left > 1:
                self._open[number] = room, left - 1
            return room


def _decoded(
    chunks: Iterator[Batch], remake: Callable[[int], Batch], decoder: DaliDecoder
) -> Generator[Batch, None, None]:
    """The chunks with all their pixels, each decoded while the one before it is in use; ``remake``: without DALI."""

    def finish(numbered: tuple[int, Batch]) -> Batch:
        i, chunk = numbered
        return decoder.finish(chunk, partial(remake, i))

    return read_ahead(finish, enumerate(chunks), threads=1, ahead=1, name="dcfast-dali")


def iterate_batches(spec: BatchSpec, first_step: int, last_step: int, workers: int, device: str = "cpu") -> Feed:
    """The micro-batches of steps first .. last - 1, in order, made ahead by ``workers`` threads (0: when asked for).

    Args:
        device: of the training, ``cpu`` or ``cuda:K``: DALI decodes there, and leaves the pictures there; else the
            batches lie in page-locked memory.
    Raises, as a batch is asked for:
        RunError: a shard cannot be read.   CorruptDataError: no usable sample was found.   Whatever else a thread
            raised, as it is.
    Memory: the batch that is asked for, and the batches in which the chunks made ahead lie: as many chunks as one batch
    has, or, for each thread, 64 MiB of pixels (at least one chunk), whichever is more.
    """
    maker = BatchMaker(spec)
    by_dali = spec.settings.decoder == "dali"
    chunks = _Chunks(maker, first_step, last_step, workers, rooms=not by_dali, pinned=device != "cpu")
    chunk_bytes = 3 * spec.image_size**2 * -(-spec.micro_batch // chunks.per_batch)
    ahead = max(workers * max(1, min(4, _AHEAD_BYTES // chunk_bytes)), chunks.per_batch) if workers else 0
    made = ChunksAhead(chunks.make, chunks.count, max(1, workers), ahead, maker.ended)
    if not by_dali:
        return Feed(made, chunks.per_batch, made.close)

    def remake(i: int) -> Batch:
        without = BatchMaker(spec.decoded_by("pil"))
        return _Chunks(without, first_step, last_step, workers, rooms=False, pinned=False).make(i)

    decoder = DaliDecoder(spec.image_size, device=device, threads=workers)
    return Feed(_decoded(made, remake, decoder), chunks.per_batch, made.close)
