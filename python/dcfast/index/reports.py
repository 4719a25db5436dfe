"""What indexing tells its callers: dicts of these names, which can be written as JSON."""

from __future__ import annotations

from typing import TypedDict


class ShardDamage(TypedDict):
    """What may not have been read of a shard of this name, from a byte on."""

    shard: str
    offset: int
    message: str


class RefreshReport(TypedDict):
    """What ``refresh_index`` did.

    Attributes:
        shards, samples, rows: of the index; rows are samples with a uid.
        indexed, removed: names of shards that were read, and that are no longer there; ``reused``: how many were not.
        damaged_segments: index files that were unreadable: their shards were read again.
        damage: what may not have been read of the pool's shards.   notes: what else may hide samples, in words.
        passed_over: name and reason of what looks like a shard and is none.
    """

    shards: int
    samples: int
    rows: int
    indexed: list[str]
    reused: int
    removed: list[str]
    segments_kept: int
    segments_written: int
    damaged_segments: list[str]
    damage: list[ShardDamage]
    notes: list[str]
    passed_over: list[dict[str, str]]
