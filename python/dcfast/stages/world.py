"""Stage ``world``: renders the built-in world (``dcfast.world``) into ``world/``, where no pool is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dcfast.engine.piece import Piece
from dcfast.rundir.run_dir import Run
from dcfast.stages.runner import Steps
from dcfast.world import plan_world
from dcfast.world.tasks import TASKS

__all__ = ["steps"]


def render(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: one of the world's own pieces, with the directory put in."""
    from dcfast.world import render as world

    allowed = {name: getattr(world, name) for name in ("render_pool_shard", "render_evalset", "finish_world")}
    stats = allowed[args["function"]]({**args["args"], "directory": str(Path(out) / "world")})
    return dict(stats)


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


def steps(run: Run) -> Steps:
    """One step: pool shards, evaluation sets and the truth, in any order."""
    spec = run.world_spec
    pieces = []
    for name, function, args in plan_world(spec, run.world_dir):
        # the directory is left out of the arguments, so that a run directory can be moved
        given = {key: value for key, value in args.items() if key != "directory"}
        pieces.append(
            Piece(
                "world/render",
                name,
                "dcfast.stages.world:render",
                {"function": function.partition(":")[2], "args": given},
                outputs=tuple(f"world/{path}" for path in _outputs(spec, function, args)),
            )
        )
    stats = yield pieces
    rows = sum(s["rows"] for p, s in zip(pieces, stats, strict=True) if p.name.startswith("pool-"))
    samples = sum(s.get("samples", 0) for s in stats)
    return {"spec": spec.to_json(), "rows": rows, "samples": samples, "evalsets": sum("pictures" in s for s in stats)}
