"""Runs a stage: its steps one after the other, each a list of pieces, on an engine, skipping what is done.

A stage is a function ``steps(run, do)``: ``do`` does the pieces of a step and returns their statistics in the same
order, and the stage returns its summary. So a later step may depend on what an earlier one found, and a stage that is
wholly done costs one look at its markers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

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


class Do(Protocol):
    """Does the pieces of a step that are not done; returns the statistics of all, in order."""

    def __call__(self, pieces: Sequence[Piece[S]]) -> list[S]: ...


Steps = Callable[[Run, Do], Summary]
"""A stage."""


def _run_step(run: Run, engine: Engine, pieces: Sequence[Piece[S]], progress: Callable[..., Progress]) -> list[S]:
    stats = {i: marked for i, piece in enumerate(pieces) if (marked := read_marker(run.out, piece)) is not None}
    waiting = [i for i in range(len(pieces)) if i not in stats]
    if waiting:
        started = time.monotonic()
        step = pieces[waiting[0]].step
        run.invalidate(_later(step.partition("/")[0]))  # what they recorded was of what is now redone
        with progress(step, total=sum(pieces[i].weight for i in waiting), pieces=len(waiting)) as bar:
            for done, result in engine.map(str(run.out), [pieces[i] for i in waiting]):
                stats[waiting[done]] = result
                bar.advance(pieces[waiting[done]].weight)
        _log_time(run, step, time.monotonic() - started, pieces=len(waiting), skipped=len(pieces) - len(waiting))
    return [stats[i] for i in range(len(pieces))]


def _later(stage: str) -> tuple[str, ...]:
    return STAGES[STAGES.index(stage) :] if stage in STAGES else ()


def _log_time(run: Run, step: str, seconds: float, **counts: int) -> None:
    # Times are no part of any result: one line appended, never fingerprinted.
    append_lines(
        run.out / "state" / "timings.jsonl", [json.dumps({"step": step, "seconds": round(seconds, 3), **counts})]
    )


def run_stage(
    run: Run, engine: Engine, name: str, steps: Callable[[Run, Do], T], progress: Callable[..., Progress] = Progress
) -> T:
    """Runs a stage to its end and records its summary in ``state/<name>.json``.

    Raises:
        Whatever a piece raised first; pieces that had ended stay done.
    """

    def do(pieces: Sequence[Piece[S]]) -> list[S]:
        return _run_step(run, engine, pieces, progress)

    summary = steps(run, do)
    path, value = run.summary_path(name), plain(summary)
    if not equals_json(path, json.loads(json.dumps(value))):
        write_json(path, value)  # untouched when equal: its mtime may be an input of a later stage
    return summary
