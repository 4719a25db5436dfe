"""Retrieval ranks and recalls, both ways, in bounded memory.

Legend: N pictures, M captions, D embedding width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dcfast.evaluate.metrics import Ints, Metrics

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_ELEMENTS = 1 << 22
"""Similarities held at a time: with their comparisons about 40 MB, whatever N and M are."""


def rank_of(scores: Tensor, columns: Tensor) -> Tensor:
    """How many come before one column of each row: higher scores, equal ones to the left; all, where it has no such."""
    import torch

    count = scores.shape[1]
    value = scores.gather(1, columns.clamp(max=count - 1)[:, None])
    left = torch.arange(count)[None, :] < columns[:, None]
    return torch.where(columns < count, (scores > value).sum(1) + ((scores == value) & left).sum(1), count)


def retrieval_ranks(
    image_ND: Tensor,  # noqa: N803
    text_MD: Tensor,  # noqa: N803
    image_of_text: Ints,
    block_elements: int = BLOCK_ELEMENTS,
) -> tuple[Ints, Ints]:
    """Where the right answers stand, 0 the best.

    Args:
        image_ND, text_MD: embeddings, unit norm.
        image_of_text: (M,) place of each caption's picture, ascending; each picture has a caption.
    Returns:
        (M,) the rank of each caption's picture among all pictures, and (N,) the best rank of each picture's own
        captions among all captions. Equal similarities are ranked by place, so a model that tells nothing apart
        scores as chance does.
    Raises:
        ValueError: a picture without a caption, or captions not in the pictures' order.
    Memory: ``block_elements`` similarities. Cost: the matrix twice, 4 N M D operations.
    """
    import torch

    images, texts = len(image_ND), len(text_MD)
    counts = np.bincount(image_of_text, minlength=images)
    if len(image_of_text) != texts or len(counts) != images or (counts == 0).any():
        raise ValueError("retrieval_ranks: image_of_text must name a picture for each caption, and every picture once")
    if (np.diff(image_of_text) < 0).any():
        raise ValueError("retrieval_ranks: image_of_text must be ascending")
    own = torch.from_numpy(image_of_text)
    image_rank = torch.empty(texts, dtype=torch.int64)
    step = max(1, block_elements // images)
    for begin in range(0, texts, step):
        part = slice(begin, begin + step)
        image_rank[part] = rank_of(text_MD[part] @ image_ND.T, own[part])
    captions = np.concatenate([[0], np.cumsum(counts)]).tolist()  # of picture i: captions[i] .. captions[i + 1]
    text_rank = torch.empty(images, dtype=torch.int64)
    step = max(1, block_elements // texts)
    for begin in range(0, images, step):
        scores = image_ND[begin : begin + step] @ text_MD.T
        best = [
            first + int(row[first:end].argmax())
            for row, first, end in zip(scores, captions[begin:], captions[begin + 1 :], strict=False)
        ]
        text_rank[begin : begin + step] = rank_of(scores, torch.tensor(best))
    return image_rank.numpy(), text_rank.numpy()


def recalls(image_rank: Ints, text_rank: Ints) -> Metrics:
    """Recall at 1, 5 and 10 both ways and their mean at 1, under CLIP_benchmark's names."""
    shares: Metrics = {}
    for k in (1, 5, 10):
        shares[f"image_retrieval_recall@{k}"] = float(np.mean(image_rank < k))
        shares[f"text_retrieval_recall@{k}"] = float(np.mean(text_rank < k))
    shares["mean_recall@1"] = (float(np.mean(image_rank < 1)) + float(np.mean(text_rank < 1))) / 2
    return shares
