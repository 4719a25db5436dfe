"""Runs a stage: its steps one after the other, each a list of pieces, on an engine, skipping what is done.

A stage is a function ``steps(run, do)``: ``do`` does the pieces of a step and returns their statistics in the same
order, and the stage returns its summary. So a later step may depend on what an earlier one found, and a stage that is
wholly done costs one look at its markers.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TypeVar

from dcfast.engine.engine import Engine
from dcfast.engine.piece import Piece, read_marker, why_to_do
from dcfast.engine.progress import Progress
from dcfast.rundir.run_dir import Run
from dcfast.rundir.stage_table import STAGES
from dcfast.rundir.summaries import equals_json
from dcfast.rundir.summary import Summary
from dcfast.storage.atomic import append_lines, write_json
from dcfast.storage.records import Record, plain

S = TypeVar("S", bound=Record)
T = TypeVar("T", bound=Summary)


_ASKED_WHY = 256
"""Pieces of a step that are asked why they are done again."""
_REASONS = 3
"""That are said."""


class Do:
    """Does the pieces of a step that are not done, on an engine.

    Attributes:
        done, unchanged: pieces, over all steps.
    """

    def __init__(self, run: Run, engine: Engine, progress: type[Progress]) -> None:
        self._run, self._engine, self._progress = run, engine, progress
        self.done: int = 0
        self.unchanged: int = 0

    def __call__(self, step: Iterable[Piece[S]]) -> list[S]:
        """The statistics of all pieces, in order."""
        run, pieces = self._run, list(step)
        stats = {i: marked for i, piece in enumerate(pieces) if (marked := read_marker(run.out, piece)) is not None}
        waiting = [i for i in range(len(pieces)) if i not in stats]
        self.done += len(waiting)
        self.unchanged += len(stats)
        if waiting:
            started = time.monotonic()
            name = pieces[waiting[0]].step
            stage = name.partition("/")[0]
            self._say_why([pieces[i] for i in waiting], len(pieces))
            # what this stage and later ones recorded was of what is now redone
            run.invalidate(STAGES[STAGES.index(stage) :] if stage in STAGES else ())
            weight = sum(pieces[i].weight for i in waiting)
            bar = self._progress(name, total=weight, pieces=len(waiting))
            with bar, run.recorder.following(bar) if run.recorder is not None else nullcontext():
                for done, result in self._engine.map(str(run.out), [pieces[i] for i in waiting]):
                    stats[waiting[done]] = result
                    bar.advance(pieces[waiting[done]].weight)
            # times are no part of any result: one line appended, never fingerprinted
            times = {"step": name, "seconds": round(time.monotonic() - started, 3), "pieces": len(waiting)}
            line = json.dumps({**times, "skipped": len(pieces) - len(waiting)})
            append_lines(run.out / "state" / "timings.jsonl", [line])
        return [stats[i] for i in range(len(pieces))]

    @contextmanager
    def within(self, run: Run) -> Iterator[None]:
        """For the time of a block, pieces are those of another run directory."""
        own, self._run = self._run, replace(run, recorder=self._run.recorder)
        try:
            yield
        finally:
            self._run = own

    def _say_why(self, waiting: list[Piece[S]], count: int) -> None:
        """Of pieces that were done before what has changed; of those that a killed run left, how many are left."""
        asked = [why_to_do(self._run.out, piece) for piece in waiting[:_ASKED_WHY]]
        reasons = Counter(reason for its in asked for reason in its)
        again = sum(map(bool, asked)) + max(0, len(waiting) - _ASKED_WHY if reasons else 0)
        step = waiting[0].step
        if reasons:
            words = [f"{why} ({many} pieces)" if many > 1 else why for why, many in reasons.most_common(_REASONS)]
            more = f"; {len(reasons) - _REASONS} more such reasons" if len(reasons) > _REASONS else ""
            many_again = f"{again:,} of {count:,} pieces again" if count > 1 else "again"
            self.note(f"{step}: {many_again}: {'; '.join(words)}{more}")
        elif len(waiting) < count:
            self.note(f"{step}: {count - len(waiting):,} of {count:,} pieces are done")

    def note(self, text: str) -> None:
        """Says a line, and logs it."""
        self._progress.note(text)
        if self._run.recorder is not None:
            self._run.recorder.log(text)

    def one(self, piece: Piece[S]) -> S:
        """The statistics of a step's only piece."""
        return self([piece])[0]


Steps = Callable[[Run, Do], Summary]
"""A stage."""


def run_stage(
    run: Run, engine: Engine, name: str, steps: Callable[[Run, Do], T], progress: type[Progress] = Progress
) -> T:
    """Runs a stage to its end and records its summary in ``state/<name>.json``; says where nothing was to be done.

    Raises:
        Whatever a piece raised first; pieces that had ended stay done.
    """
    do = Do(run, engine, progress)
    if run.recorder is not None:
        run.recorder.stage(name)
    summary = steps(run, do)
    if not do.done:
        many = f"unchanged, {do.unchanged} piece{'s' if do.unchanged != 1 else ''}" if do.unchanged else "nothing to do"
        do.note(f"{name}: {many}")
        if run.recorder is not None:
            run.recorder.unchanged(name, do.unchanged)
    path, value = run.summary_path(name), plain(summary)
    if not equals_json(path, json.loads(json.dumps(value))):
        write_json(path, value)  # untouched when equal: its mtime may be an input of a later stage
    return summary
