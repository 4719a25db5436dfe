"""Copies drawn by score, against the distribution of the algorithm as it is written down, and the term ``sample``."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dcfast.errors import FilterError
from dcfast.filters import compile_filter, draw_copies
from dcfast.filters.files import move_files, named_files
from dcfast.filters.sampling import Sampling
from dcfast.filters.term import DRAWN
from dcfast.uids.sets import uid_parse, uid_sort

Copies = tuple[int, ...]


def ordered_draws(weights: list[float], count: int) -> dict[frozenset[int], float]:
    """Chance of each set of rows that ``count`` draws without replacement give, by all orders."""
    chances: dict[frozenset[int], float] = {frozenset(): 1.0}
    for _ in range(count):
        longer: dict[frozenset[int], float] = defaultdict(float)
        for drawn, chance in chances.items():
            left = {i: w for i, w in enumerate(weights) if i not in drawn}
            for i, weight in left.items():
                longer[drawn | {i}] += chance * weight / sum(left.values())
        chances = longer
    return chances


def soft_capped(scores: list[float], total: int, penalty: float, draw: int) -> dict[Copies, float]:
    """FLYT's soft cap, literally: softmax, a round without replacement, the drawn scores lowered."""
    states: dict[Copies, float] = {(0,) * len(scores): 1.0}
    while total:
        later: dict[Copies, float] = defaultdict(float)
        for copies, chance in states.items():
            weights = [math.exp(s - c * penalty) for s, c in zip(scores, copies, strict=True)]
            for drawn, share in ordered_draws(weights, min(draw, total)).items():
                later[tuple(c + (i in drawn) for i, c in enumerate(copies))] += chance * share
        states, total = later, total - min(draw, total)
    return states


def hard_capped(scores: list[float], total: int, most: int) -> dict[Copies, float]:
    """One after the other with replacement, none more than ``most`` times."""
    states: dict[Copies, float] = {(0,) * len(scores): 1.0}
    for _ in range(total):
        later: dict[Copies, float] = defaultdict(float)
        for copies, chance in states.items():
            weights = [math.exp(s) if c < most else 0.0 for s, c in zip(scores, copies, strict=True)]
            for i, weight in enumerate(weights):
                if weight:
                    later[tuple(c + (i == j) for j, c in enumerate(copies))] += chance * weight / sum(weights)
        states = later
    return states


def chi_square(expected: dict[Copies, float], seen: Counter[Copies]) -> tuple[float, int]:
    """The statistic and its degrees of freedom; outcomes that are expected less than 20 times count as one."""
    trials = seen.total()
    assert set(seen) <= set(expected), "an outcome that the algorithm cannot have"
    common = [key for key, chance in expected.items() if chance * trials >= 20]
    cells = [(seen[key], expected[key] * trials) for key in common]
    rest = trials - sum(want for _, want in cells)
    if rest > 1:
        cells.append((trials - sum(got for got, _ in cells), rest))
    return sum((got - want) ** 2 / want for got, want in cells), len(cells) - 1


CASES: list[tuple[list[float], dict[str, Any]]] = [
    ([0.0, 0.0, 0.0], {"total": 4, "soft_cap": 0.15, "draw": 2}),
    ([1.5, 0.2, -0.7, -2.0], {"total": 7, "soft_cap": 0.4, "draw": 3}),  # the last round is of one row
    ([3.0, 0.0, -0.1, -4.0, 1.0], {"total": 6, "soft_cap": 2.5, "draw": 2}),  # rows sink over several classes
    ([0.3, 0.0], {"total": 5, "soft_cap": 0.15, "draw": 1}),
    ([1.0, 0.5, 0.0, -1.0], {"total": 6, "hard_cap": 3}),
    ([4.0, 0.0, -0.5], {"total": 5, "hard_cap": 2}),
]


@pytest.mark.parametrize(("scores", "how"), CASES)
def test_draws_have_the_chances_of_the_algorithm(scores: list[float], how: dict[str, Any]) -> None:
    if "hard_cap" in how:
        expected = hard_capped(scores, how["total"], how["hard_cap"])
    else:
        expected = soft_capped(scores, how["total"], how["soft_cap"], how["draw"])
    assert sum(expected.values()) == pytest.approx(1.0)
    seen = Counter(tuple(draw_copies(np.array(scores), seed=seed, **how).tolist()) for seed in range(20_000))
    statistic, freedom = chi_square(expected, seen)
    # the seeds are given, so this is no chance; five standard deviations hold for any sound generator
    assert statistic < freedom + 5 * math.sqrt(2 * freedom), (statistic, freedom)


