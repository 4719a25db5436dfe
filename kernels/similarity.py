"""Launch functions of similarity: ``TritonScreen`` has the functions of ``dcfast.similarity.gpu_screen.Screen``.

On a CUDA device, or on the CPU under ``TRITON_INTERPRET=1``. Nothing is checked here.
"""

from __future__ import annotations

import torch
import triton
from dcfast.kernels import similarity_kernels, tuning
from dcfast.kernels.operands import blocks, on_device, operands, workers
from dcfast.kernels.tuning import Config
from torch import Tensor

LANES = 16
"""Partial sums of ``pair_sums``, as on the CPU; the kernel's reduction is written for 16."""
HOPPER, AMPERE = Config(128, 128, 64, 8, 4), Config(128, 64, 32, 8, 3)
_INTERPRETER = Config(32, 32, 32, 2, 1)


def configuration(device: torch.device) -> Config:
    """Tiles for a device."""
    if tuning.INTERPRETED:
        return _INTERPRETER
    return HOPPER if torch.cuda.get_device_capability(device)[0] in (9, 10) else AMPERE


class TritonScreen:
    """By the kernels of ``similarity_kernels``.   Memory: 12 bytes a row and split, 8 a pair of capacity."""

    def __init__(self, config: Config | None = None) -> None:
        self._config = config

    def best_two(self, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each row's highest score, its column, the next score."""
        o = operands(rows, cols)
        c = self._config or configuration(o.device)
        nbm, nbn = blocks(o.rows, c.bm), blocks(o.cols, c.bn)
        # few blocks of rows: columns are shared out too, so that every multiprocessor has work
        per = blocks(nbn, min(nbn, max(1, 2 * workers(o.device) // nbm)))
        splits = blocks(nbn, per)
        # arrays of their own: parts of one would be aligned or not by the number of rows, each a machine code more
        first, second = (torch.empty(splits, o.rows, dtype=torch.float32, device=o.device) for _ in range(2))
        place = torch.empty(splits, o.rows, dtype=torch.int32, device=o.device)
        with on_device(first):
            similarity_kernels.select_best[(nbm * splits,)](
                *o.sources(c), first, second, place, *o.sizes(), nbm, nbn, per, **o.options(c)
            )
        high = first.amax(0)
        # of equal splits the first, whose columns are lower
        which = (first == high).to(torch.uint8).argmax(0, keepdim=True)
        others = first.scatter(0, which, float("-inf")).amax(0)
        return high, place.gather(0, which)[0].long(), torch.maximum(others, second.amax(0))

    def above(self, rows: Tensor, cols: Tensor, threshold: Tensor, capacity: int) -> tuple[Tensor, int]:
        """Pairs whose score is at least threshold[row], as row << 32 | column, in no order, and their number."""
        o = operands(rows, cols)
        c = self._config or configuration(o.device)
        nbm, nbn = blocks(o.rows, c.bm), blocks(o.cols, c.bn)
        keys = torch.empty(capacity, dtype=torch.int64, device=o.device)
        halves = keys.view(torch.int32)
        count = torch.zeros((), dtype=torch.int64, device=o.device)
        with on_device(keys):
            similarity_kernels.select_above[(nbm * nbn,)](
                *o.sources(c), threshold.float().contiguous(), halves, count, *o.sizes(), nbm, nbn, capacity,
                GROUP=c.group, **o.options(c),
            )  # fmt: skip
        found = int(count)
        return keys[: min(found, capacity)], found

    def pair_sums(self, x: Tensor, y: Tensor, rows: Tensor, cols: Tensor, squared: bool) -> Tensor:
        """(c,) float64 sums of x[rows] * y[cols], or of their squared differences, in the one order."""
        x, y = (v if v.stride(1) == 1 else v.contiguous() for v in (x, y))
        out = torch.empty(len(rows), dtype=torch.float64, device=x.device)
        block = 64
        if len(rows):
            with on_device(out):
                similarity_kernels.pair_sums[(triton.cdiv(len(rows), block),)](
                    x, y, rows.contiguous(), cols.contiguous(), out, len(rows), x.shape[1], x.stride(0), y.stride(0),
                    SQUARED=squared, LANES=LANES, BC=block, num_warps=4, enable_fp_fusion=False,
                )  # fmt: skip
        return out

    def halved(self, rows: Tensor, factor: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """Rows times factor in half precision, to the first columns of out; squared norms, of it and of its errors."""
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        norms, errors = (torch.empty(len(rows), dtype=torch.float64, device=rows.device) for _ in range(2))
        if len(rows):
            with on_device(norms):
                similarity_kernels.halve[(blocks(len(rows), 16),)](
                    rows, factor, out, norms, errors, len(rows), rows.shape[1], rows.stride(0), out.stride(0),
                    LARGEST=float(torch.finfo(out.dtype).max), BM=16, BK=128, num_warps=4,
                )  # fmt: skip
        return norms, errors
