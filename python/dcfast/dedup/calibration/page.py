"""A calibration as a table in Markdown, and as a plot."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dcfast.dedup.calibration.measure import Calibration, EditResult, MethodResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a", "#000000")
"""Told apart without colour vision, the first seven."""
PLOTTED = ("jpeg", "resize", "blur", "crop", "border", "caption", "overlay", "turn")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _number(value: float | None) -> str:
    if value is None:
        return "sample too small"
    return f"{value:.3g}" if value < 1e4 else f"{value:.1e}".replace("e+0", "e").replace("e+", "e")


def _at(result: MethodResult) -> int:
    """The place of the default among the thresholds; of a method that has none the middle."""
    return len(result.thresholds) // 2 if result.default is None else result.thresholds.index(result.default)


def table(calibration: Calibration) -> str:
    """Markdown: recall by edit at the default thresholds, precision and chance hits by threshold."""
    methods, at = calibration.methods, calibration.at
    heads = [f"{m.title}, at most {m.thresholds[_at(m)]}" for m in methods]
    first = f"{calibration.pictures:,} pictures, {calibration.edited:,} of them edited, seed {calibration.seed}; "
    first += f"left out: {calibration.unreadable:,} unreadable, {calibration.flat:,} flat, "
    first += (
        f"{calibration.identical:,} identical. {calibration.alike:,} pairs are alike and not counted as unrelated.\n"
    )
    edits = [[m.edits[k] for m in methods] for k in range(len(methods[0].edits))]
    rows = [
        [_named(row[0]), *(f"{100 * e.recall[_at(m)]:.0f}%" for m, e in zip(methods, row, strict=True))]
        for row in edits
    ]
    parts = ["# Calibration\n", first, "## Copies found, by edit\n", _table(["edit", *heads], rows)]
    for method in methods:
        parts += [
            f"## {method.title}\n",
            _tail(method),
            _table(
                ["threshold", "recall, all edits", "precision", "chance hits expected", "at most"],
                [_threshold_row(method, k) for k in range(len(method.thresholds))],
            ),
        ]
    parts.append(f"Chance hits are those between {at[0]:,} and {at[1]:,} unrelated pictures.\n")
    return "\n".join(parts)


def _named(edit: EditResult) -> str:
    return f"{edit.kind} {edit.strength.replace('_', ' ')}"


def _tail(method: MethodResult) -> str:
    text = f"Unrelated pictures: {sum(method.unrelated):,} distances, "
    text += f"mean {method.mean:.2f}, deviation {method.deviation:.2f}. "
    if method.tail is None:
        return text + "The sample is too small for a fit of their tail: give more pictures.\n"
    tail = method.tail
    text += f"The tail was fitted from {tail.first} to {tail.last} ({tail.pairs:,} distances). "
    return text + f"Nearer than {tail.first} are {tail.nearer:,}; the fit puts {tail.explained:.1f} there.\n"


def _threshold_row(method: MethodResult, k: int) -> list[str]:
    recall = sum(edit.recall[k] for edit in method.edits) / len(method.edits)
    precision, chance = method.precision[k], method.chance[k]
    shown = "-" if precision is None else f"{100 * precision:.3f}%"
    name = f"**{method.thresholds[k]}**" if method.thresholds[k] == method.default else f"{method.thresholds[k]}"
    return [name, f"{100 * recall:.1f}%", shown, _number(chance.expected), _number(chance.at_most)]


def plot(calibration: Calibration) -> dict[str, bytes]:
    """File name -> bytes: ``calibration.svg`` and ``.png``: recall by kind and chance hits by threshold.

    Uses no display and no global state of matplotlib; equal calibrations are equal bytes.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(calibration.methods)
    figure = Figure(figsize=(4.0 * count, 5.6), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False, sharex="col", height_ratios=(2, 1))
    for k, method in enumerate(calibration.methods):
        _recall(axes[0, k], method)
        _chance(axes[1, k], method)
    axes[0, 0].set_ylabel("copies found, mean over strengths")
    axes[1, 0].set_ylabel("chance hits")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(PLOTTED), fontsize=8, frameon=False)
    FigureCanvasAgg(figure)
    files = {}
    with matplotlib.rc_context({"svg.hashsalt": "dcfast", "svg.fonttype": "none"}):
        for kind, dated in (("png", ("Software",)), ("svg", ("Date", "Creator"))):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=150, metadata=dict.fromkeys(dated))
            files[f"calibration.{kind}"] = buffer.getvalue()
    return files


def _recall(axes: Axes, method: MethodResult) -> None:
    for colour, kind in zip(COLOURS, PLOTTED, strict=True):
        of_kind = [edit.recall for edit in method.edits if edit.kind == kind]
        mean = [sum(values) / len(values) for values in zip(*of_kind, strict=True)]
        axes.plot(method.thresholds, mean, color=colour, lw=1.4, label=kind)
    axes.set_title(method.title, loc="left", fontsize=10, fontweight="bold")
    axes.set_ylim(0, 1.02)
    _finish(axes, method)


def _chance(axes: Axes, method: MethodResult) -> None:
    least = 1e-12
    for name, style in (("expected", "-"), ("at_most", "--")):
        points = [(c.threshold, getattr(c, name)) for c in method.chance if getattr(c, name) is not None]
        if points:
            axes.plot([t for t, _ in points], [max(v, least) for _, v in points], style, color=COLOURS[0], lw=1.4)
    axes.set_yscale("log")
    axes.axhline(1, color=COLOURS[6], lw=0.9)
    axes.set_xlabel("threshold")
    _finish(axes, method)


def _finish(axes: Axes, method: MethodResult) -> None:
    if method.default is not None:
        axes.axvline(method.default, color=COLOURS[6], lw=0.9, ls=(0, (4, 3)))
    axes.grid(lw=0.4, alpha=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
