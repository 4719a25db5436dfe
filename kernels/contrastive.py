"""Launch functions of the contrastive losses: tensors in, tensors out, nothing waits for the device.

The functions of ``dcfast.loss.backend.Backend`` for float32, bfloat16 and float16 features on a CUDA device, or on the
CPU under ``TRITON_INTERPRET=1``. They see a block of the matrix of logits: image [M, D] (one rank's rows), text [N, D]
(all of them, or a block), and ``first``: row i's positive is column i + first, which may lie outside. They check
nothing (``dcfast.loss`` does) and know nothing of processes.

One device:

    stats = clip_forward(image, text, scale)          # the loss is the mean of stats.rows[NLL] and stats.cols[NLL]
    products = clip_products(image, text, scale, stats)
    d_image, d_scale = finish(products.image, scale, factor, image.dtype, dot_with=image)   # factor: upstream / (2 N)

Several ranks: the all-reduced (MAX) maximum of ``clip_norms`` -> ``clip_shift`` -> ``clip_sums``; column sums
all-reduced (SUM), diagonals gathered -> ``clip_stats``; the flag all-reduced (MAX) -> ``clip_online`` (its columns to
be combined over ranks) and ``clip_restate``, which do nothing where it is clear.

The launches are the same whatever the data, so that they can be captured in a CUDA graph once tile sizes have been
chosen. Results are bit-equal from run to run: every partial sum has one writer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from dcfast.kernels import clip_kernels, tuning
from dcfast.kernels.operands import Operands, blocks, largest_norms, on_device, operands, row_stride, scalar, workers
from dcfast.kernels.products import clip_products, finish, siglip_block
from dcfast.kernels.tuning import Config
from dcfast.loss.backend import BASE, INVERSE, ClipStats, ClipSums
from torch import Tensor

if TYPE_CHECKING:
    from dcfast.loss.backend import Side

__all__ = [
    "clip_forward",
    "clip_log_sums",
    "clip_norms",
    "clip_online",
    "clip_products",
    "clip_relative",
    "clip_restate",
    "clip_shift",
    "clip_stats",
    "clip_sums",
    "finish",
    "siglip_block",
]


@torch.no_grad()
def clip_norms(x: Tensor, /) -> Tensor:
    """[blocks] fp32: the largest squared norm of each 16 rows."""
    return largest_norms(x)


@torch.no_grad()
def clip_shift(image_norms: Tensor, text_norms: Tensor, scale: Tensor, terms: int, /) -> Tensor:
    """[] fp32: what is taken off every exponent, such that no sum of ``terms`` of them overflows; 0 if possible.

    Args:
        image_norms, text_norms: squared norms or their maxima, any length, over ALL rows that take part.
        terms: the larger of the numbers of all rows and all columns (the same on every rank).
    """
    out = torch.empty((), dtype=torch.float32, device=image_norms.device)
    top = float(126 - math.ceil(math.log2(max(terms, 2))))
    with on_device(out):
        clip_kernels.clip_shift[(1,)](
            image_norms, text_norms, scalar(scale, out.device), out, image_norms.numel(), text_norms.numel(), top,
            BLOCK=_vector_block(),
        )  # fmt: skip
    return out


def _vector_block() -> int:
    return 64 if tuning.INTERPRETED else 1024


@torch.no_grad()
def clip_sums(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    shift: Tensor,
    first: int = 0,
    /,
    *,
    precision: str | None = None,
    config: Config | None = None,
) -> ClipSums:
    """One sweep over the block, 2 M N D operations. Memory while it runs: about 0.1 byte a logit.

    Args:
        precision: of float32 products: "ieee", "tf32x3" or "tf32"; by default torch.get_float32_matmul_precision()'s.
        config: tile sizes; by default measured once and kept (see ``tuning``).
    """
    o = operands(image, text, precision)
    scale = scalar(scale, o.device)
    if config is None:
        config = tuning.choose(
            "clip_sweep", o.device, image.dtype, o.shape, o.precision, lambda c: _sweep(o, scale, shift, first, c)
        )
    row_off, col_off = _sweep(o, scale, shift, first, config)
    return ClipSums(row_off, col_off, _positive_exponents(o, scale, shift, first))


def chunks_of(row_blocks: int, col_blocks: int, workers: int) -> int:
    """Row chunks a column block is cut into: what keeps the workers busy with the fewest partial sums."""
    best, least = 1, math.inf
    for chunks in range(1, min(row_blocks, 64) + 1):
        rounds = -(-col_blocks * chunks // workers)
        cost = rounds * -(-row_blocks // chunks) * (1 + 0.002 * chunks)
        if cost < least:
            best, least = chunks, cost
    return best


def _sweep(o: Operands, scale: Tensor, shift: Tensor, first: int, c: Config) -> tuple[Tensor, Tensor]:
    nbm, nbn = blocks(o.rows, c.bm), blocks(o.cols, c.bn)
    most = workers(o.device)
    per = blocks(nbm, chunks_of(nbm, nbn, min(most, nbm * nbn)))
    chunks = blocks(nbm, per)
    row_part = torch.empty(nbn, o.rows, dtype=torch.float32, device=o.device)
    col_part = torch.empty(chunks * c.row_warps * 8, o.cols, dtype=torch.float32, device=o.device)
    with on_device(row_part):
        clip_kernels.clip_sweep[(min(most, nbn * chunks),)](
            *o.sources(c), scale, shift, row_part, col_part, *o.sizes(), first, nbm, nbn, chunks, per,
            W=c.row_warps, PROGRAMS=most, **o.options(c),
        )  # fmt: skip
    return row_part.sum(0), col_part.sum(0)


def _positive_exponents(o: Operands, scale: Tensor, shift: Tensor, first: int) -> Tensor:
    """[M] fp32: scale log2(e) <image_i, text_(i + first)> - shift; -inf where that column is not in the block."""
    out = torch.full((o.rows,), -math.inf, dtype=torch.float32, device=o.device)
    begin, end = o.positives(first)
    if begin < end:
        with on_device(out):
            clip_kernels.row_dots[(blocks(end - begin, 16),)](
                o.image[begin:], o.text[begin + first :], scale, shift, out[begin:], end - begin, o.depth,
                row_stride(o.image), row_stride(o.text), EXPONENT=True, BM=16, BK=128, num_warps=4,
            )  # fmt: skip
    return out


@torch.no_grad()
def clip_stats(rows: Side, cols: Side, shift: Tensor, /) -> ClipStats:
    """[4, n] fp32 statistics of rows and columns, each from complete sums and their positives."""
    (row_stats, row_flags), (col_stats, col_flags) = _stats(*rows, shift), _stats(*cols, shift)
    return ClipStats(row_stats, col_stats, torch.maximum(row_flags.amax(), col_flags.amax()))


def _stats(off: Tensor, diag: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """([4, n] statistics, [blocks] flags)."""
    n, block = off.numel(), _vector_block()
    stats = torch.empty(4, n, dtype=torch.float32, device=off.device)
    flags = torch.empty(blocks(n, block), dtype=torch.int32, device=off.device)
    with on_device(off):
        clip_kernels.clip_stats[(flags.numel(),)](off, diag, shift, stats, flags, n, BLOCK=block)
    return stats, flags


@torch.no_grad()
def clip_online(
    image: Tensor, text: Tensor, scale: Tensor, flag: Tensor, first: int = 0, /, *, precision: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the flag is set: sums without the positives of rows [2, M] and columns [2, N], and the positives' z2, [M].

    Sums are float64: the largest base-2 exponent, and the sum relative to it. Costs 4 M N D operations then. Where it
    is clear the kernels end at once and the sums are undefined.
    """
    o = operands(image, text, precision)
    scale = scalar(scale, o.device)
    rows, cols = _online(o, scale, flag, first), _online(o.swapped(), scale, flag, -first)
    return rows, cols, _positive_exponents(o, scale, torch.zeros_like(scale), first)


