"""Whether gradient checkpointing does anything: blocks whose activations are computed again in the backward pass."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from open_clip import CLIP

_LOG = logging.getLogger("dcfast.train")
_TOWERS = {"visual": "image", "transformer": "text", "text": "text"}
"""Modules of open_clip's models, and the tower that they are."""


def recomputed_blocks(model: CLIP) -> dict[str, int]:
    """How many modules of each tower compute their output twice in a step; a tower of which none does is there with 0.

    Takes one step of two pictures without changing anything: gradients, batch statistics and random numbers are as
    they were. Cost: that step, in the model's own precision.
    """
    import torch

    towers = {name: getattr(model, name) for name in _TOWERS if isinstance(getattr(model, name, None), torch.nn.Module)}
    calls: Counter[torch.nn.Module] = Counter()
    hooks = [
        module.register_forward_pre_hook(lambda module, _: calls.update([module]))
        for tower in towers.values()
        for module in tower.modules()
    ]
    parameter = next(model.parameters())
    size = model.visual.image_size
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    devices = [parameter.device] if parameter.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.autocast(parameter.device.type, enabled=False):
            images = torch.zeros(2, 3, height, width, device=parameter.device, dtype=parameter.dtype)
            tokens = torch.zeros(2, model.context_length, dtype=torch.long, device=parameter.device)
            out = model.train()(images, tokens)
            out = out if isinstance(out, dict) else dict(enumerate(out))
            torch.autograd.backward([value.float().sum() for value in out.values()])
    finally:
        for hook in hooks:
            hook.remove()
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        model.train(was_training)
    return {name: sum(calls[module] > 1 for module in tower.modules()) for name, tower in towers.items()}


def warn_of_kept_activations(model: CLIP, name: str) -> None:
    """A line for each tower of which gradient checkpointing, though the recipe has it, computes nothing again."""
    for tower, count in recomputed_blocks(model).items():
        if count == 0:
            _LOG.warning(
                "grad_checkpointing: the %s tower of %s keeps all activations, since its set_grad_checkpointing does "
                "nothing: it needs the memory of a training without",
                _TOWERS[tower],
                name,
            )
