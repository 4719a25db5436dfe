"""Scores of one set: embeds its pictures and texts, and computes the metrics of its kind under DataComp's names.

Memory: a few numbers a picture; retrieval and riddles keep the embeddings of the set (4 bytes times their width).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from dcfast.errors import EvalsetError, did_you_mean
from dcfast.evaluate.embed import Embedder, ImageBatch
from dcfast.evaluate.metrics import (
    Ints,
    Metrics,
    expected_jaccard,
    expected_macro_f1,
    group_table,
    jaccard,
    macro_scores,
    mean_per_class_recall,
    top_k_accuracy,
    worst_group,
)
from dcfast.evaluate.opened import EvalSet
from dcfast.evaluate.retrieval import rank_of, recalls, retrieval_ranks
from dcfast.evaluate.tasks import EvalTask

if TYPE_CHECKING:
    from torch import Tensor

Made = TypeVar("Made")
WHITE = 1
"""The race class that FairFace's race_binary singles out."""
WITH_TOP5 = 5
"""Classes that a set needs for a top-5 accuracy."""


@dataclass
class Score:
    """What a set scored.

    Attributes:
        metrics: by name; ``main_metric`` among them, None where the set has no summary number.
        chance: the main metric of a blind guess, None where there is no main metric.
        scored: pictures (or riddles' pictures) that took part.
        counted: of what the size of the task is a number, those that took part: pictures, or riddles.
        unreadable: key -> why the picture could not be decoded.
        notes: what else was left out, in words.
    """

    metrics: Metrics
    chance: float | None
    scored: int
    counted: int
    unreadable: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def score_evalset(evalset: EvalSet, embedder: Embedder) -> Score:
    """Scores an opened set.

    Raises:
        EvalsetError: no picture of it can be decoded.
        RunError: the model's embeddings are not finite.
    """
    kind = evalset.task.kind
    scorer = {"retrieval": _retrieval, "association": _association, "fairness_multilabel": _multilabel}.get(
        kind, _classification
    )
    score = scorer(evalset, embedder)
    score.metrics["main_metric"] = score.metrics.get(evalset.task.main_metric)
    if evalset.task.main_metric and evalset.task.main_metric not in score.metrics:
        known = [name for name in score.metrics if ":" not in name and name != "main_metric"]
        raise EvalsetError(
            f"{evalset.folder}: its main metric {evalset.task.main_metric!r} is none of a set of kind {kind}: "
            f"{', '.join(known)}{did_you_mean(evalset.task.main_metric, known)}"
        )
    if evalset.task.random_score is not None:
        score.chance = evalset.task.random_score
    return score


def _each_batch(
    evalset: EvalSet, embedder: Embedder, made_of: Callable[[ImageBatch], Made], *, amp: bool = False
) -> tuple[Ints, list[Made], dict[str, str]]:
    """The rows whose pictures decode, what a function makes of each batch of them, and key -> why others do not."""
    parts = [(batch.rows, made_of(batch), batch.problems) for batch in embedder.pictures(evalset, amp=amp)]
    readable = np.concatenate([np.empty(0, np.int64), *(rows for rows, _, _ in parts)])
    problems = sorted((row, why) for _, _, undecoded in parts for row, why in undecoded.items())
    unreadable = {evalset.key(row): why for row, why in problems}
    if len(readable) == 0:
        key, why = next(iter(unreadable.items()))
        raise EvalsetError(f"{evalset.folder}: none of its {len(unreadable)} pictures can be decoded ({key}: {why})")
    return readable, [made for _, made, _ in parts], unreadable


def _classification(evalset: EvalSet, embedder: Embedder) -> Score:
    import torch

    task, count = evalset.task, len(evalset.classes)
    weights = embedder.classes(evalset.classes, evalset.templates, task.key)

    def rank_and_guess(batch: ImageBatch) -> tuple[Ints, Ints]:
        logits = batch.features @ weights.T
        rank = rank_of(logits, torch.from_numpy(evalset.labels[batch.rows]))
        return rank.numpy(), logits.argmax(1).numpy()

    rows, parts, unreadable = _each_batch(evalset, embedder, rank_and_guess)
    rank, guess = map(np.concatenate, zip(*parts, strict=True))
    labels = evalset.labels[rows]
    metrics: Metrics = {
        "acc1": top_k_accuracy(rank, 1),
        "acc5": top_k_accuracy(rank, 5) if count >= WITH_TOP5 else None,
        "mean_per_class_recall": mean_per_class_recall(labels, guess),
    }
    chance = 1 / count
    if task.kind in ("wilds", "fairness"):
        metrics.update(_grouped(evalset, rows, rank, guess))
    if task.main_metric == "F1-macro_all":
        chance = expected_macro_f1(labels, count)
    elif "top5" in task.main_metric or task.main_metric == "acc5":
        chance = min(1.0, 5 / count)
    return Score(metrics, chance, len(rows), len(rows), unreadable)


