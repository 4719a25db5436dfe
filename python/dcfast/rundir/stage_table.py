"""The stages of a run, in order: a row for each says all that is known of it by name.

A new stage is a row here and a module ``dcfast/stages/<name>.py`` with its ``steps``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dcfast.rundir.settings import TEACHER, Settings

__all__ = ["STAGES", "STAGE_TABLE", "Stage"]


class _Run(Protocol):
    """What of ``Run`` decides which stages it has."""

    @property
    def settings(self) -> Settings: ...
    @property
    def is_world(self) -> bool: ...
    @property
    def features(self) -> dict[str, str]: ...
    @property
    def evalset_dir(self) -> Path | None: ...


@dataclass(frozen=True)
class Stage:
    """What is known of a stage by its name.

    Attributes:
        asked: whether it is part of a run.
        absent: why it may be no part of one, for the message.
        folders: what it writes below the run directory, besides files: nothing else in there is ever removed.
        shared: files and folders that a branch takes from its base, besides the stage's markers and summary.
        branched: a branch does it by itself.
        on_models: it runs models, and wants a GPU at the scales of DataComp.
        alone: its single pieces bring their own threads and processes, and use this machine's GPU: no cluster's tasks.
    """

    asked: Callable[[_Run], bool] = lambda run: True
    absent: str = "is no part of this run"
    folders: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    branched: bool = False
    on_models: bool = False
    alone: bool = False


STAGE_TABLE = {
    "world": Stage(
        asked=lambda run: run.is_world,
        absent="renders the built-in world, for runs without --pool; leave --pool out",
        folders=("world",),
        shared=("world",),
    ),
    "index": Stage(folders=("index",), shared=("index",)),
    "signatures": Stage(folders=("signatures",), shared=("signatures",)),
    "teacher": Stage(
        asked=lambda run: TEACHER in run.features.values(),
        absent="trains the model that scores the pool, where --features asks for it (--features l14=teacher)",
        folders=("teacher",),
        shared=("teacher",),
        on_models=True,
        alone=True,
    ),
    "features": Stage(
        asked=lambda run: bool(run.features),
        absent="makes the columns that --features asks for (--features l14=ViT-L-14:openai)",
        folders=("features",),
        shared=("features",),
        on_models=True,
    ),
    "decontaminate": Stage(shared=("contaminated.npy", "contamination.parquet", "state/parts/contamination")),
    "filter": Stage(folders=("filter",), branched=True),
    "reshard": Stage(folders=("reshard", "shards"), branched=True),
    "verify": Stage(),
    "train": Stage(
        asked=lambda run: run.settings.train,
        absent="is left out by --no-train",
        folders=("train",),
        branched=True,
        on_models=True,
        alone=True,
    ),
    "evaluate": Stage(
        asked=lambda run: run.settings.train and run.evalset_dir is not None,
        absent="scores the trained model: it needs --evalsets DIR, and training (no --no-train)",
        folders=("evaluate",),
        branched=True,
        on_models=True,
        alone=True,
    ),
    "report": Stage(),
}
"""By name, in the order of a run."""

STAGES = tuple(STAGE_TABLE)
