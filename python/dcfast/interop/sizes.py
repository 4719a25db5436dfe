"""DataComp's ``sizes.json``: the sample counts of shards, written, read and compared."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dcfast.errors import CorruptDataError
from dcfast.interop.shards import LARGEST, MOST_JSON_BYTES, Index, PathLike, counts_by_name, shards_of
from dcfast.storage.atomic import write_json
from dcfast.storage.json_files import read_json


def write_sizes(index: Index, path: PathLike) -> None:
    """Writes ``sizes.json``: file name of each shard -> samples. ``path`` may be the directory of the shards.

    Example: ``write_sizes(segment, "pool/shards")``
    """
    write_json(_sizes_path(path), shard_counts(index))


def read_sizes(path: PathLike) -> dict[str, int]:
    """Reads ``sizes.json`` (or the one in a directory): file name of each shard -> samples.

    Raises:
        CorruptDataError: not json, not an object of counts below 2^63, a name twice.   OSError: it cannot be read.
    Example: ``write_sizes(segment, "sizes.json")``, ``read_sizes("sizes.json")``
    """
    file = _sizes_path(path)
    data = read_json(file, "sizes.json", most=MOST_JSON_BYTES, names=True)
    if not isinstance(data, dict):
        raise CorruptDataError(f"{file}: expected an object; got {type(data).__name__}", path=str(file))
    for name, count in data.items():
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= LARGEST:
            raise CorruptDataError(f"{file}: expected a number of samples for {name!r}; got {count!r}", path=str(file))
    return data


def _sizes_path(path: PathLike) -> Path:
    return Path(path) / "sizes.json" if os.path.isdir(path) else Path(path)


def shard_counts(index: Index) -> dict[str, int]:
    """File name of each shard -> samples in the index. Raises PoolError for two shards of one file name.

    Example: ``shard_counts(segment) == {"00000000.tar": 3, "00000001.tar": 3}``
    """
    return counts_by_name(((name, samples) for _, _, name, samples in shards_of(index)), "two shards of the index")


class CountDifference(NamedTuple):
    """A shard whose samples another tool counted otherwise; None: the shard is not known there.

    Example: ``[name for name, stated, indexed in count_differences(segment, counts) if stated is None]``
    """

    shard: str
    stated: int | None
    indexed: int | None


def count_differences(index: Index, counts: Mapping[str, int]) -> list[CountDifference]:
    """Shards of which the index has another number of samples than ``counts`` says, by name.

    Args:
        counts: file name -> samples: of ``read_sizes``, ``WidsIndex.counts``, or stats files.
    A shard that was cut after it was counted, or written anew, shows here.
    Example: ``count_differences(segment, read_sizes("pool/shards")) == []``
    """
    indexed = shard_counts(index)
    names = sorted(indexed.keys() | counts.keys())
    both = [CountDifference(name, counts.get(name), indexed.get(name)) for name in names]
    return [shard for shard in both if shard.stated != shard.indexed]
