"""Exact sums of pairs on a device, float64 in one fixed order, and half precision copies, by torch alone."""

from __future__ import annotations

import torch
from torch import Tensor

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


def halved(rows: Tensor, factor: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Writes rows times factor, rounded, to the first columns of ``out``; what is beyond its range becomes 0.

    Args:
        rows: (n, d).   factor: (n,) float64.   out: (n, at least d) of half precision.
    Returns:
        (n,) float64 squared norms of what was written, and of what rounding took off.
    """
    norms, errors = torch.empty(2, len(rows), dtype=torch.float64, device=rows.device)
    step = max(1, _BYTES // (8 * rows.shape[1]))
    for begin in range(0, len(rows), step):
        part = slice(begin, begin + step)
        wide = rows[part].double() * factor[part, None]
        half = wide.to(out.dtype)
        half = torch.where(torch.isfinite(half), half, 0)
        out[part, : rows.shape[1]] = half
        kept = half.double()
        norms[part] = kept.square().sum(dim=1)
        errors[part] = (wide - kept).square_().sum(dim=1)
    return norms, errors
