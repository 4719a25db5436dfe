"""The plots of the page, from the numbers of the report."""

from __future__ import annotations

from typing import Any

from dcfast.report.page.charts import bars, curves, dumbbell, scale_of_shares
from dcfast.report.text import points, share

__all__ = ["plots_of"]


def _sets(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the plot of the sets: the largest gain first, or the highest score where nothing is compared."""
    rows = [row for row in report["scores"]["sets"] if row["score"] is not None or row["comparison"] is not None]
    paired = report["scores"]["common"]["sets"] > 0
    rows.sort(key=lambda row: -((row["difference"] if paired else row["score"]) or 0))
    found = []
    for row in rows:
        gain = row["difference"] or 0
        found.append(
            {
                "set": row,
                "plot": dumbbell(row["score"], row["comparison"], row["chance"]),
                "words": points(row["difference"]) if paired else share(row["score"]),
                "sign": "gain" if gain > 0 else "loss" if gain < 0 else "",
            }
        )
    return found


def _thousands(value: float) -> str:
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"


def _curves(report: dict[str, Any], column: str, title: str, *, from_zero: bool) -> Any:
    series = []
    for kind, name in (("against", "comparison"), ("mine", "run")):  # this run is drawn over the other
        one = report["training"][name]
        if one is not None:
            series.append((kind, [(p["samples_seen"], p[column]) for p in one["curve"]]))
    return curves(title, series, _thousands, from_zero=from_zero)


def _histograms(clip: dict[str, Any]) -> dict[str, Any]:
    if not clip:
        return {"kept": "", "clean": ""}
    line, words = clip["threshold"], "kept from here on"
    edges = clip["edges"]
    layers = [("kept", clip["kept"]), ("dropped", clip["not_kept"])]
    found = {
        "kept": bars("CLIP scores of kept and not kept rows", edges, layers, stacked=True, line=line, line_words=words),
        "clean": "",
    }
    if "clean" in clip:
        layers = [("clean", clip["clean"]), ("faulty", clip["mismatched"])]
        title = "CLIP scores of clean and mismatched pairs"
        found["clean"] = bars(title, edges, layers, stacked=False, line=line, line_words=words)
    return found


def plots_of(report: dict[str, Any]) -> dict[str, Any]:
    """Name -> inline SVG, an empty text where there is nothing to draw; ``columns`` are rules in combinations."""
    used = {rule for row in report["overlap"].get("combinations", []) for rule in row["rules"]}
    return {
        "sets": _sets(report),
        "axis": scale_of_shares(),
        "loss": _curves(report, "loss", "Training loss by samples seen", from_zero=True),
        "logit_scale": _curves(report, "logit_scale", "Logit scale by samples seen", from_zero=False),
        **_histograms(report["clip_scores"]),
        "columns": sorted(used),
    }
