"""The CLIP loss's gradient over strips of the matrix of logits, in torch.

Cost, in products of M x N x D: three, two where one side needs no gradient. Memory: two strips, as the forward pass has
them, beside results. Where the flag is set, and for small blocks, all is float64, features too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from dcfast.loss.backend import BASE, INVERSE, NLL, SHARE, ClipStrip, Products
from dcfast.loss.torch_backend import exact_entries
from dcfast.loss.torch_backend.centring import Part, Texts
from dcfast.loss.torch_backend.forward import DOT_ROWS, away, multiply, narrowed, working
from dcfast.loss.torch_backend.tiles import positive_rows, strip_rows, wide, widen

if TYPE_CHECKING:
    from torch import Tensor

    from dcfast.loss.backend import Needs, Weights

# log2: above the first the sums of a gradient times features could overflow, or above the second with large features
_MOST_UNIT, _MOST_PRODUCT = 80, 100
# and no factor may overflow that is multiplied with it
_MOST_FACTOR = 124
# log2: what dot products times exponentials may be above these, of which ``clip_shift`` leaves more
_ROOM = 20
_RUN = 32


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
    dtype = torch.float64 if int(strip.flag) else working(image, text)
    if dtype != wide(image.dtype):
        wider = widen(image, dtype), widen(text, dtype), scale.double(), strip, first
        exact = clip_products(*wider, image_weights=image_weights, text_weights=text_weights, needs=needs, dots=True)
        # of the products as they are rounded to be returned the sum of G d has fewer digits
        assert exact.dots is not None
        whole = into_image is None and image_weights == text_weights == (1.0, 1.0)
        exact = exact._replace(dots=exact.dots if dots else None, dot=exact.dots.sum() if whole else None)
        return narrowed(exact, wide(image.dtype), into_image)
    # statistics of logits that are far apart are of logits as they are
    texts = Texts(text, None if int(strip.flag) else strip.centre, dtype)
    num_rows = image.shape[0]
    height = strip_rows(num_rows, text.shape[0], dtype, centred=texts.means is not None)
    largest = max(abs(float(x)) for side in (image, text) for x in side.aminmax())
    gradient = _Gradient(texts, scale, strip, height, largest=largest, mend=image.dtype == torch.float32)
    image_sum = into_image if into_image is not None else text.new_empty(image.shape, dtype=dtype) if needs[0] else None
    text_sum = text.new_empty(text.shape, dtype=dtype) if needs[1] else None
    dot_sums = torch.zeros(2, dtype=torch.float64, device=text.device)
    means = _Means(texts, image_weights[1], text_weights[0])
    for start in range(0, num_rows, height):
        rows = slice(start, min(start + height, num_rows))
        part = texts.part(image[rows])
        gradient.start(part, rows, start + first, dot_sums if dots else None)
        same = needs[0] and image_weights == text_weights
        if image_sum is not None and needs[0]:
            grad = gradient.weighted(*image_weights)
            multiply(image_sum[rows], grad, texts.features, 1 / gradient.unit, add=into_image is not None)
        if text_sum is not None:
            if not same:
                grad = gradient.weighted(*text_weights)
            multiply(text_sum, grad.t(), part.features, 1.0, add=start > 0)
        means.add(gradient, part, image_sum[rows] if image_sum is not None and needs[0] else None, dot=True)
    if text_sum is not None:
        text_sum.mul_(1 / gradient.unit)
    dot = means.finish(text_sum, dot=not needs[0])
    # of blocks that are added up, and of P or Q alone, it means nothing
    whole = into_image is None and image_weights == text_weights == (1.0, 1.0)
    return Products(image_sum if needs[0] else None, text_sum, dot_sums if dots else None, dot if whole else None)


class _Means:
    """What the means that were taken off add to the products, and the sum of G d without them."""

    def __init__(self, texts: Texts, image_weight: float, text_weight: float) -> None:
        self._texts, self._weights = texts, (image_weight, text_weight)
        self._cols = texts.given.new_zeros(texts.given.shape[0], dtype=torch.float64)
        self._dot = torch.zeros((), dtype=torch.float64, device=texts.given.device)

    def add(self, gradient: _Gradient, part: Part, image_sum: Tensor | None, *, dot: bool) -> None:
        """Takes in a strip, whose products with texts are ``image_sum``."""
        if self._texts.means is None:
            return
        by_row, by_col = gradient.row_sums(), gradient.col_sums()
        self._cols += by_col
        self._dot += (by_row * part.with_mean.double()).sum()
        if image_sum is None:
            return
        if dot:
            self._dot += torch.linalg.vecdot(image_sum, part.features).sum(dtype=torch.float64)
        image_sum.addr_((by_row * self._weights[0]).to(image_sum.dtype), self._texts.means[1])

    def finish(self, text_sum: Tensor | None, *, dot: bool) -> Tensor | None:
        """Completes the texts' products; the sum of G d, with ``dot`` from them too."""
        if self._texts.means is None:
            return None
        self._dot += (self._cols * self._texts.with_mean.double()).sum()
        if text_sum is not None:
            if dot:
                parts = zip(torch.split(text_sum, DOT_ROWS), torch.split(self._texts.features, DOT_ROWS), strict=True)
                self._dot += torch.stack([torch.linalg.vecdot(a, b).sum(dtype=torch.float64) for a, b in parts]).sum()
            text_sum.addr_((self._cols * self._weights[1]).to(text_sum.dtype), self._texts.means[0])
        return self._dot


