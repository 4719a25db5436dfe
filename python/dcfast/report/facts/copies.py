"""What a reader of the scores must know of copies of evaluation pictures in the training."""

from __future__ import annotations

from dcfast.report.facts.outcome import Scores, TrainedOn
from dcfast.report.text import clean, points, share

__all__ = ["MARK", "sentences"]

MARK = "\u2020"
"""A dagger: beside each score of a set whose pictures the model trained on copies of."""


def _sentence_of(run: str, trained_on: TrainedOn | None) -> str:
    if trained_on is None:
        return f"Whether {run} trained on copies of evaluation pictures was not checked."
    name = run[0].upper() + run[1:]
    if trained_on.marked:
        return f"{MARK} {name} trained on {trained_on.words}. Its scores on these sets say little."
    if trained_on.samples:
        return f"{name} trained on {trained_on.words}, none of them of a set that has a score."
    return ""


def _other_means(scores: Scores, by: str | None) -> str:
    """The means that the headline does not go by."""
    shown, rest = scores.common, scores.unaffected
    if not rest.sets:
        return "There is no set that neither run trained on copies of."
    over = f"all {shown.sets} sets, those with {MARK} among them"
    if by != "unaffected":
        over, shown = f"the {rest.sets} of {shown.sets} sets that neither run trained on copies of", rest
    return (
        f"Over {over}: {share(shown.score)} against {share(shown.comparison)}, {points(shown.difference)} "
        f"points, better on {shown.better}, worse on {shown.worse}."
    )


def sentences(scores: Scores, against: str | None, by: str | None) -> list[str]:
    """What was found in the trainings, and what is left without.

    Args:
        against: the comparison's filter.   by: which means the headline goes by.
    """
    both = (scores.trained_on.run, scores.trained_on.comparison)
    told = [_sentence_of("this run", both[0])]
    if scores.common.sets:
        told.append(_sentence_of(f"the comparison run ({clean(str(against), 80)})", both[1]))
        if any(trained_on is not None and trained_on.marked for trained_on in both):
            told.append(_other_means(scores, by))
    return list(filter(None, told)) or [
        "No sample of the training is a copy of an evaluation picture, as far as decontamination can tell."
    ]
