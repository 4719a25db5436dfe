"""What the losses of many ranks need of torch.distributed: groups by name, and tensors that go round a ring.

A group is known to the operators by its name, since an operator takes tensors, numbers and text only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch import distributed as dist

_GROUPS: dict[str, Any] = {}
# by group: shapes and dtypes of features that its ranks were seen to agree on
_AGREED: WeakKeyDictionary[Any, set[tuple[int, ...]]] = WeakKeyDictionary()


def group_name(group: Any | None) -> str:
    """A name under which ``ranks_of`` finds the group again; "" for the default group."""
    if group is None:
        return ""
    name = str(group.group_name)
    _GROUPS[name] = group
    return name


@dataclass(frozen=True)
class Ranks:
    """This process among the others of a group."""

    rank: int
    size: int
    group: Any

    def all_reduce(self, x: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """In place; returns x."""
        dist.all_reduce(x, op, group=self.group)
        return x

    def check_same(self, features: Tensor, *scalars: Tensor) -> None:
        """Raises ValueError on every rank unless all give one shape and dtype, and finite scalars if any does.

        Collectives of different sizes would hang or mix up rows. Looked at in every call on the CPU; on a GPU, where
        the host would wait for the answer, when a group sees a shape and dtype for the first time. There a rank that
        alone comes with others afterwards, as of a short last batch, is not found out.
        """
        on_cpu = features.device.type == "cpu"
        agreed = _AGREED.setdefault(dist.group.WORLD if self.group is None else self.group, set())
        own = [*features.shape, *_dtype_code(features.dtype)]
        if not on_cpu and tuple(own) in agreed:
            return
        finite = not on_cpu or all(math.isfinite(float(x)) for x in scalars)
        agreed_on, own = tuple(own), [*own, int(finite)]
        both = torch.tensor([own, [-x for x in own]], device=features.device)
        most, least = self.all_max(both).tolist()
        least = [-x for x in least]
        if most != least:
            raise ValueError(
                "all ranks must give features of the same shape and dtype, and a finite scale and bias: rank "
                f"{self.rank} gave shape {tuple(features.shape)}, {features.dtype}, {'' if finite else 'not '}finite; "
                f"over all ranks rows go from {least[0]} to {most[0]} and columns from {least[1]} to {most[1]}"
            )
        agreed.add(agreed_on)

    def all_max(self, x: Tensor) -> Tensor:
        return self.all_reduce(x, dist.ReduceOp.MAX)

    def gather(self, x: Tensor, *, wait: bool = True) -> tuple[Tensor, Any]:
        """(size * rows, ...) tensor of all ranks' x, and the handle to wait for where not waited here."""
        out = x.new_empty(self.size * x.shape[0], *x.shape[1:])
        work = _gather_call()(out, x.contiguous(), group=self.group, async_op=not wait)
        return out, work

    def reduce_to(self, rank: int, x: Tensor) -> Any:
        """Starts the sum of x over all ranks into x of one rank; elsewhere x is undefined once the handle is done."""
        return dist.reduce(x, self._peer(rank), group=self.group, async_op=True)

    def pass_on(self, *tensors: Tensor) -> Passing:
        """Starts to send tensors to the next rank and to receive as many of the same shapes from the one before."""
        sent = [x.contiguous() for x in tensors]
        received = [torch.empty_like(x) for x in sent]
        after, before = self._peer((self.rank + 1) % self.size), self._peer((self.rank - 1) % self.size)
        calls = [dist.P2POp(dist.isend, x, after, self.group) for x in sent]
        calls += [dist.P2POp(dist.irecv, x, before, self.group) for x in received]
        return Passing(sent, received, dist.batch_isend_irecv(calls))

    def _peer(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)


def _dtype_code(dtype: torch.dtype) -> tuple[int, int]:
    return dtype.itemsize, int(dtype == torch.bfloat16)


def _gather_call() -> Any:
    # the newer of two names: the older warns where both are
    return getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class GatherWithGradient(torch.autograd.Function):
    """The features of all ranks, one below the other; their gradients are added over ranks and come back."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks, ctx.rows = ranks, features.shape[0]
        return ranks.gather(features)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = ctx.ranks.all_reduce(grads[0].contiguous().clone())
        return total[ctx.ranks.rank * ctx.rows :][: ctx.rows], None


@dataclass(frozen=True)
class Passing:
    """Tensors under way; what is sent is held until it is done."""

    sent: list[Tensor]
    received: list[Tensor]
    works: list[Any]

    def wait(self) -> list[Tensor]:
        for work in self.works:
            work.wait()
        return self.received


def ranks_of(rank: int, world_size: int, name: str) -> Ranks:
    """Raises RuntimeError without the process group, ValueError where rank or world_size are not the group's."""
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            f"world_size is {world_size}, but there is no process group: call "
            "torch.distributed.init_process_group first"
        )
    if name and name not in _GROUPS:
        raise RuntimeError(f"process group {name!r} is not known here: give it to the loss as group=")
    group = _GROUPS[name] if name else None
    is_rank, is_size = dist.get_rank(group), dist.get_world_size(group)
    if (rank, world_size) != (is_rank, is_size):
        raise ValueError(
            f"rank and world_size must be those of the process group, {is_rank} and {is_size}, "
            f"got {rank} and {world_size}"
        )
    return Ranks(rank, world_size, group)
