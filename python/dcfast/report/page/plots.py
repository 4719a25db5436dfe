"""What of the report is plotted, and in which order."""

from __future__ import annotations

from dcfast.report.facts.outcome import Scores, SetScore
from dcfast.report.facts.training import Trainings
from dcfast.report.page.charts import Plot, curves

__all__ = ["plotted_sets", "training_curves"]


def plotted_sets(scores: Scores) -> list[SetScore]:
    """The largest gain first, or the highest score where nothing is compared."""
    rows = [row for row in scores.sets if row.score is not None or row.comparison is not None]
    paired = scores.common.sets > 0
    return sorted(rows, key=lambda row: -((row.difference if paired else row.score) or 0))


def _thousands(value: float) -> str:
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"


def training_curves(trained: Trainings, column: str, title: str, *, from_zero: bool) -> Plot | None:
    """A column of the logs of both trainings, by samples seen."""
    both = (("against", trained.comparison), ("mine", trained.run))  # this run is drawn over the other
    series = [
        (kind, [(point.samples_seen, getattr(point, column)) for point in run.curve])
        for kind, run in both
        if run is not None
    ]
    return curves(title, series, _thousands, from_zero=from_zero)
