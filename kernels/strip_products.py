"""Gradient strips and the library products that use them, for both losses.

A strip is some rows of the logits' gradient G, in the features' type, in a workspace of bounded size. Its products
with the features have fp32 results: G text a strip at a time, G^T image summed over strips. The diagonal of G, by far
its largest entries, stays out of the workspace and is added to the fp32 sums unrounded.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dcfast.kernels import clip_kernels, siglip_kernels, tuning
from dcfast.kernels.operands import Operands, blocks, on_device, programs, row_stride, target
from dcfast.kernels.tuning import Config

__all__ = ["STRIP_BYTES", "ClipStrips", "SiglipStrips", "finish", "multiply", "strip_rows", "unit_of", "workspace"]

STRIP_BYTES = 384 << 20
LOG2E = 1.4426950408889634
# logits' gradients are at most 2: scaled by 2**14, even 2**-38 survives in half precision
FP16_UNIT = 2.0**14


def unit_of(dtype: torch.dtype) -> float:
    """What G is multiplied by in the workspace."""
    return FP16_UNIT if dtype == torch.float16 else 1.0


def strip_rows(rows: int, cols: int, depth: int, itemsize: int, strip_bytes: int = STRIP_BYTES) -> int:
    """Rows of the workspace: within the byte bound (at least 128 rows), and whole waves of the product that follows."""
    if rows <= 16384 and rows * cols * itemsize <= strip_bytes:
        return rows
    fit = max(strip_bytes // (cols * itemsize) // 128 * 128, 128)
    wave = max(132 * 128 * 256 // max(depth, 256) // 128 * 128, 128)  # 132 tiles of 128 x 256
    return min(rows, fit, wave)


def workspace(height: int, cols: int, like: Tensor) -> Tensor:
    """Uninitialised rows for ``cols`` gradients that start on 16 bytes, as TMA and the library's products like."""
    return torch.empty(height, -(-cols // 16) * 16, dtype=like.dtype, device=like.device)


def multiply(out: Tensor, a: Tensor, b: Tensor, alpha: float, *, add: bool) -> None:
    """out = alpha a @ b (+ out) in fp32 from operands of any width; the sum never passes through a narrow type."""
    beta = 1 if add else 0
    if a.dtype == torch.float32:
        torch.addmm(out, a, b, beta=beta, alpha=alpha, out=out)
    elif a.is_cuda:
        torch.ops.aten.addmm.dtype_out(out, a, b, torch.float32, beta=beta, alpha=alpha, out=out)
    else:  # the library's mixed product is for CUDA only
        torch.addmm(out, a.float(), b.float(), beta=beta, alpha=alpha, out=out)


class Pairing(NamedTuple):
    """What the positives add to a product: row i gets weight * partner[i + offset]."""

    weight: Tensor  # fp32, indexed by the row, or by the partner
    partner: Tensor
    offset: int
    by_partner: bool


def finish(
    raw: Tensor, width: int, alpha: Tensor, dtype: torch.dtype, pairing: Pairing, dot_with: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """(alpha (raw + positives) [rows, width] in ``dtype``, sum of dot_with times the same without alpha).

    The result lies in ``raw`` itself where type and width allow it.
    """
    rows = raw.shape[0]
    in_place = dtype == torch.float32 and width == raw.shape[1]
    out = raw if in_place else torch.empty(rows, width, dtype=dtype, device=raw.device)
    x = raw if dot_with is None else dot_with
    partner = pairing.partner
    dots = torch.empty(blocks(rows, 16), dtype=torch.float32, device=raw.device)
    with on_device(out):
        siglip_kernels.scale_cast[(dots.numel(),)](
            raw, x, alpha, out, dots, pairing.weight, partner, rows, partner.shape[0], width,
            row_stride(raw), row_stride(x), row_stride(out), row_stride(partner), pairing.offset,
            DOTS=dot_with is not None, BY_PARTNER=pairing.by_partner, BM=16, BK=128, num_warps=4,
        )  # fmt: skip
    return out, None if dot_with is None else dots.sum()


class ClipStrips:
    """Strips of the CLIP loss's gradient from the log-sum-exps of all rows and columns."""

    def __init__(self, o: Operands, scale: Tensor, row_lse: Tensor, col_lse: Tensor, first: int, space: Tensor) -> None:
        self._o, self._scale, self._first, self._space = o, scale, first, space
        rows2, cols2 = row_lse.double() * LOG2E, col_lse.double() * LOG2E
        top = torch.maximum(rows2.amax(), cols2.amax())
        low = torch.minimum(rows2.amin(), cols2.amin())
        # exp2's argument is rounded least near 0; no exponent exceeds 100, and what is flushed is below 2**-66 of a sum
        shift = (top - 100).ceil().clamp_min(0)
        self._shift, self._flag = shift.float(), (low < shift - 60).int()
        self._rows = torch.stack(((shift - rows2).exp2(), rows2)).float()
        self._cols = torch.stack(((shift - cols2).exp2(), cols2)).float()

    def fill(self, begin: int, end: int, weights: tuple[float, float], dots: bool) -> tuple[Tensor, Tensor]:
        """(the strip [end - begin, N] of G times the unit without its diagonal, [] sum of P times the dot products)."""
        part = self._o.part(begin, end)
        config = tuning.choose(
            "clip_grad", part.device, part.image.dtype, part.shape, part.precision,
            lambda c: self._launch(part, begin, weights, dots, c) and None,
        )  # fmt: skip
        sums = self._launch(part, begin, weights, dots, config)
        return self._space[: end - begin, : part.cols], sums.sum()

    def _launch(self, o: Operands, begin: int, weights: tuple[float, float], dots: bool, c: Config) -> Tensor:
        nbm, nbn = blocks(o.rows, c.bm), blocks(o.cols, c.bn)
        sums = torch.zeros(nbm * nbn if dots else 1, dtype=torch.float32, device=o.device)
        rows = self._rows[:, begin:]
        unit = unit_of(o.image.dtype)
        grid = programs(o.device, nbm * nbn)
        out = target(self._space[: o.rows, : o.cols], c)
        with on_device(sums):
            for flagged in (False, True):
                clip_kernels.clip_grad[(grid,)](
                    *o.sources(c), self._scale, self._shift, rows, self._cols, self._flag, out, sums, *o.sizes(),
                    self._space.stride(0), self._rows.shape[1], self._cols.shape[1], self._first + begin,
                    weights[0] * unit, weights[1] * unit, nbm, nbn, GROUP=c.group, PROGRAMS=grid,
                    FLATTEN=c.flatten, SUB=c.sub, FLAGGED=flagged, DOTS=dots, **o.options(c),
                )  # fmt: skip
        return sums


class SiglipStrips:
    """Strips of the SigLIP loss's gradient, and the loss with them."""

    def __init__(self, o: Operands, scale: Tensor, bias: Tensor, first: int, space: Tensor | None) -> None:
        self._o, self._scale, self._bias, self._first = o, scale, bias, first
        self._grad = space is not None
        self._space = workspace(1, o.cols, o.image) if space is None else space
        # the positives' gradient, by row
        self.diagonal = torch.zeros(o.rows, dtype=torch.float32, device=o.device)

    def fill(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """(the strip of G without its diagonal, [3] sums: loss, G times dot products, G)."""
        part = self._o.part(begin, end)
        config = tuning.choose(
            "siglip_tile", part.device, part.image.dtype, part.shape, part.precision,
            lambda c: self._launch(part, begin, c) and None,
        )  # fmt: skip
        return self._space[: end - begin, : part.cols], self._launch(part, begin, config).sum(1)

    def _launch(self, o: Operands, begin: int, c: Config) -> Tensor:
        nbm, nbn = blocks(o.rows, c.bm), blocks(o.cols, c.bn)
        sums = torch.zeros(3, nbm * nbn, dtype=torch.float32, device=o.device)
        grid = programs(o.device, nbm * nbn)
        out = target(self._space[: o.rows, : o.cols], c)
        with on_device(sums):
            siglip_kernels.siglip_tile[(grid,)](
                *o.sources(c), self._scale, self._bias, out, self.diagonal[begin:], sums, *o.sizes(),
                self._space.stride(0), self._first + begin, unit_of(o.image.dtype), nbm, nbn,
                GROUP=c.group, PROGRAMS=grid, FLATTEN=c.flatten, SUB=c.sub, GRAD=self._grad, **o.options(c),
            )  # fmt: skip
        return sums
