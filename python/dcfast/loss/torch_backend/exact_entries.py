"""Entries of a strip that carry the loss, multiplied again: what makes the error of a nearly fitted batch.

A logit of size z multiplied in float32 errs by about 1e-7 |z|, and by as much errs its exponential, relatively. Over
many entries that averages out. In a nearly fitted batch at a large scale a handful of entries carries the loss and most
of the gradient, and nothing averages out. With w_ij = P_ij + Q_ij the entries whose weight is above
t = 2 _SHARE sum(S^2) / sum(S), S the shares 1 - P_ii, are taken out of the strip and multiplied with sums in float64.
What is left holds at most sum(w t) of the squared norm of the gradient, which is sum((2 S)^2) at least: it errs by
sqrt(_SHARE) of the error of one entry or less. Where means of features are taken off, errors of the sums of rows and of
columns are multiplied with these means, which are longer than what is left of features: _CENTRED takes _SHARE's place.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

_SHARE, _CENTRED = 1 / 16, 1 / 256
# Positives are multiplied exactly where at most so many equal rivals are: 1 / (_RIVALS + 1) is above any threshold, so
# that all of these are exact too. Where a positive has more, it and they err alike, which cancels.
RIVALS = 1 / (2 * _SHARE) - 2
# below this logit the error of an entry is too small to matter
_LEAST_LOGIT = 10.0
_MOST = 4096
_LINES = 64
_DOTS = 256
_ROWS = 1024


class Shares(NamedTuple):
    """sum(S) and sum(S^2) of rows and columns."""

    first: float
    second: float

    def plus(self, shares: Tensor) -> Shares:
        return Shares(self.first + float(shares.sum()), self.second + float(shares.square().sum()))

    def threshold(self, *, centred: bool) -> float:
        """The least weight of an entry to be multiplied again."""
        return 2 * (_CENTRED if centred else _SHARE) * self.second / self.first if self.second > 0 else math.inf


def dots(a: Tensor, b: Tensor, *, centred: bool = False) -> Tensor:
    """(n,) float64 dot products of the rows of two (n, D) tensors: products rounded once, sums in float64.

    ``centred``: products in float64 too, for dot products of which most will be taken off.
    """
    pieces = zip(torch.split(a, _ROWS), torch.split(b, _ROWS), strict=True)
    out = torch.cat([((x.double() if centred else x) * y).sum(1, dtype=torch.float64) for x, y in pieces])
    if a.dtype == torch.float32 and not centred and not bool(out.isfinite().all()):  # products beyond float32
        return dots(a, b, centred=True)
    return out


def worth_a_look(largest: float, away: float) -> bool:
    """Whether a row whose exponentials, shifted by ``away``, add up to ``largest`` may hold an entry that matters."""
    return largest > 0 and math.log(largest) + away > _LEAST_LOGIT if math.isfinite(largest) else False


class Side(NamedTuple):
    """Of the rows, or of the columns, of a strip: 1 - P_ii, and what makes P of an exponential; float64."""

    share: Tensor
    inverse: Tensor


def find(e: Tensor, rows: Side, cols: Side, threshold: float) -> tuple[Tensor, Tensor]:
    """Rows and columns of the entries of a strip e whose weight is above the threshold, at most _MOST of them.

    Where there are more, the threshold is doubled until they fit: equal entries stay or go together.
    """
    while True:
        found = _search(e, rows, cols, threshold)
        if found is not None:
            return found[0], found[1]
        threshold *= 2


def _search(e: Tensor, rows: Side, cols: Side, threshold: float) -> Tensor | None:
    """(2, n) the entries above the threshold; None where they, or those worth a look, are too many.

    Of an entry above it P_ij or Q_ij is above half of it, and no P_ij is larger than the share of its row: most rows
    and columns need no look.
    """
    half = threshold / 2
    found, looked_at = [], 0
    for dim, side in enumerate((rows, cols)):
        for part in torch.split((side.share > half).nonzero().flatten(), _LINES):
            lines = e.index_select(dim, part)
            least = (half / side.inverse[part]).to(e.dtype)
            above = lines > (least[:, None] if dim == 0 else least)
            looked_at += int(above.sum())
            if looked_at > 16 * _MOST:
                return None
            i, j = above.nonzero(as_tuple=True)
            x = lines[i, j].double()
            i, j = (part[i], j) if dim == 0 else (i, part[j])
            p, q = x * rows.inverse[i], x * cols.inverse[j]
            keep = (p + q > threshold) & ((p > half) if dim == 0 else (p <= half))
            found.append(torch.stack([i[keep], j[keep]]))
    out = torch.cat(found, 1) if found else torch.empty(2, 0, dtype=torch.int64, device=e.device)
    return out if out.shape[1] <= _MOST else None


def exponentials(
    part: Tensor, text: Tensor, i: Tensor, j: Tensor, scale: float, away: float, *, centred: bool = False
) -> Tensor:
    """(n,) float64: exp(scale <part_i, text_j> - away); ``centred``: as in ``dots``."""
    pieces = zip(torch.split(i, _DOTS), torch.split(j, _DOTS), strict=True)
    return torch.cat([dots(part[a], text[b], centred=centred) for a, b in pieces]).mul_(scale).sub_(away).exp_()
