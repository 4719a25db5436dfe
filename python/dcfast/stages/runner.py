"""Runs a stage: its steps one after the other, each a list of pieces, on an engine, skipping what is done.

A stage is a generator function ``steps(run)`` that yields a list of pieces, is sent the list of their statistics
in the same order, and returns its summary. So a later step may depend on what an earlier one found, and a
stage that is wholly done costs one look at its markers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from typing import Any

from dcfast.engine.engine import Engine
from dcfast.engine.piece import Piece, read_marker
from dcfast.engine.progress import Progress
from dcfast.rundir.run_dir import Run
from dcfast.rundir.stage_table import STAGES
from dcfast.rundir.summaries import equals_json
from dcfast.storage.atomic import append_lines, write_json

__all__ = ["Steps", "run_stage"]

Steps = Generator[list[Piece], list[dict[str, Any]], dict[str, Any]]
"""What a stage's ``steps`` returns."""


def _run_step(run: Run, engine: Engine, pieces: list[Piece], progress: Callable[..., Progress]) -> list[dict[str, Any]]:
    stats: list[dict[str, Any] | None] = [None] * len(pieces)
    waiting: list[int] = []
    for i, piece in enumerate(pieces):
        marker = read_marker(run.out, piece)
        if marker is None:
            waiting.append(i)
        else:
            stats[i] = marker.stats
    if not waiting:
        return [s for s in stats if s is not None]
    started = time.monotonic()
    step = pieces[waiting[0]].step
    run.invalidate(_later(step.partition("/")[0]))  # what they recorded was of what is now redone
    with progress(step, total=sum(pieces[i].weight for i in waiting), pieces=len(waiting)) as bar:
        for done, result in engine.map(str(run.out), [pieces[i] for i in waiting]):
            stats[waiting[done]] = result
            bar.advance(pieces[waiting[done]].weight)
    _log_time(run, step, time.monotonic() - started, pieces=len(waiting), skipped=len(pieces) - len(waiting))
    return [s for s in stats if s is not None]


def _later(stage: str) -> tuple[str, ...]:
    return STAGES[STAGES.index(stage) :] if stage in STAGES else ()


def _log_time(run: Run, step: str, seconds: float, **counts: int) -> None:
    # Times are no part of any result: one line appended, never fingerprinted.
    append_lines(
        run.out / "state" / "timings.jsonl", [json.dumps({"step": step, "seconds": round(seconds, 3), **counts})]
    )


def run_stage(
    run: Run,
    engine: Engine,
    name: str,
    steps: Callable[[Run], Steps],
    progress: Callable[..., Progress] = Progress,
) -> dict[str, Any]:
    """Runs a stage to its end and records its summary in ``state/<name>.json``.

    Returns:
        The summary, JSON.
    Raises:
        Whatever a piece raised first; pieces that had ended stay done.
    """
    generator = steps(run)
    try:
        pieces = next(generator)
        while True:
            pieces = generator.send(_run_step(run, engine, pieces, progress))
    except StopIteration as end:
        summary: dict[str, Any] = end.value
    path = run.summary_path(name)
    if not equals_json(path, json.loads(json.dumps(summary))):
        write_json(path, summary)  # untouched when equal: its mtime may be an input of a later stage
    return summary
