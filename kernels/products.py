"""Chunks of the logits' gradient and the library products that use them, for both losses.

A chunk is some rows of the logits' gradient G, in the features' type, in a workspace of bounded size. Its products
with the features have fp32 results: G text a chunk at a time, G^T image summed over chunks. The positives' entries, by
far the largest of G, stay out of the workspace: the fp32 results start from what they contribute, unrounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from dcfast.kernels import clip_kernels, siglip_kernels, tuning
from dcfast.kernels.operands import (
    Operands,
    blocks,
    largest_norms,
    on_device,
    operands,
    row_stride,
    scalar,
    target,
    unit_columns,
    workers,
)
from dcfast.kernels.tuning import Config
from dcfast.loss.backend import BOTH, SHARE, ClipStats, Products
from torch import Tensor

if TYPE_CHECKING:
    from dcfast.loss.backend import Needs, ProductWeights, Weights

__all__ = ["WORKSPACE_BYTES", "chunk_rows", "clip_products", "finish", "siglip_block"]

WORKSPACE_BYTES = 352 << 20
# logits' gradients are at most 2: scaled by 2**14, even 2**-38 survives in half precision
FP16_UNIT = 2.0**14
# whether the library adds a half-precision product to fp32 in one call: some builds want a summand in half precision
_fused = True


def chunk_rows(rows: int, cols: int, depth: int, itemsize: int, workspace_bytes: int = WORKSPACE_BYTES) -> int:
    """Rows of the workspace: within the byte bound (at least 128 rows), and whole waves of the product that follows."""
    if rows <= 16384 and rows * cols * itemsize <= workspace_bytes:
        return rows
    fit = max(workspace_bytes // (cols * itemsize) // 128 * 128, 128)
    wave = max(132 * 128 * 256 // max(depth, 256) // 128 * 128, 128)  # 132 tiles of 128 x 256
    return min(rows, fit, wave)


def _unit(dtype: torch.dtype) -> float:
    """What G is multiplied by in the workspace."""
    return FP16_UNIT if dtype == torch.float16 else 1.0


def _workspace(o: Operands, height: int) -> Tensor:
    # its rows start on 16 bytes, as TMA and the library's products like
    return torch.empty(height, -(-o.cols // 16) * 16, dtype=o.image.dtype, device=o.device)


class _Sums:
    """The fp32 results of both products, as wide as the padded features, seeded with the positives' part."""

    def __init__(
        self, o: Operands, first: int, weights: tuple[Tensor | None, Tensor | None], into: Tensor | None
    ) -> None:
        """weights: [M] fp32, what G of each row's positive is in either product; None where it is not needed."""
        self._o, self._into = o, into
        self.image: Tensor | None = None
        self.text: Tensor | None = None
        if weights[0] is not None:
            add = into is not None and into.shape[1] == o.depth and into.stride(1) == 1
            self.image = into if add else torch.empty(o.rows, o.depth, dtype=torch.float32, device=o.device)
            _seed(self.image, weights[0], o.text, first, by_partner=False, add=add)
        if weights[1] is not None:
            self.text = torch.empty(o.cols, o.depth, dtype=torch.float32, device=o.device)
            _seed(self.text, weights[1], o.image, -first, by_partner=True, add=False)

    def add_image(self, grad: Tensor, begin: int, end: int) -> None:
        """Rows begin to end of G times the text features."""
        if self.image is not None:
            _multiply(self.image[begin:end], grad, self._o.text)

    def add_text(self, grad: Tensor, begin: int, end: int) -> None:
        """Rows begin to end of G, transposed, times these rows of the image features."""
        if self.text is not None:
            _multiply(self.text, grad.t(), self._o.image[begin:end])

    def products(self, dots: Tensor | None) -> Products:
        """As wide as the features were given; the tensor that was to be added to is handed back as it is."""
        width = self._o.width
        image = None if self.image is None else self.image[:, :width]
        if image is not None and self._into is not None:
            if self.image is not self._into:
                self._into.add_(image)
            image = self._into
        return Products(image, None if self.text is None else self.text[:, :width], dots)


