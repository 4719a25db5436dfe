"""The SigLIP loss over strips of the matrix of logits, in torch: loss and gradients from one pass.

Cost, in products of M x N x D: one, and one more for each side that needs a gradient. Memory: three strips of
``tiles.strip_rows`` rows, beside results and float32 copies of text features in half precision.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from dcfast.loss.backend import Products
from dcfast.loss.torch_backend import exact_entries, forward, tiles

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
    if forward.is_small(image, text):
        wider = tiles.widen(image, torch.float64), tiles.widen(text, torch.float64), scale.double()
        wide_bias = None if bias is None else bias.double()
        total, products = siglip_block(*wider, wide_bias, first, needs=needs, grad=grad)
        return total, forward.narrowed(products, torch.float32, into_image if grad and needs[0] else None)
    # an infinite logit of a negative pair would add nothing: what is not finite has to make the loss NaN
    odd = 0 * (forward.clip_norms(image).max() + forward.clip_norms(text).max())
    text = tiles.widen(text)
    num_rows = image.shape[0]
    height = tiles.strip_rows(num_rows, text.shape[0], text.dtype)
    space = text.new_empty(3, height, text.shape[0])
    wanted = grad and needs[0], grad and needs[1]
    image_sum = into_image if into_image is not None else text.new_empty(image.shape)
    text_sum = text.new_empty(text.shape) if wanted[1] else None
    loss, sums = odd.double(), torch.zeros(2, dtype=torch.float64, device=text.device)
    for start in range(0, num_rows, height):
        rows = slice(start, min(start + height, num_rows))
        part = tiles.widen(image[rows])
        dots, g, terms = space[:, : part.shape[0]]
        torch.mm(part, text.t(), out=dots)
        torch.mul(dots, scale, out=g)
        if bias is not None:
            g.add_(bias)
        here = tiles.positive_rows(part.shape[0], text.shape[0], start + first)
        paired = text[here.start + start + first : here.stop + start + first]
        exact = exact_entries.dots(part[here], paired)
        z = exact * scale.double() + (0 if bias is None else bias.double())
        # positives by themselves, as softplus(-z) and -sigmoid(-z) in float64: they carry a fitted batch's gradient
        loss = loss + _losses_and_sigmoids(g, start + first, terms, grad) + functional.softplus(-z).sum()
        if grad:
            own = -torch.sigmoid(-z)
            sums[0] += torch.linalg.vecdot(g, dots).sum(dtype=torch.float64) + torch.dot(own, exact)
            sums[1] += g.sum(1).sum(dtype=torch.float64) + own.sum()
            if here.stop > here.start:
                g.diagonal(start + first).copy_(own)
        if wanted[0]:
            forward.multiply(image_sum[rows], g, text, 1.0, add=into_image is not None)
        if text_sum is not None:
            forward.multiply(text_sum, g.t(), part, 1.0, add=start > 0)
    return loss, Products(image_sum if wanted[0] else None, text_sum, sums if grad else None)


def _losses_and_sigmoids(z: Tensor, first: int, terms: Tensor, grad: bool) -> Tensor:
    """The sum of softplus(z) of a strip without its positives; z becomes sigmoid(z), 0 for these, if ``grad``."""
    here = tiles.positive_rows(z.shape[0], z.shape[1], first)
    if here.stop > here.start:
        z.diagonal(first).fill_(-math.inf)
    # log(1 + e**-|z|) by log1p: the plain logarithm loses pairs below -16, most of them at the usual first bias of -10
    torch.abs(z, out=terms).neg_().exp_().log1p_()
    loss = terms.sum(1).sum(dtype=torch.float64) + torch.clamp_min(z, 0, out=terms).sum(1).sum(dtype=torch.float64)
    if grad:
        z.sigmoid_()
    return loss
