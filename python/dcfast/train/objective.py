"""The loss of a training: open_clip's or the fused one, watched for values that are no numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from dcfast.errors import DcfastError

if TYPE_CHECKING:
    import torch


class NonFiniteLossError(DcfastError, ArithmeticError):
    """A loss is NaN or infinite: training stops before the weights are touched.

    Attributes:
        step: of which the loss was.
    """

    def __init__(self, message: str, step: int = -1) -> None:
        super().__init__(message)
        self.step = step


def create_loss(name: str, rank: int, world_size: int) -> torch.nn.Module:
    """The contrastive loss: local loss with gathered gradients, as DataComp trains."""
    if name == "open_clip":
        from open_clip.loss import ClipLoss
    else:
        from dcfast.loss import ClipLoss
    loss: torch.nn.Module = ClipLoss(
        local_loss=True, gather_with_grad=True, cache_labels=True, rank=rank, world_size=world_size
    )
    return loss


class WatchedLoss:
    """Calls a loss, keeps its values, and stops at one that is not finite.

    On the CPU the value is looked at before the gradients are computed. On a GPU it is copied aside and looked at
    when the next loss is asked for, so that the device is never waited for; the step in between is never saved.

    Args:
        after_step: called with the step and the logit scale, after the loss of its last micro-batch.
    """

    def __init__(
        self,
        loss: Callable[..., dict[str, torch.Tensor]],
        accumulation: int,
        first_step: int,
        after_step: Callable[[int, torch.Tensor], None] = lambda step, scale: None,
    ) -> None:
        self._loss, self._accumulation, self._after_step = loss, accumulation, after_step
        self._calls = 0
        self._first_step = first_step
        self._waiting: list[tuple[int, torch.Tensor, torch.cuda.Event | None]] = []
        self.values: dict[int, list[float]] = {}

    def __call__(
        self, *, logit_scale: torch.Tensor, output_dict: bool, **features: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """As open_clip's training calls a loss; it always asks for a dict."""
        import torch

        self.check()
        logit_scale = logit_scale.reshape(())  # a vector of one where the model is spread over ranks
        losses = self._loss(logit_scale=logit_scale, output_dict=output_dict, **features)
        step = self._first_step + self._calls // self._accumulation
        self._calls += 1
        self._watch(step, torch.stack([*losses.values()]).sum().detach())
        if self._calls % self._accumulation == 0:
            self._after_step(step, logit_scale)
        return losses

    def _watch(self, step: int, value: torch.Tensor) -> None:
        if value.device.type == "cpu":
            self._waiting.append((step, value, None))
            self.check()
            return
        import torch

        aside = torch.empty((), dtype=torch.float32, pin_memory=True)
        aside.copy_(value.float(), non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._waiting.append((step, aside, event))

    def check(self) -> None:
        """Looks at the values that have not been looked at yet; NonFiniteLossError."""
        waiting, self._waiting = self._waiting, []
        for step, value, event in waiting:
            if event is not None:
                event.synchronize()
            self.values.setdefault(step, []).append(float(value))
            if not math.isfinite(value):
                raise NonFiniteLossError(f"the loss of step {step} is {float(value)}", step)

    def mean(self, step: int) -> float:
        """The loss of a step on this rank: the mean of its micro-batches' losses."""
        values = self.values[step]
        return sum(values) / len(values)
