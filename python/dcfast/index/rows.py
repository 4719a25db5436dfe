"""Rows of index segments: their ids in the pool, which of them have a uid, and the damage of their shards."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcfast.index.build import WITHOUT_UID, Segment

__all__ = [
    "FLAGS_WITHOUT_UID",
    "FLAG_CUT",
    "ROW_BITS",
    "row_ids",
    "shard_damage",
    "valid_uid_mask",
]


FLAG_CUT = 128


# NO_JSON | NO_UID | BAD_UID | BAD_JSON: rows without a readable uid
FLAGS_WITHOUT_UID = 1 | 8 | 16 | 32


def row_ids(segment: Segment, first_ordinal: int, rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Pool row ids (shard ordinal << 32 | row in the shard) of rows of a segment."""
    begin = np.asarray(segment.shard_sample_begin, np.int64)
    shard = np.searchsorted(begin, rows, side="right") - 1
    ids: NDArray[np.uint64] = ((shard + first_ordinal).astype(np.uint64) << np.uint64(32)) | (
        rows - begin[shard]
    ).astype(np.uint64)
    return ids


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
