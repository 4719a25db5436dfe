"""Large logits in float32: of features less what all of them share.

What all images, or all texts, have in common takes the digits of a product of float32, and is no part of what a
softmax sees: z_ij = s <I_i - d, T_j - c> + a_i + b_j + k, with d and c the means. a_i is the same along a row, b_j
along a column, so exponents along rows are z'_ij + b_j and those along columns z'_ij + a_i. a, b, k and the positives
are made in float64, which costs one row's dot product each.

Exponents are those of 2, not of e: torch's exp of float32 takes a hundred times as long where its result is no normal
number, as most are of large logits; its exp2 does not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from dcfast.loss.backend import SMALL

if TYPE_CHECKING:
    from torch import Tensor

LOG2_E = 1 / math.log(2)
_ROWS = 256
# Of logits beyond it float32 knows a tenth, or less: exponentials of these are noise, open_clip's too.
_MOST = 2.0**20


class Centred(NamedTuple):
    """Features without their means, and what that takes from their logits; all logits times log2(e)."""

    image: Tensor  # (M, D) float32, times scale and log2(e)
    text: Tensor  # (N, D) float32
    of_rows: Tensor  # (M,) float64 a_i
    of_cols: Tensor  # (N,) float64 b_j
    constant: Tensor  # 0-dim float64 k


def centred(image: Tensor, text: Tensor, scale: Tensor) -> Centred | None:
    """None where float32 does not serve: a small block, float64 features, logits too large, or not finite."""
    if image.dtype == torch.float64 or max(image.shape[0], text.shape[0]) <= SMALL:
        return None
    factor, image_mean, text_mean = scale.double() * LOG2_E, _mean(image), _mean(text)
    images, image_norm, of_rows = _without(image, image_mean, factor, text_mean)
    texts, text_norm, of_cols = _without(text, text_mean, None, factor * image_mean)
    bound = image_norm * text_norm + of_rows.abs().max() + of_cols.abs().max()
    if not float(bound) <= _MOST:
        return None
    return Centred(images, texts, of_rows, of_cols, factor * torch.dot(image_mean, text_mean))


def positives_of(image: Tensor, text: Tensor, scale: Tensor, first: int) -> tuple[slice, Tensor]:
    """The rows of a block that have their positive in it, and its logits, float64."""
    begin = min(max(0, -first), image.shape[0])
    end = max(begin, min(image.shape[0], text.shape[0] - first))
    pairs = zip(
        torch.split(image[begin:end], _ROWS), torch.split(text[begin + first : end + first], _ROWS), strict=True
    )
    dots = [torch.linalg.vecdot(x.double(), y.double()) for x, y in pairs]
    return slice(begin, end), scale.double() * torch.cat(dots)


def _mean(x: Tensor) -> Tensor:
    """As near as float32 brings it: what is taken off is known, whatever it is."""
    return x.mean(0, dtype=torch.float32).double()


def _without(x: Tensor, mean: Tensor, factor: Tensor | None, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x - mean) * factor in float32; its largest norm; its products with ``other``."""
    out = x.new_empty(x.shape, dtype=torch.float32)
    norms, products = [], []
    for part, into in zip(torch.split(x, _ROWS), torch.split(out, _ROWS), strict=True):
        rest = part - mean
        if factor is not None:
            rest.mul_(factor)
        norms.append(torch.linalg.vector_norm(rest, dim=1).max())
        products.append(torch.mv(rest, other))
        into.copy_(rest)
    return out, torch.stack(norms).max(), torch.cat(products)
