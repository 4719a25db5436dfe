"""The plots of the page, from the numbers of the report."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import UNSET

from dcfast.report.facts.document import Report
from dcfast.report.facts.filter_parts import ClipScores
from dcfast.report.facts.outcome import Scores, SetScore
from dcfast.report.facts.training import Trainings
from dcfast.report.page.charts import Plot, bars, curves

__all__ = ["Plots", "plots_of"]


class Plots(NamedTuple):
    """None where there is nothing to draw; ``sets``: in the order of their rows; ``columns``: rules in combinations."""

    sets: list[SetScore]
    loss: Plot | None
    logit_scale: Plot | None
    kept: Plot | None
    clean: Plot | None
    columns: list[int]


def _sets(scores: Scores) -> list[SetScore]:
    """The largest gain first, or the highest score where nothing is compared."""
    rows = [row for row in scores.sets if row.score is not None or row.comparison is not None]
    paired = scores.common.sets > 0
    return sorted(rows, key=lambda row: -((row.difference if paired else row.score) or 0))


def _thousands(value: float) -> str:
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"


def _curves(trained: Trainings, column: str, title: str, *, from_zero: bool) -> Plot | None:
    both = (("against", trained.comparison), ("mine", trained.run))  # this run is drawn over the other
    series = [
        (kind, [(point.samples_seen, getattr(point, column)) for point in run.curve])
        for kind, run in both
        if run is not None
    ]
    return curves(title, series, _thousands, from_zero=from_zero)


def _histograms(clip: ClipScores | None) -> tuple[Plot | None, Plot | None]:
    """Of kept and not kept rows, and of clean and mismatched pairs."""
    if clip is None:
        return None, None
    title, layers = "CLIP scores of kept and not kept rows", [("kept", clip.kept), ("dropped", clip.not_kept)]
    line, words = clip.threshold, "kept from here on"
    kept = bars(title, clip.edges, layers, stacked=True, line=line, line_words=words)
    if clip.clean is UNSET or clip.mismatched is UNSET:
        return kept, None
    title, layers = "CLIP scores of clean and mismatched pairs", [("clean", clip.clean), ("faulty", clip.mismatched)]
    return kept, bars(title, clip.edges, layers, stacked=False, line=line, line_words=words)


def plots_of(report: Report) -> Plots:
    combinations = report.overlap.combinations if report.overlap is not None else []
    return Plots(
        _sets(report.scores),
        _curves(report.training, "loss", "Training loss by samples seen", from_zero=True),
        _curves(report.training, "logit_scale", "Logit scale by samples seen", from_zero=False),
        *_histograms(report.clip_scores),
        sorted({rule for row in combinations for rule in row.rules}),
    )
