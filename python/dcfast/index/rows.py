"""Rows of index segments: their ids in the pool, which of them have a uid, and the damage of their shards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dcfast.index.build import WITHOUT_UID, Segment
from dcfast.uids import sets as uid_module

__all__ = [
    "FLAGS_WITHOUT_UID",
    "FLAG_CUT",
    "ROW_BITS",
    "SegmentLike",
    "iterate_segments",
    "open_segment",
    "row_ids",
    "shard_damage",
    "uid_multiplicity",
    "valid_uid_mask",
]


FLAG_CUT = 128


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


def row_ids(segment: SegmentLike, first_ordinal: int, rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Pool row ids (shard ordinal << 32 | row in the shard) of rows of a segment."""
    begin = np.asarray(segment.shard_sample_begin, np.int64)
    shard = np.searchsorted(begin, rows, side="right") - 1
    ids: NDArray[np.uint64] = ((shard + first_ordinal).astype(np.uint64) << np.uint64(32)) | (
        rows - begin[shard]
    ).astype(np.uint64)
    return ids


def iterate_segments(segments: Sequence[SegmentLike | str]) -> Iterator[tuple[int, int, SegmentLike]]:
    """(segment number, ordinal of its first shard in the pool, opened segment)."""
    ordinal = 0
    for number, item in enumerate(segments):
        segment = open_segment(item)
        yield number, ordinal, segment
        ordinal += segment.num_shards


ROW_BITS = 32
"""A row id is the shard's ordinal << 32 | the sample's place in the shard."""


def valid_uid_mask(segment: Any) -> Any:
    """(n,) bool: whether a sample has a uid; elsewhere its entry in ``segment.uid`` means nothing."""
    return (np.asarray(segment.flags) & int(WITHOUT_UID)) == 0


def shard_damage(segment: Any) -> list[tuple[int, int, str]]:
    """(shard, offset, message) of what may hide samples: damage, and a missing end, as a cut between members leaves.

    An archive without its end mark is legal to most readers; in a pool it is the trace of a writer that died.
    """
    cut = [note for note in segment.shard_notes if note.message.startswith("no end-of-archive marker")]
    return sorted([*segment.shard_damage, *cut])
