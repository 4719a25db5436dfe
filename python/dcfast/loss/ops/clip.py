"""The CLIP loss of one or many ranks as torch operators: opaque to the compiler, with shapes for it and gradients.

Arguments are checked by ``dcfast.loss.functional``, which is what to call. There is no second derivative: asking for
one raises. With B pairs a rank and N = W B each rank owns its own images against all texts: 8 N^2 D / W operations,
forward and backward. How texts get to the other ranks is in ``clip_gather`` and ``clip_ring``.

Values and gradients are those of open_clip's ClipLoss, rank by rank, for its four modes. All ranks must have the
same B, which is checked, and the same upstream gradient, as they do in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch._dynamo  # or the first call of an operator imports it: 150 MB and a second in a training's first step
from torch import Tensor

from dcfast.loss.arguments import check_finite
from dcfast.loss.backend import (
    BOTH,
    NLL,
    SMALL,
    Backend,
    ClipStats,
    Products,
    backend_for,
    compute_dtype,
    kept_size,
    stats_dtype,
)
from dcfast.loss.ops import clip_gather, clip_ring
from dcfast.loss.ranks import ranks_of

ALONE = (0, 1, "", "gather", True, True)
"""What the operator takes besides tensors, of one process."""
SCHEDULES = {"gather": clip_gather, "ring": clip_ring}
_FEW = 4096


def plain(features: Tensor) -> torch.autocast:
    """A context without autocast: precisions inside are chosen by the losses."""
    return torch.autocast(features.device.type, enabled=False)


@torch.library.custom_op("dcfast::clip_loss", mutates_args=())
def clip_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    rank: int,
    world_size: int,
    group: str,
    schedule: str,
    local_loss: bool,
    gather_with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(loss, statistics of own rows, of columns, flag, kept; see ``ClipStats``, all texts).

    Columns are own ones, and there are no texts, of one rank and for "ring".
    """
    ranks, backend = ranks_of(rank, world_size, group), backend_for(image)
    ranks.check_same(image, scale)
    check_finite(scale, "logit_scale")
    all_text, begin = text.new_empty(0), 0
    with plain(image):
        if world_size == 1:
            stats = backend.clip_forward(image, text, scale)
        elif schedule == "ring":
            stats = clip_ring.forward(backend, ranks, image, text, scale)
        else:
            stats, all_text = clip_gather.forward(backend, ranks, image, text, scale)
            begin = rank * image.shape[0]
        own = stats.cols[NLL].narrow(0, begin, image.shape[0])
        loss = (stats.rows[NLL].mean() + own.mean()) / 2
        if not local_loss:
            loss = ranks.all_reduce(loss) / world_size
    dtype = compute_dtype(image.dtype)
    kept = image.new_empty(0, dtype=dtype) if stats.kept is None else stats.kept
    return loss.to(dtype), *stats[:3], kept, all_text


