"""k-means of unit vectors, in tiles, on the CPU or one GPU; the same centroids for any order of the points.

The points may be larger than memory: they are given as blocks (a memmap, or one array a file) and read once an
iteration. An iteration assigns each point to its nearest centroid (L2), then each centroid becomes the mean of its
points. Sums are exact: a float16 is a whole number of 2^-24, so that 64-bit integers add up to the same total in
any order, which atomic additions of floats on a GPU do not.

Legend: n points, k centroids, d dimensions.
Source: DataComp (arXiv 2304.14108, appendix on image-based filtering): 20 iterations, L2 on unit vectors.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

ITERATIONS = 20
"""DataComp's number of iterations."""
Metric = Literal["inner_product", "l2"]
Floats = npt.NDArray[np.floating]

_FRACTION_BITS = 24  # the smallest float16 is 2^-24
_MAX_VALUE = 2.0  # of a coordinate of a unit vector, with room for rounding; keeps 2^38 points within 64 bits
_TILE = {"cpu": (2048, 8192), "cuda": (16384, 16384)}  # points x centroids scored at a time: 64 MiB, 1 GiB
_SPLIT = 1.0 / 1024  # how far apart the halves of a split cluster begin, relative to each coordinate


@dataclass(frozen=True)
class KMeans:
    """A finished clustering.

    Attributes:
        centroids: (k, d) float32.
        counts: (k,) int64 points of each in the last iteration; an emptied cluster has 0 and half of another's place.
        errors: mean squared distance of the points to their centroids, one an iteration, before its update.
    """

    centroids: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]
    errors: list[float] = field(default_factory=list)


def _check(points: Floats, centroids: Floats) -> None:
    for name, array in (("points", points), ("centroids", centroids)):
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise TypeError(
                f"{name} must be a NumPy array of floats (embeddings); got {getattr(array, 'dtype', type(array))}"
            )
        if array.ndim != 2:
            raise ValueError(f"{name} must be of shape (rows, dimensions); got {array.shape}")
    if points.shape[1] != centroids.shape[1]:
        raise ValueError(
            f"points have {points.shape[1]} dimensions and centroids {centroids.shape[1]}; give embeddings of one model"
        )
    if len(centroids) == 0:
        raise ValueError("centroids must have at least one row; got none")


def _tiles(device: str) -> tuple[int, int]:
    return _TILE["cuda" if device.startswith("cuda") else "cpu"]


