"""Exact thresholds by histogram passes, against sorting the whole column as DataComp does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from dcfast.errors import PoolError
from dcfast.filters import NUM_BINS, Quantile, QuantileSearch, numbers, parse_threshold, score_dtype, score_histogram
from dcfast.filters.thresholds import rows_of_fraction
from dcfast.storage.records import plain
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

FRACTIONS = st.floats(min_value=0.0, max_value=1.0, exclude_min=True)


def reference(values: np.ndarray, fraction: float) -> float:
    """DataComp's threshold: sort everything downwards, take the value at int(n * fraction)."""
    index = int(len(values) * fraction)
    if index >= len(values):
        return float("-inf")
    with np.errstate(invalid="ignore"):
        return float(-np.sort(-values)[index])


def search(values: np.ndarray, fraction: float, pieces: int = 1, dtype: str | None = None) -> QuantileSearch:
    """Runs a search over a column cut into pieces; the state goes through JSON between passes."""
    state = QuantileSearch(fraction, dtype or values.dtype.name)
    while not state.done:
        counts = np.zeros(NUM_BINS, np.uint64)
        for part in np.array_split(values, pieces):
            counts += score_histogram(part, state.prefix, dtype=state.dtype)
        state.feed(counts)
        state = QuantileSearch.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))
    return state


def same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_floats_equal_sorting(dtype: str, data: st.DataObject) -> None:
    values = data.draw(hnp.arrays(dtype, st.integers(0, 40), elements={"allow_nan": True, "allow_infinity": True}))
    fraction = data.draw(FRACTIONS)
    pieces = data.draw(st.integers(1, 5))
    found = search(values, fraction, pieces)
    expected = reference(values, fraction)
    assert same(found.threshold, expected)
    kept = values.astype(np.float64) >= found.threshold
    assert kept.tolist() == (values.astype(np.float64) >= expected).tolist()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("size", [1, 2, 65_535, 65_537, 100_003])
def test_scores_as_clip_gives_them(dtype: str, size: int) -> None:
    rng = np.random.default_rng(size)
    values = rng.normal(0.22, 0.06, size).astype(dtype)
    values[rng.random(size) < 0.05] = np.nan
    for fraction in (1e-9, 0.1, 0.3, 0.5, 0.9):
        found = search(values, fraction, pieces=3)
        assert same(found.threshold, reference(values, fraction))
        assert found.num_rows == size


def test_ties_zeros_and_infinities_are_exact() -> None:
    values = np.array([0.0, -0.0, np.inf, -np.inf, 0.5, 0.5, 0.5, np.nan, -1e-45, 1e-45], np.float32)
    for index in range(len(values)):
        fraction = (index + 0.5) / len(values)
        assert same(search(values, fraction).threshold, reference(values, fraction)), index
    zero = search(np.array([-0.0, -0.0], np.float32), 0.5).threshold
    assert zero == 0.0
    assert np.copysign(1, zero) == 1  # the same bytes whichever zero came first


def test_adjacent_floats_are_told_apart() -> None:
    base = np.float64(0.3)
    values = np.array([base, np.nextafter(base, 1), np.nextafter(base, 0)])
    assert search(values, 0.34).threshold == base
    assert search(values, 0.01).threshold == np.nextafter(base, 1)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_fraction_one_keeps_every_score(size: int) -> None:
    found = search(np.full(size, 0.25, np.float32), 1.0)
    assert found.keeps_all
    assert found.threshold == float("-inf")
    assert parse_threshold(found.threshold_text) == float("-inf")


def test_too_few_scores_keep_nothing_and_say_so() -> None:
    values = np.array([0.3, np.nan, np.nan, np.nan], np.float32)
    found = search(values, 0.5)
    assert found.missing_scores
    assert np.isnan(parse_threshold(found.threshold_text))
    assert not search(values, 0.1).missing_scores


def test_threshold_text_is_exact() -> None:
    found = search(np.array([0.1, 0.2], np.float32), 0.5)
    assert parse_threshold(found.threshold_text) == float(np.float32(0.1))
    assert parse_threshold(0.25) == 0.25


