"""Triton kernels of the CLIP loss: feature norms, one-sweep forward, its statistics, gradient.

Legend: M image rows (one rank's), N text rows, D padded feature width, BM/BN/BK tile sizes. With scale s,
z2 = s log2(e) <image_i, text_j> are the logits in base 2 and x = z2 - shift the exponents that are really summed.
Row i's positive is column i + first; ``first`` may be negative or beyond N (then this block holds no positives).

Off-diagonal sums and the diagonal are kept apart: 1 - P_ii is (off-diagonal sum) / (sum) without cancellation, so
loss and gradient keep their relative accuracy on a batch that is nearly fitted.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# Below 2**-90 what exp2 flushes (under 2**-126 a term) may be more than a millionth of the sum
FLOOR = tl.constexpr(2.0**-90)
# Numbers that change with the batch: a machine code for each of their values' kinds (1, multiples of 16) would be no
# faster, and would be compiled for every new size of a batch, seconds each
SIZES = ("M", "N", "rows_n", "cols_n", "first", "nbm", "nbn", "chunks", "per")


@triton.jit
def tile_dot(
    a, b, row0, col0, rows, cols, depth, stride_a, stride_b,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    TMA: tl.constexpr, EVEN_K: tl.constexpr, PREC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One BM x BN tile of a @ b.T in fp32; a and b are descriptors (TMA) or pointers to rows of aligned features."""
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    if TMA:
        for k in range(0, depth, BK):
            x = a.load([row0, k])
            y = b.load([col0, k])
            if UPCAST:  # the interpreter multiplies bf16 as the integers it stores them in
                x = x.to(tl.float32)
                y = y.to(tl.float32)
            acc = tl.dot(x, y.T, acc, input_precision=PREC)
    else:
        # rows past the end repeat the last one: no mask in the loop, callers mask the edge tiles
        om = tl.minimum(row0 + tl.arange(0, BM), rows - 1).to(tl.int64)
        on = tl.minimum(col0 + tl.arange(0, BN), cols - 1).to(tl.int64)
        ok = tl.arange(0, BK)
        pa = a + om[:, None] * stride_a + ok[None, :]
        pb = b + on[None, :] * stride_b + ok[:, None]
        for k in range(0, depth, BK):
            if EVEN_K:
                x = tl.load(pa)
                y = tl.load(pb)
            else:
                x = tl.load(pa, mask=ok[None, :] < depth - k, other=0.0)
                y = tl.load(pb, mask=ok[:, None] < depth - k, other=0.0)
            if UPCAST:
                x = x.to(tl.float32)
                y = y.to(tl.float32)
            acc = tl.dot(x, y, acc, input_precision=PREC)
            pa += BK
            pb += BK
    return acc


@triton.jit
def grouped_block(t, nbm, nbn, GROUP: tl.constexpr):
    """Row and column block of a tile: GROUP row blocks are done together, so that a text block is read from L2."""
    g = t // (GROUP * nbn)
    height = tl.minimum(nbm - g * GROUP, GROUP)
    return g * GROUP + (t % (GROUP * nbn)) % height, (t % (GROUP * nbn)) // height


@triton.jit
def off_diagonal(diagonal, rows, cols, BM: tl.constexpr, BN: tl.constexpr):
    """Which entries of a tile count: inside its first rows and cols, not positive (row i's is column i + diagonal).

    In coordinates of the tile that change from tile to tile, so that a sweep keeps none of it in registers.
    """
    i = tl.arange(0, BM)[:, None]
    j = tl.arange(0, BN)[None, :]
    return (i < rows) & (j < cols) & (i + diagonal != j)


@triton.jit(do_not_specialize=["rows"])
def row_norms(x, out, rows, depth, stride, BM: tl.constexpr, BK: tl.constexpr):
    """out[p] = the largest squared norm among BM rows."""
    pid = tl.program_id(0)
    om = (pid * BM + tl.arange(0, BM)).to(tl.int64)
    total = tl.zeros((BM,), dtype=tl.float32)
    for k in range(0, depth, BK):
        ok = k + tl.arange(0, BK)
        v = tl.load(
            x + om[:, None] * stride + ok[None, :], mask=(om[:, None] < rows) & (ok[None, :] < depth), other=0.0
        )
        v = v.to(tl.float32)
        total += tl.sum(v * v, 1)
    tl.store(out + pid, tl.max(total, 0))


