"""The layout of DataComp's output shards: names, blocks, companions."""

from __future__ import annotations

__all__ = ["BLOCK", "EDIT_COUNTS", "KEY_FILE", "RECORD", "SHARD_FORMAT", "STATS_FORMAT"]


SHARD_FORMAT = "{:08d}.tar"


STATS_FORMAT = "{:08d}_stats.json"


EDIT_COUNTS = ("blurred", "injected", "blur_failed", "inject_failed")


BLOCK, RECORD = 512, 10_240


#: of a run that has not ended: what it is a run of
KEY_FILE = "reshard_key.json"
