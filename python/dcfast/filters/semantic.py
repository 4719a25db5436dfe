"""SemDeDup and density-based pruning of clustered embeddings, in arrays: what a cluster's items get.

Sources: SemDeDup, Abbas et al. 2023 (arXiv 2303.09540); density-based pruning, Abbas et al. 2024 (arXiv 2401.04578).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

NEIGHBOURS = 20
"""Centroids whose mean distance says how far from others a cluster is."""
NONE_BEFORE = 2.0
"""The distance of an item that no other stands before: 1 - (-1)."""
_TILE = 2048
_CENTROIDS = 1024
"""Of a side of a tile."""
Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]


def farthest_first(cosines: Floats) -> npt.NDArray[np.int64]:
    """The order of a cluster's items by their cosine to the centroid, lowest first; ties in their order."""
    return np.argsort(cosines, kind="stable")


def distance_to_earlier(items: Floats) -> npt.NDArray[np.float32]:
    """SemDeDup's measure: 1 - the highest cosine of an item to any that stands before it; NONE_BEFORE of the first.

    SemDeDup drops an item where this is below eps, whether or not the earlier one is itself dropped.

    Args:
        items: (n, d) unit vectors of a cluster, those that are rather kept first (``farthest_first``).
    Returns:
        (n,) float32.   Memory: 4 n d bytes and a tile of 16 MiB.   Cost: n^2 d operations.
    """
    wide = np.ascontiguousarray(items, np.float32)
    distances = np.full(len(wide), NONE_BEFORE, np.float32)
    for begin in range(0, len(wide), _TILE):
        tile = wide[begin : begin + _TILE]
        best = np.full(len(tile), -1.0, np.float32)
        for left in range(0, begin + 1, _TILE):
            cosines = tile @ wide[left : left + _TILE].T
            if left == begin:  # only those before
                cosines[np.triu_indices(len(tile))] = -1.0
            np.maximum(best, cosines.max(axis=1), out=best)
        distances[begin : begin + _TILE] = 1.0 - best
    return np.clip(distances, 0.0, NONE_BEFORE)


def cluster_complexity(mean_distances: Doubles, centroids: Floats) -> Doubles:
    """Density-based pruning's d_inter * d_intra of each cluster, (k,).

    Args:
        mean_distances: (k,) d_intra: the mean cosine distance of a cluster's items to its centroid.
        centroids: (k, d) unit vectors; d_inter is the mean cosine distance to the 20 nearest others, all of fewer.
    Memory: 8 k d bytes and some tiles, 40 MiB.   Cost: k^2 d operations.
    """
    wide = np.ascontiguousarray(centroids, np.float64)
    between, count = np.zeros(len(wide)), min(NEIGHBOURS, len(wide) - 1)
    for begin in range(0, len(wide) if count > 0 else 0, _CENTROIDS):
        rows = wide[begin : begin + _CENTROIDS]
        nearest = np.empty((len(rows), 0))
        for left in range(0, len(wide), _CENTROIDS):
            distances = 1.0 - rows @ wide[left : left + _CENTROIDS].T
            if left == begin:
                np.fill_diagonal(distances, np.inf)
            nearer = np.concatenate([nearest, distances], axis=1)
            nearer.partition(min(count, nearer.shape[1]) - 1, axis=1)
            nearest = nearer[:, :count].copy()  # a view would keep the tile
        between[begin : begin + len(rows)] = np.sort(nearest, axis=1).mean(axis=1)
    return between * mean_distances


def cluster_sizes(complexity: Doubles, sizes: npt.NDArray[np.int64], total: int, tau: float) -> npt.NDArray[np.int64]:
    """How many items density-based pruning keeps of each cluster.

    The numbers x that are nearest to total * p (least squares) with p = softmax(complexity / tau), sum x = total and
    at least one, at most all of each cluster; rounded by largest remainders, ties to the lowest index.

    Args:
        complexity: (k,) finite.   sizes: (k,) items of each; those of none stay empty.
        total: is brought between the clusters that have items and all items.
    Returns:
        (k,) int64 whose sum is that.   Cost: O(k).
    """
    low = np.minimum(sizes, 1).astype(np.float64)
    high = sizes.astype(np.float64)
    total = int(min(max(total, int(low.sum())), int(sizes.sum())))
    share = np.where(sizes > 0, np.exp((complexity - complexity.max()) / tau), 0.0)
    wanted = total * share / max(share.sum(), 1e-300)
    # the projection onto the box and the sum is a shift, clipped, whose sum rises with it
    below, above = float((low - wanted).min()) - 1, float((high - wanted).max()) + 1
    for _ in range(200):
        middle = (below + above) / 2
        if np.clip(wanted + middle, low, high).sum() < total:
            below = middle
        else:
            above = middle
    exact = np.clip(wanted + above, low, high)
    whole: npt.NDArray[np.int64] = np.floor(exact + 1e-9).astype(np.int64)
    missing = total - int(whole.sum())
    if missing:
        remainder = np.where(whole < sizes, exact - whole, -1.0)
        for place in np.argsort(-remainder, kind="stable")[:missing]:
            whole[place] += 1
    return whole
