"""Screening: which pairs of half precision rows may matter. By the fused Hopper kernels, by Triton, or by torch.

All three have the functions of ``Screen``. DCFAST_SIMILARITY_BACKEND=fused, triton or torch chooses one; else it is the
fused kernels on compute capability 9.0 where this build has them, Triton on other CUDA devices, torch elsewhere.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from typing import Protocol, cast

import torch
from torch import Tensor

from dcfast.similarity import gpu_scores

BACKENDS = ("fused", "triton", "torch")


class Screen(Protocol):
    """Rows (n, w) and columns (m, w) of one half precision dtype, contiguous, w a multiple of 16, n and m >= 1."""

    def best_two(self, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each row's highest score (float32), its column (int64, the lowest of ties), the next score (-inf: none)."""
        ...

    def above(self, rows: Tensor, cols: Tensor, threshold: Tensor, capacity: int) -> tuple[Tensor, int]:
        """Pairs whose score is at least threshold[row], as row << 32 | column, in no order, and their number.

        Where the number is above ``capacity`` the pairs are incomplete.
        """
        ...

    def pair_sums(self, x: Tensor, y: Tensor, rows: Tensor, cols: Tensor, squared: bool) -> Tensor:
        """(c,) float64 sums of x[rows] * y[cols], or of their squared differences, in the order of ``gpu_scores``.

        x and y of any dtypes; rows and cols (c,) int64.
        """
        ...

    def halved(self, rows: Tensor, factor: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """A half precision copy, as ``gpu_scores.halved``."""
        ...


class TorchScreen:
    """By ``torch.mm`` in tiles, and torch's own selections. Memory: 1.3 GB on a GPU, 80 MB on the CPU."""

    def __init__(self, tile: int | None = None) -> None:
        self._tile = tile

    def _tiles(self, rows: Tensor, cols: Tensor) -> tuple[int, int]:
        side = self._tile or (16384 if rows.is_cuda else 4096)
        return min(side, len(rows)), min(side, len(cols))

    def best_two(self, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        height, width = self._tiles(rows, cols)
        first = torch.full((len(rows),), -math.inf, device=rows.device)
        second, place = first.clone(), torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        for top in range(0, len(rows), height):
            part = slice(top, top + height)
            for left in range(0, len(cols), width):
                scores = products(rows[part], cols[left : left + width])
                high, where = scores.max(dim=1)
                # torch promises no order of ties
                where = (scores == high[:, None]).to(torch.uint8).argmax(dim=1)
                next_best = scores.scatter_(1, where[:, None], -math.inf).amax(dim=1)
                next_best = torch.maximum(next_best, torch.minimum(high, first[part]))
                second[part] = torch.maximum(second[part], next_best)
                better = high > first[part]
                place[part] = torch.where(better, where + left, place[part])
                first[part] = torch.maximum(first[part], high)
        return first, place, second

    def above(self, rows: Tensor, cols: Tensor, threshold: Tensor, capacity: int) -> tuple[Tensor, int]:
        height, width = self._tiles(rows, cols)
        parts: list[Tensor] = []
        count = 0
        for top in range(0, len(rows), height):
            for left in range(0, len(cols), width):
                hits = (
                    products(rows[top : top + height], cols[left : left + width]) >= threshold[top : top + height, None]
                )
                count += int(hits.count_nonzero())
                if count <= capacity:
                    row, col = hits.nonzero(as_tuple=True)
                    parts.append((row + top) << 32 | (col + left))
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=rows.device), count

    def pair_sums(self, x: Tensor, y: Tensor, rows: Tensor, cols: Tensor, squared: bool) -> Tensor:
        return gpu_scores.pair_sums(x, y, rows, cols, squared)

    def halved(self, rows: Tensor, factor: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        return gpu_scores.halved(rows, factor, out)


def products(rows: Tensor, cols: Tensor) -> Tensor:
    """(n, m) float32 scores of half precision rows; the CPU has no such product and multiplies in float32."""
    if rows.is_cuda:
        return torch.mm(rows, cols.t(), out_dtype=torch.float32)
    return rows.float() @ cols.float().t()


class FusedKernels(Protocol):
    """As ``dcfast._cuda`` has them: addresses on the device, sizes, dtype, schedule; device and stream last."""

    def select_best(self, *arguments: int) -> None: ...

    def select_above(self, *arguments: int) -> None: ...


class FusedScreen:
    """By the kernels of ``libdcfast_cuda``, on compute capability 9.0.   Memory: 12 bytes a row, 8 a pair of capacity.

    Args:
        best, above: how warpgroups share the work, "cooperative" or "pingpong".
        kernels: another library than this build's.
    """

    SCHEDULES = ("cooperative", "pingpong")

    def __init__(
        self, best: str = "cooperative", above: str = "pingpong", *, kernels: FusedKernels | None = None
    ) -> None:
        self._kernels = kernels or cast("FusedKernels", importlib.import_module("dcfast._cuda"))
        self._sums: Screen = _triton_screen() if _has_triton() else TorchScreen()
        self._best, self._above = self.SCHEDULES.index(best), self.SCHEDULES.index(above)

    def _problem(self, rows: Tensor, cols: Tensor, schedule: int) -> tuple[int, ...]:
        for side in (rows, cols):
            if side.device != rows.device or side.dtype != rows.dtype or not side.is_contiguous():
                raise ValueError("rows and cols must be contiguous, on one device, of one dtype: pass half copies")
        dtype = 0 if rows.dtype == torch.bfloat16 else 1
        return rows.data_ptr(), cols.data_ptr(), len(rows), len(cols), rows.shape[1], dtype, schedule

    def _where(self, rows: Tensor) -> tuple[int, int]:
        index = rows.device.index or 0
        return index, torch.cuda.current_stream(rows.device).cuda_stream

    def best_two(self, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        best = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        second = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
        problem = self._problem(rows, cols, self._best)
        self._kernels.select_best(*problem, best.data_ptr(), second.data_ptr(), *self._where(rows))
        return unordered(best >> 32), 0xFFFFFFFF - (best & 0xFFFFFFFF), unordered(second)

    def above(self, rows: Tensor, cols: Tensor, threshold: Tensor, capacity: int) -> tuple[Tensor, int]:
        keys = torch.empty(capacity, dtype=torch.int64, device=rows.device)
        count = torch.zeros((), dtype=torch.int64, device=rows.device)
        threshold = threshold.float().contiguous()
        problem = self._problem(rows, cols, self._above)
        self._kernels.select_above(
            *problem, threshold.data_ptr(), keys.data_ptr(), capacity, count.data_ptr(), *self._where(rows)
        )
        found = int(count)
        return keys[: min(found, capacity)], found

    def pair_sums(self, x: Tensor, y: Tensor, rows: Tensor, cols: Tensor, squared: bool) -> Tensor:
        return self._sums.pair_sums(x, y, rows, cols, squared)

    def halved(self, rows: Tensor, factor: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        return self._sums.halved(rows, factor, out)


def unordered(bits: Tensor) -> Tensor:
    """float32 of the kernels' ordered bits (as any integer dtype whose low 32 bits they are)."""
    low = bits.to(torch.int32)
    return torch.where(low < 0, low ^ -(2**31), ~low).view(torch.float32)


def fused_reason() -> str:
    """Why this build cannot use the fused kernels on any card; empty if it can."""
    if importlib.util.find_spec("dcfast._cuda") is None:
        return "this build has no CUDA library"
    if not importlib.import_module("dcfast._cuda").select_built:
        return "the CUDA library was built without CUTLASS"
    return ""


def screen_for(device: torch.device) -> Screen:
    """The fastest that a device can run.

    Raises:
        ValueError: DCFAST_SIMILARITY_BACKEND names none, or one that this device or build has not.
    """
    chosen = os.environ.get("DCFAST_SIMILARITY_BACKEND", "")
    if chosen not in ("", *BACKENDS):
        raise ValueError(f"DCFAST_SIMILARITY_BACKEND must be one of {', '.join(BACKENDS)}; got {chosen!r}: unset it")
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)
    reason = fused_reason() if hopper else f"{device} is no card of compute capability 9.0"
    if chosen == "fused" and reason:
        raise ValueError(f"DCFAST_SIMILARITY_BACKEND=fused cannot be used: {reason}; unset it")
    if chosen == "fused" or (chosen == "" and not reason):
        return FusedScreen()
    if chosen == "triton" or (chosen == "" and device.type == "cuda" and _has_triton()):
        return _triton_screen()
    return TorchScreen()


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _triton_screen() -> Screen:
    return cast("Screen", importlib.import_module("dcfast.kernels.similarity").TritonScreen())
