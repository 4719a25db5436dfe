"""The losses of a small batch on the CPU, whose cost is that of calls and not of arithmetic: few of them.

All is float64, and the matrix of logits is stored, half a megabyte at most. Where a gradient will be wanted the forward
pass makes it, and the backward pass only scales.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from dcfast._core import similarity as core_similarity
from dcfast.loss.arguments import check_finite
from dcfast.loss.backend import SMALL, has_triton

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PLAIN = (Tensor, torch.nn.Parameter)


def is_small(*inputs: Tensor) -> bool:
    """Whether the functions here may serve: not compilers, tracers and torch.func, to whom a loss is one operator."""
    # dynamo must not see what comes after the first
    return (
        not torch.compiler.is_compiling()
        and inputs[0].shape[0] <= SMALL
        and inputs[0].device.type == "cpu"
        and all(type(x) in _PLAIN and not functorch.is_functorch_wrapped_tensor(x) for x in inputs)
        and torch._C._get_tracing_state() is None  # of torch.jit.trace
        and _get_current_dispatch_mode() is None
        and not has_triton(inputs[0])
    )


def clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor | None:
    """``dcfast.clip_loss`` of checked arguments; None where the scale is 0, or logits are not finite or 600 apart."""
    check_finite(scale, "logit_scale")
    sides = _sides(image, text, scale)
    made = core_similarity.clip_of_logits(_logits(*sides), image.shape[0], _is_wanted(image, text, scale))
    return None if made is None or not sides[2] else _loss(image, text, scale, None, sides, made)


def siglip_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor | None:
    """``dcfast.siglip_loss`` of checked arguments; None where the scale is 0, or logits are not finite."""
    check_finite(scale, "logit_scale")
    check_finite(bias, "logit_bias")
    sides, wanted = _sides(image, text, scale), _is_wanted(image, text, scale, bias)
    made = core_similarity.siglip_of_logits(_logits(*sides), image.shape[0], bias.detach().item(), wanted)
    return None if made is None or not sides[2] else _loss(image, text, scale, bias, sides, made)


_Sides = tuple[Tensor, Tensor, float]  # features in float64, the scale
_Made = tuple[float, float, float, "NDArray[np.float64]"]  # see core/similarity/small_losses.hpp


def _sides(image: Tensor, text: Tensor, scale: Tensor) -> _Sides:
    return image.detach().double(), text.detach().double(), scale.detach().item()


def _logits(image: Tensor, text: Tensor, scale: float) -> NDArray[np.float64]:
    return torch.mm(image, text.t()).mul_(scale).view(-1).numpy()


def _is_wanted(*inputs: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in inputs)


def _loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, sides: _Sides, made: _Made) -> Tensor:
    loss: Tensor = _Loss.apply(image, text, scale, bias, sides, made)
    return loss


class _Loss(torch.autograd.Function):
    """A loss whose gradient by the logits is known."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, sides: _Sides, made: _Made
    ) -> Tensor:
        loss, along, total, gradient = made
        needs, (image64, text64, factor) = ctx.needs_input_grad, sides
        if gradient.size:
            grad = torch.from_numpy(gradient).view(image.shape[0], -1)
            raw = (
                torch.mm(grad, text64).mul_(factor) if needs[0] else None,
                torch.mm(grad.t(), image64).mul_(factor) if needs[1] else None,
                _number(along / factor, scale) if needs[2] else None,
                _number(total, scale) if needs[3] else None,
            )
            ctx.save_for_backward(image, text, scale, bias, *raw)
        return _number(loss, scale)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return *_Gradients.apply(upstream, *ctx.saved_tensors), None, None


def _number(value: float, like: Tensor) -> Tensor:
    """0-dim, in the dtype of ``like``; what that cannot hold is infinite."""
    return torch.tensor(value, dtype=torch.float64).to(like.dtype)


class _Gradients(torch.autograd.Function):
    """The gradients; by the inputs they have no derivative that is written down, and are refused one."""

    @staticmethod
    def forward(ctx: Any, upstream: Tensor, *inputs_and_raw: Tensor | None) -> tuple[Tensor | None, ...]:
        pairs = zip(inputs_and_raw[:4], inputs_and_raw[4:], strict=True)
        return tuple(None if x is None or raw is None else (raw * upstream).to(x.dtype) for x, raw in pairs)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, ...]:
        raise RuntimeError("the losses have no second derivative: use open_clip's loss")
