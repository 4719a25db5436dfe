"""k-means of unit vectors, in tiles, on the CPU or one GPU; the same centroids for any order of the points.

The points may be larger than memory: they are given as blocks (a memmap, or one array a file) and read once an
iteration. An iteration assigns each point to its nearest centroid (L2), then each centroid becomes the mean of its
points. Sums are exact: a float16 is a whole number of 2^-24, so that 64-bit integers add up to the same total in
any order, which additions of floats do not.

Legend: n points, k centroids, d dimensions.
Source: DataComp (arXiv 2304.14108, appendix on image-based filtering): 20 iterations, L2 on unit vectors.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from dcfast._core import similarity as core_similarity
from dcfast.process.compute import device_name, thread_count
from dcfast.similarity.database import Database
from dcfast.similarity.devices import placed
from dcfast.similarity.nearest import (
    Floats,
    NearestCentroids,
    Points,
    as_blocks,
    best_on_device,
    check_lengths,
    check_points,
    l2_offsets,
    load_tile,
    tile_of,
)
from dcfast.similarity.search import assign

if TYPE_CHECKING:
    import torch

ITERATIONS = 20
"""DataComp's number of iterations."""

_FRACTION_BITS = 24  # the smallest float16 is 2^-24
_MAX_VALUE = 2.0  # of a coordinate of a unit vector, with room for rounding; keeps 2^38 points within 64 bits
_SPLIT = 1.0 / 1024  # how far apart the halves of a split cluster begin, relative to each coordinate
_TILE_ROWS = 16_384  # points that are assigned and added at a time
_UPDATED_ROWS = 4096

Progress: TypeAlias = Callable[[int, int], None]
Sums = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], float]
"""(k, d) sums in 2^-24, (k,) counts, mean squared distance to the centroids."""


@dataclass(frozen=True)
class KMeans:
    """A finished clustering.

    Attributes:
        centroids: (k, d) float32.
        counts: (k,) int64 points of each in the last iteration; an emptied cluster has 0 and half of another's place.
        errors: mean squared distance of the points to their centroids, one an iteration, before its update.
        labels: (n,) int32 the nearest of ``centroids`` of each point; ties go to the lowest index.
    """

    centroids: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]
    errors: list[float]
    labels: npt.NDArray[np.int32]


def initial_centroids(blocks: Sequence[Floats], k: int, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """k of the points, drawn without replacement, in their order.

    Args:
        blocks: arrays of shape (n_i, d), the points in order; memmaps are read only where drawn.
        k: at most the number of points.
    Raises:
        ValueError: k out of range.
    Memory: O(k d).
    """
    total = sum(len(block) for block in blocks)
    if not 1 <= k <= total:
        raise ValueError(f"clusters must be 1 to the number of points ({total:,}); got {k:,}")
    chosen = np.sort(np.random.Generator(np.random.Philox(seed)).choice(total, k, replace=False, shuffle=False))
    parts, begin = [], 0
    for block in blocks:
        rows = chosen[(chosen >= begin) & (chosen < begin + len(block))] - begin
        parts.append(np.asarray(block[rows], np.float32))
        begin += len(block)
    return np.concatenate(parts)


def _fill_empty(centroids: npt.NDArray[np.float32], counts: npt.NDArray[np.int64]) -> None:
    """Gives each empty cluster half of the largest one, in place: the two begin a little apart."""
    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return
    heap = [(-int(count), int(i)) for i, count in enumerate(counts) if count > 1]
    heapq.heapify(heap)
    apart = np.where(np.arange(centroids.shape[1]) % 2 == 0, _SPLIT, -_SPLIT)
    for target in empty:
        if not heap:
            return  # fewer distinct points than clusters: it stays where it is
        size, source = heapq.heappop(heap)
        middle = centroids[source].astype(np.float64)
        centroids[target], centroids[source] = middle * (1 + apart), middle * (1 - apart)
        half = -size // 2
        for share, owner in ((half, int(target)), (-size - half, source)):
            if share > 1:
                heapq.heappush(heap, (-share, owner))


def _not_unit(value: float) -> ValueError:
    return ValueError(
        f"points must be unit vectors; a coordinate is {value}: "
        "leave samples without an embedding out, and scale the rest to unit length"
    )


def _sums_on_cpu(
    blocks: Iterable[Floats], centroids: npt.NDArray[np.float32], threads: int | None, tell: Callable[[int], None]
) -> Sums:
    database = Database(centroids, "l2")
    sums = core_similarity.CentroidSums(*centroids.shape)
    error, total = 0.0, 0
    for block in blocks:
        check_points(block, centroids)
        for begin in range(0, len(block), _TILE_ROWS):
            tile = np.ascontiguousarray(block[begin : begin + _TILE_ROWS], np.float32)
            found = assign(tile, database, invalid="skip", threads=threads)
            if (found.indices < 0).any() or not sums.add(tile.reshape(-1), found.indices, thread_count(threads)):
                raise _not_unit(float(np.abs(tile).max()))
            error += float(found.scores.sum(dtype=np.float64))
            total += len(tile)
            tell(total)
    whole, counts = sums.take()
    return whole.reshape(centroids.shape), counts, error / max(total, 1)


def _sums_on_device(
    blocks: Iterable[Floats], centroids: npt.NDArray[np.float32], device: str, tell: Callable[[int], None]
) -> Sums:
    import torch

    rows, width = tile_of(device)
    k = len(centroids)
    error, total = 0.0, 0
    with torch.inference_mode():
        centres = torch.from_numpy(np.array(centroids)).to(device)
        offset = torch.from_numpy(l2_offsets(centroids)).to(device)
        sums = torch.zeros(centroids.shape, dtype=torch.int64, device=device)
        counts = torch.zeros(k, dtype=torch.int64, device=device)
        for block in blocks:
            check_points(block, centroids)
            for begin in range(0, len(block), rows):
                tile = load_tile(block[begin : begin + rows], device).float()
                if not bool((tile.abs() <= _MAX_VALUE).all()):
                    raise _not_unit(tile.abs().max().item())
                value, index = best_on_device(tile, centres, offset, width)
                error += float((tile.double().square().sum(dim=1) - 2 * value.double()).sum())
                whole = tile.double().mul_(2.0**_FRACTION_BITS).round_().long()
                sums.index_add_(0, index, whole)
                counts += torch.bincount(index, minlength=k)
                total += len(tile)
                tell(total)
    return sums.cpu().numpy(), counts.cpu().numpy(), max(0.0, error / max(total, 1))


def kmeans_iteration(
    blocks: Iterable[Floats],
    centroids: Floats,
    *,
    spherical: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], float]:
    """One assignment and update.

    Args:
        blocks: arrays of shape (n_i, d) of unit vectors, float16 (exact) or float32 (rounded to 2^-24).
        centroids: (k, d) floats.
        spherical: scale the new centroids to unit length.
        threads: of the CPU; None means one per core. The result is the same for any number.
        progress: called with the number of points that are assigned, after each tile.
    Returns:
        (k, d) float32 new centroids, (k,) int64 counts, and the mean squared distance before the update.
    Raises:
        TypeError, ValueError: not arrays of floats, other shapes, or points that are no unit vectors.
    Memory: 16 k d bytes, a tile of 16,384 points and what ``assign`` takes (on a GPU a tile of scores).
    Cost: 2 n k d operations, one read of the points.
    """
    before = np.ascontiguousarray(centroids, np.float32)
    tell = progress or (lambda _: None)
    if device == "cpu":
        sums, sizes, error = _sums_on_cpu(blocks, before, threads, tell)
    else:
        sums, sizes, error = _sums_on_device(blocks, before, device, tell)
    updated = before.copy()
    for begin in range(0, len(updated), _UPDATED_ROWS):
        rows = begin + np.flatnonzero(sizes[begin : begin + _UPDATED_ROWS])
        updated[rows] = sums[rows] / (sizes[rows, None] * 2.0**_FRACTION_BITS)
    del sums
    _fill_empty(updated, sizes)
    if spherical:
        length = np.linalg.norm(updated, axis=1, keepdims=True)
        updated /= np.where(length > 0, length, 1)
    return updated, sizes, error


