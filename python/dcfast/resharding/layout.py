"""The layout of DataComp's output shards: names, blocks, companions."""

from __future__ import annotations

SHARD_FORMAT = "{:08d}.tar"


STATS_FORMAT = "{:08d}_stats.json"


#: for NVIDIA DALI's webdataset reader, beside output shards
IDX_FORMAT = "{:08d}.idx"


EDIT_COUNTS = ("blurred", "injected", "blur_failed", "inject_failed")


BLOCK, RECORD = 512, 10_240


#: of a run that has not ended: what it is a run of
KEY_FILE = "reshard_key.json"
