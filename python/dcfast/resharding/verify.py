"""Verification of output shards: each is walked anew and compared with plan, subset and source bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dcfast.errors import CorruptDataError
from dcfast.process.read_ahead import read_ahead
from dcfast.resharding.contents import ShardContents, list_members
from dcfast.resharding.edit import edited_contents
from dcfast.resharding.far import near_contents
from dcfast.resharding.layout import IDX_FORMAT, SHARD_FORMAT, STATS_FORMAT
from dcfast.resharding.output import OutputShards
from dcfast.resharding.records import Mismatch, ShardStats, VerifyReport
from dcfast.resharding.resume import holds_bytes
from dcfast.storage.hashing import hash_members
from dcfast.storage.records import read_record
from dcfast.storage.temporary import temporary_folder

if TYPE_CHECKING:
    from dcfast.resharding.edit import BlurOptions
    from dcfast.resharding.plan import ReshardPlan
    from dcfast.resharding.sources import OpenSubset, SegmentItem, StrPath, Subset

# reported one by one for each shard; beyond it they are counted
MISMATCHES_A_SHARD = 20


def verify_output_shards(
    plan: ReshardPlan | StrPath,
    subset: Subset | OpenSubset,
    out_dir: StrPath,
    k_first: int = 0,
    k_last: int | None = None,
    *,
    segments: Sequence[SegmentItem] | None = None,
    threads: int | None = 1,
    strict: bool = False,
    blur: BlurOptions | None = None,
    idx: bool = False,
) -> VerifyReport:
    """Re-reads output shards k_first .. k_last - 1 and compares them with what the plan says and the sources hold.

    The tars are walked by the indexer, which knows nothing of the plan. Compared are: the number of samples in
    ``_stats.json``, the number, names (so keys and order) and sizes of the members, and the XXH3-128 of each
    payload on both sides.

    Args:
        plan, subset, segments: as they were written from.
        k_last: None for all.
        threads: shards checked at the same time; threads beyond the number of shards share in blurring.
        strict: raise on the first shard with a mismatch.
        blur, idx: as they were written with: what was changed is made anew from the sources (so with the same versions
            of Pillow and libwebp) and compared, and the index files are read.
    Returns:
        What was compared; no mismatches where all is well.
    Raises:
        CorruptDataError: with ``strict``, at a mismatch; an input shard that ends early.   IndexError: no such shard.
    Memory: per thread about 200 bytes a member of one output shard.   Cost: one read of both sides.
    """
    shards = OutputShards(plan, subset, out_dir, segments, threads, blur, idx)
    last = shards.plan.num_output_shards if k_last is None else k_last
    return verify_shards(shards, k_first, last, strict)


def verify_shards(shards: OutputShards, k_first: int, k_last: int, strict: bool) -> VerifyReport:
    """See ``verify_output_shards``."""
    shards.plan.check_range(k_first, k_last, "verify_output_shards")
    report = VerifyReport(shards=0, samples=0, members=0, payload_bytes=0, mismatch_count=0, mismatches=[])
    each = max(1, shards.threads // max(1, k_last - k_first))

    def verify(k: int) -> _Checked:
        contents = shards.sources.contents(k)
        if shards.blur is None and "://" not in shards.plan.shards_dir:
            return _verify_contents(shards, contents, k, strict)
        with (
            temporary_folder("dcfast-verify-") as folder,
            near_contents(contents, folder / "near", check_mtime=False) as near,
        ):
            if shards.blur is None:
                return _verify_contents(shards, near, k, strict)
            with edited_contents(near, shards.blur, folder / "spool", each) as (edited, _):
                return _verify_contents(shards, edited, k, strict)

    with closing(
        read_ahead(verify, range(k_first, k_last), threads=shards.threads, ahead=4 * shards.threads)
    ) as verified:
        for checked in verified:
            report["shards"] += 1
            report["samples"] += checked.samples
            report["members"] += checked.members
            report["payload_bytes"] += checked.payload_bytes
            report["mismatch_count"] += checked.count
            report["mismatches"] += checked.mismatches
    return report


@dataclass
class _Checked:
    """An output shard, and where it differs; with ``strict`` the first difference is raised."""

    shard: Path
    strict: bool
    samples: int
    members: int
    payload_bytes: int
    count: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)

    def add(self, problem: str, member: str = "") -> None:
        if self.strict:
            at = f", member {member}" if member else ""
            raise CorruptDataError(f"{problem} (file {self.shard}{at})", path=os.fspath(self.shard))
        self.count += 1
        if len(self.mismatches) < MISMATCHES_A_SHARD:
            key = member.split(".", 1)[0]
            self.mismatches.append({"shard": self.shard.name, "key": key, "member": member, "problem": problem})


def _verify_contents(shards: OutputShards, contents: ShardContents, k: int, strict: bool) -> _Checked:
    samples = len(contents.uid)
    checked = _Checked(
        Path(shards.path(SHARD_FORMAT, k)), strict, samples, len(contents.size), int(contents.size.sum())
    )
    try:
        successes = read_record(shards.path(STATS_FORMAT, k), ShardStats).successes
    except (OSError, ValueError) as error:
        checked.add(f"stats cannot be read: {error}")
    else:
        if successes != samples:
            checked.add(f"stats: expected {samples} successes; got {successes}")
    _compare_members(contents, checked)
    if shards.idx:
        try:
            if not holds_bytes(shards.path(IDX_FORMAT, k), contents.idx_text()):
                checked.add(f"{IDX_FORMAT.format(k)} does not say where the members lie")
        except OSError as error:
            checked.add(f"index file cannot be read: {error}")
    return checked


def _compare_members(contents: ShardContents, checked: _Checked) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        names, offset, size = list_members(checked.shard)
    except (OSError, CorruptDataError) as error:
        checked.add(f"shard cannot be read: {error}")
        return
    expected = pa.Array.from_buffers(
        pa.large_binary(),
        len(contents.size),
        [None, pa.py_buffer(contents.name_begin.astype(np.int64)), pa.py_buffer(contents.names)],
    )
    if len(names) != len(expected):
        checked.add(f"expected {len(expected)} members; got {len(names)}")
    both = min(len(names), len(expected))
    same_name = pc.equal(names[:both], expected[:both]).to_numpy(zero_copy_only=False)
    for i in np.flatnonzero(~same_name):
        got = names[int(i)].as_py().decode("utf-8", "replace")
        checked.add(f"member {i}: expected this name; got {got!r}", contents.name(int(i)))
    same_size = size[:both] == contents.size[:both]
    for i in np.flatnonzero(same_name & ~same_size):
        checked.add(f"expected {contents.size[i]} bytes; got {size[i]}", contents.name(int(i)))
    at = np.flatnonzero(same_name & same_size)
    written = hash_members(checked.shard, offset[at], size[at], threads=1)
    source = np.empty_like(written)
    order = np.argsort(contents.source[at], kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(contents.source[at][order])) + 1):
        if len(part):
            file = contents.sources[int(contents.source[at[part[0]]])]
            source[part] = hash_members(file, contents.offset[at[part]], contents.size[at[part]], threads=1)
    for i in at[written != source]:
        checked.add("payload differs from its source", contents.name(int(i)))
