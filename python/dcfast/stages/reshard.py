"""Stage ``reshard``: the kept samples as new shards in DataComp's layout, in ``shards/``.

The plan is a pure function of (index, subset, options); then any worker can write output shard k alone.
Memory: one segment's selection, and a write buffer of a few MB a worker.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dcfast import resharding
from dcfast.engine.piece import Piece
from dcfast.index.pool import MAX_PIECES
from dcfast.rundir.layout import PLAN, PLAN_FILES, excluded_path, segment_path
from dcfast.rundir.run_dir import Run
from dcfast.stages.runner import Steps
from dcfast.uids.sets import load_subset, open_records, uid_isin

__all__ = ["excluded_rows", "output_ranges", "steps"]


def output_ranges(count: int) -> list[tuple[int, int]]:
    """Output shards 0..count-1 cut into at most MAX_PIECES ranges [first, last)."""
    size = max(1, -(-count // MAX_PIECES))
    return [(k, min(k + size, count)) for k in range(0, count, size)]


def excluded_rows(root: Path, segments: int, subset: Any) -> Any:
    """Row ids in quarantine whose uid is kept all the same, because another sample with that uid is whole."""
    found = [np.zeros(0, dtype=np.uint64)]
    for number in range(segments):
        records = np.load(root / excluded_path(number), allow_pickle=False)
        uids = np.empty(len(records), dtype="u8,u8")
        uids["f0"], uids["f1"] = records["f0"], records["f1"]
        found.append(records["f2"][uid_isin(uids, subset, check=False, threads=1)])
    return np.sort(np.concatenate(found))


def make_plan(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the plan, after a look at the free space of the disk."""
    root = Path(out)
    subset = load_subset(root / "subset.npy", check=False)
    plan = resharding.make_plan(
        [str(root / segment_path(n)) for n in range(args["segments"])],
        subset,
        shards_dir=args["shard_dir"],
        shard_size=args["shard_size"],
        exclude=excluded_rows(root, args["segments"], subset),
        pool_records=open_records(root / "index/pool.npy"),
    )
    resharding.check_free_space(plan, root / "shards")
    plan.save(root / PLAN)
    return {**plan.counts, "output_shards": plan.num_output_shards, "weights": plan.cuts["tar_bytes"].tolist()}


def write_shards(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: some output shards."""
    root = Path(out)
    written = resharding.write_output_shards(
        root / PLAN,
        load_subset(root / "subset.npy", check=False),
        args["first"],
        args["last"],
        root / "shards",
        threads=1,
    )
    return {"tar_bytes": int(written["tar_bytes"])}


def finish(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: ``sample_ids.npy``, ``sizes.json``, ``meta.json``; removes shards an earlier plan left."""
    root = Path(out)
    meta = resharding.finish_reshard(
        root / PLAN,
        root / "subset.npy",
        root / "shards",
        arguments={"input_dir": args["shard_dir"], "subset_file": "subset.npy"},
    )
    return {"output_count": int(meta["output_count"])}


def steps(run: Run) -> Steps:
    """Plan, output shards, companions."""
    segments = len(run.pool.segments())
    shard_dir = str(run.pool.shard_dir)
    inputs = tuple(segment_path(n) for n in range(segments)) + tuple(excluded_path(n) for n in range(segments))
    [planned] = yield [
        Piece(
            "reshard/plan",
            "plan",
            "dcfast.stages.reshard:make_plan",
            {"segments": segments, "shard_dir": shard_dir, "shard_size": run.settings.shard_size},
            inputs=("subset.npy", "index/pool.npy", *inputs),
            outputs=PLAN_FILES,
        )
    ]
    ranges = output_ranges(planned["output_shards"])
    yield [
        Piece(
            "reshard/write",
            f"{first:08d}",
            "dcfast.stages.reshard:write_shards",
            {"first": first, "last": last},
            inputs=("subset.npy", *PLAN_FILES),
            outputs=tuple(f"shards/{k:08d}{end}" for k in range(first, last) for end in (".tar", "_stats.json")),
            weight=sum(planned["weights"][first:last]),
        )
        for first, last in ranges
    ]
    [finished] = yield [
        Piece(
            "reshard/finish",
            "finish",
            "dcfast.stages.reshard:finish",
            {"shard_dir": shard_dir},
            inputs=("subset.npy", *PLAN_FILES),
            outputs=("shards/meta.json", "shards/sizes.json", "shards/sample_ids.npy"),
        )
    ]
    return {
        "output_shards": planned["output_shards"],
        "samples": finished["output_count"],
        "missing": planned["missing_count"],
        "tar_bytes": sum(planned["weights"]),
    }
