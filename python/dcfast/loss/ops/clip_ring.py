"""The CLIP loss of many ranks with texts that go round: rank k works on the texts of ranks k, k - 1, ... in turn.

Texts are sent on before they are worked on, so that they travel meanwhile. Their column sums and their gradients travel
one step behind, each rank adding its part, and arrive at home after as many steps as there are ranks: sums are in the
order of the ring, the same in every run. Memory: two blocks of texts, of gradients and of statistics.
"""

from __future__ import annotations

from torch import Tensor

from dcfast.loss.backend import Backend, ClipStats, Products, ProductWeights, compute_dtype
from dcfast.loss.exchange import common_shift, merged
from dcfast.loss.ranks import Ranks


def forward(backend: Backend, ranks: Ranks, image: Tensor, text: Tensor, scale: Tensor) -> ClipStats:
    """Statistics of this rank's rows and of its columns."""
    shift = common_shift(backend, ranks, image, text, scale)
    row_off = col_off = diag = shift.new_empty(0)
    for first, (block,) in ranks.rounds(text):
        sums = backend.clip_sums(image, block, scale, shift, first)
        if first == 0:
            row_off, col_off, diag = sums
        else:
            # the sums of this block arrive from the rank before, which had it one step earlier
            row_off, col_off = row_off + sums.row_off, ranks.pass_on(col_off).wait()[0] + sums.col_off
    (col_off,) = ranks.pass_on(col_off).wait()
    stats = backend.clip_stats((row_off, diag), (col_off, diag), shift)
    if int(ranks.all_max(stats.flag)):  # a second round needs the host: it waits for the flag, which is rarely set
        _restate(backend, ranks, image, text, scale, stats)
    return stats


def _restate(backend: Backend, ranks: Ranks, image: Tensor, text: Tensor, scale: Tensor, stats: ClipStats) -> None:
    by_row = by_col = diag = stats.rows.new_empty(0)
    for first, (block,) in ranks.rounds(text):
        rows, cols, positives = backend.clip_online(image, block, scale, stats.flag, first)
        if first == 0:
            by_row, by_col, diag = rows, cols, positives
        else:
            by_row = merged(backend, by_row, rows)
            by_col = merged(backend, ranks.pass_on(by_col).wait()[0], cols)
    (by_col,) = ranks.pass_on(by_col).wait()
    backend.clip_restate(stats, (by_row, diag), (by_col, diag))


def backward(
    backend: Backend,
    ranks: Ranks,
    image: Tensor,
    text: Tensor,
    _: Tensor,
    scale: Tensor,
    stats: ClipStats,
    weights: ProductWeights,
    dots: bool,
) -> Products:
    """As ``backward`` of clip_gather, without all texts."""
    image_raw: Tensor | None = None
    need_text = weights[1] is not None
    text_raw = text.new_zeros(text.shape if need_text else (0,), dtype=compute_dtype(text.dtype))
    own_p, block_q = stats.rows.new_zeros(()), stats.rows.new_zeros(1)
    for first, (block, cols) in ranks.rounds(text, stats.cols):
        products = backend.clip_products(
            image,
            block,
            scale,
            stats._replace(cols=cols),
            first,
            weights=weights,
            dots=dots,
            into_image=image_raw,
        )
        image_raw = products.image
        if first:
            text_raw, block_q = ranks.pass_on(text_raw, block_q).wait()
        if products.text is not None:
            text_raw = text_raw + products.text
        if products.dots is not None:
            own_p, block_q = own_p + products.dots[0], block_q + products.dots[1]
    text_raw, block_q = ranks.pass_on(text_raw, block_q).wait()
    return Products(image_raw, text_raw if need_text else None, own_p + block_q[0] if dots else None)
