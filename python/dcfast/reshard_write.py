"""Writing output shards from a plan: each shard alone, in any order, by any worker, with the same bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcfast import _core
from dcfast.atomic import atomic_path, write_json
from dcfast.reshard_contents import ShardSources, open_subset
from dcfast.reshard_plan import ReshardPlan
from dcfast.reshard_rows import SegmentLike

__all__ = ["SHARD_FORMAT", "STATS_FORMAT", "write_output_shards"]

SHARD_FORMAT = "{:08d}.tar"
STATS_FORMAT = "{:08d}_stats.json"
TOTALS = ("shards", "samples", "members", "payload_bytes", "tar_bytes")


def write_output_shards(
    plan: ReshardPlan | str | os.PathLike[str],
    subset: NDArray[Any] | str | os.PathLike[str],
    k_first: int,
    k_last: int,
    out_dir: str | os.PathLike[str],
    *,
    segments: Sequence[SegmentLike | str] | None = None,
    threads: int = 1,
    sync: bool = True,
    check_mtime: bool = True,
) -> dict[str, int]:
    """Writes output shards k_first .. k_last - 1 of a plan, each with its ``_stats.json``, atomically.

    Args:
        plan: the plan, or the directory it was saved in.
        subset: the subset that was planned, as array or file.
        out_dir: where ``{:08d}.tar`` and ``{:08d}_stats.json`` go; made where missing.
        segments: the index segments, where the plan does not name their files.
        threads: shards written at the same time; threads beyond the number of shards share in each.
        sync: fsync files and directory before the rename counts.
        check_mtime: refuse an input shard whose modification time is not the indexed one (its size always counts).
    Returns:
        Counts: shards, samples, members, payload_bytes, tar_bytes.
    Raises:
        IndexError: no such output shard.   CorruptDataError: an input shard changed or ends early (path, offset).
        OSError: reading or writing failed, a full disk included.   ValueError: subset or index is another one.
    Memory: see ShardSources, and for each thread 100 bytes a member of one output shard and 0.5 MiB.
    Cost: one read and one write of the payloads.
    """
    opened = plan if isinstance(plan, ReshardPlan) else ReshardPlan.load(plan)
    if not 0 <= k_first <= k_last <= opened.num_output_shards:
        raise IndexError(
            f"write_output_shards: shards {k_first} to {k_last} are not in a plan of {opened.num_output_shards}"
        )
    if k_first == k_last:
        return dict.fromkeys(TOTALS, 0)
    sources = ShardSources(opened, open_subset(subset), segments, keep=threads + 1)

    # where there are fewer shards than threads, a shard is written by several
    each = max(1, threads // (k_last - k_first))

    def write(k: int) -> dict[str, int]:
        return _write_one(sources, k, Path(out_dir), sync, check_mtime, each)

    if threads <= 1:
        written = [write(k) for k in range(k_first, k_last)]
    else:
        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(write, k) for k in range(k_first, k_last)]
            try:
                written = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return {name: sum(one[name] for one in written) for name in TOTALS}


def _write_one(
    sources: ShardSources, k: int, out_dir: Path, sync: bool, check_mtime: bool, threads: int
) -> dict[str, int]:
    contents = sources.contents(k)
    planned = sources.plan.cuts[k]
    payload = int(contents.size.sum())
    found = (len(contents.uid), len(contents.size), payload)
    expected = (int(planned["samples"]), int(planned["members"]), int(planned["payload_bytes"]))
    if found != expected:
        raise ValueError(
            f"output shard {k}: the subset or the index is not the one that was planned: expected "
            f"(samples, members, bytes) {expected}; got {found}; plan again"
        )
    with atomic_path(out_dir / SHARD_FORMAT.format(k), sync=sync) as temporary:
        tar_bytes, _ = _core.write_shard(
            os.fsencode(temporary),
            [os.fsencode(path) for path in contents.sources],
            contents.source_size,
            contents.source_mtime_ns if check_mtime else np.zeros(0, np.int64),
            contents.source,
            contents.offset,
            contents.size,
            contents.names,
            contents.name_begin,
            threads=threads,
        )
    write_json(out_dir / STATS_FORMAT.format(k), {"successes": len(contents.uid)}, sync=sync)
    return dict(zip(TOTALS, (1, len(contents.uid), len(contents.size), payload, tar_bytes), strict=True))
