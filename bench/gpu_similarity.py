"""Similarity on one GPU: every answer of every way to screen held against float64 sums, to the bit."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bench.gpu_checks import claim, tested
from bench.gpu_device import Run

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "build/cuda/libdcfast_cuda.so"
METRICS = ("ip", "cos", "l2")


def make_importable() -> None:
    """``dcfast.similarity``'s files, where the package is not installed: without its face, which wants the C++ core."""
    core = importlib.util.find_spec("dcfast._core")  # its stubs alone are a package without an origin
    if core is None or core.origin is None:
        face = types.ModuleType("dcfast.similarity")
        face.__path__ = [str(ROOT / "python/dcfast/similarity")]
        sys.modules.setdefault("dcfast.similarity", face)


class Library:
    """The C functions of a ``libdcfast_cuda.so`` (``make cuda``), called as those of ``dcfast._cuda``."""

    class Problem(ctypes.Structure):
        _fields_ = [("rows", ctypes.c_void_p), ("cols", ctypes.c_void_p)] + [
            (name, ctypes.c_int32)
            for name in ("row_count", "col_count", "depth", "dtype", "schedule", "first_column")
        ]  # fmt: skip

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self.built = bool(self._library.dcfast_select_built())
        self._library.dcfast_cuda_error_string.restype = ctypes.c_char_p

    def _call(self, function: str, arguments: Sequence[int], more: Sequence[Any]) -> None:
        problem = self.Problem(*arguments[:7], 0)
        code = getattr(self._library, function)(ctypes.byref(problem), *more)
        if code:
            raise RuntimeError(f"{function}: {self._library.dcfast_cuda_error_string(code).decode()}")

    def select_best(self, *a: int) -> None:
        best, second, device, stream = a[7:]
        pointer = ctypes.c_void_p
        self._call("dcfast_select_best", a, (pointer(best), pointer(second), ctypes.c_int32(device), pointer(stream)))

    def select_above(self, *a: int) -> None:
        threshold, keys, capacity, count, device, stream = a[7:]
        pointer = ctypes.c_void_p
        self._call(
            "dcfast_select_above", a,
            (pointer(threshold), pointer(keys), ctypes.c_uint64(capacity), pointer(count), ctypes.c_int32(device),
             pointer(stream)),
        )  # fmt: skip


def screens(run: Run) -> dict[str, Any]:
    """Every way to screen that there is here, by name; a row for each that is not."""
    from dcfast.kernels.similarity import TritonScreen
    from dcfast.similarity.gpu_screen import FusedScreen, TorchScreen, fused_reason

    found: dict[str, Any] = {}
    reason, kernels = "no kernels in a dry run", None
    if not run.device.dry_run:
        kernels = Library(LIBRARY) if LIBRARY.exists() else None
        reason = fused_reason() if kernels is None else "" if kernels.built else f"{LIBRARY} was built without CUTLASS"
        if torch.cuda.get_device_capability() != (9, 0):
            reason = f"{run.device.name} is not of compute capability 9.0"
    if reason:
        run.add("similarity", "fused kernels", note=f"absent: {reason}")
    else:
        for schedule in FusedScreen.SCHEDULES:
            found[f"fused, {schedule}"] = FusedScreen(schedule, schedule, kernels=kernels)
    return found | {"triton": TritonScreen(), "torch": TorchScreen()}


@dataclass
class Side:
    """As much of a ``Database`` as a search takes: what ``dcfast.similarity.gpu`` asks of it."""

    rows: Any
    metric: str
    skips: bool = False
    on_devices: dict[tuple[str, bool], object] = field(default_factory=dict)


def searching(run: Run, screen: Any, a: Tensor, b: Tensor, metric: str) -> Any:
    """A search of a in b by one way to screen; b is prepared once and stays."""
    from dcfast.similarity import gpu
    from dcfast.similarity.gpu_search import DeviceSearch
    from dcfast.similarity.operands import as_rows

    left, right = as_rows(a, "a"), Side(as_rows(b, "b"), metric)
    name = str(a.device) if a.is_cuda else "cpu"
    right.on_devices[name, False] = DeviceSearch(torch.device(name), right.rows, metric, False, screen)
    return gpu.Search(left, right, (name,), False)


