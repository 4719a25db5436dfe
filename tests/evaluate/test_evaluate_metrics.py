"""Metrics and retrieval against scikit-learn, enumeration, and loops that anyone can read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from dcfast.evaluate.metrics import (
    expected_jaccard,
    expected_macro_f1,
    group_table,
    jaccard,
    macro_scores,
    mean_per_class_recall,
    top_k_accuracy,
    worst_group,
)
from dcfast.evaluate.retrieval import rank_of, recalls, retrieval_ranks
from dcfast.evaluate.score import cue_prompt
from sklearn import metrics as sk

SHAPES = [(1, 2), (2, 1), (13, 5), (97, 11), (500, 40)]


def _draw(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, n, classes])
    labels = rng.integers(0, classes, n)
    return labels, np.where(rng.random(n) < 0.5, labels, rng.integers(0, classes, n))


@pytest.mark.parametrize(("n", "classes"), SHAPES)
def test_class_averages_are_those_of_scikit_learn(n: int, classes: int) -> None:
    labels, guess = _draw(n, classes)
    present = np.unique(labels)
    # balanced_accuracy_score warns of guesses that no label has, which is the common case here
    expected = sk.recall_score(labels, guess, labels=present, average="macro", zero_division=0)
    assert mean_per_class_recall(labels, guess) == pytest.approx(expected, rel=1e-12)
    if set(guess) <= set(labels) and len(present) > 1:
        assert mean_per_class_recall(labels, guess) == pytest.approx(sk.balanced_accuracy_score(labels, guess))
    recall, f1 = macro_scores(labels, guess)
    assert recall == pytest.approx(expected, rel=1e-12)
    assert f1 == pytest.approx(sk.f1_score(labels, guess, labels=present, average="macro", zero_division=0), rel=1e-12)


def test_macro_f1_leaves_out_classes_that_the_truth_lacks() -> None:
    assert macro_scores(np.array([0, 0, 1]), np.array([0, 7, 1])) == (0.75, pytest.approx((2 / 3 + 1) / 2))


@pytest.mark.parametrize(("n", "classes"), [(1, 6), (13, 7), (200, 40)])
def test_top_k_is_that_of_scikit_learn(n: int, classes: int) -> None:
    rng = np.random.default_rng([3, n, classes])
    labels, scores = rng.integers(0, classes, n), rng.standard_normal((n, classes)).astype(np.float32)
    rank = rank_of(torch.from_numpy(scores), torch.from_numpy(labels)).numpy()
    for k in (1, 5):
        expected = sk.top_k_accuracy_score(labels, scores, k=k, labels=np.arange(classes))
        assert top_k_accuracy(rank, k) == pytest.approx(expected, rel=1e-12)


def test_equal_scores_go_to_the_lower_class_and_so_score_as_chance_does() -> None:
    labels = np.arange(12) % 4
    rank = rank_of(torch.zeros(12, 4), torch.from_numpy(labels)).numpy()
    assert rank.tolist() == labels.tolist()
    assert top_k_accuracy(rank, 1) == 1 / 4


def test_group_table_counts_and_averages_each_group_and_names_empty_ones() -> None:
    correct = np.array([True, False, True, True, False, True])
    region = np.array([0, 0, 2, 2, 2, 3])
    assert group_table("acc", correct, [("region", region)]) == {
        "acc_avg": 4 / 6,
        **{"acc_region:0": 0.5, "count_region:0": 2, "acc_region:1": None, "count_region:1": 0},
        **{"acc_region:2": 2 / 3, "count_region:2": 3, "acc_region:3": 1.0, "count_region:3": 1},
        "acc_wg": 0.5,
    }


def test_group_table_of_two_fields_against_a_loop() -> None:
    rng = np.random.default_rng(5)
    gender, race, correct = rng.integers(0, 2, 101), rng.integers(0, 7, 101), rng.random(101) < 0.6
    table = group_table("acc_gender_x", correct, [("gender", gender), ("race", race)])
    worst = 1.0
    for g, r in itertools.product(range(2), range(7)):
        chosen = [c for c, gg, rr in zip(correct, gender, race, strict=True) if (gg, rr) == (g, r)]
        assert table[f"count_race:{r}_gender:{g}"] == len(chosen)
        if chosen:
            assert table[f"acc_gender_x_race:{r}_gender:{g}"] == pytest.approx(sum(chosen) / len(chosen))
            worst = min(worst, sum(chosen) / len(chosen))
    assert table["acc_gender_x_wg"] == pytest.approx(worst)
    assert len(table) == 2 + 2 * 14


def test_worst_group_leaves_out_what_it_is_told_and_empty_groups() -> None:
    correct, region = np.array([True, True, False, False, True]), np.array([0, 0, 2, 5, 2])
    assert worst_group(correct, region) == 0.0
    assert worst_group(correct, region, [5]) == 0.5
    assert worst_group(correct, region, [5, 99]) == 0.5
    assert worst_group(np.array([True]), np.array([5]), [5]) is None


def test_jaccard_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    for n in (1, 5, 12):
        true, guess = rng.random(n) < 0.5, rng.random(n) < 0.5
        true[0] = True
        expected = sk.jaccard_score(true, guess)
        assert jaccard(set(np.flatnonzero(true)), set(np.flatnonzero(guess))) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 2), (6, 3), (10, 5), (4, 4)])
def test_expected_jaccard_is_the_average_over_all_choices(n: int, k: int) -> None:
    true = set(range(k))
    choices = [jaccard(true, set(chosen)) for chosen in itertools.combinations(range(n), k)]
    assert expected_jaccard(n, k) == pytest.approx(sum(choices) / len(choices), rel=1e-12)


def test_expected_macro_f1_is_what_guessing_gives() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(4), [700, 200, 80, 20])
    drawn = [macro_scores(labels, rng.integers(0, 6, len(labels)))[1] for _ in range(200)]
    assert expected_macro_f1(labels, 6) == pytest.approx(np.mean(drawn), rel=0.02)


def _reference(images: np.ndarray, texts: np.ndarray, owner: np.ndarray) -> tuple[list[int], list[int]]:
    """Sorts everything, equal scores by place."""
    scores = texts @ images.T
    image_rank = [np.argsort(-row, kind="stable").tolist().index(i) for row, i in zip(scores, owner, strict=True)]
    text_rank = []
    for i in range(len(images)):
        order = np.argsort(-scores[:, i], kind="stable").tolist()
        text_rank.append(min(order.index(j) for j in np.flatnonzero(owner == i)))
    return image_rank, text_rank


@pytest.mark.parametrize("images", [1, 2, 13, 64])
@pytest.mark.parametrize("block", [1, 64, 65, 1 << 22])
def test_retrieval_ranks_in_blocks_of_any_size(images: int, block: int) -> None:
    rng = np.random.default_rng([images, block])
    owner = np.repeat(np.arange(images), rng.integers(1, 6, images))
    # small whole numbers: exact in float32 in any order, and full of ties
    image = rng.integers(-2, 3, (images, 4)).astype(np.float32)
    text = rng.integers(-2, 3, (len(owner), 4)).astype(np.float32)
    found = retrieval_ranks(torch.from_numpy(image), torch.from_numpy(text), owner, block)
    assert (found[0].tolist(), found[1].tolist()) == _reference(image, text, owner)


def test_a_model_that_tells_nothing_apart_retrieves_as_chance_does() -> None:
    same = torch.ones(20, 4)
    found = recalls(*retrieval_ranks(same, same, np.arange(20)))
    assert found["mean_recall@1"] == 1 / 20
    assert found["image_retrieval_recall@5"] == found["text_retrieval_recall@5"] == 5 / 20


def test_recalls_by_hand() -> None:
    found = recalls(np.array([0, 0, 4, 9, 10]), np.array([0, 5]))
    assert found["image_retrieval_recall@1"] == 2 / 5
    assert found["image_retrieval_recall@5"] == 3 / 5
    assert found["image_retrieval_recall@10"] == 4 / 5
    assert found["text_retrieval_recall@5"] == found["text_retrieval_recall@1"] == 0.5
    assert found["mean_recall@1"] == pytest.approx((2 / 5 + 0.5) / 2)


@pytest.mark.parametrize(
    ("owner", "words"), [([0, 1, 3], "every picture"), ([0, 0], "each caption"), ([1, 0, 2], "asc")]
)
def test_retrieval_refuses_captions_that_do_not_fit(owner: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        retrieval_ranks(torch.ones(3, 2), torch.ones(3, 2), np.array(owner))


def test_retrieval_memory_is_bounded() -> None:
    seen = []
    original = torch.Tensor.__matmul__

    class Spy(torch.Tensor):
        def __matmul__(self, other: torch.Tensor) -> torch.Tensor:
            found = original(self.as_subclass(torch.Tensor), other.as_subclass(torch.Tensor))
            seen.append(found.numel())
            return found

    image, text = torch.rand(50, 3).as_subclass(Spy), torch.rand(100, 3).as_subclass(Spy)
    retrieval_ranks(image, text, np.repeat(np.arange(50), 2), 1000)
    assert max(seen) <= 1000
    assert sum(seen) == 2 * 50 * 100


def test_cue_prompts() -> None:
    assert [cue_prompt(cue) for cue in ("Apple", "house", "Umbrella", "hour")] == [
        *("An apple", "A house", "An umbrella", "A hour")
    ]
