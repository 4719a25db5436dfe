"""Verification of output shards: each is walked anew and compared with plan, subset and source bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcfast.errors import CorruptDataError
from dcfast.process.read_ahead import read_ahead
from dcfast.resharding.contents import ShardContents
from dcfast.resharding.edit import edited_contents
from dcfast.resharding.layout import IDX_FORMAT, SHARD_FORMAT, STATS_FORMAT
from dcfast.resharding.members import hash_ranges, list_members
from dcfast.resharding.plan import ReshardPlan, ShardSources
from dcfast.storage.inputs import open_input
from dcfast.storage.json_files import read_json
from dcfast.storage.temporary import temporary_folder

if TYPE_CHECKING:
    from dcfast.resharding.edit import BlurOptions
    from dcfast.resharding.sources import SegmentItem, Subset

__all__ = ["verify_output_shards"]

# reported one by one for each shard; beyond it they are counted
MISMATCHES_A_SHARD = 20


def verify_output_shards(
    plan: ReshardPlan | str | os.PathLike[str],
    subset: Subset,
    out_dir: str | os.PathLike[str],
    k_first: int = 0,
    k_last: int | None = None,
    *,
    segments: Sequence[SegmentItem] | None = None,
    threads: int = 1,
    strict: bool = False,
    blur: BlurOptions | None = None,
    idx: bool = False,
) -> dict[str, Any]:
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
        shards, samples, members, payload_bytes: what was compared; mismatch_count; mismatches: at most 20 a shard,
        each a dict of shard, key, member, problem. Empty where all is well.
    Raises:
        CorruptDataError: with ``strict``, at a mismatch; an input shard that ends early.   IndexError: no such shard.
    Memory: per thread about 200 bytes a member of one output shard.   Cost: one read of both sides.
    """
    opened = plan if isinstance(plan, ReshardPlan) else ReshardPlan.load(plan)
    last = opened.num_output_shards if k_last is None else k_last
    if not 0 <= k_first <= last <= opened.num_output_shards:
        raise IndexError(
            f"verify_output_shards: shards {k_first} to {last} are not in a plan of {opened.num_output_shards}"
        )
    report: dict[str, Any] = dict.fromkeys(("shards", "samples", "members", "payload_bytes", "mismatch_count"), 0)
    report["mismatches"] = []
    if k_first == last:
        return report
    sources = ShardSources(opened, subset, segments, keep=threads + 1)
    each = max(1, threads // (last - k_first))

    def verify(k: int) -> dict[str, Any]:
        return _verify_one(sources, k, Path(out_dir), strict, blur, idx, each)

    with closing(read_ahead(verify, range(k_first, last), threads=threads, ahead=4 * threads)) as verified:
        for one in verified:
            for name, value in one.items():
                report[name] += value
    return report


class _Mismatches:
    def __init__(self, shard: Path, strict: bool) -> None:
        self.shard, self.strict = shard, strict
        self.count = 0
        self.listed: list[dict[str, str]] = []

    def add(self, problem: str, member: str = "") -> None:
        if self.strict:
            at = f", member {member}" if member else ""
            raise CorruptDataError(f"{problem} (file {self.shard}{at})", path=os.fspath(self.shard))
        self.count += 1
        if len(self.listed) < MISMATCHES_A_SHARD:
            key = member.split(".", 1)[0]
            self.listed.append({"shard": self.shard.name, "key": key, "member": member, "problem": problem})


def _verify_one(
    sources: ShardSources, k: int, out_dir: Path, strict: bool, blur: BlurOptions | None, idx: bool, threads: int
) -> dict[str, Any]:
    contents = sources.contents(k)
    if blur is None:
        return _verify_contents(contents, k, out_dir, strict, idx)
    with (
        temporary_folder("dcfast-verify-") as folder,
        edited_contents(contents, blur, folder / "spool", threads) as edited,
    ):
        return _verify_contents(edited.contents, k, out_dir, strict, idx)


def _verify_contents(contents: ShardContents, k: int, out_dir: Path, strict: bool, idx: bool) -> dict[str, Any]:
    path = out_dir / SHARD_FORMAT.format(k)
    wrong = _Mismatches(path, strict)
    try:
        stats = read_json(out_dir / STATS_FORMAT.format(k), names=True)
        if not isinstance(stats, dict):
            wrong.add(f"stats: expected an object; got {type(stats).__name__}")
        elif stats.get("successes") != len(contents.uid):
            wrong.add(f"stats: expected {len(contents.uid)} successes; got {stats.get('successes')}")
    except (OSError, ValueError) as error:
        wrong.add(f"stats cannot be read: {error}")
    try:
        names, offset, size = list_members(path)
    except (OSError, CorruptDataError) as error:
        wrong.add(f"shard cannot be read: {error}")
    else:
        _compare(contents, path, names, offset, size, wrong)
    if idx:
        _compare_idx(out_dir / IDX_FORMAT.format(k), contents, wrong)
    return {
        "shards": 1,
        "samples": len(contents.uid),
        "members": len(contents.size),
        "payload_bytes": int(contents.size.sum()),
        "mismatch_count": wrong.count,
        "mismatches": wrong.listed,
    }


def _compare_idx(path: Path, contents: ShardContents, wrong: _Mismatches) -> None:
    try:
        with open_input(path) as file:
            expected = contents.idx_text()
            same = file.read(len(expected) + 1) == expected
    except OSError as error:
        wrong.add(f"index file cannot be read: {error}")
    else:
        if not same:
            wrong.add(f"{path.name} does not say where the members lie")


def _compare(
    contents: ShardContents, path: Path, names: Any, offset: NDArray[Any], size: NDArray[Any], wrong: _Mismatches
) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    expected = pa.Array.from_buffers(
        pa.large_binary(),
        len(contents.size),
        [None, pa.py_buffer(contents.name_begin.astype(np.int64)), pa.py_buffer(contents.names)],
    )
    if len(names) != len(expected):
        wrong.add(f"expected {len(expected)} members; got {len(names)}")
    both = min(len(names), len(expected))
    same_name = pc.equal(names[:both], expected[:both]).to_numpy(zero_copy_only=False)
    for i in np.flatnonzero(~same_name):
        got = names[int(i)].as_py().decode("utf-8", "replace")
        wrong.add(f"member {i}: expected this name; got {got!r}", contents.name(int(i)))
    same_size = size[:both] == contents.size[:both]
    for i in np.flatnonzero(same_name & ~same_size):
        wrong.add(f"expected {contents.size[i]} bytes; got {size[i]}", contents.name(int(i)))
    at = np.flatnonzero(same_name & same_size)
    written = hash_ranges(path, offset[at], size[at])
    source = np.empty_like(written)
    order = np.argsort(contents.source[at], kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(contents.source[at][order])) + 1):
        if len(part):
            file = contents.sources[int(contents.source[at[part[0]]])]
            source[part] = hash_ranges(file, contents.offset[at[part]], contents.size[at[part]])
    for i in at[written != source]:
        wrong.add("payload differs from its source", contents.name(int(i)))
