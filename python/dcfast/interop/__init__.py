"""Index files of other tools, from a dcfast index and back: DALI's ``.idx``, wids' json, DataComp's ``sizes.json``.

Formats, and where these files differ from what the tools themselves write: docs/formats.md, "Files of other tools".
"""

from __future__ import annotations

from dcfast.interop.sizes import CountDifference, count_differences, read_sizes, shard_counts, write_sizes
from dcfast.interop.wds2idx import read_wds2idx, write_wds2idx
from dcfast.interop.wids import WidsIndex, WidsShard, read_wids, write_wids

__all__ = [
    "CountDifference",
    "WidsIndex",
    "WidsShard",
    "count_differences",
    "read_sizes",
    "read_wds2idx",
    "read_wids",
    "shard_counts",
    "write_sizes",
    "write_wds2idx",
    "write_wids",
]
