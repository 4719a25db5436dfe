"""What the losses of many ranks need of torch.distributed: groups by name, and tensors that go round a ring.

A group is known to the operators by its name, since an operator takes tensors, numbers and text only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch import distributed as dist

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup, Work

_GROUPS: dict[str, ProcessGroup] = {}
# by group: shapes and dtypes of features that its ranks were seen to agree on
_AGREED: WeakKeyDictionary[object, set[tuple[int, ...]]] = WeakKeyDictionary()


def group_name(group: ProcessGroup | None) -> str:
    """A name under which ``ranks_of`` finds the group again; "" for the default group."""
    if group is None:
        return ""
    name = str(group.group_name)
    _GROUPS[name] = group
    return name


@dataclass(frozen=True)
class Ranks:
    """This process among the others of a group; alone, it exchanges nothing."""

    rank: int
    size: int
    group: ProcessGroup | None

    def all_reduce(self, x: Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
        """In place; returns x."""
        dist.all_reduce(x, op, group=self.group)
        return x

    def blocks(self, rows: int) -> Iterator[tuple[int, slice, int]]:
        """Of what was gathered, rows of each: (rank, where its rows lie, ``first`` of the backend for own images)."""
        for other in range(self.size):
            yield other, slice(other * rows, (other + 1) * rows), 0 if other == self.rank else rows

    def check_same(self, features: Tensor, *scalars: Tensor) -> None:
        """Raises ValueError on every rank unless all give one shape and dtype, and finite scalars if any does.

        Collectives of different sizes would hang or mix up rows. Looked at in every call on the CPU; on a GPU, where
        the host would wait for the answer, when a group sees a shape and dtype for the first time. There a rank that
        alone comes with others afterwards, as of a short last batch, is not found out.
        """
        if self.size == 1:
            return
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

    def gather(self, x: Tensor) -> Transfer:
        """Starts to gather the (size * rows, ...) tensor of all ranks' x."""
        sent, received = x.contiguous(), x.new_empty(self.size * x.shape[0], *x.shape[1:])
        # the newer of two names: the older warns where both are
        call = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        return Transfer([sent], [received], [call(received, sent, group=self.group, async_op=True)])

    def pass_on(self, *tensors: Tensor) -> Transfer:
        """Starts to send tensors to the next rank and to receive as many of the same shapes from the one before."""
        if self.size == 1:
            return Transfer([], list(tensors), [])
        sent = [x.contiguous() for x in tensors]
        received = [torch.empty_like(x) for x in sent]
        after, before = self.peer((self.rank + 1) % self.size), self.peer((self.rank - 1) % self.size)
        calls = [dist.P2POp(dist.isend, x, after, self.group) for x in sent]
        calls += [dist.P2POp(dist.irecv, x, before, self.group) for x in received]
        return Transfer(sent, received, dist.batch_isend_irecv(calls))

    def rounds(self, *own: Tensor) -> Iterator[tuple[int, list[Tensor]]]:
        """(``first`` of the backend, tensors of a rank) of all ranks, own ones first; the next are on their way."""
        here = list(own)
        for step in range(self.size):
            passing = self.pass_on(*here) if step < self.size - 1 else None
            yield 0 if step == 0 else own[0].shape[0], here
            if passing is not None:
                here = passing.wait()

    def peer(self, rank: int) -> int:
        """The number of a rank among all processes."""
        return rank if self.group is None else dist.get_global_rank(self.group, rank)


def _dtype_code(dtype: torch.dtype) -> tuple[int, int]:
    return dtype.itemsize, int(dtype == torch.bfloat16)


class GatherWithGradient(torch.autograd.Function):
    """The features of all ranks, one below the other; their gradients are added over ranks and come back."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks, ctx.rows = ranks, features.shape[0]
        return ranks.gather(features).wait()[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = ctx.ranks.all_reduce(grads[0].contiguous().clone())
        return total[ctx.ranks.rank * ctx.rows :][: ctx.rows], None


@dataclass(frozen=True)
class Transfer:
    """Tensors under way; what is sent is held until it is done."""

    sent: list[Tensor]
    received: list[Tensor]
    works: Sequence[Work | None]

    def wait(self) -> list[Tensor]:
        """What has arrived by then."""
        for work in self.works:
            if work is not None:
                work.wait()
        return self.received


class Reductions:
    """Sums over all ranks, each on its way to one of them while the next is computed: memory of two at a time."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._pending: list[Transfer] = []

    def start(self, rank: int, x: Tensor) -> None:
        """The sum of x into x of one rank; elsewhere x is undefined afterwards."""
        work = dist.reduce(x, self._ranks.peer(rank), group=self._ranks.group, async_op=True)
        self._pending.append(Transfer([x], [x], [work]))
        self.wait(under_way=1)

    def wait(self, *, under_way: int = 0) -> None:
        """Until at most so many are under way."""
        while len(self._pending) > under_way:
            self._pending.pop(0).wait()


def ranks_of(rank: int, world_size: int, name: str) -> Ranks:
    """Raises RuntimeError without the process group, ValueError where rank or world_size are not the group's."""
    if world_size == 1:
        return Ranks(0, 1, None)
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
