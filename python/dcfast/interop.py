"""Index files of other tools, from a dcfast index and back: DALI's ``.idx``, wids' json, DataComp's ``sizes.json``.

Formats, and where these files differ from what the tools themselves write: docs/formats.md, "Files of other tools".
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dcfast.atomic import write_bytes, write_json
from dcfast.errors import CorruptDataError, PoolError
from dcfast.remote import is_url
from dcfast.segments import Segment

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "CountDifference",
    "WidsIndex",
    "WidsShard",
    "count_differences",
    "read_sizes",
    "read_wds2idx",
    "read_wids",
    "shard_counts",
    "write_sizes",
    "write_wds2idx",
    "write_wids",
]

PathLike = str | os.PathLike[str]
_WIDS_KIND = "wids-shard-index-v1"
_BLOCK = 512
_MOST = (1 << 63) - 1


def _segments(index: Any) -> list[Segment]:
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


def _shards(index: Any) -> Iterator[tuple[Segment, int, str]]:
    for segment in _segments(index):
        for number, name in enumerate(segment.shard_names):
            yield segment, number, name


def _file_name(name: str) -> str:
    return PurePosixPath(name).name


# --- DALI -------------------------------------------------------------------------------------------------------


def write_wds2idx(index: Any, out_dir: PathLike) -> list[Path]:
    """Writes the index files that DALI's webdataset reader takes (``index_paths``): one a shard, version 1.2.

    Args:
        index: a TarIndex, a Segment, or a sequence of segments or their paths.
        out_dir: made where missing; shard ``00000007.tar`` becomes ``00000007.idx`` in it, each written atomically.
    Returns:
        The files, in the order of the shards.
    Raises:
        ValueError: a shard without samples (DALI refuses such an index), or a member whose name the format cannot
            hold: with white space, or with nothing after its dot; names the shard. Two shards of one file name.
    Memory: the text of one shard, about 60 bytes a member. Cost: from the mapped index, no tar is read.
    Source: the files of nvidia-dali's tool wds2idx; docs/formats.md.
    """
    if not os.fspath(out_dir):
        raise ValueError("write_wds2idx: out_dir must be a path; got an empty text")
    out = Path(out_dir)
    paths: dict[Path, None] = {}
    for segment, number, name in _shards(index):
        path = out / (_file_name(name).removesuffix(".tar") + ".idx")
        if path in paths:
            raise ValueError(f"write_wds2idx: two shards would be written as {path}; write them into two directories")
        write_bytes(path, segment._core.wds2idx(number))
        paths[path] = None
    return list(paths)


def read_wds2idx(path: PathLike) -> pa.Table:
    """The members that a DALI index file lists.

    Args:
        path: a file of version 1.1 or 1.2.
    Returns:
        pyarrow table: sample (int64, counted from 0), ext, offset (of the data), size (uint64), name (null in
        version 1.1), in the order of the file. Names that are not UTF-8 are backslash-escaped.
    Raises:
        CorruptDataError: another version or number of samples, fields missing or no numbers, an offset that is no
            multiple of 512, a member that ends at 2^63 or later, a last line without its end (as of a file that was
            cut off: half a number is a number); with path and offset of the line.   OSError: it cannot be read.
    """
    import pyarrow as pa

    where = os.fspath(path)
    lines = Path(path).read_bytes().split(b"\n")
    head = lines[0].split()

    def bad(what: str, line: int) -> CorruptDataError:
        at = sum(len(text) + 1 for text in lines[:line])
        return CorruptDataError(f"DALI index {where}, line {line + 1}: {what}", path=where, offset=at)

    if len(head) != 2 or head[0] not in (b"v1.1", b"v1.2") or _number(head[1]) is None:
        raise bad(f"expected 'v1.2 SAMPLES' or 'v1.1 SAMPLES'; got {_shown(lines[0])}", 0)
    width = 4 if head[0] == b"v1.2" else 3
    columns: dict[str, list[Any]] = {"sample": [], "ext": [], "offset": [], "size": [], "name": []}
    if lines[-1] != b"":
        what = f"expected a line end behind the last line; got {_shown(lines[-1][-40:])}; cut off? make it again"
        raise bad(what, len(lines) - 1)
    body = lines[1:-1]
    if len(body) != _number(head[1]):
        raise bad(f"expected {_number(head[1])} samples; got {len(body)}; cut off? make it again", 0)
    for sample, line in enumerate(body):
        fields = line.split()
        if not fields or len(fields) % width:
            raise bad(f"expected {width} fields a member; got {len(fields)}", sample + 1)
        for at in range(0, len(fields), width):
            offset, size = (_number(field) for field in fields[at + 1 : at + 3])
            if offset is None or size is None or offset % _BLOCK or offset + size > _MOST:
                raise bad(
                    f"expected an offset in blocks of 512 and a size; got {_shown(b' '.join(fields[at:]))}", sample + 1
                )
            columns["sample"].append(sample)
            columns["ext"].append(_text(fields[at]))
            columns["offset"].append(offset)
            columns["size"].append(size)
            columns["name"].append(_text(fields[at + 3]) if width == 4 else None)
    kinds = {"sample": pa.int64(), "offset": pa.uint64(), "size": pa.uint64()}
    return pa.table({name: pa.array(values, kinds.get(name, pa.string())) for name, values in columns.items()})


def _number(field: bytes) -> int | None:
    """A count of less than 2^63, written in decimal digits; None of anything else."""
    value = int(field) if field.isdigit() and len(field) <= 40 else -1
    return value if 0 <= value <= _MOST else None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _shown(raw: bytes) -> str:
    return repr(_text(raw[:80]))


# --- wids -------------------------------------------------------------------------------------------------------


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
            name = _file_name(shard.url)
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
    for segment, number, shard in _shards(index):
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
            with open(Path(shards_dir) / shard, "rb") as file:
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

    data = _read_json(path, "wids description")
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
    if not _is_count(item.get("nsamples")) or not (size is None or _is_count(size)):
        return None
    return WidsShard(item["url"], item["nsamples"], size, md5sum) if isinstance(md5sum, str | None) else None


# --- DataComp's sizes.json --------------------------------------------------------------------------------------


def write_sizes(index: Any, path: PathLike) -> None:
    """Writes ``sizes.json``: file name of each shard -> samples. ``path`` may be the directory of the shards."""
    write_json(_sizes_path(path), shard_counts(index))


def read_sizes(path: PathLike) -> dict[str, int]:
    """Reads ``sizes.json`` (or the one in a directory): file name of each shard -> samples.

    Raises:
        CorruptDataError: not json, not an object of counts below 2^63, a name twice.   OSError: it cannot be read.
    """
    file = _sizes_path(path)
    data = _read_json(file, "sizes.json")
    if not isinstance(data, dict):
        raise CorruptDataError(f"{file}: expected an object; got {type(data).__name__}", path=str(file))
    for name, count in data.items():
        if not _is_count(count):
            raise CorruptDataError(f"{file}: expected a number of samples for {name!r}; got {count!r}", path=str(file))
    return data


def _sizes_path(path: PathLike) -> Path:
    return Path(path) / "sizes.json" if os.path.isdir(path) else Path(path)


def _read_json(path: PathLike, what: str) -> Any:
    try:
        return json.loads(Path(path).read_bytes(), object_pairs_hook=_object)
    except _TwiceError as error:
        raise CorruptDataError(f"{what} {os.fspath(path)}: {error}", path=os.fspath(path)) from error
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"{what} {os.fspath(path)}: not json: {error}", path=os.fspath(path)) from error


class _TwiceError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of json in which no key stands twice: which one counts, readers do not agree on."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _TwiceError(f"expected each key once in an object; got {twice!r} more than once")
    return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


# --- what others counted, beside the index ----------------------------------------------------------------------


def shard_counts(index: Any) -> dict[str, int]:
    """File name of each shard -> samples in the index. Raises ValueError for two shards of one file name."""
    counts: dict[str, int] = {}
    for segment in _segments(index):
        samples = np.diff(np.asarray(segment.shard_sample_begin).astype(np.int64))
        for name, count in zip(segment.shard_names, samples.tolist(), strict=True):
            if _file_name(name) in counts:
                raise ValueError(
                    f"two shards of the index have the file name {_file_name(name)}: counts are by file name"
                )
            counts[_file_name(name)] = count
    return counts


class CountDifference(NamedTuple):
    """A shard whose samples another tool counted otherwise; None: the shard is not known there."""

    shard: str
    stated: int | None
    indexed: int | None


def count_differences(index: Any, counts: Mapping[str, int]) -> list[CountDifference]:
    """Shards of which the index has another number of samples than ``counts`` says, by name.

    Args:
        counts: file name -> samples: of ``read_sizes``, ``WidsIndex.counts``, or stats files.
    A shard that was cut after it was counted, or written anew, shows here.
    """
    indexed = shard_counts(index)
    names = sorted(indexed.keys() | counts.keys())
    return [
        CountDifference(name, counts.get(name), indexed.get(name))
        for name in names
        if counts.get(name) != indexed.get(name)
    ]
