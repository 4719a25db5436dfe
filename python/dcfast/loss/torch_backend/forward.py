"""The CLIP loss over strips of the matrix of logits, in torch: any device, float64, float32, bfloat16 and float16.

One exponential serves rows and columns: every logit is shifted by the same amount, as little as keeps the sums from
overflowing. Where a whole row or column vanishes by it, which only logits further apart than the exponent range (some
100 in float32, far beyond trained models) can bring about, ``large_logits`` takes over. Half precision is computed in
float32. What features have in common is taken off first: ``centring``. The host reads scale, shift and flag: on a GPU
it waits for them.

Cost, in products of M x N x D: one. Memory: one strip of 6 MiB or _LEAST_ROWS rows, whichever is more, beside results,
float32 copies of text features in half precision, or copies less their mean and strips of half the height. The gradient
is in ``gradient``. The functions are those of ``dcfast.loss.backend.Backend``, which explains them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from dcfast.loss.backend import BASE, INVERSE, NLL, SHARE, SMALL, ClipStrip, ClipSums, Products
from dcfast.loss.torch_backend import centring, exact_entries, large_logits
from dcfast.loss.torch_backend.tiles import positive_rows, strip_rows, take_positives, wide, widen

if TYPE_CHECKING:
    from torch import Tensor

DOT_ROWS = 1024
# Between them squares of float32 neither vanish nor overflow.
_LEAST_NORM, _MOST_NORM = 1e-15, 1e15


def is_small(image: Tensor, text: Tensor) -> bool:
    """Whether a block of float32 is worked on in float64.

    Features of one number too: products with a vector add in sequence, whose errors are those of large blocks.
    """
    return image.dtype == torch.float32 and (max(image.shape[0], text.shape[0]) <= SMALL or image.shape[1] == 1)


def working(image: Tensor, text: Tensor) -> torch.dtype:
    """The dtype a block is worked on in, unless the flag is set."""
    return torch.float64 if is_small(image, text) else wide(text.dtype)


def narrowed(products: Products, dtype: torch.dtype, into_image: Tensor | None) -> Products:
    image, text, dots, dot = products
    if image is not None:
        image = image.to(dtype) if into_image is None else into_image.add_(image)
    return Products(image, None if text is None else text.to(dtype), dots, dot)


def multiply(out: Tensor, a: Tensor, b: Tensor, factor: float, *, add: bool) -> None:
    """out = factor * a @ b, added to what is there if ``add``."""
    if factor == 1:
        torch.addmm(out, a, b, beta=1 if add else 0, out=out)
    elif add:  # not by addmm's alpha, which may be applied to a: it would be full of denormal numbers
        out.add_(torch.mm(a, b), alpha=factor)
    else:
        torch.mm(a, b, out=out).mul_(factor)


def clip_norms(x: Tensor) -> Tensor:
    height = strip_rows(x.shape[0], x.shape[1], x.dtype)
    parts = [x[start : start + height] for start in range(0, x.shape[0], height)]
    norms = torch.stack([torch.linalg.vector_norm(widen(part), dim=1).max() for part in parts])
    largest = float(norms.max())
    if largest < _LEAST_NORM or largest > _MOST_NORM:
        norms = torch.stack([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64).max() for part in parts])
    return norms.double().square()


def clip_means(image: Tensor, text: Tensor) -> Tensor:
    if image.dtype == torch.float32 == working(image, text):
        return centring.means(image, text)
    return image.new_zeros(2, image.shape[1], dtype=wide(image.dtype))


def clip_shift(
    image_norms: Tensor, text_norms: Tensor, scale: Tensor, terms: int, centre: Tensor | None = None
) -> Tensor:
    # 1.001: what rounding may add to a dot product beyond Cauchy and Schwarz. A whole number is taken off without
    # rounding. A NaN or infinite norm makes the shift, and by it the loss, NaN or infinite.
    product = image_norms.max().sqrt() * text_norms.max().sqrt()
    bound = scale.double().abs() * product * 1.001 - scale.double() * centring.constant(centre)
    return (bound - _exponent_room(scale.dtype, terms)).ceil().clamp_min(0).to(scale.dtype)


def _exponent_room(dtype: torch.dtype, terms: int) -> float:
    # Leaves 2**24 below the largest number for sums of gradients, which are scaled up by as much.
    return math.log(torch.finfo(dtype).max) - 24 * math.log(2) - math.log(max(terms, 2))


def clip_sums(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    shift: Tensor,
    first: int = 0,
    positives: tuple[Tensor, Tensor] | None = None,
    centre: Tensor | None = None,
) -> ClipSums:
    dtype = working(image, text)
    texts = centring.Texts(text, centre, dtype)
    num_rows, num_cols = image.shape[0], text.shape[0]
    height = strip_rows(num_rows, num_cols, dtype, centred=texts.means is not None)
    sums = ClipSums(
        text.new_empty(num_rows, dtype=torch.float64),
        text.new_zeros(num_cols, dtype=torch.float64),
        _positives(image, texts, scale, shift, first),
    )
    of_rows, of_cols = positives if positives is not None else (sums.diag, _moved(sums.diag, num_cols, first))
    mend = _Mend(texts, scale, shift, of_rows, of_cols) if image.dtype == torch.float32 == dtype else None
    like = texts.features
    space, row_sums, partial = like.new_empty(height, num_cols), like.new_empty(height), like.new_empty(num_cols)
    for start in range(0, num_rows, height):
        rows = slice(start, min(start + height, num_rows))
        part = texts.part(image[rows])
        z = torch.mm(part.factors * scale, texts.factors.t(), out=space[: rows.stop - start])
        if float(shift) != 0:
            z.sub_(float(shift))
        take_positives(z, start + first, sums.diag[rows, 0])
        z.exp_()
        sums.row_off[rows] = torch.sum(z, 1, out=row_sums[: rows.stop - start])
        sums.col_off.add_(torch.sum(z, 0, out=partial))
        if mend is not None:
            mend.add(z, part.given, rows, sums)
    return sums


def away(texts: centring.Texts, scale: Tensor, shift: Tensor) -> float:
    """What is taken off the logits themselves."""
    return float(shift) + float(scale) * texts.constant


def _positives(image: Tensor, texts: centring.Texts, scale: Tensor, shift: Tensor, first: int) -> Tensor:
    """(M, 2) float64 exponents of the positives in the block: where those as multiplied will stand, and exact ones."""
    text, dtype = texts.given, texts.features.dtype
    out = text.new_full((image.shape[0], 2), -math.inf, dtype=torch.float64)
    here = positive_rows(image.shape[0], text.shape[0], first)
    for start in range(here.start, here.stop, DOT_ROWS):
        rows = slice(start, min(start + DOT_ROWS, here.stop))
        there = text[rows.start + first : rows.stop + first]
        exact = exact_entries.dots(widen(image[rows], dtype), there, centred=texts.means is not None)
        out[rows, 1] = exact * float(scale) - away(texts, scale, shift)
    return out


def _moved(diag: Tensor, num_cols: int, first: int) -> Tensor:
    """The exponents of the positives of columns from those of rows."""
    here = positive_rows(diag.shape[0], num_cols, first)
    out = diag.new_full((num_cols, 2), -math.inf)
    out[here.start + first : here.stop + first] = diag[here]
    return out


class _Mend:
    """Corrects the sums of a strip for the entries that carry the loss; costs little where there are none."""

    def __init__(self, texts: centring.Texts, scale: Tensor, shift: Tensor, of_rows: Tensor, of_cols: Tensor) -> None:
        self._text, self._scale, self._shift = texts.given, float(scale), float(shift)
        self._away = away(texts, scale, shift)
        self._rows, self._cols = of_rows[:, 1].exp(), of_cols[:, 1].exp()
        self._shares = exact_entries.Shares(0.0, 0.0)
        self._centred = texts.means is not None

    def add(self, e: Tensor, part: Tensor, rows: slice, sums: ClipSums) -> None:
        off = sums.row_off[rows]
        total = off + self._rows[rows]
        self._shares = self._shares.plus(off / total)
        if not exact_entries.worth_a_look(float(off.max()), self._shift):
            return
        col_total = sums.col_off + self._cols
        of_rows = exact_entries.Side(off / total, total.reciprocal())
        of_cols = exact_entries.Side(sums.col_off / col_total, col_total.reciprocal())
        i, j = exact_entries.find(e, of_rows, of_cols, self._shares.threshold(centred=self._centred))
        if i.numel():
            factors = part, self._text, i, j, self._scale, self._away
            by = exact_entries.exponentials(*factors, centred=self._centred) - e[i, j].double()
            off.index_add_(0, i, by)
            sums.col_off.index_add_(0, j, by)


def clip_stats(off: Tensor, diag: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    info = torch.finfo(shift.dtype)
    # What vanishes (terms below the smallest normal number) is less than rounding for 2**13 terms a unit of rounding.
    floor = info.tiny / info.eps * 2**13
    off = off.double()
    as_multiplied, exact = diag.double().view(off.shape[0], -1)[:, 0], diag.double().view(off.shape[0], -1)[:, -1]
    diag = torch.where(off <= exact_entries.RIVALS * exact.exp(), exact, as_multiplied)
    positive = diag.exp()
    total = off + positive
    # by their exponents where the quotient of the sums has lost its digits
    nll = torch.where(positive < floor, total.log() - diag, (off / positive).log1p())
    stats = off.new_empty(4, off.shape[0])
    stats[INVERSE], stats[BASE], stats[SHARE], stats[NLL] = total.reciprocal(), shift.double(), off / total, nll
    return stats, (total < floor).any().to(torch.int32)[None]


def clip_log_sums(stats: Tensor) -> Tensor:
    return stats[BASE] - stats[INVERSE].log()


def clip_forward(image: Tensor, text: Tensor, scale: Tensor) -> ClipStrip:
    norms = clip_norms(image), clip_norms(text)
    centre = centring.settled(clip_means(image, text), *norms)
    shift = clip_shift(*norms, scale, image.shape[0], centre)
    sums = clip_sums(image, text, scale, shift, centre=centre)
    rows, row_flags = clip_stats(sums.row_off, sums.diag, shift)
    cols, col_flags = clip_stats(sums.col_off, sums.diag, shift)
    flag = torch.maximum(row_flags.max(), col_flags.max())
    if int(flag):
        by_row, by_col, diag = large_logits.clip_online(image, text, scale, flag)
        large_logits.clip_restate(rows, by_row, diag, flag)
        large_logits.clip_restate(cols, by_col, diag, flag)
    return ClipStrip(rows, cols, shift, flag, centre)
