"""Contrastive losses on the CPU, forward and backward, beside open_clip's: time, peak of memory, error against float64.

Errors are relative l2 errors of loss and of the gradients of image features, text features and scale, against
float64 on the same rounded features; they stand in each row's note. The CLIP loss in float64 is taken from differences
to the positive's logit: where a batch is fitted, open_clip's own has lost half of its digits even in float64. A dcfast
whose error is above its bar stops the bench; in half precision and for SigLIP twice open_clip's error is allowed too.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from bench import harness
from bench.bars import OPEN_CLIP, Value
from bench.harness import Absent, Side, WrongAnswerError

WIDTH = 512
# (N, logit scale): untrained models start at 14.3, trained ones end at 100
SHAPES = ((4096, 14.3), (4096, 100.0), (8192, 14.3), (8192, 100.0))
BARS = {"float32": 2e-6, "bfloat16": 5e-3, "float16": 5e-4, "float64": 1e-12}
GPU_ONLY = {"inf_cl": "inf_cl", "cut-cross-entropy": "cut_cross_entropy"}


def features(rows: int, dtype: str, cosine: float = 0.406) -> tuple[Any, Any]:
    """Unit-norm pairs; the default cosine is that of a model in training."""
    import torch

    generator = torch.Generator().manual_seed(rows)
    image = torch.nn.functional.normalize(torch.randn(rows, WIDTH, generator=generator), dim=1)
    other = torch.nn.functional.normalize(torch.randn(rows, WIDTH, generator=generator), dim=1)
    text = torch.nn.functional.normalize(cosine * image + (1 - cosine**2) ** 0.5 * other, dim=1)
    return image.to(getattr(torch, dtype)), text.to(getattr(torch, dtype))


def open_clip_losses() -> ModuleType:
    """open_clip's module of losses alone: the package around it takes seconds to import."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise SystemExit("bench_loss compares with open_clip: pip install open_clip_torch")
    spec = importlib.util.spec_from_file_location("open_clip_loss", Path(package.origin).with_name("loss.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def losses(kind: str) -> tuple[Any, Any]:
    """dcfast's and open_clip's module for "clip" or "siglip"."""
    import dcfast

    theirs = open_clip_losses()
    if kind == "clip":
        return dcfast.ClipLoss(), theirs.ClipLoss()
    return dcfast.SigLipLoss(), theirs.SigLipLoss()


def one_step(loss: Any, inputs: Sequence[Any]) -> list[Any]:
    """Loss and the gradients of all inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    value = loss(*leaves)
    value.backward()
    return [value.detach(), *[x.grad for x in leaves]]


def exact_clip(image: Any, text: Any, scale: Any) -> list[Any]:
    """Loss and gradients in float64, with no difference of nearly equal numbers."""
    import torch

    image, text, factor = image.double(), text.double(), float(scale)
    n = len(image)
    dots = image @ text.T
    centre = (image * text).sum(1)
    positives = torch.eye(n, dtype=torch.bool)
    loss, grad, of_scale = image.new_zeros(()), torch.zeros_like(dots), image.new_zeros(())
    for of_columns, away in enumerate((dots - centre[:, None], (dots - centre).T)):
        z = (factor * away).masked_fill_(positives, -torch.inf)
        odds = z.logsumexp(1)  # log((1 - P_ii) / P_ii)
        own = torch.logaddexp(odds, torch.zeros_like(odds)) if odds.max() > 0 else odds.exp().log1p()
        p = z.sub_(own[:, None]).exp_()
        of_scale += (p * away.masked_fill(positives, 0)).sum()
        p -= torch.diag(odds.sigmoid())
        grad += p.T if of_columns else p
        loss += own.mean() / 2
    grad /= 2 * n
    return [loss, factor * (grad @ text), factor * (grad.T @ image), of_scale / (2 * n)]


def errors(found: Sequence[Any], wanted: Sequence[Any]) -> list[float]:
    pairs = zip(found, wanted, strict=True)
    return [float((a.double() - b).norm() / b.norm()) for a, b in pairs]


def require_near(provider: str, found: Sequence[Any], wanted: Sequence[Any], allowed: Sequence[float]) -> None:
    """Raises WrongAnswerError where an error is above what is allowed."""
    got = errors(found, wanted)
    if not all(error <= limit for error, limit in zip(got, allowed, strict=True)):
        raise WrongAnswerError(f"{provider}: relative errors {got}, allowed {list(allowed)}")


def note_of(found: Sequence[Any], wanted: Sequence[Any]) -> str:
    names = ("loss", "image", "text", "scale", "bias")
    shown = (f"{name} {error:.1e}" for name, error in zip(names, errors(found, wanted), strict=False))
    return f"errors: {', '.join(shown)}"


def compiled_side(loss: Any, inputs: Sequence[Any], side: Callable[[str, Any], Side], *, quick: bool) -> Side | Absent:
    """open_clip's loss compiled, or why it could not be."""
    import torch

    provider = f"{OPEN_CLIP}, torch.compile"
    if quick:
        return Absent(provider, "takes half a minute to compile")
    try:
        # static code for each size: left to itself the compiler would turn to dynamic shapes at the second
        compiled = torch.compile(loss, dynamic=False)
        one_step(compiled, inputs)
    except Exception as error:
        return Absent(provider, f"does not compile here: {str(error).splitlines()[0][:100]}")
    return side(provider, compiled)


def compare_losses(
    bench: harness.Bench,
    op: str,
    kind: str,
    rows: int,
    scale: float,
    dtype: str,
    rounds: int,
    *,
    cosine: float | None = None,
) -> None:
    import torch

    image, text = features(rows, dtype) if cosine is None else features(rows, dtype, cosine)
    inputs = [image, text, torch.tensor(scale)] + ([torch.tensor(-10.0)] if kind == "siglip" else [])
    ours, theirs = losses(kind)
    wanted = one_step(theirs, [x.double() for x in inputs])
    if kind == "clip":
        double, wanted = wanted, exact_clip(*inputs)
        if cosine is None:  # of a fitted batch nothing is left in open_clip's
            require_near("the reference", double, wanted, [1e-3] * len(wanted))
    allowed = [max(BARS[dtype], 2 * error) for error in errors(one_step(theirs, inputs), wanted)]
    bars = [BARS[dtype]] * len(wanted) if kind == "clip" and dtype == "float32" else allowed
    # nobody else is held to the bars
    loose = [100 * bar for bar in allowed]
    versions = {"torch": torch.__version__, **harness.version_of("open_clip_torch")}

    def side(provider: str, loss: Any, allowed: Sequence[float] = loose) -> Side:
        return Side(
            provider,
            partial(one_step, loss, inputs),
            lambda found: require_near(provider, found, wanted, allowed),
            threads=torch.get_num_threads(),
            versions=versions,
            note=note_of(one_step(loss, inputs), wanted),
        )

    sides: list[Side | Absent] = [side("dcfast", ours, bars), side(OPEN_CLIP, theirs)]
    if dtype == "float32" and kind == "clip":
        sides.append(compiled_side(theirs, inputs, side, quick=bench.options.quick))
        sides += [Absent(name, "runs on GPUs only") for name in GPU_ONLY]
    fitted = "" if cosine is None else f", cosine {cosine:g}"
    shape = f"N={rows}, D={WIDTH}, {dtype}, scale {scale:g}{fitted}, forward and backward"
    bench.compare(op, sides, shape=shape, dtype=dtype, rounds=rounds)
    for s in sides:
        if isinstance(s, Side):
            print(f"  {s.provider:<34} {s.note}")


def extra_peak(provider: str, rows: int) -> tuple[int, float]:
    """(bytes resident at most during one step above those before it, seconds), gradients included; call in a process
    of its own.
    """
    import torch

    ours, theirs = losses("clip")
    loss = ours if provider == "dcfast" else theirs
    small = [*features(min(rows, 300), "float32"), torch.tensor(14.3)]
    inputs = [*features(rows, "float32"), torch.tensor(14.3)]
    one_step(loss, small)  # code, threads and their buffers
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    began = time.perf_counter()
    one_step(loss, inputs)
    return _status("VmHWM") - before, time.perf_counter() - began


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(f"{name}:"))


def note_memory(bench: harness.Bench, rows: int) -> None:
    # the bar is of the newest row
    for provider in (OPEN_CLIP, "dcfast"):
        code = (
            f"import json; from bench import bench_loss; print(json.dumps(bench_loss.extra_peak({provider!r}, {rows})))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=harness.REPO_ROOT, capture_output=True, text=True, check=True
        )
        peak, seconds = json.loads(done.stdout.splitlines()[-1])
        shape = f"N={rows}, D={WIDTH}, float32, forward and backward, gradients included"
        bench.note_memory(
            "clip_loss_memory", provider, peak, shape=shape, seconds=seconds, note="above the state before"
        )


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_loss", argv, __doc__)
    import torch

    torch.set_num_threads(options.threads)
    bench = harness.Bench("bench_loss", options)
    for rows, scale in SHAPES:
        op = f"clip_loss_{rows}_{scale:.0f}"
        compare_losses(bench, op, "clip", 192 if options.quick else rows, scale, "float32", 5)
    # a few entries carry the loss, which is 4e-34
    fitted = 192 if options.quick else 4096
    compare_losses(bench, "clip_loss_fitted", "clip", fitted, 100.0, "float32", 3, cosine=0.95)
    for dtype in ("bfloat16", "float16"):
        compare_losses(bench, f"clip_loss_{dtype}", "clip", 128 if options.quick else 2048, 14.3, dtype, 3)
    compare_losses(bench, "siglip_loss", "siglip", 160 if options.quick else 4096, 10.0, "float32", 3)
    note_memory(bench, 512 if options.quick else 4096)
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
