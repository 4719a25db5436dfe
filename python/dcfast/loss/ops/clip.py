"""The losses of one process as torch operators: opaque to the compiler, with shapes for it and gradients.

dcfast::clip_loss, dcfast::siglip_loss and their _backward, and dcfast::clip_lse. Arguments are checked by
``dcfast.loss.functional``, which is what to call. There is no second derivative: asking for one raises.
"""

from __future__ import annotations

from typing import Any

import torch
import torch._dynamo  # or the first call of an operator imports it: 150 MB and a second in a training's first step
from torch import Tensor

from dcfast.loss.arguments import check_finite
from dcfast.loss.backend import NLL, SMALL, Backend, ClipStrip, Products, backend_for, kept_size, stats_dtype

_FEW = 4096


def wide(features: Tensor) -> torch.dtype:
    """The compute dtype: float64 for float64, else float32."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def plain(features: Tensor) -> torch.autocast:
    """A context without autocast: precisions inside are chosen by the losses."""
    return torch.autocast(features.device.type, enabled=False)


@torch.library.custom_op("dcfast::clip_loss", mutates_args=())
def clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(loss, statistics of rows, of columns, shift, flag, kept); see ``dcfast.loss.backend.ClipStrip``."""
    check_finite(scale, "logit_scale")
    with plain(image):
        strip = backend_for(image.device, image.dtype).clip_forward(image, text, scale)
        loss = (strip.rows[NLL].mean() + strip.cols[NLL].mean()) / 2
    kept = image.new_empty(0, dtype=wide(image)) if strip.kept is None else strip.kept
    return loss.to(wide(image)), *strip[:4], kept


@clip_loss.register_fake
def _(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    loss = image.new_empty((), dtype=wide(image))
    rows = image.new_empty(4, image.shape[0], dtype=stats_dtype(image.device, image.dtype))
    flag = image.new_empty((), dtype=torch.int32)
    return (
        loss,
        rows,
        torch.empty_like(rows),
        torch.empty_like(loss),
        flag,
        image.new_empty(kept_size(image), dtype=wide(image)),
    )


@torch.library.custom_op("dcfast::clip_loss_backward", mutates_args=())
def clip_loss_backward(
    upstream: Tensor,
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    rows: Tensor,
    cols: Tensor,
    shift: Tensor,
    flag: Tensor,
    kept: Tensor,
    need_image: bool,
    need_text: bool,
    need_scale: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of image features, text features and scale; without elements where not needed."""
    backend = backend_for(image.device, image.dtype)
    # The scale's gradient falls out of either product. Of a small batch, and where G is rounded to half precision, it
    # is summed before the logits' gradients or the products are rounded: their errors average out only over many.
    rounded = image.dtype.itemsize == 2 and rows.dtype == torch.float32
    dots = need_scale and image.shape[0] <= (_FEW if rounded else SMALL)
    needs = need_image or (need_scale and not need_text and not dots), need_text
    strip = ClipStrip(rows, cols, shift, flag, kept)
    with plain(image):
        products = backend.clip_products(image, text, scale, strip, needs=needs, dots=dots)
        factor = upstream / (2 * image.shape[0])
        return _finish(backend, products, image, text, scale, factor, (need_image, need_text, need_scale))


def _finish(
    backend: Backend,
    products: Products,
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    factor: Tensor,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients from raw products."""
    need_image, _, need_scale = needs
    dot = None if products.dots is None else products.dots.sum() * factor
    image_grad, text_grad, scale_grad = image.new_empty(0), text.new_empty(0), scale.new_empty(0)
    if products.image is not None:
        dot_with = image if need_scale and dot is None else None
        done, image_dot = backend.finish(products.image, scale, factor, image.dtype, dot_with=dot_with)
        image_grad = done if need_image else image_grad
        dot = image_dot if dot is None else dot
    if products.text is not None:
        dot_with = text if need_scale and dot is None else None
        text_grad, text_dot = backend.finish(products.text, scale, factor, text.dtype, dot_with=dot_with)
        dot = text_dot if dot is None else dot
    if need_scale and dot is not None:
        scale_grad = dot.to(scale.dtype)
    return image_grad, text_grad, scale_grad


@clip_loss_backward.register_fake
def _(
    upstream: Tensor,
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    rows: Tensor,
    cols: Tensor,
    shift: Tensor,
    flag: Tensor,
    kept: Tensor,
    need_image: bool,
    need_text: bool,
    need_scale: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return fake_gradients(image, text, scale, need_image, need_text, need_scale)


def fake_gradients(
    image: Tensor, text: Tensor, scale: Tensor, need_image: bool, need_text: bool, need_scale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes of the three gradients, for the compiler."""
    return (
        image.new_empty(image.shape if need_image else 0),
        text.new_empty(text.shape if need_text else 0),
        scale.new_empty(() if need_scale else 0),
    )


def _save_clip(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, *output[1:])


def _clip_gradients(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:3]
    if upstream is None or not any(needs):
        return None, None, None
    gradients = clip_loss_backward(upstream, *ctx.saved_tensors, *needs)
    return wanted(gradients, needs)


def wanted(gradients: tuple[Tensor, ...], needs: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """The gradients that are needed, None in place of the others."""
    return tuple(grad if need else None for grad, need in zip(gradients, needs, strict=True))


clip_loss.register_autograd(_clip_gradients, setup_context=_save_clip)


@torch.library.custom_op("dcfast::clip_lse", mutates_args=())
def clip_lse(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Natural log-sum-exp of the logits of each image, (M,), and of each text, (N,), in the compute dtype."""
    check_finite(scale, "logit_scale")
    backend = backend_for(image.device, image.dtype)
    # every logit counts as off the diagonal: positives are kept apart only in a loss
    nowhere = text.shape[0]
    with plain(image):
        norms = backend.clip_norms(image), backend.clip_norms(text)
        shift = backend.clip_shift(*norms, scale, max(image.shape[0], text.shape[0]))
        sums = backend.clip_sums(image, text, scale, shift, nowhere)
        empty = torch.full_like(sums.col_off, -torch.inf)
        rows, row_flags = backend.clip_stats(sums.row_off, torch.full_like(sums.row_off, -torch.inf), shift)
        cols, col_flags = backend.clip_stats(sums.col_off, empty, shift)
        flag = torch.maximum(row_flags.amax(), col_flags.amax())
        by_row, by_col, diag = backend.clip_online(image, text, scale, flag, nowhere)
        backend.clip_restate(rows, by_row, torch.full_like(diag, -torch.inf), flag)
        backend.clip_restate(cols, by_col, empty, flag)
        return backend.clip_log_sums(rows).to(wide(image)), backend.clip_log_sums(cols).to(wide(image))


@clip_lse.register_fake
def _(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    dtype = wide(image)
    return image.new_empty(image.shape[0], dtype=dtype), image.new_empty(text.shape[0], dtype=dtype)
