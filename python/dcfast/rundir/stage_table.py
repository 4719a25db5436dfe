"""The stages of a run, in order: a row for each says all that is known of it by name.

A new stage is a row here and a module ``dcfast/stages/<name>.py`` with its ``steps``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dcfast.rundir.settings import TEACHER, Settings


class _Run(Protocol):
    """What of ``Run`` decides which stages it has."""

    @property
    def settings(self) -> Settings: ...
    @property
    def is_world(self) -> bool: ...
    @property
    def features(self) -> dict[str, str]: ...
    @property
    def deduplicates(self) -> bool: ...
    @property
    def evalset_dir(self) -> Path | None: ...


@dataclass(frozen=True)
class Stage:
    """What is known of a stage by its name.

    Attributes:
        does: what it does, for its help.
        asked: whether it is part of a run.
        program: module of the program of the same name, which needs no run.
        program_options: options of which any one means the program.
        placed_program: module of a program of the same name, which is meant where the first word is no option.
        absent: why it may be no part of one, for the message.
        folders: what it writes below the run directory, besides files: nothing else in there is ever removed.
        shared: files and folders that a branch takes from its base, besides the stage's markers and summary.
        branched: a branch does it by itself.
        on_models: it runs models, and wants a GPU at the scales of DataComp.
        libraries: modules that it imports late and that need not be installed.
        alone: its single pieces bring their own threads and processes, and use this machine's GPU: no cluster's tasks.
    """

    does: str
    asked: Callable[[_Run], bool] = lambda run: True
    program: str = ""
    program_options: tuple[str, ...] = ()
    placed_program: str = ""
    absent: str = "is no part of this run"
    folders: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    branched: bool = False
    on_models: bool = False
    libraries: tuple[str, ...] = ()
    alone: bool = False

    @property
    def program_module(self) -> str:
        """Module of the main of the program of the same name; empty where there is none."""
        return self.placed_program or (f"{self.program}.__main__" if self.program else "")

    @property
    def program_choice(self) -> str:
        """What on a command line means the program."""
        return "the pool as the first word" if self.placed_program else " or ".join(self.program_options)

    def program_command(self, name: str) -> str:
        """How the program of this stage is called."""
        return f"dcfast {name} POOL" if self.placed_program else f"python -m {self.program}"

    def means_program(self, arguments: Sequence[str]) -> bool:
        """Whether the words after a stage's name mean the program."""
        if self.placed_program:
            return bool(arguments) and not arguments[0].startswith("-")
        return any(word.partition("=")[0] in self.program_options for word in arguments)


STAGE_TABLE = {
    "world": Stage(
        "renders the built-in world, a small pool with evaluation sets whose truth is known",
        asked=lambda run: run.is_world,
        absent="renders the built-in world, for runs without --pool; leave --pool out",
        folders=("world",),
        libraries=("PIL",),
        shared=("world",),
    ),
    "index": Stage(
        "reads the headers of the pool's shards: which sample lies where, and its uid",
        folders=("index",),
        shared=("index",),
    ),
    "signatures": Stage(
        "decodes and hashes the pictures of the pool and of the evaluation sets",
        folders=("signatures",),
        libraries=("PIL",),
        shared=("signatures",),
    ),
    "teacher": Stage(
        "trains the small model that scores the pool, where --features asks for it",
        asked=lambda run: TEACHER in run.features.values(),
        absent="trains the model that scores the pool, where --features asks for it (--features l14=teacher)",
        folders=("teacher",),
        shared=("teacher",),
        on_models=True,
        alone=True,
    ),
    "features": Stage(
        "computes CLIP scores and embeddings of the pool, as DataComp's columns and npz files",
        asked=lambda run: bool(run.features),
        absent="makes the columns that --features asks for (--features l14=ViT-L-14:openai)",
        folders=("features",),
        shared=("features",),
        on_models=True,
    ),
    "decontaminate": Stage(
        "finds the samples of the pool that are pictures of the evaluation sets",
        program="dcfast.decontamination",
        program_options=("--against",),
        shared=("contaminated.npy", "contamination.parquet", "state/parts/contamination"),
    ),
    "dedup": Stage(
        "finds the samples of the pool that are copies of others, or of an older pool's",
        asked=lambda run: run.deduplicates,
        placed_program="dcfast.run.dedup_command",
        absent="finds duplicates, where the filter asks for it (~duplicate); --dedup does without",
        folders=("older",),
        shared=("duplicates.npy", "duplicates.parquet"),
    ),
    "filter": Stage(
        "decides by the filter expression what becomes of each sample, and writes subset.npy and subset_metadata.npy; "
        "without shards the latter alone",
        folders=("filter",),
        branched=True,
    ),
    "reshard": Stage("writes the kept samples as new shards", folders=("reshard", "shards"), branched=True),
    "verify": Stage("reads the new shards again and compares every payload with its source"),
    "train": Stage(
        "trains CLIP by the scale's recipe on the kept samples",
        asked=lambda run: run.settings.train,
        program="dcfast.train",
        program_options=("--data", "--shards", "--index", "--settings"),
        absent="is left out by --no-train",
        folders=("train",),
        branched=True,
        on_models=True,
        alone=True,
    ),
    "evaluate": Stage(
        "scores the trained model on every evaluation set",
        asked=lambda run: run.settings.train and run.evalset_dir is not None,
        program="dcfast.evaluate",
        program_options=("--model",),
        absent="scores the trained model: it needs --evalsets DIR, and training (no --no-train)",
        folders=("evaluate",),
        branched=True,
        on_models=True,
        alone=True,
    ),
    "report": Stage("writes report.html and report.json", libraries=("jinja2", "PIL")),
}
"""By name, in the order of a run."""

STAGES = tuple(STAGE_TABLE)
