"""The scores of a run beside its comparison run's, each only of the checkpoint that its own training ended with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dcfast.errors import DcfastError
from dcfast.evaluate.results import AGGREGATES, RESULTS, Result, aggregate, load_results, mean
from dcfast.evaluate.scores import Leaked, read_leaked
from dcfast.evaluate.tasks import EvalTask, datacomp_tasks, own_tasks
from dcfast.rundir.summaries import find_summary
from dcfast.rundir.training_summary import TrainingSummary
from dcfast.storage.records import Record

__all__ = ["EVEN", "Means", "Scores", "TrainedOn", "compare_scores"]

EVEN = 0.005
"""A difference of the averages below half a point says nothing, whichever way it points."""
MAX_LINES = 10_000


class SetScore(Record):
    """A set in both runs. ``difference``: None unless both have a score on the same pictures (``alike``).

    ``contaminated``, ``comparison_contaminated``: samples of each training that are copies of its pictures, None where
    that was not checked.
    """

    key: str
    dataset: str
    kind: str | None
    metric: str | None
    chance: float | None
    score: float | None
    comparison: float | None
    difference: float | None
    alike: bool
    pictures: int | None
    unreadable: int | None
    benchmark: bool
    complete: bool
    notes: list[str]
    error: str | None
    contaminated: int | None
    comparison_contaminated: int | None


class Means(Record):
    """Over sets with a difference: the means, and the numbers of sets that are better and worse."""

    sets: int
    score: float | None
    comparison: float | None
    chance: float | None
    difference: float | None
    better: int
    worse: int


class TrainedOn(Record):
    """Samples of a training that are copies of evaluation pictures.

    ``sets``: key -> samples.   ``marked``: keys of the sets whose score is not to be trusted.
    """

    samples: int
    sets: dict[str, int]
    marked: list[str]
    words: str


class TrainedOnOfBoth(Record):
    """None: it was not looked for."""

    run: TrainedOn | None
    comparison: TrainedOn | None


class GroupAverage(Record):
    """A group of DataComp's, whose ``present`` members are here and whole; the scores need all of them."""

    name: str
    members: int
    present: int
    score: float | None
    comparison: float | None


class OwnAverage(Record):
    """Of the ``tasks.json`` beside the sets."""

    members: int
    score: float | None
    comparison: float | None


class Scores(Record):
    """The scores of both runs; docs/report.md."""

    available: bool
    checkpoint: str | None
    comparison_checkpoint: str | None
    refused: list[str]
    sets: list[SetScore]
    common: Means
    unaffected: Means
    trained_on: TrainedOnOfBoth
    above_chance: int
    averages: list[GroupAverage]
    own_average: OwnAverage
    missing: list[str]
    failed: dict[str, str]
    partial: list[str]
    unlisted: list[str]


class _RunScores(NamedTuple):
    """Results by key, all of the checkpoint that the training ended with, and why others are not among them."""

    results: dict[str, Result] = {}
    checkpoint: str | None = None
    refused: str | None = None
    leaked: Leaked | None = None


def _run_scores(out: Path | None, evalset_dir: Path | None) -> _RunScores:
    if out is None:
        return _RunScores()
    leaked = read_leaked(out, evalset_dir)
    try:
        lines = [result for result in load_results(out / RESULTS).results[:MAX_LINES] if result.checkpoint is not None]
    except OSError:
        lines = []
    summary = find_summary(out / "train" / "summary.json", TrainingSummary)
    checkpoint = summary.checkpoint_sha256 or None if summary is not None else None
    if lines and not checkpoint:
        reason = "there are results, but no train/summary.json that says which checkpoint they are of"
        return _RunScores(refused=reason, leaked=leaked)
    mine = [line for line in lines if line.checkpoint == checkpoint]
    others = sorted({str(line.checkpoint)[:16] for line in lines} - {str(checkpoint)[:16]})
    reason = (
        f"{len(lines) - len(mine)} results are of another checkpoint ({', '.join(others[:3])}) than the one that was "
        f"trained ({str(checkpoint)[:16]}) and are left out; run evaluate again"
    )
    refused = None if len(mine) == len(lines) else reason
    return _RunScores({line.key: line for line in mine}, checkpoint, refused, leaked)


