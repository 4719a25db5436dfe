"""The plots of a study: score against filter with error bars, and one scale's scores against another's."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from dcfast.study.grid import NOT_CANDIDATES
from dcfast.study.records import FilterRow, RankCorrelation, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CANDIDATE, REFERENCE, SEED = "#0072b2", "#7a7a7a", "#9ec9e6"  # told apart without colour vision, and in print

LEGEND = "diamond: mean over seeds (dots), bar: one standard deviation; in brackets: share of the pool that is kept"


def _scores(axes: Axes, rows: list[FilterRow], scale: str, sets: str) -> None:
    """Filters from the best at the top; the dots are seeds, the bars one standard deviation."""
    means = {row.filter: row.mean for row in rows if row.mean is not None}
    rows = sorted((row for row in rows if row.filter in means), key=lambda row: means[row.filter])
    for place, row in enumerate(rows):
        mean, seeds = means[row.filter], list(row.scores.values())
        axes.plot(seeds, [place] * len(seeds), "o", ms=3.5, color=SEED, zorder=1)
        colour = REFERENCE if row.filter in NOT_CANDIDATES else CANDIDATE
        axes.errorbar(mean, place, xerr=row.deviation, fmt="D", ms=5.5, capsize=3.5, lw=1.4, color=colour, zorder=2)
        axes.annotate(f"{mean:.3f}", (mean, place), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    if "no_filter" in means:
        axes.axvline(means["no_filter"], color=REFERENCE, lw=0.9, ls=(0, (4, 3)), zorder=0)
    axes.set_yticks(range(len(rows)), [f"{row.filter}  ({100 * (row.kept or 0):.0f}%)" for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.2)
    axes.set_xlabel(f"mean score of the {sets}")
    axes.set_title(f"scale {scale}", loc="left", fontsize=10, fontweight="bold")
    axes.grid(axis="x", lw=0.4, alpha=0.5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _ranks(axes: Axes, table: list[FilterRow], pair: RankCorrelation) -> None:
    first, second = pair.scales
    means = {(row.scale, row.filter): row.mean for row in table if row.mean is not None}
    for label in sorted({name for scale, name in means if scale == first and (second, name) in means}):
        x, y = means[first, label], means[second, label]
        axes.plot(x, y, "D", ms=5, color=REFERENCE if label in NOT_CANDIDATES else CANDIDATE)
        axes.annotate(label, (x, y), (5, 3), textcoords="offset points", fontsize=7)
    rho = "-" if pair.rho is None else f"{pair.rho:.2f}"
    axes.set_title(f"rank correlation {rho}", loc="left", fontsize=10)
    axes.margins(x=0.2)  # room for the names
    axes.set_xlabel(f"score at {first}")
    axes.set_ylabel(f"score at {second}")
    axes.grid(lw=0.4, alpha=0.5)


def draw(study: Study) -> dict[str, bytes]:
    """File name -> bytes: ``study.png`` and ``study.svg``; with several scales also ``study-scales.png`` and ``.svg``.

    Uses no display and no global state of matplotlib.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    files: dict[str, bytes] = {}

    def keep(name: str, figure: Figure) -> None:
        FigureCanvasAgg(figure)
        # without dates and random ids equal studies are equal bytes
        with matplotlib.rc_context({"svg.hashsalt": "dcfast", "svg.fonttype": "none"}):
            for kind, dated in (("png", ("Software",)), ("svg", ("Date", "Creator"))):
                buffer = io.BytesIO()
                figure.savefig(buffer, format=kind, dpi=150, metadata=dict.fromkeys(dated))
                files[f"{name}.{kind}"] = buffer.getvalue()

    sets = "evaluation sets"
    if study.tasks.left_out:
        sets = f"{len(study.tasks.compared)} evaluation sets that all cells have"
    scales = [verdict.scale for verdict in study.verdicts]
    of_scale = {scale: [row for row in study.table if row.scale == scale] for scale in scales}
    drawn = [scale for scale in scales if any(row.mean is not None for row in of_scale[scale])]
    heights = [1.0 + 0.42 * len(of_scale[scale]) for scale in drawn]
    figure = Figure(figsize=(7.6, sum(heights)), layout="constrained")
    grid = figure.subplots(len(drawn), 1, squeeze=False, sharex=True, height_ratios=heights)
    for axes, scale in zip(grid[:, 0], drawn, strict=True):
        _scores(axes, of_scale[scale], scale, sets)
    figure.supxlabel(LEGEND, fontsize=7.5, color="#555555", x=0.01, ha="left")
    keep("study", figure)
    pairs = [pair for pair in study.rank_correlation if pair.filters > 1]
    if pairs:
        figure = Figure(figsize=(6.4, 5.2 * len(pairs)), layout="constrained")
        for axes, pair in zip(figure.subplots(len(pairs), 1, squeeze=False)[:, 0], pairs, strict=True):
            _ranks(axes, study.table, pair)
        keep("study-scales", figure)
    return files
