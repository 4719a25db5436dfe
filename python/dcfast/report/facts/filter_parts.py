"""Which rules of the filter drop the same rows, CLIP scores of kept and dropped, and each rule against the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType

from dcfast.filters.expression import Call, parse
from dcfast.filters.term import SCORES
from dcfast.report.facts.metadata_rows import Examined
from dcfast.report.facts.samples import GalleryRow
from dcfast.report.facts.truth import KINDS, share_of
from dcfast.storage.records import Record, replaced
from dcfast.uids.sets import uid_format

BINS = 60
PATTERNS = 12
TRUTH_KINDS = ("mismatched", "language", "boilerplate", "small", "extreme_aspect", "flat", "leak", "near_duplicate_of")
"""Kinds of defects that a filter may be after; broken files are for quarantine."""
Mask = npt.NDArray[np.bool_]


class RuleDrops(Record):
    """Rows that a rule drops, and those that it ``alone`` drops."""

    rule: str
    drops: int
    alone: int


class Combination(Record):
    """Rows that these rules drop, and no other; ``rules`` are places in ``Overlap.rules``."""

    rules: list[int]
    rows: int


class Overlap(Record):
    """Which rules drop the same rows; ``of``: all rows, None where they were not counted."""

    rows: int
    of: int | None
    dropped: int
    rules: list[RuleDrops]
    combinations: list[Combination]
    other_combinations: int


class ClipScores(Record):
    """Histograms of a column, or of a source of scores, over ``edges``.

    ``rows`` have a finite score, ``without`` any, ``infinite`` another; ``auroc`` is of clean against mismatched rows.
    The last three are left out where the truth is not known.
    """

    column: str
    threshold: float | None
    rows: int
    without: int
    infinite: int
    edges: list[float]
    kept: list[int]
    not_kept: list[int]
    clean: list[int] | UnsetType = UNSET
    mismatched: list[int] | UnsetType = UNSET
    auroc: float | UnsetType | None = UNSET


class RuleTruth(Record):
    """How right a rule is, asked by itself; ``kinds``: kind -> share that it drops."""

    rule: str
    drops: int
    drop_precision: float | None
    drop_recall: float | None
    keep_precision: float | None
    keep_recall: float | None
    kinds: dict[str, float | None]


class KindRows(Record):
    kind: str
    label: str
    rows: int


class RulesTruth(Record):
    """Every rule against the truth, and the whole filter, over the rows whose sample is whole."""

    rows: int
    clean: int
    kinds: list[KindRows]
    rules: list[RuleTruth]
    whole: RuleTruth


def uids_of(seen: Examined) -> list[str]:
    return uid_format(np.ascontiguousarray(seen.uids), as_list=True)


def overlap(seen: Examined) -> Overlap:
    """Each rule's own count and what it alone drops; the most frequent combinations of rules that drop a row."""
    drops = seen.drops
    dropped = np.asarray(drops.any(axis=1))
    alone = drops & (drops.sum(axis=1) == 1)[:, None]
    rules = [RuleDrops(*row) for row in zip(seen.rules, drops.sum(0).tolist(), alone.sum(0).tolist(), strict=True)]
    patterns, counts = np.unique(drops[dropped], axis=0, return_counts=True)
    combinations = [Combination(np.flatnonzero(p).tolist(), int(n)) for p, n in zip(patterns, counts, strict=True)]
    combinations.sort(key=lambda combination: -combination.rows)  # equal ones stay in the order of their patterns
    others = sum(combination.rows for combination in combinations[PATTERNS:])
    return Overlap(dropped.size, seen.total, int(dropped.sum()), rules, combinations[:PATTERNS], others)


def _auroc(good: npt.NDArray[np.float32], bad: npt.NDArray[np.float32]) -> float | None:
    """How often a good one scores above a bad one, ties half; None where either is empty."""
    if good.size == 0 or bad.size == 0:
        return None
    ordered = np.sort(bad)
    wins = np.searchsorted(ordered, good, "left") + np.searchsorted(ordered, good, "right")
    return round(float(wins.mean()) / (2 * bad.size), 6)


def _threshold(expression: str, column: str, thresholds: Mapping[str, float]) -> float | None:
    """The lowest score that the filter keeps in a column; None where it does not ask for one."""
    for key, value in thresholds.items():
        if key.partition(":")[0] == column:
            return value if math.isfinite(value) else None
    limits: list[float] = []

    def collect(call: Call) -> object:
        for argument in call.arguments:
            is_threshold = call.name == "clip_score" and argument.keyword == "threshold"
            if is_threshold and SCORES.get(str(call.arguments[0].value)) == column:
                limits.append(float(argument.value))
        return call.name

    parse(expression, collect)
    return max(limits, default=None)


