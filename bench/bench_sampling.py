"""Copies drawn by score: soft cap and hard cap, beside the published loops as NumPy runs them.

Answers are compared by their distribution: the mean copies of each twentieth of the rows by score.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.bars import Value
from bench.harness import Absent, Side, WrongAnswerError

Copies = npt.NDArray[np.integer[Any]]
PENALTY, MOST, DRAW = 0.15, 15, 100_000
BINS = 20


def ours(scores: npt.NDArray[np.float64], total: int, cap: dict[str, Any]) -> Copies:
    from dcfast.filters import draw_copies

    return draw_copies(scores, total, seed=1, **cap)


def soft_loop(scores: npt.NDArray[np.float64], total: int) -> Copies:
    """The published algorithm: a softmax over all rows and a draw without replacement, round after round."""
    rng, copies, now = np.random.default_rng(2), np.zeros(len(scores), np.int64), scores.copy()
    while total:
        chance = np.exp(now - now.max())
        drawn = rng.choice(len(scores), min(DRAW, total), replace=False, p=chance / chance.sum())
        now[drawn] -= PENALTY
        copies[drawn] += 1
        total -= len(drawn)
    return copies


def hard_loop(scores: npt.NDArray[np.float64], total: int) -> Copies:
    """The published algorithm, a batch at a time; what is drawn beyond the cap is drawn again."""
    rng, copies = np.random.default_rng(2), np.zeros(len(scores), np.int64)
    weights = np.exp(scores - scores.max())
    while left := total - int(copies.sum()):
        chance = np.where(copies < MOST, weights, 0)
        drawn = rng.choice(len(scores), min(DRAW, left), replace=True, p=chance / chance.sum())
        copies = np.minimum(copies + np.bincount(drawn, minlength=len(scores)), MOST)
    return copies


def by_score(copies: Copies, order: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Mean copies of each twentieth of the rows, lowest scores first."""
    return np.array([float(copies[rows].mean()) for rows in np.array_split(order, BINS)])


def time_sampling(bench: harness.Bench, rows: int, total: int, *, peer: bool) -> None:
    scores = np.random.default_rng(1).normal(0.0, 2.0, rows)
    order = np.argsort(scores, kind="stable")
    work: tuple[tuple[str, dict[str, Any], Any], ...] = (
        ("sample_soft_cap", {"soft_cap": PENALTY, "draw": DRAW}, soft_loop),
        ("sample_hard_cap", {"hard_cap": MOST}, hard_loop),
    )
    for op, cap, loop in work:
        expected = by_score(ours(scores, total, cap), order)

        def check(provider: str, expected: npt.NDArray[np.float64], got: Copies) -> None:
            means = by_score(got, order)
            if int(got.sum()) != total or not np.allclose(means, expected, rtol=0.03, atol=0.03):
                raise WrongAnswerError(f"{provider}: {int(got.sum())} copies, by score {means}; expected {expected}")

        sides: list[Side | Absent] = [
            Side("dcfast", partial(ours, scores, total, cap), partial(check, "dcfast", expected), once=not peer)
        ]
        if peer:
            name = "published loop, NumPy"
            sides.append(Side(name, partial(loop, scores, total), partial(check, name, expected), once=True))
        shape = f"{total:,} copies of {rows:,} rows"
        bench.compare(op, sides, shape=shape, dtype="float64", size_bytes=scores.nbytes, touched=[scores])


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_sampling", argv, __doc__)
    bench = harness.Bench("bench_sampling", options)
    if options.quick:
        time_sampling(bench, 200_000, 1_000_000, peer=True)
    else:
        time_sampling(bench, 1_280_000, 12_800_000, peer=True)
        time_sampling(bench, 12_800_000, 128_000_000, peer=False)
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
