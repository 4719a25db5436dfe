"""How the matrix of logits is cut into tiles of bounded memory, and the positives in them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["positive_rows", "strip_rows", "take_positives", "wide", "widen"]


_STRIP_BYTES = 6 << 20


# Below this the products of a strip no longer run at full speed.
_LEAST_ROWS = 128


def strip_rows(rows: int, columns: int, dtype: torch.dtype, *, centred: bool = False) -> int:
    """How many rows of the matrix of logits are worked on at a time: strips of even height.

    ``centred``: half of it, as texts less their mean take memory too.
    """
    space = _STRIP_BYTES // 2 if centred else _STRIP_BYTES
    most = min(rows, max(_LEAST_ROWS, space // (columns * wide(dtype).itemsize)))
    return -(-rows // -(-rows // most))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The compute dtype: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widen(features: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Features in the compute dtype, or another, contiguous; themselves where they are so already."""
    return features.to(dtype or wide(features.dtype)).contiguous()


def positive_rows(num_rows: int, num_cols: int, first: int) -> slice:
    """The rows of a block whose positive, column i + first, is in it."""
    begin = min(max(0, -first), num_rows)
    return slice(begin, max(begin, min(num_rows, num_cols - first)))


def take_positives(z: Tensor, first: int, into: Tensor) -> None:
    """Moves the positives of a strip to ``into`` and leaves -inf in their place."""
    here = positive_rows(z.shape[0], z.shape[1], first)
    if here.stop > here.start:
        positives = z.diagonal(first)
        into[here] = positives
        positives.fill_(-math.inf)
