"""The stages of the workflow, in order. Each is a module with a generator ``steps(run)``; see ``runner``."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from dcfast.rundir.run_dir import Run
from dcfast.stages.runner import Steps

__all__ = ["stage_steps"]


def stage_steps(name: str) -> Callable[[Run], Steps]:
    """The ``steps`` function of a stage."""
    steps: Callable[[Run], Steps] = importlib.import_module(f"dcfast.stages.{name}").steps
    return steps
