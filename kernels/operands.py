"""What every launch needs: aligned features, tile sources (descriptors or pointers), precision, the number of programs.

TMA wants rows that start on 16 bytes, and so do vector loads: features that do not have them (odd widths, strides,
unaligned views) are copied once, padded with zeros, which changes no dot product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from dcfast.kernels import clip_kernels, tuning
from dcfast.kernels.tuning import Config
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

DEPTH_ALIGN = 16


@dataclass(frozen=True)
class Operands:
    """A block of the matrix of logits: image [rows, depth] against text [cols, depth], aligned and padded."""

    image: Tensor
    text: Tensor
    width: int  # of the features as given
    precision: str

    @property
    def rows(self) -> int:
        return self.image.shape[0]

    @property
    def cols(self) -> int:
        return self.text.shape[0]

    @property
    def depth(self) -> int:
        return self.image.shape[1]

    @property
    def device(self) -> torch.device:
        return self.image.device

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.rows, self.cols, self.depth

    def positives(self, first: int) -> tuple[int, int]:
        """The rows whose positive, column row + first, is in this block: begin and end (0, 0 if none is)."""
        begin, end = max(0, -first), min(self.rows, self.cols - first)
        return (begin, end) if begin < end else (0, 0)

    def part(self, begin: int, end: int) -> Operands:
        """Rows begin to end."""
        return Operands(self.image[begin:end], self.text, self.width, self.precision)

    def swapped(self) -> Operands:
        """Rows and columns exchanged."""
        return Operands(self.text, self.image, self.width, self.precision)

    def sources(self, c: Config) -> tuple[Tensor | TensorDescriptor, Tensor | TensorDescriptor]:
        """What the kernels read the two features from."""
        return source(self.image, c.bm, c.bk), source(self.text, c.bn, c.bk)

    def sizes(self) -> tuple[int, int, int, int, int]:
        """M, N, D and the strides of the rows, as the kernels take them."""
        return self.rows, self.cols, self.depth, row_stride(self.image), row_stride(self.text)

    def options(self, c: Config) -> dict[str, object]:
        """Constants and launch options of ``tile_dot``."""
        return {
            "BM": c.bm,
            "BN": c.bn,
            "BK": c.bk,
            "TMA": uses_tma(self.device),
            "EVEN_K": self.depth % c.bk == 0,
            "PREC": self.precision,
            "UPCAST": tuning.INTERPRETED and self.image.dtype == torch.bfloat16,
            "num_warps": c.warps,
            "num_stages": c.stages,
        }


def aligned(x: Tensor) -> Tensor:
    """The features themselves where their rows are aligned and their width is a multiple of 16, else a padded copy."""
    rows, width = x.shape
    good = width % DEPTH_ALIGN == 0 and x.stride(1) == 1 and x.data_ptr() % 16 == 0
    if good and (rows == 1 or (x.stride(0) >= width and x.stride(0) * x.element_size() % 16 == 0)):
        return x
    padded = x.new_zeros(rows, -(-width // DEPTH_ALIGN) * DEPTH_ALIGN)
    padded[:, :width] = x
    return padded


def operands(image: Tensor, text: Tensor, precision: str | None = None) -> Operands:
    """Aligned features, and how float32 products are computed.

    Args:
        precision: "ieee", "tf32x3" or "tf32"; by default "ieee" where torch.get_float32_matmul_precision() is
            "highest", else "tf32". Half precision is always exact up to the float32 sum.
    """
    if precision is None:
        exact = image.dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
        precision = "ieee" if exact else "tf32"
    return Operands(aligned(image), aligned(text), image.shape[1], precision)


def unit_columns(x: Tensor) -> Tensor:
    """The features themselves where a row's elements are neighbours, else a copy."""
    return x if x.stride(1) == 1 else x.contiguous()


def uses_tma(device: torch.device) -> bool:
    """Whether tiles are read and written through tensor descriptors (Hopper and later)."""
    if tuning.INTERPRETED:
        return tuning.INTERPRET_TMA
    return torch.cuda.get_device_capability(device) >= (9, 0)


def workers(device: torch.device) -> int:
    """The most programs that share the work, one a multiprocessor: the step of their loops, the same for any batch."""
    return 3 if tuning.INTERPRETED else int(torch.cuda.get_device_properties(device).multi_processor_count)


def row_stride(x: Tensor) -> int:
    """Elements between rows; of a single row, its width (its stride may be anything)."""
    return x.stride(0) if x.shape[0] > 1 else x.shape[1]


def source(x: Tensor, block: int, bk: int) -> Tensor | TensorDescriptor:
    """What a kernel reads [block, bk] tiles from."""
    if not uses_tma(x.device):
        return x
    return TensorDescriptor(x, list(x.shape), [row_stride(x), 1], [block, bk])


def target(x: Tensor, c: Config) -> Tensor | TensorDescriptor:
    """What a kernel writes [bm, bn] tiles to; x is a part of rows that start on 16 bytes."""
    if not uses_tma(x.device):
        return x
    return TensorDescriptor(x, list(x.shape), [x.stride(0), 1], [c.bm, c.bn // 2 if c.sub else c.bn])


def blocks(n: int, block: int) -> int:
    """Blocks that cover n."""
    return int(triton.cdiv(n, block))


def largest_norms(x: Tensor) -> Tensor:
    """[blocks] fp32: the largest squared norm of each 16 rows (NaN rows are left to the products to tell)."""
    x = unit_columns(x)
    rows, width = x.shape
    out = torch.empty(blocks(rows, 16), dtype=torch.float32, device=x.device)
    with on_device(out):
        clip_kernels.row_norms[(out.numel(),)](x, out, rows, width, row_stride(x), BM=16, BK=128, num_warps=4)
    return out


def scalar(x: Tensor, device: torch.device) -> Tensor:
    """A 0-dim float32 tensor on the device; not waited for."""
    return x.detach().to(device=device, dtype=torch.float32, non_blocking=True)


def on_device(x: Tensor) -> torch.cuda.device:
    """Triton launches on the current device: a guard that makes it x's (index -1 leaves it as it is)."""
    return torch.cuda.device(x.device.index if x.is_cuda else -1)
