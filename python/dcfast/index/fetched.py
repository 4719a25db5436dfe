"""The shards of a segment as files, for those who read whole shards: of what lies behind URLs, copies for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from dcfast.errors import CorruptDataError
from dcfast.index.segments import Segment, shard_place
from dcfast.process.read_ahead import read_ahead
from dcfast.storage.http import PATIENT
from dcfast.storage.paths import is_url
from dcfast.storage.ranges import RemoteShard
from dcfast.storage.temporary import temporary_folder

_RANGE = 4 << 20


@contextmanager
def near_shards(segment: Segment, shard_dir: str) -> Iterator[list[str]]:
    """The paths of a segment's shards; those behind a URL are copied to the directory for temporary files.

    Raises:
        CorruptDataError: a shard that is not the indexed one.   OSError, PoolError: it cannot be read, or no copy be
        written.
    Disk: all pictures of the segment; the copies are removed at the end.   Memory: 8 requests of 4 MiB.
    """
    places = [shard_place(shard_dir, name) for name in segment.shard_names]
    if not any(map(is_url, places)):
        yield places
        return
    with temporary_folder("dcfast-shards-") as folder:
        paths = []
        for number, place in enumerate(places):
            path = folder / f"{number}.tar"
            _copy(segment, number, place, path)
            paths.append(str(path))
        yield paths


def _copy(segment: Segment, number: int, url: str, path: Path) -> None:
    """The pictures of a shard, where they lie in it: what is between them is a hole in the file."""
    source = RemoteShard(url, PATIENT)
    state = int(segment.shard_sizes[number]), int(segment.shard_mtimes_ns[number])
    changed = CorruptDataError(f"{url}: the shard has changed since it was indexed; index it again", path=url)
    if source.open() != state:
        raise changed
    shard, offset, size = segment.image_places()
    of_shard = np.flatnonzero(shard == number)
    begin, end = offset[of_shard], offset[of_shard] + size[of_shard]
    marks = np.zeros(-(-state[0] // _RANGE) + 1, np.int64)
    np.add.at(marks, begin // _RANGE, 1)
    np.add.at(marks, -(-end // _RANGE), -1)
    parts = np.flatnonzero(np.cumsum(marks[:-1])).tolist()

    def fetch(part: int) -> bytes | None:
        return source.read(part * _RANGE, min(_RANGE, state[0] - part * _RANGE))

    fetched = read_ahead(fetch, parts, threads=8, ahead=8, name="dcfast-fetch")
    with open(path, "wb") as file, closing(fetched):
        file.truncate(state[0])
        for part, data in zip(parts, fetched, strict=True):
            if data is None:
                raise changed
            os.pwrite(file.fileno(), data, part * _RANGE)
    if not source.is_unchanged():
        raise changed
