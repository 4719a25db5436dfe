"""Models whose parameters are spread over the ranks (FSDP2), and their state made whole again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter in its form."""


def shard_model(model: torch.nn.Module, device: str, world_size: int) -> None:
    """Spreads a model's parameters over the ranks, the blocks of its transformers one by one.

    A block's parameters are whole while it computes; gradients and the optimizer's moments are spread as they are.
    ValueError where the model has no such blocks. Scalars become vectors of one: only those can be spread.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    blocks = [block for each in lists for block in each if any(True for _ in block.parameters())]
    if not blocks:
        raise ValueError("fsdp: the model has no list of blocks that could be spread over ranks; train it without")
    for module in model.modules():
        for name, parameter in [*module.named_parameters(recurse=False)]:
            if parameter.ndim == 0:
                spread = torch.nn.Parameter(parameter.detach().reshape(1), requires_grad=parameter.requires_grad)
                setattr(module, name, spread)
    mesh = init_device_mesh(torch.device(device).type, (world_size,))
    for block in reversed(blocks):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)

    def spread_loaded(module: torch.nn.Module, state: dict[str, Tensor], *_: object) -> None:
        for name, own in module.state_dict().items():
            if name in state:
                state[name] = spread_like(state[name], own)

    model.register_load_state_dict_pre_hook(spread_loaded)  # type: ignore[no-untyped-call]


def spread_like(whole: Tensor, own: Tensor) -> Tensor:
    """A rank's part of a tensor that all ranks have whole, as another one is spread; the tensor itself where that one
    is not."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(own, DTensor):
        return whole
    there = whole.to(own.device).reshape(own.shape)
    return cast("Tensor", distribute_tensor(there, own.device_mesh, own.placements, src_data_rank=None))


def spread_optimizer(optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state of open_clip's form with each moment spread as its parameter is."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        number: {
            name: spread_like(value, parameters[number]) if name in MOMENTS else value for name, value in kept.items()
        }
        for number, kept in content["state"].items()
        if number < len(parameters)
    }
    return {**content, "state": state}


def gathered(content: object, keep: bool, scalars: frozenset[str]) -> object:
    """The same content with whole tensors on the CPU, on the ranks that ``keep`` it; all ranks call it together.

    Args:
        scalars: names of parameters that are vectors of one here and scalars there.
    """
    import torch
    from torch.distributed.tensor import DTensor

    if isinstance(content, DTensor):
        whole = content.full_tensor()
        return whole.cpu() if keep else None
    if isinstance(content, torch.Tensor):
        return content.detach().cpu().clone() if keep else None
    if isinstance(content, dict):
        return {key: _as_scalar(gathered(value, keep, scalars), key in scalars) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)([gathered(value, keep, scalars) for value in content])
    return content


def _as_scalar(value: object, scalar: bool) -> object:
    return cast("Tensor", value).reshape(()) if scalar and value is not None else value
