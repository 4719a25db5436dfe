"""The obvious search in float64, one row of queries at a time."""

from __future__ import annotations

import numpy as np


def all_scores(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    """(n, m) float32 of float64 sums."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    if metric == "l2":
        return np.array([((row - y) ** 2).sum(axis=1) for row in x]).reshape(len(x), len(y)).astype(np.float32)
    scores = np.array([(row * y).sum(axis=1) for row in x]).reshape(len(x), len(y))
    if metric == "cos":
        scores = scores / np.sqrt((x**2).sum(axis=1))[:, None] / np.sqrt((y**2).sum(axis=1))
    return scores.astype(np.float32)


def clustered(
    n: int, d: int, seed: int, dtype: type = np.float32, *, clusters: int = 7, spread: float = 0.3
) -> np.ndarray:
    """Unit rows around a few centers, so that all scores occur."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(5).normal(size=(clusters, d))
    rows = centers[rng.integers(0, clusters, n)] + spread * rng.normal(size=(n, d))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows * 100).astype(dtype) if dtype is np.int8 else rows.astype(dtype)


def lane_scores(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    """(n, m) float32, in the order of sums that dcfast states: 16 lanes, folded by halves."""
    x, y = (np.pad(rows.astype(np.float64), ((0, 0), (0, -rows.shape[1] % 16))) for rows in (a, b))

    def sums(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        terms = (left - right) ** 2 if metric == "l2" else left * right
        lanes = np.zeros((*terms.shape[:-1], 16))
        for i in range(0, terms.shape[-1], 16):
            lanes = lanes + terms[..., i : i + 16]
        for half in (8, 4, 2, 1):
            lanes = lanes[..., :half] + lanes[..., half : 2 * half]
        return lanes[..., 0]

    scores = np.stack([sums(row, y) for row in x]) if len(x) else np.empty((0, len(y)))
    if metric == "cos":
        scores = scores / (np.sqrt(sums(x, x))[:, None] * np.sqrt(sums(y, y)))
    return scores.astype(np.float32)


def best_by_lanes(a: np.ndarray, b: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """(scores, indices) of the k best of each row of a, ties by lowest index."""
    scores = lane_scores(a, b, metric)
    order = np.argsort(scores if metric == "l2" else -scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order
