"""Output shards of members behind URLs: what a shard is to hold is fetched first, into a file beside the output."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcfast.process.read_ahead import read_ahead
from dcfast.resharding.contents import ShardContents
from dcfast.storage.http import PATIENT
from dcfast.storage.members import Piece, RemoteMembers
from dcfast.storage.paths import is_url

_AT_ONCE = 32 << 20  # bytes that are fetched together, twice in memory


@contextmanager
def near_contents(contents: ShardContents, spool: Path, *, check_mtime: bool = True) -> Iterator[ShardContents]:
    """The same with all payloads in ``spool``, which is written, and removed at the end; as it is, of local files.

    Raises:
        CorruptDataError: an input shard is not the indexed one.   OSError, PoolError: it cannot be read, or the spool
        not be written.
    Memory: 64 MiB, or twice the largest member, and the requests under way.   Disk: each payload once.
    """
    if not any(map(is_url, contents.sources)):
        yield contents
        return
    try:
        yield _fetched(contents, spool, check_mtime)
    finally:
        spool.unlink(missing_ok=True)


def _fetched(contents: ShardContents, spool: Path, check_mtime: bool) -> ShardContents:
    far = RemoteMembers(
        contents.sources.__getitem__,
        contents.source_size,
        contents.source_mtime_ns,
        PATIENT,
        max_open=256,
        check_mtime=check_mtime,
    )
    places = np.stack([contents.source.astype(np.uint64), contents.offset, contents.size], axis=1)
    distinct, where = np.unique(places, axis=0, return_inverse=True)  # copies of a sample are fetched once
    begin = np.concatenate([np.zeros(1, np.uint64), np.cumsum(distinct[:, 2], dtype=np.uint64)])
    with open(spool, "wb") as file, closing(_parts(far, distinct, begin)) as parts:
        for data in parts:
            file.write(data.data)
    status = spool.stat()
    return replace(
        contents,
        sources=[os.fspath(spool)],
        source_size=np.array([status.st_size], np.uint64),
        source_mtime_ns=np.array([status.st_mtime_ns], np.int64),
        source=np.zeros(len(contents.source), np.uint32),
        offset=begin[:-1][where.ravel()],
    )


def _parts(
    far: RemoteMembers, distinct: NDArray[np.uint64], begin: NDArray[np.uint64]
) -> Generator[NDArray[np.uint8], None, None]:
    """The payloads one after the other, some MB at a time; the next while one is written."""

    def fetch(span: tuple[int, int]) -> NDArray[np.uint8]:
        first, last = span
        base = int(begin[first])
        data = np.empty(int(begin[last]) - base, np.uint8)
        shard, offset, size = distinct[first:last].T.tolist()
        place = (begin[first:last] - np.uint64(base)).tolist()
        far.read_into(data, list(map(Piece, shard, offset, size, place)))
        return data

    def spans() -> Iterator[tuple[int, int]]:
        first = 0
        while first < len(distinct):
            last = int(np.searchsorted(begin, begin[first] + np.uint64(_AT_ONCE), side="right")) - 1
            last = min(max(first + 1, last), len(distinct))
            yield first, last
            first = last

    return read_ahead(fetch, spans(), threads=1, ahead=1, name="dcfast-fetch")
