"""Launch functions of the contrastive losses: tensors in, tensors out, nothing waits for the device.

Same functions as ``dcfast.loss.strips`` (see ``dcfast.loss.backend``), for float32, bfloat16 and float16 features on a
CUDA device, or on the CPU under ``TRITON_INTERPRET=1``. Image features [M, D] may be one rank's rows and text features
[N, D] those of all; row i's positive is column i + diagonal. They check nothing: ``dcfast.loss`` checks arguments.

The launches are the same whatever the data (rare cases are told by a flag on the device), so that they can be captured
in a CUDA graph once tile sizes have been chosen. Results are bit-equal from run to run: every partial sum has one
writer. Positives can be kept apart: ``clip_lse(diagonal=)`` leaves them out, so that

    -log P_ii = softplus(off_i - z_ii)   and   1 - P_ii = sigmoid(off_i - z_ii)

keep their relative accuracy on a batch that is nearly fitted, where lse - z and 1 - exp(z - lse) cancel.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dcfast.kernels import clip_kernels, strip_products, tuning
from dcfast.kernels.operands import Operands, blocks, on_device, operands, programs, row_stride, scalar
from dcfast.kernels.strip_products import ClipStrips, Pairing, SiglipStrips, finish, multiply
from dcfast.kernels.tuning import Config

__all__ = ["ClipGradients", "SiglipTerms", "clip_gradients", "clip_lse", "positive_dots", "siglip_terms"]

Weights = tuple[float, float]


class ClipGradients(NamedTuple):
    """Results of ``clip_gradients``; what was not asked for has no elements."""

    image: Tensor  # [M, D] in image_dtype
    text: Tensor  # [N, D] in text_dtype
    dots: Tensor  # [2] fp32


class SiglipTerms(NamedTuple):
    """Results of ``siglip_terms`` in fp32; what was not asked for has no elements."""

    loss: Tensor  # []
    image: Tensor  # [M, D] G text
    text: Tensor  # [N, D] G^T image
    sums: Tensor  # [2] sums of G times the dot products, and of G


@torch.no_grad()
def positive_dots(image: Tensor, text: Tensor) -> Tensor:
    """<image_i, text_i>: [M] fp32."""
    rows, width = image.shape
    x, y = (t if t.stride(1) == 1 else t.contiguous() for t in (image, text))
    out = torch.empty(rows, dtype=torch.float32, device=image.device)
    with on_device(out):
        clip_kernels.row_dots[(blocks(rows, 16),)](
            x, y, out, rows, width, row_stride(x), row_stride(y), BM=16, BK=128, num_warps=4
        )
    return out


@torch.no_grad()
def clip_lse(
    image: Tensor, text: Tensor, scale: Tensor, *, diagonal: int | None = None, precision: str | None = None
) -> tuple[Tensor, Tensor]:
    """Natural log-sum-exp of scale <image_i, text_j> along rows [M] and along columns [N], fp32.

    One sweep, 2 M N D operations; a second and third, by a running maximum, only where the logits lie further apart
    than the exponent range. Right for any finite input; NaN or infinite where an input is not. Memory while it runs:
    about 0.1 byte a logit.

    Args:
        diagonal: leaves out the positives, j == i + diagonal (-inf where nothing is left); None leaves out none.
        precision: of float32 products: "ieee", "tf32x3" or "tf32"; by default torch.get_float32_matmul_precision()'s.
    """
    o = operands(image, text, precision)
    scale = scalar(scale, o.device)
    first = o.cols if diagonal is None else diagonal  # beyond the last column there are no positives
    shift = _shift(o, scale)
    config = tuning.choose(
        "clip_sweep", o.device, image.dtype, o.shape, o.precision, lambda c: _sweep(o, scale, shift, first, c) and None
    )
    row_off, col_off, dots = _sweep(o, scale, shift, first, config)
    block = 64 if tuning.interpreted() else 1024
    row_blocks = blocks(o.rows, block)
    flags = torch.empty(row_blocks + blocks(o.cols, block), dtype=torch.int32, device=o.device)
    row_lse, col_lse = torch.empty_like(row_off), torch.empty_like(col_off)
    with on_device(flags):
        for off, positive, lse, flag in (
            (row_off, dots, row_lse, flags[:row_blocks]),
            (col_off, _by_column(dots, o, first), col_lse, flags[row_blocks:]),
        ):
            clip_kernels.clip_finish[(flag.numel(),)](off, positive, scale, shift, lse, flag, off.numel(), BLOCK=block)
    flag = flags.amax()
    _online(o, scale, flag, first, row_lse)
    _online(o.swapped(), scale, flag, -first, col_lse)
    return row_lse, col_lse


def _shift(o: Operands, scale: Tensor) -> Tensor:
    """[] fp32: what is taken off every exponent, such that no sum overflows."""
    norms = [torch.empty(blocks(n, 16), dtype=torch.float32, device=o.device) for n in (o.rows, o.cols)]
    shift = torch.empty((), dtype=torch.float32, device=o.device)
    top = float(126 - math.ceil(math.log2(max(o.rows, o.cols, 2))))
    with on_device(shift):
        for x, out in zip((o.image, o.text), norms, strict=True):
            clip_kernels.row_norms[(out.numel(),)](
                x, out, x.shape[0], o.depth, row_stride(x), BM=16, BK=128, num_warps=4
            )
        clip_kernels.clip_shift[(1,)](
            *norms, scale, shift, norms[0].numel(), norms[1].numel(), top, BLOCK=64 if tuning.interpreted() else 1024
        )
    return shift


def chunks_of(row_blocks: int, col_blocks: int, programs: int) -> int:
    """Row chunks a column block is cut into: what keeps the programs busy with the fewest partial sums."""
    best, least = 1, math.inf
    for chunks in range(1, min(row_blocks, 64) + 1):
        rounds = -(-col_blocks * chunks // programs)
        cost = rounds * -(-row_blocks // chunks) * (1 + 0.002 * chunks)
        if cost < least:
            best, least = chunks, cost
    return best


def _sweep(o: Operands, scale: Tensor, shift: Tensor, first: int, c: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of 2**(z2 - shift) off the diagonal by row [M] and column [N], dot products on it ([M], -inf if none)."""
    nbm, nbn = blocks(o.rows, c.bm), blocks(o.cols, c.bn)
    per = blocks(nbm, chunks_of(nbm, nbn, programs(o.device, nbm * nbn)))
    chunks = blocks(nbm, per)
    row_part = torch.empty(nbn, o.rows, dtype=torch.float32, device=o.device)
    col_part = torch.empty(chunks * c.warps * 8, o.cols, dtype=torch.float32, device=o.device)
    dots = torch.full((o.rows,), -math.inf, dtype=torch.float32, device=o.device)
    grid = programs(o.device, nbn * chunks)
    with on_device(dots):
        clip_kernels.clip_sweep[(grid,)](
            *o.sources(c), scale, shift, row_part, col_part, dots, *o.sizes(), first, nbm, nbn, chunks, per,
            W=c.warps, PROGRAMS=grid, **o.options(c),
        )  # fmt: skip
    return row_part.sum(0), col_part.sum(0), dots


