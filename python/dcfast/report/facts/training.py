"""What the trainings were: the same recipe in both runs or not, their curves, and what follows from the scores."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from dcfast.report.facts.outcome import EVEN, Means, Scores
from dcfast.report.facts.reading import read_rows
from dcfast.rundir.summaries import find_summary
from dcfast.rundir.training_summary import EvaluationLine, TrainingSummary, TrainingTimes
from dcfast.storage.records import Record, widened

CURVE_POINTS = 240
"""Points of a curve on the page; a longer log is averaged over equal stretches of it."""

MUCH_WAITING = 0.05
MANY_REPLACED = 0.005
"""Shares above which the report advises: of the time, and of the samples seen."""
MOST_EVALUATIONS = 100


class CurvePoint(Record):
    samples_seen: float
    loss: float
    logit_scale: float


class TrainedRun(TrainingSummary):
    """A training: ``samples`` are the distinct ones, ``asked`` the samples seen of the recipe.

    ``dali_refused_samples``: None of another decoder. ``wait``: share of the time in which a rank had no data;
    ``memory``: bytes that a rank has taken at most; both None of an older version. ``advice``: what follows, in
    sentences. ``evaluations``: scores between checkpoints.
    """

    samples: int = 0
    asked: int | float | str | bool | None = None
    seconds: float | None = None
    samples_per_second: float | None = None
    dali_refused_samples: int | None = None
    curve: list[CurvePoint] = []
    wait: float | None = None
    memory: int | None = None
    gradient_norm: float | None = None
    advice: list[str] = []
    evaluations: list[EvaluationLine] = []


class _Told(Record):
    """Of a line of the log what older versions do not tell."""

    seconds: float = 0.0
    wait: float | None = None
    memory: int | None = None
    gradient_norm: float | None = None


class Trainings(Record):
    """Of both runs, None where not trained; ``unfair``: why they are not to be compared."""

    run: TrainedRun | None
    comparison: TrainedRun | None
    unfair: list[str]


class Verdict(Record):
    """What the page says first.

    Kinds: ``better``, ``worse``, ``even`` (by the mean over the sets that both runs have, and the number of sets that
    each wins), ``unlearned`` (both guess on more than half of the sets), ``contaminated`` (copies of evaluation
    pictures in the training may have decided), ``unfair`` (the trainings are not to be compared), ``scored`` (no
    comparison), ``none`` (no scores). ``by``: the means that it goes by, ``common`` or ``unaffected`` of the scores.
    """

    kind: str
    headline: str | None = None
    by: str | None = None


def read_curve(path: Path) -> list[CurvePoint]:
    """Samples seen, loss and logit scale of a training's log, at most CURVE_POINTS points.

    Memory: the points; the log is read line by line.
    """
    points: list[list[float]] = []  # lines in a point, and the sums of its columns
    width = 1  # lines that a point stands for
    for line in read_rows(path, CurvePoint):
        row = [1.0, line.samples_seen, line.loss, line.logit_scale]
        if points and points[-1][0] < width:
            points[-1] = [a + b for a, b in zip(points[-1], row, strict=True)]
        else:
            points.append(row)
        if len(points) > CURVE_POINTS:
            pairs = (points[i : i + 2] for i in range(0, len(points), 2))
            points = [[sum(column) for column in zip(*pair, strict=True)] for pair in pairs]
            width *= 2
    return [CurvePoint(*(round(total / lines, 5) for total in sums)) for lines, *sums in points]


def _told(path: Path) -> tuple[float | None, int | None, float | None]:
    """Of a training's log the share of waiting, the most memory and the last length of its gradients."""
    waited = seconds = 0.0
    memory: int | None = None
    norm: float | None = None
    for line in read_rows(path, _Told):
        if line.wait is not None:
            waited, seconds = waited + line.wait * line.seconds, seconds + line.seconds
        memory = max(memory or 0, line.memory) if line.memory is not None else memory
        norm = line.gradient_norm if line.gradient_norm is not None else norm
    return round(waited / seconds, 4) if seconds > 0 else None, memory, norm


def _advice(wait: float | None, replaced: int, seen: int | None) -> list[str]:
    advice = []
    if wait is not None and wait > MUCH_WAITING:
        advice.append(
            f"{wait:.0%} of the time went by waiting for data: give it more cores for each GPU, a faster decoder "
            "(--decoder pil_reduced, or dali), or shards on a local disk (of URLs by --cache-dir)"
        )
    if seen and replaced / seen > MANY_REPLACED:
        advice.append(
            f"{replaced / seen:.1%} of the samples could not be used and were replaced by others: see their reasons in "
            "train/replaced-*.jsonl, and leave such samples out of the subset"
        )
    return advice


