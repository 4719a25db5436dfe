"""The stages of the workflow, in order. Each is a module with a generator ``steps(run)``; see ``runner``."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from dcfast.stages.run_dir import Run
from dcfast.stages.runner import Steps

__all__ = ["STAGES", "stage_steps"]

STAGES = (
    "world",
    "index",
    "signatures",
    "teacher",
    "features",
    "decontaminate",
    "filter",
    "reshard",
    "verify",
    "train",
    "evaluate",
    "report",
)


def stage_steps(name: str) -> Callable[[Run], Steps]:
    """The ``steps`` function of a stage."""
    steps: Callable[[Run], Steps] = importlib.import_module(f"dcfast.stages.{name}").steps
    return steps
