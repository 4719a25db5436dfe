"""Triton kernels of the SigLIP loss, and the last step that both losses share.

Names as in ``clip_kernels``. A positive pair contributes softplus(-z), any other softplus(z).
"""

from __future__ import annotations

import triton
import triton.language as tl

from dcfast.kernels.clip_kernels import LN2, LOG2E, store_tile, tile_dot

__all__ = ["scale_cast", "siglip_tile"]


@triton.jit
def siglip_tile(
    image, text, scale, bias, out, diag, sums, M, N, D, stride_i, stride_t, stride_o, first, unit, nbm, nbn,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PROGRAMS: tl.constexpr,
    FLATTEN: tl.constexpr, SUB: tl.constexpr, GRAD: tl.constexpr,
    TMA: tl.constexpr, EVEN_K: tl.constexpr, PREC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Loss and gradient in one pass: out[M, N] = unit sigmoid(z) off the diagonal and 0 on it.

    The diagonal's gradient, -sigmoid(-z), goes to diag[M] unrounded. sums[3, tiles]: the loss, and with GRAD the sums
    of gradient times dot product (for the scale) and of the gradient (for the bias), diagonal included.
    """
    s = tl.load(scale).to(tl.float32)
    b = tl.load(bias).to(tl.float32)
    tiles = nbm * nbn
    for t in tl.range(tl.program_id(0), tiles, PROGRAMS, flatten=FLATTEN):
        g = t // (GROUP * nbn)
        height = tl.minimum(nbm - g * GROUP, GROUP)
        pm = g * GROUP + (t % (GROUP * nbn)) % height
        pn = (t % (GROUP * nbn)) // height
        acc = tile_dot(
            image, text, pm * BM, pn * BN, M, N, D, stride_i, stride_t, BM, BN, BK, TMA, EVEN_K, PREC, UPCAST
        )
        om = pm * BM + tl.arange(0, BM)
        on = pn * BN + tl.arange(0, BN)
        isd = (om[:, None] + first) == on[None, :]
        inside = (om[:, None] < M) & (on[None, :] < N)
        z = acc * s + b
        u = tl.where(isd, -z, z)
        e = tl.exp2(-tl.abs(u) * LOG2E)
        # log(1 + e): lg2 errs by an absolute 2**-22 near 1, so small e takes the series
        series = e * (1.0 - e * (1.0 / 2 - e * (1.0 / 3 - e * (1.0 / 4 - e * (1.0 / 5 - e * (1.0 / 6))))))
        l1p = tl.where(e < 0.0625, series, tl.log2(1.0 + e) * LN2)
        loss = tl.where(u > 0, u, 0.0) + l1p + (z - z)  # an infinite logit gives NaN, never a finite loss
        grad = tl.where(u >= 0, 1.0, e) / (1.0 + e)  # no cancellation on either side
        grad = tl.where(isd, -grad, grad)
        tl.store(sums + t, tl.sum(tl.sum(tl.where(inside, loss, 0.0), 1), 0))
        if GRAD:
            grad = tl.where(inside, grad, 0.0)
            tl.store(sums + tiles + t, tl.sum(tl.sum(grad * tl.where(inside, acc, 0.0), 1), 0))
            tl.store(sums + 2 * tiles + t, tl.sum(tl.sum(grad, 1), 0))
            lo = pm * BM + first
            if (lo < pn * BN + BN) & (pn * BN < lo + BM):
                here = (om + first >= pn * BN) & (om + first < tl.minimum(pn * BN + BN, N))
                tl.store(diag + om, tl.sum(tl.where(isd, grad, 0.0), 1), mask=(om < M) & here)
                grad = tl.where(isd, 0.0, grad)
            store_tile(out, grad * unit, pm * BM, pn * BN, M, N, stride_o, BM, BN, SUB, TMA)


@triton.jit
def scale_cast(
    raw, x, alpha, out, dots, diag, partner, rows, partners, depth, stride_raw, stride_x, stride_out, stride_partner,
    offset,
    DOTS: tl.constexpr, BY_PARTNER: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """out = alpha (raw + diag partner) in out's type; dots[p] = the sum of x times the same, without alpha.

    Row i's partner is row i + offset of ``partner`` (the positive), if there is one; ``diag`` is indexed by the row, or
    by the partner (BY_PARTNER). So the largest entries of the logits' gradient are never rounded to half precision.
    """
    factor = tl.load(alpha).to(tl.float32)
    pid = tl.program_id(0)
    om = (pid * BM + tl.arange(0, BM)).to(tl.int64)
    op = om + offset
    paired = (om < rows) & (op >= 0) & (op < partners)
    weight = tl.load(diag + (op if BY_PARTNER else om), mask=paired, other=0.0)
    total = tl.zeros((BM,), dtype=tl.float32)
    for k in range(0, depth, BK):
        ok = k + tl.arange(0, BK)
        inside = ok[None, :] < depth
        mask = (om[:, None] < rows) & inside
        v = tl.load(raw + om[:, None] * stride_raw + ok[None, :], mask=mask, other=0.0)
        y = tl.load(partner + op[:, None] * stride_partner + ok[None, :], mask=paired[:, None] & inside, other=0.0)
        v += weight[:, None] * y.to(tl.float32)
        if DOTS:
            w = tl.load(x + om[:, None] * stride_x + ok[None, :], mask=mask, other=0.0)
            total += tl.sum(v * w.to(tl.float32), 1)
        tl.store(out + om[:, None] * stride_out + ok[None, :], (v * factor).to(out.dtype.element_ty), mask=mask)
    if DOTS:
        tl.store(dots + pid, tl.sum(total, 0))
