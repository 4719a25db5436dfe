"""ClipLoss and SigLipLoss with the constructors, calls and results of open_clip 3.3's classes of these names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import nn

from dcfast.loss import functional
from dcfast.loss.ops import clip, siglip
from dcfast.loss.ranks import GatherWithGradient, group_name, ranks_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


def _check_ranks(rank: int, world_size: int) -> None:
    for name, value in (("rank", rank), ("world_size", world_size)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"rank must be in 0..world_size-1 with world_size at least 1, got {rank} of {world_size}")


class ClipLoss(nn.Module):
    """CLIP's contrastive loss of one or many ranks; the matrix of logits is never stored.

    Args:
        local_loss: the loss of own rows and own columns against all, instead of the whole loss on every rank.
        gather_with_grad: gradients reach the features of other ranks.
        cache_labels: accepted; there are no labels to cache outside ``get_ground_truth``.
        rank, world_size: of this process in the group; all ranks must give as many pairs.
        use_horovod: refused with ValueError.
        schedule: "gather", or "ring" where the texts of all ranks do not fit in memory: the same result.
        group: process group; default all processes.

    Calling it takes what open_clip's takes and returns the 0-dim loss, or {"contrastive_loss": loss} with
    ``output_dict``. Arguments and errors: ``dcfast.clip_loss``; cost with many ranks: ``dcfast.loss.ops.clip``.
    Example: ``ClipLoss()(image_features, text_features, logit_scale).backward()``
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
        *,
        schedule: str = "gather",
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        _check_ranks(rank, world_size)
        if use_horovod:
            raise ValueError("use_horovod is not supported: use torch.distributed (torchrun), or open_clip's ClipLoss")
        if schedule not in clip.SCHEDULES:
            raise ValueError(f"schedule must be 'gather' or 'ring', got {schedule!r}")
        self.local_loss = local_loss
        self.gather_with_grad = gather_with_grad
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.use_horovod = use_horovod
        self.schedule = schedule
        # known by its name before anything is compiled: a compiled call has side effects only when it is over
        self._group_name = group_name(group)

    def get_ground_truth(self, device: torch.device, num_logits: int) -> Tensor:
        """The column of each row's positive in ``get_logits``."""
        first = num_logits * self.rank if self.world_size > 1 and self.local_loss else 0
        return torch.arange(first, first + num_logits, device=device)

    def get_logits(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The logits themselves, (N, N) or with local_loss (B, N), for code that builds on them: the loss does not."""
        all_image, all_text = image_features, text_features
        if self.world_size > 1:
            all_image, all_text = self._gather(image_features), self._gather(text_features)
        if self.world_size > 1 and not self.local_loss:
            per_image = logit_scale * all_image @ all_text.T
            per_text = per_image.T
        else:
            per_image = logit_scale * image_features @ all_text.T
            per_text = logit_scale * text_features @ all_image.T
        if logit_bias is not None:
            per_image, per_text = per_image + logit_bias, per_text + logit_bias
        return per_image, per_text

    def _gather(self, features: Tensor) -> Tensor:
        ranks = ranks_of(self.rank, self.world_size, self._group_name)
        if self.gather_with_grad:
            gathered: Tensor = GatherWithGradient.apply(features, ranks)
            return gathered
        parts = list(ranks.gather(features.detach()).wait()[0].chunk(self.world_size))
        if not self.local_loss:
            parts[self.rank] = features
        return torch.cat(parts)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        settings = clip.ALONE
        if self.world_size > 1:
            ranks = self.rank, self.world_size, self._group_name
            settings = (*ranks, self.schedule, self.local_loss, self.gather_with_grad)
        loss = functional.clip_loss_of_ranks(image_features, text_features, logit_scale, logit_bias, settings)
        return {"contrastive_loss": loss} if output_dict else loss

    if TYPE_CHECKING:  # torch's own takes and gives anything

        @overload
        def __call__(
            self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float,
            logit_bias: Tensor | float | None = None, output_dict: Literal[False] = False,
        ) -> Tensor: ...  # fmt: skip
        @overload
        def __call__(
            self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float,
            logit_bias: Tensor | float | None = None, *, output_dict: Literal[True],
        ) -> dict[str, Tensor]: ...  # fmt: skip
        @overload
        def __call__(
            self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float,
            logit_bias: Tensor | float | None, output_dict: bool,
        ) -> Tensor | dict[str, Tensor]: ...  # fmt: skip
        def __call__(self, *given: Any, **named: Any) -> Any: ...


class SigLipLoss(nn.Module):
    """SigLIP's pairwise sigmoid loss of one or many ranks; the matrix of logits is never stored.

    Args:
        cache_labels: accepted; there are no labels.
        rank, world_size: of this process in the group; all ranks must give as many pairs.
        dist_impl: how texts get to the other ranks: "bidir" (default) and "shift" send them round a ring, "gather"
            and "reduce" gather them at once. The result is the same.
        group: process group; default all processes.

    Calling it takes what open_clip's takes and returns the 0-dim loss, or {"contrastive_loss": loss} with
    ``output_dict``. Arguments and errors: ``dcfast.siglip_loss``.
    Example: ``SigLipLoss()(image_features, text_features, logit_scale, logit_bias).backward()``
    """

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
        *,
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        _check_ranks(rank, world_size)
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.dist_impl: str = dist_impl or "bidir"
        if self.dist_impl not in siglip.SCHEDULES:
            raise ValueError(f"dist_impl must be 'bidir', 'shift', 'reduce' or 'gather', got {dist_impl!r}")
        self._group_name = group_name(group)

    def get_ground_truth(
        self, device: torch.device, dtype: torch.dtype, num_logits: int, negative_only: bool = False
    ) -> Tensor:
        """(num_logits, num_logits): 1 for pairs, on the diagonal unless ``negative_only``, -1 elsewhere."""
        labels = torch.full((num_logits, num_logits), -1.0, device=device, dtype=dtype)
        return labels if negative_only else labels.fill_diagonal_(1.0)

    def get_logits(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
    ) -> Tensor:
        """The logits themselves, for code that builds on them: the loss does not."""
        logits = logit_scale * image_features @ text_features.T
        return logits if logit_bias is None else logits + logit_bias

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        settings = siglip.ALONE
        if self.world_size > 1:
            settings = (self.rank, self.world_size, self._group_name, siglip.SCHEDULES[self.dist_impl])
        loss = functional.siglip_loss_of_ranks(image_features, text_features, logit_scale, logit_bias, settings)
        return {"contrastive_loss": loss} if output_dict else loss

    if TYPE_CHECKING:  # torch's own takes and gives anything

        @overload
        def __call__(
            self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float,
            logit_bias: Tensor | float | None, output_dict: Literal[False] = False,
        ) -> Tensor: ...  # fmt: skip
        @overload
        def __call__(
            self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float,
            logit_bias: Tensor | float | None, *, output_dict: Literal[True],
        ) -> dict[str, Tensor]: ...  # fmt: skip
        @overload
        def __call__(
            self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float,
            logit_bias: Tensor | float | None, output_dict: bool,
        ) -> Tensor | dict[str, Tensor]: ...  # fmt: skip
        def __call__(self, *given: Any, **named: Any) -> Any: ...