def _grouped(evalset: EvalSet, rows: Ints, rank: Ints, guess: Ints) -> Metrics:
    task, correct = evalset.task, rank < 1
    if task.main_metric == "acc_worst_region":
        return _regions(evalset, rows, correct)
    groups = [(task.group_field, evalset.column(task.group_field)[rows])] if task.group_field else []
    if task.main_metric == "F1-macro_all":
        recall, f1 = macro_scores(evalset.labels[rows], guess)
        by_group = group_table("acc", correct, groups) if groups else {"acc_avg": float(np.mean(correct))}
        return {**by_group, "recall-macro_all": recall, "F1-macro_all": f1}
    if not groups:
        return {}
    name, right = ("acc_top5", rank < 5) if task.main_metric == "acc_top5_wg" else ("acc", correct)
    return group_table(name, right, groups)


def _regions(evalset: EvalSet, rows: Ints, correct: npt.NDArray[np.bool_]) -> Metrics:
    task = evalset.task
    metrics: Metrics = {}
    if "year" in task.metadata_fields:
        metrics = group_table("acc", correct, [("year", evalset.column("year")[rows])])
        metrics["acc_worst_year"] = metrics.pop("acc_wg")
    region = evalset.column("region")[rows]
    table = group_table("acc", correct, [("region", region)])
    other = [value for value, name in enumerate(task.group_names) if name == "Other"]
    # the reference means to leave "Other" out, but asks for it by names that its groups do not have
    metrics["acc_worst_region"] = table.pop("acc_wg")
    metrics["acc_worst_region_without_other"] = worst_group(correct, region, other)
    return {**metrics, **table}


def _objectives(evalset: EvalSet) -> dict[str, tuple[list[str], list[str]]]:
    """Objective -> (classes, templates), their prefixes taken off."""
    objectives: dict[str, tuple[list[str], list[str]]] = {name: ([], []) for name in evalset.task.objectives}
    for place, lines in enumerate((evalset.classes, evalset.templates)):
        for line in lines:
            prefix, colon, rest = line.partition(":")
            if not colon or prefix not in objectives:
                raise EvalsetError(
                    f"{evalset.folder}: every class and template begins with one of "
                    f"{', '.join(f'{name}:' for name in objectives)}; got {line[:80]!r}"
                )
            objectives[prefix][place].append(rest)
    for name, (classes, templates) in objectives.items():
        if not classes or not templates:
            raise EvalsetError(f"{evalset.folder}: no {'class' if not classes else 'template'} begins with {name}:")
    return objectives


def _multilabel(evalset: EvalSet, embedder: Embedder) -> Score:
    task = evalset.task
    missing = [name for name in ("race", "gender", "age", "toxic") if name not in task.objectives]
    missing += [name for name in ("race", "gender", "age", "race_binary") if name not in task.metadata_fields]
    if missing:
        raise EvalsetError(f"task {task.key}: a multi-label set needs {missing[0]} among its objectives and metadata")
    weights = {
        name: embedder.classes(classes, templates, f"{task.key} ({name})")
        for name, (classes, templates) in _objectives(evalset).items()
    }

    def guesses(batch: ImageBatch) -> dict[str, Ints]:
        return {name: (batch.features @ classes.T).argmax(1).numpy() for name, classes in weights.items()}

    rows, parts, unreadable = _each_batch(evalset, embedder, guesses)
    guess = {name: np.concatenate([part[name] for part in parts]) for name in weights}
    truth = {name: evalset.column(name)[rows] for name in ("race", "gender", "age", "race_binary")}
    metrics = _fairness_tables(task, guess, truth)
    return Score(metrics, None, len(rows), len(rows), unreadable)


