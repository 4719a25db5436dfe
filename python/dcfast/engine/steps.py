"""Steps of a command that is no run: pieces done on an engine, those that are done and unchanged skipped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from dcfast.engine.engine import Engine
from dcfast.engine.piece import Piece, S, read_marker
from dcfast.engine.progress import Progress


class DoesPieces(Protocol):
    """Does the pieces of a step that are not done, and returns the statistics of all, in order."""

    def __call__(self, step: Iterable[Piece[S]]) -> list[S]: ...


class Steps:
    """Does the pieces of one step after the other, in a directory, on an engine; raises what a piece raised first."""

    def __init__(self, out: Path, engine: Engine, progress: type[Progress] = Progress) -> None:
        self._out, self._engine, self._progress = out, engine, progress

    def __call__(self, step: Iterable[Piece[S]]) -> list[S]:
        out, pieces = self._out, list(step)
        stats = {i: marked for i, piece in enumerate(pieces) if (marked := read_marker(out, piece)) is not None}
        waiting = [i for i in range(len(pieces)) if i not in stats]
        if waiting:
            chosen = [pieces[i] for i in waiting]
            weight = sum(piece.weight for piece in chosen)
            with self._progress(chosen[0].step, total=weight, pieces=len(chosen)) as bar:
                for done, result in self._engine.map(str(out), chosen):
                    stats[waiting[done]] = result
                    bar.advance(chosen[done].weight)
        return [stats[i] for i in range(len(pieces))]
