"""Rows of index segments: their ids in the pool, which of them have a uid, and the damage of their shards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from dcfast.index.build import WITHOUT_UID, Segment
from dcfast.uids import sets as uid_module

__all__ = [
    "FLAGS_WITHOUT_UID",
    "FLAG_CUT",
    "ROW_BITS",
    "ROW_MASK",
    "SegmentLike",
    "iterate_segments",
    "make_row_ids",
    "open_segment",
    "row_ids",
    "shard_damage",
    "split_row_ids",
    "uid_multiplicity",
    "valid_uid_mask",
]


FLAG_CUT = 128


ROW_BITS = 32
ROW_MASK = (1 << ROW_BITS) - 1
"""A row id is the shard's ordinal << 32 | the sample's place in the shard."""


# NO_JSON | NO_UID | BAD_UID | BAD_JSON: rows without a readable uid
FLAGS_WITHOUT_UID = 1 | 8 | 16 | 32


class SegmentLike(Protocol):
    """What the plan reads of an index segment (``dcfast.index.build.Segment``)."""

    num_shards: int
    num_samples: int
    shard_names: list[str]
    shard_sizes: Any
    shard_mtimes_ns: Any
    shard_sample_begin: Any
    uid: Any
    flags: Any
    exts_lower: list[str]

    @property
    def member_begin(self) -> Any: ...
    def members_of(self, first: int, last: int) -> tuple[Any, Any, Any]: ...


def open_segment(segment: SegmentLike | str | os.PathLike[str], *, verify: bool = True) -> SegmentLike:
    """A segment as it was given, or opened; ``verify`` reads it once to check its checksums."""
    if not isinstance(segment, (str, os.PathLike)):
        return segment
    opened: SegmentLike = Segment.open(segment, verify=verify)
    return opened


def uid_multiplicity(uids: NDArray[Any], sorted_uids: NDArray[Any]) -> NDArray[np.int64]:
    """How often each uid stands in a sorted array; sortedness was checked when it was opened."""
    return np.asarray(uid_module.uid_multiplicity(uids, sorted_uids, check=False))


def make_row_ids(shard: npt.ArrayLike, row: npt.ArrayLike) -> NDArray[np.uint64]:
    """(n,) u64 row ids of samples: the ordinal of the shard in the pool, and the sample's place in it, from 0."""
    ids: NDArray[np.uint64] = np.asarray(shard).astype(np.uint64) << np.uint64(ROW_BITS)
    return ids | np.asarray(row).astype(np.uint64)


def split_row_ids(ids: NDArray[np.uint64]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """(shard, row) of row ids, each (n,) u32: what ``make_row_ids`` was given."""
    return (ids >> np.uint64(ROW_BITS)).astype(np.uint32), (ids & np.uint64(ROW_MASK)).astype(np.uint32)


def row_ids(segment: SegmentLike, first_ordinal: int, rows: NDArray[Any] | None = None) -> NDArray[np.uint64]:
    """(n,) u64 row ids of rows of a segment, those of all where none are given. Memory: about 40 bytes a row.

    Args:
        first_ordinal: of the segment's first shard in the pool.
        rows: (n,) numbers of samples in the segment.
    """
    begin = np.asarray(segment.shard_sample_begin, np.int64)
    chosen = np.arange(segment.num_samples) if rows is None else rows
    shard = np.searchsorted(begin, chosen, side="right") - 1
    return make_row_ids(shard + first_ordinal, chosen - begin[shard])


def iterate_segments(segments: Sequence[SegmentLike | str]) -> Iterator[tuple[int, int, SegmentLike]]:
    """(segment number, ordinal of its first shard in the pool, opened segment)."""
    ordinal = 0
    for number, item in enumerate(segments):
        segment = open_segment(item)
        yield number, ordinal, segment
        ordinal += segment.num_shards


def valid_uid_mask(segment: Any) -> Any:
    """(n,) bool: whether a sample has a uid; elsewhere its entry in ``segment.uid`` means nothing."""
    return (np.asarray(segment.flags) & int(WITHOUT_UID)) == 0


def shard_damage(segment: Any) -> list[tuple[int, int, str]]:
    """(shard, offset, message) of what may hide samples: damage, and a missing end, as a cut between members leaves.

    An archive without its end mark is legal to most readers; in a pool it is the trace of a writer that died.
    """
    cut = [note for note in segment.shard_notes if note.message.startswith("no end-of-archive marker")]
    return sorted([*segment.shard_damage, *cut])
