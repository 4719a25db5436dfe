"""What the losses ask of the code that does the work, and which code that is.

Two backends have the same functions: ``dcfast.loss.strips`` (torch, any device) and ``dcfast.kernels.contrastive``
(Triton, CUDA devices). Both see a strip of the matrix of logits: M rows of image features against N rows of text
features, z_ij = scale * <image_i, text_j>, and never keep more of it than a bounded workspace. With one process the
strip is the whole matrix (M = N, diagonal 0). Compute dtype: float64 for float64 features, else float32; 0-dim tensors
(scale, alpha, bias) are in the compute dtype on the features' device and are not read by the host on a GPU.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import torch

if TYPE_CHECKING:
    from torch import Tensor

Weights = tuple[float, float]


class ClipGradients(NamedTuple):
    """Results of Backend.clip_gradients; what was not asked for has no elements.

    image: (M, D) in image_dtype. text: (N, D) in text_dtype. dots: (2,) in the compute dtype.
    """

    image: Tensor
    text: Tensor
    dots: Tensor


class SiglipTerms(NamedTuple):
    """Results of Backend.siglip_terms; gradients that were not asked for have no elements.

    loss: 0-dim, the sum of softplus(-y z). image: (M, D), G @ text. text: (N, D), G.T @ image. sums: (2,), the sums of
    G_ij * <image_i, text_j> and of G_ij. All in the compute dtype.
    """

    loss: Tensor
    image: Tensor
    text: Tensor
    sums: Tensor


class Backend(Protocol):
    """Features: (M, D) and (N, D), M, N, D >= 1, same dtype and device, any strides. Results are contiguous."""

    def clip_lse(self, image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Log-sum-exp (natural) of z along rows, (M,), and along columns, (N,), in the compute dtype.

        Right for any finite input, however far apart the logits lie; NaN or infinite where an input is not finite.
        """
        ...

    def positive_dots(self, image: Tensor, text: Tensor) -> Tensor:
        """<image_i, text_i> for M = N: (M,), products and sums in the compute dtype."""
        ...

    def clip_gradients(
        self,
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
    ) -> ClipGradients:
        """alpha * G_image @ text and alpha * G_text.T @ image, where for weights (p, q)

            G_ij = p * exp(z_ij - row_lse_i) + q * exp(z_ij - col_lse_j) - (p + q) * [j == i + diagonal]

        The positive of row i is column i + diagonal; outside 0..N-1 there is none. dots[0] is the sum of
        G_ij * <image_i, text_j> (of G_image where need_image, else of G_text; 0 where neither is needed; no alpha);
        dots[1], where need_row_dot, is the sum of exp(z_ij - row_lse_i) * <image_i, text_j>, else 0.
        """
        ...

    def siglip_terms(
        self,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        bias: Tensor,
        *,
        diagonal: int,
        need_image: bool,
        need_text: bool,
        need_sums: bool,
    ) -> SiglipTerms:
        """SigLIP's sums over the strip, with z_ij = scale * <image_i, text_j> + bias.

        y_ij is 1 for j == i + diagonal and -1 elsewhere; G = d(loss)/dz = -y * sigmoid(-y z). sums is zero unless
        need_sums.
        """
        ...


def backend_for(device: torch.device, dtype: torch.dtype) -> Backend:
    """Triton for float32, bfloat16 and float16 on CUDA devices, else torch.

    DCFAST_LOSS_BACKEND=torch or triton chooses: torch anywhere, triton on the CPU too under TRITON_INTERPRET=1 (float64
    always goes to torch). Raises ValueError for another name.
    """
    asked = os.environ.get("DCFAST_LOSS_BACKEND", "")
    if asked not in ("", "torch", "triton"):
        raise ValueError(f"DCFAST_LOSS_BACKEND must be torch or triton, got {asked!r}")
    triton = dtype != torch.float64 and (asked == "triton" or (asked == "" and device.type == "cuda"))
    name = "dcfast.kernels.contrastive" if triton else "dcfast.loss.strips"
    return cast("Backend", importlib.import_module(name))