def kmeans(
    points: Points | Sequence[Points],
    k: int,
    *,
    iterations: int = ITERATIONS,
    seed: int = 0,
    spherical: bool = False,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    progress: Progress | None = None,
) -> KMeans:
    """Clusters unit vectors: centroids begin at k of the points, a cluster that empties gets half of the largest.

    Args:
        points: (n, d) float16, bfloat16 or float32 unit vectors, or several such blocks: NumPy arrays or memmaps, which
            are read tile by tile, torch tensors, DLPack. Of a GPU they are copied to memory.
        k: clusters, 1 to n.
        iterations: at least 1.
        seed: of the points that the centroids begin at.
        spherical: scale the centroids to unit length after each iteration.
        device: "cpu", "cuda" or "cuda:N", or a torch.device; "cuda" is the first GPU.
        threads: of the CPU; None means one per core. The result is the same for any number.
        progress: called with (points assigned, points of all iterations and the labels), after each tile.
    Returns:
        ``KMeans(centroids, counts, errors, labels)``, NumPy arrays.
    Raises:
        TypeError: points are no floats, or no arrays.
        ValueError: a row whose length is not 1, by its number; k out of range; no such device.
    Memory: that of ``kmeans_iteration``, and 4 bytes a point.
    Cost: that of ``kmeans_iteration``, ``iterations`` times and once more for the labels; one more read of the points.
    Example: ``kmeans(points, 3, iterations=5).labels``
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1; got {iterations}")
    thread_count(threads)
    (where,) = placed(device_name(device))[:1] or ("cpu",)
    blocks = as_blocks(points)
    check_lengths(blocks)
    total, turns = sum(map(len, blocks)), iterations + 1
    tell = None if progress is None else partial(_tell, progress, turns * total)
    found = find_centroids(
        blocks, k, iterations=iterations, seed=seed, spherical=spherical, device=where, threads=threads, progress=tell
    )
    find = NearestCentroids(found[0], metric="l2", device=where, threads=threads)
    labels = [find(block) for block in blocks]
    if progress is not None:
        progress(turns * total, turns * total)
    return KMeans(*found, np.concatenate(labels))


def find_centroids(
    blocks: Sequence[Floats],
    k: int,
    *,
    iterations: int = ITERATIONS,
    seed: int = 0,
    spherical: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], list[float]]:
    """Centroids, counts and errors of ``kmeans``, without its labels and its check of lengths."""
    for block in blocks:
        check_points(block, blocks[0])
    centroids = initial_centroids(blocks, k, seed=seed)
    counts, errors, total = np.zeros(k, np.int64), [], sum(map(len, blocks))
    for turn in range(iterations):
        tell = None if progress is None else partial(_after, progress, turn * total)
        centroids, counts, error = kmeans_iteration(
            blocks, centroids, spherical=spherical, device=device, threads=threads, progress=tell
        )
        errors.append(error)
    return centroids, counts, errors


def _tell(progress: Progress, total: int, done: int) -> None:
    progress(done, total)


def _after(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)
