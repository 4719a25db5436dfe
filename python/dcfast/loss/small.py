"""The losses of a small batch on the CPU, whose cost is that of calls and not of arithmetic: few of them.

The matrix of dot products is stored, half a megabyte at most, and what is made of it is float64. Products are, too, but
where float32 is as near as open_clip's float32. Where a gradient will be wanted the forward pass makes it, and the
backward pass only scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from dcfast._core import similarity as core_similarity
from dcfast.loss.backend import SMALL, has_triton

_PAIRS_FROM, _FLOAT32_FROM = 6, 40  # rows
_CANCELLED = 0.01  # of the terms' norm: less than this is left of them
_PLAIN = (Tensor, torch.nn.Parameter)


def is_small(*inputs: Tensor) -> bool:
    """Whether the functions here may serve: not compilers, tracers, torch.func and forward mode, for whom a loss is one
    operator."""
    # dynamo must not see what comes after the first
    if torch.compiler.is_compiling() or inputs[0].shape[0] > SMALL or inputs[0].device.type != "cpu":
        return False
    for x in inputs:
        if type(x) not in _PLAIN or functorch.is_functorch_wrapped_tensor(x):
            return False
    return (
        forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
        and torch._C._get_tracing_state() is None  # of torch.jit.trace
        and _get_current_dispatch_mode() is None
        and not has_triton(inputs[0])
    )


def clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor | None:
    """``dcfast.clip_loss`` of checked arguments; None where logits are not finite or 600 apart."""
    return _loss(image, text, scale, None)


def siglip_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor | None:
    """``dcfast.siglip_loss`` of checked arguments; None where logits are not finite."""
    return _loss(image, text, scale, bias)


class _NotServedError(Exception):
    pass


def _loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor | None:
    try:
        return cast("Tensor", _Loss.apply(image, text, scale, bias, torch.is_grad_enabled()))
    except _NotServedError:
        return None


def _finite(value: Tensor, name: str) -> float:
    number = value.item()
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    return number


class _Loss(torch.autograd.Function):
    """CLIP's loss, or with a bias SigLIP's. All work is in one function without grad mode: calls are what it costs."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, grad: bool) -> Tensor:
        needs, rows, factor = ctx.needs_input_grad, image.shape[0], _finite(scale, "logit_scale")
        plain = image.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        # sums of so many pairs are as far off as open_clip's in float32; those of few, and softmaxes, may cancel
        narrow = plain and bias is not None and rows >= _PAIRS_FROM
        images, texts = (image, text) if narrow else (image.double(), text.double())
        dots, wanted = torch.mm(images, texts.t()).view(-1).numpy(), grad and any(needs)
        made: tuple[float, float, float, Any] | None
        if bias is None:
            made = core_similarity.clip_of_dots(dots, rows, factor, wanted)
        else:
            siglip = core_similarity.siglip_of_dots32 if narrow else core_similarity.siglip_of_dots
            made = siglip(dots, rows, factor, _finite(bias, "logit_bias"), wanted)
        if made is None:
            raise _NotServedError
        loss, by_scale, by_bias, by_dots = made
        if wanted:
            by_logits = torch.from_numpy(by_dots).view(rows, -1).to(images.dtype)
            ctx.numbers = by_scale if needs[2] else None, by_bias if needs[3] else None
            products = _Products(by_logits, plain)
            ctx.save_for_backward(
                *(image, text, scale, bias),
                products.with_side(texts, text, by_row=True) if needs[0] else None,
                products.with_side(images, image, by_row=False) if needs[1] else None,
            )
        # what the dtype cannot hold is infinite
        value = loss if loss <= torch.finfo(scale.dtype).max else math.inf
        return torch.full((), value, dtype=scale.dtype, device=image.device)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, by_image, by_text = ctx.saved_tensors
        raw = by_image, by_text, *ctx.numbers
        if torch.is_grad_enabled():  # with create_graph
            return *_Gradients.apply(upstream, *inputs, *raw), None
        return *_scaled(upstream, inputs, raw), None


class _Products:
    """Products of the logits' gradient, (n, n), with features."""

    def __init__(self, grad: Tensor, plain: bool) -> None:
        self._grad, self._plain = grad, plain
        self._is_float64 = grad.dtype == torch.float64
        if plain and self._is_float64 and grad.shape[0] >= _FLOAT32_FROM:
            self._narrow: Tensor | None = grad.float()
            self._least = _CANCELLED**2 * _square(grad) / grad.shape[0]
        else:
            self._narrow = None

    def with_side(self, side: Tensor, given: Tensor, *, by_row: bool) -> Tensor:
        """``given`` is ``side`` in its own precision. ``plain``: in float32, made so where nothing cancels."""
        if self._narrow is not None:
            found = torch.mm(self._narrow if by_row else self._narrow.t(), given)
            # against as many terms of random signs
            if _square(found) > self._least * _square(given):
                return found
        found = torch.mm(self._grad if by_row else self._grad.t(), side)
        return found.float() if self._plain and self._is_float64 else found


def _square(x: Tensor) -> float:
    flat = x.reshape(-1)
    return torch.dot(flat, flat).item()


def _scaled(
    upstream: Tensor, inputs: Sequence[Tensor | None], raw: Sequence[Tensor | float | None]
) -> tuple[Tensor | None, ...]:
    found: list[Tensor | None] = []
    for x, g in zip(inputs, raw, strict=True):
        if x is None or g is None:
            found.append(None)
            continue
        scaled = upstream * g
        found.append(scaled if scaled.dtype == x.dtype else scaled.to(x.dtype))
    return tuple(found)


class _Gradients(torch.autograd.Function):
    """The gradients; by the inputs they have no derivative that is written down, and are refused one."""

    @staticmethod
    def forward(ctx: Any, upstream: Tensor, *inputs_and_raw: Any) -> tuple[Tensor | None, ...]:
        return _scaled(upstream, inputs_and_raw[:4], inputs_and_raw[4:])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, ...]:
        raise RuntimeError("the losses have no second derivative: use open_clip's loss")
