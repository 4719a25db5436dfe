"""k-means against a slow version in float64, one point at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dcfast._core.similarity import CentroidSums
from dcfast.similarity import centroids as module
from dcfast.similarity import nearest
from dcfast.similarity.centroids import initial_centroids, kmeans, kmeans_iteration
from dcfast.similarity.nearest import Floats, Metric, NearestCentroids

DEVICES = ["cpu", "cpu:0"]
"""Exact scores of the core, and torch's products, which GPUs have."""


def unit(n: int, d: int, seed: int = 0, dtype: type = np.float16) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


def nearest_centroids(points: Floats, centroids: Floats, **options: Any) -> npt.NDArray[np.int32]:
    return NearestCentroids(centroids, **options)(points)


def slow_nearest(points: np.ndarray, centroids: np.ndarray, metric: str) -> list[int]:
    labels = []
    for point in points.astype(np.float64):
        best, where = -np.inf, -1
        for i, centroid in enumerate(centroids.astype(np.float64)):
            score = point @ centroid if metric == "ip" else -((point - centroid) ** 2).sum()
            if score > best:
                best, where = score, i
        labels.append(where)
    return labels


def slow_iteration(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, list[int], float]:
    labels = slow_nearest(points, centroids, "l2")
    new, counts, error = centroids.astype(np.float64), [], 0.0
    for i in range(len(centroids)):
        mine = [p for p, label in zip(points.astype(np.float64), labels, strict=True) if label == i]
        counts.append(len(mine))
        error += sum(float(((p - centroids[i].astype(np.float64)) ** 2).sum()) for p in mine)
        if mine:
            new[i] = np.sum(mine, axis=0) / len(mine)
    return new, counts, error / len(points)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_TILE", {"cpu": (8, 5), "cuda": (8, 5)})
    monkeypatch.setattr(module, "_TILE_ROWS", 8)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 31])
@pytest.mark.parametrize("k", [1, 4, 5, 6, 13])
@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("device", DEVICES)
def test_nearest_is_the_slow_answer(n: int, k: int, metric: Metric, device: str, small_tiles: None) -> None:
    points, centroids = unit(n, 6, seed=n), unit(k, 6, seed=100 + k, dtype=np.float32) * 0.8
    expected = slow_nearest(points, centroids, metric)
    assert nearest_centroids(points, centroids, metric=metric, device=device).tolist() == expected
    find = NearestCentroids(centroids, metric=metric, device=device, threads=1)
    assert [find(points).tolist() for _ in range(2)] == [expected] * 2


@pytest.mark.parametrize("device", DEVICES)
def test_ties_go_to_the_lowest_index(device: str, small_tiles: None) -> None:
    centroids = np.repeat(unit(2, 4), 8, axis=0)  # 0..7 are one point, 8..15 the other; over several tiles
    assert nearest_centroids(unit(2, 4), centroids, device=device).tolist() == [0, 8]


@pytest.mark.parametrize("device", DEVICES)
def test_points_without_embedding_have_no_centroid(device: str) -> None:
    points = unit(5, 3)
    points[1], points[2, 0], points[3, 1] = 0, np.nan, np.inf
    labels = nearest_centroids(points, unit(2, 3, 5), device=device)
    assert labels[[1, 2, 3]].tolist() == [-1, -1, -1]
    assert (labels[[0, 4]] >= 0).all()


def test_the_processor_needs_no_torch() -> None:
    code = (
        "import sys, numpy as np; from dcfast.similarity.nearest import NearestCentroids;"
        "print(NearestCentroids(np.eye(3, dtype=np.float32))(np.eye(3, dtype=np.float16)).tolist());"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[0, 1, 2]\n"


@pytest.mark.parametrize("n", [1, 7, 8, 9, 53])
def test_an_iteration_is_the_slow_one(n: int, small_tiles: None) -> None:
    points = unit(n, 5, seed=n)
    k = min(n, 6)
    before = initial_centroids([points], k)
    new, counts, error = kmeans_iteration([points], before)
    slow, slow_counts, slow_error = slow_iteration(points, before)
    assert counts.tolist() == slow_counts
    assert 0 not in slow_counts
    np.testing.assert_array_equal(new, slow.astype(np.float32))
    assert error == pytest.approx(slow_error, rel=1e-5, abs=1e-6)


def test_order_blocks_and_threads_change_no_bit() -> None:
    points = unit(5000, 16)
    centroids = initial_centroids([points], 40)
    expected = kmeans_iteration([points], centroids)[0].tobytes()
    shuffled = points[np.random.default_rng(1).permutation(len(points))]
    assert kmeans_iteration([shuffled], centroids)[0].tobytes() == expected
    assert kmeans_iteration([points[:1], points[1:2999], points[2999:]], centroids)[0].tobytes() == expected
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert kmeans_iteration([points], centroids)[0].tobytes() == expected
    finally:
        torch.set_num_threads(before)


def test_finds_the_clusters_that_there_are() -> None:
    centres = unit(7, 32, 3, np.float64)
    rng = np.random.default_rng(4)
    noisy = np.repeat(centres, 50, axis=0) + rng.normal(scale=0.02, size=(350, 32))
    points = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float16)
    found = kmeans(points, 14, iterations=15)  # twice as many: every true one gets at least one
    cluster = nearest_centroids(points, found.centroids).reshape(7, 50)
    owners = [set(row.tolist()) for row in cluster]
    assert all(not (a & b) for i, a in enumerate(owners) for b in owners[:i])
    assert int(found.counts.sum()) == 350
    assert found.errors[-1] <= found.errors[0]
    assert len(found.errors) == 15


