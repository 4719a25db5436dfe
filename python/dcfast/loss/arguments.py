"""Checks of what the losses are given, before any work: errors say what was expected and what came."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.autograd import forward_ad

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_CAST = _DTYPES[:3]


def check_features(image: Tensor, text: Tensor, *, paired: bool = True) -> None:
    """Raises unless both are (N, D) floating-point tensors of one dtype on one device, N and D at least 1.

    ``paired=False``: their numbers of rows may differ.
    """
    for name, value in (("image_features", image), ("text_features", text)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor of shape (N, D), got {type(value).__name__}")
        if value.dtype not in _DTYPES:
            raise TypeError(f"{name} must have dtype float32, bfloat16, float16 or float64, got {_name(value.dtype)}")
        if value.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}: call to_dense()")
        if value.ndim != 2:
            raise ValueError(f"{name} must have shape (N, D), got {_shape(value)}")
        if value.shape[0] == 0 or value.shape[1] == 0:
            raise ValueError(f"{name} must have at least one row and one column, got shape {_shape(value)}: no batch")
    if image.dtype != text.dtype:
        raise TypeError(
            f"image_features and text_features must have one dtype, got {_name(image.dtype)} and {_name(text.dtype)}"
        )
    if image.device != text.device:
        raise ValueError(
            f"image_features and text_features must be on one device, got {image.device} and {text.device}"
        )
    if image.shape[1] != text.shape[1] or (paired and image.shape[0] != text.shape[0]):
        what = "the same shape (row i of both is one pair)" if paired else "rows of the same length"
        raise ValueError(f"image_features and text_features must have {what}, got {_shape(image)} and {_shape(text)}")


def as_scalar(value: object, name: str, features: Tensor) -> Tensor:
    """A number or one-element tensor as 0-dim tensor in the compute dtype on the features' device; differentiable.

    Raises ValueError for a number that is not finite. Tensors on the CPU are looked at when the loss is computed,
    those on a GPU never: there a scale that is not finite makes the loss NaN.
    """
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{name} must have one element, got shape {_shape(value)}")
        if not value.dtype.is_floating_point:
            raise TypeError(f"{name} must be floating-point, got {_name(value.dtype)}")
        if value.device.type == "meta" and features.device.type != "meta":
            raise ValueError(f"{name} must have a value, got a tensor on the meta device")
        value = value if value.ndim == 0 else value.reshape(())
        same = value.dtype == dtype and value.device == features.device
        return value if same else value.to(device=features.device, dtype=dtype)
    if isinstance(value, bool) or not isinstance(value, (int, float, numbers.Real)):
        raise TypeError(f"{name} must be a number or a tensor with one element, got {type(value).__name__}")
    number = value if isinstance(value, (int, float)) else float(value)  # numpy's
    if not -torch.finfo(dtype).max <= number <= torch.finfo(dtype).max:
        raise ValueError(f"{name} must be finite in {_name(dtype)}, got {_short(number)}")
    return torch.full((), number, dtype=dtype, device=features.device)


def check_finite(value: Tensor, name: str) -> None:
    """Raises ValueError for a tensor on the CPU that is not finite."""
    if value.device.type == "cpu" and not math.isfinite(number := value.detach().item()):
        raise ValueError(f"{name} must be finite, got {number}")


def refuse_derivatives(*tensors: Tensor) -> None:
    """Raises NotImplementedError for derivatives that torch would take for zero in silence, or cannot make.

    Those are forward mode, and torch.func's transforms. A batch of losses by torch.vmap is right.
    """
    if torch.compiler.is_compiling():
        return
    duals = map(forward_ad.unpack_dual, tensors)
    if any(dual.tangent is not None for dual in duals) or any(map(_is_tracked, tensors)):
        raise NotImplementedError(
            "forward-mode derivatives (torch.func.jvp, jacfwd, torch.autograd.forward_ad) of the losses, and those by "
            "torch.func (grad, vjp, jacrev, hessian), are not supported: use reverse mode (backward, "
            "torch.autograd.grad), or open_clip's loss"
        )


def _is_tracked(tensor: Tensor) -> bool:
    """Whether a transform of torch.func wants its derivative, under transforms of any depth."""
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_gradtrackingtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def requires_grad(tensor: Tensor) -> bool:
    """Whether its gradient may be wanted; within torch.vmap a tensor does not say so itself."""
    if not torch.compiler.is_compiling():
        while functorch.is_functorch_wrapped_tensor(tensor):
            tensor = functorch.get_unwrapped(tensor)
    return tensor.requires_grad


def autocast(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Features in autocast's dtype where it is on, as it would cast them for a product; float64 stays."""
    # what are no features is left for check_features to refuse
    if not isinstance(image, Tensor) or not isinstance(text, Tensor):
        return image, text
    device, castable = image.device.type, image.dtype in _CAST and text.dtype in _CAST
    # not every device knows autocast: the meta device does not
    if not castable or device == "meta" or not torch.is_autocast_enabled(device):
        return image, text
    dtype = torch.get_autocast_dtype(device)
    return image.to(dtype), text.to(dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _short(value: float) -> str:
    # an int may have any number of digits
    return str(value) if len(str(value)) < 40 else f"a number of {len(str(value))} digits"


def _shape(value: Tensor) -> tuple[int, ...]:
    return tuple(value.shape)
