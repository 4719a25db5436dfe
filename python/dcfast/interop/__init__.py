"""Index files of other tools, from a dcfast index and back: DALI's ``.idx``, wids' json, DataComp's ``sizes.json``,
what Megatron-Energon keeps of a dataset, and ratarmount's index of a tar.

Formats, and where these files differ from what the tools themselves write: docs/formats.md, "Files of other tools".
"""

from __future__ import annotations

from dcfast.interop.energon import stale_energon_idx, write_energon
from dcfast.interop.energon_files import EnergonIndex, read_energon, read_energon_idx, read_energon_members
from dcfast.interop.ratarmount import RatarmountIndex, read_ratarmount, write_ratarmount
from dcfast.interop.sizes import CountDifference, count_differences, read_sizes, shard_counts, write_sizes
from dcfast.interop.wds2idx import read_wds2idx, write_wds2idx
from dcfast.interop.wids import WidsIndex, WidsShard, read_wids, write_wids

__all__ = [
    "CountDifference",
    "EnergonIndex",
    "RatarmountIndex",
    "WidsIndex",
    "WidsShard",
    "count_differences",
    "read_energon",
    "read_energon_idx",
    "read_energon_members",
    "read_ratarmount",
    "read_sizes",
    "read_wds2idx",
    "read_wids",
    "shard_counts",
    "stale_energon_idx",
    "write_energon",
    "write_ratarmount",
    "write_sizes",
    "write_wds2idx",
    "write_wids",
]
