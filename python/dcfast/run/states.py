"""What of a run is done: its stages walked through by their own code, up to the first piece that has to be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dcfast.engine import LocalEngine
from dcfast.engine.piece import Piece, read_marker, why_to_do
from dcfast.engine.progress import Silent
from dcfast.rundir.branch import branch_settings, branch_stages, comparison_dir
from dcfast.rundir.run_dir import Run
from dcfast.stages import stage_steps
from dcfast.stages.runner import Do, S

DONE, TO_DO, REDO = "done", "to do", "redo"
NOT_DONE = "not done yet"
_ASKED_WHY = 64  # pieces of a step; the rest is counted


@dataclass(frozen=True)
class StageState:
    """A stage of a run (``compare/STAGE``: of the run beside it): done, to do or redo, and why."""

    stage: str
    state: str
    why: str


class _Undone(Exception):  # noqa: N818  (no error: it ends the walk through a stage)
    def __init__(self, step: str, waiting: int, pieces: int, why: str) -> None:
        super().__init__(step)
        self.step, self.waiting, self.pieces, self.why = step, waiting, pieces, why


class _Look(Do):
    """Looks at the pieces of a step and does none: the statistics where all are done, else ``_Undone``."""

    def __init__(self, run: Run) -> None:
        super().__init__(run, LocalEngine(1), Silent)
        self._out: Path = run.out
        self.done = 0

    def __call__(self, step: Iterable[Piece[S]]) -> list[S]:
        pieces = list(step)
        found = [read_marker(self._out, piece) for piece in pieces]
        undone = [piece for piece, stats in zip(pieces, found, strict=True) if stats is None]
        self.done += len(pieces) - len(undone)
        if undone:
            reasons = Counter("; ".join(why_to_do(self._out, piece)) for piece in undone[:_ASKED_WHY])
            changed = [reason for reason, _ in reasons.most_common() if reason]
            raise _Undone(pieces[0].step, len(undone), len(pieces), changed[0] if changed else NOT_DONE)
        return [stats for stats in found if stats is not None]


def stage_states(run: Run, stages: Sequence[str]) -> list[StageState]:
    """The state of some stages of a run, which follow each other, and of the run beside it.

    Nothing is written. What a stage refuses before its first piece that has to be done, it refuses here.

    Cost: one look at each marker, input and output of what is done, as in a run that has nothing to do.
    """
    states = _walk(run, stages, "")
    place = comparison_dir(run)
    if place is not None and {"train", "evaluate"} & set(stages):
        branch = Run(place, branch_settings(run.settings, run.compare))
        last = "evaluate" if "evaluate" in stages else "train"
        its = branch_stages(branch)
        waits = next((s.stage for s in states if s.state != DONE and s.stage not in its), "")
        states += [
            StageState(f"compare/{each.stage}", each.state, each.why)
            for each in _walk(branch, its[: its.index(last) + 1], waits)
        ]
    return states


def _walk(run: Run, stages: Sequence[str], waits: str) -> list[StageState]:
    """``waits``: a stage that has to be done before the first of them; empty where there is none."""
    states = []
    for stage in stages:
        if waits and run.has_summary(stage):
            states.append(StageState(stage, REDO, f"what {waits} changes of what it reads"))
        elif waits:
            states.append(StageState(stage, TO_DO, ""))
        else:
            states.append(_state(run, stage))
            waits = "" if states[-1].state == DONE else stage
    return states


def _state(run: Run, stage: str) -> StageState:
    look = _Look(run)
    try:
        stage_steps(stage)(run, look)
    except _Undone as undone:
        many = f"{undone.waiting:,} of {undone.pieces:,} pieces of {undone.step}"
        if undone.why != NOT_DONE:
            return StageState(stage, REDO, f"{many}: {undone.why}")
        return StageState(stage, TO_DO, f"{many} are left" if look.done else "")
    if not run.has_summary(stage):
        return StageState(stage, TO_DO, f"its {look.done:,} pieces are there and unchanged; its summary is not")
    many = f"{look.done:,} piece{'' if look.done == 1 else 's'}"
    return StageState(stage, DONE, f"unchanged, {many}" if look.done else "nothing to do")
