"""Engines: where pieces run. ``local`` uses processes of this machine, ``ray`` and ``slurm`` a cluster.

An engine maps a function over tasks and yields ``(index, result)`` as they end. What a piece writes does not
depend on the engine, the number of workers or the order in which pieces end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from dcfast.engine.piece import Piece, S, perform
from dcfast.process.options import one_of

ENGINES = ("local", "ray", "slurm")
MOST_PROCESSES = 4096  # each is an interpreter of its own, and all are started at once


class Engine(ABC):
    """Runs pieces; closed at the end of its block."""

    name: str = "local"
    workers: int

    @abstractmethod
    def map(self, out: str, pieces: Sequence[Piece[S]]) -> Iterator[tuple[int, S]]:
        """Raises the first error of a piece after stopping what has not begun."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def abandon(self) -> None:
        """Closes after an error: pieces at work need not end."""
        self.close()


class SinglesHere(Engine):
    """Another engine, but a step of one piece runs in this process: for pieces that use the whole machine."""

    def __init__(self, engine: Engine) -> None:
        self.workers: int = engine.workers
        self._engine = engine

    def map(self, out: str, pieces: Sequence[Piece[S]]) -> Iterator[tuple[int, S]]:
        if len(pieces) > 1:
            yield from self._engine.map(out, pieces)
        for i, piece in enumerate(pieces if len(pieces) == 1 else ()):
            yield i, perform(out, piece)

    def close(self) -> None:
        self._engine.close()


def check_engine(name: str, workers: int) -> None:
    """ValueError for an engine that there is none of, or a number of workers that it cannot have."""
    one_of("engine", name, ENGINES)
    if workers < 1:
        raise ValueError(f"workers must be at least 1; got {workers}")
    if name == "local" and workers > MOST_PROCESSES:
        raise ValueError(f"workers must be at most {MOST_PROCESSES} processes of this machine; got {workers}")