def _online(o: Operands, scale: Tensor, flag: Tensor, first: int) -> Tensor:
    c = tuning.default_config("clip_online", o.device, o.image.dtype, o.precision, o.rows)
    nbm, nbn = blocks(o.rows, c.bm), blocks(o.cols, c.bn)
    off = torch.empty(2, o.rows, dtype=torch.float64, device=o.device)
    most = workers(o.device)
    with on_device(off):
        clip_kernels.clip_online[(min(most, nbm),)](
            *o.sources(c), scale, flag, off, *o.sizes(), first, nbm, nbn,
            # what is subtracted has to be the exponent as it was rounded
            PROGRAMS=most, enable_fp_fusion=False, **o.options(c),
        )  # fmt: skip
    return off


@torch.no_grad()
def clip_relative(sums: Tensor, top: Tensor, /) -> Tensor:
    """[n] sums [2, n] of ``clip_online`` relative to other exponents."""
    return sums[1] * (sums[0] - torch.where(top == -math.inf, 0, top)).exp2()


@torch.no_grad()
def clip_log_sums(stats: Tensor, /) -> Tensor:
    """[n] float64 natural log-sum-exps from statistics."""
    return (stats[BASE].double() - stats[INVERSE].double().log2()) * math.log(2.0)


@torch.no_grad()
def clip_restate(stats: ClipStats, rows: Side, cols: Side, /) -> None:
    """Replaces the statistics in place from ``clip_online``'s sums and positives where the flag is set."""
    for side, (off, diag) in zip(stats[:2], (rows, cols), strict=True):
        n, block = diag.numel(), _vector_block()
        with on_device(side):
            clip_kernels.clip_restate[(blocks(n, block),)](off, diag, stats.flag, side, n, BLOCK=block)


@torch.no_grad()
def clip_forward(
    image: Tensor, text: Tensor, scale: Tensor, /, *, precision: str | None = None, config: Config | None = None
) -> ClipStats:
    """The whole forward pass on one device, image and text [N, D]; the loss is the mean of both NLL rows.

    Memory: about 0.1 byte a logit while it runs, 32 bytes a sample after it.
    """
    o = operands(image, text, precision)  # aligned once
    scale = scalar(scale, o.device)
    shift = clip_shift(clip_norms(o.image), clip_norms(o.text), scale, o.rows)
    sums = clip_sums(o.image, o.text, scale, shift, precision=precision, config=config)
    stats = clip_stats((sums.row_off, sums.diag), (sums.col_off, sums.diag), shift)
    by_row, by_col, diag = clip_online(o.image, o.text, scale, stats.flag, precision=precision)
    clip_restate(stats, (by_row, diag), (by_col, diag))
    return stats
