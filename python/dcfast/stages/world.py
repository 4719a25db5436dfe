"""Stage ``world``: renders the built-in world (``dcfast.world``) into ``world/``, where no pool is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dcfast.engine.piece import Piece
from dcfast.rundir.run_dir import Run
from dcfast.stages.runner import Steps
from dcfast.storage.records import plain
from dcfast.world import WorldSpec, plan_world
from dcfast.world.plan import EvalSetPiece, PoolPiece, TruthPiece, WorldPiece

__all__ = ["steps"]

_KINDS: dict[str, type[WorldPiece]] = {kind.function: kind for kind in (PoolPiece, EvalSetPiece, TruthPiece)}


def render(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: one of the world's own pieces, with the directory put in."""
    from dcfast.world.render import render_piece

    given = {**args["args"], "spec": WorldSpec.from_json(args["args"]["spec"])}
    piece: WorldPiece = _KINDS[args["function"]](**given)
    stats: Any = plain(render_piece(piece, Path(out) / "world"))
    return dict(stats)


def steps(run: Run) -> Steps:
    """One step: pool shards, evaluation sets and the truth, in any order."""
    spec = run.world_spec
    pieces = [
        Piece(
            "world/render",
            piece.name,
            "dcfast.stages.world:render",
            {"function": piece.function, "args": plain(piece)},
            outputs=tuple(f"world/{path}" for path in piece.outputs),
        )
        for piece in plan_world(spec)
    ]
    stats = yield pieces
    rows = sum(s["rows"] for p, s in zip(pieces, stats, strict=True) if p.name.startswith("pool-"))
    samples = sum(s.get("samples", 0) for s in stats)
    return {"spec": spec.to_json(), "rows": rows, "samples": samples, "evalsets": sum("pictures" in s for s in stats)}