def _trained_run(out: Path) -> TrainedRun | None:
    summary = find_summary(out / "train" / "summary.json", TrainingSummary)
    if summary is None:
        return None
    times = find_summary(out / "train" / "timing.json", TrainingTimes)
    wait, memory, norm = _told(out / "train" / "log.jsonl")
    return widened(
        summary,
        TrainedRun,
        samples=sum(source.samples for source in summary.sources),
        asked=summary.recipe.get("samples_seen"),
        seconds=None if times is None else times.seconds,
        samples_per_second=None if times is None else times.samples_per_second,
        dali_refused_samples=None if times is None else times.dali_refused_samples,
        curve=read_curve(out / "train" / "log.jsonl"),
        wait=wait,
        memory=memory,
        gradient_norm=norm,
        advice=_advice(wait, summary.replaced, summary.samples_seen),
        evaluations=[*islice(read_rows(out / "train" / "evaluations.jsonl", EvaluationLine), MOST_EVALUATIONS)],
    )


def trainings(out: Path, comparison: Path | None) -> Trainings:
    """The facts of both trainings and whether they had the same compute."""
    mine = _trained_run(out)
    other = _trained_run(comparison) if comparison is not None else None
    unfair = [
        f"{name} saw {training.samples_seen} samples, its recipe says {training.asked}"
        for name, training in (("this run", mine), ("the comparison", other))
        if training is not None and training.samples_seen != training.asked
    ]
    if mine is not None and other is not None:
        for facts, ours, theirs in (
            ("samples seen", mine.samples_seen, other.samples_seen),
            ("recipes (their hashes)", mine.recipe_hash, other.recipe_hash),
            ("models", mine.model, other.model),
            ("seeds", mine.seed, other.seed),
        ):
            if ours != theirs:
                unfair.append(f"the {facts} differ: {str(ours)[:16]} and {str(theirs)[:16]}")
    return Trainings(mine, other, unfair)


def _outcome(means: Means) -> str:
    """``better``, ``worse`` or ``even``: by the difference of two means and the number of sets that each run wins."""
    difference = means.difference or 0.0
    if difference >= EVEN and means.better > means.worse:
        return "better"
    if difference <= -EVEN and means.worse > means.better:
        return "worse"
    return "even"


def _outcome_by(scores: Scores) -> tuple[str, str]:
    """(outcome, which means it goes by). A lead stands where the run that leads trained on no copy of these sets'
    pictures; otherwise the sets decide that neither run trained on copies of, and without any there is no outcome."""
    paired = [row for row in scores.sets if row.difference is not None]
    mine = any(row.contaminated for row in paired)
    other = any(row.comparison_contaminated for row in paired)
    outcome = _outcome(scores.common)
    stands = {"better": not mine, "worse": not other, "even": not mine and not other}
    if stands[outcome]:
        return outcome, "common"
    if scores.unaffected.sets:
        return _outcome(scores.unaffected), "unaffected"
    return "contaminated", "common"


def _guessing(scores: Scores) -> str:
    """That neither model has learned anything yet: both guess on more than half of the sets. Empty where it has."""
    rows = [row for row in scores.sets if row.difference is not None and row.chance is not None]
    mine = sum((row.score or 0.0) > (row.chance or 0.0) for row in rows)
    other = sum((row.comparison or 0.0) > (row.chance or 0.0) for row in rows)
    if 2 * max(mine, other) >= len(rows):
        return ""
    above = f"{mine}" if mine == other else f"{mine} and {other}"
    return f"Nothing learned yet: {above} of {len(rows)} sets above chance"


def verdict(scores: Scores, trained: Trainings, uids: int | None, comparison_uids: int | None) -> Verdict:
    """What the page says first.

    Args:
        uids, comparison_uids: of the subsets.
    """
    if not scores.available:
        return Verdict("none")
    if not scores.common.sets or trained.comparison is None:
        return Verdict("scored")
    if trained.unfair or scores.refused:
        return Verdict("unfair", "Two trainings that cannot be compared", "common")
    is_smaller = uids is not None and comparison_uids is not None and uids < comparison_uids
    subset = "smaller subset" if is_smaller else "another subset"
    if guessing := _guessing(scores):
        return Verdict("unlearned", guessing, "common")
    kind, by = _outcome_by(scores)
    headlines = {
        "better": "Same compute, better subset, better model",
        "worse": f"Same compute, {subset}, worse model",
        "even": f"Same compute, {subset}, no better model",
        "contaminated": "Scores that copies of evaluation pictures in the training may have decided",
    }
    return Verdict(kind, headlines[kind], by)
