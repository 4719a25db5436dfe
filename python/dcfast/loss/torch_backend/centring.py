"""What features have in common, taken off before logits are multiplied.

A model that has not learned much gives features in a narrow cone: cosines of 0.9 between any two images are common. A
logit is then a large number that all share, of which softmaxes keep nothing, and a small one that matters and has only
the digits that the large one leaves. With means m of the images and n of the texts, x = m + x' and t = n + t',

    <x, t> - <m, n> = <x', t'> + <x', n> + <m, t'>

whose terms are all small. The last two are sums in float64 and travel as two more columns of the factors. The gradient
of the images is G t' and the sums of the rows of G times n: rows of P - Id add up to 0, those of Q - Id are summed by
themselves. So it is with columns and texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

# of the largest squared norm: what the square of a mean has to be for it to be taken off
_LEAST = 1 / 8
# of the product of the largest norms: more, and dot products with a mean may not fit float32
_MOST = 2.0**120
_ROWS = 1024
# two columns more, and rows still begin at multiples of 64 bytes where they did
_MORE, _PADDED = 2, 16


def means(image: Tensor, text: Tensor) -> Tensor:
    """(2, D) means of the features."""
    return torch.stack([image.mean(0), text.mean(0)])


def settled(both: Tensor, image_norms: Tensor, text_norms: Tensor) -> Tensor:
    """(2, D) what to take off: the means over all ranks, or zeros where features are not in a cone.

    The norms are squared, of all ranks too: all of them have to come to the same result.
    """
    squares = both.double().square().sum(1)
    largest = torch.stack([image_norms.max(), text_norms.max()]).double()
    worth = (squares >= _LEAST * largest).any() & squares.isfinite().all() & (largest > 0).all()
    worth &= largest.sqrt().prod() < _MOST
    return both if bool(worth) else torch.zeros_like(both)


def constant(centre: Tensor | None) -> float:
    """What is taken off every dot product."""
    return 0.0 if centre is None else float((centre[0].double() * centre[1].double()).sum())


class Part(NamedTuple):
    """Some rows of images."""

    given: Tensor  # (h, D) in the working dtype
    features: Tensor  # (h, D) less their mean
    factors: Tensor  # (h, D) or (h, D + 2): their products with those of texts are dot products less the constant

    @property
    def with_mean(self) -> Tensor:
        """(h,) dot products with the texts' mean less the constant, where means are taken off."""
        return self.factors[:, -2]


class Texts:
    """The texts of a block, as they are or less their mean: then in a copy."""

    def __init__(self, text: Tensor, centre: Tensor | None, dtype: torch.dtype) -> None:
        self.given, self._dtype = text, dtype
        self._centre = centre if centre is not None and bool(centre.any()) else None
        self.constant = constant(self._centre)
        if self._centre is None:
            self.features = self.factors = text.to(dtype).contiguous()
            return
        self._means = self._centre.double()
        self.features, self.factors = self._factors(text, self._means[1], self._means[0], given_first=False)

    @property
    def means(self) -> tuple[Tensor, Tensor] | None:
        """(D,) of images and of texts, in the working dtype, where they are taken off."""
        return None if self._centre is None else (self._centre[0].to(self._dtype), self._centre[1].to(self._dtype))

    @property
    def with_mean(self) -> Tensor:
        """(N,) dot products with the images' mean less the constant, where means are taken off."""
        return self.factors[:, -1]

    def part(self, image: Tensor) -> Part:
        """Rows of images, to be multiplied with these texts."""
        given = image.to(self._dtype).contiguous()
        if self._centre is None:
            return Part(given, given, given)
        return Part(given, *self._factors(given, self._means[0], self._means[1], given_first=True))

    def _factors(self, x: Tensor, own: Tensor, other: Tensor, *, given_first: bool) -> tuple[Tensor, Tensor]:
        """(features less their own mean, the same with a column of <x, other> - constant and one of ones)."""
        rows, width = x.shape
        space = x.new_empty(rows, width + _PADDED, dtype=self._dtype)
        features, factors = space[:, :width], space[:, : width + _MORE]
        torch.sub(x, own.to(self._dtype), out=features)
        dots, ones = (width, width + 1) if given_first else (width + 1, width)
        space[:, ones] = 1
        for start in range(0, rows, _ROWS):
            stop = min(start + _ROWS, rows)
            space[start:stop, dots] = x[start:stop].double() @ other - self.constant
        return features, factors
