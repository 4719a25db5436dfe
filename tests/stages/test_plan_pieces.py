"""The plan of a run: one order for new shards and for training, by pieces that run directories know by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dcfast.resharding.plan import ReshardPlan, ShardSources
from dcfast.run.workflow import run
from dcfast.rundir.layout import PLAN, PLAN_FILES
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.stages import reshard, train
from dcfast.uids.sets import load_subset
from piece_functions import first_piece
from pool_builder import plain_pool


def test_the_pieces_are_as_they_were(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    current = Run(tmp_path / "run", Settings(pool=str(pool), filter="no_filter", shard_size=5))
    numbers, pieces = range(len(current.pool.segments())), range(len(current.sample_groups()))
    inputs = (
        *("subset.npy", "index/pool.npy"),
        *(f"index/segment-{n:05d}.dcx" for n in numbers),
        *(f"state/filter/excluded/{n:05d}.npy" for n in pieces),
    )
    arguments = {"segments": len(numbers), "excluded": len(pieces), "shard_dir": str(pool / "shards"), "shard_size": 5}
    plan, order = first_piece(reshard.steps, current), first_piece(train.steps, current)
    assert (plan.step, plan.name, plan.function.name) == ("reshard/plan", "plan", "dcfast.stages.reshard:make_plan")
    assert (order.step, order.name) == ("train/order", "positions")
    assert order.function.name == "dcfast.stages.train:plan_positions"
    assert (plan.outputs, order.outputs) == (PLAN_FILES, ("train/positions.npy",))
    for piece in (plan, order):
        assert (piece.inputs, piece.arguments, piece.function.version) == (inputs, arguments, 1)


def test_training_takes_the_order_of_the_new_shards(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    settings = Settings(pool=str(pool), filter="no_filter", train=False, shard_size=5, overrides={"global_batch": 4})
    run(tmp_path / "run", settings, last="reshard")
    out = tmp_path / "run"
    (out / "train").mkdir()
    order = first_piece(train.steps, Run(out, settings))
    order.function(out, **order.arguments)
    plan, subset = ReshardPlan.load(out / PLAN), load_subset(out / "subset.npy")
    sources = ShardSources(plan, subset)
    rows = np.concatenate([sources.row_ids(k) for k in range(plan.num_output_shards)])
    assert np.array_equal(np.load(out / "train/positions.npy"), rows)
