"""The shards of whatever index is given, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dcfast.errors import PoolError
from dcfast.index.build import TarIndex
from dcfast.index.segments import MemberKind, Segment, shard_state
from dcfast.storage.paths import is_url

if TYPE_CHECKING:
    from numpy.typing import NDArray

PathLike = str | os.PathLike[str]
Index = TarIndex | Segment | Sequence[Segment | PathLike]
BLOCK = 512
"""Of a tar."""
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


def shard_files(index: Index, directory: PathLike, check_mtime: bool) -> Iterator[tuple[Segment, int, str, Path]]:
    """Of each shard its segment, its number there, its name below ``directory`` and its path: as it was indexed, whole.

    Raises PoolError: it is not below the directory, has changed since, or is damaged.
    """
    for segment in segments_of(index):
        damage = {report.shard: report for report in segment.shard_damage}
        for number, name in enumerate(segment.shard_names):
            below = _below(name, directory)
            if below is None:
                raise PoolError(
                    f"shard {name!r} is no file below {directory}; give the directory that holds the shards"
                )
            path = Path(directory) / below
            size, mtime_ns = shard_state(path)
            if size != segment.shard_sizes[number] or (check_mtime and mtime_ns != segment.shard_mtimes_ns[number]):
                raise PoolError(f"shard {path} is not the file that was indexed (size or time); index it again")
            if number in damage:
                report = damage[number]
                raise PoolError(
                    f"shard {path} is damaged at {report.offset}: {report.message}; replace it, index again"
                )
            yield segment, number, below, path


def _below(name: str, directory: PathLike) -> str | None:
    """A shard's name below a directory: as it stands, or of ``index_tars``, as the path that was given there."""
    if is_url(name) or "\0" in name:
        return None
    found = []
    for below in (name, os.path.relpath(name, directory)):
        inside = not os.path.isabs(below) and ".." not in PurePosixPath(below).parts
        if inside and os.path.isfile(os.path.join(directory, below)):
            found.append(below)
    if len(found) == 2 and not os.path.samefile(*(os.path.join(directory, below) for below in found)):
        raise PoolError(
            f"shard {name!r} may be {found[0]} or {found[1]} below {directory}; index the shards by names below it"
        )
    return found[0] if found else None


class Entries(NamedTuple):
    """What a shard holds, in the order of the tar: names (not UTF-8: backslash-escaped), and of each where its data
    lie, their bytes, its ``MemberKind``, and where it ends, padded."""

    names: list[str]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    kind: NDArray[np.uint8]
    end: NDArray[np.int64]


def entries_of(segment: Segment, number: int) -> Entries:
    """Members of all kinds of a shard. Memory: about 200 bytes a member."""
    core = segment._core
    _, begin, text, offset, size = core.member_table(number, number + 1)
    names = _texts(begin, text)
    kind = np.zeros(len(names), np.uint8)
    first, last = (int(at) for at in core.stray_begin[number : number + 2])
    special = first + np.flatnonzero(core.stray_kind[first:last] != MemberKind.REGULAR)
    if len(special):
        begin, text = core.stray_names()
        names += [bytes(text[begin[i] : begin[i + 1]]).decode() for i in special]
        offset = np.concatenate([offset, core.stray_offset[special]])
        size = np.concatenate([size, core.stray_size[special]])
        kind = np.concatenate([kind, core.stray_kind[special]])
    order = np.argsort(offset, kind="stable")
    begin, length = offset[order].astype(np.int64), size[order].astype(np.int64)
    end = begin + length + -length % BLOCK
    return Entries([names[i] for i in order.tolist()], begin, length, kind[order], end)


def _texts(begin: NDArray[np.int64], text: NDArray[np.uint8]) -> list[str]:
    whole, at = bytes(text), begin.tolist()
    return [whole[a:b].decode() for a, b in pairwise(at)]


def refuse_kinds(entries: Entries, kinds: Sequence[MemberKind], path: Path, tool: str) -> None:
    """ValueError: a member is of one of these kinds, about which the index knows too little."""
    bad = np.flatnonzero(np.isin(entries.kind, np.array(kinds)))
    if len(bad):
        kind = MemberKind(int(entries.kind[bad[0]])).name.lower().replace("_", " ")
        raise ValueError(
            f"shard {path}: member {entries.names[bad[0]]!r} ({kind}) cannot be told to {tool} from an index; "
            f"let {tool} read this shard itself"
        )
