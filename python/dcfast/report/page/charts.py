"""Plots as inline SVG: they follow the width of the page and its colours, and need no script.

Horizontal places are percentages, vertical ones pixels, so that text keeps its size on a phone; curves lie in an
inner drawing that is stretched. Every text passes ``escape``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

    Svg = Markup | str

__all__ = ["bars", "curves", "dumbbell", "scale_of_shares", "ticks"]

HEIGHT = 200
SPAN = 1000
"""Units of the stretched drawing in both directions."""
LABELS_BELOW = 22
ROW = 22


def _tag(name: str, *children: Svg, **attributes: Svg | int | float | None) -> Markup:
    from markupsafe import Markup, escape

    given = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, Markup("").join(map(escape, children)))


def _percent(share: float) -> str:
    return f"{100 * share:.3f}%"


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers inside low..high, about ``wanted`` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return []
    step = 10.0 ** math.floor(math.log10((high - low) / wanted))
    factor = next((f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= wanted + 0.5), 10)
    step *= factor
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _stretched(*children: Svg) -> Markup:
    return _tag(
        "svg",
        *children,
        width="100%",
        height=HEIGHT,
        viewBox=f"0 0 {SPAN} {SPAN}",
        preserveAspectRatio="none",
        class_="stretched",
    )


def _plot(
    title: str,
    inner: Sequence[Svg],
    x_marks: Sequence[tuple[float, str]],
    y_marks: Sequence[tuple[float, str]],
    over: Sequence[Svg] = (),
) -> Markup:
    """A plot with labels of the vertical axis at its left; marks are (share of the axis, text)."""
    lines = [
        _tag("line", x1="0", x2="100%", y1=HEIGHT * (1 - y), y2=HEIGHT * (1 - y), class_="grid") for y, _ in y_marks
    ]
    below = []
    for x, words in x_marks:
        anchor = "start" if x < 0.06 else "end" if x > 0.94 else "middle"
        below.append(_tag("text", words, x=_percent(x), y=HEIGHT + 16, text_anchor=anchor))
    left = [_tag("text", words, x="100%", y=HEIGHT * (1 - y) + 4, text_anchor="end") for y, words in y_marks]
    total = HEIGHT + LABELS_BELOW
    axis = _tag("svg", *left, class_="axis", height=total, aria_hidden="true")
    area = _tag(
        "svg", *lines, _stretched(*inner), *over, *below, class_="area", height=total, role="img", aria_label=title
    )
    return _tag("div", axis, area, class_="plot")


def _bounds(values: Sequence[float], from_zero: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if from_zero:
        low = min(low, 0.0)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (low if from_zero else low - margin), high + margin


def curves(
    title: str,
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    x_words: Callable[[float], str],
    *,
    from_zero: bool = False,
) -> Svg:
    """Lines of (class, points); an empty text where no series has two points."""
    series = [(kind, points) for kind, points in series if len(points) > 1]
    if not series:
        return ""
    last = max(x for _, points in series for x, _ in points)
    low, high = _bounds([y for _, points in series for _, y in points], from_zero)

    def at(x: float, y: float) -> str:
        return f"{SPAN * x / (last or 1):.1f},{SPAN * (high - y) / (high - low):.1f}"

    lines = [
        _tag("polyline", points=" ".join(at(x, y) for x, y in points), class_=f"curve {kind}")
        for kind, points in series
    ]
    y_marks = [((y - low) / (high - low), f"{y:g}") for y in ticks(low, high)]
    x_marks = [(x / (last or 1), x_words(x)) for x in ticks(0, last)]
    return _plot(title, lines, x_marks, y_marks)


def bars(
    title: str,
    edges: Sequence[float],
    layers: Sequence[tuple[str, Sequence[float]]],
    *,
    stacked: bool,
    line: float | None = None,
    line_words: str = "",
) -> Svg:
    """Histograms of (class, heights) over the same edges, on each other or across each other, and an upright line."""
    count = len(edges) - 1
    tops = [sum(heights[i] for _, heights in layers) if stacked else max(h[i] for _, h in layers) for i in range(count)]
    if not tops or max(tops) <= 0:
        return ""
    high = max(tops) * 1.06
    drawn = []
    base = [0.0] * count
    for kind, heights in layers:
        for i, value in enumerate(heights):
            if value > 0:
                y = SPAN * (1 - (base[i] + value) / high)
                size = SPAN * value / high
                drawn.append(
                    _tag(
                        "rect",
                        x=f"{SPAN * i / count:.2f}",
                        y=f"{y:.2f}",
                        width=f"{SPAN / count:.2f}",
                        height=f"{size:.2f}",
                        class_=f"col {kind}",
                    )
                )
            if stacked:
                base[i] += value
    low, top = edges[0], edges[-1]
    over = []
    if line is not None and low <= line <= top:
        share = (line - low) / (top - low)
        anchor, shift = ("end", -6) if share > 0.55 else ("start", 6)
        over = [
            _tag("line", x1=_percent(share), x2=_percent(share), y1="0", y2=HEIGHT, class_="threshold"),
            _tag("text", line_words, x=_percent(share), dx=shift, y="12", text_anchor=anchor, class_="strong"),
        ]
    x_marks = [((x - low) / (top - low), f"{x:g}") for x in ticks(low, top, 5)]
    y_marks = [(y / high, f"{y:,g}") for y in ticks(0, high, 3)]
    return _plot(title, drawn, x_marks, y_marks, over)


def _grid(height: int) -> list[Svg]:
    return [_tag("line", x1=_percent(x / 4), x2=_percent(x / 4), y1="0", y2=height, class_="grid") for x in range(5)]


def dumbbell(score: float | None, comparison: float | None, chance: float | None) -> Markup:
    """One row of the plot of the sets: shares 0..1 as two points with what is between, chance as a mark."""
    middle = ROW / 2
    drawn = _grid(ROW)
    if chance is not None:
        x = _percent(min(max(chance, 0.0), 1.0))
        drawn.append(_tag("line", x1=x, x2=x, y1=middle - 7, y2=middle + 7, class_="chance"))
    if score is not None and comparison is not None:
        kind = "gain" if score >= comparison else "loss"
        drawn.append(
            _tag("line", x1=_percent(comparison), x2=_percent(score), y1=middle, y2=middle, class_=f"between {kind}")
        )
    for kind, value in (("against", comparison), ("mine", score)):
        if value is not None:
            drawn.append(_tag("circle", cx=_percent(min(max(value, 0.0), 1.0)), cy=middle, r="6", class_=kind))
    return _tag("svg", *drawn, class_="row", height=ROW, aria_hidden="true")


def scale_of_shares() -> Markup:
    """The axis under the rows of ``dumbbell``."""
    words = [
        _tag(
            "text",
            f"{25 * x}%",
            x=_percent(x / 4),
            y="14",
            text_anchor="start" if x == 0 else "end" if x == 4 else "middle",
            class_="minor" if x % 2 else None,
        )
        for x in range(5)
    ]
    return _tag("svg", *words, class_="row", height=18, aria_hidden="true")