def clip_scores(
    seen: Examined, expression: str, thresholds: Mapping[str, float], truth: Mapping[str, Mask]
) -> ClipScores | None:
    """The CLIP score that the filter goes by (else any that is there); None where there is none."""
    if not seen.scores:
        return None
    by_column = {name: _threshold(expression, name, thresholds) for name in sorted(seen.scores, reverse=True)}
    column = next((name for name, value in by_column.items() if value is not None), next(iter(by_column)))  # l14 first
    return _histograms(seen, column, seen.scores[column], by_column[column], truth)


def source_scores(seen: Examined, truth: Mapping[str, Mask]) -> list[ClipScores]:
    """The same of each source of scores that the filter goes by; those without a finite score are left out."""
    return [
        _histograms(seen, key, score, seen.limits.get(key), truth)
        for key, score in seen.sources.items()
        if np.isfinite(score).any()
    ]


def _histograms(
    seen: Examined, column: str, score: npt.NDArray[np.float32], threshold: float | None, truth: Mapping[str, Mask]
) -> ClipScores:
    known = np.isfinite(score)
    low, high = float(score[known].min()), float(score[known].max())
    edges = np.linspace(low, high if high > low else low + 0.01, BINS + 1)

    def histogram(mask: Mask) -> list[int]:
        return [int(n) for n in np.histogram(score[mask & known], edges)[0]]

    histograms = ClipScores(
        column,
        threshold,
        rows=int(known.sum()),
        without=int(np.isnan(score).sum()),
        infinite=int(np.isinf(score).sum()),
        edges=[round(float(edge), 6) for edge in edges],
        kept=histogram(seen.kept),
        not_kept=histogram(~seen.kept),
    )
    if not truth:
        return histograms
    clean, mismatched = truth["clean"] & known, truth["mismatched"] & known
    auroc = _auroc(score[clean], score[mismatched])
    return replaced(histograms, clean=histogram(clean), mismatched=histogram(mismatched), auroc=auroc)


def _judge(name: str, drops: Mask, truth: Mapping[str, Mask]) -> RuleTruth:
    judged = truth["judged"]
    clean, faulty = truth["clean"] & judged, ~truth["clean"] & judged
    dropped, kept = drops & judged, ~drops & judged

    def share(part: Mask, whole: Mask) -> float | None:
        return share_of(int((part & whole).sum()), int(whole.sum()))

    return RuleTruth(
        name,
        int(dropped.sum()),
        drop_precision=share(faulty, dropped),
        drop_recall=share(dropped, faulty),
        keep_precision=share(clean, kept),
        keep_recall=share(kept, clean),
        kinds={kind: share(dropped, truth[kind] & judged) for kind in TRUTH_KINDS if kind in truth},
    )


def rules_against_truth(seen: Examined, truth: Mapping[str, Mask]) -> RulesTruth | None:
    """Precision and recall of every rule asked by itself, and of the whole filter, over the rows whose sample is whole.

    Dropping is right where the truth does not call the sample clean, keeping where it does.
    """
    if not truth:
        return None
    judged = truth["judged"]
    whole = _judge("the whole filter", np.asarray(seen.drops.any(axis=1)), truth)
    return RulesTruth(
        int(judged.sum()),
        int((judged & truth["clean"]).sum()),
        [KindRows(kind, KINDS[kind], int((judged & truth[kind]).sum())) for kind in whole.kinds],
        [_judge(name, drops, truth) for name, drops in zip(seen.rules, seen.drops.T, strict=True)],
        whole,
    )


def with_scores(gallery: dict[str, list[GalleryRow]], seen: Examined, column: str) -> dict[str, list[GalleryRow]]:
    """The rows of a gallery with the score of those that were looked at."""
    shown = {row.uid for rows in gallery.values() for row in rows}
    scores: dict[str | None, float] = {}
    for uid, score in zip(uids_of(seen), seen.scores[column].tolist(), strict=True):
        if uid in shown and math.isfinite(score):
            scores.setdefault(uid, round(score, 4))
    return {name: [replaced(row, clip_score=scores.get(row.uid)) for row in rows] for name, rows in gallery.items()}
