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

from dcfast.loss import exact_entries
from dcfast.loss.backend import INVERSE, LSE2, NLL, SHARE, ClipStrip, ClipSums, Products

if TYPE_CHECKING:
    from torch import Tensor

    from dcfast.loss.backend import Needs, Weights

_STRIP_BYTES = 8 << 20
# Below this the products of a strip no longer run at full speed.
_LEAST_ROWS = 128
_DOT_ROWS = 1024
# log2: above it the sums of a gradient times features could overflow
_MOST_UNIT = 80
# Blocks of at most so many rows and columns are worked on in float64: their errors would not average out.
SMALL = 256
_LN2 = math.log(2.0)


def strip_rows(rows: int, columns: int, dtype: torch.dtype) -> int:
    """How many rows of the matrix of logits are worked on at a time: strips of even height."""
    most = min(rows, max(_LEAST_ROWS, _STRIP_BYTES // (columns * wide(dtype).itemsize)))
    return -(-rows // -(-rows // most))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The compute dtype: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widen(features: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Features in the compute dtype, or another, contiguous; themselves where they are so already."""
    return features.to(dtype or wide(features.dtype)).contiguous()


def is_small(image: Tensor, text: Tensor) -> bool:
    """Whether a block of float32 is worked on in float64."""
    return image.dtype == torch.float32 and max(image.shape[0], text.shape[0]) <= SMALL


def _working(image: Tensor, text: Tensor) -> torch.dtype:
    return torch.float64 if is_small(image, text) else wide(text.dtype)


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


def clip_sums(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    shift: Tensor,
    first: int = 0,
    positives: tuple[Tensor, Tensor] | None = None,
) -> ClipSums:
    dtype = _working(image, text)
    text = widen(text, dtype)
    num_rows, num_cols = image.shape[0], text.shape[0]
    height = strip_rows(num_rows, num_cols, dtype)
    sums = ClipSums(
        text.new_empty(num_rows, dtype=torch.float64),
        text.new_zeros(num_cols, dtype=torch.float64),
        _positives(image, text, scale, shift, first),
    )
    of_rows, of_cols = positives if positives is not None else (sums.diag, _moved(sums.diag, num_cols, first))
    mend = _Mend(text, scale, shift, of_rows, of_cols) if image.dtype == torch.float32 == dtype else None
    space, row_sums, partial = text.new_empty(height, num_cols), text.new_empty(height), text.new_empty(num_cols)
    for start in range(0, num_rows, height):
        rows = slice(start, min(start + height, num_rows))
        part = widen(image[rows], dtype)
        z = torch.mm(part * scale, text.t(), out=space[: rows.stop - start])
        if float(shift) != 0:
            z.sub_(float(shift))
        _take_positives(z, start + first, sums.diag[rows, 0])
        z.exp_()
        sums.row_off[rows] = torch.sum(z, 1, out=row_sums[: rows.stop - start])
        sums.col_off.add_(torch.sum(z, 0, out=partial))
        if mend is not None:
            mend.add(z, part, rows, sums)
    return sums


def _positives(image: Tensor, text: Tensor, scale: Tensor, shift: Tensor, first: int) -> Tensor:
    """(M, 2) float64 exponents of the positives in the block: where those as multiplied will stand, and exact ones."""
    out = text.new_full((image.shape[0], 2), -math.inf, dtype=torch.float64)
    here = positive_rows(image.shape[0], text.shape[0], first)
    for start in range(here.start, here.stop, _DOT_ROWS):
        rows = slice(start, min(start + _DOT_ROWS, here.stop))
        exact = exact_entries.dots(widen(image[rows], text.dtype), text[rows.start + first : rows.stop + first])
        out[rows, 1] = exact * scale.double() - shift.double()
    return out


def _moved(diag: Tensor, num_cols: int, first: int) -> Tensor:
    """The exponents of the positives of columns from those of rows."""
    here = positive_rows(diag.shape[0], num_cols, first)
    out = diag.new_full((num_cols, 2), -math.inf)
    out[here.start + first : here.stop + first] = diag[here]
    return out


class _Mend:
    """Corrects the sums of a strip for the entries that carry the loss; costs little where there are none."""

    def __init__(self, text: Tensor, scale: Tensor, shift: Tensor, of_rows: Tensor, of_cols: Tensor) -> None:
        self._text, self._scale, self._away = text, float(scale), float(shift)
        self._rows, self._cols = of_rows[:, 1].exp(), of_cols[:, 1].exp()
        self._shares = exact_entries.Shares(0.0, 0.0)

    def add(self, e: Tensor, part: Tensor, rows: slice, sums: ClipSums) -> None:
        off = sums.row_off[rows]
        total = off + self._rows[rows]
        self._shares = self._shares.plus(off / total)
        if not exact_entries.worth_a_look(float(off.max()), self._away):
            return
        col_total = sums.col_off + self._cols
        of_rows = exact_entries.Side(off / total, total.reciprocal())
        of_cols = exact_entries.Side(sums.col_off / col_total, col_total.reciprocal())
        i, j = exact_entries.find(e, of_rows, of_cols, self._shares.threshold)
        if i.numel():
            by = exact_entries.exponentials(part, self._text, i, j, self._scale, self._away) - e[i, j].double()
            off.index_add_(0, i, by)
            sums.col_off.index_add_(0, j, by)


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
    info = torch.finfo(shift.dtype)
    # What vanishes (terms below the smallest normal number) is less than rounding for 2**13 terms a unit of rounding.
    floor = info.tiny / info.eps * 2**13
    off = off.double()
    as_multiplied, exact = diag.double().view(off.shape[0], -1)[:, 0], diag.double().view(off.shape[0], -1)[:, -1]
    diag = torch.where(off <= exact_entries.RIVALS * exact.exp(), exact, as_multiplied)
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
    dtype = _working(image, text)
    # far from 0 a logarithm in float32 is too coarse to tell sums apart
    row_lse = text.new_full((num_rows,), -math.inf, dtype=torch.float64)
    col_lse = text.new_full((num_cols,), -math.inf, dtype=torch.float64)
    diag = text.new_full((num_rows,), -math.inf, dtype=dtype)
    if not int(flag):
        return row_lse, col_lse, diag
    text = widen(text, dtype)
    height = strip_rows(num_rows, num_cols, dtype)
    space = text.new_empty(height, num_cols)
    for start in range(0, num_rows, height):
        rows = slice(start, min(start + height, num_rows))
        z = torch.mm(widen(image[rows], dtype) * scale, text.t(), out=space[: rows.stop - start])
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
    stats[INVERSE] = 1.0  # to be multiplied with exponentials relative to the log-sum-exp
    stats[SHARE] = (off_lse2 - lse2).exp2()
    stats[NLL] = torch.where(odds <= 0.5, odds.log1p(), (lse2 - diag_z2) * _LN2)


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
    dtype = _working(image, text)
    if dtype != wide(image.dtype):
        wider = widen(image, dtype), widen(text, dtype), scale.double(), strip, first
        exact = clip_products(*wider, image_weights=image_weights, text_weights=text_weights, needs=needs, dots=dots)
        return _narrowed(exact, wide(image.dtype), into_image)
    text = widen(text)
    num_rows = image.shape[0]
    height = strip_rows(num_rows, text.shape[0], dtype)
    gradient = _Gradient(text, scale, strip, height, mend=image.dtype == torch.float32)
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
            multiply(image_sum[rows], grad, text, 1 / gradient.unit, add=into_image is not None)
        if text_sum is not None:
            if not same:
                grad = gradient.weighted(*text_weights)
            multiply(text_sum, grad.t(), part, 1.0, add=start > 0)
    if text_sum is not None:
        text_sum.mul_(1 / gradient.unit)
    return Products(image_sum if needs[0] else None, text_sum, dot_sums if dots else None)


def _narrowed(products: Products, dtype: torch.dtype, into_image: Tensor | None) -> Products:
    image, text, dots = products
    if image is not None:
        image = image.to(dtype) if into_image is None else into_image.add_(image)
    return Products(image, None if text is None else text.to(dtype), dots)


def multiply(out: Tensor, a: Tensor, b: Tensor, factor: float, *, add: bool) -> None:
    """out = factor * a @ b, added to what is there if ``add``."""
    if factor == 1:
        torch.addmm(out, a, b, beta=1 if add else 0, out=out)
    elif add:  # not by addmm's alpha, which may be applied to a: it would be full of denormal numbers
        out.add_(torch.mm(a, b), alpha=factor)
    else:
        torch.mm(a, b, out=out).mul_(factor)


class _Gradient:
    """G of one strip at a time, from one exponential a logit (two where the flag is set), times a power of two.

    The power, ``unit``, brings the smallest factor 1 / sum towards 1: then no product is a denormal number, which
    processors multiply a hundred times slower, unless its exponential was nearly one.
    """

    def __init__(self, text: Tensor, scale: Tensor, strip: ClipStrip, height: int, *, mend: bool) -> None:
        self._text, self._scale, self._strip = text, scale, strip
        self._flagged = bool(int(strip.flag))
        self._shift = float(strip.shift)
        self.unit = 1.0
        if not self._flagged:
            least = float(torch.minimum(strip.rows[INVERSE].min(), strip.cols[INVERSE].min()))
            if 0 < least < 1:
                self.unit = 2.0 ** min(-math.frexp(least)[1], _MOST_UNIT)
        self._natural = [(stats[LSE2] * _LN2).to(text.dtype) for stats in (strip.rows, strip.cols)]
        self._inverse = [stats[INVERSE] for stats in (strip.rows, strip.cols)]
        if self._flagged:
            # what the exponentials relative to the rounded log-sum-exp have to be multiplied by
            exact = (stats[LSE2].double() * _LN2 for stats in (strip.rows, strip.cols))
            self._inverse = [(x.double() - y).exp() for x, y in zip(self._natural, exact, strict=True)]
        self._threshold: float | None = None
        if mend and not self._flagged:
            shares = exact_entries.Shares(0.0, 0.0).plus(strip.rows[SHARE]).plus(strip.cols[SHARE])
            self._threshold = shares.threshold
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
        here, _ = self._positives()
        if here.stop > here.start:
            z.diagonal(first).fill_(-math.inf if self._flagged else 0)
        if self._threshold is not None:
            self._mend(part, self._threshold)
        if dot_sums is not None:
            dot_sums += self._dots(part)

    def _mend(self, part: Tensor, threshold: float) -> None:
        rows, cols = self._strip.rows[:, self._rows], self._strip.cols
        if not exact_entries.worth_a_look(float((rows[SHARE] / rows[INVERSE]).max()), self._shift):
            return
        e = self._exponentials
        of_rows, of_cols = (exact_entries.Side(stats[SHARE], stats[INVERSE]) for stats in (rows, cols))
        i, j = exact_entries.find(e, of_rows, of_cols, threshold)
        if i.numel():
            exact = exact_entries.exponentials(part, self._text, i, j, float(self._scale), self._shift)
            e[i, j] = exact.to(e.dtype)

    def _positives(self) -> tuple[slice, slice]:
        """The rows of the strip, and the columns, of the positives in it."""
        here = positive_rows(self._grad.shape[0], self._grad.shape[1], self._first)
        return here, slice(here.start + self._first, here.stop + self._first)

    def _dots(self, part: Tensor) -> Tensor:
        """Sums of (P - Id) d and (Q - Id) d of the strip, whose d are in the second half of the workspace.

        Taken relative to the positive of each row and column: rows of P - Id add up to 0, so that a constant may be
        taken off their d, and what all d have in common does not leave its rounding behind.
        """
        d, rows, cols = self._grad, self._strip.rows[:, self._rows], self._strip.cols
        here, there = self._positives()
        positives = exact_entries.dots(part[here], self._text[there])
        of_row, of_col = self._centres(rows), self._centres(cols)
        if self._flagged:
            by_row, by_col = self._softmax(1), self._softmax(0)
            by_row, by_col = _centred(by_row, by_row * d, 1, of_row), _centred(by_col, by_col * d, 0, of_col)
        else:
            e, products = self._exponentials, d.mul_(self._exponentials)
            by_row, by_col = _centred(e, products, 1, of_row), _centred(e, products, 0, of_col)
        by_row, by_col = by_row * self._inverse[0][self._rows], by_col * self._inverse[1]
        off_rows = rows[SHARE, here] * (positives - of_row[here])
        off_cols = cols[SHARE, there] * (positives - of_col[there])
        return torch.stack([by_row.sum() - off_rows.sum(), by_col.sum() - off_cols.sum()])

    def _centres(self, stats: Tensor) -> Tensor:
        """The dot products of the positives, from log P of them; any number serves that is the same for all blocks."""
        scale = float(self._scale)
        stats = stats.double()
        return (stats[LSE2] * _LN2 - stats[NLL]) / scale if scale else torch.zeros_like(stats[LSE2])

    def _softmax(self, dim: int) -> Tensor:
        """Softmaxes along rows (1) or columns (0) where the flag is set, but for the factor ``_inverse``."""
        natural = self._natural[0][self._rows, None] if dim == 1 else self._natural[1]
        return (self._exponentials - natural).exp_()

    def weighted(self, p: float, q: float) -> Tensor:
        """unit * (p (P - Id) + q (Q - Id)), valid until the next call."""
        p, q, grad = p * self.unit, q * self.unit, self._grad
        by_row = (p * self._inverse[0][self._rows, None]).to(grad.dtype)
        by_col = (q * self._inverse[1]).to(grad.dtype)
        if self._flagged:
            torch.sub(self._exponentials, self._natural[0][self._rows, None], out=grad)
            grad.exp_().mul_(by_row)
            grad.add_(self._softmax(0).mul_(by_col))
        else:
            torch.add(by_row, by_col, out=grad)
            grad.mul_(self._exponentials)
        here, there = self._positives()
        if here.stop > here.start:
            shares = p * self._strip.rows[SHARE, self._rows][here] + q * self._strip.cols[SHARE, there]
            grad.diagonal(self._first).copy_(-shares)
        return grad


def _centred(weights: Tensor, products: Tensor, dim: int, centres: Tensor) -> Tensor:
    """Sums of weights * (d - centre) along ``dim``, in float64, from weights and weights * d."""
    return products.sum(dim, dtype=torch.float64) - centres * weights.sum(dim, dtype=torch.float64)


def finish(
    raw: Tensor, scale: Tensor, factor: Tensor, dtype: torch.dtype, *, dot_with: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    dot = None
    if dot_with is not None:
        starts = range(0, raw.shape[0], _DOT_ROWS)
        pieces = (slice(start, start + _DOT_ROWS) for start in starts)
        parts = ((raw[rows], dot_with[rows].to(raw.dtype)) for rows in pieces)
        dots = [torch.linalg.vecdot(r, x).sum(dtype=torch.float64) for r, x in parts]
        dot = torch.stack(dots).sum().mul(factor).to(raw.dtype)
    return raw.mul_(scale * factor).to(dtype), dot
