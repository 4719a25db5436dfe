"""Stage ``world``: renders the built-in world (``dcfast.world``) into ``world/``, where no pool is given."""

from __future__ import annotations

from pathlib import Path

from dcfast.engine.piece import piece
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import WorldSummary
from dcfast.stages.runner import Do
from dcfast.world import plan_world
from dcfast.world.plan import PoolPiece, Rendered, WorldPiece


@piece()
def render(out: Path, function: str, args: WorldPiece) -> Rendered:
    """Piece: one of the world's own pieces; ``function`` tells them apart in its key."""
    from dcfast.world.render import render_piece

    del function
    return render_piece(args, out / "world")


def steps(run: Run, do: Do) -> WorldSummary:
    """One step: pool shards, evaluation sets and the truth, in any order."""
    spec = run.world_spec
    planned = plan_world(spec)
    stats = do(
        render.piece("world/render", p.name, outputs=[f"world/{path}" for path in p.outputs])(
            function=p.function, args=p
        )
        for p in planned
    )
    return WorldSummary(
        spec=spec.to_json(),
        rows=sum(s.rows or 0 for p, s in zip(planned, stats, strict=True) if isinstance(p, PoolPiece)),
        samples=sum(s.samples or 0 for s in stats),
        evalsets=sum(s.pictures is not None for s in stats),
    )
