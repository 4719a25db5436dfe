"""The json index of wids: shards and their sample counts."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec

from dcfast.errors import CorruptDataError, PoolError
from dcfast.interop.shards import MOST_JSON_BYTES, Index, PathLike, counts_by_name, shards_of
from dcfast.storage.atomic import write_json
from dcfast.storage.inputs import open_input
from dcfast.storage.json_files import read_json
from dcfast.storage.paths import is_url
from dcfast.storage.records import Count, Record, as_record, plain

_WIDS_KIND = "wids-shard-index-v1"


class WidsShard(Record, omit_defaults=True):
    """One shard of a wids description; None for what the description does not say.

    Example: ``[shard.nsamples for shard in read_wids("wids.json").shards] == [3, 3]``
    """

    url: Annotated[str, msgspec.Meta(min_length=1)]
    nsamples: Count
    filesize: Count | None = None
    md5sum: str | None = None


class _Dataset(Record):
    """Shards within a description, or the place of another description."""

    shardlist: list[WidsShard] | msgspec.UnsetType = msgspec.UNSET
    base: str | None = None
    source_url: object = None


class _Description(Record):
    wids_version: int
    shardlist: list[WidsShard] = []
    name: str | None = None
    base: str | None = None
    datasets: list[_Dataset] = []


@dataclass(frozen=True)
class WidsIndex:
    """A shard list of wids; name and base are empty where the description has none.

    Example: ``read_wids("wids.json").counts``
    """

    name: str
    base: str
    shards: list[WidsShard]  # with their urls as written; ``urls`` resolves them
    path: str = ""  # where it was read from

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
        shards = ((shard.url, shard.nsamples) for shard in self.shards)
        return counts_by_name(shards, f"wids description {self.path}: two shards")


def write_wids(
    index: Index, path: PathLike, *, name: str = "", base: str = "", md5: bool = False, shards_dir: PathLike = ""
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
    Example: ``write_wids(segment, "wids.json", name="pool", base="pool/shards")``
    """
    shards = []
    for segment, number, shard, samples in shards_of(index):
        md5sum = None
        if md5:
            if os.fspath(shards_dir) and (os.path.isabs(shard) or ".." in PurePosixPath(shard).parts):
                raise CorruptDataError(
                    f"{segment.path}: shard {shard!r} lies outside of {shards_dir}", path=segment.path
                )
            with open_input(Path(shards_dir) / shard) as file:
                md5sum = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        shards.append(WidsShard(shard, samples, int(segment.shard_sizes[number]), md5sum))
    named = {key: text for key, text in (("name", name), ("base", base)) if text}
    write_json(path, {"__kind__": _WIDS_KIND, "wids_version": 1, "shardlist": plain(shards), **named})


def read_wids(path: PathLike) -> WidsIndex:
    """Reads a wids description, with the shard lists of its ``datasets`` behind its own.

    Raises:
        CorruptDataError: not json, another version, a shard without url or nsamples, a value of another kind than wids
            writes, no shards; names the file and the place in it.
        PoolError: it refers to another description by ``source_url``: read that one.
    Example: ``count_differences(segment, read_wids("wids.json").counts) == []``
    """
    where = os.fspath(path)
    description = as_record(read_json(path, "wids description", most=MOST_JSON_BYTES, names=True), _Description, where)
    if description.wids_version != 1:
        raise CorruptDataError(f"{where}: wids_version: expected 1; got {description.wids_version}", path=where)
    shards = list(description.shardlist)
    for number, dataset in enumerate(description.datasets):
        if isinstance(dataset.shardlist, msgspec.UnsetType):
            if dataset.source_url is None:
                raise CorruptDataError(f"{where}: datasets[{number}] has no shardlist", path=where)
            raise PoolError(f"{where}: datasets[{number}] is {dataset.source_url!r}; give read_wids that description")
        for shard in dataset.shardlist:
            url = os.path.join(dataset.base, shard.url) if dataset.base and not is_url(shard.url) else shard.url
            shards.append(WidsShard(url, shard.nsamples, shard.filesize, shard.md5sum))
    if not shards:
        raise CorruptDataError(f"{where}: it lists no shards", path=where)
    return WidsIndex(description.name or "", description.base or "", shards, where)