def test_a_memmap_and_parts_of_it_are_the_array(tmp_path: Path) -> None:
    points = unit(301, 8)
    np.save(tmp_path / "points.npy", points)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    a, b = kmeans(points, 9, seed=3), kmeans([mapped[:100], mapped[100:]], 9, seed=3)
    np.testing.assert_array_equal(a.centroids, b.centroids)
    assert not np.array_equal(a.centroids, kmeans(points, 9, seed=4).centroids)


def test_an_empty_cluster_gets_half_of_the_largest() -> None:
    points = np.repeat(unit(2, 4), [30, 10], axis=0)
    far = -points[:1].astype(np.float32)
    centroids = np.concatenate([points[[0, 30]].astype(np.float32), far])
    new, counts, _ = kmeans_iteration([points], centroids)
    assert counts.tolist() == [30, 10, 0]
    np.testing.assert_allclose(new[2], points[0], rtol=2e-3)
    np.testing.assert_allclose(new[0], points[0], rtol=2e-3)
    assert not np.array_equal(new[0], new[2])


def test_more_clusters_than_distinct_points_ends() -> None:
    found = kmeans(np.repeat(unit(1, 4), 20, axis=0), 20, iterations=3)
    assert np.isfinite(found.centroids).all()
    assert int(found.counts.sum()) == 20


