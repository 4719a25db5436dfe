"""How the matrix of logits is cut into tiles of bounded memory, and the positives in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dcfast.loss.backend import compute_dtype

if TYPE_CHECKING:
    from torch import Tensor

# 1,024 rows of 512 columns in float32. Features are read, and sums of products written, once a tile: in strips of whole
# rows, so low at 8,192 columns, this traffic would cost a tenth of the time.
_TILE_BYTES = 2 << 20
_RUN = 256  # a run's length


def pieces(count: int, most: int) -> list[slice]:
    """Runs of rows or columns: as many in each, but for the last."""
    size = -(-count // -(-count // most))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


class Workspace:
    """Memory of ``count`` tiles of the block of some rows and columns.

    ``kept`` takes the place of a tile's first memory, for as many tiles as fit into it: each has its own.
    """

    def __init__(self, like: Tensor, num_rows: int, num_cols: int, count: int, kept: Tensor | None = None) -> None:
        most = math.isqrt(2 * _TILE_BYTES // like.element_size())
        self.rows: list[slice] = pieces(num_rows, max(1, most))
        self.cols: list[slice] = pieces(num_cols, max(1, most // 2))
        self._space = like.new_empty(count, self.rows[0].stop * self.cols[0].stop)
        self._kept = like.new_empty(0) if kept is None or kept.dtype != like.dtype else kept

    def tiles(self, rows: slice) -> Iterator[tuple[slice, list[Tensor], bool]]:
        """The columns of each tile of some rows, memory for it, and whether the first is its own; row by row."""
        for cols in self.cols:
            shape = rows.stop - rows.start, cols.stop - cols.start
            size = shape[0] * shape[1]
            spaces, own = list(self._space), self._kept.shape[0] >= size
            if own:
                spaces[0], self._kept = self._kept[:size], self._kept[size:]
            yield cols, [space[:size].view(shape) for space in spaces], own


@cache
def _onednn() -> Callable[..., Tensor] | None:
    """oneDNN's x @ y.T of float32 where it is faster than torch's own, else None.

    torch multiplies by MKL, which uses AVX-512 on Intel's processors alone: oneDNN is twice as fast on AMD's. A rule,
    not a measurement, so that a training has the same bits each time.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    try:
        is_amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return None
    # where torch was built without oneDNN there is none
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if is_amd else None


def _onednn_product(x: Tensor, y: Tensor) -> Callable[..., Tensor] | None:
    serves = x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0 and y.numel() > 0
    return _onednn() if serves else None


def multiply(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """out = x @ y.T."""
    product = _onednn_product(x, y)
    if product is None:
        return torch.mm(x, y.t(), out=out)
    out.zero_()
    _add_in_runs(out, x, y, product)
    return out


def add_product(into: Tensor, x: Tensor, y: Tensor) -> None:
    """into += x @ y."""
    product = _onednn_product(x, y)
    if product is None:
        into.addmm_(x, y)
    else:
        _add_in_runs(into, x, y.t(), product)


def _add_in_runs(into: Tensor, x: Tensor, y: Tensor, product: Callable[..., Tensor]) -> None:
    """into += x @ y.T. oneDNN adds up one term after the other, MKL has several sums: so have runs."""
    for columns in pieces(x.shape[1], _RUN):
        part = y[:, columns]
        if part.stride(1) == 1:
            part = part.contiguous()  # rows with gaps take a path that is a hundred times slower
        into.add_(product(x[:, columns], part, None, "none", [], ""))


def widen(features: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Features in the compute dtype, or another, contiguous; themselves where they are so already."""
    return features.to(dtype or compute_dtype(features.dtype)).contiguous()


def positives(z: Tensor, first: int) -> tuple[slice, slice]:
    """The rows of a tile whose positive, column i + first, is in it, and these columns: ``z.diagonal(first)``."""
    begin = min(max(0, -first), z.shape[0])
    end = max(begin, min(z.shape[0], z.shape[1] - first))
    return slice(begin, end), slice(begin + first, end + first)


def take_positives(z: Tensor, first: int, into: Tensor) -> None:
    """Moves the positives of a tile to ``into`` and leaves -inf in their place."""
    diagonal = z.diagonal(first)
    into[positives(z, first)[0]] = diagonal
    diagonal.fill_(-math.inf)
