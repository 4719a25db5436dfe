"""The SigLIP loss of many ranks as a torch operator: own images against the texts of all ranks, one after the other.

Texts are gathered at once ("gather") or go round a ring ("ring"), their gradients are reduced to their rank or come
home with them. Values and gradients are those of open_clip's SigLipLoss, rank by rank, for every dist_impl. As with one
process the gradients are made in the forward pass, for an upstream gradient that is the same on all ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dcfast.loss.arguments import check_finite
from dcfast.loss.backend import Products, backend_for
from dcfast.loss.exchange import rounds
from dcfast.loss.ops.clip import plain, wide
from dcfast.loss.ops.siglip import save_siglip, siglip_gradients
from dcfast.loss.ranks import Ranks, ranks_of

# open_clip's names: where its result is the same, so is the schedule
SCHEDULES = {"bidir": "ring", "shift": "ring", "reduce": "gather", "gather": "gather"}


@torch.library.custom_op("dcfast::siglip_loss_ranks", mutates_args=())
def siglip_loss_ranks(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    need_image: bool,
    need_text: bool,
    need_scalars: bool,
    rank: int,
    world_size: int,
    group: str,
    schedule: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(loss, raw image gradient, raw text gradient, sums for scale and bias); without elements where not needed."""
    ranks = ranks_of(rank, world_size, group)
    ranks.check_same(image, scale, bias)
    check_finite(scale, "logit_scale")
    check_finite(bias, "logit_bias")
    block = _Block(image, scale, bias, need_image, need_text, need_image or need_text or need_scalars)
    with plain(image):
        sweep = _ring if schedule == "ring" else _gather
        text_raw = sweep(ranks, text, block)
        dtype = wide(image)
        parts = block.image_raw, text_raw, block.sums.to(dtype) if block.grad else None
        # an operator's results may not share memory, be they empty
        image_raw, text_raw, sums = (image.new_empty(0, dtype=dtype) if x is None else x for x in parts)
        return (block.loss / image.shape[0]).to(dtype), image_raw, text_raw, sums


@siglip_loss_ranks.register_fake
def _(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    need_image: bool,
    need_text: bool,
    need_scalars: bool,
    rank: int,
    world_size: int,
    group: str,
    schedule: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype, grad = wide(image), need_image or need_text or need_scalars
    return (
        image.new_empty((), dtype=dtype),
        image.new_empty(image.shape if need_image else 0, dtype=dtype),
        image.new_empty(text.shape if need_text else 0, dtype=dtype),
        image.new_empty(2 if grad else 0, dtype=dtype),
    )


class _Block:
    """Own images against one rank's texts at a time; loss, sums and image gradient add up."""

    def __init__(
        self, image: Tensor, scale: Tensor, bias: Tensor, need_image: bool, need_text: bool, grad: bool
    ) -> None:
        self._image, self._scale, self._bias = image, scale, bias
        self._backend = backend_for(image.device, image.dtype)
        self._needs = need_image, need_text
        self.grad, self.need_text = grad, need_text
        dtype = wide(image)
        self.loss = image.new_zeros((), dtype=torch.float64)
        self.sums = image.new_zeros(2, dtype=torch.float64)
        self.image_raw = image.new_zeros(image.shape, dtype=dtype) if need_image else None

    def run(self, text: Tensor, *, own: bool) -> Tensor | None:
        """Adds the pairs with these texts; the raw gradient of the texts where needed."""
        products: Products
        loss, products = self._backend.siglip_block(
            self._image,
            text,
            self._scale,
            self._bias,
            0 if own else self._image.shape[0],
            needs=self._needs,
            grad=self.grad,
            into_image=self.image_raw,
        )
        self.loss = self.loss + loss
        if products.dots is not None:
            self.sums = self.sums + products.dots
        return None if products.text is None else products.text.contiguous()


def _gather(ranks: Ranks, text: Tensor, block: _Block) -> Tensor | None:
    all_text, gathering = ranks.gather(text, wait=False)
    own = block.run(text, own=True)  # while the others' texts arrive
    gathering.wait()
    pending: list[tuple[Any, Tensor]] = []
    for other, part in _parts(ranks, all_text, block, own):
        pending.append((ranks.reduce_to(other, part), part))
        if len(pending) > 1:
            pending.pop(0)[0].wait()
    for work, _ in pending:
        work.wait()
    return own


def _parts(ranks: Ranks, all_text: Tensor, block: _Block, own: Tensor | None) -> Iterator[tuple[int, Tensor]]:
    """(rank, raw gradient of its texts) in the order of ranks, the same everywhere, as collectives ask."""
    for other, texts in enumerate(all_text.chunk(ranks.size)):
        part = own if other == ranks.rank else block.run(texts, own=False)
        if part is not None:
            yield other, part


def _ring(ranks: Ranks, text: Tensor, block: _Block) -> Tensor | None:
    text_raw: Tensor | None = None
    for owner, (texts,) in rounds(ranks, text):
        part = block.run(texts, own=owner == ranks.rank)
        if part is None:
            continue
        text_raw = part if text_raw is None else ranks.pass_on(text_raw).wait()[0] + part
    return None if text_raw is None else ranks.pass_on(text_raw).wait()[0]


siglip_loss_ranks.register_autograd(siglip_gradients, setup_context=save_siglip)
