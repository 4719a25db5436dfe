"""The plan of a run: one order for new shards and for training, by pieces that run directories know by name."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from dcfast.resharding.plan import ReshardPlan, ShardSources
from dcfast.run.workflow import run
from dcfast.rundir.layout import PLAN, PLAN_FILES
from dcfast.rundir.run_dir import Run, Settings
from dcfast.stages import reshard, train
from dcfast.uids.sets import load_subset
from pool_builder import plain_pool


def test_the_pieces_are_as_they_were(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    current = Run(tmp_path / "run", Settings(pool=str(pool), filter="no_filter", shard_size=5))
    numbers, pieces = range(len(current.pool.segments())), range(len(current.sample_groups()))
    common = {
        "args": {"segments": len(numbers), "excluded": len(pieces), "shard_dir": str(pool / "shards"), "shard_size": 5},
        "inputs": (
            *("subset.npy", "index/pool.npy"),
            *(f"index/segment-{n:05d}.dcx" for n in numbers),
            *(f"state/filter/excluded/{n:05d}.npy" for n in pieces),
        ),
        **{"version": 1, "weight": 1, "gpus": 0.0, "native": False},
    }
    [plan], [order] = next(reshard.steps(current)), next(train.steps(current))
    assert asdict(plan) == {
        **{"step": "reshard/plan", "name": "plan", "function": "dcfast.stages.reshard:make_plan"},
        **{"outputs": PLAN_FILES, **common},
    }
    assert asdict(order) == {
        **{"step": "train/order", "name": "positions", "function": "dcfast.stages.train:plan_positions"},
        **{"outputs": ("train/positions.npy",), **common},
    }


def test_training_takes_the_order_of_the_new_shards(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    settings = Settings(pool=str(pool), filter="no_filter", train=False, shard_size=5)
    run(tmp_path / "run", settings, last="reshard")
    out = tmp_path / "run"
    (out / "train").mkdir()
    stats = train.plan_positions(str(out), reshard.plan_arguments(Run(out, settings)))
    plan, subset = ReshardPlan.load(out / PLAN), load_subset(out / "subset.npy")
    sources = ShardSources(plan, subset)
    rows = np.concatenate([sources.row_ids(k) for k in range(plan.num_output_shards)])
    assert stats == {"positions": len(rows)}
    assert np.array_equal(np.load(out / "train/positions.npy"), rows)
