"""What one output shard holds: a worker's look into plan, index and subset, in NumPy columns.

Nothing here depends on the other output shards, so that any worker can write or check shard k alone.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcfast._core import reshard as core_reshard
from dcfast.errors import CorruptDataError
from dcfast.index.rows import SegmentLike, open_segment, row_ids
from dcfast.resharding.plan import ReshardPlan
from dcfast.resharding.selection import ROWS_AT_ONCE, row_validity, select_rows
from dcfast.resharding.shuffle import places_of
from dcfast.uids.sets import load_subset

__all__ = ["ShardContents", "ShardSources", "open_subset"]


@dataclass
class ShardContents:
    """What one output shard holds: its samples and, in the order they are written, its m members.

    Attributes:
        uid, copy: (s,) "u8,u8" and u64; the keys are ``UID-COPY``.
        member_sample: (m,) u32 sample of each member.
        sources, source_size, source_mtime_ns: the input shards; source: (m,) u32 index into them.
        offset, size: (m,) u64 payload in the source.
        names, name_begin: member names one after the other (u8), and (m + 1,) u64 where each begins.
    """

    uid: NDArray[Any]
    copy: NDArray[np.uint64]
    member_sample: NDArray[np.uint32]
    sources: list[str]
    source_size: NDArray[np.uint64]
    source_mtime_ns: NDArray[np.int64]
    source: NDArray[np.uint32]
    offset: NDArray[np.uint64]
    size: NDArray[np.uint64]
    names: NDArray[np.uint8]
    name_begin: NDArray[np.uint64]

    def name(self, member: int) -> str:
        return bytes(self.names[int(self.name_begin[member]) : int(self.name_begin[member + 1])]).decode(
            "utf-8", "surrogateescape"
        )


@dataclass
class _OpenSegment:
    segment: SegmentLike
    first_ordinal: int
    valid: NDArray[np.bool_] | None  # of a shuffled plan None: it has the rows


class ShardSources:
    """The segments that a worker's output shards draw from; the last few stay open. Safe for many threads.

    Memory: 9 bytes a sample of each open segment, at most ``keep`` of them.
    """

    def __init__(
        self,
        plan: ReshardPlan,
        subset: NDArray[Any],
        segments: Sequence[SegmentLike | str] | None = None,
        *,
        keep: int = 2,
    ) -> None:
        self.plan = plan
        self.subset = subset
        self._items: Sequence[SegmentLike | str] = plan.segments if segments is None else segments
        if len(self._items) != len(plan.segment_first) - 1:
            raise ValueError(
                f"segments must be the {len(plan.segment_first) - 1} that were planned; got {len(self._items)}"
            )
        self._keep = keep
        self._open: OrderedDict[int, _OpenSegment] = OrderedDict()
        self._lock = threading.Lock()

    def _get(self, number: int) -> _OpenSegment:
        with self._lock:
            found = self._open.pop(number, None)
            if found is None:
                # its checksums were verified when the plan was made
                segment = open_segment(self._items[number], verify=False)
                ordinal = self.plan.segment_first[number]
                valid = None
                if self.plan.shuffle_seed is None:
                    valid = row_validity(segment, ordinal, self.plan.options, self.plan.exclude)
                found = _OpenSegment(segment, ordinal, valid)
            self._open[number] = found
            while len(self._open) > self._keep:
                self._open.popitem(last=False)
            return found

    def _parts(self, k: int) -> Iterator[tuple[_OpenSegment, NDArray[Any], NDArray[Any]]]:
        """(segment, row, copy within the row) of the samples of output shard k, segment by segment."""
        cuts = self.plan.cuts
        number, row, copy = (int(cuts[k][name]) for name in ("segment", "row", "copy"))
        left = int(cuts[k]["samples"])
        stop = cuts[k + 1] if k + 1 < len(cuts) else None
        while left > 0:
            if number >= len(self._items):
                raise ValueError(f"output shard {k}: the subset or the index is not the one that was planned")
            opened = self._get(number)
            limit = opened.segment.num_samples
            if stop is not None and int(stop["segment"]) == number:
                limit = min(limit, int(stop["row"]) + 1)
            end = min(limit, row + ROWS_AT_ONCE)
            valid = None if opened.valid is None else opened.valid[row:end]
            rows, multiplicity = select_rows(np.asarray(opened.segment.uid[row:end]), valid, self.subset)
            repeat = np.minimum(multiplicity.astype(np.int64), copy + left)  # more would be cut off below
            expanded = np.repeat(rows.astype(np.int64) + row, repeat)
            copies = _ranges(repeat)
            if copy > 0:  # the first copies of the first row went to the shard before
                expanded, copies = expanded[copy:], copies[copy:]
            expanded, copies = expanded[:left], copies[:left]
            left -= len(expanded)
            if len(expanded):
                yield opened, expanded, copies
            number, row, copy = (number, end, 0) if end < limit else (number + 1, 0, 0)

    def row_ids(self, k: int) -> NDArray[np.uint64]:
        """Pool row ids of the samples of output shard k, in order, a row as often as it is written."""
        if self.plan.shuffle_seed is not None:
            cut = self.plan.cuts[k]
            ids, _, place = places_of(self.plan.rows, int(self.plan.shuffle_seed), int(cut["row"]), int(cut["samples"]))
            ordered = np.empty(len(ids), np.uint64)
            ordered[place] = ids
            return ordered
        parts = [row_ids(opened.segment, opened.first_ordinal, rows) for opened, rows, _ in self._parts(k)]
        return np.concatenate([np.empty(0, np.uint64), *parts])

    def _shuffled_parts(
        self, k: int
    ) -> tuple[list[tuple[_OpenSegment, NDArray[Any], NDArray[Any]]], NDArray[np.int64]]:
        """The parts as ``_parts`` has them, and the place in the shard of each of their samples."""
        cut = self.plan.cuts[k]
        seed, first, count = int(self.plan.shuffle_seed or 0), int(cut["row"]), int(cut["samples"])
        ids, copies, place = places_of(self.plan.rows, seed, first, count)
        ordinal = (ids >> np.uint64(32)).astype(np.int64)
        number = np.searchsorted(np.array(self.plan.segment_first), ordinal, side="right") - 1
        parts = []
        for part in np.split(np.arange(count), np.flatnonzero(np.diff(number)) + 1):
            opened = self._get(int(number[part[0]]))
            begin = np.asarray(opened.segment.shard_sample_begin).astype(np.int64)
            rows = begin[ordinal[part] - opened.first_ordinal] + (ids[part] & np.uint64(0xFFFFFFFF)).astype(np.int64)
            parts.append((opened, rows, copies[part]))
        return parts, place

    def contents(self, k: int) -> ShardContents:
        """Output shard k. Memory: about 100 bytes a member. Cost: look-ups of the rows between its two cuts."""
        place = None
        if self.plan.shuffle_seed is None:
            parts = [self._part_contents(*part) for part in self._parts(k)]
        else:
            shuffled, place = self._shuffled_parts(k)
            parts = [self._part_contents(*part) for part in shuffled]
        exts, ext_rank = _extension_order(parts)
        samples = np.cumsum([0] + [len(part["uid"]) for part in parts])
        sources = np.cumsum([0] + [len(part["sources"]) for part in parts])

        def joined(name: str, shift: NDArray[Any] | None = None) -> NDArray[Any]:
            columns = [part[name] if shift is None else part[name] + shift[i] for i, part in enumerate(parts)]
            return np.concatenate(columns)

        member_sample = joined("member_sample", samples)
        uid, copy = joined("uid"), joined("copy").astype(np.uint64)
        if place is not None:
            member_sample = place[member_sample]
            back = np.argsort(place)
            uid, copy = uid[back], copy[back]
        rank = np.concatenate([ext_rank[i][part["ext"]] for i, part in enumerate(parts)])
        # the reference writes a sample's members sorted by lower-cased extension
        order = np.argsort(member_sample * len(exts) + rank, kind="stable")
        member_sample = member_sample[order].astype(np.uint32)
        names, name_begin = core_reshard.sample_member_names(
            np.ascontiguousarray(uid), copy, member_sample, rank[order].astype(np.uint16), exts
        )
        return ShardContents(
            uid,
            copy,
            member_sample,
            [path for part in parts for path in part["sources"]],
            joined("source_size"),
            joined("source_mtime_ns"),
            joined("source", sources)[order].astype(np.uint32),
            joined("offset")[order],
            joined("size")[order],
            names,
            name_begin,
        )

    def _part_contents(self, opened: _OpenSegment, rows: NDArray[Any], copies: NDArray[Any]) -> dict[str, Any]:
        segment = opened.segment
        counts, offset, size, ext = _members_of_rows(segment, rows)
        member_sample = np.repeat(np.arange(len(rows)), counts)
        begin = np.asarray(segment.shard_sample_begin).astype(np.int64)
        shard = np.searchsorted(begin, rows, side="right") - 1
        used, local = _distinct(shard)
        copy = copies
        repeats = self.plan.repeats
        if len(repeats):
            ids = row_ids(segment, opened.first_ordinal, rows)
            at = np.minimum(np.searchsorted(repeats["row_id"], ids), len(repeats) - 1)
            copy = copies + np.where(repeats["row_id"][at] == ids, repeats["first_copy"][at], 0).astype(np.int64)
        return {
            "uid": np.asarray(segment.uid)[rows],
            "copy": copy,
            "member_sample": member_sample,
            "sources": [_shard_path(self.plan.shards_dir, segment.shard_names[i]) for i in used],
            "source_size": np.asarray(segment.shard_sizes)[used].astype(np.uint64),
            "source_mtime_ns": np.asarray(segment.shard_mtimes_ns)[used].astype(np.int64),
            "source": local[member_sample],
            "offset": offset,
            "size": size,
            "ext": ext,
            "exts": segment.exts_lower,
        }


def _shard_path(shards_dir: str, name: str) -> str:
    """The input shard; an index must not lead out of its pool. (An empty directory: the names are paths.)"""
    if shards_dir and (os.path.isabs(name) or ".." in name.split("/")):
        raise CorruptDataError(
            f"the index names a shard {name!r} outside of its pool {shards_dir}: names must be relative, without '..'",
            path=name,
        )
    return os.path.join(shards_dir, name)


def _members_of_rows(
    segment: SegmentLike, rows: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64], NDArray[Any]]:
    """Of rows that do not fall: number of members of each, and offset, size, extension of all of them in order."""
    first, last = int(rows[0]), int(rows[-1]) + 1
    scattered = last - first > 4 * len(rows) + 256
    if scattered and (asked := getattr(segment, "members_of_rows", None)) is not None:
        count, offset, size, ext = asked(rows)
        return count.astype(np.int64), offset, size, ext
    offset, size, ext = segment.members_of(first, last)
    member_begin = np.asarray(segment.member_begin[first : last + 1]).astype(np.int64)
    counts = member_begin[rows - first + 1] - member_begin[rows - first]
    member = np.repeat(member_begin[rows - first] - member_begin[0], counts) + _ranges(counts)
    return counts, offset[member].astype(np.uint64, copy=False), size[member].astype(np.uint64, copy=False), ext[member]


def _distinct(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Sorted distinct values and where each value stands among them: np.unique without its import of numpy.ma."""
    ordered = np.sort(values)
    keep = np.ones(len(ordered), dtype=bool)
    keep[1:] = ordered[1:] != ordered[:-1]
    found = ordered[keep]
    return found, np.searchsorted(found, values)


