"""Where the GPU bench runs: a CUDA device, or the CPU in its dry run; clocks, timing, peaks of memory, rows."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench import harness

Row = dict[str, Any]


class Clock:
    """Seconds since the start and until the limit."""

    def __init__(self, limit_s: float) -> None:
        self._began = time.monotonic()
        self.limit_s = limit_s

    def spent(self) -> float:
        return time.monotonic() - self._began

    def left(self) -> float:
        return self.limit_s - self.spent()


@dataclass(frozen=True)
class Times:
    """Milliseconds of single calls."""

    calls: tuple[float, ...]

    def row(self) -> Row:
        low, middle, high = harness.quantiles([c / 1e3 for c in self.calls])
        return {"reps": len(self.calls), "median_s": middle, "p20_s": low, "p80_s": high}


class Device:
    """The device of all tensors, and how time and memory are measured on it."""

    def __init__(self, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.device = torch.device("cpu" if dry_run else "cuda")
        self.name = "none: dry run on the CPU" if dry_run else torch.cuda.get_device_name()

    def synchronize(self) -> None:
        if not self.dry_run:
            torch.cuda.synchronize()

    def time(self, call: Callable[[], Any], *, reps: int = 20, warm_up: int = 3, most_s: float = 4.0) -> Times:
        """Each call's own time by events (so that launches overlap as they do in training); fewer when slow."""
        began = time.monotonic()
        for _ in range(1 if self.dry_run else warm_up):
            call()
            self.synchronize()
            if time.monotonic() - began > most_s / 2:
                break
        calls: list[float] = []
        if self.dry_run:
            started = time.perf_counter()
            call()
            return Times(((time.perf_counter() - started) * 1e3,))
        pairs = []
        for _ in range(reps):
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            pair[0].record()
            call()
            pair[1].record()
            pairs.append(pair)
            if time.monotonic() - began > most_s:
                torch.cuda.synchronize()
                if len(pairs) >= 5:
                    break
        torch.cuda.synchronize()
        calls += [a.elapsed_time(b) for a, b in pairs]
        return Times(tuple(calls))

    def peak_bytes(self, call: Callable[[], Any]) -> int | None:
        """Most memory that a call held beyond what was there before it; None on the CPU."""
        if self.dry_run:
            call()
            return None
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = call()
        torch.cuda.synchronize()
        del kept
        return int(torch.cuda.max_memory_allocated() - before)


@dataclass
class Run:
    """One run of the bench: where it writes, what it found."""

    device: Device
    clock: Clock
    out: Path
    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, op: str, provider: str, *, shape: str = "", dtype: str = "", note: str = "", **values: Any) -> None:
        """Keeps a row; where it was measured is in it."""
        about = {"op": op, "provider": provider, "shape": shape, "dtype": dtype, **values, "note": note}
        here = {"gpu": self.device.name, "cpu": harness.cpu_name(), "versions": versions(), "commit": harness.commit()}
        self.rows.append({**about, **here, "date_utc": harness.now(), "dry_run": self.device.dry_run})

    def fail(self, what: str) -> None:
        """A wrong answer: the run goes on and ends with status 1."""
        print(f"  WRONG: {what}", flush=True)
        self.failures.append(what)

    def write(self) -> None:
        """All rows so far, as one file that is replaced whole."""
        target = self.out / "gpu.jsonl"
        temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
        os.replace(temporary, target)


def versions() -> dict[str, str]:
    """Of everything that takes part."""
    known = {**harness.versions(), "torch": torch.__version__}
    if torch.version.cuda:
        known["cuda"] = torch.version.cuda
    for name in ("triton", "open_clip_torch", "inf_cl", "cut-cross-entropy"):
        known |= harness.version_of(name)
    return known


def environment(run: Run) -> None:
    """Names, clocks, and what the machine reaches in a copy and in plain products: what other numbers stand beside."""
    device = run.device
    query = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"
    found = _command(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"])
    run.add("environment", "nvidia-smi", note=found or "absent")
    print(f"  {device.name}; {found or 'nvidia-smi is absent'}")
    copy_rate(run)
    for rows, cols, depth in product_shapes(device):
        product(run, rows, cols, depth)


def copy_rate(run: Run) -> None:
    """What memory gives to a copy of 4 GB, read and written."""
    source = torch.zeros(1 << 10 if run.device.dry_run else 1 << 30, dtype=torch.float32, device=run.device.device)
    target = torch.empty_like(source)
    times = run.device.time(lambda: target.copy_(source))
    rate = 2 * source.nbytes / times.row()["median_s"]
    run.add("copy", "torch", shape=f"{source.nbytes} bytes", bytes_per_s=rate, **times.row())
    print(f"  copy: {rate / 1e12:.2f} TB/s")


def product_shapes(device: Device) -> Sequence[tuple[int, int, int]]:
    """Square, and those of the logits of a large batch."""
    if device.dry_run:
        return ((64, 64, 32),)
    return ((8192, 8192, 8192), (32768, 32768, 512), (32768, 32768, 768), (32768, 32768, 1024))


def product(run: Run, rows: int, cols: int, depth: int) -> None:
    """The library's rate for one product of bfloat16 matrices, with a bfloat16 result."""
    a = torch.randn(rows, depth, device=run.device.device, dtype=torch.bfloat16)
    b = torch.randn(cols, depth, device=run.device.device, dtype=torch.bfloat16)
    out = torch.empty(rows, cols, device=run.device.device, dtype=torch.bfloat16)
    times = run.device.time(lambda: torch.mm(a, b.t(), out=out))
    rate = 2 * rows * cols * depth / times.row()["median_s"]
    run.add("mm", "torch.mm", shape=f"{rows}x{cols}x{depth}", dtype="bfloat16", flops_per_s=rate, **times.row())
    print(f"  torch.mm {rows} x {cols} x {depth}: {rate / 1e12:.0f} TFLOP/s", flush=True)


def _command(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
