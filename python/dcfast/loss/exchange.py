"""Statistics of the CLIP loss merged over ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from dcfast.loss.backend import Backend
from dcfast.loss.ranks import Ranks

__all__ = ["common_shift", "merged"]


def common_shift(backend: Backend, ranks: Ranks, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The shift that serves the features of all ranks."""
    largest = ranks.all_max(torch.stack([backend.clip_norms(image).max(), backend.clip_norms(text).max()]))
    return backend.clip_shift(largest[:1], largest[1:], scale, image.shape[0] * ranks.size)


def merged(backend: Backend, a: Tensor, b: Tensor) -> Tensor:
    """Sums of clip_online of two blocks as those of both."""
    top = torch.maximum(a[0], b[0])
    return torch.stack([top, backend.clip_relative(a, top) + backend.clip_relative(b, top)])
