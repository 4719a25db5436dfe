"""Times of the losses beside their peers: each answer is checked first, then the sides take turns in two rounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import gpu_checks, gpu_losses
from bench.gpu_device import Run, Times
from bench.gpu_losses import Answer, Batch, Loss, clip_reference, errors, make_batch, step

OURS = "dcfast"
EAGER = "open_clip, eager"
COMPILED = "open_clip, torch.compile"
INF_CL = "Inf-CL"
CCE = "cut-cross-entropy"
CCE_AUTO = "cut-cross-entropy, filtered"
# what a loss may be off by to be timed at all (peers round logits to bfloat16); ours has its own bound
PEER_BOUND = 0.1
OUR_BOUND = 5e-3


@dataclass(frozen=True)
class Provider:
    """A loss that may take part in a comparison; ``fits`` says why not, empty if it does."""

    name: str
    loss: Loss | None
    fits: Callable[[int, int], str]


def providers(run: Run, wheels: Path | None) -> list[Provider]:
    """Ours first."""
    eager = gpu_losses.open_clip_clip(wheels)
    compiled = None
    if eager is not None:
        # The dry run goes through the compiler's front half only. Each size has its own static code: left to itself the
        # compiler would turn to dynamic shapes at the second, which is not its best.
        compiled = torch.compile(eager, dynamic=False, backend="eager" if run.device.dry_run else "inductor")

    def always(n: int, d: int) -> str:
        return ""

    def memory(bytes_a_logit: float) -> Callable[[int, int], str]:
        def fits(n: int, d: int) -> str:
            free = 1 << 34 if run.device.dry_run else torch.cuda.mem_get_info()[0]
            needed = n * n * bytes_a_logit
            return "" if needed < 0.95 * free else f"{needed / 1e9:.0f} GB of logits do not fit"

        return fits

    def inf_cl(n: int, d: int) -> str:
        if run.device.dry_run:
            return "no kernels in a dry run"
        return "" if d % 256 == 0 and n <= 8192 else "wants D in multiples of 256; timed up to N = 8192"

    def kernels(n: int, d: int) -> str:
        return "no kernels in a dry run" if run.device.dry_run else "" if n <= 32768 else "timed up to N = 32768"

    return [
        Provider(OURS, gpu_losses.dcfast_clip(), always),
        Provider(EAGER, eager, memory(18)),
        Provider(COMPILED, compiled, memory(10)),
        Provider(INF_CL, gpu_losses.inf_cl_clip(), inf_cl),
        Provider(CCE, gpu_losses.cce_clip(None), kernels),
        Provider(CCE_AUTO, gpu_losses.cce_clip("auto"), kernels),
    ]


def sizes(run: Run) -> list[tuple[int, int]]:
    """(N, D), the most wanted first: time may run out."""
    if run.device.dry_run:
        return [(33, 24)]
    return [(32768, 512), (32768, 768), (90112, 768), (32768, 1024), (8192, 512), (8192, 768), (8192, 1024)]


def timing(run: Run, wheels: Path | None) -> None:
    """All comparisons, and our parts beside the library's products."""
    sides = providers(run, wheels)
    for n, d in sizes(run):
        need = 0 if run.device.dry_run else 45 if n > 32768 else 20
        if run.clock.left() < need:
            run.skipped.append(f"timing N={n} D={d}")
            continue
        # what fails at one size is no reason to lose the others
        with gpu_checks.tested(run, f"timing N={n} D={d}"):
            compare(run, sides, n, d)
        run.write()
        if n <= 32768:
            with gpu_checks.tested(run, f"parts N={n} D={d}"):
                parts(run, n, d)
            run.write()


def compare(run: Run, sides: list[Provider], n: int, d: int) -> None:
    """Checks every side's answer at this size, then times those that passed in turns."""
    batch = make_batch(n, d, torch.bfloat16, run.device.device)
    wanted = clip_reference(batch)
    found: dict[str, dict[str, Any]] = {}
    steps: dict[str, Callable[[], Answer]] = {}
    print(f"  {batch.shape}", flush=True)
    for side in sides:
        why = "not installed" if side.loss is None else side.fits(n, d)
        if why or side.loss is None:
            run.add("clip_step", side.name, shape=batch.shape, dtype=batch.dtype, note=f"absent: {why}")
            continue
        result = checked(run, side, batch, wanted)
        if result is not None:
            found[side.name] = result
            steps[side.name] = lambda loss=side.loss: step(loss, batch)
    del wanted
    seconds = 6.0 if n > 32768 else 1.5
    times: dict[str, tuple[float, ...]] = {}
    for _ in range(2):
        for name, call in steps.items():
            if run.clock.left() > 5 or run.device.dry_run:
                times[name] = times.get(name, ()) + timed(run, name, call, batch, seconds)
    for name, calls in times.items():
        if not calls:
            continue
        row = Times(calls).row()
        rate = 8 * n * n * d / row["median_s"]
        run.add(
            "clip_step", name, shape=batch.shape, dtype=batch.dtype, **row, **found[name], flops_per_s_of_8u=rate,
            spread=max(calls) / min(calls),
        )  # fmt: skip
        peak = found[name]["peak_bytes"]
        memory = "" if peak is None else f", peak {peak / 1e6:.0f} MB"
        print(f"    {name:<30} {row['median_s'] * 1e3:9.3f} ms ({rate / 1e12:.0f} TFLOP/s of 8u{memory})", flush=True)