def _best(
    tile: torch.Tensor, centres: torch.Tensor, offset: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, indices) of the highest ``tile @ centres.T - offset``; ties go to the lowest index."""
    import torch

    value = torch.full((len(tile),), -torch.inf, device=tile.device)
    index = torch.zeros(len(tile), dtype=torch.int64, device=tile.device)
    for begin in range(0, len(centres), width):
        scores = tile @ centres[begin : begin + width].T
        scores -= offset[begin : begin + width]
        highest, place = scores.max(dim=1)
        better = highest > value
        value = torch.where(better, highest, value)
        index = torch.where(better, place + begin, index)
    return value, index


def _offsets(centroids: npt.NDArray[np.float32], metric: Metric) -> npt.NDArray[np.float32]:
    # |x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2): the nearest in L2 has the highest x c - |c|^2 / 2
    if metric != "l2":
        raise ValueError(f"metric must be 'inner_product' or 'l2'; got {metric!r}")
    half = np.square(centroids, dtype=np.float64).sum(axis=1) / 2
    return np.asarray(half, np.float32)


def _load(block: Floats, device: str) -> torch.Tensor:
    import torch

    # a copy: a memmap is read-only, which torch warns of
    return torch.from_numpy(np.array(block, copy=True)).to(device)


def nearest_centroids(
    points: Floats, centroids: Floats, *, metric: Metric = "inner_product", device: str = "cpu"
) -> npt.NDArray[np.int32]:
    """The nearest centroid of each point; ties go to the lowest index.

    Args:
        points: (n, d) float16 or float32; may be a memmap.
        centroids: (k, d) floats, k >= 1.
        metric: highest inner product (what image_based uses), or least L2 distance.
        device: as torch names it; products are float32 there.
    Returns:
        (n,) int32; -1 for a point that is zero or not finite (it has no embedding).
    Raises:
        TypeError, ValueError: not arrays of floats, other shapes.
    Memory: the centroids, and a tile of scores: 64 MiB on the CPU, 1 GiB on a GPU.   Cost: 2 n k d operations.
    """
    _check(points, centroids)
    return NearestCentroids(centroids, metric=metric, device=device)(points)


class NearestCentroids:
    """``nearest_centroids`` to be called many times: the centroids stay where they are loaded.

    On the CPU it is NumPy's product: torch takes seconds and 250 MB to be imported, and is no faster.
    """

    def __init__(
        self, centroids: Floats, *, metric: Metric = "inner_product", device: str = "cpu", threads: int | None = None
    ) -> None:
        """Loads the centroids; arguments, errors and memory as of ``nearest_centroids``.

        Args:
            threads: of the product on the CPU, which needs threadpoolctl; None: as many as the BLAS library likes.
        """
        self._centroids, self._device = np.asarray(centroids, np.float32), device
        self._offset = None if metric == "inner_product" else _offsets(self._centroids, metric)
        self._limit: Callable[[], AbstractContextManager[object]] = nullcontext
        if device != "cpu":
            import torch

            self._on_device = torch.from_numpy(np.array(self._centroids)).to(device)
            offset = np.zeros(len(self._centroids), np.float32) if self._offset is None else self._offset
            self._offset_on_device = torch.from_numpy(offset).to(device)
        elif threads is not None:
            from threadpoolctl import ThreadpoolController

            self._limit = partial(ThreadpoolController().limit, limits=threads, user_api="blas")

    def __call__(self, points: Floats) -> npt.NDArray[np.int32]:
        """(n,) int32 of (n, d) points, as ``nearest_centroids``."""
        _check(points, self._centroids)
        rows, width = _tiles(self._device)
        nearest = self._nearest_on_cpu if self._device == "cpu" else self._nearest_on_device
        labels = np.full(len(points), -1, np.int32)
        with self._limit():
            for begin in range(0, len(points), rows):
                labels[begin : begin + rows] = nearest(points[begin : begin + rows], width)
        return labels

    def _nearest_on_cpu(self, points: Floats, width: int) -> npt.NDArray[np.int32]:
        tile = np.asarray(points, np.float32)
        value = np.full(len(tile), -np.inf, np.float32)
        index = np.zeros(len(tile), np.int32)
        with np.errstate(invalid="ignore", over="ignore"):  # of points that are not finite
            for begin in range(0, len(self._centroids), width):
                scores = tile @ self._centroids[begin : begin + width].T
                if self._offset is not None:
                    scores -= self._offset[begin : begin + width]
                place = scores.argmax(axis=1)
                highest = scores[np.arange(len(tile)), place]
                better = highest > value
                value[better], index[better] = highest[better], place[better] + begin
        index[~(np.isfinite(tile).all(axis=1) & (tile != 0).any(axis=1))] = -1
        return index

    def _nearest_on_device(self, points: Floats, width: int) -> npt.NDArray[np.int32]:
        import torch

        with torch.inference_mode():
            tile = _load(points, self._device).float()
            index = _best(tile, self._on_device, self._offset_on_device, width)[1]
            usable = torch.isfinite(tile).all(dim=1) & (tile != 0).any(dim=1)
            labels: npt.NDArray[np.int32] = torch.where(usable, index, -1).to(torch.int32).cpu().numpy()
            return labels


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


def _fill_empty(centroids: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> None:
    """Gives each empty cluster half of the largest one, in place: the two begin a little apart."""
    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return
    heap = [(-int(count), int(i)) for i, count in enumerate(counts) if count > 1]
    heapq.heapify(heap)
    for target in empty:
        if not heap:
            return  # fewer distinct points than clusters: it stays where it is
        size, source = heapq.heappop(heap)
        sign = np.where(np.arange(centroids.shape[1]) % 2 == 0, _SPLIT, -_SPLIT)
        centroids[target] = centroids[source] * (1 + sign)
        centroids[source] *= 1 - sign
        half = -size // 2
        for share, owner in ((half, int(target)), (-size - half, source)):
            if share > 1:
                heapq.heappush(heap, (-share, owner))


def kmeans_iteration(
    blocks: Iterable[Floats], centroids: Floats, *, spherical: bool = False, device: str = "cpu"
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], float]:
    """One assignment and update.

    Args:
        blocks: arrays of shape (n_i, d) of unit vectors, float16 (exact) or float32 (rounded to 2^-24).
        centroids: (k, d) floats.
        spherical: scale the new centroids to unit length.
    Returns:
        (k, d) float32 new centroids, (k,) int64 counts, and the mean squared distance before the update.
    Raises:
        TypeError, ValueError: not arrays of floats, other shapes, or points that are no unit vectors.
    Memory: 12 k d bytes, and a tile (see ``nearest_centroids``).   Cost: 2 n k d operations, one read of the points.
    """
    import torch

    rows, width = _tiles(device)
    k, d = centroids.shape
    error, total = 0.0, 0
    with torch.inference_mode():
        centres = torch.from_numpy(np.array(centroids, np.float32)).to(device)
        offset = torch.from_numpy(_offsets(np.asarray(centroids, np.float32), "l2")).to(device)
        sums = torch.zeros((k, d), dtype=torch.int64, device=device)
        counts = torch.zeros(k, dtype=torch.int64, device=device)
        for block in blocks:
            _check(block, centroids)
            for begin in range(0, len(block), rows):
                tile = _load(block[begin : begin + rows], device).float()
                if not bool((tile.abs() <= _MAX_VALUE).all()):
                    raise ValueError(
                        f"points must be unit vectors; a coordinate is {tile.abs().max().item()}: "
                        "leave samples without an embedding out, and scale the rest to unit length"
                    )
                value, index = _best(tile, centres, offset, width)
                error += float((tile.double().square().sum(dim=1) - 2 * value.double()).sum())
                whole = tile.double().mul_(2.0**_FRACTION_BITS).round_().long()
                sums.index_add_(0, index, whole)
                counts += torch.bincount(index, minlength=k)
                total += len(tile)
    sizes = counts.cpu().numpy()
    updated = np.array(centroids, np.float64)
    filled = sizes > 0
    updated[filled] = sums.cpu().numpy()[filled] / (sizes[filled, None] * 2.0**_FRACTION_BITS)
    _fill_empty(updated, sizes)
    if spherical:
        length = np.linalg.norm(updated, axis=1, keepdims=True)
        updated = np.where(length > 0, updated / np.where(length > 0, length, 1), updated)
    return updated.astype(np.float32), sizes, max(0.0, error / max(total, 1))


def kmeans(
    points: Floats | Sequence[Floats],
    k: int,
    *,
    iterations: int = ITERATIONS,
    seed: int = 0,
    spherical: bool = False,
    device: str = "cpu",
) -> KMeans:
    """Clusters unit vectors: centroids begin at k of the points, a cluster that empties gets half of the largest.

    Args:
        points: (n, d) float16 or float32 unit vectors, or several such blocks; memmaps are read tile by tile.
        k: clusters, 1 to n.
        iterations: at least 1.
        seed: of the points that the centroids begin at.
    Raises:
        TypeError, ValueError: see ``kmeans_iteration`` and ``initial_centroids``.
    Memory, cost: those of ``kmeans_iteration``, ``iterations`` times.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1; got {iterations}")
    blocks = [points] if isinstance(points, np.ndarray) else list(points)
    for block in blocks:
        _check(block, blocks[0])
    centroids = initial_centroids(blocks, k, seed=seed)
    counts, errors = np.zeros(k, np.int64), []
    for _ in range(iterations):
        centroids, counts, error = kmeans_iteration(blocks, centroids, spherical=spherical, device=device)
        errors.append(error)
    return KMeans(centroids, counts, errors)
