"""Triton kernels of the SigLIP loss, and the steps around the library's products.

Names as in ``clip_kernels``. A positive pair adds softplus(-z) to the loss, any other softplus(z).
"""

from __future__ import annotations

import triton
import triton.language as tl
from dcfast.kernels.clip_kernels import LN2, LOG2E, SIZES, grouped_block, off_diagonal, store_tile, tile_dot


@triton.jit
def negatives(
    acc, s, b, out, row0, col0, M, N, stride_o, first, unit,
    GRAD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """From the dot products of a tile: its gradient to out, and three sums (0 for the last two without GRAD)."""
    z = acc * s + b
    diagonal = row0 + first - col0
    if (diagonal < BN) & (diagonal > -BM) | (row0 + BM > M) | (col0 + BN > N):
        # adds nothing to any sum
        z = tl.where(off_diagonal(diagonal, M - row0, N - col0, BM, BN), z, float("-inf"))
    e = tl.exp2(-tl.abs(z) * LOG2E)
    # log(1 + e): lg2 errs by an absolute 2**-22 near 1, so small e takes the series
    series = e * (1.0 - e * (1.0 / 2 - e * (1.0 / 3 - e * (1.0 / 4 - e * (1.0 / 5 - e * (1.0 / 6))))))
    loss = tl.where(e < 0.0625, series, tl.log2(1.0 + e) * LN2) + tl.where(z > 0, z, 0.0)
    total = tl.sum(tl.sum(loss, 1), 0)
    by_dot = 0.0
    plain = 0.0
    if GRAD:
        grad = tl.where(z >= 0, 1.0, e) / (1.0 + e)  # no cancellation on either side
        by_dot = tl.sum(tl.sum(grad * acc, 1), 0)
        plain = tl.sum(tl.sum(grad, 1), 0)
        store_tile(out, grad * unit, row0, col0, M, N, stride_o, BM, BN, False, TMA)
    return total, by_dot, plain


@triton.jit(do_not_specialize=SIZES)
def siglip_tile(
    image, text, scale, bias, out, sums, M, N, D, stride_i, stride_t, stride_o, first, unit, nbm, nbn,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PROGRAMS: tl.constexpr,
    FLATTEN: tl.constexpr, SUB: tl.constexpr, GRAD: tl.constexpr,
    TMA: tl.constexpr, EVEN_K: tl.constexpr, PREC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """The negative pairs in one pass: out[M, N] = unit sigmoid(z) off the diagonal and 0 on it.

    sums[3, tiles]: softplus(z), and with GRAD sigmoid(z) times the dot product, and sigmoid(z), off the diagonal. The
    caller adds the positives, which are few.
    """
    s = tl.load(scale).to(tl.float32)
    b = tl.load(bias).to(tl.float32)
    tiles = nbm * nbn
    for t in tl.range(tl.program_id(0), tiles, PROGRAMS, flatten=FLATTEN):
        pm, pn = grouped_block(t, nbm, nbn, GROUP)
        acc = tile_dot(
            image, text, pm * BM, pn * BN, M, N, D, stride_i, stride_t, BM, BN, BK, TMA, EVEN_K, PREC, UPCAST
        )
        if SUB:
            left, right = tl.split(tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1)))
            sums_l = negatives(left, s, b, out, pm * BM, pn * BN, M, N, stride_o, first, unit, GRAD, BM, BN // 2, TMA)
            sums_r = negatives(
                right, s, b, out, pm * BM, pn * BN + BN // 2, M, N, stride_o, first, unit, GRAD, BM, BN // 2, TMA
            )
            tl.store(sums + t, sums_l[0] + sums_r[0])
            tl.store(sums + tiles + t, sums_l[1] + sums_r[1])
            tl.store(sums + 2 * tiles + t, sums_l[2] + sums_r[2])
        else:
            whole = negatives(acc, s, b, out, pm * BM, pn * BN, M, N, stride_o, first, unit, GRAD, BM, BN, TMA)
            tl.store(sums + t, whole[0])
            tl.store(sums + tiles + t, whole[1])
            tl.store(sums + 2 * tiles + t, whole[2])


@triton.jit(do_not_specialize=["rows", "partners", "offset"])
def seed_positives(
    out, weight, partner, rows, partners, depth, stride_out, stride_partner, offset,
    BY_PARTNER: tl.constexpr, ADD: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """out[i] = weight partner[i + offset] (0 where that row does not exist), added to what is there with ADD.

    ``weight`` is indexed by the row, or by the partner (BY_PARTNER). The products are then added to it: so the largest
    entries of the logits' gradient, the positives', are never rounded to half precision.
    """
    om = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)
    op = om + offset
    paired = (om < rows) & (op >= 0) & (op < partners)
    if BY_PARTNER:
        w = tl.load(weight + op, mask=paired, other=0.0)
    else:
        w = tl.load(weight + om, mask=paired, other=0.0)
    for k in range(0, depth, BK):
        ok = k + tl.arange(0, BK)
        inside = ok[None, :] < depth
        y = tl.load(partner + op[:, None] * stride_partner + ok[None, :], mask=paired[:, None] & inside, other=0.0)
        v = tl.where(paired[:, None], w[:, None] * y.to(tl.float32), 0.0)
        to = out + om[:, None] * stride_out + ok[None, :]
        mask = (om[:, None] < rows) & inside
        if ADD:
            v += tl.load(to, mask=mask, other=0.0)
        tl.store(to, v, mask=mask)


@triton.jit(do_not_specialize=["rows"])
def scale_cast(
    raw, x, scale, factor, out, dots, rows, depth, stride_raw, stride_x, stride_out,
    DOTS: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """out = raw * scale * factor in out's type, and dots[p] = the sum of x * raw over BM rows."""
    k2 = tl.load(scale).to(tl.float32) * tl.load(factor).to(tl.float32)
    pid = tl.program_id(0)
    om = (pid * BM + tl.arange(0, BM)).to(tl.int64)
    total = tl.zeros((BM,), dtype=tl.float32)
    for k in range(0, depth, BK):
        ok = k + tl.arange(0, BK)
        mask = (om[:, None] < rows) & (ok[None, :] < depth)
        v = tl.load(raw + om[:, None] * stride_raw + ok[None, :], mask=mask, other=0.0)
        if DOTS:
            y = tl.load(x + om[:, None] * stride_x + ok[None, :], mask=mask, other=0.0)
            total += tl.sum(v * y.to(tl.float32), 1)
        tl.store(out + om[:, None] * stride_out + ok[None, :], (v * k2).to(out.dtype.element_ty), mask=mask)
    if DOTS:
        tl.store(dots + pid, tl.sum(total, 0))
