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
