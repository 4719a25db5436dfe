"""The built-in world: a pool, evaluation sets and their truth, painted by code from a seed (docs/world.md).

``render_world(out)`` does everything at once; ``plan_world`` gives the pieces of work for an engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from dcfast.world.plan import plan_teacher, plan_world
from dcfast.world.spec import WorldSpec

__all__ = ["WorldSpec", "plan_teacher", "plan_world", "render_teacher", "render_world"]

if TYPE_CHECKING:
    from dcfast.world.render import render_teacher, render_world


if not TYPE_CHECKING:  # which would take every name for one of these

    def __getattr__(name: str) -> object:
        # painting needs Pillow; a plan does not
        if name in ("render_teacher", "render_world"):
            return getattr(importlib.import_module("dcfast.world.render"), name)
        raise AttributeError(f"module 'dcfast.world' has no attribute {name!r}")