def _positives(o: Operands, first: int) -> tuple[int, int]:
    """The rows whose positive is in this block: begin and end (empty: 0, 0)."""
    begin, end = max(0, -first), min(o.rows, o.cols - first)
    return (begin, end) if begin < end else (0, 0)


def _by_column(dots: Tensor, o: Operands, first: int) -> Tensor:
    if first == 0 and o.rows == o.cols:
        return dots
    begin, end = _positives(o, first)
    out = torch.full((o.cols,), -math.inf, dtype=torch.float32, device=o.device)
    if end > begin:
        out[begin + first : end + first] = dots[begin:end]
    return out


def _online(o: Operands, scale: Tensor, flag: Tensor, first: int, lse: Tensor) -> None:
    c = tuning.choose("clip_online", o.device, o.image.dtype, (1, 1, o.depth), o.precision, lambda c: None)
    nbm, nbn = blocks(o.rows, c.bm), blocks(o.cols, c.bn)
    grid = programs(o.device, nbm)
    with on_device(lse):
        clip_kernels.clip_online[(grid,)](
            *o.sources(c), scale, flag, lse, *o.sizes(), first, nbm, nbn, PROGRAMS=grid, **o.options(c)
        )


@torch.no_grad()
def clip_gradients(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    row_lse: Tensor,
    col_lse: Tensor,
    alpha: Tensor,
    *,
    diagonal: int,
    image_weights: Weights,
    text_weights: Weights,
    need_image: bool,
    need_text: bool,
    need_row_dot: bool,
    image_dtype: torch.dtype,
    text_dtype: torch.dtype,
    row_share: Tensor | None = None,
    col_share: Tensor | None = None,
    strip_bytes: int = strip_products.STRIP_BYTES,
    precision: str | None = None,
) -> ClipGradients:
    """alpha G_image text and alpha G_text^T image with G = p (P - Id) + q (Q - Id) for weights (p, q).

    dots[0]: the sum of G times the dot products (of G_image where needed, else of G_text; without alpha); dots[1]: that
    of P where asked for, else 0. Costs 6 M N D operations, 4 where one side is not needed. Memory: one strip and the
    fp32 sums of the text side.

    Args:
        row_lse, col_lse: [M], [N] natural log-sum-exps, positives included.
        row_share, col_share: [M], [N] fp32, 1 - P_ii and 1 - Q_jj where known better than from the log-sum-exps.
        strip_bytes: bound of the workspace (at least 128 rows).
    """
    o = operands(image, text, precision)
    scale, alpha = scalar(scale, o.device), scalar(alpha, o.device)
    dots = torch.zeros(2, dtype=torch.float32, device=o.device)
    height = strip_products.strip_rows(o.rows, o.cols, o.depth, image.element_size(), strip_bytes)
    shares, positive_row_dot = _shares(o, scale, row_lse, col_lse, diagonal, row_share, col_share)
    strips = ClipStrips(o, scale, row_lse, col_lse, diagonal, strip_products.workspace(height, o.cols, o.image))
    image_out = torch.empty(image.shape if need_image else 0, dtype=image_dtype, device=o.device)
    text_raw = torch.empty((o.cols, o.depth) if need_text else 0, dtype=torch.float32, device=o.device)
    unit = strip_products.unit_of(image.dtype)
    image_diagonal = -(image_weights[0] * shares[0] + image_weights[1] * shares[1])
    parts: list[tuple[Tensor, Tensor]] = []
    for begin in range(0, o.rows, height):
        end = min(begin + height, o.rows)
        grad, row_dot, image_dot = None, dots[1], dots[0]
        if need_image or need_row_dot:
            grad, row_dot = strips.fill(begin, end, image_weights, need_row_dot)
        if need_image:
            raw = torch.empty(end - begin, o.depth, dtype=torch.float32, device=o.device)
            multiply(raw, grad, o.text, 1 / unit, add=False)
            pairing = Pairing(image_diagonal[begin:end], o.text, diagonal + begin, False)
            image_out[begin:end], image_dot = finish(raw, o.width, alpha, image_dtype, pairing, o.image[begin:end])
        if need_text:
            if grad is None or text_weights != image_weights:
                grad, _ = strips.fill(begin, end, text_weights, False)
            multiply(text_raw, grad.t(), o.image[begin:end], 1 / unit, add=begin > 0)
        parts.append((image_dot, row_dot))
    if need_image or need_row_dot:
        dots = torch.stack([torch.stack(p) for p in parts]).sum(0)
    if need_row_dot:
        dots[1] += positive_row_dot
    text_out = text_raw.to(text_dtype)
    if need_text:
        text_diagonal = -(text_weights[0] * shares[0] + text_weights[1] * shares[1])
        pairing = Pairing(text_diagonal, o.image, -diagonal, True)
        text_out, text_dot = finish(text_raw, o.width, alpha, text_dtype, pairing, None if need_image else o.text)
        if text_dot is not None:
            dots[0] = text_dot
    return ClipGradients(image_out, text_out, dots)