def timed(run: Run, name: str, call: Callable[[], Answer], batch: Batch, seconds: float) -> tuple[float, ...]:
    """Times of single calls; none, and a row that says why, where a peer fails."""
    try:
        return run.device.time(call, reps=20, most_s=seconds).calls
    except Exception as error:
        if name == OURS:
            raise
        note = f"failed: {type(error).__name__}: {error}"[:300]
        run.add("clip_step", name, shape=batch.shape, dtype=batch.dtype, note=note)
        return ()


def checked(run: Run, side: Provider, batch: Batch, wanted: Answer) -> dict[str, Any] | None:
    """The errors and the peak of memory of a side; None, and a row that says so, where it cannot be timed."""
    assert side.loss is not None
    try:
        off = errors(step(side.loss, batch), wanted)
        peak = run.device.peak_bytes(lambda: step(side.loss, batch))
    except Exception as error:
        if side.name == OURS:
            raise
        note = f"failed: {type(error).__name__}: {error}"[:300]
        run.add("clip_step", side.name, shape=batch.shape, dtype=batch.dtype, note=note)
        return None
    worst = max(off["image"], off["text"])
    ours = side.name == OURS
    bound = (1e-2 if run.device.dry_run else OUR_BOUND) if ours else PEER_BOUND
    good = math.isfinite(worst) and worst <= bound
    if ours and not good:
        run.fail(f"{side.name} {batch.shape}: errors {off}")
    if not good and not ours:
        note = f"wrong by {worst:.1e}: timed all the same"
        run.add("clip_check", side.name, shape=batch.shape, dtype=batch.dtype, errors=off, checked=False, note=note)
    return {"errors": off, "peak_bytes": peak, "checked": good}


def parts(run: Run, n: int, d: int) -> None:
    """Our forward pass, the whole backward pass, and the library's product of the same shape."""
    from dcfast.kernels import contrastive as kernels
    from dcfast.loss.backend import BASE

    batch = make_batch(n, d, torch.bfloat16, run.device.device)
    image, text, scale = batch.image.detach(), batch.text.detach(), batch.scale.detach()
    stats = kernels.clip_forward(image, text, scale)
    shift, u = stats.rows[BASE, 0], n * n * d
    work = {
        "forward": (2 * u, lambda: kernels.clip_forward(image, text, scale)),
        "sweep": (2 * u, lambda: kernels.clip_sums(image, text, scale, shift)),
        "products": (6 * u, lambda: kernels.clip_products(image, text, scale, stats)),
        "siglip": (6 * u, lambda: kernels.siglip_block(image, text, scale, None)),
        "siglip, loss alone": (2 * u, lambda: kernels.siglip_block(image, text, scale, None, grad=False)),
    }
    for name, (flops, call) in work.items():
        row = run.device.time(call, most_s=1.0).row()
        rate = flops / row["median_s"]
        run.add("clip_part", f"{OURS}, {name}", shape=batch.shape, dtype=batch.dtype, flops_per_s=rate, **row)


def print_table(run: Run) -> None:
    """Ratios of medians, ours beside every peer; errors and peaks."""
    rows = [row for row in run.rows if row["op"] == "clip_step" and row.get("median_s")]
    if not rows:
        print("nothing was timed")
        return
    title = "times of a dry run: they mean nothing" if run.device.dry_run else run.device.name
    print(f"\nCLIP loss, bfloat16, forward + backward; {title}")
    print(f"{'shape':<18}{'provider':<30}{'ms':>10}{'x dcfast':>10}{'TFLOP/s':>9}{'peak MB':>9}{'error':>10}")
    own = {row["shape"]: row["median_s"] for row in rows if row["provider"] == OURS}
    for row in rows:
        ratio = row["median_s"] / own[row["shape"]] if row["shape"] in own else math.nan
        peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}"
        error = max(row["errors"]["image"], row["errors"]["text"])
        rate = row["flops_per_s_of_8u"] / 1e12
        print(
            f"{row['shape']:<18}{row['provider']:<30}{row['median_s'] * 1e3:>10.3f}{ratio:>10.2f}{rate:>9.0f}"
            f"{peak:>9}{error:>10.1e}"
        )
