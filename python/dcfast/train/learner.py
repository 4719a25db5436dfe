"""What learns on a rank: open_clip's model, its loss and its optimizer, made as open_clip's main makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcfast.models.clip import create_model
from dcfast.train.objective import create_loss

if TYPE_CHECKING:
    import torch
    from open_clip import CLIP

    from dcfast.scales import Scale
    from dcfast.train.ranks import Ranks
    from dcfast.train.settings import TrainSettings

__all__ = ["Learner", "create_learner", "create_optimizer", "create_scaler", "parameter_groups"]

_CLIP_MEAN_STD = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class Learner:
    """A model and what trains it.

    Attributes:
        bare: open_clip's model.   model: the same, wrapped where there are several ranks.
        scaler: of gradients, for float16; else None.
        channels_last: the memory format that the model takes pictures in.
        mean, std: of the pictures' channels, (1, 3, 1, 1).
    """

    bare: CLIP
    model: torch.nn.Module
    loss: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    channels_last: bool
    mean: torch.Tensor
    std: torch.Tensor

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 -> float32 as open_clip's training transform does it: / 255, - mean, / std."""
        pixels = images.float().div_(255).sub_(self.mean).div_(self.std)
        return pixels if self.channels_last else pixels.contiguous()


def create_learner(settings: TrainSettings, ranks: Ranks) -> Learner:
    """A model as a training begins with it; its weights are those of the seed."""
    import torch

    recipe = settings.recipe()
    with ranks.together():
        bare: CLIP = create_model(recipe.model, seed=settings.seed, device=ranks.device, precision=recipe.precision)
    if recipe.grad_checkpointing:
        bare.set_grad_checkpointing()
    on_gpu = ranks.device != "cpu"
    if on_gpu:
        torch.set_float32_matmul_precision("high")  # TF32 where float32 is multiplied, as open_clip's main allows
    # several times faster for a convolutional tower, on a CPU; a transformer's one convolution is no matter
    channels_last = sum(isinstance(module, torch.nn.Conv2d) for module in bare.visual.modules()) > 1
    if channels_last:
        bare.visual.to(memory_format=torch.channels_last)
    model = bare
    if ranks.world_size > 1:
        devices = [torch.device(ranks.device)] if on_gpu else None
        model = torch.nn.parallel.DistributedDataParallel(bare, device_ids=devices)
    config = getattr(bare.visual, "preprocess_cfg", {})
    mean, std = config.get("mean", _CLIP_MEAN_STD[0]), config.get("std", _CLIP_MEAN_STD[1])
    mean, std = (torch.tensor(values, device=ranks.device).view(1, 3, 1, 1) for values in (mean, std))
    loss = create_loss(settings.loss, ranks.rank, ranks.world_size)
    scaler = create_scaler(recipe.precision, ranks.device)
    return Learner(bare, model, loss, create_optimizer(model, recipe), scaler, channels_last, mean, std)


def _without_decay(name: str, parameter: torch.nn.Parameter) -> bool:
    """Gains, biases and the logit scale, told as open_clip's main tells them."""
    return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:  # as torch types them
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


def create_scaler(precision: str, device: str) -> torch.amp.GradScaler | None:
    """A gradient scaler for ``amp`` (float16), else None."""
    if precision != "amp":
        return None
    import torch

    return torch.amp.GradScaler(device=torch.device(device).type)
