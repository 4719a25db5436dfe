"""Stage ``world``: renders the built-in world (``dcfast.world``) into ``world/``, where no pool is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dcfast.engine.piece import piece
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import WorldSummary
from dcfast.stages.runner import Do
from dcfast.storage.records import Count, Record, as_record
from dcfast.world import plan_world
from dcfast.world.tasks import TASKS

__all__ = ["steps"]


class Rendered(Record, omit_defaults=True):
    rows: Count | None = None
    samples: Count | None = None
    pictures: Count | None = None


@piece()
def render(out: Path, function: str, args: dict[str, object]) -> Rendered:
    """Piece: one of the world's own pieces, with the directory put in."""
    from dcfast.world import render as world

    allowed = {name: getattr(world, name) for name in ("render_pool_shard", "render_evalset", "finish_world")}
    return as_record(allowed[function]({**args, "directory": str(out / "world")}), Rendered, function)


def _outputs(spec: Any, function: str, args: dict[str, Any]) -> list[str]:
    """What a piece of the world writes that a lost or shortened file must be noticed of."""
    if function.endswith(":render_pool_shard"):
        name = f"{args['shard']:08d}"
        return [f"pool/shards/{name}{end}" for end in (".tar", "_stats.json", ".parquet")] + [
            f"pool/metadata/{name}.parquet"
        ]
    if function.endswith(":render_evalset"):
        return [f"evalsets/{TASKS[args['task']].directory}/test/{name}" for name in ("0.tar", "nshards.txt")]
    return ["truth.parquet", "evalsets/tasks.json", "world.json"]


def steps(run: Run, do: Do) -> WorldSummary:
    """One step: pool shards, evaluation sets and the truth, in any order."""
    spec = run.world_spec
    pieces = []
    for name, function, args in plan_world(spec, run.world_dir):
        # the directory is left out of the arguments, so that a run directory can be moved
        given = {key: value for key, value in args.items() if key != "directory"}
        rendering = render.piece("world/render", name, outputs=[f"world/{p}" for p in _outputs(spec, function, args)])
        pieces.append(rendering(function=function.partition(":")[2], args=given))
    stats = do(pieces)
    rows = sum(s.rows or 0 for p, s in zip(pieces, stats, strict=True) if p.name.startswith("pool-"))
    evalsets = sum(s.pictures is not None for s in stats)
    return WorldSummary(spec=spec.to_json(), rows=rows, samples=sum(s.samples or 0 for s in stats), evalsets=evalsets)
