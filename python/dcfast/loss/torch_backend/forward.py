"""The CLIP loss over tiles of the matrix of logits, in torch: any device, float64, float32, bfloat16 and float16.

One exponential serves rows and columns: every logit is shifted by the same amount, as little as keeps the sums from
overflowing. ``large_logits`` takes over where a whole row or column vanishes by it, or logits may be above some 570:
features that are not normalised lead there, or scales far beyond those of trained models. Half precision is computed in
float32. The host reads scale, shift and flag: on a GPU it waits for them.

Cost, in products of M x N x D: one. Memory: a tile of 2 MiB beside results, 16 MiB of exponentials that are kept for
the gradient, and float32 copies of text features in half precision. The gradient is in ``gradient``. The functions are
those of ``dcfast.loss.backend.Backend``, which explains them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from dcfast.loss.backend import BASE, INVERSE, NLL, SHARE, SMALL, ClipStats, ClipSums, compute_dtype, kept_size
from dcfast.loss.torch_backend import large_logits
from dcfast.loss.torch_backend.tiles import Workspace, multiply, take_positives, widen

if TYPE_CHECKING:
    from torch import Tensor

    from dcfast.loss.backend import Side

_ROWS = 1024


def tile_dtype(image: Tensor, text: Tensor) -> torch.dtype:
    """The dtype of a block's tiles, unless the flag is set: a small block of float32 is worked on in float64."""
    small = image.dtype == torch.float32 and max(image.shape[0], text.shape[0]) <= SMALL
    return torch.float64 if small else compute_dtype(image.dtype)


def clip_norms(x: Tensor) -> Tensor:
    parts = [widen(part) for part in torch.split(x, _ROWS)]
    norms = torch.stack([torch.linalg.vector_norm(part, dim=1).max() for part in parts])
    if not 1e-15 < float(norms.max()) < 1e15:  # squares of float32 vanish or overflow
        norms = torch.stack([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64).max() for part in parts])
    return norms.double().square()


def clip_shift(image_norms: Tensor, text_norms: Tensor, scale: Tensor, terms: int) -> Tensor:
    # 1.001: what rounding may add to a dot product beyond Cauchy and Schwarz. A whole number is taken off without
    # rounding. A NaN or infinite norm makes the shift, and by it the loss, NaN or infinite.
    bound = scale.double().abs() * image_norms.max().sqrt() * text_norms.max().sqrt() * 1.001
    return (bound - _exponent_room(scale.dtype, terms)).ceil().clamp_min(0).to(scale.dtype)


def _exponent_room(dtype: torch.dtype, terms: int) -> float:
    # Leaves 2**24 below the largest number for sums of gradients, which are scaled up by as much.
    return math.log(torch.finfo(dtype).max) - 24 * math.log(2) - math.log(max(terms, 2))


def clip_sums(
    image: Tensor, text: Tensor, scale: Tensor, shift: Tensor, first: int = 0, kept: Tensor | None = None
) -> ClipSums:
    text = widen(text, tile_dtype(image, text))
    sums = ClipSums(
        text.new_zeros(image.shape[0], dtype=torch.float64),
        text.new_zeros(text.shape[0], dtype=torch.float64),
        text.new_full((image.shape[0],), -math.inf, dtype=torch.float64),
    )
    space = Workspace(text, image.shape[0], text.shape[0], 1, kept)
    shift_value = float(shift)
    for rows in space.rows:
        part = widen(image[rows], text.dtype) * scale
        for cols, (z, *_), _ in space.tiles(rows):
            multiply(part, text[cols], z)
            take_positives(z, first + rows.start - cols.start, sums.diag[rows])
            exponentials(z, shift_value)
            sums.row_off[rows] += z.sum(1)
            sums.col_off[cols] += z.sum(0)
    sums.diag.sub_(shift_value)
    return sums


def exponentials(z: Tensor, shift: float) -> None:
    """exp(z - shift) in place, the same bits in both passes."""
    if shift != 0:
        z.sub_(shift)
    z.exp_()


def clip_stats(rows: Side, cols: Side, shift: Tensor) -> ClipStats:
    (row_stats, row_flag), (col_stats, col_flag) = _stats(*rows, shift), _stats(*cols, shift)
    return ClipStats(row_stats, col_stats, (row_flag | col_flag).to(torch.int32))


def _stats(off: Tensor, diag: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """((4, n) statistics, whether the shift does not serve)."""
    info = torch.finfo(shift.dtype)
    # What vanishes (terms below the smallest normal number) is less than rounding for 2**13 terms a unit of rounding.
    floor = info.tiny / info.eps * 2**13
    positive = diag.exp()
    total = off + positive
    # by their exponents where the quotient of the sums has lost its digits
    nll = torch.where(positive < floor, total.log() - diag, (off / positive).log1p())
    stats = off.new_empty(4, off.shape[0])
    stats[INVERSE], stats[BASE], stats[SHARE], stats[NLL] = total.reciprocal(), shift.double(), off / total, nll
    return stats, (total < floor).any() | _is_large(shift)


def _is_large(shift: Tensor) -> Tensor:
    """Whether logits are so large that they have not the digits of their dtype that exponentials want."""
    return (shift > 2**-14 / torch.finfo(shift.dtype).eps) & shift.isfinite()


def clip_log_sums(stats: Tensor) -> Tensor:
    return stats[BASE] - stats[INVERSE].log()


def clip_forward(image: Tensor, text: Tensor, scale: Tensor) -> ClipStats:
    shift = clip_shift(clip_norms(image), clip_norms(text), scale, image.shape[0])
    kept = text.new_empty(kept_size(image), dtype=compute_dtype(image.dtype))
    if _is_large(shift):  # no sweep that serves nobody
        rows, cols = (text.new_empty(4, text.shape[0], dtype=torch.float64) for _ in range(2))
        stats = ClipStats(rows, cols, torch.ones((), dtype=torch.int32, device=text.device))
    else:
        sums = clip_sums(image, text, scale, shift, 0, kept)
        stats = clip_stats((sums.row_off, sums.diag), (sums.col_off, sums.diag), shift)
    if int(stats.flag):
        by_row, by_col, diag = large_logits.clip_online(image, text, scale, stats.flag, 0, kept)
        large_logits.clip_restate(stats, (by_row, diag), (by_col, diag))
    return stats._replace(kept=kept)
