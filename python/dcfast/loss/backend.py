"""What the losses ask of the code that does the work, and which code that is.

Two modules have the functions of ``Backend``: ``dcfast.loss.torch_backend`` (torch, any device) and
``dcfast.kernels.contrastive`` (Triton, CUDA devices). Both see a block of the matrix of logits,
z_ij = scale * <image_i, text_j>, M rows against N columns, and keep a bounded part of it at most. The positive of row
i is column i + first; outside 0..N-1 the block holds none. Sums leave the positives out and keep them apart, so that
1 - P_ii and -log P_ii keep their relative accuracy on a batch that is nearly fitted.

Compute dtype: float64 for float64 features, else float32. Sums and statistics have ``stats_dtype``.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import torch

if TYPE_CHECKING:
    from torch import Tensor

# rows of the statistics: 1 / sum of exponentials, what their exponents are relative to, 1 - P_ii, -log P_ii (natural)
INVERSE, BASE, SHARE, NLL = range(4)
Weights = tuple[float, float]  # (p, q) of G = p (P - Id) + q (Q - Id)
BOTH: Weights = (1.0, 1.0)
ProductWeights = tuple[Weights | None, Weights | None]  # of G @ text and G.T @ image; None: it is not needed
Needs = tuple[bool, bool]  # whether G @ text and G.T @ image are needed
Side = tuple["Tensor", "Tensor"]  # sums of all rows, or of all columns, and the exponents of their positives


class ClipSums(NamedTuple):
    """One sweep over a block, relative to the shift."""

    row_off: Tensor  # (M,) sums of exponentials without the positives
    col_off: Tensor  # (N,)
    diag: Tensor  # (M,) exponents of the positives; -inf where not in this block


class ClipStats(NamedTuple):
    """What the forward pass leaves for the loss and the gradient."""

    rows: Tensor  # (4, M) statistics
    cols: Tensor  # (4, N) statistics
    flag: Tensor  # 0-dim int32: 1 where the shift does not serve; then exponents are relative to each row's largest
    kept: Tensor | None = None  # (K,) exponentials of the first tiles of a whole batch, that the gradient need not make


class Products(NamedTuple):
    """The gradient of the logits, G, times features, raw: without scale and factor."""

    image: Tensor | None  # (M, D) G @ text, in the compute dtype
    text: Tensor | None  # (N, D) G.T @ image
    dots: Tensor | None  # (2,) CLIP: sums of (P - Id) d and (Q - Id) d, d the dot products; SigLIP: of G d and of G


class Backend(Protocol):
    """Features: (M, D) and (N, D), all sizes at least 1, one dtype and device, any strides."""

    def clip_norms(self, x: Tensor, /) -> Tensor:
        """The largest squared norms of runs of rows, any number of them; their maximum is what ranks exchange."""
        ...

    def clip_shift(self, image_norms: Tensor, text_norms: Tensor, scale: Tensor, terms: int, /) -> Tensor:
        """0-dim: what is taken off every exponent, so that no sum of ``terms`` exponentials overflows."""
        ...

    def clip_sums(self, image: Tensor, text: Tensor, scale: Tensor, shift: Tensor, first: int = 0, /) -> ClipSums:
        """One sweep over the block."""
        ...

    def clip_stats(self, rows: Side, cols: Side, shift: Tensor, /) -> ClipStats:
        """Statistics of rows and columns, each from complete sums and the exponents of their positives."""
        ...

    def clip_online(
        self, image: Tensor, text: Tensor, scale: Tensor, flag: Tensor, first: int = 0, /
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Where flag is set: sums without positives of rows (2, M) and columns (2, N), and the positives' exponents.

        Sums are float64 pairs: an exponent, the largest, and the sum of exponentials relative to it.
        """
        ...

    def clip_relative(self, sums: Tensor, top: Tensor, /) -> Tensor:
        """(n,) such sums (2, n) relative to other exponents."""
        ...

    def clip_restate(self, stats: ClipStats, rows: Side, cols: Side, /) -> None:
        """Where the flag is set: the statistics anew, in place, from clip_online's sums and positives."""
        ...

    def clip_log_sums(self, stats: Tensor, /) -> Tensor:
        """(n,) natural log-sum-exps."""
        ...

    def clip_forward(self, image: Tensor, text: Tensor, scale: Tensor, /) -> ClipStats:
        """All of the above for one device, M = N; the loss is the mean of both NLL rows."""
        ...

    def clip_products(
        self,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        stats: ClipStats,
        first: int = 0,
        *,
        weights: ProductWeights = (BOTH, BOTH),
        dots: bool = False,
        into_image: Tensor | None = None,
    ) -> Products:
        """G @ text and G.T @ image with G = p (P - Id) + q (Q - Id); P, Q softmax by row, by column.

        ``into_image``: the (M, D) tensor to which G @ text is added.
        """
        ...

    def finish(
        self, raw: Tensor, scale: Tensor, factor: Tensor, dtype: torch.dtype, *, dot_with: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(raw * scale * factor in dtype, factor * sum of dot_with * raw): gradients of features and of the scale.

        May overwrite raw.
        """
        ...

    def siglip_block(
        self,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        first: int = 0,
        *,
        needs: Needs = (True, True),
        grad: bool = True,
        into_image: Tensor | None = None,
    ) -> tuple[Tensor, Products]:
        """(sum of softplus(-y z), products with G = sigmoid(z) - Id); without ``grad`` only the sum.

        The sum and the dots may be float64.
        """
        ...


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of features of a dtype: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def stats_dtype(features: Tensor) -> torch.dtype:
    """float64 where torch does the work, float32 where Triton does."""
    return torch.float32 if has_triton(features) else torch.float64


def kept_size(image: Tensor) -> int | torch.SymInt:
    """How many exponentials of a batch are kept between the passes: none by Triton, and none of a small batch."""
    if has_triton(image) or image.shape[0] <= SMALL:
        return 0
    most = KEPT_BYTES // compute_dtype(image.dtype).itemsize
    return torch.sym_min(image.shape[0] * image.shape[0], most)


def backend_for(features: Tensor) -> Backend:
    """Triton for float32, bfloat16 and float16 on CUDA devices, else torch.

    DCFAST_LOSS_BACKEND=torch or triton chooses: torch on any device, triton on the CPU too under TRITON_INTERPRET=1
    (float64 always goes to torch). Raises ValueError for another name.
    """
    name = "dcfast.kernels.contrastive" if has_triton(features) else "dcfast.loss.torch_backend"
    return cast("Backend", importlib.import_module(name))


def has_triton(features: Tensor) -> bool:
    """Whether Triton does the work of these features."""
    chosen = os.environ.get("DCFAST_LOSS_BACKEND", "")
    if chosen not in ("", "torch", "triton"):
        raise ValueError(f"DCFAST_LOSS_BACKEND must be torch or triton, got {chosen!r}")
    on_gpu = features.device.type == "cuda"
    return features.dtype != torch.float64 and (chosen == "triton" or (chosen == "" and on_gpu))


# What exponentials of a batch are kept for the gradient take at most: of 2,048 pairs these are all.
KEPT_BYTES = 16 << 20
# Blocks of at most so many rows and columns are worked on in float64: their errors would not average out.
SMALL = 256
