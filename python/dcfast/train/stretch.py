"""The steps between two checkpoints, taken by open_clip's ``train_one_epoch``; which function that is, is told by its
parameters and not by open_clip's version.

open_clip 3.3 has it in ``open_clip_train.train``. What is to become 4.x has another function of that name there, and
the one that is called here in ``open_clip_train.legacy_train``, which takes its batches as mappings.
"""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from dcfast.errors import MissingDependencyError

if TYPE_CHECKING:
    import torch

_MODULES = ("open_clip_train.train", "open_clip_train.legacy_train")
_PARAMETERS = ("model", "data", "loss", "epoch", "optimizer", "scaler", "scheduler", "dist_model", "args")


class Pair(tuple[Any, ...]):
    """A batch as both forms of open_clip's steps take it: a pair, or a mapping."""

    __slots__: tuple[str, ...] = ()

    def __new__(cls, images: torch.Tensor, tokens: torch.Tensor) -> Pair:
        return super().__new__(cls, (images, tokens))

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__({"image": 0, "text": 1}.get(key, key))


class StretchData:
    """What ``train_one_epoch`` reads its batches from: ``data['train']`` and its ``dataloader`` in one.

    Args:
        batches, samples: of the stretch, as if it went to its end; ``taken`` may end after any step.
    """

    def __init__(self, batches: int, samples: int, taken: Iterator[Pair]) -> None:
        self.num_batches: int = batches
        self.num_samples: int = samples
        self.dataloader: StretchData = self
        self._taken = taken

    def set_epoch(self, epoch: int) -> None:
        """The order does not know epochs."""

    def __iter__(self) -> Iterator[Pair]:
        return self._taken


def take_steps(
    model: torch.nn.Module,
    data: StretchData,
    loss: Callable[..., dict[str, torch.Tensor]],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    schedule: Callable[[int], object],
    arguments: Namespace,
) -> None:
    """Forward, loss, backward and update of all batches of a stretch.

    Args:
        arguments: ``device``, ``precision``, ``accum_freq``, ``rank``, ``local_rank``, ``world_size``, ``batch_size``.
    """
    arguments.distill = arguments.skip_scheduler = arguments.horovod = arguments.wandb = False
    arguments.grad_clip_norm = None
    arguments.log_every_n_steps = max(1, data.num_batches)
    find_steps()(model, {"train": data}, loss, 0, optimizer, scaler, schedule, None, arguments)


@cache
def find_steps() -> Callable[..., object]:
    """open_clip's function; MissingDependencyError, with the versions, where it has none that is known."""
    found = []
    for name in _MODULES:
        try:
            function = import_module(name).train_one_epoch
        except (ModuleNotFoundError, AttributeError) as error:
            found.append(f"{name}: {error}")
            continue
        parameters = inspect.signature(function).parameters
        names, others = (*parameters,)[: len(_PARAMETERS)], (*parameters.values(),)[len(_PARAMETERS) :]
        if names == _PARAMETERS and all(other.default is not other.empty for other in others):
            steps: Callable[..., object] = function
            return steps
        found.append(f"{name}: train_one_epoch({', '.join(parameters)})")
    raise MissingDependencyError(
        f"open_clip_torch {version('open_clip_torch')} has no train_one_epoch({', '.join(_PARAMETERS)}), which "
        f"training calls ({'; '.join(found)}); install a version that has: pip install 'open_clip_torch>=3.3,<4'"
    )