def _fairness_tables(task: EvalTask, guess: dict[str, Ints], truth: dict[str, Ints]) -> Metrics:
    binary = truth["race_binary"]
    # which value of race_binary stands for the one race differs between sets (0 in FairFace): the set itself tells
    of_white = binary[truth["race"] == WHITE]
    white = int(np.round(of_white.mean())) if len(of_white) else 0
    by_binary, by_race = [("race_binary", binary)], [("race", truth["race"])]
    metrics = group_table("acc_race", np.where(guess["race"] == WHITE, white, 1 - white) == binary, by_binary)
    for name in ("gender", "age"):
        metrics.update(group_table(f"acc_{name}", guess[name] == truth[name], by_binary))
    pairs = [("gender", truth["gender"]), ("race", truth["race"])]
    metrics.update(group_table("acc_gender_x", guess["gender"] == truth["gender"], pairs))
    for name, (first, end) in (("crime", task.toxic_crime), ("nonhuman", task.toxic_nonhuman)):
        hit = (guess["toxic"] >= first) & (guess["toxic"] < end)
        metrics.update(group_table(f"toxicity_{name}", hit, by_race))
    return metrics


def _all_pictures(evalset: EvalSet, embedder: Embedder) -> tuple[Ints, Tensor, dict[str, str]]:
    import torch

    rows, parts, unreadable = _each_batch(evalset, embedder, lambda batch: batch.features, amp=True)
    return rows, torch.cat(parts), unreadable


def _retrieval(evalset: EvalSet, embedder: Embedder) -> Score:
    rows, images, unreadable = _all_pictures(evalset, embedder)
    captions = [evalset.captions[row] for row in rows.tolist()]
    texts = embedder.texts([line for lines in captions for line in lines], evalset.task.key)
    image_of_text = np.repeat(np.arange(len(rows)), [len(lines) for lines in captions])
    metrics, count = recalls(*retrieval_ranks(images, texts, image_of_text)), len(rows)
    return Score(metrics, 1 / count, count, count, unreadable)


def cue_prompt(cue: str) -> str:
    """The prompt of a riddle's cue: lower case, "An" before a vowel letter."""
    word = cue.lower()
    return f"{'An' if word[0] in 'aeiou' else 'A'} {word}"


def _association(evalset: EvalSet, embedder: Embedder) -> Score:
    import torch

    rows, images, unreadable = _all_pictures(evalset, embedder)
    place = np.full(len(evalset.rows), -1)
    place[rows] = np.arange(len(rows))
    riddles = [riddle for riddle in evalset.riddles if (place[list(riddle.candidates)] >= 0).all()]
    skipped = len(evalset.riddles) - len(riddles)
    notes = [f"{skipped} riddles have a picture that cannot be decoded and were left out"] if skipped else []
    if not riddles:
        raise EvalsetError(f"{evalset.folder}: each of its riddles has a picture that cannot be decoded")
    texts = embedder.texts([cue_prompt(riddle.cue) for riddle in riddles], evalset.task.key)
    scores, guesses = [], []
    for riddle, text in zip(riddles, texts, strict=True):
        similarities = _similarities(images[torch.from_numpy(place[list(riddle.candidates)])], text, embedder.amp)
        # by places, since a picture may come twice; of equals those behind come first, as NumPy 1.23 sorts so few
        right = {number for number, row in enumerate(riddle.candidates) if row in riddle.associations}
        best = np.argsort(similarities, kind="stable")[-len(right) :]
        scores.append(jaccard(right, set(best.tolist())))
        guesses.append(expected_jaccard(len(riddle.candidates), len(right)))
    size = np.array([len(riddle.candidates) for riddle in riddles])

    def mean(values: list[float], chosen: npt.NDArray[np.bool_]) -> float | None:
        return float(np.array(values)[chosen].mean()) if chosen.any() else None

    metrics: Metrics = {"avg_jaccard_score": mean(scores, size > 0)}
    metrics.update({f"jaccard_score_{n}": mean(scores, size == n) for n in (5, 6, 10, 12)})
    metrics.update({"jaccard_score_5-6": mean(scores, size <= 6), "jaccard_score_10-12": mean(scores, size >= 10)})
    return Score(metrics, mean(guesses, size >= 10), len(rows), len(riddles), unreadable, notes)


def _similarities(images: Tensor, text: Tensor, amp: bool) -> npt.NDArray[np.float32]:
    """Of the candidates of a riddle; in autocast the reference rounds them, too, and what goes into them."""
    if not amp:
        return (images @ text).numpy()
    return (images.half().float() @ text.half().float()).half().float().numpy()
