"""The metrics of the tasks, over NumPy arrays. Nothing here knows of models or files.

Legend: n pictures, c classes. ``rank`` is the place of the true class among all classes by score, 0 the best.
Metrics that have no value (an empty group, no riddle of a size) are None, which JSON can hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
import numpy.typing as npt

__all__ = [
    "Metrics",
    "expected_jaccard",
    "expected_macro_f1",
    "group_table",
    "jaccard",
    "macro_scores",
    "mean_per_class_recall",
    "top_k_accuracy",
    "worst_group",
]

Ints = npt.NDArray[np.int64]
Metrics = dict[str, float | int | None]


def top_k_accuracy(rank: Ints, k: int) -> float:
    """Share of the (n,) ranks below k."""
    return float(np.mean(rank < k))


def mean_per_class_recall(labels: Ints, predicted: Ints) -> float:
    """Recall averaged over the classes that the labels hold: balanced accuracy."""
    _, place = np.unique(labels, return_inverse=True)
    right = np.bincount(place, weights=labels == predicted)
    return float(np.mean(right / np.bincount(place)))


def macro_scores(labels: Ints, predicted: Ints) -> tuple[float, float]:
    """(recall, F1), each averaged over the classes that the labels hold, as WILDS does."""
    classes = np.unique(labels)
    size = int(max(labels.max(), predicted.max())) + 1
    right = np.bincount(labels[labels == predicted], minlength=size)[classes]
    actual = np.bincount(labels, minlength=size)[classes]
    claimed = np.bincount(predicted, minlength=size)[classes]
    # 2 P R / (P + R) in counts: never 0 / 0, since every class here has a picture
    return float(np.mean(right / actual)), float(np.mean(2 * right / (actual + claimed)))


def group_table(name: str, correct: npt.NDArray[np.bool_], fields: Sequence[tuple[str, Ints]]) -> Metrics:
    """The average, one value and count a group, and the worst group: the keys of WILDS' tables.

    Args:
        name: of the metric, e.g. ``acc``.
        correct: (n,) what is averaged.
        fields: (name, (n,) values from 0) of what the groups are made of; more than one: their combinations.
    Returns:
        ``NAME_avg``, ``NAME_FIELD:VALUE``, ``count_FIELD:VALUE`` (later fields first in the key), ``NAME_wg``.
    """
    group = np.zeros(len(correct), dtype=np.int64)
    labels = [""]
    for field, values in fields:
        size = int(values.max()) + 1
        group = group * size + values
        labels = [f"{field}:{value}" + (f"_{before}" if before else "") for before in labels for value in range(size)]
    counts = np.bincount(group, minlength=len(labels))
    sums = np.bincount(group, weights=correct, minlength=len(labels))
    table: Metrics = {f"{name}_avg": float(np.mean(correct))}
    for label, total, count in zip(labels, sums.tolist(), counts.tolist(), strict=True):
        table[f"{name}_{label}"] = total / count if count else None
        table[f"count_{label}"] = count
    table[f"{name}_wg"] = float(np.min(sums[counts > 0] / counts[counts > 0]))
    return table


def worst_group(correct: npt.NDArray[np.bool_], values: Ints, left_out: Sequence[int] = ()) -> float | None:
    """The lowest average of the groups that hold anything, ``left_out`` aside; None where no group is left."""
    counts = np.bincount(values)
    sums = np.bincount(values, weights=correct)
    used = counts > 0
    used[[v for v in left_out if v < len(used)]] = False
    return float(np.min(sums[used] / counts[used])) if used.any() else None


def jaccard(true: set[int], predicted: set[int]) -> float:
    """Size of the intersection over that of the union; the union is never empty here."""
    return len(true & predicted) / len(true | predicted)


def expected_jaccard(candidates: int, associations: int) -> float:
    """The average Jaccard of ``associations`` candidates drawn blindly, when as many are right."""
    n, k = candidates, associations
    ways = [comb(k, hits) * comb(n - k, k - hits) for hits in range(k + 1)]
    return sum(w * hits / (2 * k - hits) for hits, w in enumerate(ways)) / comb(n, k)


def expected_macro_f1(labels: Ints, num_classes: int) -> float:
    """Macro F1 of a uniform guess, of its expected counts: class by class 2p / (cp + 1) for a share p."""
    share = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(np.mean(2 * share / (num_classes * share + 1)))
