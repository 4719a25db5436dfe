"""The shards of whatever index is given, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from dcfast.index.segments import Segment

__all__ = ["LARGEST", "PathLike", "file_name", "segments_of", "shards_of"]

PathLike = str | os.PathLike[str]
LARGEST = (1 << 63) - 1
"""What a count or an offset of others may be."""


def segments_of(index: Any) -> list[Segment]:
    if isinstance(index, Segment):
        return [index]
    if hasattr(index, "segment"):  # a TarIndex
        return [index.segment]
    if isinstance(index, (str, bytes, os.PathLike)):
        raise TypeError("index must be a TarIndex, a Segment, or a sequence of them; pass [path] for a segment file")
    if not isinstance(index, Iterable):
        raise TypeError(f"index must be a TarIndex, a Segment, or a sequence of them; got {type(index).__name__}")
    found = []
    for i, item in enumerate(index):
        if not isinstance(item, (Segment, str, os.PathLike)):
            raise TypeError(f"index[{i}] must be a Segment or the path of one; got {type(item).__name__}")
        if item == "":
            raise ValueError(f"index[{i}] must be the path of a segment; got an empty text")
        found.append(item if isinstance(item, Segment) else Segment.open(item))
    return found


def shards_of(index: Any) -> Iterator[tuple[Segment, int, str]]:
    for segment in segments_of(index):
        for number, name in enumerate(segment.shard_names):
            yield segment, number, name


def file_name(name: str) -> str:
    return PurePosixPath(name).name
