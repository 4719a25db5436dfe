"""Members of shards behind URLs: neighbours by one request, each shard compared with the index as files are."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from dcfast.errors import CorruptDataError
from dcfast.process.read_ahead import read_ahead
from dcfast.storage.cache import Cache, open_cache
from dcfast.storage.http import RemoteOptions
from dcfast.storage.ranges import RemoteShard

MAX_GAP = 128 << 10
"""Bytes between members that are read over at most: they cost less than another request."""
MAX_RANGE = 1 << 20
"""Bytes of a request, and so of what each of ``RemoteOptions.requests`` holds beside the result."""
MOST_UNWANTED = 0.05
"""Of what is wanted: as many bytes are read that nobody asked for, at most, the smallest gaps first."""
SMALL_MEMBER = 4 << 10
"""Members that are smaller on average: of these the bytes cost less than the requests, and all gaps are read over."""


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
    """Pieces, of at most ``MAX_RANGE``, as what is asked for by one request: short gaps are read over.

    Gaps of ``MAX_GAP`` at most, the smallest first, as long as all of them are no more than ``MOST_UNWANTED`` of the
    wanted bytes; between small members (``SMALL_MEMBER``) all of them.
    """
    ordered = sorted(pieces)
    longest = _longest_gap(ordered)
    run: list[Piece] = []
    end = 0
    for piece in ordered:
        last = max(end, piece.offset + piece.length)
        if run and (piece.shard != run[0].shard or piece.offset > end + longest or last - run[0].offset > MAX_RANGE):
            yield Stretch(run[0].offset, end, run)
            run = []
        end = last if run else piece.offset + piece.length
        run.append(piece)
    if run:
        yield Stretch(run[0].offset, end, run)


def _longest_gap(ordered: list[Piece]) -> int:
    """The gaps that are read over, by their length."""
    if not ordered:
        return 0
    shard, offset, length = (np.array([piece[k] for piece in ordered], np.int64) for k in range(3))
    span = int((offset + length).max())  # each shard behind the other
    reached = np.maximum.accumulate(shard * span + offset + length)
    gaps = shard[1:] * span + offset[1:] - reached[:-1]
    wanted = int(length.sum()) + int(np.minimum(gaps, 0).sum())  # what is asked for twice counts once
    if wanted < SMALL_MEMBER * len(ordered):
        return MAX_GAP
    between = np.sort(gaps[(shard[1:] == shard[:-1]) & (gaps > 0) & (gaps <= MAX_GAP)])
    fitting = int(np.searchsorted(np.cumsum(between), MOST_UNWANTED * wanted, side="right"))
    if fitting == len(between):
        return MAX_GAP
    # of gaps of the same length all are read over, or none
    return int(between[fitting]) - 1


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
        self._cache: Cache | None = open_cache(options.cache_dir, options.cache_bytes)
        self.close()

    def close(self) -> None:
        """Forgets the shards that were looked up."""
        self._lock = threading.Lock()
        self._requests = threading.BoundedSemaphore(self._options.requests)
        self._process = os.getpid()
        self._open: OrderedDict[int, RemoteShard] = OrderedDict()
        self._opening: dict[int, threading.Lock] = {}

    def read_into(self, out: npt.NDArray[np.uint8], pieces: list[Piece]) -> None:
        """Reads each piece to its place, long ones in parts; what the cache has, from there.

        Args:
            out: what the pieces' places are in.
        Raises:
            CorruptDataError: a shard that is not the indexed one, or was replaced meanwhile; with its URL.
            OSError, PoolError: see ``RemoteShard.read``.
        Memory: ``MAX_RANGE`` for each of ``RemoteOptions.requests``, over all threads together.
        """
        if self._process != os.getpid():
            self.close()  # connections, and the thread that serves them, are of the parent
        for shard, offset, length, _ in pieces:
            self._check_inside(shard, offset, length)
        view = out.data
        absent = [piece for piece in pieces if not self._from_cache(piece, view)]
        parts = [
            Piece(shard, offset + done, min(MAX_RANGE, length - done), place + done)
            for shard, offset, length, place in absent
            for done in range(0, length, MAX_RANGE)
        ]
        asked = list(stretches(parts))
        if len(asked) == 1:
            self._fetch(asked[0], view)
        else:
            threads = min(self._options.requests, len(asked))
            fetch = partial(self._fetch, out=view)
            deque(read_ahead(fetch, asked, threads=threads, ahead=len(asked), name="dcfast-read"), maxlen=0)
        for shard in dict.fromkeys(piece.shard for piece in absent):
            if not self._shard(shard).is_unchanged():
                raise self._changed(shard, "while it was read")
        for piece in absent:
            self._to_cache(piece, view)

    def _check_inside(self, shard: int, offset: int, length: int) -> None:
        size = int(self._sizes[shard])
        if offset + length > size:
            url = self._url_of(shard)
            raise CorruptDataError(
                f"{url}: the index has a member of {length} bytes that ends beyond the shard's {size}; index it again",
                path=url,
                offset=offset,
            )

    def _key(self, piece: Piece) -> str:
        """Of a piece in the cache: bytes of the indexed version alone are put there."""
        shard = piece.shard
        version = f"{int(self._sizes[shard])} {self._version(shard)}"
        return f"{self._url_of(shard)} {version} {piece.offset} {piece.length}"

    def _version(self, shard: int) -> int:
        return int(self._mtimes_ns[shard]) if self._check_mtime else self._shard(shard).state.stored_mtime_ns

    def _from_cache(self, piece: Piece, out: memoryview) -> bool:
        if self._cache is None or not piece.length:
            return not piece.length
        place = out[piece.place : piece.place + piece.length]
        return self._cache.read_into(self._key(piece), place)

    def _to_cache(self, piece: Piece, out: memoryview) -> None:
        # neither ETag nor time: what is there tomorrow cannot be told from it
        if self._cache is not None and self._version(piece.shard) != 0:
            self._cache.put(self._key(piece), out[piece.place : piece.place + piece.length])

    def _fetch(self, stretch: Stretch, out: memoryview) -> None:
        begin, end, pieces = stretch
        shard = pieces[0].shard
        source = self._shard(shard)
        with self._requests:
            data = source.read(begin, end - begin)
        if data is None:
            raise self._changed(shard, "while it was read")
        for _, offset, length, place in pieces:
            out[place : place + length] = data[offset - begin : offset - begin + length]

    def _shard(self, number: int) -> RemoteShard:
        """A shard that was looked up and is the indexed one; looked up by one thread, while others wait for it."""
        with self._lock:
            opening = self._opening.setdefault(number, threading.Lock())
        with opening:
            with self._lock:
                if number in self._open:
                    self._open.move_to_end(number)
                    return self._open[number]
            source = self._looked_up(number)
            with self._lock:
                self._open[number] = source
                while len(self._open) > self._max_open:
                    forgotten, _ = self._open.popitem(last=False)
                    self._opening.pop(forgotten, None)
            return source

    def _looked_up(self, number: int) -> RemoteShard:
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

    def _changed(self, number: int, when: str) -> CorruptDataError:
        with self._lock:
            self._open.pop(number, None)  # it is looked up anew, if it is asked for again
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