def _ranges(counts: NDArray[Any]) -> NDArray[np.int64]:
    """0..counts[0]-1, 0..counts[1]-1, and so on, one after the other."""
    begin = np.cumsum(counts) - counts
    ranges: NDArray[np.int64] = np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(begin, counts)
    return ranges


def _extension_order(parts: list[dict[str, Any]]) -> tuple[list[bytes], list[NDArray[np.int64]]]:
    """The extensions in use, in order of their text, and for each part the rank of each of its own."""
    used = [[part["exts"][i] for i in _distinct(part["ext"])[0]] for part in parts]
    texts = sorted({ext for exts in used for ext in exts})
    rank = {ext: i for i, ext in enumerate(texts)}
    if len(texts) > 1 << 16:
        raise ValueError(f"an output shard can hold at most 65536 different extensions; got {len(texts)}")
    ranks = [np.array([rank.get(ext, 0) for ext in part["exts"]], np.int64) for part in parts]
    return [text.encode("utf-8", "surrogateescape") for text in texts], ranks


def open_subset(subset: NDArray[Any] | str | os.PathLike[str], *, check: bool = False) -> NDArray[Any]:
    """The subset as an array, files memory-mapped; ``check`` makes sure that it is sorted."""
    if isinstance(subset, np.ndarray):
        if subset.dtype != np.dtype("u8,u8") or subset.ndim != 1:
            raise TypeError(
                f'subset must be one-dimensional of dtype "u8,u8"; got {subset.dtype} of shape {subset.shape}'
            )
        if check and not _is_sorted(subset):
            raise ValueError("subset must be sorted by high then low half; pass dcfast.uid_sort(subset)")
        return subset
    loaded: NDArray[Any] = load_subset(subset, check=check)
    return loaded


def _is_sorted(uids: NDArray[Any], chunk: int = 1 << 22) -> bool:
    for begin in range(0, len(uids), chunk):
        part = uids[begin : begin + chunk + 1]  # one more, for the pair across the border
        hi, lo = part["f0"], part["f1"]
        if bool(((hi[1:] < hi[:-1]) | ((hi[1:] == hi[:-1]) & (lo[1:] < lo[:-1]))).any()):
            return False
    return True