@triton.jit(do_not_specialize=["rows"])
def row_dots(
    x, y, scale, shift, out, rows, depth, stride_x, stride_y,
    EXPONENT: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """out[i] = <x_i, y_i>, or the exponent scale log2(e) <x_i, y_i> - shift."""
    om = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)
    total = tl.zeros((BM,), dtype=tl.float32)
    for k in range(0, depth, BK):
        ok = k + tl.arange(0, BK)
        mask = (om[:, None] < rows) & (ok[None, :] < depth)
        v = tl.load(x + om[:, None] * stride_x + ok[None, :], mask=mask, other=0.0)
        w = tl.load(y + om[:, None] * stride_y + ok[None, :], mask=mask, other=0.0)
        total += tl.sum(v.to(tl.float32) * w.to(tl.float32), 1)
    if EXPONENT:
        total = total * (tl.load(scale).to(tl.float32) * LOG2E) - tl.load(shift)
    tl.store(out + om, total, mask=om < rows)


@triton.jit(do_not_specialize=["count_a", "count_b"])
def clip_shift(norms_a, norms_b, scale, out, count_a, count_b, top, BLOCK: tl.constexpr):
    """The fixed shift: as near to 0 as keeps every sum below 2**126 (there exp2's argument is rounded least)."""
    o = tl.arange(0, BLOCK)
    best_a = tl.zeros((BLOCK,), dtype=tl.float32)
    for i in range(0, count_a, BLOCK):
        best_a = tl.maximum(best_a, tl.load(norms_a + i + o, mask=i + o < count_a, other=0.0))
    best_b = tl.zeros((BLOCK,), dtype=tl.float32)
    for i in range(0, count_b, BLOCK):
        best_b = tl.maximum(best_b, tl.load(norms_b + i + o, mask=i + o < count_b, other=0.0))
    s = tl.abs(tl.load(scale).to(tl.float32)) * LOG2E
    # 1.001: what rounding may add to a dot product beyond Cauchy and Schwarz
    bound = s * tl.sqrt(tl.max(best_a, 0)) * tl.sqrt(tl.max(best_b, 0)) * 1.001
    tl.store(out, tl.maximum(bound - top, 0.0))


