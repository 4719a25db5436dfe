"""What ranks exchange: the rounds of a ring, and statistics merged over ranks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dcfast.loss.backend import Backend
from dcfast.loss.ranks import Ranks

__all__ = ["common_shift", "merged", "rounds"]


def rounds(ranks: Ranks, *own: Tensor) -> Iterator[tuple[int, list[Tensor]]]:
    """(owner, tensors of the owner) for all ranks, one's own first; the next are on their way meanwhile."""
    here = list(own)
    for step in range(ranks.size):
        last = step == ranks.size - 1
        passing = None if last else ranks.pass_on(*here)
        yield (ranks.rank - step) % ranks.size, here
        if passing is not None:
            here = passing.wait()


def common_shift(backend: Backend, ranks: Ranks, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The shift that serves the features of all ranks."""
    largest = ranks.all_max(torch.stack([backend.clip_norms(image).max(), backend.clip_norms(text).max()]))
    return backend.clip_shift(largest[:1], largest[1:], scale, image.shape[0] * ranks.size)


def merged(backend: Backend, a: Tensor, b: Tensor) -> Tensor:
    """Sums of clip_online of two blocks as those of both."""
    top = torch.maximum(a[0], b[0])
    return torch.stack([top, backend.clip_relative(a, top) + backend.clip_relative(b, top)])