def _set_score(key: str, ours: _RunScores, theirs: _RunScores) -> SetScore:
    mine, other = ours.results.get(key), theirs.results.get(key)
    shown = mine or theirs.results[key]
    # other pictures under the same name, or another way to score them, make two numbers that are not to be compared
    alike = mine is not None and other is not None and mine.state == other.state
    error = next((result.error for result in (mine, other) if result is not None and result.error is not None), None)
    score = mine.score if mine else None
    against = other.score if other else None
    return SetScore(
        key,
        shown.dataset,
        shown.kind,
        shown.main_metric_name,
        shown.chance,
        score,
        against,
        difference=None if score is None or against is None or not alike else score - against,
        alike=alike or mine is None or other is None or error is not None,
        pictures=shown.pictures,
        unreadable=shown.unreadable,
        benchmark=shown.benchmark,
        complete=shown.complete,
        notes=list(shown.notes[:5]),
        error=error,
        contaminated=None if ours.leaked is None else ours.leaked.tasks.get(key),
        comparison_contaminated=None if theirs.leaked is None else theirs.leaked.tasks.get(key),
    )


def _means(rows: Sequence[SetScore]) -> Means:
    differences = [row.difference for row in rows if row.difference is not None]
    chances = [row.chance for row in rows if row.chance is not None]
    return Means(
        len(rows),
        mean([row.score for row in rows if row.score is not None]),
        mean([row.comparison for row in rows if row.comparison is not None]),
        mean(chances) if len(chances) == len(rows) else None,
        mean(differences),
        better=sum(difference > 0 for difference in differences),
        worse=sum(difference < 0 for difference in differences),
    )


def _trained_on(leaked: Leaked | None, marked: list[str]) -> TrainedOn | None:
    return None if leaked is None else TrainedOn(leaked.samples, leaked.concerned, marked, leaked.words)


def _own_tasks(evalset_dir: Path | None) -> tuple[EvalTask, ...]:
    try:
        return () if evalset_dir is None else own_tasks(evalset_dir)
    except (DcfastError, OSError):
        return ()


def compare_scores(out: Path, comparison: Path | None, evalset_dir: Path | None) -> Scores:
    """The scores of every set in both runs, the averages they allow, and means over the sets that both have: of all,
    and of those that neither run trained on copies of.

    A result of another checkpoint than the trained one is in none of its numbers. An average of DataComp's is None
    unless every member is there whole.

    Args:
        out, comparison: run directories; None where there is no comparison run.
        evalset_dir: of the sets, for the ``tasks.json`` beside them.
    """
    ours, theirs = _run_scores(out, evalset_dir), _run_scores(comparison, evalset_dir)
    rows = [_set_score(key, ours, theirs) for key in {**ours.results, **theirs.results}]
    paired = [row for row in rows if row.difference is not None]
    own = _own_tasks(evalset_dir)
    mine, other = (aggregate(list(run.results.values()), own) for run in (ours, theirs))
    whole = {key for key, line in ours.results.items() if line.benchmark and line.complete and line.error is None}
    scored = tuple(task.key for task in datacomp_tasks() if task.main_metric)
    groups = {name: set(keys or scored) for name, keys in AGGREGATES.items()}
    marked = [row.key for row in rows if row.score is not None and row.contaminated]
    other_marked = [row.key for row in rows if row.comparison is not None and row.comparison_contaminated]
    return Scores(
        available=bool(ours.results),
        checkpoint=ours.checkpoint,
        comparison_checkpoint=theirs.checkpoint,
        refused=[reason for reason in (ours.refused, theirs.refused) if reason],
        sets=rows,
        common=_means(paired),
        unaffected=_means([row for row in paired if row.contaminated == 0 == row.comparison_contaminated]),
        trained_on=TrainedOnOfBoth(_trained_on(ours.leaked, marked), _trained_on(theirs.leaked, other_marked)),
        above_chance=sum(row.score is not None and row.chance is not None and row.score > row.chance for row in rows),
        averages=[
            GroupAverage(name, len(keys), len(keys & whole), mine.averages[name], other.averages[name])
            for name, keys in groups.items()
        ],
        own_average=OwnAverage(sum(bool(task.main_metric) for task in own), mine.own_average, other.own_average),
        missing=mine.missing,
        failed=mine.failed,
        partial=mine.partial,
        unlisted=mine.unlisted,
    )