def test_files_of_different_width_share_a_search() -> None:
    narrow, wide = np.array([0.1, 0.3], np.float32), np.array([0.2, float(np.float32(0.3))], np.float64)
    state = QuantileSearch(0.5, score_dtype([pa.float32(), pa.float64()]))
    while not state.done:
        state.feed(sum(score_histogram(part, state.prefix, dtype=state.dtype) for part in (narrow, wide)))
    assert state.threshold == reference(np.concatenate([narrow.astype(np.float64), wide]), 0.5)


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ([pa.float16()], "float16"),
        ([pa.float16(), pa.float32(), pa.null()], "float32"),
        ([pa.float32(), pa.int64()], "float64"),
        ([], "float16"),
    ],
)
def test_score_dtype(types: list[pa.DataType], expected: str) -> None:
    assert score_dtype(types) == expected


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.int32()])
def test_numbers_makes_null_nan(kind: pa.DataType) -> None:
    convert = np.float16 if kind == pa.float16() else float if pa.types.is_floating(kind) else int
    column = pa.array([convert(1), None, convert(3)], kind)
    values = numbers(column)
    assert np.isnan(values[1])
    assert values[[0, 2]].tolist() == [1, 3]
    assert numbers(pa.nulls(2)).dtype == np.float32


def test_metadata_that_changes_between_passes_is_noticed() -> None:
    values = np.linspace(0, 1, 100, dtype=np.float32)
    state = QuantileSearch(0.3, "float32")
    state.feed(score_histogram(values))
    counts = score_histogram(values, state.prefix)
    counts[0] += 1
    with pytest.raises(PoolError, match="metadata changed while it was read"):
        state.feed(counts)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="1-D array of numbers; got float32 \\(2, 2\\)"):
        score_histogram(np.zeros((2, 2), np.float32))
    with pytest.raises(TypeError, match="1-D array of numbers"):
        score_histogram(np.array(["a"]))
    with pytest.raises(TypeError, match="float16, float32, float64; got int64"):
        score_histogram(np.array([1]))
    with pytest.raises(ValueError, match="shorter than 2 bins; got 2"):
        score_histogram(np.zeros(1, np.float32), [1, 2])
    for fraction in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="fraction must be in"):
            QuantileSearch(fraction, "float32")
    with pytest.raises(ValueError, match="dtype must be one of"):
        QuantileSearch(0.5, "int8")
    state = QuantileSearch(0.5, "float16")
    with pytest.raises(ValueError, match="not done"):
        _ = state.threshold
    with pytest.raises(ValueError, match="shape"):
        state.feed(np.zeros(3, np.uint64))
    state.feed(score_histogram(np.ones(4, np.float16)))
    with pytest.raises(ValueError, match="done already"):
        state.feed(np.zeros(NUM_BINS, np.uint64))


def test_quantile_keys_differ_where_quantiles_do() -> None:
    assert Quantile("a", 0.3).key == Quantile("a", 0.30).key
    assert len({Quantile("a", 0.3).key, Quantile("b", 0.3).key, Quantile("a", 0.1 + 0.2).key}) == 3


def test_histogram_memory_does_not_grow_with_the_column(tmp_path: Path) -> None:
    # a column on disk of more rows than are held at once
    column = np.lib.format.open_memmap(tmp_path / "scores.npy", mode="w+", dtype=np.float32, shape=(2_500_003,))
    column[:] = np.random.default_rng(0).normal(0.2, 0.05, len(column)).astype(np.float32)
    assert search(column, 0.3).threshold == reference(np.asarray(column), 0.3)


def test_a_search_is_the_same_argument_of_pieces_as_ever() -> None:
    """It stands in the keys of pieces: another form would have the passes of every older run done again."""
    assert plain(QuantileSearch(0.3, "float32")) == {
        **{"fraction": 0.3, "dtype": "float32", "prefix": [], "num_rows": -1},
        **{"keeps_all": False, "rank": 0, "expected": -1},
    }


@pytest.mark.parametrize(("rows", "fraction"), [(100, 0.29), (100, 0.3), (7, 0.5), (3, 1.0), (1, 0.01), (0, 0.5)])
def test_rows_of_a_fraction_are_those_a_threshold_keeps(rows: int, fraction: float) -> None:
    scores = np.arange(rows, dtype=np.float16)
    assert rows_of_fraction(rows, fraction) == np.count_nonzero(scores >= search(scores, fraction).threshold)
