"""The CLIP loss of many ranks as a torch operator. Each rank owns the strip of its own images against all texts.

With B pairs a rank and N = W B: sums over columns are added over ranks, text gradients are reduced to the rank that
owns the texts, block by block while the next is computed. 8 N^2 D / W operations a rank, forward and backward. Schedule
"gather" gathers texts once, where the usual loss gathers images and texts; schedule "ring" sends texts, their sums and
their gradients round instead: nothing of N x D lies on one rank.

Values and gradients are those of open_clip's ClipLoss, rank by rank, for its four modes. All ranks must have the
same B, which is checked, and the same upstream gradient, as they do in training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dcfast.loss.arguments import check_finite
from dcfast.loss.backend import NLL, Backend, ClipStrip, Weights, backend_for, stats_dtype
from dcfast.loss.exchange import common_shift, merged
from dcfast.loss.ops import clip_ring
from dcfast.loss.ops.clip import fake_gradients, plain, wanted, wide
from dcfast.loss.ranks import Ranks, ranks_of

SCHEDULES = ("gather", "ring")


@torch.library.custom_op("dcfast::clip_loss_ranks", mutates_args=())
def clip_loss_ranks(
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
    """(loss, statistics of own rows, of columns, shift, flag, all texts); "ring": own columns, no texts."""
    ranks, backend = ranks_of(rank, world_size, group), backend_for(image.device, image.dtype)
    ranks.check_same(image, scale)
    check_finite(scale, "logit_scale")
    with plain(image):
        if schedule == "ring":
            strip, all_text = clip_ring.forward(backend, ranks, image, text, scale), text.new_empty(0)
            own = strip.cols
        else:
            strip, all_text = _forward(backend, ranks, image, text, scale)
            own = strip.cols[:, rank * image.shape[0] :][:, : image.shape[0]]
        loss = (strip.rows[NLL].mean() + own[NLL].mean()) / 2
        if not local_loss:
            loss = ranks.all_reduce(loss) / world_size
    return loss.to(wide(image)), *strip[:4], all_text


@clip_loss_ranks.register_fake
def _(
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
    num_rows, dtype = image.shape[0], wide(image)
    ring = schedule == "ring"
    loss, shift = image.new_empty((), dtype=dtype), image.new_empty((), dtype=dtype)
    stats = stats_dtype(image.device, image.dtype)
    rows = image.new_empty(4, num_rows, dtype=stats)
    cols = image.new_empty(4, num_rows * (1 if ring else world_size), dtype=stats)
    texts = text.new_empty(0) if ring else text.new_empty(num_rows * world_size, text.shape[1])
    return loss, rows, cols, shift, image.new_empty((), dtype=torch.int32), texts


def _forward(backend: Backend, ranks: Ranks, image: Tensor, text: Tensor, scale: Tensor) -> tuple[ClipStrip, Tensor]:
    num_rows, begin = image.shape[0], ranks.rank * image.shape[0]
    all_text, gathering = ranks.gather(text, wait=False)
    shift = common_shift(backend, ranks, image, text, scale)
    # the own block needs nothing of the others: its products run while texts arrive
    own = backend.clip_sums(image, text, scale, shift)
    gathering.wait()
    row_off, col_off = own.row_off, all_text.new_empty(all_text.shape[0], dtype=own.col_off.dtype)
    col_off[begin : begin + num_rows] = own.col_off
    all_diag, _ = ranks.gather(own.diag)
    for other in range(ranks.size):
        # rank by rank, as the backward pass goes: the logits are rounded alike in both
        block = slice(other * num_rows, (other + 1) * num_rows)
        if other != ranks.rank:
            sums = backend.clip_sums(image, all_text[block], scale, shift, num_rows)
            row_off, col_off[block] = row_off + sums.row_off, sums.col_off
    rows, row_flags = backend.clip_stats(row_off, own.diag, shift)
    cols, col_flags = backend.clip_stats(ranks.all_reduce(col_off), all_diag, shift)
    flag = ranks.all_max(torch.maximum(row_flags.max(), col_flags.max()))
    # A GPU is not waited for: there the kernels and the collectives are launched, and do nothing where flag is clear.
    if flag.is_cuda or int(flag):
        _restate(backend, ranks, image, all_text, scale, (rows, cols, flag))
    return ClipStrip(rows, cols, shift, flag), all_text


def _restate(
    backend: Backend, ranks: Ranks, image: Tensor, all_text: Tensor, scale: Tensor, stats: tuple[Tensor, Tensor, Tensor]
) -> None:
    rows, cols, flag = stats
    num_rows, begin = image.shape[0], ranks.rank * image.shape[0]
    # On the CPU block by block, as the backward pass goes. The GPU's products are the same in one call.
    size = all_text.shape[0] if flag.is_cuda else num_rows
    by_row, by_cols, diag = None, [], rows.new_empty(0)
    for start in range(0, all_text.shape[0], size):
        own = flag.is_cuda or start == begin
        first = begin if flag.is_cuda else 0 if own else num_rows
        sums = backend.clip_online(image, all_text[start : start + size], scale, flag, first)
        by_row = sums[0] if by_row is None else merged(backend, by_row, sums[0])
        by_cols.append(sums[1])
        diag = sums[2] if own else diag
    assert by_row is not None
    by_col = torch.cat(by_cols, 1)
    top = ranks.all_max(by_col[0].clone())
    total = ranks.all_reduce(backend.clip_relative(by_col, top))
    all_diag, _ = ranks.gather(diag)
    backend.clip_restate(rows, by_row, diag, flag)
    backend.clip_restate(cols, torch.stack([top, total]), all_diag, flag)


@torch.library.custom_op("dcfast::clip_loss_ranks_backward", mutates_args=())
def clip_loss_ranks_backward(
    upstream: Tensor,
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    rows: Tensor,
    cols: Tensor,
    shift: Tensor,
    flag: Tensor,
    all_text: Tensor,
    rank: int,
    world_size: int,
    group: str,
    schedule: str,
    local_loss: bool,
    gather_with_grad: bool,
    need_image: bool,
    need_text: bool,
    need_scale: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of this rank's image and text features and of the scale; without elements where not needed."""
    ranks, backend = ranks_of(rank, world_size, group), backend_for(image.device, image.dtype)
    strip = ClipStrip(rows, cols, shift, flag)
    # without gradient through the gather a rank's loss reaches its own rows by P and its own columns by Q alone
    apart = local_loss and not gather_with_grad
    weights: tuple[Weights, Weights] = ((1.0, 0.0), (0.0, 1.0)) if apart else ((1.0, 1.0), (1.0, 1.0))
    needs = need_image, need_text, need_scale
    with plain(image):
        if schedule == "ring":
            sums = clip_ring.backward(backend, ranks, image, text, scale, strip, weights, needs)
        else:
            sums = _backward(backend, ranks, image, all_text, scale, strip, weights, needs)
        image_raw, text_raw, own_p, own_q = sums
        alone = not local_loss and not gather_with_grad
        pairs = image.shape[0] * (world_size if alone else 1)
        factor = upstream / (2 * pairs)
        empty = image.new_empty(0)
        image_grad = empty if image_raw is None else backend.finish(image_raw, scale, factor, image.dtype)[0]
        text_grad = text.new_empty(0) if text_raw is None else backend.finish(text_raw, scale, factor, text.dtype)[0]
        scale_grad = scale.new_empty(0)
        if need_scale:
            dot = own_p + own_q
            share = upstream / (2 * image.shape[0])
            scale_grad = ((dot if local_loss else ranks.all_reduce(dot) / world_size) * share).to(scale.dtype)
    return image_grad, text_grad, scale_grad


