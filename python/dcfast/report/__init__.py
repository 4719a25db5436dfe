"""The report of a run: ``report.json`` with every number, ``report.html`` to look at, from what the stages recorded."""

from __future__ import annotations

from dcfast.report.collect import Source, collect
from dcfast.report.page import look_up, render

__all__ = ["Source", "collect", "look_up", "render"]
