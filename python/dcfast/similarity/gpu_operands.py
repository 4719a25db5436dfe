"""Half precision copies of both sides for screening, with bounds of what screening may be off by.

A score is screened as the dot product of half precision rows with float32 sums. The bound of a query row is measured,
not assumed: the norm of what rounding took off each row, beside the worst that float32 sums can lose. Candidates within
the bound are scored again, exactly.

Legend: x query, y row of the database; h, g their copies, of scale s and t (powers of two; for "cos" 2^7 over the
norm); a screened score S stands for <x, y> s t. For "l2" S stands for (<x, y> - |y|^2 / 2) s t: three more columns
of the copies carry |y|^2 / 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dcfast.similarity.gpu_screen import Screen
from dcfast.similarity.operands import Kind, Metric

DTYPES: dict[Kind, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}
DEPTH_ALIGN = 16
_TOP = 7  # the largest norm of a copy is 2^7: room for the squares in float16, and 2^21 below it
_TERMS = 3  # float16 numbers that together hold a float64 to 2^-33


@dataclass(frozen=True)
class Copy:
    """Half precision rows.

    Attributes:
        values: (n, width) rows, width a multiple of 16.
        scale: of all rows; 1 for "cos".
        norms: (n,) float64 of the copies' rows, without the columns of "l2".
        errors: (n,) float64, norms of what rounding took off.
        squares: (n,) float64 squared norms as given.
    """

    values: Tensor
    scale: float
    norms: Tensor
    errors: Tensor
    squares: Tensor


@dataclass(frozen=True)
class Columns:
    """A part of a database, ready to be screened: ``tops`` are the largest norm, error, half square and its error."""

    copy: Copy
    metric: Metric
    tops: tuple[float, float, float, float]


@dataclass(frozen=True)
class Queries:
    """Query rows, ready for one part of a database.

    Attributes:
        values: (n, width) half precision.
        bound: (n,) float64: a screened score is that near to the exact one, scaled.
        gain: S is the exact product times gain; for "l2" S = offset - distance gain.
        offset: (n,) float64.
    """

    values: Tensor
    bound: Tensor
    gain: float
    offset: Tensor
    metric: Metric

    def scaled(self, score: Tensor | float) -> Tensor:
        """(n,) float64: what an exact score is as a screened one."""
        if self.metric == "l2":
            return self.offset - torch.as_tensor(score, dtype=torch.float64, device=self.offset.device) * self.gain
        return torch.as_tensor(score, dtype=torch.float64, device=self.offset.device) * self.gain + self.offset


def rounded_down(values: Tensor) -> Tensor:
    """float32 no higher than the float64 values."""
    found = values.float()
    return torch.where(found.double() > values, torch.nextafter(found, torch.full_like(found, -math.inf)), found)


def valid_rows(rows: Tensor, metric: Metric) -> Tensor:
    """(n,) bool: finite, and for "cos" not zero."""
    usable = (
        torch.isfinite(rows).all(dim=1) if rows.dtype.is_floating_point else rows.new_ones(len(rows), dtype=torch.bool)
    )
    return usable & (rows != 0).any(dim=1) if metric == "cos" else usable


def screening_dtype(query: Kind, database: Kind) -> torch.dtype:
    """float16, which has three bits more, but for two sides of bfloat16."""
    return torch.bfloat16 if query == database == "bfloat16" else torch.float16


def _scale(squares: Tensor) -> float:
    top = float(squares.max()) if len(squares) else 0.0
    return 2.0 ** (_TOP - math.ceil(math.log2(top) / 2)) if top > 0 else 1.0


def _copied(rows: Tensor, metric: Metric, dtype: torch.dtype, screen: Screen, most: float = math.inf) -> Copy:
    n, width = rows.shape
    padded = -(-(width + _TERMS * (metric == "l2")) // DEPTH_ALIGN) * DEPTH_ALIGN
    every = torch.arange(n, device=rows.device)
    squares = screen.pair_sums(rows, rows, every, every, False)
    scale = 1.0 if metric == "cos" else min(_scale(squares), most)
    factor = 2.0**_TOP / squares.sqrt() if metric == "cos" else torch.full_like(squares, scale)
    values = torch.zeros(n, padded, dtype=dtype, device=rows.device)
    norms, errors = (found.sqrt_() for found in screen.halved(rows, factor, values))
    # float64 sums of so many terms are off by less than this
    return Copy(values, scale, norms * (1 + 1e-9), errors * (1 + 1e-9), squares)


def prepare_columns(rows: Tensor, metric: Metric, dtype: torch.dtype, screen: Screen) -> Columns:
    """A part of a database: valid (m, d) rows, m >= 1.   Memory: 2 bytes a number, with torch 0.5 GB for a while."""
    copy = _copied(rows, metric, dtype, screen)
    half_square = half_error = 0.0
    if metric == "l2":
        left = -0.5 * copy.squares * copy.scale**2
        half_square = float(left.abs().max())
        for term in range(_TERMS):
            value = left.to(dtype)
            copy.values[:, rows.shape[1] + term] = value
            left = left - value.double()
        half_error = float(left.abs().max())
    tops = float(copy.norms.max()), float(copy.errors.max()), half_square, half_error
    return Columns(copy, metric, tops)


def prepare_queries(rows: Tensor, columns: Columns, screen: Screen) -> Queries:
    """Valid (n, d) rows beside a part of a database.   Memory: as of ``prepare_columns``."""
    metric, dtype, (norm, error, half_square, half_error) = columns.metric, columns.copy.values.dtype, columns.tops
    copy = _copied(rows, metric, dtype, screen, columns.copy.scale if metric == "l2" else math.inf)
    width = copy.values.shape[1]
    lost = (width + 32) * 2.0**-23  # of a float32 sum, were every addition truncated
    own, off = copy.norms, copy.errors
    bound = off * (norm + error) + own * error + lost * own * norm
    gain, offset = 2.0 ** (2 * _TOP), torch.zeros_like(own)
    if metric == "cos":
        bound += 2.0**-23 * (own + off) * (norm + error)
    elif metric == "ip":
        gain = copy.scale * columns.copy.scale
        bound += 2.0**-23 * (own + off) * (norm + error)  # of the exact score, rounded to float32
    else:
        ratio = copy.scale / columns.copy.scale
        kept = torch.tensor(ratio, dtype=torch.float64).to(dtype)
        copy.values[:, rows.shape[1] : rows.shape[1] + _TERMS] = kept
        both = copy.scale * columns.copy.scale
        gain, offset = both / 2, copy.squares * (both / 2)
        bound += ratio * (half_error + lost * half_square) + abs(ratio - float(kept)) * half_square
        bound += 2.0**-23 * (copy.squares * both + 2 * ratio * half_square)
    return Queries(copy.values, bound, gain, offset, metric)
