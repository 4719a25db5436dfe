"""AdamW with the parameter groups of open_clip's training, and the gradient scaler of its precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from dcfast.scales import Scale

__all__ = ["create_optimizer", "create_scaler", "parameter_groups"]


def _without_decay(name: str, parameter: Any) -> bool:
    """Gains, biases and the logit scale, told as open_clip's main tells them."""
    return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups, in the order of ``named_parameters``: without decay, then with. Frozen parameters are in neither."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for name, p in named if _without_decay(name, p)], "weight_decay": 0.0},
        {"params": [p for name, p in named if not _without_decay(name, p)], "weight_decay": weight_decay},
    ]


def create_optimizer(model: torch.nn.Module, recipe: Scale) -> torch.optim.AdamW:
    """AdamW of a recipe; torch's fused form, which does the same arithmetic in one pass over the memory."""
    import torch

    return torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay),
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps,
        fused=True,
    )


def create_scaler(precision: str, device: str) -> Any:
    """A gradient scaler for ``amp`` (float16), else None."""
    if precision != "amp":
        return None
    import torch

    return torch.amp.GradScaler(device=torch.device(device).type)
