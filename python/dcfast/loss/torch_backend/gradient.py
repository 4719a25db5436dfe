"""The CLIP loss's gradient over tiles of the matrix of logits, in torch.

Cost, in products of M x N x D: three, two where one side needs no gradient. Memory: two tiles of 2 MiB beside results,
three where the sums of dot products are wanted. Where the flag is set, and for small blocks, all is float64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from dcfast.loss.backend import BASE, BOTH, INVERSE, NLL, SHARE, ClipStats, Products, compute_dtype
from dcfast.loss.torch_backend.centred import LOG2_E, centred
from dcfast.loss.torch_backend.forward import exponentials, tile_dtype
from dcfast.loss.torch_backend.tiles import Workspace, add_product, multiply, positives, widen

if TYPE_CHECKING:
    from torch import Tensor

    from dcfast.loss.backend import ProductWeights
    from dcfast.loss.torch_backend.centred import Centred

_ROWS = 1024
# log2 of the unit at most, of it times a feature, and of it times a factor 1 / sum: beyond it sums overflow
_MOST_UNIT, _MOST_PRODUCT, _MOST_FACTOR = 80, 100, 124


def clip_products(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    stats: ClipStats,
    first: int = 0,
    *,
    weights: ProductWeights = (BOTH, BOTH),
    dots: bool = False,
    into_image: Tensor | None = None,
) -> Products:
    image_weights, text_weights = weights
    flagged = bool(int(stats.flag))
    whole = stats.kept is not None and stats.kept.numel() > 0  # as the forward pass chose: not ranks' blocks
    without_mean = centred(image, text, scale) if flagged and whole and not dots else None
    text = widen(text, torch.float64 if flagged and without_mean is None else tile_dtype(image, text))
    unit = 1.0 if text.dtype == torch.float64 else _unit(image, text, stats)
    image_sum = into_image
    if image_sum is None and image_weights is not None:
        image_sum = image.new_zeros(image.shape, dtype=compute_dtype(image.dtype))
    text_sum = None if text_weights is None else torch.zeros_like(text)
    dot_sums = torch.zeros(2, dtype=torch.float64, device=text.device)
    # where dot products are wanted, and in float64, what is kept does not serve
    kept = None if dots or (flagged and without_mean is None) else stats.kept
    space = Workspace(text, image.shape[0], text.shape[0], 2 if without_mean is None else 4, kept)
    gradient: _Gradient = _Gradient(stats, unit, float(scale))
    if without_mean is not None:
        gradient = _CentredGradient(stats, unit, float(scale), without_mean)
    for rows in space.rows:
        part = widen(image[rows], text.dtype)
        scaled, part_sum = gradient.scaled(part, rows, scale), torch.zeros_like(part)
        for cols, memory, known in space.tiles(rows):
            gradient.start(rows, cols, first, memory)
            if not known:
                dot_sums += gradient.fill(part, scaled, text[cols], dots=dots)
            if image_weights is not None:
                add_product(part_sum, gradient.weighted(*image_weights), text[cols])
            if text_sum is not None and text_weights is not None:
                grad = memory[1] if image_weights == text_weights else gradient.weighted(*text_weights)
                text_sum[cols].addmm_(grad.t(), part)
        if image_sum is not None and image_weights is not None:
            image_sum[rows] += part_sum.mul_(1 / unit)
    if text_sum is not None:
        text_sum = text_sum.mul_(1 / unit).to(compute_dtype(image.dtype))
    return Products(None if image_weights is None else image_sum, text_sum, dot_sums if dots else gradient.dots())


def _unit(image: Tensor, text: Tensor, stats: ClipStats) -> float:
    """A power of two that brings small softmaxes towards 1.

    Those of a fitted batch would be denormal numbers, which processors multiply a hundred times slower.
    """
    feature = max(abs(float(x)) for side in (image, text) for x in side.aminmax())
    factor = max(float(side[INVERSE].max()) for side in (stats.rows, stats.cols))
    if not math.isfinite(feature) or not math.isfinite(factor):
        return 1.0
    most = _MOST_UNIT, _MOST_PRODUCT - math.frexp(feature)[1], _MOST_FACTOR - math.frexp(factor)[1]
    return 2.0 ** max(0, min(most))


class _Gradient:
    """G of one tile at a time, from one exponential a logit (two where the flag is set)."""

    def __init__(self, stats: ClipStats, unit: float, scale: float) -> None:
        self._stats, self._unit, self._scale = stats, unit, scale
        # without the flag the base of all exponents is the shift
        self._flagged, self._shift = bool(int(stats.flag)), float(stats.rows[BASE, 0])

    def scaled(self, part: Tensor, rows: slice, scale: Tensor) -> Tensor:
        """Some rows of the images, ``part``, as ``fill`` multiplies them."""
        return part * scale

    def start(self, rows: slice, cols: slice, first: int, memory: list[Tensor]) -> None:
        """Takes up a tile, and memory for its exponentials and its gradient."""
        self._exponentials, self._grad = memory[:2]
        self._rows, self._cols = self._stats.rows[:, rows], self._stats.cols[:, cols]
        self._first = first + rows.start - cols.start
        self._positive_rows, self._positive_cols = positives(self._grad, self._first)

    def fill(self, part: Tensor, scaled: Tensor, text: Tensor, *, dots: bool) -> Tensor:
        """Makes the exponentials, 0 for positives; (2,) sums of (P - Id) d and (Q - Id) d, or zeros without ``dots``.

        They are sums of logits until they are divided by the scale: their products with exponentials cannot overflow.
        """
        z = multiply(scaled, text, self._exponentials)
        if dots and self._scale:
            self._grad.copy_(z)
        elif dots:
            multiply(part, text, self._grad)
        if not self._flagged:
            exponentials(z, self._shift)
        z.diagonal(self._first).fill_(-math.inf if self._flagged else 0)
        return self._dots() / (self._scale or 1) if dots else z.new_zeros(2, dtype=torch.float64)

    def _softmaxes(self, dim: int) -> Tensor:
        """Softmaxes along rows (1) or columns (0) but for the factors 1 / sum."""
        if not self._flagged:
            return self._exponentials
        return (self._exponentials - (self._rows[BASE, :, None] if dim == 1 else self._cols[BASE])).exp_()

    def _dots(self) -> Tensor:
        own, sums = self._grad.diagonal(self._first), []
        for dim, stats, place in ((1, self._rows, self._positive_rows), (0, self._cols, self._positive_cols)):
            terms = (self._softmaxes(dim) * self._grad).sum(dim)
            sums.append((terms * stats[INVERSE]).sum() - (stats[SHARE, place] * own).sum())
        return torch.stack(sums)

    def weighted(self, p: float, q: float) -> Tensor:
        """unit * (p (P - Id) + q (Q - Id)), valid until the next call."""
        p, q, grad = p * self._unit, q * self._unit, self._grad
        by_row, by_col = (p * self._rows[INVERSE, :, None]).to(grad.dtype), (q * self._cols[INVERSE]).to(grad.dtype)
        if self._flagged:
            torch.mul(self._softmaxes(1), by_row, out=grad)
            grad.addcmul_(self._softmaxes(0), by_col)
        else:
            torch.add(by_row, by_col, out=grad)
            grad.mul_(self._exponentials)
        self._put_shares(p, q)
        return grad

    def dots(self) -> Tensor | None:
        """The sums that ``fill`` gives, of all tiles, where they come with the gradient."""
        return None

    def _put_shares(self, p: float, q: float) -> None:
        shares = p * self._rows[SHARE, self._positive_rows] + q * self._cols[SHARE, self._positive_cols]
        self._grad.diagonal(self._first).copy_(-shares)


class _CentredGradient(_Gradient):
    """The same from products of features without their means: two exponentials a logit."""

    def __init__(self, stats: ClipStats, unit: float, scale: float, features: Centred) -> None:
        super().__init__(stats, unit, scale)
        self._features = features
        self._of_rows, self._of_cols = features.of_rows.float(), features.of_cols.float()
        self._row_base = (stats.rows[BASE] * LOG2_E - features.of_rows - features.constant).float()
        self._col_base = (stats.cols[BASE] * LOG2_E - features.of_cols - features.constant).float()
        self._sums = stats.rows.new_zeros(2)

    def scaled(self, part: Tensor, rows: slice, scale: Tensor) -> Tensor:
        return self._features.image[rows]

    def start(self, rows: slice, cols: slice, first: int, memory: list[Tensor]) -> None:
        super().start(rows, cols, first, memory)
        self._own, (self._terms, self._more) = (rows, cols), memory[2:]

    def fill(self, part: Tensor, scaled: Tensor, text: Tensor, *, dots: bool) -> Tensor:
        return super().fill(part, scaled, self._features.text[self._own[1]], dots=False)

    def weighted(self, p: float, q: float) -> Tensor:
        (rows, cols), z, grad = self._own, self._exponentials, self._grad
        p, q = p * self._unit, q * self._unit
        for dim, terms, by, base, weight in (
            (1, grad, self._of_cols[cols], self._row_base[rows, None], p * self._rows[INVERSE, :, None]),
            (0, self._terms, self._of_rows[rows, None], self._col_base[cols], q * self._cols[INVERSE]),
        ):
            exponents = torch.add(z, by, out=self._more).sub_(base)
            torch.exp2(exponents, out=terms).mul_(weight.to(grad.dtype))
            exponents.diagonal(self._first).fill_(0)
            self._sums[1 - dim] += torch.linalg.vecdot(terms, exponents).sum(dtype=torch.float64)
        grad.add_(self._terms)
        self._put_shares(p, q)
        return grad

    def dots(self) -> Tensor | None:
        """Exponents are relative to the largest, so little cancels. Of a part of a batch they are not those wanted."""
        sides = self._stats.rows, self._stats.cols
        own = torch.stack([(side[SHARE] * (-side[INVERSE].log() - side[NLL])).sum() for side in sides])
        return (self._sums / (self._unit * LOG2_E) - own) / self._scale


def finish(
    raw: Tensor, scale: Tensor, factor: Tensor, dtype: torch.dtype, *, dot_with: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    dot = None
    if dot_with is not None:
        parts = zip(torch.split(raw, _ROWS), torch.split(dot_with, _ROWS), strict=True)
        dots = [torch.linalg.vecdot(r, x.to(raw.dtype)).sum(dtype=torch.float64) for r, x in parts]
        dot = torch.stack(dots).sum().mul(factor).to(raw.dtype)
    return raw.mul_(scale * factor).to(dtype), dot
