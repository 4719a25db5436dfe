"""The nearest centroid of each point, for centroids that stay where they are loaded.

Legend: n points, k centroids, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from dcfast.similarity.database import Database
from dcfast.similarity.operands import SupportsDLPack, as_rows
from dcfast.similarity.search import assign

if TYPE_CHECKING:
    import torch

Metric = Literal["ip", "l2"]
Floats = npt.NDArray[np.floating]
Points: TypeAlias = "Floats | torch.Tensor | SupportsDLPack"

_LENGTH_ERROR = 0.01  # of a unit vector, rounded to float16 or bfloat16
_ROWS_AT_ONCE = 16_384  # whose lengths are looked at
_TILE = {"cpu": (2048, 8192), "cuda": (16384, 16384)}  # points x centroids scored at a time by torch: 64 MiB, 1 GiB


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


def as_blocks(points: Points | Sequence[Points]) -> list[Floats]:
    """Blocks of points that have rows, as NumPy arrays that share their memory where that is the CPU's."""
    many = points if isinstance(points, list | tuple) else [points]
    blocks = [_as_array(block) for block in many]
    return [block for block in blocks if block.shape[:1] != (0,)]


def _as_array(block: object) -> Floats:
    if isinstance(block, np.ndarray):
        return block
    rows = as_rows(block, "points")
    if not rows.in_memory:
        raise TypeError(
            f"points must be arrays or tensors; got {type(block).__name__}: pass a memmap, or a list of some"
        )
    if rows.device != "cpu":
        tensor = cast("torch.Tensor", rows.source)
        return cast(Floats, (tensor.float() if rows.kind == "bfloat16" else tensor).cpu().numpy())
    array = cast("npt.NDArray[np.generic]", rows.source)
    # bfloat16 is the upper half of a float32
    return (array.astype(np.uint32) << 16).view(np.float32) if rows.kind == "bfloat16" else cast(Floats, array)


def check_lengths(blocks: Sequence[Floats]) -> None:
    """ValueError for the first row that is no unit vector, but for the rounding of a float16."""
    before = 0
    for block in blocks:
        check_points(block, block)
        for begin in range(0, len(block), _ROWS_AT_ONCE):
            tile = np.asarray(block[begin : begin + _ROWS_AT_ONCE], np.float32)
            lengths = np.sqrt(np.einsum("ij,ij->i", tile, tile))
            wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _LENGTH_ERROR))
            if len(wrong):
                row, length = before + begin + int(wrong[0]), lengths[wrong[0]]
                raise ValueError(
                    f"points must be unit vectors; row {row} has length {length:.4g}: "
                    "leave samples without an embedding out, and scale the rest to unit length"
                )
        before += len(block)


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

    return torch.from_numpy(np.array(block, block.dtype.newbyteorder("="))).to(device)


class NearestCentroids:
    """The nearest centroid of each point, to be asked many times: the centroids stay where they are loaded.

    On the CPU it is ``dcfast.assign``: torch takes seconds and 250 MB to be imported, and is no faster.
    Memory: the centroids, and on a GPU a tile of scores, 1 GiB.   Cost: 2 n k d operations.
    """

    def __init__(
        self, centroids: Floats, *, metric: Metric = "ip", device: str = "cpu", threads: int | None = None
    ) -> None:
        """Loads the centroids.

        Args:
            centroids: (k, d) finite floats, k >= 1.
            metric: "ip", highest inner product (what image_based uses), or "l2", least distance.
            device: as torch names it; products are float32 there, on the CPU they are exact.
            threads: of the CPU; None means one per core.
        Raises:
            ValueError: another metric.
        """
        if metric not in ("ip", "l2"):
            raise ValueError(f"metric must be 'ip' or 'l2'; got {metric!r}: use one of these")
        self._centroids, self._device, self._threads = np.ascontiguousarray(centroids, np.float32), device, threads
        if device == "cpu":
            self._database = Database(self._centroids, metric)
        else:
            import torch

            self._on_device = torch.from_numpy(np.array(self._centroids)).to(device)
            offset = np.zeros(len(self._centroids), np.float32) if metric == "ip" else l2_offsets(self._centroids)
            self._offset_on_device = torch.from_numpy(offset).to(device)

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
        for begin in range(0, len(points), rows):
            labels[begin : begin + rows] = nearest(points[begin : begin + rows])
        return labels

    def _nearest_on_cpu(self, points: Floats) -> npt.NDArray[np.int32]:
        tile = np.ascontiguousarray(points, np.float32)
        index = assign(tile, self._database, invalid="skip", threads=self._threads).indices.astype(np.int32)
        index[~(tile != 0).any(axis=1)] = -1
        return index

    def _nearest_on_device(self, points: Floats) -> npt.NDArray[np.int32]:
        import torch

        _, width = tile_of(self._device)
        with torch.inference_mode():
            tile = load_tile(points, self._device).float()
            index = best_on_device(tile, self._on_device, self._offset_on_device, width)[1]
            usable = torch.isfinite(tile).all(dim=1) & (tile != 0).any(dim=1)
            labels: npt.NDArray[np.int32] = torch.where(usable, index, -1).to(torch.int32).cpu().numpy()
            return labels
