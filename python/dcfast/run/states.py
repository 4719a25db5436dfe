"""What of a run is done: its stages walked through by their own code, up to the first piece that has to be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dcfast.engine import LocalEngine
from dcfast.engine.piece import Piece, read_marker, why_to_do
from dcfast.engine.progress import Silent
from dcfast.errors import DcfastError
from dcfast.rundir.branch import SHARED, branch_settings, branch_stages, comparison_dir
from dcfast.rundir.run_dir import Run
from dcfast.rundir.stage_table import STAGE_TABLE
from dcfast.stages import stage_steps
from dcfast.stages.runner import Do, S

DONE, TO_DO, REDO, MAYBE = "done", "to do", "redo", "maybe"
NOT_DONE = "not done yet"
_SUMMARY_IS_NOT = "pieces are there and unchanged; its summary is not"
_ASKED_WHY = 64  # pieces of a step; the rest is counted


@dataclass(frozen=True)
class StageState:
    """A stage of a run (``compare/STAGE``: of the run beside it): done, to do, redo or maybe, and why.

    Maybe: it is done by what is on disk now, and a stage before it, which is not, may change what it reads.
    """

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
        self.done = 0

    def __call__(self, step: Iterable[Piece[S]]) -> list[S]:
        pieces = list(step)
        found = [read_marker(self._run.out, piece) for piece in pieces]
        undone = [piece for piece, stats in zip(pieces, found, strict=True) if stats is None]
        self.done += len(pieces) - len(undone)
        if undone:
            reasons = Counter("; ".join(why_to_do(self._run.out, piece)) for piece in undone[:_ASKED_WHY])
            changed = [reason for reason, _ in reasons.most_common() if reason]
            raise _Undone(pieces[0].step, len(undone), len(pieces), changed[0] if changed else NOT_DONE)
        return [stats for stats in found if stats is not None]


def stage_states(run: Run, stages: Sequence[str]) -> list[StageState]:
    """The state of some stages of a run, which follow each other, and of the run beside it.

    Nothing is written. What a stage refuses before its first piece that has to be done, it refuses here.

    Cost: one look at each marker, input and output of what is done, as in a run that has nothing to do.
    """
    states = _walk(run, stages, [])
    place = comparison_dir(run)
    if place is not None and {"train", "evaluate"} & set(stages):
        branch = Run(place, branch_settings(run.settings, run.compare))
        last = "evaluate" if "evaluate" in stages else "train"
        its = branch_stages(branch)
        undone = [s.stage for s in states if s.state != DONE and s.stage in SHARED]
        states += [
            StageState(f"compare/{each.stage}", each.state, each.why)
            for each in _walk(branch, its[: its.index(last) + 1], undone)
        ]
    return states


def _walk(run: Run, stages: Sequence[str], undone: Sequence[str]) -> list[StageState]:
    """``undone``: stages before the first of them that are not done."""
    states: list[StageState] = []
    # a branch goes through its stages without the others, so they read nothing of those
    of_branch = {*SHARED, *branch_stages(run)}
    for stage in stages:
        before = [*undone, *(each.stage for each in states if each.state != DONE)]
        if STAGE_TABLE[stage].branched:
            before = [name for name in before if name in of_branch]
        states.append(_state_behind(run, stage, before[0]) if before else _state(run, stage))
    return states


def _state_behind(run: Run, stage: str, undone: str) -> StageState:
    """The state of a stage that may read what ``undone`` will write: by what is on disk, as far as that tells it."""
    was_done = run.has_summary(stage)
    now = None
    if was_done or (run.out / "state" / stage).is_dir():
        try:
            now = _state(run, stage)
        except (DcfastError, OSError, ValueError):  # what it reads is not there as yet
            now = None
    if now is not None and now.state != DONE and not now.why.endswith(_SUMMARY_IS_NOT):
        return now
    if now is None and not was_done:
        return StageState(stage, TO_DO, "")
    found = "" if now is None else "; unchanged by what is on disk now"
    return StageState(stage, MAYBE, f"may be redone: what {undone} changes of what it reads{found}")


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
        return StageState(stage, TO_DO, f"its {look.done:,} {_SUMMARY_IS_NOT}")
    many = f"{look.done:,} piece{'' if look.done == 1 else 's'}"
    return StageState(stage, DONE, f"unchanged, {many}" if look.done else "nothing to do")
