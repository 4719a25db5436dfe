"""What indexing tells its callers: dicts of these names, which can be written as JSON."""

from __future__ import annotations

from typing import TypedDict

__all__ = ["NamedDamage", "RefreshReport", "SegmentReport", "ShardDamage"]


class ShardDamage(TypedDict):
    """What may not have been read of a shard of this name, from a byte on."""

    shard: str
    offset: int
    message: str


class NamedDamage(TypedDict):
    """The same by number and name."""

    shard: int
    name: str
    offset: int
    message: str


class SegmentReport(TypedDict):
    """What ``write_segment`` wrote: ``num_members`` are those of samples, ``num_strays`` the others.

    ``flags``: of each ``SampleFlag``, the samples that have it. ``damage`` means that members may be missing.
    """

    num_shards: int
    num_samples: int
    num_members: int
    num_strays: int
    tar_bytes: int
    flags: dict[str, int]
    damage: list[NamedDamage]
    notes: list[NamedDamage]


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
