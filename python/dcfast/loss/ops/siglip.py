"""The SigLIP loss of one process as a torch operator.

Loss and gradients come from one pass: where a gradient will be wanted the forward pass makes it, raw and in float32
(float64 for float64), and the backward pass only scales.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dcfast.loss.arguments import check_finite
from dcfast.loss.backend import backend_for
from dcfast.loss.ops.clip import plain, wanted, wide


@torch.library.custom_op("dcfast::siglip_loss", mutates_args=())
def siglip_loss(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, need_image: bool, need_text: bool, need_scalars: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(loss, raw image gradient, raw text gradient, sums for scale and bias); without elements where not needed."""
    check_finite(scale, "logit_scale")
    check_finite(bias, "logit_bias")
    grad = need_image or need_text or need_scalars
    with plain(image):
        backend = backend_for(image.device, image.dtype)
        total, products = backend.siglip_block(image, text, scale, bias, needs=(need_image, need_text), grad=grad)
        dtype = wide(image)
        empty = image.new_empty(0, dtype=dtype)
        parts = [empty.clone() if p is None else p.to(dtype).contiguous() for p in products[:3]]
        return (total / image.shape[0]).to(dtype), parts[0], parts[1], parts[2]


@siglip_loss.register_fake
def _(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, need_image: bool, need_text: bool, need_scalars: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype, grad = wide(image), need_image or need_text or need_scalars
    return (
        image.new_empty((), dtype=dtype),
        image.new_empty(image.shape if need_image else 0, dtype=dtype),
        image.new_empty(text.shape if need_text else 0, dtype=dtype),
        image.new_empty(2 if grad else 0, dtype=dtype),
    )


@torch.library.custom_op("dcfast::siglip_loss_backward", mutates_args=())
def siglip_loss_backward(
    upstream: Tensor, scale: Tensor, image_raw: Tensor, text_raw: Tensor, sums: Tensor, rows: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of image and text features in ``dtype``, and of scale and bias."""
    with plain(image_raw):
        factor = upstream / rows
        image, text = ((raw * (scale * factor)).to(dtype, copy=True) for raw in (image_raw, text_raw))
        return image, text, sums[0] * factor, sums[1] * factor


@siglip_loss_backward.register_fake
def _(
    upstream: Tensor, scale: Tensor, image_raw: Tensor, text_raw: Tensor, sums: Tensor, rows: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    image, text = (torch.empty_like(raw, dtype=dtype) for raw in (image_raw, text_raw))
    return image, text, torch.empty_like(sums[0]), torch.empty_like(sums[1])


def save_siglip(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    """setup_context of both SigLIP operators: their first three inputs and four outputs are the same."""
    ctx.set_materialize_grads(False)
    ctx.rows, ctx.dtype, ctx.num_inputs = inputs[0].shape[0], inputs[0].dtype, len(inputs)
    ctx.save_for_backward(inputs[2], *output[1:])


def siglip_gradients(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    """backward of both SigLIP operators."""
    needs: tuple[bool, ...] = ctx.needs_input_grad[:4]
    rest: tuple[Tensor | None, ...] = (None,) * (ctx.num_inputs - 4)
    if upstream is None or not any(needs):
        return (None, None, None, None, *rest)
    gradients = siglip_loss_backward(upstream, *ctx.saved_tensors, ctx.rows, ctx.dtype)
    return (*wanted(gradients, needs), *rest)


siglip_loss.register_autograd(siglip_gradients, setup_context=save_siglip)
