"""Run as a script, with no GPU: every launch of the losses and of similarity as a GPU of the given capability gets it,
but for the run.

Triton binds the arguments, decides what is constant or aligned, and compiles to machine code; nothing is loaded. Prints
one JSON object: for each batch the kernels that were compiled for it, as [name, bytes of shared memory].
"""

from __future__ import annotations

import json
import sys
import types
from typing import Any

import torch
from dcfast.kernels import contrastive, similarity, tuning
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

# the same tiles for all: large, of a width that wants padding
BATCHES = ((3000, 100), (2049, 100), (2600, 100), (2112, 100))


class NoGpu:
    """As much of a driver as Triton asks before it loads code."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0


def compile_only(compiled: dict[str, list[Any]]) -> None:
    """From now on a launch compiles, notes what it compiled, and does not run."""
    run = JITFunction.run

    def noted(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        assert all(1 <= size < 2**31 for size in grid)
        compiled.setdefault(kernel.hash, [self.fn.__name__, kernel.metadata.shared])
        return kernel

    JITFunction.run = noted


def step(rows: int, width: int, dtype: torch.dtype) -> None:
    """All that a training step launches, of both losses, on one rank or several."""
    image, text = (torch.zeros(rows, width, dtype=dtype) for _ in range(2))
    scale = torch.ones(())
    stats = contrastive.clip_forward(image, text, scale)
    products: Any = contrastive.clip_products(image, text, scale, stats)
    contrastive.clip_products(image, text, scale, stats, rows, weights=((1.0, 1.0), (0.0, 1.0)), dots=True)
    raw: tuple[Tensor, Tensor] = products.image, products.text
    contrastive.finish(raw[0], scale, scale, dtype)
    contrastive.finish(raw[1], scale, scale, dtype, dot_with=text)
    contrastive.siglip_block(image, text, scale, None)
    contrastive.siglip_block(image, text, scale, scale, rows, grad=False)
    screen, index = similarity.TritonScreen(), torch.zeros(rows, dtype=torch.int64)
    screen.best_two(image, text)
    screen.above(image, text, torch.zeros(rows), 1000 + rows)
    screen.halved(image, torch.zeros(rows, dtype=torch.float64), text)
    screen.pair_sums(image, text, index, index, True)
    screen.pair_sums(image, text, index, index, False)


def main() -> None:
    major, minor = int(sys.argv[1]), int(sys.argv[2])
    driver.set_active(NoGpu(10 * major + minor))
    torch.cuda.get_device_capability = lambda device=None: (major, minor)
    torch.cuda.get_device_properties = lambda device=None: types.SimpleNamespace(multi_processor_count=132)
    tuning.worth_measuring = lambda logits: False
    compiled: dict[str, list[Any]] = {}
    compile_only(compiled)
    answer, before = [], 0
    for rows, width in BATCHES:
        step(rows, width, torch.bfloat16)
        answer.append(list(compiled.values())[before:])
        before = len(compiled)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