@clip_loss.register_fake
def _(
    image: Tensor, text: Tensor, scale: Tensor, rank: int, world_size: int, group: str, schedule: str, *_: object
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_rows, dtype = image.shape[0], compute_dtype(image.dtype)
    gathered = num_rows * world_size if schedule == "gather" else num_rows
    return (
        image.new_empty((), dtype=dtype),
        image.new_empty(4, num_rows, dtype=stats_dtype(image)),
        image.new_empty(4, gathered, dtype=stats_dtype(image)),
        image.new_empty((), dtype=torch.int32),
        image.new_empty(kept_size(image) if world_size == 1 else 0, dtype=dtype),
        text.new_empty(0) if world_size == 1 or schedule == "ring" else text.new_empty(gathered, text.shape[1]),
    )


@torch.library.custom_op("dcfast::clip_loss_backward", mutates_args=())
def clip_loss_backward(
    upstream: Tensor,
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    rows: Tensor,
    cols: Tensor,
    flag: Tensor,
    kept: Tensor,
    all_text: Tensor,
    rank: int,
    world_size: int,
    group: str,
    schedule: str,
    local_loss: bool,
    gather_with_grad: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of this rank's image and text features and of the scale; without elements where not needed."""
    backend, stats = backend_for(image), ClipStats(rows, cols, flag, kept)
    need_image, need_text, need_scale = needs
    factor = upstream / (2 * image.shape[0])
    dot = None
    with plain(image):
        if world_size == 1:
            # The scale's gradient falls out of either product. Of a small batch, and where G is rounded to half
            # precision, it is summed before the logits' gradients or the products are rounded: their errors average
            # out only over many.
            rounded = image.dtype.itemsize == 2 and rows.dtype == torch.float32
            dots = need_scale and image.shape[0] <= (_FEW if rounded else SMALL)
            need_image = need_image or (need_scale and not need_text and not dots)
            weights = BOTH if need_image else None, BOTH if need_text else None
            products = backend.clip_products(image, text, scale, stats, weights=weights, dots=dots)
            if products.dots is not None:
                dot = products.dots.sum() * factor
        else:
            ranks = ranks_of(rank, world_size, group)
            # without gradient through the gather a rank's loss reaches its own rows by P and its own columns by Q alone
            by_row, by_col = ((1.0, 0.0), (0.0, 1.0)) if local_loss and not gather_with_grad else (BOTH, BOTH)
            weights = by_row if need_image else None, by_col if need_text else None
            sweep = SCHEDULES[schedule].backward
            products = sweep(backend, ranks, image, text, all_text, scale, stats, weights, need_scale)
            if products.dots is not None:
                dot = factor * (products.dots if local_loss else ranks.all_reduce(products.dots) / world_size)
            if not local_loss and not gather_with_grad:
                factor = factor / world_size
        return _gradients_of(backend, products, (image, text), scale, factor, dot, needs)


def _gradients_of(
    backend: Backend,
    products: Products,
    sides: tuple[Tensor, Tensor],
    scale: Tensor,
    factor: Tensor,
    dot: Tensor | None,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """From raw products; ``dot``: the scale's gradient where it does not come from one of them."""
    grads = [x.new_empty(0) for x in (*sides, scale)]
    for k, (raw, features) in enumerate(zip(products[:2], sides, strict=True)):
        if raw is None:
            continue
        dot_with = features if needs[2] and dot is None else None
        grad, found = backend.finish(raw, scale, factor, features.dtype, dot_with=dot_with)
        grads[k] = grad if needs[k] else grads[k]
        dot = found if dot is None else dot
    if dot is not None:
        grads[2] = dot.to(scale.dtype)
    return grads[0], grads[1], grads[2]


@clip_loss_backward.register_fake
def _(upstream: Tensor, *tensors_and_settings: Any) -> tuple[Tensor, ...]:
    inputs, needs = tensors_and_settings[:3], tensors_and_settings[-1]
    return tuple(x.new_empty(x.shape if need else 0) for x, need in zip(inputs, needs, strict=True))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.settings = inputs[3:]
    ctx.save_for_backward(*inputs[:3], *output[1:])


def _gradients(ctx: Any, upstream: Tensor | None, *_: object) -> tuple[Tensor | None, ...]:
    needs, rest = ctx.needs_input_grad[:3], (None,) * 6
    if upstream is None or not any(needs):
        return None, None, None, *rest
    return *wanted(clip_loss_backward(upstream, *ctx.saved_tensors, *ctx.settings, needs), needs), *rest


def wanted(gradients: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """The gradients that are needed, None in place of the others."""
    return tuple(grad if need else None for grad, need in zip(gradients, needs, strict=True))


clip_loss.register_autograd(_gradients, setup_context=_save)


@torch.library.custom_op("dcfast::clip_lse", mutates_args=())
def clip_lse(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Natural log-sum-exp of the logits of each image, (M,), and of each text, (N,), in the compute dtype."""
    check_finite(scale, "logit_scale")
    backend = backend_for(image)
    # every logit counts as off the diagonal: positives are kept apart only in a loss
    nowhere = text.shape[0]
    with plain(image):
        norms = backend.clip_norms(image), backend.clip_norms(text)
        shift = backend.clip_shift(*norms, scale, max(image.shape[0], text.shape[0]))
        row_off, col_off, no_row = backend.clip_sums(image, text, scale, shift, nowhere)
        no_col = torch.full_like(col_off, -torch.inf)
        stats = backend.clip_stats((row_off, no_row), (col_off, no_col), shift)
        by_row, by_col, no_row = backend.clip_online(image, text, scale, stats.flag, nowhere)
        backend.clip_restate(stats, (by_row, no_row), (by_col, no_col))
        rows, cols = (backend.clip_log_sums(x).to(compute_dtype(image.dtype)) for x in stats[:2])
        return rows, cols


@clip_lse.register_fake
def _(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(image.dtype)
    return image.new_empty(image.shape[0], dtype=dtype), image.new_empty(text.shape[0], dtype=dtype)
