"""The geometry of the plots, which ``charts.html.j2`` draws: places are shares of the axes, from the lower left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = ["Plot", "bars", "curves", "ticks"]


Points = Sequence[tuple[float, float]]
Marks = list[tuple[float, str]]
"""Places on an axis, and what is written there."""


class Plot(NamedTuple):
    """Curves and bars, and an upright line.

    Attributes:
        curves: (class, points).
        bars: (class, left, top, width, height).
    """

    title: str
    x_marks: Marks
    y_marks: Marks
    curves: Sequence[tuple[str, Points]] = ()
    bars: Sequence[tuple[str, float, float, float, float]] = ()
    line: tuple[float, str] | None = None


def ticks(low: float, high: float, number: int = 4) -> list[float]:
    """Round numbers inside low..high, about this number of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return []
    step = 10.0 ** math.floor(math.log10((high - low) / number))
    step *= next((f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= number + 0.5), 10)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def curves(
    title: str,
    series: Sequence[tuple[str, Points]],
    x_words: Callable[[float], str],
    *,
    from_zero: bool = False,
) -> Plot | None:
    """Lines of (class, points); None where no series has two points."""
    series = [(kind, points) for kind, points in series if len(points) > 1]
    if not series:
        return None
    last = max(x for _, points in series for x, _ in points) or 1
    values = [y for _, points in series for _, y in points]
    low, high = min(values + [0.0] * from_zero), max(values)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low, high = low if from_zero else low - margin, high + margin
    lines = [(kind, [(x / last, (y - low) / (high - low)) for x, y in points]) for kind, points in series]
    x_marks = [(x / last, x_words(x)) for x in ticks(0, last)]
    return Plot(title, x_marks, [((y - low) / (high - low), f"{y:g}") for y in ticks(low, high)], curves=lines)


def bars(
    title: str,
    edges: Sequence[float],
    layers: Sequence[tuple[str, Sequence[float]]],
    *,
    stacked: bool,
    line: float | None = None,
    line_words: str = "",
) -> Plot | None:
    """Histograms of (class, heights) over the same edges, on each other or across each other, and an upright line."""
    count = len(edges) - 1
    base = [0.0] * count
    drawn = []  # place, top, height
    for kind, heights in layers:
        drawn += [(kind, i, base[i] + heights[i], heights[i]) for i in range(count) if heights[i] > 0]
        if stacked:
            base = [below + height for below, height in zip(base, heights, strict=True)]
    if not drawn:
        return None
    high = max(top for _, _, top, _ in drawn) * 1.06
    low, width = edges[0], edges[-1] - edges[0]
    return Plot(
        title,
        [((x - low) / width, f"{x:g}") for x in ticks(low, edges[-1], 5)],
        [(y / high, f"{y:,g}") for y in ticks(0, high, 3)],
        bars=[(kind, i / count, top / high, 1 / count, size / high) for kind, i, top, size in drawn],
        line=((line - low) / width, line_words) if line is not None and low <= line <= edges[-1] else None,
    )
