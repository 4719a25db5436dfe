"""Triton kernels of similarity: the best two columns of each row, pairs above a threshold, exact sums, copies.

Legend: M rows and N columns of half precision features, D padded feature width, BM/BN/BK tile sizes. Scores are fp32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from dcfast.kernels.clip_kernels import grouped_block, tile_dot

# Numbers that change from call to call: a machine code for each of their values' kinds would be no faster
SIZES = ("M", "N", "nbm", "nbn", "per", "capacity", "count_pairs", "count_rows")


@triton.jit(do_not_specialize=SIZES)
def select_best(
    rows, cols, first, second, place, M, N, D, stride_r, stride_c, nbm, nbn, per,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    TMA: tl.constexpr, EVEN_K: tl.constexpr, PREC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A block of rows against ``per`` blocks of columns: highest score, its column (lowest of ties), the next score.

    Results are (splits, M): each program is the only writer of its own.
    """
    pm = tl.program_id(0) % nbm
    split = tl.program_id(0) // nbm
    j = tl.arange(0, BN)
    best = tl.full((BM,), float("-inf"), tl.float32)
    follow = tl.full((BM,), float("-inf"), tl.float32)
    where = tl.zeros((BM,), dtype=tl.int32)
    for pn in range(split * per, tl.minimum(split * per + per, nbn)):
        acc = tile_dot(rows, cols, pm * BM, pn * BN, M, N, D, stride_r, stride_c, BM, BN, BK, TMA, EVEN_K, PREC, UPCAST)
        acc = tl.where(j[None, :] < N - pn * BN, acc, float("-inf"))
        high = tl.max(acc, 1)
        at = tl.min(tl.where(acc == high[:, None], j[None, :], BN), 1)
        lower = tl.max(tl.where(j[None, :] == at[:, None], float("-inf"), acc), 1)
        follow = tl.maximum(tl.maximum(follow, lower), tl.minimum(best, high))
        where = tl.where(high > best, pn * BN + at, where)
        best = tl.maximum(best, high)
    om = pm * BM + tl.arange(0, BM)
    to = split.to(tl.int64) * M + om
    tl.store(first + to, best, mask=om < M)
    tl.store(second + to, follow, mask=om < M)
    tl.store(place + to, where, mask=om < M)


@triton.jit(do_not_specialize=SIZES)
def select_above(
    rows, cols, threshold, keys, count, M, N, D, stride_r, stride_c, nbm, nbn, capacity,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
    TMA: tl.constexpr, EVEN_K: tl.constexpr, PREC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One tile: pairs that reach their row's threshold, column and row as int32 each, to the end of ``keys``.

    ``count`` goes on beyond the capacity, what does not fit is not written. The order is that of the programs' arrival.
    """
    pm, pn = grouped_block(tl.program_id(0), nbm, nbn, GROUP)
    acc = tile_dot(rows, cols, pm * BM, pn * BN, M, N, D, stride_r, stride_c, BM, BN, BK, TMA, EVEN_K, PREC, UPCAST)
    om = pm * BM + tl.arange(0, BM)
    on = pn * BN + tl.arange(0, BN)
    limit = tl.load(threshold + om, mask=om < M, other=float("inf"))
    hit = (acc >= limit[:, None]) & (on[None, :] < N) & (om[:, None] < M)
    mine = hit.to(tl.int32)
    of_row = tl.sum(mine, 1)
    total = tl.sum(of_row, 0)
    if total > 0:
        base = tl.atomic_add(count, total.to(tl.int64))
        # places within the tile's part of the list take half of the registers that places in the list would
        room = tl.minimum(tl.maximum(capacity - base, 0), BM * BN).to(tl.int32)
        at = (tl.cumsum(of_row, 0) - of_row)[:, None] + (tl.cumsum(mine, 1) - mine)
        # and halves of keys, the same for a row or a column, fewer than a key for each score
        place = keys + 2 * base + 2 * at
        tl.store(place, tl.broadcast_to(on[None, :], (BM, BN)), mask=hit & (at < room))
        tl.store(place + 1, tl.broadcast_to(om[:, None], (BM, BN)), mask=hit & (at < room))


@triton.jit(do_not_specialize=SIZES)
def pair_sums(
    x, y, rows, cols, out, count_pairs, width, stride_x, stride_y,
    SQUARED: tl.constexpr, LANES: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """out[c] = sum of x y, or of (x - y)^2, of rows x[rows[c]] and y[cols[c]], in float64.

    Number i goes to lane i % LANES (16), in order; then lanes are added in halves: the one order of all devices. To be
    launched without fused multiply-adds, which would round a square once less.
    """
    c = tl.program_id(0).to(tl.int64) * BC + tl.arange(0, BC)
    here = c < count_pairs
    px = x + tl.load(rows + c, mask=here, other=0) * stride_x
    py = y + tl.load(cols + c, mask=here, other=0) * stride_y
    lane = tl.arange(0, LANES)
    acc = tl.zeros((BC, LANES), dtype=tl.float64)
    for i in range(0, width, LANES):
        mask = here[:, None] & (lane[None, :] < width - i)
        a = tl.load(px[:, None] + i + lane[None, :], mask=mask, other=0).to(tl.float32).to(tl.float64)
        b = tl.load(py[:, None] + i + lane[None, :], mask=mask, other=0).to(tl.float32).to(tl.float64)
        if SQUARED:
            d = a - b
            acc += d * d
        else:
            acc += a * b
    acc = tl.sum(tl.reshape(acc, (BC, 2, 8)), 1)
    acc = tl.sum(tl.reshape(acc, (BC, 2, 4)), 1)
    acc = tl.sum(tl.reshape(acc, (BC, 2, 2)), 1)
    tl.store(out + c, tl.sum(acc, 1), mask=here)


@triton.jit(do_not_specialize=SIZES)
def halve(
    rows, factor, out, norms, errors, count_rows, width, stride_rows, stride_out,
    LARGEST: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """out = rows * factor in half precision, 0 beyond its range; squared norms of that and of what rounding took."""
    om = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    here = om < count_rows
    scale = tl.load(factor + om, mask=here, other=0.0)
    norm = tl.zeros((BM,), dtype=tl.float64)
    error = tl.zeros((BM,), dtype=tl.float64)
    for k in range(0, width, BK):
        ok = k + tl.arange(0, BK)
        mask = here[:, None] & (ok[None, :] < width)
        v = tl.load(rows + om[:, None] * stride_rows + ok[None, :], mask=mask, other=0).to(tl.float32).to(tl.float64)
        v = v * scale[:, None]
        narrow = tl.where(tl.abs(v) <= LARGEST, v, 0.0).to(tl.float32).to(out.dtype.element_ty)
        tl.store(out + om[:, None] * stride_out + ok[None, :], narrow, mask=mask)
        kept = narrow.to(tl.float32).to(tl.float64)
        norm += tl.sum(kept * kept, 1)
        error += tl.sum((v - kept) * (v - kept), 1)
    tl.store(norms + om, norm, mask=here)
    tl.store(errors + om, error, mask=here)
