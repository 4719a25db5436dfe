"""The contrastive losses written down plainly, features to try them on, and how far two results are apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BARS = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 5e-3, torch.float16: 5e-4}
Leaves = Sequence[Tensor]


# of the norm of the true gradient, where that is above _LEAST: what an error in float32 may be whatever open_clip's is
_MOST, _LEAST = 1e-4, 1e-6


def features(
    rows: int, width: int, dtype: torch.dtype = torch.float32, *, noise: float = 2.0, norm: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Image and text features of correlated pairs: the smaller the noise, the nearer."""
    generator = torch.Generator().manual_seed(1000 * seed + 10 * rows + width)
    image = functional.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)
    other = functional.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)
    text = functional.normalize(image + noise * other, dim=1)
    return (image * norm).to(dtype), (text * norm).to(dtype)


def cone(rows: int, width: int, *, common: float, pair: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """float32 unit features that share a direction, as those of new models do.

    ``common``: the mean cosine of two images; ``pair``: the cosine of image and text in what they do not share.
    """
    shared = torch.randn(1, width, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1000 * seed + rows + width)
    own, other = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for _ in range(2))
    shared, own, other = (functional.normalize(x, dim=1) for x in (shared, own, other))
    partner = functional.normalize(pair * own + (1 - pair**2) ** 0.5 * other, dim=1)
    image, text = (common**0.5 * shared + (1 - common) ** 0.5 * x for x in (own, partner))
    return functional.normalize(image, dim=1).float(), functional.normalize(text, dim=1).float()


def naive_clip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Two cross entropies of the stored matrix of logits."""
    logits = scale.to(image.dtype) * image @ text.T
    if bias is not None:
        logits = logits + bias.to(image.dtype)
    labels = torch.arange(len(image))
    return (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2


def fitted_clip(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """``naive_clip`` from differences to the positive's logit: a fitted batch's loss of 1e-30 keeps its digits."""
    logits = scale.to(image.dtype) * image @ text.T
    rivals = ~torch.eye(len(image), dtype=torch.bool)
    losses = []
    for z in (logits, logits.T):
        away = (z - z.diagonal()[:, None])[rivals].view(len(z), -1)
        losses.append(functional.softplus(away.logsumexp(1), threshold=50).mean())
    return torch.stack(losses).mean()


def naive_siglip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """All pairs' logistic losses of the stored matrix of logits."""
    logits = scale.to(image.dtype) * image @ text.T + bias.to(image.dtype)
    labels = 2 * torch.eye(len(image), dtype=image.dtype) - 1
    return -functional.logsigmoid(labels * logits).sum() / len(image)


def run(loss: Callable[..., Tensor], *inputs: Tensor, upstream: float = 1.0) -> list[Tensor]:
    """The loss and the gradients of all inputs."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = loss(*leaves)
    (value * upstream).backward()
    grads = [leaf.grad for leaf in leaves]
    assert all(grad is not None for grad in grads)
    return [value.detach(), *[grad for grad in grads if grad is not None]]


def exact(loss: Callable[..., Tensor], *inputs: Tensor, upstream: float = 1.0) -> list[Tensor]:
    """The same of a plain loss in float64, from the same rounded inputs."""
    return run(loss, *[x.double() for x in inputs], upstream=upstream)


def errors(found: Leaves, wanted: Leaves) -> list[float]:
    """Relative l2 errors, absolute where what is wanted is 0."""
    pairs = zip(found, wanted, strict=True)
    return [float((a.double() - b.double()).norm() / (b.double().norm() or 1.0)) for a, b in pairs]


def assert_close(found: Leaves, wanted: Leaves, dtype: torch.dtype, plain: Leaves | None = None) -> None:
    """Within the bar of the dtype, or where the problem is ill-conditioned within twice the plain loss's error.

    An error of a gradient in float32 that is not tiny may be 1e-4 at most, whatever the plain loss's is.
    """
    allowed: list[float] = [BARS[dtype]] * len(wanted)
    if plain is not None:
        allowed = [max(bar, 2 * error) for bar, error in zip(allowed, errors(plain, wanted), strict=True)]
        if dtype == torch.float32:
            large = [k > 0 and float(x.norm()) > _LEAST for k, x in enumerate(wanted)]
            allowed = [min(a, _MOST) if cap else a for a, cap in zip(allowed, large, strict=True)]
    got = errors(found, wanted)
    assert all(e <= a for e, a in zip(got, allowed, strict=True)), f"errors {got}, allowed {allowed}"


def assert_bar(loss: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Holds a loss in float32 to its bar: 2e-6, or twice the error of the plain loss in float32.

    Both are measured from float64; of ``naive_clip`` from ``fitted_clip``, since it loses a fitted batch there too.
    """
    wanted = exact(fitted_clip if plain is naive_clip else plain, *inputs)
    assert_close(run(loss, *inputs), wanted, torch.float32, run(plain, *inputs))


def as_leaves(*numbers: float) -> list[Any]:
    return [torch.tensor(number) for number in numbers]