def reference(x: Tensor, y: Tensor, metric: str) -> Tensor:
    """(n, m) float32: float64 sums in the promised order, number i of a row in lane i % 16.   Memory: 128 n m bytes."""

    def sums(terms: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
        lanes: list[Tensor] = []
        for i in range(a.shape[-1]):
            term = terms(a[..., i].double(), b[..., i].double())
            if i < 16:
                lanes.append(term)
            else:
                lanes[i % 16] = lanes[i % 16] + term
        lanes += [torch.zeros_like(lanes[0])] * (16 - len(lanes))
        for half in (8, 4, 2, 1):
            lanes = [lanes[i] + lanes[i + half] for i in range(half)]
        return lanes[0]

    if metric == "l2":
        return sums(lambda u, v: (u - v).square(), x[:, None], y[None]).float()
    scores = sums(torch.mul, x[:, None], y[None])
    if metric == "cos":
        scores /= sums(torch.mul, x, x).sqrt()[:, None] * sums(torch.mul, y, y).sqrt()
    return scores.float()


def sides(n: int, m: int, d: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Clusters, equal rows, rows a rounding apart, longer and shorter ones."""
    generator = torch.Generator(device=device).manual_seed(n + m + d)

    def random(rows: int, like: Tensor) -> Tensor:
        noise = torch.randn(rows, d, generator=generator, device=device)
        return normalize(like[torch.arange(rows, device=device) % len(like)] + 0.3 * noise, dim=1)

    centers = normalize(torch.randn(7, d, generator=generator, device=device), dim=1)
    a, b = random(n, centers), random(m, centers)
    if m > 20:
        b[m // 2 : m // 2 + 9] = b[3]
        b[m // 4] = b[3] * (1 + 2**-9)
        b[-3:] *= 0.01
        a[n // 2] *= 8
    if dtype == torch.int8:
        a, b = a / 8 * 60, b * 60
    return a.to(dtype), b.to(dtype)


def cases(run: Run) -> Iterator[tuple[int, int, int, torch.dtype, str]]:
    """Sizes around tiles and beyond, all dtypes and metrics."""
    if run.device.dry_run:
        yield from ((40, 70, 24, torch.bfloat16, "ip"), (33, 65, 17, torch.float32, "l2"))
        return
    for metric in METRICS:
        for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.int8):
            yield 300, 1500, 96, dtype, metric
    for n, m, d in ((1, 1, 8), (1, 257, 33), (127, 255, 512), (129, 257, 768), (65, 4000, 1024), (2000, 64, 40)):
        yield n, m, d, torch.bfloat16, "ip"
        yield n, m, d, torch.float16, "l2"


def same(found: Any, wanted: Any) -> bool:
    return all(torch.equal(a.to(b.device), b) for a, b in zip(found, wanted, strict=True))


def answers(run: Run, name: str, screen: Any, n: int, m: int, d: int, dtype: torch.dtype, metric: str) -> None:
    """assign, row_max, topk, join, any_above of one pair of sides by one way to screen."""
    from dcfast.similarity import gpu

    a, b = sides(n, m, d, dtype, run.device.device)
    scores, sign = reference(a, b, metric), -1 if metric == "l2" else 1
    order = (scores * sign).argsort(dim=1, descending=True, stable=True)
    best = scores.gather(1, order[:, :1])[:, 0]
    wrong = []

    def search() -> Any:
        return searching(run, screen, a, b, metric)

    if not same(gpu.assign(search()), (order[:, 0], best)):
        wrong.append("assign")
    if not same([gpu.row_max(search(), False, False)], [best]):
        wrong.append("row_max")
    for k in sorted({1, min(m, 10), min(m, 32)}):
        if not same(gpu.topk(search(), k, False), (scores.gather(1, order[:, :k]), order[:, :k])):
            wrong.append(f"topk {k}")
    for part in (0.5, 0.999):
        threshold = float(scores.flatten().sort().values[int(part * (scores.numel() - 1))])
        hits = scores <= threshold if metric == "l2" else scores >= threshold
        ia, ib = hits.nonzero(as_tuple=True)
        if not same(gpu.join(search(), threshold, False, n * m, False), (ia, ib, scores[ia, ib])):
            wrong.append(f"join at {threshold:g}")
        if not same([gpu.any_above(search(), threshold, False)], [hits.any(1)]):
            wrong.append(f"any_above at {threshold:g}")
    about = f"similarity, {name}, {n} x {m} x {d} {str(dtype).removeprefix('torch.')} {metric}"
    claim(run, about, not wrong, f"differs from float64: {', '.join(wrong)}" if wrong else "")


def repeats_and_overflows(run: Run, name: str, screen: Any) -> None:
    """Two runs agree to the bit, and a list that is too short says by how much."""
    a, b = sides(*((40, 70, 24) if run.device.dry_run else (3000, 5000, 128)), torch.float16, run.device.device)
    a, b = (torch.nn.functional.pad(x, (0, -x.shape[1] % 16)) for x in (a, b))
    first, second = screen.best_two(a, b), screen.best_two(a, b)
    claim(run, f"similarity, {name}, two runs", same(first, second))
    threshold = torch.full((len(a),), 0.5, device=a.device)
    keys, count = screen.above(a, b, threshold, len(a) * len(b))
    short, again = screen.above(a, b, threshold, 5)
    claim(
        run, f"similarity, {name}, capacity", count == again == len(keys) > 5 and len(short) <= 5, f"{count}, {again}"
    )


def correctness(run: Run) -> None:
    """All ways to screen."""
    make_importable()
    for name, screen in screens(run).items():
        before = len(run.failures)
        for case in cases(run):
            if run.clock.left() <= 0:
                run.skipped.append(f"similarity, {name}")
                run.fail(f"similarity, {name}: no time left to check")
                break
            with tested(run, f"similarity, {name}, {case}"):
                answers(run, name, screen, *case)
        with tested(run, f"similarity, {name}, two runs"):
            repeats_and_overflows(run, name, screen)
        print(f"  {name}: {len(run.failures) - before} wrong ({run.clock.spent():.0f} s)", flush=True)
        run.write()
