"""Stage ``reshard``: the kept samples as new shards in DataComp's layout, in ``shards/``.

The plan is a pure function of (index, subset, options); then any worker can write output shard k alone.
Memory: one segment's selection, and a write buffer of a few MB a worker.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast import resharding
from dcfast.engine.piece import Nothing, piece
from dcfast.index.pool import MAX_PIECES
from dcfast.rundir.layout import PLAN, PLAN_FILES, excluded_path, segment_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import ReshardSummary
from dcfast.stages.runner import Do
from dcfast.storage.npz import load_array
from dcfast.storage.records import Count, Record
from dcfast.uids.sets import load_subset, open_records, uid_isin


def output_ranges(count: int) -> list[tuple[int, int]]:
    """Output shards 0..count-1 cut into at most MAX_PIECES ranges [first, last)."""
    size = max(1, -(-count // MAX_PIECES))
    return [(k, min(k + size, count)) for k in range(0, count, size)]


def excluded_rows(root: Path, pieces: int, subset: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    """Row ids in quarantine whose uid is kept all the same, because another sample with that uid is whole."""
    rows = [np.zeros(0, dtype=np.uint64)]
    for number in range(pieces):
        records = load_array(root / excluded_path(number))
        uids = np.empty(len(records), dtype="u8,u8")
        uids["f0"], uids["f1"] = records["f0"], records["f1"]
        rows.append(records["f2"][uid_isin(uids, subset, check=False, threads=1)])
    return np.sort(np.concatenate(rows))


def plan_inputs(run: Run) -> tuple[str, ...]:
    """The files that ``plan_kept`` reads, relative to the run directory."""
    segments, excluded = range(len(run.pool.segments())), range(len(run.sample_groups()))
    return ("subset.npy", "index/pool.npy", *map(segment_path, segments), *map(excluded_path, excluded))


def plan_kept(
    out: Path, segments: int, excluded: int, shard_dir: str, shard_size: int
) -> tuple[resharding.ReshardPlan, npt.NDArray[np.void]]:
    """The plan of the kept samples and their subset: the one order of the new shards and of training from the index.

    Raises what ``resharding.make_plan`` raises. Memory: one segment's selection.
    """
    subset = load_subset(out / "subset.npy", check=False)
    plan = resharding.make_plan(
        [str(out / segment_path(n)) for n in range(segments)],
        subset,
        shards_dir=shard_dir,
        shard_size=shard_size,
        exclude=excluded_rows(out, excluded, subset),
        pool_records=open_records(out / "index/pool.npy"),
    )
    return plan, subset


class Planned(Record):
    """``weights``: bytes of each new shard."""

    output_shards: Count
    missing_count: Count
    weights: list[Count]


class Finished(Record):
    output_count: Count


@piece()
def make_plan(out: Path, segments: int, excluded: int, shard_dir: str, shard_size: int) -> Planned:
    """Piece: the plan, after a look at the free space of the disk."""
    plan, _ = plan_kept(out, segments, excluded, shard_dir, shard_size)
    resharding.check_free_space(plan, out / "shards")
    plan.save(out / PLAN)
    return Planned(
        output_shards=plan.num_output_shards,
        missing_count=plan.counts["missing_count"],
        weights=plan.cuts["tar_bytes"].tolist(),
    )


@piece()
def write_shards(out: Path, first: int, last: int) -> Nothing:
    """Piece: some output shards."""
    subset = load_subset(out / "subset.npy", check=False)
    resharding.write_output_shards(out / PLAN, subset, first, last, out / "shards", threads=1)
    return Nothing()


@piece()
def finish(out: Path, shard_dir: str) -> Finished:
    """Piece: ``sample_ids.npy``, ``sizes.json``, ``meta.json``; removes shards an earlier plan left."""
    meta = resharding.finish_reshard(
        out / PLAN,
        out / "subset.npy",
        out / "shards",
        arguments={"input_dir": shard_dir, "subset_file": "subset.npy"},
    )
    return Finished(int(meta["output_count"]))


def steps(run: Run, do: Do) -> ReshardSummary:
    """Plan, output shards, companions."""
    plan = make_plan.piece("reshard/plan", "plan", inputs=plan_inputs(run), outputs=PLAN_FILES)
    planned = do.one(
        plan(
            segments=len(run.pool.segments()),
            excluded=len(run.sample_groups()),
            shard_dir=str(run.pool.shard_dir),
            shard_size=run.settings.shard_size,
        )
    )
    do(
        write_shards.piece(
            "reshard/write",
            f"{first:08d}",
            inputs=["subset.npy", *PLAN_FILES],
            outputs=[f"shards/{k:08d}{end}" for k in range(first, last) for end in (".tar", "_stats.json")],
            weight=sum(planned.weights[first:last]),
        )(first=first, last=last)
        for first, last in output_ranges(planned.output_shards)
    )
    companions = [f"shards/{name}" for name in ("meta.json", "sizes.json", "sample_ids.npy")]
    finishing = finish.piece("reshard/finish", "finish", inputs=["subset.npy", *PLAN_FILES], outputs=companions)
    finished = do.one(finishing(shard_dir=str(run.pool.shard_dir)))
    return ReshardSummary(
        output_shards=planned.output_shards,
        samples=finished.output_count,
        missing=planned.missing_count,
        tar_bytes=sum(planned.weights),
    )