def test_the_statistic_sees_a_wrong_algorithm() -> None:
    scores, how = CASES[1]
    wrong = soft_capped(scores, how["total"], how["soft_cap"] * 1.5, how["draw"])
    seen = Counter(tuple(draw_copies(np.array(scores), seed=seed, **how).tolist()) for seed in range(20_000))
    statistic, freedom = chi_square(wrong, seen)
    assert statistic > freedom + 10 * math.sqrt(2 * freedom)


def test_the_numbers_are_numpys_philox_keyed_by_seed_and_round() -> None:
    """Of equal scores a row is taken by one number: the second of a block, a block a draw."""
    count, total, seed, draw = 1_000, 250_000, 77, 100_000  # rounds of a hard cap are 100,000 draws
    copies = draw_copies(np.zeros(count), total, hard_cap=100_000, seed=seed)
    expected = np.zeros(count, np.int64)
    for turn, first in enumerate(range(0, total, draw)):
        bits = np.random.Philox(key=[seed, turn], counter=[2**64 - 1] * 4)  # it counts before it draws
        words = bits.random_raw(4 * min(draw, total - first)).reshape(-1, 4)[:, 1]
        rows = np.array([int(word) * count >> 64 for word in words[:2_000].tolist()])
        expected += np.bincount(rows, minlength=count)
        everyone = ((words >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)  # but for the lowest bits
        expected += np.bincount(everyone[2_000:].astype(np.int64), minlength=count)
    assert np.abs(copies - expected).sum() <= 4
    assert copies.sum() == total


def test_copies_are_the_same_everywhere() -> None:
    rng = np.random.default_rng(9)
    scores = np.round(rng.normal(0.0, 3.0, 20_000), 6)
    soft = draw_copies(scores, 60_000, soft_cap=0.15, draw=1_000, seed=3)
    hard = draw_copies(scores.astype(np.float32), 60_000, hard_cap=15, seed=3)
    digests = [hashlib.sha256(copies.astype("<u4").tobytes()).hexdigest()[:16] for copies in (soft, hard)]
    assert digests == ["32b4d29e80adb7ad", "7215fc07bd1e637d"]
    assert (soft.sum(), hard.sum(), hard.max()) == (60_000, 60_000, 15)
    assert not np.array_equal(soft, draw_copies(scores, 60_000, soft_cap=0.15, draw=1_000, seed=4))
    assert np.corrcoef(scores, np.log1p(soft))[0, 1] > 0.8


def literal(scores: np.ndarray, total: int, penalty: float, draw: int, seed: int) -> np.ndarray:
    """The soft cap as it is published, by NumPy."""
    rng, copies = np.random.default_rng(seed), np.zeros(len(scores), np.int64)
    while total:
        weights = np.exp(scores - copies * penalty)
        drawn = rng.choice(len(scores), min(draw, total), replace=False, p=weights / weights.sum())
        copies[drawn] += 1
        total -= len(drawn)
    return copies


def test_many_rows_have_the_copies_of_the_literal_algorithm() -> None:
    scores = np.sort(np.random.default_rng(2).normal(0.0, 2.0, 3_000))
    ours = np.mean([draw_copies(scores, 30_000, soft_cap=0.3, draw=300, seed=s) for s in range(12)], axis=0)
    theirs = np.mean([literal(scores, 30_000, 0.3, 300, s) for s in range(12)], axis=0)
    bins = np.array_split(np.arange(3_000), 30)
    means = np.array([(ours[rows].mean(), theirs[rows].mean()) for rows in bins])
    assert means[-1, 0] > 20 * means[0, 0]
    np.testing.assert_allclose(means[:, 0], means[:, 1], rtol=0.06, atol=0.06)


@pytest.mark.parametrize(
    ("scores", "how"),
    [
        (np.zeros(7), {"total": 70, "soft_cap": 0.15, "draw": 7}),  # every row in every round
        (np.array([1e4, 0.0, -3e4]), {"total": 9, "soft_cap": 64.0, "draw": 3}),  # most of it beyond any float
        (np.array([1e4, 0.0, -3e4]), {"total": 6, "hard_cap": 2}),
        (np.linspace(0, 40, 500), {"total": 1_500, "hard_cap": 3}),
        (np.array([5.0]), {"total": 100, "soft_cap": 0.01, "draw": 1}),
    ],
)
def test_what_is_forced_is_drawn(scores: np.ndarray, how: dict[str, Any]) -> None:
    copies = draw_copies(scores, **how)
    assert copies.tolist() == [how["total"] // len(scores)] * len(scores)


def test_heavy_rows_are_not_met_again_in_a_round() -> None:
    scores = np.concatenate([[500.0, 400.0, 300.0], np.zeros(1_000)])
    copies = draw_copies(scores, 1_000, soft_cap=0.15, draw=10)
    assert copies[:3].tolist() == [100] * 3  # once in each of the 100 rounds
    assert copies[3:].sum() == 700
    assert copies[3:].max() < 10


@pytest.mark.parametrize(
    ("scores", "how", "message"),
    [
        ([0.0, np.nan], {"total": 1, "hard_cap": 1}, "row 1 is not: leave it out"),
        ([0.0, np.inf], {"total": 1, "hard_cap": 1}, "must be finite"),
        ([0.0, 1e6], {"total": 1, "hard_cap": 1}, "within 45000 .* divide them by a temperature"),
        ([], {"total": 1, "hard_cap": 1}, "at least one row"),
        ([0.0] * 3, {"total": 10, "hard_cap": 3}, "at most 3 rows x 3 copies; got 10"),
        ([0.0] * 3, {"total": 30_001, "soft_cap": 1.0, "draw": 1}, "at most 3 rows x 10000 copies"),
        ([0.0] * 3, {"total": 10, "soft_cap": 1.0, "draw": 4}, "draw must be at most the 3 rows; got 4"),
        ([0.0] * 3, {"total": 10, "soft_cap": 1.0}, "draw must be at most the 3 rows; got 100000"),
        ([0.0] * 3, {"total": 0, "hard_cap": 3}, "total must be 1 to"),
        ([0.0] * 3, {"total": 1, "hard_cap": 0}, "hard_cap must be 1 to"),
        ([0.0] * 3, {"total": 1, "soft_cap": 0.0}, "soft_cap must be above 0"),
        ([0.0] * 3, {"total": 1, "soft_cap": float("nan")}, "soft_cap must be above 0"),
        ([0.0] * 3, {"total": 1}, "one of them; got neither"),
        ([0.0] * 3, {"total": 1, "soft_cap": 1.0, "hard_cap": 1}, "one of them; got both"),
        ([0.0] * 3, {"total": 1, "hard_cap": 1, "seed": -1}, "seed must be 0 to"),
    ],
)
def test_draws_that_are_refused(scores: list[float], how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_copies(np.array(scores, np.float64), **how)


def test_scores_must_be_floats() -> None:
    for scores in (np.arange(3), np.zeros((2, 2)), ["a"]):
        with pytest.raises(TypeError, match="1-D array of floats"):
            draw_copies(scores, 1, hard_cap=1)


SAMPLE = 'sample(score("s.parquet"), soft_cap=0.15, total=128000000, seed=0)'


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (SAMPLE, SAMPLE),
        ("sample(score('s.parquet'),total=1.28e8,soft_cap=.15)", SAMPLE),
        (f"words >= 5 & {SAMPLE} & ~contaminated", f"words >= 5 & {SAMPLE} & ~contaminated"),
        (f"({SAMPLE})", SAMPLE),
        (
            "sample(clip_score(l14), temperature=0.01, hard_cap=3, total=9)",
            "sample(column(clip_l14_similarity_score), hard_cap=3, total=9, seed=0, temperature=0.01)",
        ),
        (
            'sample(mix(0.5 * score("a"), column(b), normalize=rank), hard_cap=3, total=9)',
            'sample(mix(0.5 * score("a"), column(b), normalize=rank), hard_cap=3, total=9, seed=0)',
        ),
        (
            'sample(score("s", column="a b"), hard_cap=15, total=9, seed=4, temperature=0.5)',
            'sample(score("s", column="a b"), hard_cap=15, total=9, seed=4, temperature=0.5)',
        ),
        (
            'sample(score("s"), soft_cap=1, total=9, draw=3, temperature=1)',
            'sample(score("s"), soft_cap=1.0, total=9, seed=0, draw=3)',
        ),
    ],
)
def test_the_term_and_its_canonical_text(text: str, canonical: str) -> None:
    compiled = compile_filter(text)
    assert str(compiled) == canonical
    assert compile_filter(canonical) == compiled
    assert isinstance(compiled.sampling, Sampling)
    assert [file.key for file in compiled.scores] == [compiled.sampling.source.key]
    assert compiled.reasons[-1] == compiled.sampling.text


def test_candidates_are_what_the_rest_lets_pass() -> None:
    compiled = compile_filter(f"words >= 2 & {SAMPLE} & characters >= 4")
    assert str(compiled.candidates) == "words >= 2 & characters >= 4"
    assert compiled.candidates.reasons == compiled.reasons[:-1]
    assert str(compile_filter(SAMPLE).candidates) == "no_filter"
    plain = compile_filter("words >= 2")
    assert plain.candidates is plain
    assert (
        str(compile_filter(f"(words >= 2 | characters >= 4) & {SAMPLE}").candidates) == "words >= 2 | characters >= 4"
    )
    batch = pa.RecordBatch.from_pydict({"text": ["a b cd", "a", "bc de f"]})
    uids = uid_parse(["1" * 32, "2" * 32, "3" * 32])[0]
    codes = compiled.evaluate(batch, uid_sets={DRAWN: uid_sort(uids[2:])}, uids=uids)
    assert [compiled.reasons[code] for code in codes] == [compiled.sampling.text, "words >= 2", "kept"]


def test_its_files_are_the_expressions() -> None:
    assert named_files(f"words >= 2 & {SAMPLE}") == ["s.parquet"]
    assert move_files(SAMPLE, lambda path: f"/x/{path}") == SAMPLE.replace("s.parquet", "/x/s.parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"~{SAMPLE}", "has no opposite; put ~ on the filters before it"),
        (f"~(words >= 2 & {SAMPLE})", "has no opposite"),
        (f"words >= 2 | {SAMPLE}", r"cannot be an alternative; draw among what either passes: \(A \| B\) & sample"),
        (f"words >= 2 & ({SAMPLE} | words >= 9)", "cannot be an alternative"),
        (f"{SAMPLE} & {SAMPLE.replace('0.15', '0.2')}", "one sample.* an expression"),
        ("sample(soft_cap=0.15, total=9)", "needs a score first"),
        ('sample("s.parquet", soft_cap=0.15, total=9)', "needs a score first"),
        ('sample(2 * score("s"), soft_cap=0.15, total=9)', "needs a score first"),
        ("sample(words(), soft_cap=0.15, total=9)", "'words' is no score"),
        ("sample(column(a) >= 3, soft_cap=0.15, total=9)", "expected , or"),
        ('sample(score("s", fraction=0.3), soft_cap=0.15, total=9)', "score has no argument 'fraction'"),
        ('sample(score("s"), total=9)', "soft_cap=.*or hard_cap=.*; got neither"),
        ('sample(score("s"), total=9, soft_cap=1, hard_cap=2)', "got both; give one of them"),
        ('sample(score("s"), soft_cap=0.15)', "needs total="),
        ('sample(score("s"), soft_cap=0, total=9)', "soft_cap must be above 0 and at most 64"),
        ('sample(score("s"), soft_cap=-0.1, total=9)', "soft_cap must be above 0"),
        ('sample(score("s"), hard_cap=1.5, total=9)', "hard_cap must be a whole number"),
        ('sample(score("s"), hard_cap=0, total=9)', "hard_cap must be a whole number, 1 to"),
        ('sample(score("s"), hard_cap=2, total=0)', "total must be a whole number, 1 to"),
        ('sample(score("s"), hard_cap=2, total=9, draw=3)', "leave it out with hard_cap"),
        ('sample(score("s"), hard_cap=2, total=9, seed=-1)', "seed must be a whole number"),
        ('sample(score("s"), hard_cap=2, total=9, temperature=0)', "temperature must be above 0"),
        ('sample(score("s"), hard_cap=2, total=9, caps=1)', "no argument 'caps'; did you mean"),
        (f"{SAMPLE} >= 2", "is true or false, and not compared"),
        ('uids(score("s"))', "uids takes no filter or score as an argument"),
        ("clip_score(words(), fraction=0.3)", "clip_score takes no filter or score"),
    ],
)
def test_samples_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        compile_filter(text)
