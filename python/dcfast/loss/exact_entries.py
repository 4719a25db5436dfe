"""Entries of a strip that carry the loss, multiplied again: what makes the error of a nearly fitted batch.

A logit of size z multiplied in float32 errs by about 1e-7 |z|, and by as much errs its exponential, relatively. Over
many entries that averages out. In a nearly fitted batch at a large scale a handful of entries carries the loss and most
of the gradient, and nothing averages out. With w_ij = P_ij + Q_ij the entries whose weight is above
t = 2 _SHARE sum(S^2) / sum(S), S the shares 1 - P_ii, are taken out of the strip and multiplied with sums in float64.
What is left holds at most sum(w t) of the squared norm of the gradient, which is sum((2 S)^2) at least: it errs by
sqrt(_SHARE) of the error of one entry or less.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

_SHARE = 1 / 16
# Positives are multiplied exactly where at most so many equal rivals are: 1 / (_RIVALS + 1) is above any threshold, so
# that all of these are exact too. Where a positive has more, it and they err alike, which cancels.
RIVALS = 1 / (2 * _SHARE) - 2
# below this logit the error of an entry is too small to matter
_LEAST_LOGIT = 10.0
_MOST = 4096
_ROWS = 64
_DOTS = 256


class Shares(NamedTuple):
    """sum(S) and sum(S^2) of rows and columns."""

    first: float
    second: float

    def plus(self, shares: Tensor) -> Shares:
        return Shares(self.first + float(shares.sum()), self.second + float(shares.square().sum()))

    @property
    def threshold(self) -> float:
        return 2 * _SHARE * self.second / self.first if self.second > 0 else math.inf


def dots(a: Tensor, b: Tensor) -> Tensor:
    """(n,) float64 dot products of the rows of two (n, D) tensors: products rounded once, sums in float64."""
    return (a * b).sum(1, dtype=torch.float64)


def worth_a_look(largest: float, away: float) -> bool:
    """Whether a row whose exponentials, shifted by ``away``, add up to ``largest`` may hold an entry that matters."""
    return largest > 0 and math.log(largest) + away > _LEAST_LOGIT if math.isfinite(largest) else False


def find(e: Tensor, off: Tensor, row_inverse: Tensor, col_inverse: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Rows and columns of the entries of a strip e whose weight is above the threshold, at most _MOST of them.

    Where there are more, the threshold is doubled until they fit: equal entries stay or go together. ``off``: (M,) sums
    of the rows; the inverses: (M,) and (N,) float64 factors that make weights of exponentials.
    """
    largest = col_inverse.max()
    # no entry is larger than the sum of its row: rows with small sums need no look
    top = off if int((off * (row_inverse + largest) > threshold).sum()) <= _ROWS else e.amax(1).double()
    while True:
        least = threshold / (row_inverse + largest)
        found = _above(e, (top > least).nonzero().flatten(), least, row_inverse, col_inverse, threshold)
        if found is not None:
            return found[0], found[1]
        threshold *= 2


def _above(
    e: Tensor, rows: Tensor, least: Tensor, row_inverse: Tensor, col_inverse: Tensor, threshold: float
) -> Tensor | None:
    """(2, n) the entries of some rows above the threshold; None where they, or those worth a look, are too many."""
    found, looked_at = [rows.new_empty(2, 0)], 0
    for part in torch.split(rows, _ROWS):
        entries = e[part]
        above = entries > least[part, None].to(e.dtype)
        looked_at += int(above.sum())
        if looked_at > 16 * _MOST:
            return None
        i, j = above.nonzero(as_tuple=True)
        heavy = entries[i, j].double() * (row_inverse[part[i]] + col_inverse[j]) > threshold
        found.append(torch.stack([part[i[heavy]], j[heavy]]))
    out = torch.cat(found, 1)
    return out if out.shape[1] <= _MOST else None


def exponentials(part: Tensor, text: Tensor, i: Tensor, j: Tensor, scale: float, away: float) -> Tensor:
    """(n,) float64: exp(scale <part_i, text_j> - away)."""
    pieces = zip(torch.split(i, _DOTS), torch.split(j, _DOTS), strict=True)
    return torch.cat([dots(part[a], text[b]) for a, b in pieces]).mul_(scale).sub_(away).exp_()
