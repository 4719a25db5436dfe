"""Statistics of logits too large for a common shift, or for float32: with a shift for each row and for each column.

Only features that are not normalised, or a large scale, lead here, and that only where the flag is set. Logits of
thousands in float32 are off by what exponentials feel: what features share is taken off before (``centred``), which
leaves them as far off as two cross entropies' at most, but for luck. What is beyond float32, and small blocks, are
worked on in float64.
Shifts are kept as they are and not inside of a logarithm: far from 0 it has no digits left for sums.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from dcfast.loss.backend import BASE, INVERSE, NLL, SHARE
from dcfast.loss.torch_backend import tiles
from dcfast.loss.torch_backend.centred import LOG2_E, centred, positives_of

if TYPE_CHECKING:
    from torch import Tensor

    from dcfast.loss.backend import ClipStats, Side
    from dcfast.loss.torch_backend.centred import Centred


def clip_online(
    image: Tensor, text: Tensor, scale: Tensor, flag: Tensor, first: int = 0, kept: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    num_rows, num_cols = image.shape[0], text.shape[0]
    by_row = _nothing(num_rows, text)
    by_col = _nothing(num_cols, text)
    diag = text.new_full((num_rows,), -math.inf, dtype=torch.float64)
    if not int(flag):
        return by_row, by_col, diag
    # of a whole batch alone: blocks of ranks would round in forward what the gradient rounds in another way
    without_mean = None if kept is None else centred(image, text, scale)
    if without_mean is not None:
        own, logits = positives_of(image, text, scale, first)
        diag[own] = logits
        _centred_sums(without_mean, first, by_row, by_col, kept)
        return by_row, by_col, diag
    text = tiles.widen(text, torch.float64)
    space = tiles.Workspace(text, num_rows, num_cols, 1)
    for rows in space.rows:
        part = tiles.widen(image[rows], torch.float64) * scale
        for cols, (z,), _ in space.tiles(rows):
            torch.mm(part, text[cols].t(), out=z)
            tiles.take_positives(z, first + rows.start - cols.start, diag[rows])
            by_row[:, rows] = _merged(by_row[:, rows], _from_largest(z, 1))
            by_col[:, cols] = _merged(by_col[:, cols], _from_largest(z, 0))
    return by_row, by_col, diag


def _centred_sums(features: Centred, first: int, by_row: Tensor, by_col: Tensor, kept: Tensor | None) -> None:
    """Into ``by_row`` and ``by_col``; ``kept`` gets the products of the first tiles."""
    space = tiles.Workspace(features.text, by_row.shape[1], by_col.shape[1], 2, kept)
    of_rows, of_cols = features.of_rows.float(), features.of_cols.float()
    for rows in space.rows:
        for cols, (z, exponents), _ in space.tiles(rows):
            tiles.multiply(features.image[rows], features.text[cols], z)
            z.diagonal(first + rows.start - cols.start).fill_(-math.inf)
            torch.add(z, of_cols[cols], out=exponents)
            by_row[:, rows] = _merged(by_row[:, rows], _from_largest_of_2(exponents, 1))
            torch.add(z, of_rows[rows, None], out=exponents)
            by_col[:, cols] = _merged(by_col[:, cols], _from_largest_of_2(exponents, 0))
    by_row[0] += (features.of_rows + features.constant) / LOG2_E
    by_col[0] += (features.of_cols + features.constant) / LOG2_E


def _from_largest_of_2(z: Tensor, dim: int) -> Tensor:
    """``_from_largest`` of exponents of 2, float32, which it overwrites."""
    top = z.amax(dim, keepdim=True)
    total = z.sub_(torch.where(top == -math.inf, 0, top)).exp2_().sum(dim)
    return torch.stack([top.squeeze(dim).double() / LOG2_E, total.double()])


def _nothing(count: int, like: Tensor) -> Tensor:
    """(2, count): no exponentials yet."""
    out = like.new_zeros(2, count, dtype=torch.float64)
    out[0] = -math.inf
    return out


def _from_largest(z: Tensor, dim: int) -> Tensor:
    """(2, n): the largest along ``dim`` and the sum of the exponentials relative to it."""
    top = z.amax(dim, keepdim=True)
    total = (z - torch.where(top == -math.inf, 0, top)).exp_().sum(dim)
    return torch.stack([top.squeeze(dim), total])


def _merged(a: Tensor, b: Tensor) -> Tensor:
    top = torch.maximum(a[0], b[0])
    return torch.stack([top, clip_relative(a, top) + clip_relative(b, top)])


def clip_relative(sums: Tensor, top: Tensor) -> Tensor:
    return sums[1] * (sums[0] - torch.where(top == -math.inf, 0, top)).exp()


def clip_restate(stats: ClipStats, rows: Side, cols: Side) -> None:
    if int(stats.flag):
        _restate(stats.rows, *rows)
        _restate(stats.cols, *cols)


def _restate(stats: Tensor, off: Tensor, diag: Tensor) -> None:
    top = torch.maximum(off[0], diag)
    rest, positive = clip_relative(off, top), (diag - torch.where(top == -math.inf, 0, top)).exp()
    total = rest + positive
    odds = clip_relative(off, diag)
    stats[INVERSE] = total.reciprocal()
    stats[BASE] = top
    stats[SHARE] = rest / total
    # a positive of -inf makes the loss infinite or NaN, never 0
    stats[NLL] = torch.where((odds <= 0.5) & (diag > -math.inf), odds.log1p(), total.log() + (top - diag))
