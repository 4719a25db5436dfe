"""Runs a stage: its steps one after the other, each a list of pieces, on an engine, skipping what is done.

A stage is a function ``steps(run, do)``: ``do`` does the pieces of a step and returns their statistics in the same
order, and the stage returns its summary. So a later step may depend on what an earlier one found, and a stage that is
wholly done costs one look at its markers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from dcfast.engine.engine import Engine
from dcfast.engine.piece import Piece, read_marker
from dcfast.engine.progress import Progress
from dcfast.rundir.run_dir import Run
from dcfast.rundir.stage_table import STAGES
from dcfast.rundir.summaries import equals_json
from dcfast.rundir.summary import Summary
from dcfast.storage.atomic import append_lines, write_json
from dcfast.storage.records import Record, plain

S = TypeVar("S", bound=Record)
T = TypeVar("T", bound=Summary)


class Do:
    """Does the pieces of a step that are not done, on an engine."""

    def __init__(self, run: Run, engine: Engine, progress: Callable[..., Progress]) -> None:
        self._run, self._engine, self._progress = run, engine, progress

    def __call__(self, step: Iterable[Piece[S]]) -> list[S]:
        """The statistics of all pieces, in order."""
        run, pieces = self._run, list(step)
        stats = {i: marked for i, piece in enumerate(pieces) if (marked := read_marker(run.out, piece)) is not None}
        waiting = [i for i in range(len(pieces)) if i not in stats]
        if waiting:
            started = time.monotonic()
            name = pieces[waiting[0]].step
            stage = name.partition("/")[0]
            # what this stage and later ones recorded was of what is now redone
            run.invalidate(STAGES[STAGES.index(stage) :] if stage in STAGES else ())
            with self._progress(name, total=sum(pieces[i].weight for i in waiting), pieces=len(waiting)) as bar:
                for done, result in self._engine.map(str(run.out), [pieces[i] for i in waiting]):
                    stats[waiting[done]] = result
                    bar.advance(pieces[waiting[done]].weight)
            # times are no part of any result: one line appended, never fingerprinted
            times = {"step": name, "seconds": round(time.monotonic() - started, 3), "pieces": len(waiting)}
            line = json.dumps({**times, "skipped": len(pieces) - len(waiting)})
            append_lines(run.out / "state" / "timings.jsonl", [line])
        return [stats[i] for i in range(len(pieces))]

    def one(self, piece: Piece[S]) -> S:
        """The statistics of a step's only piece."""
        return self([piece])[0]


Steps = Callable[[Run, Do], Summary]
"""A stage."""


def run_stage(
    run: Run, engine: Engine, name: str, steps: Callable[[Run, Do], T], progress: Callable[..., Progress] = Progress
) -> T:
    """Runs a stage to its end and records its summary in ``state/<name>.json``.

    Raises:
        Whatever a piece raised first; pieces that had ended stay done.
    """

    summary = steps(run, Do(run, engine, progress))
    path, value = run.summary_path(name), plain(summary)
    if not equals_json(path, json.loads(json.dumps(value))):
        write_json(path, value)  # untouched when equal: its mtime may be an input of a later stage
    return summary
