"""The loss of a training: open_clip's or the fused one, watched for values that are no numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dcfast.errors import DcfastError

if TYPE_CHECKING:
    import torch

__all__ = ["NonFiniteLossError", "WatchedLoss", "create_loss"]


class NonFiniteLossError(DcfastError, ArithmeticError):
    """A loss is NaN or infinite: training stops before the weights are touched.

    Attributes:
        step: of which the loss was.
    """

    def __init__(self, message: str, step: int = -1) -> None:
        super().__init__(message)
        self.step = step


def create_loss(name: str, rank: int, world_size: int) -> Any:
    """The contrastive loss: local loss with gathered gradients, as DataComp trains."""
    if name == "open_clip":
        from open_clip.loss import ClipLoss
    else:
        from dcfast.loss import ClipLoss
    return ClipLoss(local_loss=True, gather_with_grad=True, cache_labels=True, rank=rank, world_size=world_size)


class WatchedLoss:
    """Calls a loss, keeps its values, and stops at one that is not finite.

    On the CPU the value is looked at before the gradients are computed. On a GPU it is copied aside and looked at
    when the next loss is asked for, so that the device is never waited for; the step in between is never saved.
    """

    def __init__(self, loss: Any, accumulation: int, first_step: int) -> None:
        self._loss = loss
        self._accumulation = accumulation
        self._calls = 0
        self._first_step = first_step
        self._waiting: list[tuple[int, Any, Any]] = []
        self.values: dict[int, list[float]] = {}
        self.after_step: Callable[[int, Any], None] | None = None

    def __call__(self, *features: Any, output_dict: bool = False, **named: Any) -> Any:
        self.check()
        result = self._loss(*features, output_dict=output_dict, **named)
        value: Any = sum(result.values()) if isinstance(result, dict) else result
        step = self._first_step + self._calls // self._accumulation
        self._calls += 1
        self._watch(step, value.detach())
        if self.after_step is not None and self._calls % self._accumulation == 0:
            self.after_step(step, named.get("logit_scale"))
        return result

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
            number = float(value)
            self.values.setdefault(step, []).append(number)
            if not math.isfinite(number):
                raise NonFiniteLossError(f"the loss of step {step} is {number}", step)

    def mean(self, step: int) -> float:
        """The loss of a step on this rank: the mean of its micro-batches' losses."""
        values = self.values[step]
        return sum(values) / len(values)
