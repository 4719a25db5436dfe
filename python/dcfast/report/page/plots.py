"""The plots of the page, from the numbers of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec import UNSET

from dcfast.report.facts.filter_parts import ClipScores, Overlap
from dcfast.report.facts.outcome import Scores, SetScore
from dcfast.report.facts.training import CurvePoint, Trainings
from dcfast.report.page.charts import bars, curves, dumbbell, scale_of_shares
from dcfast.report.text import points, share

if TYPE_CHECKING:
    from dcfast.report.document import Report
    from dcfast.report.page.charts import Svg

__all__ = ["Plots", "plots_of"]


class SetPlot(NamedTuple):
    """A row of the plot of the sets; ``sign``: ``gain``, ``loss`` or none."""

    set: SetScore
    plot: Svg
    words: str
    sign: str


class Plots(NamedTuple):
    """Inline SVG, an empty text where there is nothing to draw; ``columns`` are rules in combinations."""

    sets: list[SetPlot]
    axis: Svg
    loss: Svg
    logit_scale: Svg
    kept: Svg
    clean: Svg
    columns: list[int]


def _sets(scores: Scores) -> list[SetPlot]:
    """The rows of the plot of the sets: the largest gain first, or the highest score where nothing is compared."""
    rows = [row for row in scores.sets if row.score is not None or row.comparison is not None]
    paired = scores.common.sets > 0
    rows.sort(key=lambda row: -((row.difference if paired else row.score) or 0))
    plots = []
    for row in rows:
        gain = row.difference or 0
        words = points(row.difference) if paired else share(row.score)
        sign = "gain" if gain > 0 else "loss" if gain < 0 else ""
        plots.append(SetPlot(row, dumbbell(row.score, row.comparison, row.chance), words, sign))
    return plots


def _thousands(value: float) -> str:
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"


def _curves(trained: Trainings, column: str, title: str, *, from_zero: bool) -> Svg:
    def line(points: list[CurvePoint]) -> list[tuple[float, float]]:
        return [(point.samples_seen, getattr(point, column)) for point in points]

    # this run is drawn over the other
    both = (("against", trained.comparison), ("mine", trained.run))
    series = [(kind, line(run.curve)) for kind, run in both if run is not None]
    return curves(title, series, _thousands, from_zero=from_zero)


def _histograms(clip: ClipScores | None) -> tuple[Svg, Svg]:
    """Of kept and not kept rows, and of clean and mismatched pairs."""
    if clip is None:
        return "", ""
    title, layers = "CLIP scores of kept and not kept rows", [("kept", clip.kept), ("dropped", clip.not_kept)]
    line, words = clip.threshold, "kept from here on"
    kept = bars(title, clip.edges, layers, stacked=True, line=line, line_words=words)
    if clip.clean is UNSET or clip.mismatched is UNSET:
        return kept, ""
    title, layers = "CLIP scores of clean and mismatched pairs", [("clean", clip.clean), ("faulty", clip.mismatched)]
    return kept, bars(title, clip.edges, layers, stacked=False, line=line, line_words=words)


def _columns(overlap: Overlap | None) -> list[int]:
    return [] if overlap is None else sorted({rule for row in overlap.combinations for rule in row.rules})


def plots_of(report: Report) -> Plots:
    trained = report.training
    return Plots(
        _sets(report.scores),
        scale_of_shares(),
        _curves(trained, "loss", "Training loss by samples seen", from_zero=True),
        _curves(trained, "logit_scale", "Logit scale by samples seen", from_zero=False),
        *_histograms(report.clip_scores),
        _columns(report.overlap),
    )