@clip_loss_ranks_backward.register_fake
def _(
    upstream: Tensor,
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    rows: Tensor,
    cols: Tensor,
    shift: Tensor,
    flag: Tensor,
    all_text: Tensor,
    rank: int,
    world_size: int,
    group: str,
    schedule: str,
    local_loss: bool,
    gather_with_grad: bool,
    need_image: bool,
    need_text: bool,
    need_scale: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return fake_gradients(image, text, scale, need_image, need_text, need_scale)


def _backward(
    backend: Backend,
    ranks: Ranks,
    image: Tensor,
    all_text: Tensor,
    scale: Tensor,
    strip: ClipStrip,
    weights: tuple[Weights, Weights],
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
    """(raw image gradient, raw gradient of own texts, sums of (P - Id) d of own rows, of (Q - Id) d of own columns)."""
    num_rows = image.shape[0]
    need_image, need_text, need_scale = needs
    image_raw = image.new_zeros(image.shape, dtype=wide(image)) if need_image else None
    by_rank = torch.zeros(2, ranks.size, dtype=strip.rows.dtype, device=image.device)
    own_text: Tensor | None = None
    pending: list[tuple[Any, Tensor]] = []
    for other in range(ranks.size):
        block = slice(other * num_rows, (other + 1) * num_rows)
        products = backend.clip_products(
            image,
            all_text[block],
            scale,
            strip._replace(cols=strip.cols[:, block].contiguous()),
            0 if other == ranks.rank else num_rows,
            image_weights=weights[0],
            text_weights=weights[1],
            needs=(need_image, need_text),
            dots=need_scale,
            into_image=image_raw,
        )
        if products.dots is not None:
            by_rank[:, other] = products.dots
        if products.text is not None:
            part = products.text.contiguous()
            own_text = part if other == ranks.rank else own_text
            # under way while the next block is computed; two at a time bound the memory
            pending.append((ranks.reduce_to(other, part), part))
            if len(pending) > 1:
                pending.pop(0)[0].wait()
    for work, _ in pending:
        work.wait()
    own_p = by_rank[0].sum()
    own_q = ranks.all_reduce(by_rank[1].contiguous())[ranks.rank] if need_scale else by_rank[1, 0]
    return image_raw, own_text, own_p, own_q


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.settings = inputs[3:]
    ctx.save_for_backward(*inputs[:3], *output[1:])


def _gradients(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    needs, rest = ctx.needs_input_grad[:3], (None,) * 6
    if upstream is None or not any(needs):
        return None, None, None, *rest
    gradients = clip_loss_ranks_backward(upstream, *ctx.saved_tensors, *ctx.settings, *needs)
    return (*wanted(gradients, needs), *rest)


clip_loss_ranks.register_autograd(_gradients, setup_context=_save)
