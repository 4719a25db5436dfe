"""Which rules of the filter drop the same rows, CLIP scores of kept and dropped, and each rule against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcfast.filters.expression import Call, parse
from dcfast.filters.term import SCORES
from dcfast.report.facts.metadata_rows import Examined
from dcfast.report.facts.sampling import columns_of, num_rows
from dcfast.report.facts.truth import KINDS, MAX_TRUTH_ROWS
from dcfast.rundir.tables import read_table
from dcfast.uids.sets import uid_format

__all__ = ["clip_scores", "gallery_scores", "overlap", "rules_against_truth", "truth_of"]

BINS = 60
PATTERNS = 12
TRUTH_KINDS = ("mismatched", "language", "boilerplate", "small", "extreme_aspect", "flat", "leak", "near_duplicate_of")
"""Kinds of defects that a filter may be after; broken files are for quarantine."""


def overlap(seen: Examined) -> dict[str, Any]:
    """Each rule's own count and what it alone drops; the most frequent combinations of rules that drop a row."""
    drops = seen.drops
    dropped = np.asarray(drops.any(axis=1))
    alone = drops.sum(axis=1) == 1
    rules = [
        {"rule": name, "drops": int(drops[:, i].sum()), "alone": int((drops[:, i] & alone).sum())}
        for i, name in enumerate(seen.rules)
    ]
    patterns: list[dict[str, Any]] = []
    others = 0
    if dropped.any():
        found, counts = np.unique(drops[dropped], axis=0, return_counts=True)
        order = sorted(range(len(counts)), key=lambda i: (-int(counts[i]), found[i].tolist()))
        patterns = [{"rules": np.flatnonzero(found[i]).tolist(), "rows": int(counts[i])} for i in order[:PATTERNS]]
        others = int(sum(int(counts[i]) for i in order[PATTERNS:]))
    return {
        "rows": dropped.size,
        "of": seen.total,
        "dropped": int(dropped.sum()),
        "rules": rules,
        "combinations": patterns,
        "other_combinations": others,
    }


def _auroc(good: npt.NDArray[Any], bad: npt.NDArray[Any]) -> float | None:
    """How often a good one scores above a bad one, ties half; None where either is empty."""
    if good.size == 0 or bad.size == 0:
        return None
    ordered = np.sort(bad)
    wins = np.searchsorted(ordered, good, "left") + np.searchsorted(ordered, good, "right")
    return round(float(wins.mean()) / (2 * bad.size), 6)


def _threshold(expression: str, column: str, thresholds: dict[str, float]) -> float | None:
    """The lowest score that the filter keeps in a column; None where it does not ask for one."""
    for key, value in thresholds.items():
        if key.partition(":")[0] == column:
            return value if np.isfinite(value) else None
    found: list[float] = []

    def build(call: Call) -> object:
        for argument in call.arguments:
            named = call.name == "clip_score" and argument.keyword == "threshold"
            if named and SCORES.get(str(call.arguments[0].value)) == column:
                found.append(float(argument.value))
        return call.name

    parse(expression, build)
    return max(found, default=None)


def clip_scores(seen: Examined, expression: str, thresholds: dict[str, float], truth: dict[str, Any]) -> dict[str, Any]:
    """Histograms of the CLIP score that the filter goes by (else of any that is there); empty where there is none.

    Keys: ``column``, ``threshold``, ``rows`` with a finite score, ``without`` any, ``infinite``, ``edges``, ``kept``,
    ``not_kept``, and where the truth is known ``clean``, ``mismatched`` (histograms) and ``auroc`` of the one against
    the other.
    """
    if not seen.scores:
        return {}
    names = sorted(seen.scores, reverse=True)  # l14 before b32
    asked = [name for name in names if _threshold(expression, name, thresholds) is not None]
    column = asked[0] if asked else names[0]
    score = seen.scores[column]
    known = np.isfinite(score)
    low, high = float(score[known].min()), float(score[known].max())
    if high <= low:
        high = low + 0.01
    edges = np.linspace(low, high, BINS + 1)

    def histogram(mask: npt.NDArray[Any]) -> list[int]:
        return [int(n) for n in np.histogram(score[mask & known], edges)[0]]

    result: dict[str, Any] = {
        "column": column,
        "threshold": _threshold(expression, column, thresholds),
        "rows": int(known.sum()),
        "without": int(np.isnan(score).sum()),
        "infinite": int(np.isinf(score).sum()),
        "edges": [round(float(edge), 6) for edge in edges],
        "kept": histogram(seen.kept),
        "not_kept": histogram(~seen.kept),
    }
    if truth:
        clean, mismatched = truth["clean"] & known, truth["mismatched"] & known
        result |= {
            "clean": histogram(clean),
            "mismatched": histogram(mismatched),
            "auroc": _auroc(score[clean], score[mismatched]),
        }
    return result


