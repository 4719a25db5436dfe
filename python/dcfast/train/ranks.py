"""The ranks of a training: how they meet, and what they tell each other."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast

import dcfast
from dcfast.errors import DcfastError, MissingDependencyError, RunError, first_line
from dcfast.models.devices import resolve_device
from dcfast.train.meeting import meet
from dcfast.train.place import Place
from dcfast.train.settings import differences

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

LAUNCHER = "DCFAST_LAUNCHER"
"""The process that started them: they end with it, and it says what became of them."""
TOLD = "rank 0 says it"
"""A note of an error that all ranks know: one of them is enough to say it."""
T = TypeVar("T")


class PeerLostError(RunError):
    """Another rank has gone; what happened is in its own message."""


def code_version() -> str:
    """Which code this is: dcfast's version and a hash of its files, and the versions of what computes for it."""
    digest = hashlib.sha256()
    root = Path(dcfast.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.read_bytes())
    core = importlib.util.find_spec("dcfast._core")
    digest.update(Path(str(core.origin)).read_bytes() if core is not None else b"")
    libraries = [f"{name} {version(name)}" for name in ("torch", "open_clip_torch", "pillow", "numpy")]
    return ", ".join([f"dcfast {dcfast.__version__} ({digest.hexdigest()[:12]})", *libraries])


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks of a training.

    Attributes:
        local_rank, local_size: the rank among those of its machine, and their number.
        device: of this rank, ``cpu`` or ``cuda:K``.
        control: the process group, by gloo, of what ranks tell each other beside the training; None for one rank.
        ours: the process group was made by ``join_ranks``.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: str = "cpu"
    control: ProcessGroup | None = None
    ours: bool = False
    local_size: int = 1

    def barrier(self) -> None:
        if self.world_size > 1:
            import torch.distributed as dist

            dist.barrier(group=self.control)

    def on_first(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on rank 0, which alone calls it, on every rank; its error is raised on every rank."""
        if self.world_size == 1:
            return work()
        import torch.distributed as dist

        result: list[T | Exception | None] = [None]
        if self.rank == 0:
            try:
                result = [work()]
            except Exception as error:  # the other ranks must not wait for what never comes
                result = [error]
        dist.broadcast_object_list(result, src=0, group=self.control)
        if isinstance(result[0], Exception):
            raise self.known(result[0])
        return cast("T", result[0])

    def known(self, error: Exception) -> Exception:
        """An error that every rank raises alike: rank 0 alone says it."""
        if self.rank != 0:
            error.add_note(TOLD)
        return error

    def fail(self, message: str) -> NoReturn:
        raise self.known(RunError(message))

    def gather(self, value: T) -> list[T]:
        """What every rank holds, by rank, on every rank."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        values = [value] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def sums(self, values: list[float]) -> list[float]:
        """Of each number its sum over the ranks."""
        if self.world_size == 1:
            return values
        import torch
        import torch.distributed as dist

        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.control)
        return list(total.tolist())

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that every rank goes through and in which none talks to another: where one fails, all of them do.

        The first rank's error is raised; rank 0 says it.
        """
        problem: Exception | None = None
        try:
            yield
        except Exception as error:
            problem = error
        first = next((error for error in self.gather(problem) if error is not None), None)
        if first is not None:
            raise self.known(problem or first)

    def agree(self, facts: object) -> None:
        """Compares what must be the same on every rank; the same RunError on each where something is not."""
        everyone = self.gather((socket.gethostname(), facts))
        host, first_facts = everyone[0]
        for rank, (machine, theirs) in enumerate(everyone):
            for name, first, other in differences(first_facts, theirs):
                where = f" of {machine}" if machine != host else ""
                self.fail(
                    f"the ranks of a training differ in {name}: {first!r} on rank 0, {other!r} on rank {rank}{where}. "
                    "Start all of them by the same command, with the same code"
                )

    def check_gpus(self, mine: list[str]) -> None:
        """RunError on every rank where two of them use one GPU.

        Args:
            mine: the machine, and what tells this rank's GPU from others; empty where nothing does.
        """
        everyone = self.gather(mine)
        for rank, (machine, gpu) in enumerate(everyone):
            first = everyone.index([machine, gpu])
            if gpu and first != rank:
                self.fail(
                    f"ranks {first} and {rank} would both train on one GPU of {machine}: start as many ranks on a "
                    "machine as it has GPUs, and tell each its LOCAL_RANK or show it its own GPU"
                )

    def leave(self, failed: bool = False) -> None:
        """Ends the process group, where it was made here.

        Not on a GPU after a failure: it would wait for kernels whose other ranks never come. The process ends it.
        """
        if self.ours and not (failed and self.device != "cpu"):
            import torch.distributed as dist

            gc.collect()  # the wrapped model refers to the group from within a cycle, and must not outlive it
            dist.destroy_process_group()


def lost_peer(error: RuntimeError, ranks: Ranks) -> bool:
    """Whether an error of torch says that another rank cannot be reached."""
    if ranks.world_size == 1 or isinstance(error, DcfastError):
        return False
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error).lower()


def require_training() -> None:
    """MissingDependencyError without torch or open_clip's training parts."""
    try:
        import open_clip_train  # noqa: F401
        import torch.distributed  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"training needs torch and open_clip's training parts, which cannot be imported ({error}); "
            "pip install 'dcfast[train]'"
        ) from error


def join_ranks(device: str, place: Place) -> Ranks:
    """This process among the ranks, in a process group that is there or made here.

    Args:
        device: as for ``resolve_device``.
        place: what ``place_of`` says.
    Raises:
        MissingDependencyError: as ``require_training``.   ValueError: no GPU; no MASTER_ADDR.
        RunError: the ranks do not find each other.
    """
    require_training()
    import torch
    import torch.distributed as dist

    device = resolve_device(device)
    on_gpu = device == "cuda"
    exists = dist.is_available() and dist.is_initialized()
    if exists and (place.rank, place.size) != (dist.get_rank(), dist.get_world_size()):
        place = Place(dist.get_rank(), dist.get_world_size(), None)
    if place.size == 1:
        return Ranks(device=device)
    if on_gpu and place.local_rank is not None:
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())  # a task of Slurm may see its own GPU alone
    if not exists:
        _make_group(place, "nccl" if on_gpu else "gloo")
    control = cast("ProcessGroup", dist.new_group(backend="gloo"))
    ranks = Ranks(place.rank, place.size, 0, device, control, not exists)
    machines = ranks.gather(socket.gethostname())
    neighbours = [rank for rank, machine in enumerate(machines) if machine == machines[place.rank]]
    local_rank = neighbours.index(place.rank) if place.local_rank is None else place.local_rank
    ranks = replace(ranks, local_rank=local_rank, local_size=place.local_size or len(neighbours))
    if on_gpu:
        number = local_rank % torch.cuda.device_count()
        torch.cuda.set_device(number)
        ranks = replace(ranks, device=f"cuda:{number}")
        ranks.check_gpus([machines[place.rank], str(getattr(torch.cuda.get_device_properties(number), "uuid", ""))])
    return ranks


def _make_group(place: Place, backend: str) -> None:
    import torch.distributed as dist

    store = meet(place.rank, place.size, place.started_by)
    try:
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"rank {place.rank}: the {place.size} ranks met, and then did not reach each other: {first_line(error)}; "
            "open the ports between their machines, or name the interface (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)"
        ) from None
