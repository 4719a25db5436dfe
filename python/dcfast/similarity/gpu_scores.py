"""Exact scores of pairs on a device: float64 sums in one fixed order, rounded once to float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcfast.similarity.operands import Metric

if TYPE_CHECKING:
    from dcfast.similarity.gpu_screen import Screen

LANES = 16
"""Partial sums: number i of a row goes to lane i % 16, in order; then lanes are added in halves."""
_BYTES = 1 << 28  # of float64 products at a time


def lane_sums(terms: Tensor) -> Tensor:
    """(n,) float64 sums of (n, d) float64 terms, in the fixed order."""
    n, width = terms.shape
    lanes = torch.zeros(n, LANES, dtype=torch.float64, device=terms.device)
    whole = width - width % LANES
    for begin in range(0, whole, LANES):
        lanes += terms[:, begin : begin + LANES]
    if whole < width:
        lanes[:, : width - whole] += terms[:, whole:]
    size = LANES
    while size > 1:
        size //= 2
        lanes = lanes[:, :size] + lanes[:, size : 2 * size]
    return lanes[:, 0]


def pair_sums(x: Tensor, y: Tensor, rows: Tensor, cols: Tensor, squared: bool) -> Tensor:
    """(c,) float64 sums of x[rows] * y[cols], or of their squared differences.   Memory: 0.8 GB beside the result."""
    out = torch.empty(len(rows), dtype=torch.float64, device=x.device)
    step = max(1, _BYTES // (8 * x.shape[1]))
    for begin in range(0, len(rows), step):
        part = slice(begin, begin + step)
        a, b = x[rows[part]].double(), y[cols[part]].double()
        out[part] = lane_sums((a - b).square_() if squared else a * b)
    return out


def pair_scores(screen: Screen, x: Tensor, y: Tensor, rows: Tensor, cols: Tensor, metric: Metric) -> Tensor:
    """(c,) float32 scores of x[rows] and y[cols], int64 indices of equal length."""
    scores = screen.pair_sums(x, y, rows, cols, metric == "l2")
    if metric == "cos":
        norms = screen.pair_sums(x, x, rows, rows, False).sqrt_()
        scores /= norms * screen.pair_sums(y, y, cols, cols, False).sqrt_()
    return scores.float()