def truth_of(seen: Examined, out: Path) -> dict[str, Any]:
    """For the rows looked at: kind -> (n,) bool by the built-in world's truth, and ``judged``: in the shards, whole.

    Empty where there is no truth. Reads both tables whole: the world is small.
    """
    path, fates_path = out / "world" / "truth.parquet", out / "fates.parquet"
    columns = columns_of(path)
    if not {"uid", "clean", "mismatched"} <= set(columns) or not columns_of(fates_path):
        return {}
    if max(num_rows(fates_path), num_rows(path)) > MAX_TRUTH_ROWS:
        return {}
    names = list(dict.fromkeys(["clean", *(kind for kind, _ in KINDS if kind in columns)]))
    table = read_table(path, ["uid", *names]).to_pydict()
    place = {uid: i for i, uid in reversed(list(enumerate(table["uid"])))}
    fates = read_table(fates_path, ["uid", "fate"]).to_pydict()
    there = {uid for uid, fate in zip(fates["uid"], fates["fate"], strict=True) if fate in ("kept", "dropped")}
    written = uid_format(np.ascontiguousarray(seen.uids), as_list=True)
    rows = [place.get(uid, -1) for uid in written]
    result: dict[str, Any] = {
        name: np.array([i >= 0 and bool(table[name][i]) for i in rows], np.bool_) for name in names
    }
    result["judged"] = np.array([i >= 0 and uid in there for i, uid in zip(rows, written, strict=True)], np.bool_)
    return result


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _judged(name: str, drops: npt.NDArray[Any], truth: dict[str, Any]) -> dict[str, Any]:
    judged = truth["judged"]
    clean, faulty = truth["clean"] & judged, ~truth["clean"] & judged
    dropped, kept = drops & judged, ~drops & judged
    return {
        "rule": name,
        "drops": int(dropped.sum()),
        "drop_precision": _share(int((dropped & faulty).sum()), int(dropped.sum())),
        "drop_recall": _share(int((dropped & faulty).sum()), int(faulty.sum())),
        "keep_precision": _share(int((kept & clean).sum()), int(kept.sum())),
        "keep_recall": _share(int((kept & clean).sum()), int(clean.sum())),
        "kinds": {
            kind: _share(int((dropped & truth[kind]).sum()), int((judged & truth[kind]).sum()))
            for kind in TRUTH_KINDS
            if kind in truth
        },
    }


def rules_against_truth(seen: Examined, truth: dict[str, Any]) -> dict[str, Any] | None:
    """Precision and recall of every rule asked by itself, and of the whole filter, over the rows whose sample is whole.

    Dropping is right where the truth does not call the sample clean, keeping where it does.
    """
    if not truth:
        return None
    labels = dict(KINDS)
    everything = _judged("the whole filter", np.asarray(seen.drops.any(axis=1)), truth)
    return {
        "rows": int(truth["judged"].sum()),
        "clean": int((truth["judged"] & truth["clean"]).sum()),
        "kinds": [
            {"kind": kind, "label": labels[kind], "rows": int((truth["judged"] & truth[kind]).sum())}
            for kind in everything["kinds"]
        ],
        "rules": [_judged(name, seen.drops[:, i], truth) for i, name in enumerate(seen.rules)],
        "whole": everything,
    }


def gallery_scores(seen: Examined | None, rows: list[dict[str, Any]], column: str | None) -> None:
    """Writes ``clip_score`` into rows of a gallery: the score where the row was looked at, else None."""
    for row in rows:
        row["clip_score"] = None
    if seen is None or column not in seen.scores:
        return
    wanted = {row["uid"] for row in rows}
    for place, uid in enumerate(uid_format(np.ascontiguousarray(seen.uids), as_list=True)):
        if uid in wanted:
            value = float(seen.scores[column][place])
            for row in rows:
                if row["uid"] == uid and row["clip_score"] is None and np.isfinite(value):
                    row["clip_score"] = round(value, 4)