@triton.jit(do_not_specialize=SIZES)
def clip_sweep(
    image, text, scale, shift, row_part, col_part, M, N, D, stride_i, stride_t, first, nbm, nbn, chunks, per,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, W: tl.constexpr, PROGRAMS: tl.constexpr,
    TMA: tl.constexpr, EVEN_K: tl.constexpr, PREC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One exp2 a logit gives row and column sums of 2**x off the diagonal.

    A program sweeps ``per`` row blocks of one column block and keeps the column partials of its lanes in registers
    (no shuffles): col_part[(chunk, warp, lane row), N]. Rows: row_part[nbn, M]. Every partial has one writer.
    """
    a2 = tl.load(scale).to(tl.float32) * LOG2E
    m2 = tl.load(shift)
    for u in range(tl.program_id(0), nbn * chunks, PROGRAMS):
        pn = u // chunks
        ch = u % chunks
        on = pn * BN + tl.arange(0, BN)
        csum = tl.zeros((W, 8, BN), dtype=tl.float32)
        for pm in range(ch * per, tl.minimum(ch * per + per, nbm)):
            acc = tile_dot(
                image, text, pm * BM, pn * BN, M, N, D, stride_i, stride_t, BM, BN, BK, TMA, EVEN_K, PREC, UPCAST
            )
            om = pm * BM + tl.arange(0, BM)
            e = tl.exp2(acc * a2 - m2)
            diagonal = pm * BM + first - pn * BN
            if (diagonal < BN) & (diagonal > -BM) | (pm * BM + BM > M) | (pn * BN + BN > N):
                e = tl.where(off_diagonal(diagonal, M - pm * BM, N - pn * BN, BM, BN), e, 0.0)
            tl.store(row_part + pn.to(tl.int64) * M + om, tl.sum(e, 1), mask=om < M)
            csum += tl.sum(tl.sum(tl.reshape(e, (BM // (16 * W), W, 2, 8, BN)), 0), 1)
        r = tl.arange(0, W)[:, None, None] * 8 + tl.arange(0, 8)[None, :, None]
        to = col_part + (ch * (W * 8) + r).to(tl.int64) * N + on[None, None, :]
        tl.store(to, csum, mask=(on[None, None, :] < N) & (r < W * 8))


@triton.jit(do_not_specialize=["n"])
def clip_stats(off, diag, shift, stats, flags, n, BLOCK: tl.constexpr):
    """stats[4, n] = 1/sum, the shift, 1 - P_ii, -log P_ii; flags[p]: a sum too small to be trusted.

    In float64, so that logarithms add no error: this is work for n elements only.
    """
    pid = tl.program_id(0)
    o = pid * BLOCK + tl.arange(0, BLOCK)
    ok = o < n
    s = tl.load(off + o, mask=ok, other=1.0).to(tl.float64)
    x = tl.load(diag + o, mask=ok, other=0.0).to(tl.float64)
    e = tl.exp2(x)
    total = s + e
    lse = tl.log2(total)
    t = s / e
    # log(1 + t): of t itself where 1 + t has lost it; where the quotient is meaningless the exponents tell
    log1p = tl.where(t < 1e-9, t, tl.log2(1.0 + t) * LN2)
    nll = tl.where(t < 1e9, log1p, (lse - x) * LN2)
    tl.store(stats + o, (1.0 / total).to(tl.float32), mask=ok)
    tl.store(stats + n + o, tl.zeros((BLOCK,), dtype=tl.float32) + tl.load(shift), mask=ok)
    tl.store(stats + 2 * n + o, (s / total).to(tl.float32), mask=ok)
    tl.store(stats + 3 * n + o, nll.to(tl.float32), mask=ok)
    tl.store(flags + pid, tl.max(tl.where(ok & (total < FLOOR), 1, 0), 0))


@triton.jit(do_not_specialize=["n"])
def clip_restate(off, diag_z2, flag, stats, n, BLOCK: tl.constexpr):
    """Only where the flag is set: the statistics again, from off[2, n], exponents and sums relative to them.

    In the place of the shift comes the largest exponent, which float32 holds exactly whatever its size.
    """
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = (o < n) & (tl.load(flag) != 0)
    s = tl.load(off + o, mask=ok, other=0.0).to(tl.float64)
    z = tl.load(diag_z2 + o, mask=ok, other=0.0).to(tl.float64)
    top = tl.maximum(s, z)
    base = tl.where(top == float("-inf"), 0.0, top)
    rest = tl.load(off + n + o, mask=ok, other=1.0).to(tl.float64)
    t = rest * tl.exp2(tl.minimum(s - z, 64.0))
    rest = rest * tl.exp2(s - base)
    total = rest + tl.exp2(z - base)
    # a positive of -inf makes the loss infinite or NaN, never 0
    far = (t >= 1e9) | (z == float("-inf"))
    nll = tl.where(far, (tl.log2(total) + (top - z)) * LN2, tl.where(t < 1e-9, t, tl.log2(1.0 + t) * LN2))
    tl.store(stats + o, (1.0 / total).to(tl.float32), mask=ok)
    tl.store(stats + n + o, top.to(tl.float32), mask=ok)
    tl.store(stats + 2 * n + o, (rest / total).to(tl.float32), mask=ok)
    tl.store(stats + 3 * n + o, nll.to(tl.float32), mask=ok)


@triton.jit(do_not_specialize=SIZES)
def clip_online(
    a, b, scale, flag, off, M, N, D, stride_a, stride_b, first, nbm, nbn,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PROGRAMS: tl.constexpr,
    TMA: tl.constexpr, EVEN_K: tl.constexpr, PREC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Only where the flag is set: off[2, M], the largest exponent of a's rows off the diagonal and the sum from it."""
    a2 = tl.load(scale).to(tl.float32) * LOG2E
    blocks = tl.where(tl.load(flag) != 0, nbm, 0)
    for pm in range(tl.program_id(0), blocks, PROGRAMS):
        om = pm * BM + tl.arange(0, BM)
        top = tl.full((BM,), float("-inf"), dtype=tl.float32)
        total = tl.zeros((BM,), dtype=tl.float32)
        for pn in range(0, nbn):
            acc = tile_dot(a, b, pm * BM, pn * BN, M, N, D, stride_a, stride_b, BM, BN, BK, TMA, EVEN_K, PREC, UPCAST)
            kept = off_diagonal(pm * BM + first - pn * BN, BM, N - pn * BN, BM, BN)
            x = tl.where(kept, acc * a2, float("-inf"))
            higher = tl.maximum(top, tl.max(x, 1))
            base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen yet: -inf - -inf is NaN
            total = total * tl.exp2(top - base) + tl.sum(tl.exp2(x - base[:, None]), 1)
            top = higher
        tl.store(off + om, top.to(tl.float64), mask=om < M)
        tl.store(off + M + om, total.to(tl.float64), mask=om < M)


@triton.jit(do_not_specialize=SIZES)
def clip_grad(
    image, text, scale, rows, cols, flag, out, dots, M, N, D, stride_i, stride_t, stride_o, rows_n, cols_n,
    first, row_weight, col_weight, nbm, nbn,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PROGRAMS: tl.constexpr,
    FLATTEN: tl.constexpr, SUB: tl.constexpr, FLAGGED: tl.constexpr, DOTS: tl.constexpr,
    TMA: tl.constexpr, EVEN_K: tl.constexpr, PREC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """out[M, N] = row_weight P + col_weight Q off the diagonal and 0 on it (the caller adds that part unrounded).

    rows[4, M], cols[4, N] are ``clip_stats``; rows_n and cols_n their strides. Two launches share the work: one runs
    where the flag is clear (one exp2 a logit, against the common shift, the base of all), one where it is set (two
    exp2, against the largest exponents). dots[2, tiles]: sums of P and of Q times the dot products, off the diagonal.
    """
    a2 = tl.load(scale).to(tl.float32) * LOG2E
    m2 = tl.load(rows + rows_n)
    tiles = tl.where((tl.load(flag) != 0) == FLAGGED, nbm * nbn, 0)
    for t in tl.range(tl.program_id(0), tiles, PROGRAMS, flatten=FLATTEN):
        pm, pn = grouped_block(t, nbm, nbn, GROUP)
        acc = tile_dot(
            image, text, pm * BM, pn * BN, M, N, D, stride_i, stride_t, BM, BN, BK, TMA, EVEN_K, PREC, UPCAST
        )
        om = pm * BM + tl.arange(0, BM)
        on = pn * BN + tl.arange(0, BN)
        diagonal = pm * BM + first - pn * BN
        # with dots every entry counts, else the store drops what is outside
        masked = (diagonal < BN) & (diagonal > -BM)
        if DOTS:
            masked = masked | (pn * BN + BN > N) | (pm * BM + BM > M)
        r = tl.load(rows + om, mask=om < M, other=0.0)
        c = tl.load(cols + on, mask=on < N, other=0.0)
        if FLAGGED:
            r_top = tl.load(rows + rows_n + om, mask=om < M, other=0.0)
            c_top = tl.load(cols + cols_n + on, mask=on < N, other=0.0)
            # the largest exponent is the base: above it is one alone whose product was rounded otherwise before
            p, q = acc * a2 - r_top[:, None], acc * a2 - c_top[None, :]
            p = tl.exp2(tl.where(p > 0, 0.0, p)) * r[:, None]  # not by tl.minimum: a NaN stays one
            q = tl.exp2(tl.where(q > 0, 0.0, q)) * c[None, :]
            if masked:
                kept = off_diagonal(diagonal, M - pm * BM, N - pn * BN, BM, BN)
                p = tl.where(kept, p, 0.0)
                q = tl.where(kept, q, 0.0)
            x = row_weight * p + col_weight * q
            if DOTS:
                tl.store(dots + t, tl.sum(tl.sum(p * acc, 1), 0))
                tl.store(dots + nbm * nbn + t, tl.sum(tl.sum(q * acc, 1), 0))
        else:
            e = tl.exp2(acc * a2 - m2)
            if masked:
                e = tl.where(off_diagonal(diagonal, M - pm * BM, N - pn * BN, BM, BN), e, 0.0)
            x = e * (row_weight * r[:, None] + col_weight * c[None, :])
            if DOTS:
                tl.store(dots + t, tl.sum(tl.sum(e * acc, 1) * r, 0))
                tl.store(dots + nbm * nbn + t, tl.sum(tl.sum(e * acc * c[None, :], 1), 0))
        store_tile(out, x, pm * BM, pn * BN, M, N, stride_o, BM, BN, SUB, TMA)


@triton.jit
def store_tile(
    out, x, row0, col0, M, N, stride, BM: tl.constexpr, BN: tl.constexpr, SUB: tl.constexpr, TMA: tl.constexpr
):
    """Writes a tile in out's type; in two halves (SUB) its staging buffer in shared memory is half as large."""
    if TMA:
        y = x.to(out.dtype)
        if SUB:
            y0, y1 = tl.split(tl.permute(tl.reshape(y, (BM, 2, BN // 2)), (0, 2, 1)))
            out.store([row0, col0], y0)
            out.store([row0, col0 + BN // 2], y1)
        else:
            out.store([row0, col0], y)
    else:
        om = row0 + tl.arange(0, BM)
        on = col0 + tl.arange(0, BN)
        to = out + om[:, None].to(tl.int64) * stride + on[None, :]
        tl.store(to, x.to(out.dtype.element_ty), mask=(om[:, None] < M) & (on[None, :] < N))
