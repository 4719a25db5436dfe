"""The shards of whatever index is given, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np

from dcfast.errors import PoolError
from dcfast.index.build import TarIndex
from dcfast.index.segments import Segment

PathLike = str | os.PathLike[str]
Index = TarIndex | Segment | Sequence[Segment | PathLike]
LARGEST = (1 << 63) - 1
"""What a count or an offset of others may be."""
MOST_JSON_BYTES = 512 << 20
"""Of a list of the shards of a pool: a million of them are 100 MB."""


def segments_of(index: Index) -> list[Segment]:
    if isinstance(index, Segment):
        return [index]
    if isinstance(index, TarIndex):
        return [index.segment]
    if isinstance(index, (str, bytes, os.PathLike)):
        raise TypeError("index must be a TarIndex, a Segment, or a sequence of them; pass [path] for a segment file")
    if not isinstance(index, Iterable):
        raise TypeError(f"index must be a TarIndex, a Segment, or a sequence of them; got {type(index).__name__}")
    segments = []
    for i, item in enumerate(index):
        if not isinstance(item, (Segment, str, os.PathLike)):
            raise TypeError(f"index[{i}] must be a Segment or the path of one; got {type(item).__name__}")
        if item == "":
            raise ValueError(f"index[{i}] must be the path of a segment; got an empty text")
        segments.append(item if isinstance(item, Segment) else Segment.open(item))
    return segments


def shards_of(index: Index) -> Iterator[tuple[Segment, int, str, int]]:
    """Of each shard its segment, its number there, its name and its samples."""
    for segment in segments_of(index):
        samples = np.diff(segment.shard_sample_begin).tolist()
        for number, name in enumerate(segment.shard_names):
            yield segment, number, name, samples[number]


def file_name(name: str) -> str:
    return PurePosixPath(name).name


def counts_by_name(shards: Iterable[tuple[str, int]], two_shards: str) -> dict[str, int]:
    """File name of each shard -> samples; PoolError where two have one."""
    counts: dict[str, int] = {}
    for shard, samples in shards:
        name = file_name(shard)
        if name in counts:
            raise PoolError(f"{two_shards} have the file name {name!r}, and counts are by file name; rename one")
        counts[name] = samples
    return counts
