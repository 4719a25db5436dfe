"""The json index of wids: shards and their sample counts."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dcfast.errors import CorruptDataError, PoolError
from dcfast.interop.json_files import is_count, read_json
from dcfast.interop.shards import PathLike, file_name, shards_of
from dcfast.storage.atomic import write_json
from dcfast.storage.inputs import open_input
from dcfast.storage.remote import is_url

__all__ = ["WidsIndex", "WidsShard", "read_wids", "write_wids"]


_WIDS_KIND = "wids-shard-index-v1"


class WidsShard(NamedTuple):
    """One shard of a wids description; None for what the description does not say."""

    url: str
    nsamples: int
    filesize: int | None = None
    md5sum: str | None = None


@dataclass(frozen=True)
class WidsIndex:
    """A shard list of wids.

    Attributes:
        name, base: of the description; empty where it has none.
        shards: with their urls as written; ``urls`` resolves them.
        path: where it was read from.
    """

    name: str
    base: str
    shards: list[WidsShard]
    path: str = ""

    def __len__(self) -> int:
        return sum(shard.nsamples for shard in self.shards)

    @property
    def urls(self) -> list[str]:
        """The shards' urls; relative ones below ``base``, or where that is empty beside the description."""
        base = self.base or os.path.dirname(self.path)
        return [url if is_url(url) or not base else os.path.join(base, url) for url in (s.url for s in self.shards)]

    @property
    def counts(self) -> dict[str, int]:
        """File name of each shard -> samples, as ``count_differences`` takes it.

        Raises PoolError: two shards have one file name.
        """
        counts: dict[str, int] = {}
        for shard in self.shards:
            name = file_name(shard.url)
            if name in counts:
                raise PoolError(f"wids description {self.path}: two shards have the file name {name!r}")
            counts[name] = shard.nsamples
        return counts


def write_wids(
    index: Any,
    path: PathLike,
    *,
    name: str = "",
    base: str = "",
    md5: bool = False,
    shards_dir: PathLike = "",
) -> None:
    """Writes the description that wids' ``ShardListDataset`` takes: url, samples and size of each shard.

    Args:
        index: a TarIndex, a Segment, or a sequence of segments or their paths.
        path: the json file; replaced atomically.
        name, base: stored where not empty; wids joins relative urls to ``base``.
        md5: add md5sum, which reads every shard whole; wids' own tool does, its reader does not look at it.
        shards_dir: for ``md5``: directory that the shards' names are relative to.
    The urls are the names in the index. Raises OSError: a file cannot be read or written.
    Source: wids (webdataset) ``wids_specs``; docs/formats.md.
    """
    shards = []
    for segment, number, shard in shards_of(index):
        entry: dict[str, Any] = {
            "url": shard,
            "nsamples": int(segment.shard_sample_begin[number + 1] - segment.shard_sample_begin[number]),
            "filesize": int(segment.shard_sizes[number]),
        }
        if md5:
            if os.fspath(shards_dir) and (os.path.isabs(shard) or ".." in PurePosixPath(shard).parts):
                raise CorruptDataError(
                    f"{segment.path}: shard {shard!r} lies outside of {shards_dir}", path=segment.path
                )
            with open_input(Path(shards_dir) / shard) as file:
                entry["md5sum"] = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        shards.append(entry)
    description: dict[str, Any] = {"__kind__": _WIDS_KIND, "wids_version": 1, "shardlist": shards}
    if name:
        description["name"] = name
    if base:
        description["base"] = base
    write_json(path, description)


def read_wids(path: PathLike) -> WidsIndex:
    """Reads a wids description, with the shard lists of its ``datasets`` behind its own.

    Raises:
        CorruptDataError: not json, another version, a shard without url or nsamples, a value of another kind than wids
            writes, no shards; names the file and the place in it.
        PoolError: it refers to another description by ``source_url``: read that one.
    """
    where = os.fspath(path)

    def bad(what: str) -> CorruptDataError:
        return CorruptDataError(f"wids description {where}: {what}", path=where)

    data = read_json(path, "wids description")
    if not isinstance(data, dict) or data.get("wids_version") != 1 or isinstance(data["wids_version"], bool):
        got = data.get("wids_version") if isinstance(data, dict) else type(data).__name__
        raise bad(f"expected an object with wids_version 1; got {got!r}")

    def text(holder: dict[str, Any], key: str, place: str) -> str:
        value = holder.get(key)
        if value is not None and not isinstance(value, str):
            raise bad(f"{place}{key}: expected text; got {json.dumps(value)[:120]}")
        return value or ""

    lists = [("shardlist", data.get("shardlist", []), "")]
    if not isinstance(data.get("datasets", []), list):
        raise bad(f"datasets: expected a list; got {json.dumps(data['datasets'])[:120]}")
    for number, part in enumerate(data.get("datasets", [])):
        if not isinstance(part, dict) or "shardlist" not in part:
            if isinstance(part, dict) and "source_url" in part:
                raise PoolError(f"{where}: datasets[{number}] is {part['source_url']!r}: read_wids that description")
            raise bad(f"datasets[{number}] has no shardlist")
        lists.append((f"datasets[{number}].shardlist", part["shardlist"], text(part, "base", f"datasets[{number}].")))
    shards = []
    for place, items, base in lists:
        if not isinstance(items, list):
            raise bad(f"{place} is no list")
        for number, item in enumerate(items):
            shard = _wids_shard(item)
            if shard is None:
                what = "expected an object with url and nsamples, counts below 2^63"
                raise bad(f"{place}[{number}]: {what}; got {json.dumps(item)[:120]}")
            if base and not is_url(shard.url):
                shard = shard._replace(url=os.path.join(base, shard.url))
            shards.append(shard)
    if not shards:
        raise bad("it lists no shards")
    return WidsIndex(text(data, "name", ""), text(data, "base", ""), shards, where)


def _wids_shard(item: Any) -> WidsShard | None:
    if not isinstance(item, dict) or not isinstance(item.get("url"), str) or not item["url"]:
        return None
    size, md5sum = item.get("filesize"), item.get("md5sum")
    if not is_count(item.get("nsamples")) or not (size is None or is_count(size)):
        return None
    return WidsShard(item["url"], item["nsamples"], size, md5sum) if isinstance(md5sum, str | None) else None
