"""Filters over a pool's metadata: one safe expression language, DataComp's model-free baselines, exact thresholds.

``compile_filter`` is the door; docs/filters.md is the language.
"""

from __future__ import annotations

from dcfast.filters.compiled import KEPT, Filter, compile_filter
from dcfast.filters.defaults import DEFAULT_FILTER, default_filter
from dcfast.filters.functions import filter_function
from dcfast.filters.rules import numbers
from dcfast.filters.sampling import draw_copies
from dcfast.filters.thresholds import (
    NUM_BINS,
    Quantile,
    QuantileSearch,
    parse_threshold,
    score_dtype,
    score_histogram,
)

__all__ = ["DEFAULT_FILTER", "KEPT", "Filter", "compile_filter", "default_filter", "draw_copies"]
__all__ += ["filter_function", "numbers"]
__all__ += ["NUM_BINS", "Quantile", "QuantileSearch", "parse_threshold", "score_dtype", "score_histogram"]
