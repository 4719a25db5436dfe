"""Members of shards behind URLs: neighbours by one request, each shard compared with the index as files are."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from dcfast.errors import CorruptDataError
from dcfast.process.read_ahead import read_ahead
from dcfast.storage.http import RemoteOptions
from dcfast.storage.remote import RemoteShard

MAX_GAP = 128 << 10
"""Bytes between members that are read over: they cost less than another request."""
MAX_RANGE = 4 << 20
"""Bytes of a request, and so of what a thread holds beside the result."""
_RANGES_AT_ONCE = 4
"""Of one shard, after which it is made sure that it is still the same: where its answers do not tell, a request."""


class Piece(NamedTuple):
    """A range of a shard, and where its bytes go."""

    shard: int
    offset: int
    length: int
    place: int


class Stretch(NamedTuple):
    """Neighbouring pieces of one shard, from its byte ``begin`` to ``end``."""

    begin: int
    end: int
    pieces: list[Piece]


def stretches(pieces: list[Piece]) -> Iterator[Stretch]:
    """Pieces, of at most ``MAX_RANGE``, as what is asked for by one request: gaps of ``MAX_GAP`` are read over."""
    run: list[Piece] = []
    end = 0
    for piece in sorted(pieces):
        last = max(end, piece.offset + piece.length)
        if run and (piece.shard != run[0].shard or piece.offset > end + MAX_GAP or last - run[0].offset > MAX_RANGE):
            yield Stretch(run[0].offset, end, run)
            run = []
        end = last if run else piece.offset + piece.length
        run.append(piece)
    if run:
        yield Stretch(run[0].offset, end, run)


class RemoteMembers:
    """The shards of a pool that lie behind URLs. Safe for many threads; after a fork the child opens its own.

    Args:
        url_of: the URL of a shard, by its ordinal.
        sizes, mtimes_ns: of every shard, as indexed.
        max_open: shards of which is remembered that they were looked up; the least recently used are forgotten.
        check_mtime: refuse another ETag or time than the indexed one; the size always counts.
    """

    def __init__(
        self,
        url_of: Callable[[int], str],
        sizes: npt.NDArray[np.uint64],
        mtimes_ns: npt.NDArray[np.int64],
        options: RemoteOptions,
        *,
        max_open: int,
        check_mtime: bool,
    ) -> None:
        self._url_of = url_of
        self._sizes = sizes
        self._mtimes_ns = mtimes_ns
        self._options = options
        self._max_open = max_open
        self._check_mtime = check_mtime
        self.close()

    def close(self) -> None:
        """Forgets the shards that were looked up."""
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._idle: OrderedDict[tuple[int, int], RemoteShard] = OrderedDict()

    def read_into(self, out: npt.NDArray[np.uint8], pieces: list[Piece], threads: int) -> None:
        """Reads each piece to its place, long ones in parts.

        Args:
            out: what the pieces' places are in.   threads: read at the same time; 0: one per core.
        Raises:
            CorruptDataError: a shard that is not the indexed one, or was replaced meanwhile; with its URL.
            OSError, PoolError: see ``RemoteShard.read``.
        Memory: ``MAX_RANGE`` a thread.
        """
        if self._process != os.getpid():
            self.close()  # connections, and the thread that serves them, are of the parent
        parts = []
        for shard, offset, length, place in pieces:
            self._check_inside(shard, offset, length)
            for done in range(0, length, MAX_RANGE):
                parts.append(Piece(shard, offset + done, min(MAX_RANGE, length - done), place + done))
        view, count = out.data, threads or len(os.sched_getaffinity(0))
        tasks = _tasks(parts)
        for _ in read_ahead(
            lambda task: self._fetch(task, view), tasks, threads=count, ahead=count - 1, name="dcfast-read"
        ):
            pass

    def _check_inside(self, shard: int, offset: int, length: int) -> None:
        size = int(self._sizes[shard])
        if offset + length > size:
            url = self._url_of(shard)
            raise CorruptDataError(
                f"{url}: the index has a member of {length} bytes that ends beyond the shard's {size}; index it again",
                path=url,
                offset=offset,
            )

    def _fetch(self, task: list[Stretch], out: memoryview) -> None:
        number = task[0].pieces[0].shard
        source = self._take(number)
        for begin, end, pieces in task:
            data = source.read(begin, end - begin)
            if data is None:
                raise self._changed(number, "while it was read")
            for _, offset, length, place in pieces:
                out[place : place + length] = data[offset - begin : offset - begin + length]
        if not source.is_unchanged():
            raise self._changed(number, "while it was read")
        self._give_back(number, source)

    def _take(self, number: int) -> RemoteShard:
        """A shard that was looked up, for one thread; what is raised over it is not given back."""
        with self._lock:
            for key in self._idle:
                if key[0] == number:
                    return self._idle.pop(key)
        source = RemoteShard(self._url_of(number), self._options)
        size, mtime_ns = source.open()
        expected, indexed = int(self._sizes[number]), int(self._mtimes_ns[number])
        if size != expected:
            raise self._changed(number, f"since it was indexed: expected {expected} bytes, got {size}")
        if self._check_mtime and mtime_ns != indexed:
            raise self._changed(
                number, "since it was indexed (another ETag or time), or was indexed elsewhere (check_mtime=False)"
            )
        return source

    def _give_back(self, number: int, source: RemoteShard) -> None:
        with self._lock:
            self._idle[number, id(source)] = source
            while len(self._idle) > self._max_open:
                self._idle.popitem(last=False)

    def _changed(self, number: int, when: str) -> CorruptDataError:
        url = self._url_of(number)
        return CorruptDataError(f"{url}: the shard has changed {when}; index it again", path=url)


def check_remote_name(root: str, name: str) -> None:
    """CorruptDataError for a shard's name that leads out of the directory behind the URL ``root``."""
    text = unquote(name).replace("\\", "/")
    if text.startswith("/") or "://" in text or ".." in text.split("/"):
        raise CorruptDataError(
            f"{root}/{name}: the shard lies outside of its pool: its name in the index must be relative and without "
            "'..'; index the pool again",
            path=f"{root}/{name}",
        )


def _tasks(pieces: list[Piece]) -> Iterator[list[Stretch]]:
    """Stretches of one shard, some at a time."""
    task: list[Stretch] = []
    for stretch in stretches(pieces):
        if task and (len(task) == _RANGES_AT_ONCE or task[0].pieces[0].shard != stretch.pieces[0].shard):
            yield task
            task = []
        task.append(stretch)
    if task:
        yield task
