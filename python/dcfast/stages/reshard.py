"""Stage ``reshard``: the kept samples as new shards in DataComp's layout, in ``shards/``.

The plan is a pure function of (index, subset, options); then any worker can write output shard k alone.
Memory: one segment's selection, and a write buffer of a few MB a worker.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcfast import resharding
from dcfast.engine.piece import Piece
from dcfast.index.pool import MAX_PIECES
from dcfast.rundir.layout import PLAN, PLAN_FILES, excluded_path, segment_path
from dcfast.rundir.run_dir import Run
from dcfast.stages.runner import Steps
from dcfast.storage.npz import load_array
from dcfast.uids.sets import load_subset, open_records, uid_isin

__all__ = ["output_ranges", "plan_arguments", "plan_inputs", "plan_kept", "steps"]


def output_ranges(count: int) -> list[tuple[int, int]]:
    """Output shards 0..count-1 cut into at most MAX_PIECES ranges [first, last)."""
    size = max(1, -(-count // MAX_PIECES))
    return [(k, min(k + size, count)) for k in range(0, count, size)]


def excluded_rows(root: Path, pieces: int, subset: Any) -> Any:
    """Row ids in quarantine whose uid is kept all the same, because another sample with that uid is whole."""
    found = [np.zeros(0, dtype=np.uint64)]
    for number in range(pieces):
        records = load_array(root / excluded_path(number))
        uids = np.empty(len(records), dtype="u8,u8")
        uids["f0"], uids["f1"] = records["f0"], records["f1"]
        found.append(records["f2"][uid_isin(uids, subset, check=False, threads=1)])
    return np.sort(np.concatenate(found))


def plan_arguments(run: Run) -> dict[str, Any]:
    """What ``plan_kept`` must know: the arguments of the pieces that call it, here and in the stage ``train``."""
    pool = run.pool
    return {
        "segments": len(pool.segments()),
        "excluded": len(run.sample_groups()),
        "shard_dir": str(pool.shard_dir),
        "shard_size": run.settings.shard_size,
    }


def plan_inputs(run: Run) -> tuple[str, ...]:
    """The files that ``plan_kept`` reads, relative to the run directory."""
    segments, excluded = range(len(run.pool.segments())), range(len(run.sample_groups()))
    return ("subset.npy", "index/pool.npy", *map(segment_path, segments), *map(excluded_path, excluded))


def plan_kept(root: Path, args: dict[str, Any]) -> tuple[resharding.ReshardPlan, NDArray[Any]]:
    """The plan of the kept samples and their subset: the one order of the new shards and of training from the index.

    Raises what ``resharding.make_plan`` raises. Memory: one segment's selection.
    """
    subset = load_subset(root / "subset.npy", check=False)
    plan = resharding.make_plan(
        [str(root / segment_path(n)) for n in range(args["segments"])],
        subset,
        shards_dir=args["shard_dir"],
        shard_size=args["shard_size"],
        exclude=excluded_rows(root, args["excluded"], subset),
        pool_records=open_records(root / "index/pool.npy"),
    )
    return plan, subset


def make_plan(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the plan, after a look at the free space of the disk."""
    root = Path(out)
    plan, _ = plan_kept(root, args)
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
    arguments = plan_arguments(run)
    [planned] = yield [
        Piece(
            "reshard/plan",
            "plan",
            "dcfast.stages.reshard:make_plan",
            arguments,
            inputs=plan_inputs(run),
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
            {"shard_dir": arguments["shard_dir"]},
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
