"""The CLIP loss over strips of the matrix of logits, in torch: any device, float64, float32, bfloat16 and float16.

One exponential serves rows and columns: every logit is shifted by the same amount, as little as keeps the sums from
overflowing. Where a whole row or column vanishes by it, which only logits further apart than the exponent range (some
100 in float32, far beyond trained models) can bring about, log-sum-exps with a shift a row and a column take its
place. Half precision is computed in float32. The host reads scale, shift and flag: on a GPU it waits for them.

Cost, in products of M x N x D: one forward, three backward (two where one side needs no gradient). Memory: one strip
forward, two backward, each of 8 MiB or _LEAST_ROWS rows, whichever is more, beside results and float32 copies of text
features in half precision. The functions are those of ``dcfast.loss.backend.Backend``, which explains them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from dcfast.loss.backend import INVERSE, LSE2, NLL, SHARE, ClipStrip, ClipSums, Products

if TYPE_CHECKING:
    from torch import Tensor

    from dcfast.loss.backend import Needs, Weights

_STRIP_BYTES = 8 << 20
# Below this the products of a strip no longer run at full speed.
_LEAST_ROWS = 128
_DOT_ROWS = 1024
_LN2 = math.log(2.0)


def strip_rows(rows: int, columns: int, dtype: torch.dtype) -> int:
    """How many rows of the matrix of logits are worked on at a time."""
    return min(rows, max(_LEAST_ROWS, _STRIP_BYTES // (columns * wide(dtype).itemsize)))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The compute dtype: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widen(features: Tensor) -> Tensor:
    """Features in the compute dtype, contiguous; themselves where they are so already."""
    return features.to(wide(features.dtype)).contiguous()


def clip_norms(x: Tensor) -> Tensor:
    height = strip_rows(x.shape[0], x.shape[1], x.dtype)
    parts = (widen(x[start : start + height]) for start in range(0, x.shape[0], height))
    return torch.stack([torch.linalg.vector_norm(part, dim=1).max().square() for part in parts])


def clip_shift(image_norms: Tensor, text_norms: Tensor, scale: Tensor, terms: int) -> Tensor:
    # 1.001: what rounding may add to a dot product beyond Cauchy and Schwarz. A whole number is taken off without
    # rounding. A NaN or infinite norm makes the shift, and by it the loss, NaN or infinite.
    bound = scale.abs() * (image_norms.max() * text_norms.max()).sqrt() * 1.001
    return (bound - _exponent_room(image_norms.dtype, terms)).ceil().clamp_min(0)


def _exponent_room(dtype: torch.dtype, terms: int) -> float:
    # Leaves 2**24 below the largest number for sums of gradients, which are scaled up by as much; see _Gradient.
    return math.log(torch.finfo(dtype).max) - 24 * _LN2 - math.log(max(terms, 2))


def clip_sums(image: Tensor, text: Tensor, scale: Tensor, shift: Tensor, first: int = 0) -> ClipSums:
    text = widen(text)
    num_rows, num_cols = image.shape[0], text.shape[0]
    height, away = strip_rows(num_rows, num_cols, text.dtype), float(shift)
    row_off, col_off = text.new_empty(num_rows), text.new_zeros(num_cols)
    diag = text.new_full((num_rows,), -math.inf)
    space, partial = text.new_empty(height, num_cols), text.new_empty(num_cols)
    for start in range(0, num_rows, height):
        rows = slice(start, min(start + height, num_rows))
        z = torch.mm(widen(image[rows]) * scale, text.t(), out=space[: rows.stop - start])
        if away != 0:
            z.sub_(away)
        _take_positives(z, start + first, diag[rows])
        z.exp_()
        torch.sum(z, 1, out=row_off[rows])
        col_off += torch.sum(z, 0, out=partial)
    return ClipSums(row_off, col_off, diag)


def positive_rows(num_rows: int, num_cols: int, first: int) -> slice:
    """The rows of a block whose positive, column i + first, is in it."""
    begin = min(max(0, -first), num_rows)
    return slice(begin, max(begin, min(num_rows, num_cols - first)))


def _take_positives(z: Tensor, first: int, into: Tensor) -> None:
    """Moves the positives of a strip to ``into`` and leaves -inf in their place."""
    here = positive_rows(z.shape[0], z.shape[1], first)
    if here.stop > here.start:
        positives = z.diagonal(first)
        into[here] = positives
        positives.fill_(-math.inf)


def clip_stats(off: Tensor, diag: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    info = torch.finfo(off.dtype)
    # What vanishes (terms below the smallest normal number) is less than rounding for 2**13 terms a unit of rounding.
    floor = info.tiny / info.eps * 2**13
    positive = diag.exp()
    total = off + positive
    log_total = total.log()
    # by their exponents where the quotient of the sums has lost its digits
    nll = torch.where(positive < floor, log_total - diag, (off / positive).log1p())
    stats = torch.stack([total.reciprocal(), (log_total + shift) / _LN2, off / total, nll])
    return stats, (total < floor).any().to(torch.int32)[None]


def clip_online(
    image: Tensor, text: Tensor, scale: Tensor, flag: Tensor, first: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    num_rows, num_cols = image.shape[0], text.shape[0]
    dtype = wide(text.dtype)
    # far from 0 a logarithm in float32 is too coarse to tell sums apart
    row_lse = text.new_full((num_rows,), -math.inf, dtype=torch.float64)
    col_lse = text.new_full((num_cols,), -math.inf, dtype=torch.float64)
    diag = text.new_full((num_rows,), -math.inf, dtype=dtype)
    if not int(flag):
        return row_lse, col_lse, diag
    text = widen(text)
    height = strip_rows(num_rows, num_cols, dtype)
    space = text.new_empty(height, num_cols)
    for start in range(0, num_rows, height):
        rows = slice(start, min(start + height, num_rows))
        z = torch.mm(widen(image[rows]) * scale, text.t(), out=space[: rows.stop - start])
        _take_positives(z, start + first, diag[rows])
        row_lse[rows] = _log_sum_exp(z, 1)
        col_lse = torch.logaddexp(col_lse, _log_sum_exp(z, 0))
    return row_lse / _LN2, col_lse / _LN2, diag.double() / _LN2


def _log_sum_exp(z: Tensor, dim: int) -> Tensor:
    top = z.amax(dim, keepdim=True)
    top = torch.where(top == -math.inf, 0, top)
    return (z - top).exp_().sum(dim).double().log() + top.squeeze(dim)


def clip_restate(stats: Tensor, off_lse2: Tensor, diag_z2: Tensor, flag: Tensor) -> None:
    if not int(flag):
        return
    lse2 = torch.logaddexp2(off_lse2, diag_z2)
    odds = (off_lse2 - diag_z2).exp2()
    stats[LSE2] = lse2
    # what the rounded logarithm's exponential has to be multiplied by
    stats[INVERSE] = (_natural(stats) - lse2 * _LN2).exp()
    stats[SHARE] = (off_lse2 - lse2).exp2()
    stats[NLL] = torch.where(odds <= 0.5, odds.log1p(), (lse2 - diag_z2) * _LN2)


def _natural(stats: Tensor) -> Tensor:
    """The natural log-sum-exps, rounded, of statistics that clip_restate made."""
    return stats[LSE2] * _LN2


def clip_forward(image: Tensor, text: Tensor, scale: Tensor) -> ClipStrip:
    shift = clip_shift(clip_norms(image), clip_norms(text), scale, image.shape[0])
    sums = clip_sums(image, text, scale, shift)
    rows, row_flags = clip_stats(sums.row_off, sums.diag, shift)
    cols, col_flags = clip_stats(sums.col_off, sums.diag, shift)
    flag = torch.maximum(row_flags.max(), col_flags.max())
    if int(flag):
        row_lse2, col_lse2, diag_z2 = clip_online(image, text, scale, flag)
        clip_restate(rows, row_lse2, diag_z2, flag)
        clip_restate(cols, col_lse2, diag_z2, flag)
    return ClipStrip(rows, cols, shift, flag)


def clip_products(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    strip: ClipStrip,
    first: int = 0,
    *,
    image_weights: Weights = (1.0, 1.0),
    text_weights: Weights = (1.0, 1.0),
    needs: Needs = (True, True),
    dots: bool = False,
    into_image: Tensor | None = None,
) -> Products:
    text = widen(text)
    num_rows = image.shape[0]
    height = strip_rows(num_rows, text.shape[0], text.dtype)
    gradient = _Gradient(text, scale, strip, height)
    image_sum = into_image if into_image is not None else text.new_empty(image.shape) if needs[0] else None
    text_sum = text.new_empty(text.shape) if needs[1] else None
    dot_sums = torch.zeros(2, dtype=torch.float64, device=text.device)
    for start in range(0, num_rows, height):
        rows = slice(start, min(start + height, num_rows))
        part = widen(image[rows])
        gradient.start(part, rows, start + first, dot_sums if dots else None)
        same = needs[0] and image_weights == text_weights
        if image_sum is not None and needs[0]:
            grad = gradient.weighted(*image_weights)
            multiply(image_sum[rows], grad, text, gradient.unit, add=into_image is not None)
        if text_sum is not None:
            if not same:
                grad = gradient.weighted(*text_weights)
            multiply(text_sum, grad.t(), part, gradient.unit, add=start > 0)
    return Products(image_sum if needs[0] else None, text_sum, dot_sums.to(text.dtype) if dots else None)


def multiply(out: Tensor, a: Tensor, b: Tensor, unit: float, *, add: bool) -> None:
    """out = a @ b / unit, added to what is there if ``add``."""
    torch.addmm(out, a, b, beta=1 if add else 0, alpha=1 / unit, out=out)


class _Gradient:
    """G of one strip at a time, from one exponential a logit (two where the flag is set), times a power of two.

    The power, ``unit``, brings the smallest factor 1 / sum to 1 or more: then no product is a denormal number, which
    processors multiply a hundred times slower, unless its exponential was one.
    """

    def __init__(self, text: Tensor, scale: Tensor, strip: ClipStrip, height: int) -> None:
        self._text, self._scale, self._strip = text, scale, strip
        self._flagged = bool(int(strip.flag))
        self._shift = float(strip.shift)
        self.unit = 1.0
        if not self._flagged:
            least = float(torch.minimum(strip.rows[INVERSE].min(), strip.cols[INVERSE].min()))
            if 0 < least < 1:
                self.unit = 2.0 ** -math.frexp(least)[1]
        self._space = text.new_empty(2, height, text.shape[0])
        self._exponentials = self._grad = self._space[0]
        self._rows, self._first = slice(0, 0), 0

    def start(self, part: Tensor, rows: slice, first: int, dot_sums: Tensor | None) -> None:
        """Takes up the strip of some rows, whose positives begin in column ``first``; adds to the sums of dots."""
        self._rows, self._first = rows, first
        z, self._grad = self._space[0, : part.shape[0]], self._space[1, : part.shape[0]]
        self._exponentials = z
        # rounded as in the forward pass, also where dots are wanted: softmaxes then sum to 1, on which dots depend
        torch.mm(part * self._scale, self._text.t(), out=z)
        if dot_sums is not None and float(self._scale) != 0:
            torch.div(z, self._scale, out=self._grad)
        elif dot_sums is not None:
            torch.mm(part, self._text.t(), out=self._grad)
        if not self._flagged:
            if self._shift != 0:
                z.sub_(self._shift)
            z.exp_()
        if dot_sums is not None:
            dot_sums += self._dots()

    def _positives(self) -> tuple[slice, slice]:
        """The rows of the strip, and the columns, of the positives in it."""
        here = positive_rows(self._grad.shape[0], self._grad.shape[1], self._first)
        return here, slice(here.start + self._first, here.stop + self._first)

    def _dots(self) -> Tensor:
        """Sums of (P - Id) d and (Q - Id) d of the strip, whose d are in the second half of the workspace."""
        e, d = self._exponentials, self._grad
        rows, cols = self._strip.rows[:, self._rows], self._strip.cols
        here, there = self._positives()
        positives = d.diagonal(self._first).clone() if here.stop > here.start else d.new_empty(0)
        if here.stop > here.start:
            d.diagonal(self._first).zero_()
        if self._flagged:
            by_row = ((e - _natural(rows)[:, None]).exp_() * d).sum(1, dtype=torch.float64)
            by_col = ((e - _natural(cols)).exp_() * d).sum(0, dtype=torch.float64)
        else:
            d.mul_(e)
            by_row = d.sum(1, dtype=torch.float64)
            by_col = d.sum(0, dtype=torch.float64)
        by_row, by_col = by_row * rows[INVERSE], by_col * cols[INVERSE]
        off_rows, off_cols = rows[SHARE, here] * positives, cols[SHARE, there] * positives
        return torch.stack([by_row.sum() - off_rows.sum(), by_col.sum() - off_cols.sum()])

    def weighted(self, p: float, q: float) -> Tensor:
        """unit * (p (P - Id) + q (Q - Id)), valid until the next call."""
        rows, cols = self._strip.rows[:, self._rows], self._strip.cols
        p, q, grad = p * self.unit, q * self.unit, self._grad
        if self._flagged:
            torch.sub(self._exponentials, _natural(rows)[:, None], out=grad)
            grad.exp_().mul_(p * rows[INVERSE, :, None])
            grad.add_((self._exponentials - _natural(cols)).exp_().mul_(q * cols[INVERSE]))
        else:
            torch.add(rows[INVERSE, :, None] * p, cols[INVERSE] * q, out=grad)
            grad.mul_(self._exponentials)
        here, there = self._positives()
        if here.stop > here.start:
            grad.diagonal(self._first).copy_(-p * rows[SHARE, here] - q * cols[SHARE, there])
        return grad


def finish(
    raw: Tensor, scale: Tensor, factor: Tensor, dtype: torch.dtype, *, dot_with: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    dot = None
    if dot_with is not None:
        starts = range(0, raw.shape[0], _DOT_ROWS)
        parts = ((raw[start : start + _DOT_ROWS], widen(dot_with[start : start + _DOT_ROWS])) for start in starts)
        dots = [torch.linalg.vecdot(r, x).sum(dtype=torch.float64) for r, x in parts]
        dot = torch.stack(dots).sum().mul(factor).to(raw.dtype)
    return raw.mul_(scale * factor).to(dtype), dot
