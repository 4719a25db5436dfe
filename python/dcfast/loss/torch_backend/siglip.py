"""The SigLIP loss over tiles of the matrix of logits, in torch: loss and gradients from one pass.

Cost, in products of M x N x D: one, and one more for each side that needs a gradient. Memory: three tiles of 2 MiB,
beside results and float32 copies of text features in half precision.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from dcfast.loss.backend import Products, compute_dtype
from dcfast.loss.torch_backend import forward, tiles

if TYPE_CHECKING:
    from torch import Tensor

    from dcfast.loss.backend import Needs


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
) -> tuple[Tensor, Products]:
    """See ``dcfast.loss.backend.Backend.siglip_block``."""
    # an infinite logit of a negative pair would add nothing: what is not finite has to make the loss NaN
    zero_or_nan = 0 * (forward.clip_norms(image).max() + forward.clip_norms(text).max())
    dtype = compute_dtype(image.dtype)
    text = tiles.widen(text, forward.tile_dtype(image, text))
    need_image, need_text = grad and needs[0], grad and needs[1]
    image_sum = image.new_zeros(image.shape, dtype=dtype) if into_image is None and need_image else into_image
    text_sum = torch.zeros_like(text) if need_text else None
    loss, sums = zero_or_nan.double(), torch.zeros(2, dtype=torch.float64, device=text.device)
    space = tiles.Workspace(text, image.shape[0], text.shape[0], 3)
    for rows in space.rows:
        part = tiles.widen(image[rows], text.dtype)
        part_sum = torch.zeros_like(part)
        for cols, (dots, g, terms), _ in space.tiles(rows):
            tiles.multiply(part, text[cols], dots)
            torch.mul(dots, scale, out=g)
            if bias is not None:
                g.add_(bias)
            diagonal = first + rows.start - cols.start
            z = text.new_full(part.shape[:1], math.inf, dtype=torch.float64)
            tiles.take_positives(g, diagonal, z)
            # positives by themselves, as softplus(-z) and -sigmoid(-z) in float64: they carry a fitted batch's gradient
            loss = loss + _losses_and_sigmoids(g, terms, grad) + functional.softplus(-z).sum()
            if not grad:
                continue
            g.diagonal(diagonal).copy_(-torch.sigmoid(-z[tiles.positives(g, diagonal)[0]]))
            sums[0] += torch.mul(g, dots, out=terms).sum(dtype=torch.float64)
            sums[1] += g.sum(dtype=torch.float64)
            if need_image:
                tiles.add_product(part_sum, g, text[cols])
            if text_sum is not None:
                text_sum[cols].addmm_(g.t(), part)
        if image_sum is not None and need_image:
            image_sum[rows] += part_sum
    text_sum = None if text_sum is None else text_sum.to(dtype)
    return loss, Products(image_sum if need_image else None, text_sum, sums if grad else None)


def _losses_and_sigmoids(z: Tensor, terms: Tensor, grad: bool) -> Tensor:
    """The sum of softplus(z) of a tile; z becomes sigmoid(z) if ``grad``."""
    # log(1 + e**-|z|) by log1p: the plain logarithm loses pairs below -16, most of them at the usual first bias of -10
    torch.abs(z, out=terms).neg_().exp_().log1p_()
    loss = terms.sum(1).sum(dtype=torch.float64) + torch.clamp_min(z, 0, out=terms).sum(1).sum(dtype=torch.float64)
    if grad:
        z.sigmoid_()
    return loss