def test_spherical_centroids_have_length_one() -> None:
    length = np.linalg.norm(kmeans(unit(100, 8), 5, spherical=True).centroids, axis=1)
    np.testing.assert_allclose(length, 1, rtol=1e-6)
    assert np.linalg.norm(kmeans(unit(100, 8), 5).centroids, axis=1).max() < 0.99


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: kmeans(unit(5, 4), 6), ValueError, r"1 to the number of points \(5\); got 6"),
        (lambda: kmeans(unit(5, 4), 0), ValueError, "clusters must be 1 to"),
        (lambda: kmeans(unit(5, 4), 2, iterations=0), ValueError, "iterations must be at least 1; got 0"),
        (lambda: kmeans(unit(5, 4) * 9, 2), ValueError, "points must be unit vectors"),
        (lambda: kmeans(np.full((5, 4), np.nan, np.float32), 2), ValueError, "points must be unit vectors"),
        (lambda: kmeans(np.zeros((5, 4), np.int64), 2), TypeError, "array of floats .embeddings.; got int64"),
        (lambda: nearest_centroids(unit(5, 4), unit(2, 3)), ValueError, "4 dimensions and centroids 3"),
        (lambda: nearest_centroids(unit(5, 4)[0], unit(2, 4)), ValueError, r"points must be of shape .*\(4,\)"),
        (lambda: nearest_centroids(unit(5, 4), unit(0, 4)), ValueError, "centroids must have at least one row"),
        (lambda: nearest_centroids(unit(5, 4), unit(2, 4), metric="cosine"), ValueError, "metric must be"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments(call: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("d", [3, 7, 8, 129, 300])
def test_the_sums_are_exact_for_all_widths(d: int, device: str) -> None:
    points = unit(700, d, seed=d)
    before = initial_centroids([points], 5)
    new, counts, _ = kmeans_iteration([points], before, device=device)
    labels = nearest_centroids(points, before, metric="l2", device=device)
    whole = [[int(v) for v in (points[labels == i].astype(np.float64) * 2**24).sum(axis=0)] for i in range(5)]
    assert counts.all()
    for i in range(5):
        assert new[i].tolist() == [np.float32(v / (int(counts[i]) * 2**24)) for v in whole[i]]


def test_the_plain_loop_adds_the_same() -> None:
    code = (
        "import sys, numpy as np; from dcfast._core.similarity import CentroidSums;"
        "x = np.random.default_rng(3).normal(size=(50, 45)).astype(np.float32).clip(-2, 2);"
        "s = CentroidSums(3, 45); q = s.add(x.reshape(-1), np.arange(50) % 3, 2);"
        "sums, counts = s.take(); print(hash(sums.tobytes() + counts.tobytes()), q)"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "DCFAST_ISA": isa, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for isa in ("baseline", "avx2")
    }
    assert len(answers) == 1
    assert answers != {""}


def test_sums_of_what_is_no_cluster_or_no_number_are_refused() -> None:
    points = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match="labels must be 0 to 1; got 2: give"):
        CentroidSums(2, 3).add(points.reshape(-1), np.array([0, 1, 2, 0]), 1)
    with pytest.raises(ValueError, match="points must have 3 rows of 3 numbers; got 12 numbers"):
        CentroidSums(2, 3).add(points.reshape(-1), np.array([0, 1, 0]), 1)
    for bad in (np.nan, np.inf, 2.5):
        points[1, 2] = bad
        assert not CentroidSums(2, 3).add(points.reshape(-1), np.zeros(4, np.int64), 1)


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_labels_are_the_nearest_of_the_centroids(threads: int | None) -> None:
    points = unit(701, 6)
    found = kmeans([points[:300], points[300:]], 7, iterations=3, threads=threads)
    assert found.labels.dtype == np.int32
    assert found.labels.tolist() == slow_nearest(points, found.centroids, "l2")
    assert np.array_equal(found.centroids, kmeans(points, 7, iterations=3, threads=2).centroids)


def test_points_of_other_libraries() -> None:
    points = unit(200, 4, dtype=np.float32)
    expected = kmeans(points, 5, iterations=2)
    tensor = torch.from_numpy(points)

    class OfAnother:
        """An array of a library that knows DLPack alone."""

        def __dlpack__(self, **options: Any) -> object:
            return tensor.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return tensor.__dlpack_device__()

    for given in (tensor, tensor.clone().requires_grad_(), OfAnother(), [tensor[:90], points[90:]]):
        found = kmeans(given, 5, iterations=2, device=torch.device("cpu"))
        assert np.array_equal(found.centroids, expected.centroids)
        assert np.array_equal(found.labels, expected.labels)
    short = tensor.bfloat16()
    assert np.array_equal(kmeans(short, 5).centroids, kmeans(short.float().numpy(), 5).centroids)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("length", [0, 0.98, 1.02, 1.9, np.nan, np.inf])
def test_rows_of_another_length_are_refused(dtype: type, length: float) -> None:
    points = unit(50, 4, dtype=dtype)
    assert len(kmeans(points, 2, iterations=1).labels) == 50
    with np.errstate(invalid="ignore"):
        points[37] *= dtype(length)
    with pytest.raises(ValueError, match=r"points must be unit vectors; row 37 has length .*: leave samples without"):
        kmeans([points[:30], points[30:]], 2)


def test_rows_read_by_slices_are_refused() -> None:
    class Rows:
        shape, dtype = (3, 4), np.dtype(np.float32)

        def __getitem__(self, rows: slice) -> np.ndarray:
            return np.zeros((3, 4), np.float32)[rows]

    with pytest.raises(TypeError, match="points must be arrays or tensors; got Rows: pass a memmap"):
        kmeans(Rows(), 2)  # type: ignore[arg-type]


def test_progress_counts_points_of_all_iterations_and_labels() -> None:
    told: list[tuple[int, int]] = []
    kmeans([unit(300, 4), unit(200, 4, 1)], 3, iterations=2, progress=lambda done, total: told.append((done, total)))
    assert told == [(300, 1500), (500, 1500), (800, 1500), (1000, 1500), (1500, 1500)]  # the labels at last


def test_blocks_without_rows_change_nothing() -> None:
    points = np.eye(4, dtype=np.float32)
    expected = kmeans(points, 2, iterations=2)
    for blocks in ([points[:0], points], [points, points[:0]]):
        assert np.array_equal(kmeans(blocks, 2, iterations=2).centroids, expected.centroids)
    with pytest.raises(ValueError, match="number of points"):
        kmeans([points[:0]], 1)
