"""topk, assign, row_max, join, any_above, group_join against the obvious search in float64."""

from __future__ import annotations

import dcfast
import numpy as np
import pytest
import torch
from dcfast.similarity import Database
from similarity_oracle import all_scores, clustered

METRICS = ["ip", "cos", "l2"]
THRESHOLD = {"ip": 0.6, "cos": 0.6, "l2": 0.8}


def check_topk(found, a: np.ndarray, b: np.ndarray, k: int, metric: str) -> None:
    scores = all_scores(a, b, metric)
    keys = scores if metric == "l2" else -scores
    order = np.argsort(keys, axis=1, kind="stable")[:, :k]
    expected = np.take_along_axis(scores, order, axis=1)
    assert found.scores.dtype == np.float32
    assert found.indices.dtype == np.int64
    np.testing.assert_allclose(found.scores, expected, rtol=3e-7, atol=1e-9)
    np.testing.assert_allclose(np.take_along_axis(scores, found.indices, axis=1), expected, rtol=3e-7, atol=1e-9)
    ties = found.scores[:, :-1] == found.scores[:, 1:]
    assert (found.indices[:, :-1] < found.indices[:, 1:])[ties].all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (5, 40, 3), (67, 133, 33), (300, 1000, 64)])
def test_topk(n: int, m: int, d: int, metric: str) -> None:
    a, b = clustered(n, d, 1), clustered(m, d, 2)
    for k in {1, min(10, m), m}:
        check_topk(dcfast.topk(a, b, k, metric=metric), a, b, k, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "m", "d"), [(0, 5, 3), (5, 0, 3), (5, 40, 3), (67, 133, 33), (300, 1000, 64)])
def test_join(n: int, m: int, d: int, metric: str) -> None:
    a, b = clustered(n, d, 1), clustered(m, d, 2)
    found = dcfast.join(a, b, THRESHOLD[metric], metric=metric)
    scores = all_scores(a, b, metric)
    limit = np.float32(THRESHOLD[metric])
    ia, ib = np.nonzero(scores <= limit if metric == "l2" else scores >= limit)
    assert np.array_equal(found.ia, ia)
    assert np.array_equal(found.ib, ib)
    np.testing.assert_allclose(found.scores, scores[ia, ib], rtol=3e-7, atol=1e-9)
    any_found = dcfast.any_above(a, b, THRESHOLD[metric], metric=metric)
    assert np.array_equal(np.flatnonzero(any_found), np.unique(ia))


@pytest.mark.parametrize("metric", METRICS)
def test_self_is_excluded(metric: str) -> None:
    x = clustered(150, 20, 3)
    found = dcfast.topk(x, x, 3, metric=metric, exclude_self=True)
    assert (found.indices != np.arange(150)[:, None]).all()
    pairs = dcfast.join(x, x, THRESHOLD[metric], metric=metric, exclude_self=True)
    every = dcfast.join(x, Database(x, metric), THRESHOLD[metric])
    assert len(every.ia) == len(pairs.ia) + 150
    assert (pairs.ia != pairs.ib).all()


def test_row_max_of_magnitudes() -> None:
    a, b = clustered(50, 16, 1), -clustered(60, 16, 2)
    scores = all_scores(a, b, "ip")
    np.testing.assert_allclose(dcfast.row_max(a, b), scores.max(axis=1), rtol=3e-7)
    np.testing.assert_allclose(dcfast.row_max(a, b, absolute=True), np.abs(scores).max(axis=1), rtol=3e-7)


def test_assign_takes_the_lowest_of_equals() -> None:
    centers = np.repeat(clustered(2, 8, 4), 50, axis=0)
    found = dcfast.assign(centers, centers, metric="l2")
    assert found.indices.tolist() == [0] * 50 + [50] * 50
    assert found.scores.tolist() == [0.0] * 100


def test_group_join() -> None:
    x = clustered(120, 16, 6)
    offsets = [0, 0, 30, 31, 120]
    found = dcfast.group_join(x, offsets, 0.6)
    scores = all_scores(x, x, "ip") >= np.float32(0.6)
    group = np.repeat([1, 2, 3], [30, 1, 89])
    ia, ib = np.nonzero(np.triu(scores & (group[:, None] == group), 1))
    assert np.array_equal(found.ia, ia)
    assert np.array_equal(found.ib, ib)


