"""What the trainings were: the same recipe in both runs or not, their curves, and what follows from the scores."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from dcfast.evaluate.results import number
from dcfast.report.facts.outcome import EVEN, read_json
from dcfast.storage.json_files import parse_json
from dcfast.storage.lines import iterate_lines

__all__ = ["training", "verdict"]

CURVE_POINTS = 240
"""Points of a curve on the page; a longer log is averaged over equal stretches of it."""
CURVES = ("samples_seen", "loss", "logit_scale")
FACTS = (
    "model",
    "scale",
    "seed",
    "samples_seen",
    "steps",
    "recipe_hash",
    "recipe",
    "checkpoint",
    "checkpoint_sha256",
    "checkpoints",
    "loss_first",
    "loss_last",
    "logit_scale",
    "replaced",
    "non_standard",
    "decoder_difference",
    "notes",
    "sources",
    "accumulation",
    "world_size",
    "versions",
)


def _curve(path: Path) -> list[dict[str, float]]:
    """Samples seen, loss and logit scale of a training's log, at most CURVE_POINTS points.

    Memory: the points; the log is read line by line.
    """
    points: list[list[float]] = []  # lines in a point, and the sums of its columns
    width = 1  # lines that a point stands for
    with suppress(OSError):
        for raw in iterate_lines(path, errors="replace"):
            try:
                line = parse_json(raw)
                values = [number(line[name]) for name in CURVES]
            except (ValueError, KeyError, TypeError):
                continue  # a line cut short by a kill
            row = [value for value in values if value is not None]
            if len(row) < len(CURVES):
                continue
            if points and points[-1][0] < width:
                points[-1] = [a + b for a, b in zip(points[-1], [1.0, *row], strict=True)]
            else:
                points.append([1.0, *row])
            if len(points) > CURVE_POINTS:
                points = [[sum(column) for column in zip(*points[i : i + 2], strict=True)] for i in _pairs(points)]
                width *= 2
    return [{name: round(total / p[0], 5) for name, total in zip(CURVES, p[1:], strict=True)} for p in points]


def _pairs(points: list[list[float]]) -> range:
    return range(0, len(points), 2)


def _of(out: Path) -> dict[str, Any] | None:
    summary = read_json(out / "train" / "summary.json", "train/summary")
    if not summary:
        return None
    timing = read_json(out / "train" / "timing.json")
    refused = number(timing.get("dali_refused_samples"))  # None of another decoder
    recipe = summary.get("recipe") if isinstance(summary.get("recipe"), dict) else {}
    return {
        **{name: summary.get(name) for name in FACTS},
        "recipe": recipe,
        "samples": sum(int(s.get("samples", 0)) for s in summary.get("sources") or []),
        "asked": recipe.get("samples_seen") if recipe else None,
        "seconds": number(timing.get("seconds")),
        "samples_per_second": number(timing.get("samples_per_second")),
        "dali_refused_samples": None if refused is None else int(refused),
        "curve": _curve(out / "train" / "log.jsonl"),
    }


def training(out: Path, comparison: Path | None) -> dict[str, Any]:
    """The facts of both trainings and whether they had the same compute: ``run``, ``comparison``, ``unfair``."""
    mine = _of(out)
    other = _of(comparison) if comparison is not None else None
    unfair = []
    for name, one in (("this run", mine), ("the comparison", other)):
        if one is not None and one["samples_seen"] != one["asked"]:
            unfair.append(f"{name} saw {one['samples_seen']} samples, its recipe says {one['asked']}")
    if mine is not None and other is not None:
        for name, words in (
            ("samples_seen", "samples seen"),
            ("recipe_hash", "recipes (their hashes)"),
            ("model", "models"),
            ("seed", "seeds"),
        ):
            if mine[name] != other[name]:
                unfair.append(f"the {words} differ: {str(mine[name])[:16]} and {str(other[name])[:16]}")
    return {"run": mine, "comparison": other, "unfair": unfair}


def _outcome(means: dict[str, Any]) -> str:
    """``better``, ``worse`` or ``even``: by the difference of two means and the number of sets that each run wins."""
    if means["difference"] >= EVEN and means["better"] > means["worse"]:
        return "better"
    if means["difference"] <= -EVEN and means["worse"] > means["better"]:
        return "worse"
    return "even"


def _judged(scores: dict[str, Any]) -> tuple[str, str]:
    """(outcome, which means it goes by). A lead stands where the run that leads trained on no copy of these sets'
    pictures; otherwise the sets decide that neither run trained on copies of, and without any there is no outcome."""
    paired = [row for row in scores["sets"] if row["difference"] is not None]
    mine = any(row["contaminated"] for row in paired)
    other = any(row["comparison_contaminated"] for row in paired)
    outcome = _outcome(scores["common"])
    stands = {"better": not mine, "worse": not other, "even": not mine and not other}
    if stands[outcome]:
        return outcome, "common"
    if scores["unaffected"]["sets"]:
        return _outcome(scores["unaffected"]), "unaffected"
    return "contaminated", "common"


def verdict(report: dict[str, Any]) -> dict[str, Any]:
    """What the page says first: ``kind``, ``headline`` and ``by``, the means that it goes by.

    Kinds: ``better``, ``worse``, ``even`` (by the mean over the sets that both runs have, and the number of sets that
    each wins), ``contaminated`` (copies of evaluation pictures in the training may have decided), ``unfair`` (the
    trainings are not to be compared), ``scored`` (no comparison), ``none`` (no scores).
    """
    scores, trained = report["scores"], report["training"]
    if not scores["available"]:
        return {"kind": "none", "headline": None, "by": None}
    if not scores["common"]["sets"] or trained["comparison"] is None:
        return {"kind": "scored", "headline": None, "by": None}
    if trained["unfair"] or scores["refused"]:
        return {"kind": "unfair", "headline": "Two trainings that cannot be compared", "by": "common"}
    kept, against = report["subset"]["uids"], report["comparison"].get("uids")
    smaller = isinstance(kept, int) and isinstance(against, int) and kept < against
    subset = "smaller subset" if smaller else "another subset"
    kind, by = _judged(scores)
    headlines = {
        "better": "Same compute, better subset, better model",
        "worse": f"Same compute, {subset}, worse model",
        "even": f"Same compute, {subset}, no better model",
        "contaminated": "Scores that copies of evaluation pictures in the training may have decided",
    }
    return {"kind": kind, "headline": headlines[kind], "by": by}
