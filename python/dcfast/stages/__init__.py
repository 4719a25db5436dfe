"""The stages of the workflow, in order. Each is a module with a function ``steps(run, do)``; see ``runner``."""

from __future__ import annotations

import importlib

from dcfast.stages.runner import Steps

__all__ = ["stage_steps"]


def stage_steps(name: str) -> Steps:
    """The ``steps`` function of a stage."""
    steps: Steps = importlib.import_module(f"dcfast.stages.{name}").steps
    return steps
