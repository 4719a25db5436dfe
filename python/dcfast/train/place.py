"""Which rank of a training a process is, by what those that start ranks say in its environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple


class _Variables(NamedTuple):
    """The environment's names for a rank, the number of ranks, the rank among those of its machine, their number."""

    rank: str
    sizes: tuple[str, ...]
    local_rank: str
    local_size: str


# never mixed: one that starts another leaves its own variables to it
_STARTERS = {
    "torchrun": _Variables("RANK", ("WORLD_SIZE",), "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "Open MPI": _Variables(
        "OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_SIZE",), "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"
    ),
    "MVAPICH2": _Variables(
        "MV2_COMM_WORLD_RANK", ("MV2_COMM_WORLD_SIZE",), "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"
    ),
    "Slurm": _Variables("SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), "SLURM_LOCALID", ""),
    "MPI": _Variables("PMI_RANK", ("PMI_SIZE",), "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "PMIx": _Variables("PMIX_RANK", (), "", ""),
}  # fmt: skip
_SLURM_NODE = re.compile(r"(\d+)(?:\(x(\d+)\))?")
_BY_HAND = "torchrun"
"""Of these variables: what is there without torchrun's own was exported by hand, or by a script."""
_OWN = ("TORCHELASTIC_RUN_ID", "DCFAST_LAUNCHER")
"""What is set where torchrun, or dcfast itself, started the ranks."""
_alone: ContextVar[bool] = ContextVar("_alone", default=False)


@dataclass(frozen=True)
class Place:
    """What the environment says of this process: its rank among ``size``, and among those of its machine.

    Attributes:
        local_rank, local_size: the rank among those of its machine, and their number; None where it does not say.
    """

    rank: int = 0
    size: int = 1
    local_rank: int | None = 0
    started_by: str = ""
    local_size: int | None = None


@contextmanager
def alone(is_alone: bool = True) -> Iterator[None]:
    """For the time of a block this process counts as the only one, whatever its environment says; or no longer.

    For what one rank of many does for all of them.
    """
    token = _alone.set(is_alone)
    try:
        yield
    finally:
        _alone.reset(token)


def place_of(environment: Mapping[str, str] | None = None) -> Place:
    """Which rank this process is: by torchrun, Open MPI, MVAPICH2, Slurm or another MPI, in that order; else the only
    one.

    A program in a batch script of Slurm, outside of ``srun``, is one process however many tasks the job has. A rank of
    0 without a number of ranks is one process too: it says of none other.

    Raises:
        ValueError: the variables contradict each other, or are no numbers; there are other ranks, but not how many.
    """
    if environment is None and _alone.get():
        return Place()
    values = os.environ if environment is None else environment
    place = next((place for starter in _STARTERS if (place := _place_by(starter, values)) is not None), Place())
    if place.size > 1:
        _check_agreed(place, values)
        return place
    for starter, names in _STARTERS.items():
        if any(values.get(name) for name in names.sizes) or _in_batch_script(starter, values):
            continue
        for name, alone in ((names.rank, 0), (names.local_rank, 0), (names.local_size, 1)):
            if values.get(name) and _number(values, name) > alone:
                missing = " or ".join(names.sizes) or "how many there are"
                raise ValueError(
                    f"{name}={values[name]} says that there are other ranks, but {missing} is not set: it would train "
                    f"alone. Start all of them by {starter}, or export it; for one process unset {name}"
                )
    return place


def _place_by(starter: str, values: Mapping[str, str]) -> Place | None:
    """What the variables of one starter say; None where they do not say how many ranks there are."""
    names = _STARTERS[starter]
    size_name = next((name for name in names.sizes if values.get(name)), None)
    if size_name is None or _in_batch_script(starter, values):
        return None
    size = _number(values, size_name)
    if not values.get(names.rank):
        if size == 1:
            return Place(started_by=starter)
        raise ValueError(f"{size_name} says {size} ranks, but {names.rank} is not set: set it to which of them this is")
    rank = _number(values, names.rank)
    if not 0 <= rank < size:
        raise ValueError(f"{names.rank}={rank} does not fit {size_name}={size}; expected 0 to {size - 1}")
    if size == 1:
        return Place(started_by=starter)
    local_rank = _number(values, names.local_rank) if values.get(names.local_rank) else None
    local_size = _number(values, names.local_size) if values.get(names.local_size) else None
    if starter == "Slurm":
        local_size = _tasks_of_node(values)
    if local_size is not None and not (local_rank or 0) < local_size <= size:
        local_size = None  # of something larger: a job of which this is a step
    return Place(rank, size, local_rank, starter, local_size)


def _check_agreed(place: Place, values: Mapping[str, str]) -> None:
    """ValueError where RANK and WORLD_SIZE were exported by hand and are not what the starter of this task says.

    One that starts others leaves its variables to them: ranks that are a multiple of its tasks are theirs.
    """
    if place.started_by != _BY_HAND or any(values.get(name) for name in _OWN):
        return
    for starter, names in _STARTERS.items():
        other = None if starter == _BY_HAND else _place_by(starter, values)
        if other is None or other.size == 1:
            continue
        size_name = next(name for name in names.sizes if values.get(name))
        if other.size == place.size and other.rank != place.rank:
            one, two = f"RANK={place.rank}", f"{names.rank}={other.rank}"
        elif place.size % other.size:
            one, two = f"WORLD_SIZE={place.size}", f"{size_name}={other.size}"
        else:
            continue
        raise ValueError(
            f"{one} and {starter}'s {two} disagree about which rank this is: unset RANK, WORLD_SIZE and LOCAL_RANK, "
            f"which were exported by hand, or start the ranks by torchrun alone"
        )


def _in_batch_script(starter: str, values: Mapping[str, str]) -> bool:
    return starter == "Slurm" and "SLURM_JOB_ID" in values and "SLURM_STEP_ID" not in values


def _number(values: Mapping[str, str], name: str) -> int:
    text = values.get(name, "")
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"environment variable {name} must be a whole number; got {text!r}") from None


def _tasks_of_node(values: Mapping[str, str]) -> int | None:
    """How many tasks Slurm started on this node: ``2(x3),1`` are two on each of three nodes, and one on the fourth."""
    name = next((n for n in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE") if values.get(n)), None)
    node = values.get("SLURM_NODEID", "")
    if name is None or not node.isdecimal():
        return None  # SLURM_NTASKS_PER_NODE is what was asked for: a limit, not a count
    counts: list[int] = []
    for part in values[name].split(","):
        match = _SLURM_NODE.fullmatch(part.strip())
        if match is None:
            return None
        counts += [int(match[1])] * min(int(match[2] or 1), 1 << 16)
    return counts[int(node)] if int(node) < len(counts) else None


def world_sizes(global_batch: int, accumulation: int, most: int = 4096) -> list[int]:
    """Numbers of ranks that divide a global batch exactly."""
    return [n for n in range(1, min(most, global_batch) + 1) if global_batch % (n * accumulation) == 0]


def check_world_size(global_batch: int, size: int, accumulation: int) -> None:
    """ValueError where a number of ranks does not divide the batch; it lists those that do."""
    if global_batch % (size * accumulation):
        sizes = ", ".join(map(str, world_sizes(global_batch, accumulation)))
        raise ValueError(
            f"global batch {global_batch} does not divide among {size} ranks x accumulation {accumulation}; "
            f"numbers of ranks that do: {sizes or 'none'}. Start one of them"
        )
