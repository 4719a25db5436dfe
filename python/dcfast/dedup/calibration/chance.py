"""How often unrelated pictures come near each other by chance: measured in a sample, extrapolated to a pool.

The distances of all pairs of a sample are counted. Below its bulk the logarithm of the counts is fitted by a parabola,
with the counts as weights, where a distance has at least ``LEAST_COUNT`` pairs; that is the measured tail, not that of
uniform bits. What lies nearer than any such pair is extrapolated twice: by the parabola (``expected``), and by the
straight line that goes on from its last measured distance (``at_most``). The line is an upper bound if the logarithm of
the true counts goes on bending downwards, as it does for a sum of many weakly dependent bits. It is no bound for
pictures that are alike for a reason: series of one camera, pages of text, one product. Those a sample shows as pairs
nearer than the parabola explains.

How much the sample decides is measured by leaving a tenth of its pictures out at a time (jackknife); ``at_most`` is two
standard errors above.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.dedup.calibration.methods import Coded, Method, blocks, distances
from dcfast.storage.records import Record

LEAST_COUNT = 30
"""Pairs at a distance that enters the fit: fewer say little, and may be copies."""
LARGEST_SHARE = 0.05
"""The fit ends where this share of the pairs lies nearer: what is farther is no tail."""
LEAST_DISTANCES = 5
"""Distances that a fit needs."""
GROUPS = 10
Counts = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]


class Chance(Record):
    """Pairs within ``threshold``: ``measured`` in the sample, and between a pool and evaluation sets.

    ``expected`` and ``at_most`` are None where the sample is too small for a fit.
    """

    threshold: int
    measured: int
    expected: float | None
    at_most: float | None


class Tail(Record):
    """The fit: from which distance to which, of how many pairs; ``nearer`` pairs lie below, ``explained`` by it."""

    first: int
    last: int
    pairs: int
    nearer: int
    explained: float


class _Fit(NamedTuple):
    first: int  # distances
    last: int
    curve: npt.NDArray[np.float64]  # of the logarithm of the counts, highest power first
    slope: float  # at ``first``

    def nearer(self, threshold: int, step: int, *, straight: bool) -> float:
        """Pairs that the fit puts at 0 to ``threshold``, below ``first``."""
        x = np.arange(0, min(threshold, self.first - step) + 1, step, dtype=np.float64)
        line = np.polyval(self.curve, self.first) + self.slope * (x - self.first)
        return float(np.exp(line if straight else np.minimum(line, np.polyval(self.curve, x))).sum())


def group_counts(method: Method, coded: Coded, alike: Pairs) -> Counts:
    """(GROUPS, GROUPS, most + 1): pairs by distance, of pictures of two groups; each pair once, in the upper triangle.

    Args:
        alike: pairs i < j that are not unrelated, (n, 2); they are not counted.
    Memory: 1,024 distances a picture. Cost: a matrix product, of n^2 by the method's width, for each way of turning.
    """
    groups = np.minimum(np.arange(len(coded.own)) * GROUPS // max(1, len(coded.own)), GROUPS - 1)
    counts = np.zeros((GROUPS, GROUPS, method.most + 1), np.int64)
    for rows in blocks(len(coded.own)):
        later = np.arange(len(coded.own))[None] > np.arange(rows.start, rows.stop)[:, None]
        inside = alike[(alike[:, 0] >= rows.start) & (alike[:, 0] < rows.stop)]
        later[inside[:, 0] - rows.start, inside[:, 1]] = False
        later &= coded.usable[None] & coded.usable[rows, None]
        for way in range(method.comparisons):
            found = distances(method, coded.turned[rows, way], coded.own)
            for g in np.unique(groups[rows]):
                mine = groups[rows] == g
                for h in range(int(g), GROUPS):
                    columns = groups == h
                    chosen = found[np.ix_(mine, columns)][later[np.ix_(mine, columns)]]
                    counts[g, h] += np.bincount(chosen, minlength=method.most + 1)
    return counts


def _fit(method: Method, counts: Counts) -> _Fit | None:
    """None where fewer than LEAST_DISTANCES distances are common enough."""
    merged = counts[:: method.step].copy()
    if method.step == 2:
        odd = counts[1::2]
        merged[: len(odd)] += odd
    below = np.cumsum(merged)
    last = int(np.searchsorted(below, LARGEST_SHARE * below[-1]))
    rare = np.flatnonzero(merged[: last + 1] < LEAST_COUNT)
    first = int(rare[-1]) + 1 if len(rare) else 0
    if last - first + 1 < LEAST_DISTANCES:
        return None
    x = np.arange(first, last + 1) * float(method.step)
    logarithm, weight = np.log(merged[first : last + 1]), np.sqrt(merged[first : last + 1])
    curve = np.polyfit(x, logarithm, 2, w=weight)
    if curve[0] > 0:  # it bends the wrong way: nothing but a line is to be seen
        curve = np.concatenate([[0.0], np.polyfit(x, logarithm, 1, w=weight)])
    return _Fit(
        first * method.step, last * method.step, curve, float(np.polyval(np.polyder(curve), first * method.step))
    )


def _within(method: Method, counts: Counts, fit: _Fit, threshold: int, *, straight: bool) -> float:
    """Pairs within a threshold: as measured where the fit begins below it, the fit for what is nearer."""
    near = fit.nearer(threshold, method.step, straight=straight)
    return near + float(counts[fit.first : threshold + 1].sum())


def chances(method: Method, by_group: Counts, at: float, thresholds: Sequence[int]) -> tuple[Tail | None, list[Chance]]:
    """The fit of the tail, and how many chance hits there are by threshold.

    Args:
        by_group: of ``group_counts``.
        at: pairs of pictures that are compared, of a pool and evaluation sets.
    """
    counts = by_group.sum(axis=(0, 1))
    fit = _fit(method, counts)
    total = int(counts.sum())
    measured = np.cumsum(counts)
    if fit is None or fit.slope <= 0:
        return None, [Chance(t, int(measured[t]), None, None) for t in thresholds]
    scale = at * method.comparisons / total
    result = []
    for threshold in thresholds:
        expected = scale * _within(method, counts, fit, threshold, straight=False)
        at_most = scale * _within(method, counts, fit, threshold, straight=True)
        deviation = _jackknife(method, by_group, threshold)
        bound = None if deviation is None else float(at_most * 10 ** (2 * deviation))
        result.append(Chance(threshold, int(measured[threshold]), expected, bound))
    nearer = int(counts[: fit.first].sum())
    explained = fit.nearer(fit.first, method.step, straight=False)
    pairs = int(counts[fit.first : fit.last + method.step].sum())
    return Tail(fit.first, fit.last, pairs, nearer, explained), result


def _jackknife(method: Method, by_group: Counts, threshold: int) -> float | None:
    """The standard error of the decimal logarithm of ``at_most``; None where a part of the sample is too small."""
    values = []
    for left_out in range(GROUPS):
        kept = np.delete(np.delete(by_group, left_out, 0), left_out, 1).sum(axis=(0, 1))
        fit = _fit(method, kept)
        if fit is None or fit.slope <= 0:
            return None
        values.append(np.log10(max(_within(method, kept, fit, threshold, straight=True) / kept.sum(), 1e-300)))
    spread = np.array(values) - np.mean(values)
    return float(np.sqrt((GROUPS - 1) / GROUPS * (spread**2).sum()))
