"""The SigLIP loss of one or many ranks as torch operators: own images against the texts of all ranks, one at a time.

Loss and gradients come from one pass: where a gradient will be wanted the forward pass makes it, raw and in float32
(float64 for float64), for an upstream gradient that is the same on all ranks, and the backward pass only scales. Texts
are gathered at once ("gather") or go round a ring ("ring"); their gradients are reduced to their rank or come home with
them. Values and gradients are those of open_clip's SigLipLoss, rank by rank, for every dist_impl.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dcfast.loss.arguments import check_finite
from dcfast.loss.backend import backend_for, compute_dtype
from dcfast.loss.ops.clip import plain, wanted
from dcfast.loss.ranks import Ranks, Reductions, ranks_of

ALONE = (0, 1, "", "ring")
"""What the operator takes besides tensors and needs, of one process."""
# open_clip's names: where its result is the same, so is the schedule
SCHEDULES = {"bidir": "ring", "shift": "ring", "reduce": "gather", "gather": "gather"}


@torch.library.custom_op("dcfast::siglip_loss", mutates_args=())
def siglip_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    needs: Sequence[bool],
    rank: int,
    world_size: int,
    group: str,
    schedule: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(loss, raw image gradient, raw text gradient, sums for scale and bias); without elements where not needed.

    ``needs``: gradients of images, of texts, of scale or bias.
    """
    ranks = ranks_of(rank, world_size, group)
    ranks.check_same(image, scale, bias)
    check_finite(scale, "logit_scale")
    check_finite(bias, "logit_bias")
    blocks = _Blocks(image, scale, bias, needs)
    with plain(image):
        text_raw = (_ring if schedule == "ring" else _gather)(ranks, text, blocks)
        dtype = compute_dtype(image.dtype)
        raw = (blocks.image_raw, text_raw, blocks.sums)
        # an operator's results may not share memory, be they empty
        parts = [image.new_empty(0, dtype=dtype) if x is None else x.to(dtype).contiguous() for x in raw]
        return (blocks.loss / image.shape[0]).to(dtype), parts[0], parts[1], parts[2]


@siglip_loss.register_fake
def _(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, needs: Sequence[bool], *_: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = compute_dtype(image.dtype)
    return (
        image.new_empty((), dtype=dtype),
        image.new_empty(image.shape if needs[0] else 0, dtype=dtype),
        image.new_empty(text.shape if needs[1] else 0, dtype=dtype),
        image.new_empty(2 if any(needs) else 0, dtype=dtype),
    )


class _Blocks:
    """Own images against one rank's texts at a time; loss, sums and image gradient add up."""

    def __init__(self, image: Tensor, scale: Tensor, bias: Tensor, needs: Sequence[bool]) -> None:
        self._image, self._scale, self._bias = image, scale, bias
        self._needs, self._grad = (needs[0], needs[1]), any(needs)
        self._backend = backend_for(image)
        self.loss = image.new_zeros((), dtype=torch.float64)
        self.sums = image.new_zeros(2, dtype=torch.float64) if self._grad else None
        self.image_raw: Tensor | None = None

    def add(self, text: Tensor, first: int) -> Tensor | None:
        """Adds the pairs with these texts; the raw gradient of the texts where needed."""
        loss, products = self._backend.siglip_block(
            self._image,
            text,
            self._scale,
            self._bias,
            first,
            needs=self._needs,
            grad=self._grad,
            into_image=self.image_raw,
        )
        self.loss = self.loss + loss
        self.image_raw = products.image
        if self.sums is not None and products.dots is not None:
            self.sums = self.sums + products.dots
        return None if products.text is None else products.text.contiguous()


def _gather(ranks: Ranks, text: Tensor, blocks: _Blocks) -> Tensor | None:
    gathering = ranks.gather(text)
    own = blocks.add(text, 0)  # while the others' texts arrive
    (all_text,) = gathering.wait()
    reductions = Reductions(ranks)
    for other, block, first in ranks.blocks(text.shape[0]):
        part = own if other == ranks.rank else blocks.add(all_text[block], first)
        if part is not None:
            reductions.start(other, part)  # in the order of ranks, the same everywhere, as collectives ask
    reductions.wait()
    return own


def _ring(ranks: Ranks, text: Tensor, blocks: _Blocks) -> Tensor | None:
    text_raw: Tensor | None = None
    for first, (texts,) in ranks.rounds(text):
        part = blocks.add(texts, first)
        if part is not None:
            text_raw = part if text_raw is None else ranks.pass_on(text_raw).wait()[0] + part
    return None if text_raw is None else ranks.pass_on(text_raw).wait()[0]


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


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.rows, ctx.dtype = inputs[0].shape[0], inputs[0].dtype
    ctx.save_for_backward(inputs[2], *output[1:])


def _gradients(ctx: Any, upstream: Tensor | None, *_: object) -> tuple[Tensor | None, ...]:
    needs, rest = ctx.needs_input_grad[:4], (None,) * 5
    if upstream is None or not any(needs):
        return None, None, None, None, *rest
    gradients = siglip_loss_backward(upstream, *ctx.saved_tensors, ctx.rows, ctx.dtype)
    return *wanted(gradients, needs), *rest


siglip_loss.register_autograd(_gradients, setup_context=_save)
