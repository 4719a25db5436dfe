"""The pieces of work that render a world; what they do is in ``render``, which needs Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dcfast.world.spec import WorldSpec
from dcfast.world.tasks import TASKS

__all__ = ["EVALSET_SHARD_ROWS", "TEACHER_SHARD_ROWS", "Piece", "plan_teacher", "plan_world"]

Piece = tuple[str, str, dict[str, Any]]
EVALSET_SHARD_ROWS = 200
TEACHER_SHARD_ROWS = 1_000


def plan_world(spec: WorldSpec, directory: str | Path) -> list[Piece]:
    """The pieces that render a world into a directory: (name, "module:function", JSON arguments).

    Any order, any number of processes; each can be repeated. Pool shards of 1,000 rows take about two seconds each.
    """
    base = {"directory": str(directory), "spec": spec.to_json()}
    pieces: list[Piece] = [
        (f"pool-{shard:08d}", "dcfast.world.render:render_pool_shard", {**base, "shard": shard})
        for shard in range(spec.num_shards)
    ]
    pieces += [
        (f"evalset-{task.directory}", "dcfast.world.render:render_evalset", {**base, "task": task.key})
        for task in TASKS.values()
    ]
    pieces.append(("truth", "dcfast.world.render:finish_world", base))
    return pieces


def plan_teacher(spec: WorldSpec, directory: str | Path) -> list[Piece]:
    """The pieces that render the teacher's clean pairs into DIRECTORY/teacher/shards."""
    base = {"directory": str(directory), "spec": spec.to_json()}
    return [
        (f"teacher-{shard:08d}", "dcfast.world.render:render_teacher_shard", {**base, "shard": shard})
        for shard in range(-(-spec.teacher_pairs // TEACHER_SHARD_ROWS))
    ]
