"""The pieces of work that render a world; what they do is in ``render``, which needs Pillow."""

from __future__ import annotations

from typing import ClassVar

from dcfast.storage.records import Count, Record
from dcfast.world.spec import WorldSpec
from dcfast.world.tasks import TASKS

TEACHER_SHARD_ROWS = 1_000


class PoolPiece(Record):
    """One pool shard: its tar, stats and parquet, and its part of the metadata."""

    function: ClassVar[str] = "render_pool_shard"
    spec: WorldSpec
    shard: int

    @property
    def name(self) -> str:
        return f"pool-{self.shard:08d}"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Files below the world's directory of which a lost or shortened one must be noticed."""
        ends = ("shards/{}.tar", "shards/{}_stats.json", "shards/{}.parquet", "metadata/{}.parquet")
        return tuple(f"pool/{end.format(f'{self.shard:08d}')}" for end in ends)


class EvalSetPiece(Record):
    """One evaluation set."""

    function: ClassVar[str] = "render_evalset"
    spec: WorldSpec
    task: str

    @property
    def name(self) -> str:
        return f"evalset-{TASKS[self.task].directory}"

    @property
    def outputs(self) -> tuple[str, ...]:
        folder = f"evalsets/{TASKS[self.task].directory}/test"
        return (f"{folder}/0.tar", f"{folder}/nshards.txt")


class TruthPiece(Record):
    """The truth about every sample, the table of the evaluation sets, and the spec."""

    function: ClassVar[str] = "finish_world"
    spec: WorldSpec

    name: ClassVar[str] = "truth"
    outputs: ClassVar[tuple[str, ...]] = ("truth.parquet", "evalsets/tasks.json", "world.json")


class TeacherPiece(Record):
    """One shard of the teacher's clean pairs."""

    spec: WorldSpec
    shard: int

    @property
    def name(self) -> str:
        return f"teacher-{self.shard:08d}"

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"teacher/shards/{self.shard:08d}.tar",)


WorldPiece = PoolPiece | EvalSetPiece | TruthPiece


class Rendered(Record, omit_defaults=True):
    """What a piece wrote; None: nothing of that kind."""

    rows: Count | None = None  # of metadata or truth
    samples: Count | None = None
    pictures: Count | None = None  # of an evaluation set
    bytes: Count | None = None  # of tars


def plan_world(spec: WorldSpec) -> list[WorldPiece]:
    """The pieces that render a world, for ``render.render_piece``.

    Any order, any number of processes; each can be repeated. Pool shards of 1,000 rows take about two seconds each.
    Example: ``len(plan_world(WorldSpec.small()))``
    """
    shards = (PoolPiece(spec=spec, shard=shard) for shard in range(spec.num_shards))
    return [*shards, *(EvalSetPiece(spec=spec, task=key) for key in TASKS), TruthPiece(spec=spec)]


def plan_teacher(spec: WorldSpec) -> list[TeacherPiece]:
    """The pieces that render the teacher's clean pairs into teacher/shards below the world's directory.

    Example: ``len(plan_teacher(WorldSpec.small(teacher_pairs=10))) == 1``
    """
    return [TeacherPiece(spec=spec, shard=shard) for shard in range(-(-spec.teacher_pairs // TEACHER_SHARD_ROWS))]
