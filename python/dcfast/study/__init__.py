"""``python -m dcfast.study``: which filter is best, by how much, and whether that holds on other seeds and scales.

Each cell (scale, seed, filter) is a run directory of its own, branched by hard links from one base run a seed, so
that a pool is rendered, indexed and scored once. The best filter is chosen on some seeds and confirmed on others.
"""

from __future__ import annotations

from dcfast.study.command import main
from dcfast.study.grid import STANDARD_FILTERS, Grid
from dcfast.study.study import run_study

__all__ = ["STANDARD_FILTERS", "Grid", "main", "run_study"]
