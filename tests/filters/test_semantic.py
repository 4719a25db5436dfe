"""SemDeDup and density-based pruning against slow versions written from their papers."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from dcfast.filters import semantic
from dcfast.filters.semantic import cluster_complexity, cluster_sizes, distance_to_earlier, farthest_first
from hypothesis import given
from hypothesis import strategies as st


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("n", [0, 1, 2, 9, 40])
def test_distance_to_earlier(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "_TILE", 8)
    items = unit(np.random.default_rng(n).normal(size=(n, 5)))
    got = distance_to_earlier(items)
    for i in range(n):
        expected = 1 - max((float(items[i] @ items[j]) for j in range(i)), default=-1.0)
        assert got[i] == pytest.approx(expected, abs=1e-6)


def test_a_pair_of_one_picture_loses_the_nearer_to_the_centroid() -> None:
    cosines = np.array([0.9, 0.5, 0.7, 0.5])
    assert farthest_first(cosines).tolist() == [1, 3, 2, 0]


def slow_sizes(complexity: np.ndarray, sizes: np.ndarray, total: int, tau: float) -> np.ndarray:
    """The quadratic programme by its optimality conditions: all subsets of clusters at a bound."""
    import itertools

    p = np.where(sizes > 0, np.exp((complexity - complexity.max()) / tau), 0)
    wanted, low = total * p / p.sum(), np.minimum(sizes, 1)
    best, answer = np.inf, low.astype(float)
    for states in itertools.product((0, 1, 2), repeat=len(sizes)):
        x = np.array([low[i] if s == 0 else sizes[i] if s == 1 else 0 for i, s in enumerate(states)], float)
        free = [i for i, s in enumerate(states) if s == 2]
        rest = total - x.sum()
        if free:
            x[free] = wanted[free] + (rest - wanted[free].sum()) / len(free)
        elif abs(rest) > 1e-9:
            continue
        if (x >= low - 1e-9).all() and (x <= sizes + 1e-9).all():
            cost = float(np.square(x - wanted).sum())
            if cost < best - 1e-12:
                best, answer = cost, x
    return answer


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30)), min_size=1, max_size=4),
    st.integers(1, 60),
    st.sampled_from([0.05, 0.5, 5.0]),
)
def test_sizes_solve_the_quadratic_programme(clusters: list[tuple[float, int]], total: int, tau: float) -> None:
    complexity = np.array([c for c, _ in clusters])
    sizes = np.array([s for _, s in clusters], np.int64)
    if not sizes.sum():
        assert cluster_sizes(complexity, sizes, total, tau).tolist() == [0] * len(sizes)
        return
    got = cluster_sizes(complexity, sizes, total, tau)
    total = int(min(max(total, np.minimum(sizes, 1).sum()), sizes.sum()))
    assert got.sum() == total
    assert (got >= np.minimum(sizes, 1)).all()
    assert (got <= sizes).all()
    assert np.abs(got - slow_sizes(complexity, sizes, total, tau)).max() < 1 + 1e-6


@pytest.mark.parametrize("tile", [1, 3, 1024])
def test_complexity_is_of_the_nearest_others(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "NEIGHBOURS", 2)
    monkeypatch.setattr(semantic, "_CENTROIDS", tile)
    centroids = unit(np.random.default_rng(0).normal(size=(5, 3)))
    distances = 1 - centroids @ centroids.T
    expected = [np.sort(np.delete(distances[i], i))[:2].mean() * (i + 1) for i in range(5)]
    assert np.allclose(cluster_complexity(np.arange(1.0, 6.0), centroids), expected)
    assert cluster_complexity(np.array([0.3]), centroids[:1]).tolist() == [0.0]


def test_complexity_takes_memory_in_tiles() -> None:
    centroids = np.random.default_rng(0).normal(size=(3_000, 4)).astype(np.float32)
    tracemalloc.start()
    cluster_complexity(np.ones(3_000), centroids)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 << 20  # 8 k^2 are 72 MB
