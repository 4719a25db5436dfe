"""The nearest centroid of each point, for centroids that stay where they are loaded.

Legend: n points, k centroids, d dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Metric = Literal["ip", "l2"]
Floats = npt.NDArray[np.floating]

_TILE = {"cpu": (2048, 2048), "cuda": (16384, 16384)}  # points x centroids scored at a time: 16 MiB, 1 GiB


def check_points(points: Floats, centroids: Floats) -> None:
    """TypeError, ValueError where these are not two-dimensional arrays of floats of one width."""
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


def tile_of(device: str) -> tuple[int, int]:
    """(points, centroids) that are scored at a time."""
    return _TILE["cuda" if device.startswith("cuda") else "cpu"]


def best_on_device(
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


def l2_offsets(centroids: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(k,): |x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2), so that the nearest in L2 has the highest x c - |c|^2 / 2."""
    half = np.square(centroids, dtype=np.float64).sum(axis=1) / 2
    return np.asarray(half, np.float32)


def load_tile(block: Floats, device: str) -> torch.Tensor:
    """A copy of a block on a device: a memmap is read-only, which torch warns of."""
    import torch

    return torch.from_numpy(np.array(block, copy=True)).to(device)


class NearestCentroids:
    """The nearest centroid of each point, to be asked many times: the centroids stay where they are loaded.

    On the CPU it is NumPy's product: torch takes seconds and 250 MB to be imported, and is no faster.
    Memory: the centroids, and a tile of scores: 16 MiB on the CPU, 1 GiB on a GPU.   Cost: 2 n k d operations.
    """

    def __init__(
        self, centroids: Floats, *, metric: Metric = "ip", device: str = "cpu", threads: int | None = None
    ) -> None:
        """Loads the centroids.

        Args:
            centroids: (k, d) floats, k >= 1.
            metric: "ip", highest inner product (what image_based uses), or "l2", least distance.
            device: as torch names it; products are float32 there.
            threads: of the product on the CPU, which needs threadpoolctl; None: as many as the BLAS library likes.
        Raises:
            ValueError: another metric.
        """
        if metric not in ("ip", "l2"):
            raise ValueError(f"metric must be 'ip' or 'l2'; got {metric!r}: use one of these")
        self._centroids, self._device = np.ascontiguousarray(centroids, np.float32), device
        self._offset = None if metric == "ip" else l2_offsets(self._centroids)
        self._limit: Callable[[], AbstractContextManager[object]] = nullcontext
        self._scores = np.empty(0, np.float32)
        if device != "cpu":
            import torch

            self._on_device = torch.from_numpy(np.array(self._centroids)).to(device)
            offset = np.zeros(len(self._centroids), np.float32) if self._offset is None else self._offset
            self._offset_on_device = torch.from_numpy(offset).to(device)
        elif threads is not None:
            from threadpoolctl import ThreadpoolController

            self._limit = partial(ThreadpoolController().limit, limits=threads, user_api="blas")

    def __call__(self, points: Floats) -> npt.NDArray[np.int32]:
        """The nearest centroid of each point; ties go to the lowest index.

        Args:
            points: (n, d) float16 or float32; may be a memmap.
        Returns:
            (n,) int32; -1 for a point that is zero or not finite (it has no embedding).
        Raises:
            TypeError, ValueError: not arrays of floats, other shapes.
        """
        check_points(points, self._centroids)
        rows, _ = tile_of(self._device)
        nearest = self._nearest_on_cpu if self._device == "cpu" else self._nearest_on_device
        labels = np.full(len(points), -1, np.int32)
        with self._limit():
            for begin in range(0, len(points), rows):
                labels[begin : begin + rows] = nearest(points[begin : begin + rows])
        return labels

    def _nearest_on_cpu(self, points: Floats) -> npt.NDArray[np.int32]:
        tile = np.asarray(points, np.float32)
        index = self.best(tile)[0]
        index[~(np.isfinite(tile).all(axis=1) & (tile != 0).any(axis=1))] = -1
        return index

    def best(self, tile: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """(indices, values) of the highest scores of a tile of points, on the CPU; any index for what is not finite."""
        _, width = tile_of(self._device)
        value = np.full(len(tile), -np.inf, np.float32)
        index = np.zeros(len(tile), np.int32)
        with np.errstate(invalid="ignore", over="ignore"):  # of points that are not finite
            for begin in range(0, len(self._centroids), width):
                scores = self._scores_of(tile, self._centroids[begin : begin + width])
                if self._offset is not None:
                    scores -= self._offset[begin : begin + width]
                place = scores.argmax(axis=1)
                highest = scores[np.arange(len(tile)), place]
                better = highest > value
                value[better], index[better] = highest[better], place[better] + begin
        return index, value

    def _scores_of(self, tile: npt.NDArray[np.float32], centroids: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        size = len(tile) * len(centroids)
        if len(self._scores) < size:
            self._scores = np.empty(size, np.float32)  # kept: pages that are new cost as much as choosing
        return np.matmul(tile, centroids.T, out=self._scores[:size].reshape(len(tile), len(centroids)))

    def _nearest_on_device(self, points: Floats) -> npt.NDArray[np.int32]:
        import torch

        _, width = tile_of(self._device)
        with torch.inference_mode():
            tile = load_tile(points, self._device).float()
            index = best_on_device(tile, self._on_device, self._offset_on_device, width)[1]
            usable = torch.isfinite(tile).all(dim=1) & (tile != 0).any(dim=1)
            labels: npt.NDArray[np.int32] = torch.where(usable, index, -1).to(torch.int32).cpu().numpy()
            return labels