@pytest.mark.parametrize("threads", [1, 3])
def test_pairs_of_all_groups_are_bounded_together(threads: int) -> None:
    x, offsets = np.ones((400, 4), np.float32), np.arange(0, 401, 4)  # 6 pairs a group
    assert len(dcfast.group_join(x, offsets, 0.5, max_pairs=600, threads=threads).ia) == 600
    with pytest.raises(ValueError, match="more than max_pairs=599 pairs"):
        dcfast.group_join(x, offsets, 0.5, max_pairs=599, threads=threads)


@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_narrow_inputs(dtype: type) -> None:
    a, b = clustered(40, 24, 1, dtype), clustered(90, 24, 2, dtype)
    check_topk(dcfast.topk(a, b, 5), a, b, 5, "ip")


def test_bfloat16_tensors() -> None:
    a, b = (torch.from_numpy(clustered(n, 24, n)).to(torch.bfloat16) for n in (40, 90))
    found = dcfast.topk(a, b, 5, metric="cos")
    assert isinstance(found.scores, torch.Tensor)
    scores, indices = (t.numpy() for t in found)
    check_topk(dcfast.similarity.TopK(scores, indices), a.float().numpy(), b.float().numpy(), 5, "cos")


def test_rows_that_are_not_finite() -> None:
    a, b = clustered(20, 8, 1), clustered(30, 8, 2)
    b[7, 3], a[4, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match="queries row 4 is not finite"):
        dcfast.topk(a, b, 2)
    with pytest.raises(ValueError, match="database row 7 is not finite"):
        dcfast.topk(a[:3], b, 2)
    found = dcfast.topk(a, b, 30, invalid="skip")
    assert (found.indices != 7).all()
    assert (found.indices[4] == -1).all()
    assert (found.scores[4] == -np.inf).all()
    a[2] = 0
    with pytest.raises(ValueError, match="a row 2 is zero"):
        dcfast.join(a[:3], b, 0.5, metric="cos")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: dcfast.topk(a, a, 0), ValueError, "k must be 1 to the 10 rows"),
        (lambda a: dcfast.topk(a, a, 11), ValueError, "k must be 1 to the 10 rows"),
        (lambda a: dcfast.topk(a, a, 10, exclude_self=True), ValueError, "k must be 1 to the 9 rows"),
        (lambda a: dcfast.topk(a, a[:0], 1), ValueError, "k must be 1 to the 0 rows"),
        (lambda a: dcfast.topk(a, a[:, :3], 1), ValueError, "queries has 4 columns and database 3"),
        (lambda a: dcfast.topk(a.astype(np.float64), a, 1), TypeError, "queries must be float32"),
        (lambda a: dcfast.topk(a[0], a, 1), ValueError, "queries must have shape"),
        (lambda a: dcfast.topk([[1.0]], a, 1), TypeError, "queries must be an array"),
        (lambda a: dcfast.topk(a, a, 1, metric="dot"), ValueError, "metric must be"),
        (lambda a: dcfast.topk(a, Database(a, "cos"), 1, metric="l2"), ValueError, "was prepared for 'cos'"),
        (lambda a: dcfast.join(a, a, float("nan")), ValueError, "threshold must be a number"),
        (lambda a: dcfast.join(a, a, -9.0, max_pairs=5), ValueError, "more than max_pairs=5 pairs"),
        (lambda a: dcfast.join(a, a, 0.5, max_pairs=-1), ValueError, "max_pairs must not be negative"),
        (lambda a: dcfast.group_join(a, [0, 10], 0.5, max_pairs=-1), ValueError, "max_pairs must not be negative"),
        (lambda a: dcfast.group_join(a, [0, 5], 0.5), ValueError, "offsets must rise"),
        (lambda a: dcfast.group_join(a, [0, 10], 0.5, metric=""), ValueError, "metric must be"),
        (lambda a: dcfast.topk(a, a, 1, metric=""), ValueError, "metric must be"),
        (lambda a: dcfast.assign(a, a.astype(np.float64)), TypeError, "centers must be float32"),
        (lambda a: dcfast.join(a, a[0], 0.5), ValueError, "b must have shape"),
        (lambda a: dcfast.row_max(a, a, metric="l2", absolute=True), ValueError, "no meaning for 'l2'"),
    ],
)
def test_bad_arguments(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(clustered(10, 4, 1))