class _Gradient:
    """G of one strip at a time, from one exponential a logit (two where the flag is set), times a power of two.

    The power, ``unit``, brings the smallest factor 1 / sum towards 1: then no product is a denormal number, which
    processors multiply a hundred times slower, unless its exponential was nearly one.
    """

    def __init__(
        self, texts: Texts, scale: Tensor, strip: ClipStrip, height: int, *, largest: float, mend: bool
    ) -> None:
        self._texts, self._scale, self._strip = texts, scale, strip
        self._flagged, self._means = bool(int(strip.flag)), texts.means is not None
        self._shift = float(strip.shift)
        self._away = away(texts, scale, strip.shift)
        self._most_dot = texts.given.shape[1] * largest * largest
        self.unit = 1.0
        if not self._flagged:
            extremes = torch.stack([*strip.rows[INVERSE].aminmax(), *strip.cols[INVERSE].aminmax()])
            self.unit = _unit(extremes, largest)
        self._inverse = [stats[INVERSE] for stats in (strip.rows, strip.cols)]
        self._threshold: float | None = None
        if mend and not self._flagged:
            shares = exact_entries.Shares(0.0, 0.0).plus(strip.rows[SHARE]).plus(strip.cols[SHARE])
            self._threshold = shares.threshold(centred=self._means)
        self._space = texts.features.new_empty(2, height, texts.given.shape[0])
        self._exponentials = self._grad = self._space[0]
        self._rows, self._first = slice(0, 0), 0

    def start(self, part: Part, rows: slice, first: int, dot_sums: Tensor | None) -> None:
        """Takes up the strip of some rows, whose positives begin in column ``first``; adds to the sums of dots."""
        self._rows, self._first = rows, first
        z, self._grad = self._space[0, : rows.stop - rows.start], self._space[1, : rows.stop - rows.start]
        self._exponentials = z
        # rounded as in the forward pass, also where dots are wanted: softmaxes then sum to 1, on which dots depend
        torch.mm(part.factors * self._scale, self._texts.factors.t(), out=z)
        if dot_sums is not None and float(self._scale) != 0:
            torch.div(z, self._scale, out=self._grad)
        elif dot_sums is not None:
            torch.mm(part.factors, self._texts.factors.t(), out=self._grad)
        if not self._flagged:
            if self._shift != 0:
                z.sub_(self._shift)
            z.exp_()
        here, _ = self._positives()
        if here.stop > here.start:
            z.diagonal(first).fill_(-math.inf if self._flagged else 0)
        if self._threshold is not None:
            self._mend(part.given, self._threshold)
        if dot_sums is not None:
            dot_sums += self._dots(part.given)

    def _mend(self, part: Tensor, threshold: float) -> None:
        rows, cols = self._strip.rows[:, self._rows], self._strip.cols
        if not exact_entries.worth_a_look(float((rows[SHARE] / rows[INVERSE]).max()), self._shift):
            return
        e = self._exponentials
        of_rows, of_cols = (exact_entries.Side(stats[SHARE], stats[INVERSE]) for stats in (rows, cols))
        i, j = exact_entries.find(e, of_rows, of_cols, threshold)
        if i.numel():
            factors = part, self._texts.given, i, j, float(self._scale), self._away
            exact = exact_entries.exponentials(*factors, centred=self._means)
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
        positives = exact_entries.dots(part[here], self._texts.given[there], centred=self._means) - self._texts.constant
        of_row, of_col = self._centres(rows), self._centres(cols)
        if self._flagged:
            by_row, by_col = self._softmax(1), self._softmax(0)
            by_row, by_col = _centred(by_row, by_row * d, 1, of_row), _centred(by_col, by_col * d, 0, of_col)
        else:
            e = self._exponentials
            # of features of large norm their products would overflow; of most a bound tells that they do not
            most = self._most_dot if self._most_dot < 2**_ROOM else max(abs(float(x)) for x in d.aminmax())
            unit = 2.0 ** -max(0, math.frexp(most)[1] - _ROOM)
            products = (d if unit == 1 else d.mul_(unit)).mul_(e)
            by_row, by_col = _centred(e, products, 1, of_row, unit), _centred(e, products, 0, of_col, unit)
        by_row, by_col = by_row * self._inverse[0][self._rows], by_col * self._inverse[1]
        off_rows = rows[SHARE, here] * (positives - of_row[here])
        off_cols = cols[SHARE, there] * (positives - of_col[there])
        return torch.stack([by_row.sum() - off_rows.sum(), by_col.sum() - off_cols.sum()])

    def _centres(self, stats: Tensor) -> Tensor:
        """The dot products of the positives, from log P of them; any number serves that is the same for all blocks."""
        scale = float(self._scale)
        stats = stats.double()
        return (stats[BASE] - stats[INVERSE].log() - stats[NLL]) / scale if scale else torch.zeros_like(stats[BASE])

    def _softmax(self, dim: int) -> Tensor:
        """Softmaxes along rows (1) or columns (0) where the flag is set, but for the factor ``_inverse``."""
        base = self._strip.rows[BASE, self._rows, None] if dim == 1 else self._strip.cols[BASE]
        return (self._exponentials - base).exp_()

    def weighted(self, p: float, q: float) -> Tensor:
        """unit * (p (P - Id) + q (Q - Id)), valid until the next call."""
        p, q, grad = p * self.unit, q * self.unit, self._grad
        by_row = (p * self._inverse[0][self._rows, None]).to(grad.dtype)
        by_col = (q * self._inverse[1]).to(grad.dtype)
        if self._flagged:
            torch.sub(self._exponentials, self._strip.rows[BASE, self._rows, None], out=grad)
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

    def row_sums(self) -> Tensor:
        """(h,) float64: of Q - Id along the rows of the strip; those of P - Id add up to 0 over all blocks."""
        here, there = self._positives()
        return self._sums(self._exponentials, self._inverse[1], here, self._strip.cols[SHARE, there])

    def col_sums(self) -> Tensor:
        """(N,) float64: of P - Id along the columns of the strip."""
        here, there = self._positives()
        inverse, shares = self._inverse[0][self._rows], self._strip.rows[SHARE, self._rows][here]
        return self._sums(self._exponentials.t(), inverse, there, shares)

    def _sums(self, e: Tensor, inverse: Tensor, here: slice, shares: Tensor) -> Tensor:
        inverse = (inverse * self.unit).to(e.dtype)
        sums = e.new_zeros(e.shape[0], dtype=torch.float64)
        # a product with a vector adds one after the other: not too many of them in float32
        run = _RUN if e.stride(0) == 1 else e.shape[1]
        for part, factors in zip(torch.split(e, run, 1), torch.split(inverse, run), strict=True):
            sums += torch.mv(part, factors)
        sums.div_(self.unit)
        sums[here] -= shares
        return sums