def _shares(
    o: Operands, scale: Tensor, row_lse: Tensor, col_lse: Tensor, first: int, row: Tensor | None, col: Tensor | None
) -> tuple[Tensor, Tensor]:
    """([2, M] 1 - P_ii and 1 - Q of each row's positive, 0 where it is elsewhere; [] the sum of P_ii <image, text>)."""
    out = torch.zeros(2, o.rows, dtype=torch.float32, device=o.device)
    begin, end = _positives(o, first)
    if begin == end:
        return out, out.sum()
    dots = positive_dots(o.image[begin:end], o.text[begin + first : end + first])
    z = dots.double() * scale
    for share, given, lse, shifted in ((out[0], row, row_lse, 0), (out[1], col, col_lse, first)):
        here = slice(begin + shifted, end + shifted)
        share[begin:end] = -torch.expm1(z - lse[here]) if given is None else given[here]
    return out, ((1 - out[0, begin:end]) * dots).sum()


@torch.no_grad()
def siglip_terms(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    diagonal: int,
    need_image: bool,
    need_text: bool,
    need_sums: bool,
    strip_bytes: int = strip_products.STRIP_BYTES,
    precision: str | None = None,
) -> SiglipTerms:
    """The sum of softplus(-y z) over the block, z = scale <image_i, text_j> + bias, and G = -y sigmoid(-y z) with it.

    y is 1 for j == i + diagonal, else -1. One pass: 6 M N D operations, 2 where no product is needed. Memory: one strip
    and the fp32 sums.
    """
    o = operands(image, text, precision)
    scale, bias = scalar(scale, o.device), scalar(bias, o.device)
    products = need_image or need_text
    height = o.rows
    space = None
    if products or need_sums:
        height = strip_products.strip_rows(o.rows, o.cols, o.depth, image.element_size(), strip_bytes)
        space = strip_products.workspace(height, o.cols, o.image)
    strips = SiglipStrips(o, scale, bias, diagonal, space)
    one, unit = torch.ones_like(scale), strip_products.unit_of(image.dtype)
    image_raw = torch.empty((o.rows, o.depth) if need_image else 0, dtype=torch.float32, device=o.device)
    text_raw = torch.empty((o.cols, o.depth) if need_text else 0, dtype=torch.float32, device=o.device)
    parts = []
    for begin in range(0, o.rows, height):
        end = min(begin + height, o.rows)
        grad, sums = strips.fill(begin, end)
        parts.append(sums)
        if need_image:
            multiply(image_raw[begin:end], grad, o.text, 1 / unit, add=False)
        if need_text:
            multiply(text_raw, grad.t(), o.image[begin:end], 1 / unit, add=begin > 0)
    if need_image:
        pairing = Pairing(strips.diagonal, o.text, diagonal, False)
        image_raw, _ = finish(image_raw, o.width, one, torch.float32, pairing, None)
    if need_text:
        pairing = Pairing(strips.diagonal, o.image, -diagonal, True)
        text_raw, _ = finish(text_raw, o.width, one, torch.float32, pairing, None)
    total = torch.stack(parts).sum(0)
    return SiglipTerms(total[0], image_raw, text_raw, total[1:] if need_sums else torch.zeros_like(total[1:]))
