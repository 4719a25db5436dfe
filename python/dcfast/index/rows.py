"""Rows of index segments: their ids in the pool, which of them have a uid, and the damage of their shards."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from dcfast.index.segments import WITHOUT_UID, SampleFlag, Segment, ShardReport
from dcfast.storage.listing import say_losses
from dcfast.uids.files import uid_records

FLAG_CUT = int(SampleFlag.CUT)
FLAGS_WITHOUT_UID = int(WITHOUT_UID)


ROW_BITS = 32
ROW_MASK = (1 << ROW_BITS) - 1
"""A row id is the shard's ordinal << 32 | the sample's place in the shard."""


def make_row_ids(shard: npt.ArrayLike, row: npt.ArrayLike) -> NDArray[np.uint64]:
    """(n,) u64 row ids of samples: the ordinal of the shard in the pool, and the sample's place in it, from 0."""
    ids: NDArray[np.uint64] = np.asarray(shard).astype(np.uint64) << np.uint64(ROW_BITS)
    return ids | np.asarray(row).astype(np.uint64)


def split_row_ids(ids: NDArray[np.uint64]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """(shard, row) of row ids, each (n,) u32: what ``make_row_ids`` was given."""
    return (ids >> np.uint64(ROW_BITS)).astype(np.uint32), (ids & np.uint64(ROW_MASK)).astype(np.uint32)


def row_ids(segment: Segment, first_ordinal: int, rows: NDArray[np.integer] | None = None) -> NDArray[np.uint64]:
    """(n,) u64 row ids of rows of a segment, those of all where none are given. Memory: about 40 bytes a row.

    Args:
        first_ordinal: of the segment's first shard in the pool.
        rows: (n,) numbers of samples in the segment.
    """
    begin = np.asarray(segment.shard_sample_begin, np.int64)
    chosen = np.arange(segment.num_samples) if rows is None else rows
    shard = np.searchsorted(begin, chosen, side="right") - 1
    return make_row_ids(shard + first_ordinal, chosen - begin[shard])


def valid_uid_mask(segment: Segment) -> NDArray[np.bool_]:
    """(n,) bool: whether a sample has a uid; elsewhere its entry in ``segment.uid`` means nothing."""
    has_uid: NDArray[np.bool_] = (segment.flags & FLAGS_WITHOUT_UID) == 0
    return has_uid


def sample_records(segment: Segment, first_ordinal: int, rows: NDArray[np.integer]) -> NDArray[np.void]:
    """(r,) records of uid and row id of some samples of a segment, in their order; arguments as ``row_ids``."""
    return uid_records(segment.uid[rows], row_ids(segment, first_ordinal, rows))


def shard_damage(segment: Segment) -> list[ShardReport]:
    """What may not have been read of an archive: damage, a missing end, as a cut between
    members leaves, and bytes behind the end. All that may hide samples, names too: ``Segment.losses``.

    An archive without its end mark is legal to most readers; in a pool it is the trace of a writer that died.
    """
    return sorted(ShardReport(loss.shard, loss.offset, loss.message) for loss in segment.losses if loss.archive)


def loss_notes(segment: Segment) -> list[str]:
    """All that may hide samples of a segment's shards, a sentence each."""
    return say_losses((segment.shard_names[at.shard], at.offset, at.message) for at in segment.losses)
