"""What learns on a rank: open_clip's model, its loss and its optimizer, made as open_clip's main makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcfast.models.clip import create_model
from dcfast.train.objective import create_loss
from dcfast.train.recomputed import warn_of_kept_activations
from dcfast.train.spread import shard_model

if TYPE_CHECKING:
    import torch
    from open_clip import CLIP

    from dcfast.scales import Scale
    from dcfast.train.ranks import Ranks
    from dcfast.train.settings import TrainSettings


@dataclass(frozen=True)
class Learner:
    """A model and what trains it.

    Attributes:
        bare: open_clip's model.   model: the same, wrapped where there are several ranks.
        scaler: of gradients, for float16; else None.
        channels_last: the memory format that the model takes pictures in.
        mean, std: of the pictures' channels, (1, 3, 1, 1).
        scalars: parameters that are vectors of one, because the model is spread over the ranks; empty where it is not.
    """

    bare: CLIP
    model: torch.nn.Module
    loss: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    channels_last: bool
    mean: torch.Tensor
    std: torch.Tensor
    scalars: frozenset[str] = frozenset()

    @property
    def is_sharded(self) -> bool:
        """Whether each rank holds a part of each parameter alone."""
        return bool(self.scalars)

    @property
    def image_size(self) -> int:
        """Side of the pictures that the model takes."""
        size = self.bare.visual.image_size
        return int(size[0] if isinstance(size, (tuple, list)) else size)

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 -> float32 as open_clip's training transform does it: / 255, - mean, / std."""
        pixels = images.float().div_(255).sub_(self.mean).div_(self.std)
        return pixels if self.channels_last else pixels.contiguous()

    def updated(self) -> set[int]:
        """Addresses of the tensors that the optimizer's step alone changes: parameters and what it keeps of them."""
        import torch
        from torch.distributed.tensor import DTensor

        kept = [value for state in self.optimizer.state.values() for value in state.values()]
        tensors = [t for t in [*self.bare.parameters(), *kept] if isinstance(t, torch.Tensor)]
        return {(t.to_local() if isinstance(t, DTensor) else t).data_ptr() for t in tensors}

    def gradient_norm(self) -> float:
        """Euclidean norm of all gradients, over all ranks, before an update; where the model is sharded all of them
        call it together. A GPU is waited for."""
        from torch.nn.utils import get_total_norm

        total = get_total_norm([p.grad for p in self.bare.parameters() if p.grad is not None])
        norm = float(getattr(total, "full_tensor", lambda: total)())
        # a scaler leaves it to a fused optimizer to take its factor back
        scale = getattr(self.optimizer, "grad_scale", None)
        return norm if scale is None else norm / float(scale)


def create_learner(settings: TrainSettings, ranks: Ranks) -> Learner:
    """A model as a training begins with it; its weights are those of the seed."""
    import torch

    recipe = settings.recipe()
    with ranks.together():
        bare: CLIP = create_model(recipe.model, seed=settings.seed, device=ranks.device, precision=recipe.precision)
    if recipe.grad_checkpointing:
        bare.set_grad_checkpointing()
        if ranks.rank == 0:
            warn_of_kept_activations(bare, recipe.model)
    on_gpu = ranks.device != "cpu"
    if on_gpu:
        torch.set_float32_matmul_precision("high")  # TF32 where float32 is multiplied, as open_clip's main allows
    # several times faster for a convolutional tower, on a CPU; a transformer's one convolution is no matter
    channels_last = sum(isinstance(module, torch.nn.Conv2d) for module in bare.visual.modules()) > 1
    if channels_last:
        bare.visual.to(memory_format=torch.channels_last)
    model = bare
    scalars: frozenset[str] = frozenset()
    if ranks.world_size > 1 and settings.fsdp:
        scalars = frozenset(name for name, parameter in bare.named_parameters() if parameter.ndim == 0)
        shard_model(bare, ranks.device, ranks.world_size)
    elif ranks.world_size > 1:
        devices = [torch.device(ranks.device)] if on_gpu else None
        model = torch.nn.parallel.DistributedDataParallel(
            # with micro-batches a step is more than one pass; what is compiled has its own way
            bare,
            device_ids=devices,
            static_graph=settings.accumulation == 1 and not settings.compile,
        )
    if settings.compile:
        model.compile()  # in its place: names of parameters stay as they are
    config = bare.visual.preprocess_cfg
    mean, std = (torch.tensor(config[name], device=ranks.device).view(1, 3, 1, 1) for name in ("mean", "std"))
    loss = create_loss(settings.loss, ranks.rank, ranks.world_size)
    scaler = create_scaler(recipe.precision, ranks.device)
    return Learner(bare, model, loss, create_optimizer(model, recipe), scaler, channels_last, mean, std, scalars)


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
