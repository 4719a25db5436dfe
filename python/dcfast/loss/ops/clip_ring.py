"""The CLIP loss of many ranks with texts that go round: rank k works on the texts of ranks k, k - 1, ... in turn.

Texts are sent on before they are worked on, so that they travel meanwhile. Their column sums and their gradients travel
one step behind, each rank adding its part, and arrive at home after as many steps as there are ranks: sums are in the
order of the ring, the same in every run. Memory: two blocks of texts, of gradients and of statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcfast.loss.backend import Backend, ClipStrip, Weights
from dcfast.loss.exchange import common_shift, merged, rounds
from dcfast.loss.ranks import Ranks


def forward(backend: Backend, ranks: Ranks, image: Tensor, text: Tensor, scale: Tensor) -> ClipStrip:
    """Statistics of this rank's rows and of its columns."""
    shift = common_shift(backend, ranks, image, text, scale)
    num_rows = image.shape[0]
    row_off = col_off = diag = shift.new_empty(0)
    for owner, (block,) in rounds(ranks, text):
        if owner == ranks.rank:
            row_off, col_off, diag = backend.clip_sums(image, block, scale, shift)
        else:
            sums = backend.clip_sums(image, block, scale, shift, num_rows)
            # the sums of this block arrive from the rank before, which had it one step earlier
            row_off, col_off = row_off + sums.row_off, ranks.pass_on(col_off).wait()[0] + sums.col_off
    (col_off,) = ranks.pass_on(col_off).wait()
    rows, row_flags = backend.clip_stats(row_off, diag, shift)
    cols, col_flags = backend.clip_stats(col_off, diag, shift)
    flag = ranks.all_max(torch.maximum(row_flags.max(), col_flags.max()))
    if int(flag):  # a second round needs the host: it waits for the flag, which is rarely set
        _restate(backend, ranks, image, text, scale, (rows, cols, flag))
    return ClipStrip(rows, cols, shift, flag)


def _restate(
    backend: Backend, ranks: Ranks, image: Tensor, text: Tensor, scale: Tensor, stats: tuple[Tensor, Tensor, Tensor]
) -> None:
    rows, cols, flag = stats
    num_rows = image.shape[0]
    rows_sums = cols_sums = diag = rows.new_empty(0)
    for owner, (block,) in rounds(ranks, text):
        own = owner == ranks.rank
        by_row, by_col, positives = backend.clip_online(image, block, scale, flag, 0 if own else num_rows)
        if own:
            rows_sums, cols_sums, diag = by_row, by_col, positives
        else:
            rows_sums = merged(backend, rows_sums, by_row)
            cols_sums = merged(backend, ranks.pass_on(cols_sums).wait()[0], by_col)
    (cols_sums,) = ranks.pass_on(cols_sums).wait()
    backend.clip_restate(rows, rows_sums, diag, flag)
    backend.clip_restate(cols, cols_sums, diag, flag)


def backward(
    backend: Backend,
    ranks: Ranks,
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    strip: ClipStrip,
    weights: tuple[Weights, Weights],
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
    """As ``_backward`` of clip_ranks."""
    need_image, need_text, need_scale = needs
    dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
    image_raw = image.new_zeros(image.shape, dtype=dtype) if need_image else None
    text_raw = text.new_zeros(text.shape if need_text else (0,), dtype=dtype)
    own_p, block_q = strip.rows.new_zeros(()), strip.rows.new_zeros(1)
    for owner, (block, cols) in rounds(ranks, text, strip.cols):
        own = owner == ranks.rank
        products = backend.clip_products(
            image,
            block,
            scale,
            strip._replace(cols=cols),
            0 if own else image.shape[0],
            image_weights=weights[0],
            text_weights=weights[1],
            needs=(need_image, need_text),
            dots=need_scale,
            into_image=image_raw,
        )
        if not own:
            text_raw, block_q = ranks.pass_on(text_raw, block_q).wait()
        if products.text is not None:
            text_raw = text_raw + products.text
        if products.dots is not None:
            own_p, block_q = own_p + products.dots[0], block_q + products.dots[1]
    text_raw, block_q = ranks.pass_on(text_raw, block_q).wait()
    return image_raw, text_raw if need_text else None, own_p, block_q[0]
