"""SemDeDup's way to drop semantic duplicates: within clusters, what is too near to an item that comes before it.

Two rules make it what it is, and both differ from groups of copies (``dcfast.dedup.groups``): only items of one
cluster of k-means are compared, so that a pair which the clusters' border parts survives; and an item is dropped where
its cosine to any earlier item is above 1 - eps, whether that one is kept or was dropped itself, in the order of the
distance from the centroid.
Source: Abbas et al. 2023, SemDeDup (arXiv 2303.09540), and the authors' published code for the order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.process.options import one_of
from dcfast.similarity import assign, group_join
from dcfast.similarity.centroids import ITERATIONS, find_centroids

Floats = npt.NDArray[np.floating]
ORDERS = ("hard", "easy")
"""Which items come first, and so are kept: the farthest from the centroid (the authors'), or the nearest."""
GROUP_ROWS = 1 << 16
"""Rows of clusters that are compared together."""


class SemanticDuplicates(NamedTuple):
    """What SemDeDup keeps.

    Attributes:
        kept: (e, n) bool, a row for each eps.
        cluster: (n,) int32.   near: (n,) float32, cosine to the centroid.
    """

    kept: npt.NDArray[np.bool_]
    cluster: npt.NDArray[np.int32]
    near: npt.NDArray[np.float32]


def semdedup(
    embeddings: Floats | Sequence[Floats],
    clusters: int,
    eps: float | Sequence[float],
    *,
    seed: int = 0,
    keep: str = "hard",
    iterations: int = ITERATIONS,
    threads: int | None = None,
) -> SemanticDuplicates:
    """Drops semantic duplicates within clusters of spherical k-means, for one eps or several in one pass.

    Args:
        embeddings: (n, d) float16 or float32, or several such blocks; memmaps are read where they are needed.
        clusters: of k-means, 1 to n; 1 compares every item with every other.
        eps: 0 to 2: an item is dropped where its cosine to an earlier one is above 1 - eps.
        seed: of the items that the centroids begin at.
        keep: of ORDERS; items of equal distance come in the order that they are given in.
        iterations: of k-means.
        threads: None means one per core. The result is the same for any number.
    Raises:
        TypeError: embeddings are no floats.
        ValueError: an eps or keep that is none; a row that is zero or no finite numbers, by its number; a crowd of more
            alike items in one cluster than pairs are found of (``dcfast.similarity.MAX_PAIRS``).
    Memory: 2 n d bytes for k-means, 40 bytes an item, and the largest cluster. Cost: that of k-means, and
    n^2 / clusters cosines where the clusters are even.
    """
    one_of("keep", keep, ORDERS)
    limits = np.atleast_1d(np.asarray(eps, np.float64))
    if limits.ndim != 1 or not len(limits) or not ((limits >= 0) & (limits <= 2)).all():
        raise ValueError(f"eps must be 0 to 2, 1 less a cosine, or a list of such; got {eps!r}: give 0.05, for example")
    blocks = [embeddings] if isinstance(embeddings, np.ndarray) else list(embeddings)
    points = _unit_vectors(blocks)
    if not len(points):
        empty = np.empty(0, np.int32)
        return SemanticDuplicates(np.ones((len(limits), 0), np.bool_), empty, empty.astype(np.float32))
    centroids, _, _ = find_centroids(
        [points], clusters, iterations=iterations, seed=seed, spherical=True, threads=threads
    )
    cluster = assign(points, centroids, threads=threads).indices.astype(np.int32)
    near = _cosines(points, centroids, cluster)
    del points
    order = np.lexsort((np.arange(len(near)), near if keep == "hard" else -near, cluster))
    highest = _highest_earlier(blocks, order, cluster[order], 1 - float(limits.max()), threads)
    # a cosine is a float32, and so is what it is held against
    kept = highest[None, :] <= (1 - limits).astype(np.float32)[:, None]
    return SemanticDuplicates(kept, cluster, near)


def _unit_vectors(blocks: Sequence[Floats]) -> npt.NDArray[np.float16]:
    """All rows, scaled to length 1."""
    parts, begin = [], 0
    for block in blocks:
        if not isinstance(block, np.ndarray) or block.dtype.kind != "f" or block.ndim != 2:
            got = f"{block.dtype} of shape {block.shape}" if isinstance(block, np.ndarray) else type(block).__name__
            raise TypeError(f"embeddings must be floats of shape (rows, dimensions); got {got}: pass such an array")
        values = block.astype(np.float32)
        length = np.linalg.norm(values, axis=1, keepdims=True)
        bad = np.flatnonzero(~(np.isfinite(length[:, 0]) & (length[:, 0] > 0)))
        if len(bad):
            raise ValueError(f"embeddings: row {begin + bad[0]} is zero or no finite numbers; leave such rows out")
        parts.append((values / length).astype(np.float16))
        begin += len(block)
    return np.concatenate(parts) if parts else np.empty((0, 1), np.float16)


def _cosines(points: Floats, centroids: Floats, cluster: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """(n,) cosine of each unit vector to its own centroid: in float64, so that no order depends on tiles."""
    near = np.empty(len(points), np.float32)
    for begin in range(0, len(points), GROUP_ROWS):
        rows = slice(begin, begin + GROUP_ROWS)
        ours = points[rows].astype(np.float64)
        near[rows] = np.einsum("nd,nd->n", ours, centroids[cluster[rows]]) / np.linalg.norm(ours, axis=1)
    return near


def _highest_earlier(
    blocks: Sequence[Floats],
    order: npt.NDArray[np.int64],
    cluster: npt.NDArray[np.int32],
    threshold: float,
    threads: int | None,
) -> npt.NDArray[np.float32]:
    """(n,) the highest cosine of each item to an earlier one of its cluster, where it reaches the threshold; else -2.

    Args:
        order: the items, cluster by cluster, in the order that they come in.   cluster: of each of these.
    """
    highest = np.full(len(order), -2, np.float32)
    for begin, end in _stretches(cluster):
        items = order[begin:end]
        edges = np.flatnonzero(np.diff(cluster[begin:end])) + 1
        offsets = np.concatenate([[0], edges, [end - begin]])
        pairs = group_join(_rows(blocks, items), offsets, threshold, metric="cos", threads=threads)
        np.maximum.at(highest, items[pairs.ib], pairs.scores)
    return highest


def _stretches(cluster: npt.NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Where whole clusters begin and end, some together: up to GROUP_ROWS rows, or one larger cluster."""
    ends = np.concatenate([np.flatnonzero(np.diff(cluster)) + 1, [len(cluster)]]).tolist()
    begin = last = 0
    for end in ends:
        if end - begin > GROUP_ROWS and last > begin:
            yield begin, last
            begin = last
        last = end
    yield begin, last


def _rows(blocks: Sequence[Floats], items: npt.NDArray[np.int64]) -> Floats:
    """Some rows of all blocks, as asked."""
    begins = np.cumsum([0, *(len(block) for block in blocks)])
    block = np.searchsorted(begins, items, side="right") - 1
    result = np.empty((len(items), blocks[0].shape[1]), np.result_type(*blocks))
    for number in np.unique(block).tolist():
        mine = np.flatnonzero(block == number)
        result[mine] = blocks[number][items[mine] - begins[number]]
    return result
