"""Engines run pieces of work: processes of this machine (``local``) or a cluster (``ray``, ``slurm``).

``piece`` is what a piece of work is and the marker that says it is done, ``engine`` what every engine does, ``local``,
``ray`` and ``slurm`` those there are, ``progress`` the bar. ``open_engine`` opens one by its name.
"""

from __future__ import annotations

from dcfast.engine.engine import ENGINES, Engine, SinglesHere, check_engine
from dcfast.engine.local import LocalEngine
from dcfast.engine.piece import Piece
from dcfast.engine.ray import RayEngine, check_ray
from dcfast.engine.slurm import SlurmEngine, check_slurm

__all__ = [
    "ENGINES",
    "Engine",
    "LocalEngine",
    "Piece",
    "RayEngine",
    "SinglesHere",
    "SlurmEngine",
    "check_ready",
    "open_engine",
]


def check_ready(name: str, workers: int, address: str | None = None) -> None:
    """What ``open_engine`` would raise before it starts or joins anything."""
    if name == "ray":
        check_ray(workers, address)
    elif name == "slurm":
        check_slurm(workers)
    else:
        check_engine(name, workers)


def open_engine(name: str, workers: int, address: str | None = None) -> Engine:
    """The engine of that name; ValueError lists those there are."""
    check_engine(name, workers)
    if name == "slurm":
        return SlurmEngine(workers)
    return LocalEngine(workers) if name == "local" else RayEngine(workers, address)
