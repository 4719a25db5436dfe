"""Rows drawn by their scores, some of them many times: soft cap and hard cap sampling.

The chance of a row is in proportion to exp(score). Under a soft cap rounds of ``draw`` rows are drawn, each row at most
once a round, and the scores of the drawn sink by the penalty; under a hard cap rows are drawn one by one, none more
often than the cap. Source: FLYT (arXiv 2503.08805), docs/filters.md "Sampling".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dcfast._core import filters as core_filters
from dcfast.filters.rules import MAX_SEED
from dcfast.filters.score_sources import ScoreSource
from dcfast.process.arguments import integer

DRAW = 100_000
"""Rows of a round, as in FLYT."""
MOST_PENALTY = 64.0
"""Of a soft cap: beyond, a row that was drawn once would never be drawn again; that is ``hard_cap=1``."""
MOST_COPIES = (1 << 32) - 1
MOST_SPREAD = 45_000
"""Of the highest score above the lowest."""
MOST_MEAN_COPIES = 10_000
"""Of a row, the mean over all, under a soft cap."""


@dataclass(frozen=True)
class Sampling:
    """What ``sample(...)`` asks for.

    Attributes:
        source: of the scores.   temperature: they are divided by it.
        total: copies, of all rows together.
        soft_cap: what a copy takes off a score, or None.   hard_cap: most copies of a row, or None.
        draw: rows of a round of the soft cap.
    """

    source: ScoreSource
    total: int
    soft_cap: float | None = None
    hard_cap: int | None = None
    seed: int = 0
    draw: int = DRAW
    temperature: float = 1.0

    @property
    def text(self) -> str:
        """As it stands in an expression, canonical."""
        cap = f"soft_cap={self.soft_cap!r}" if self.hard_cap is None else f"hard_cap={self.hard_cap}"
        draw = "" if self.draw == DRAW else f", draw={self.draw}"
        heat = "" if self.temperature == 1.0 else f", temperature={self.temperature!r}"
        return f"sample({self.source.key}, {cap}, total={self.total}, seed={self.seed}{draw}{heat})"


def draw_copies(
    scores: npt.ArrayLike,
    total: int,
    *,
    soft_cap: float | None = None,
    hard_cap: int | None = None,
    draw: int = DRAW,
    seed: int = 0,
) -> npt.NDArray[np.uint32]:
    """How often each row is drawn by its score.

    Args:
        scores: (n,) floats, finite, within 45,000 of each other: logits, the chance of a row is as exp(score).
        total: copies, of all rows together.
        soft_cap: above 0 and up to 64: what each copy takes off the score of its row.   hard_cap: most copies of a row.
            One of the two.
        draw: rows of a round of the soft cap, each at most once; at most n.
    Returns:
        (n,) uint32 that sum to ``total``; a function of the arguments alone, the same on every machine. In another
        order of the rows other rows are drawn, with the same chances.
    Raises:
        TypeError, ValueError: an argument is of another type, or out of its range; total is above n x hard_cap (or n x
        10,000), draw above n.
    Memory: 28 bytes a row.   Cost: O(n + total), by one thread; 0.3 us a copy of a million rows, about 1 us of
    ten times as many, which no cache holds. Under a soft cap also O(rounds x (highest - lowest score) / ln 2), with
    total / draw rounds: a small draw with scores thousands apart costs more by this than by its copies.
    Source: csrc/core/filters/score_sampling.hpp.
    Example: ``draw_copies(scores, 100, hard_cap=20).sum() == 100``
    """
    if (soft_cap is None) == (hard_cap is None):
        got = "neither" if soft_cap is None else "both"
        raise ValueError(f"draw_copies: give soft_cap= or hard_cap=, one of them; got {got}")
    values = np.asarray(scores)
    if values.dtype.kind != "f" or values.ndim != 1:
        raise TypeError(f"scores must be a 1-D array of floats; got {values.dtype} of shape {values.shape}")
    total, draw, seed = integer(total, "total"), integer(draw, "draw"), integer(seed, "seed")
    if soft_cap is not None and not 0.0 < soft_cap <= MOST_PENALTY:
        raise ValueError(f"soft_cap must be above 0 and at most {MOST_PENALTY:g}; got {soft_cap!r}: give 0.15")
    most = 0 if hard_cap is None else integer(hard_cap, "hard_cap")
    for name, value, low, high in (
        ("total", total, 1, (1 << 63) - 1),
        ("draw", draw, 1, (1 << 63) - 1),
        ("seed", seed, 0, MAX_SEED),
        ("hard_cap", most, 0 if hard_cap is None else 1, MOST_COPIES),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} must be {low} to {high:,}; got {value}: give another")
    return core_filters.draw_copies(
        np.require(values, np.float64, ["C", "A"]),
        total,
        penalty=float(soft_cap or 0.0),
        most_copies=most,
        draw=draw,
        seed=seed,
    )
