"""The CLIP loss of many ranks with all texts on every rank: they are gathered once.

Sums over columns are added over ranks, text gradients are reduced to the rank that owns the texts, block by block while
the next is computed. The usual loss gathers and reduces both images and texts. Memory: N x D of texts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcfast.loss.backend import Backend, ClipStats, Products, ProductWeights
from dcfast.loss.exchange import common_shift, merged
from dcfast.loss.ranks import Ranks, Reductions


def forward(backend: Backend, ranks: Ranks, image: Tensor, text: Tensor, scale: Tensor) -> tuple[ClipStats, Tensor]:
    """Statistics of this rank's rows and of all columns; all texts."""
    num_rows = image.shape[0]
    gathering = ranks.gather(text)
    shift = common_shift(backend, ranks, image, text, scale)
    # the own block needs nothing of the others: its products run while texts arrive
    row_off, own_col_off, diag = backend.clip_sums(image, text, scale, shift)
    (all_text,) = gathering.wait()
    (all_diag,) = ranks.gather(diag).wait()
    col_off = own_col_off.new_empty(all_text.shape[0])
    for other, block, first in ranks.blocks(num_rows):
        # rank by rank, as the backward pass goes: the logits are rounded alike in both
        if other == ranks.rank:
            col_off[block] = own_col_off
        else:
            sums = backend.clip_sums(image, all_text[block], scale, shift, first)
            row_off, col_off[block] = row_off + sums.row_off, sums.col_off
    stats = backend.clip_stats((row_off, diag), (ranks.all_reduce(col_off), all_diag), shift)
    flag = ranks.all_max(stats.flag)
    # A GPU is not waited for: there the kernels and the collectives are launched, and do nothing where flag is clear.
    if flag.is_cuda or int(flag):
        _restate(backend, ranks, image, all_text, scale, stats)
    return stats, all_text


def _restate(backend: Backend, ranks: Ranks, image: Tensor, all_text: Tensor, scale: Tensor, stats: ClipStats) -> None:
    num_rows = image.shape[0]
    by_row, by_cols, diag = None, [], stats.rows.new_empty(0)
    # On the CPU block by block, as the backward pass goes. The GPU's products are the same in one call.
    whole = [(ranks.rank, slice(None), ranks.rank * num_rows)]
    for other, block, first in whole if stats.flag.is_cuda else ranks.blocks(num_rows):
        rows, cols, positives = backend.clip_online(image, all_text[block], scale, stats.flag, first)
        by_row = rows if by_row is None else merged(backend, by_row, rows)
        by_cols.append(cols)
        diag = positives if other == ranks.rank else diag
    assert by_row is not None
    by_col = torch.cat(by_cols, 1)
    top = ranks.all_max(by_col[0].clone())
    total = ranks.all_reduce(backend.clip_relative(by_col, top))
    (all_diag,) = ranks.gather(diag).wait()
    backend.clip_restate(stats, (by_row, diag), (torch.stack([top, total]), all_diag))


def backward(
    backend: Backend,
    ranks: Ranks,
    image: Tensor,
    text: Tensor,
    all_text: Tensor,
    scale: Tensor,
    stats: ClipStats,
    weights: ProductWeights,
    dots: bool,
) -> Products:
    """Raw gradients of own images and texts; dots: of own rows (P - Id) d and of own columns (Q - Id) d, summed."""
    image_raw: Tensor | None = None
    text_raw: Tensor | None = None
    by_rank = torch.zeros(2, ranks.size, dtype=stats.rows.dtype, device=image.device)
    reductions = Reductions(ranks)
    for other, block, first in ranks.blocks(image.shape[0]):
        products = backend.clip_products(
            image,
            all_text[block],
            scale,
            stats._replace(cols=stats.cols[:, block].contiguous()),
            first,
            weights=weights,
            dots=dots,
            into_image=image_raw,
        )
        image_raw = products.image
        if products.dots is not None:
            by_rank[:, other] = products.dots
        if products.text is not None:
            part = products.text.contiguous()
            text_raw = part if other == ranks.rank else text_raw
            reductions.start(other, part)
    reductions.wait()
    if not dots:
        return Products(image_raw, text_raw, None)
    own_columns = ranks.all_reduce(by_rank[1].contiguous())[ranks.rank]
    return Products(image_raw, text_raw, by_rank[0].sum() + own_columns)