def _seed(out: Tensor, weight: Tensor, partner: Tensor, offset: int, *, by_partner: bool, add: bool) -> None:
    """out[i] (+)= weight * partner[i + offset], 0 where there is no such row."""
    with on_device(out):
        siglip_kernels.seed_positives[(blocks(out.shape[0], 16),)](
            out, weight, partner, out.shape[0], partner.shape[0], out.shape[1], row_stride(out), row_stride(partner),
            offset, BY_PARTNER=by_partner, ADD=add, BM=16, BK=128, num_warps=4,
        )  # fmt: skip


def _multiply(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out += a @ b / unit in fp32 from operands of any width; the sum never passes through a narrow type."""
    alpha = 1 / _unit(a.dtype)
    if a.dtype == torch.float32:
        torch.addmm(out, a, b, alpha=alpha, out=out)
    elif a.is_cuda:
        _add_mixed(out, a, b, alpha)
    else:  # the library's mixed product is for CUDA only
        torch.addmm(out, a.float(), b.float(), alpha=alpha, out=out)


def _add_mixed(out: Tensor, a: Tensor, b: Tensor, alpha: float) -> None:
    """out += alpha a b, fp32 from half precision."""
    global _fused
    if _fused:
        try:
            torch.ops.aten.addmm.dtype_out(out, a, b, torch.float32, alpha=alpha, out=out)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # said before anything is launched
            if "dtype" not in str(error):
                raise
            _fused = False
        else:
            return
    out.add_(torch.mm(a, b, out_dtype=torch.float32), alpha=alpha)


def _positive_dots(o: Operands, first: int) -> Tensor:
    """[M] fp32 dot products of the positives, 0 where they are not in the block."""
    out = torch.zeros(o.rows, dtype=torch.float32, device=o.device)
    begin, end = o.positives(first)
    if begin < end:
        with on_device(out):
            clip_kernels.row_dots[(blocks(end - begin, 16),)](
                o.image[begin:], o.text[begin + first :], out, out, out[begin:], end - begin, o.depth,
                row_stride(o.image), row_stride(o.text), EXPONENT=False, BM=16, BK=128, num_warps=4,
            )  # fmt: skip
    return out


@torch.no_grad()
def clip_products(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    stats: ClipStats,
    first: int = 0,
    *,
    weights: ProductWeights = (BOTH, BOTH),
    dots: bool = False,
    into_image: Tensor | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    precision: str | None = None,
    config: Config | None = None,
) -> Products:
    """G text and G^T image with G = wP (P - Id) + wQ (Q - Id), raw: ``finish`` multiplies by scale and factor.

    6 M N D operations, a third of them in the kernel and the rest in library products with fp32 results; 4 where one
    product is not needed. Memory: the workspace and the fp32 results.

    Args:
        weights: (wP, wQ) of either product, None where it is not needed; where they differ each chunk is computed
            twice.
        dots: also the sums of (P - Id) and of (Q - Id) times the dot products.
        into_image: [M, D] fp32 to which G text is added (for blocks of columns), instead of a new tensor.
        workspace_bytes: bound of the workspace (at least 128 rows).
    """
    o = operands(image, text, precision)
    shares = _shares(o, stats, first)
    image_seed, text_seed = (None if w is None else -(w[0] * shares[0] + w[1] * shares[1]) for w in weights)
    sums = _Sums(o, first, (image_seed, text_seed), into_image)
    height = chunk_rows(o.rows, o.cols, o.depth, image.element_size(), workspace_bytes)
    grad = _ClipGrad(o, scalar(scale, o.device), stats, first, _workspace(o, height), config)
    # what the dots are taken from does not matter: they do not depend on the weights
    lead = weights[0] or weights[1] or BOTH
    parts: list[Tensor] = []
    for begin in range(0, o.rows, height) if dots or any(weights) else ():
        end = min(begin + height, o.rows)
        g, part = grad.fill(begin, end, lead, dots)
        parts.append(part)
        sums.add_image(g, begin, end)
        if weights[1] not in (None, lead):
            g, _ = grad.fill(begin, end, weights[1], False)
        sums.add_text(g, begin, end)
    total = None
    if dots:
        total = torch.stack(parts).sum(0) - (shares * _positive_dots(o, first)).sum(1)
    return sums.products(total)


def _shares(o: Operands, stats: ClipStats, first: int) -> Tensor:
    """[2, M]: 1 - P and 1 - Q of each row's positive, 0 where it is not in the block."""
    begin, end = o.positives(first)
    if (begin, end, first) == (0, o.cols, 0):
        return torch.stack((stats.rows[SHARE], stats.cols[SHARE]))
    out = torch.zeros(2, o.rows, dtype=torch.float32, device=o.device)
    out[0, begin:end] = stats.rows[SHARE, begin:end]
    out[1, begin:end] = stats.cols[SHARE, begin + first : end + first]
    return out


class _ClipGrad(NamedTuple):
    o: Operands
    scale: Tensor
    stats: ClipStats
    first: int
    space: Tensor
    config: Config | None

    def fill(self, begin: int, end: int, weights: Weights, dots: bool) -> tuple[Tensor, Tensor]:
        """(rows begin to end of G times the unit without the positives, [2] sums of P d and Q d over them)."""
        part = self.o.part(begin, end)
        kernel = "clip_grad_dots" if dots else "clip_grad"
        config = self.config or tuning.choose(
            kernel, part.device, part.image.dtype, part.shape, part.precision,
            lambda c: self._launch(part, begin, weights, dots, c, flagged=False),
        )  # fmt: skip
        sums = self._launch(part, begin, weights, dots, config, flagged=False)
        # the rare case has more to keep in registers: its tiles are small
        rare = self.config or tuning.default_config(
            "clip_grad_dots", part.device, part.image.dtype, part.precision, part.rows
        )
        rare_sums = self._launch(part, begin, weights, dots, rare, flagged=True)
        return self.space[: end - begin, : part.cols], sums.sum(1) + rare_sums.sum(1)

    def _launch(self, o: Operands, begin: int, weights: Weights, dots: bool, c: Config, *, flagged: bool) -> Tensor:
        """[2, tiles] dot sums: zeros from the launch that the flag makes end at once."""
        nbm, nbn = blocks(o.rows, c.bm), blocks(o.cols, c.bn)
        sums = torch.zeros(2, nbm * nbn if dots else 1, dtype=torch.float32, device=o.device)
        rows, cols, flag = self.stats[:3]
        most = workers(o.device)
        unit = _unit(o.image.dtype)
        out = target(self.space[: o.rows, : o.cols], c)
        # the base was subtracted from exponents as they were rounded
        rounded = {"enable_fp_fusion": False} if flagged else {}
        with on_device(sums):
            clip_kernels.clip_grad[(min(most, nbm * nbn),)](
                *o.sources(c), self.scale, rows[:, begin:], cols, flag, out, sums, *o.sizes(),
                self.space.stride(0), rows.stride(0), cols.stride(0), self.first + begin,
                weights[0] * unit, weights[1] * unit, nbm, nbn, GROUP=c.group, PROGRAMS=most,
                FLATTEN=c.flatten, SUB=c.sub, FLAGGED=flagged, DOTS=dots, **rounded, **o.options(c),
            )  # fmt: skip
        return sums


@torch.no_grad()
def siglip_block(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    first: int = 0,
    *,
    needs: Needs = (True, True),
    grad: bool = True,
    into_image: Tensor | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    precision: str | None = None,
    config: Config | None = None,
) -> tuple[Tensor, Products]:
    """(sum of softplus(-y z) over the block, products with G = -y sigmoid(-y z)): 6 M N D operations in one pass.

    y is 1 for row i's positive, column i + first, and -1 elsewhere. Without ``grad`` 2 M N D, and no products or dots.
    """
    o = operands(image, text, precision)
    scale = scalar(scale, o.device)
    bias = torch.zeros_like(scale) if bias is None else scalar(bias, o.device)
    dot = _positive_dots(o, first)
    begin, end = o.positives(first)
    z = (dot * scale + bias)[begin:end]
    # an infinite logit may add nothing to the sum: what is not finite has to make the loss NaN all the same
    zero_or_nan = 0 * (largest_norms(o.image).max() + largest_norms(o.text).max())
    positive_loss = torch.nn.functional.softplus(-z).sum() + zero_or_nan
    positive_grad = torch.zeros_like(dot)
    positive_grad[begin:end] = -torch.sigmoid(-z)
    image_seed, text_seed = (positive_grad if grad and need else None for need in needs)
    sums = _Sums(o, first, (image_seed, text_seed), into_image)
    height = chunk_rows(o.rows, o.cols, o.depth, image.element_size(), workspace_bytes) if grad else o.rows
    space = _workspace(o, height if grad else 1)
    parts: list[Tensor] = []
    for start in range(0, o.rows, height):
        stop = min(start + height, o.rows)
        part = _siglip_chunk(o.part(start, stop), scale, bias, first + start, space, grad, config)
        parts.append(part)
        g = space[: stop - start, : o.cols]
        sums.add_image(g, start, stop)
        sums.add_text(g, start, stop)
    total = torch.stack(parts).sum(0)
    dots = torch.stack((total[1] + (positive_grad * dot).sum(), total[2] + positive_grad.sum())) if grad else None
    return total[0] + positive_loss, sums.products(dots)


def _siglip_chunk(
    o: Operands, scale: Tensor, bias: Tensor, first: int, space: Tensor, grad: bool, config: Config | None
) -> Tensor:
    """Fills the workspace; [3] sums over the negatives: loss, G times dot products, G."""

    def launch(c: Config) -> Tensor:
        nbm, nbn = blocks(o.rows, c.bm), blocks(o.cols, c.bn)
        sums = torch.zeros(3, nbm * nbn, dtype=torch.float32, device=o.device)
        most = workers(o.device)
        out = target(space[: o.rows, : o.cols], c)
        with on_device(sums):
            siglip_kernels.siglip_tile[(min(most, nbm * nbn),)](
                *o.sources(c), scale, bias, out, sums, *o.sizes(), space.stride(0), first, _unit(o.image.dtype),
                nbm, nbn, GROUP=c.group, PROGRAMS=most, FLATTEN=c.flatten, SUB=c.sub, GRAD=grad, **o.options(c),
            )  # fmt: skip
        return sums

    chosen = config or tuning.choose("siglip_tile", o.device, o.image.dtype, o.shape, o.precision, launch)
    return launch(chosen).sum(1)


@torch.no_grad()
def finish(
    raw: Tensor, scale: Tensor, factor: Tensor, dtype: torch.dtype, *, dot_with: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """(raw * scale * factor in ``dtype``, factor * sum of dot_with * raw): a feature gradient and the scale's.

    The factor (0-dim) carries the upstream gradient, so that a large one meets only the last rounding.
    """
    rows, width = raw.shape
    raw = unit_columns(raw)
    out = torch.empty(rows, width, dtype=dtype, device=raw.device)
    x = raw if dot_with is None else unit_columns(dot_with)
    factor = scalar(factor, raw.device)
    dots = torch.empty(blocks(rows, 16), dtype=torch.float32, device=raw.device)
    with on_device(out):
        siglip_kernels.scale_cast[(dots.numel(),)](
            raw, x, scalar(scale, raw.device), factor, out, dots, rows, width, row_stride(raw), row_stride(x), width,
            DOTS=dot_with is not None, BM=16, BK=128, num_warps=4,
        )  # fmt: skip
    return out, None if dot_with is None else dots.sum() * factor
