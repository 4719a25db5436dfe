"""The stages of the workflow, in order. Each is a module with a function ``steps(run, do)``; see ``runner``.

``PluginStage`` is what a plugin brings (docs/plugins.md).
"""

from __future__ import annotations

import importlib

from dcfast.stages.plugins import PluginStage, folder_of
from dcfast.stages.runner import Do, Steps

__all__ = ["Do", "PluginStage", "folder_of", "stage_steps"]


def stage_steps(name: str) -> Steps:
    """The ``steps`` function of a stage."""
    steps: Steps = importlib.import_module(f"dcfast.stages.{name}").steps
    return steps