def _unit(inverse: Tensor, largest: float) -> float:
    """The power of two for factors 1 / sum, of which it gets the extremes, and features up to ``largest``."""
    least, most = (float(x) for x in inverse.aminmax())
    if not 0 < least < 1 or not math.isfinite(most):
        return 1.0
    room = min(_MOST_UNIT, _MOST_PRODUCT - math.frexp(largest)[1], _MOST_FACTOR - math.frexp(most)[1])
    return 2.0 ** max(0, min(-math.frexp(least)[1], room))


def _centred(weights: Tensor, products: Tensor, dim: int, centres: Tensor, unit: float = 1.0) -> Tensor:
    """Sums of weights * (d - centre) along ``dim``, in float64, from weights and unit * weights * d."""
    return products.sum(dim, dtype=torch.float64) / unit - centres * weights.sum(dim, dtype=torch.float64)


def finish(
    raw: Tensor, scale: Tensor, factor: Tensor, dtype: torch.dtype, *, dot_with: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    dot = None
    if dot_with is not None:
        starts = range(0, raw.shape[0], DOT_ROWS)
        pieces = (slice(start, start + DOT_ROWS) for start in starts)
        parts = ((raw[rows], dot_with[rows].to(raw.dtype)) for rows in pieces)
        dots = [torch.linalg.vecdot(r, x).sum(dtype=torch.float64) for r, x in parts]
        dot = torch.stack(dots).sum().mul(factor).to(raw.dtype)
    return raw.mul_(scale * factor).to(dtype), dot
