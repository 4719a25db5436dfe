"""Contrastive losses on the CPU, forward and backward, beside open_clip's: time, peak of memory, error against float64.

CLIP in float32 is compared over a grid: cosines of image and text, logit scales, numbers of pairs. Its bars are of the
cell where dcfast is least ahead, and of the median cell. Before a side is timed the features are read once, and rounds
are a multiple of the sides, so that each goes first equally often.

What is checked, before anything is timed: relative l2 errors of the loss and of the gradients of image features, text
features and scale, against float64 on the same rounded features; in every cell of up to 4,096 pairs, and in four of
8,192, one for each cosine and each scale. In the other twelve answers have to be finite, and their rows say so. Loss
and scale's gradient are those of the whole batch; of features' gradients all rows count up to ``ALL_ROWS`` pairs, of
larger batches ``SOME_ROWS`` rows of each side, evenly spread. The errors stand in each row's note. The float64 answer
is made a block of rows at a time, from differences to the positive's logit: where a batch is fitted, open_clip's own
has lost half of its digits even in float64. A dcfast whose error is above its bar, or above twice open_clip's where
that is more, stops the bench. So does one whose gradient, in float32 and with a norm above 1e-6, is off by more than
1e-4. open_clip's errors are noted, and its answer has to be finite.

Where e^(-scale * cosine) is no normal float32 open_clip multiplies denormal numbers, ten times as slowly: there it is
timed once. All of it takes five to six minutes on two cores.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from bench import harness
from bench.bars import OPEN_CLIP, Value, ratio, row_of
from bench.harness import Absent, Side, WrongAnswerError

if TYPE_CHECKING:
    from torch import Tensor

    Loss = Callable[..., Tensor]

WIDTH = 512
ROWS = (2048, 4096, 8192)
COSINES = (0.0, 0.3, 0.6, 0.9)
# untrained models start at 14.3, trained ones end at 100
SCALES = (14.3, 30.0, 50.0, 100.0)
# of a model in training
COSINE = 0.406
BARS = {"float32": 2e-6, "bfloat16": 5e-3, "float16": 5e-4, "float64": 1e-12}
# of a gradient whose norm is above the second: its relative error in float32 at most
MOST_ERROR, LEAST_NORM = 1e-4, 1e-6
GPU_ONLY = ("inf_cl", "cut-cross-entropy")
# rows whose gradients are compared with float64: all of batches of so many pairs, else so many of each side
ALL_ROWS, SOME_ROWS = 2048, 512
# rows of the matrix of logits that are there in float64 at a time
BLOCK = 512
# of a small batch, where calls cost more than arithmetic, and how often each is timed
SMALL_ROWS, SMALL_ROUNDS = (1, 8, 32, 64), 200
ROUNDS = {2048: 4, 4096: 4, 8192: 2}
# e^-87 is the smallest normal float32
LEAST_EXPONENT = 87.0


def features(rows: int, dtype: str, cosine: float = COSINE) -> tuple[Tensor, Tensor]:
    """Unit-norm pairs with this cosine of image and text, independent of each other."""
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


def losses(kind: str) -> tuple[Loss, Loss]:
    """dcfast's and open_clip's module for "clip" or "siglip"."""
    import dcfast

    theirs = open_clip_losses()
    if kind == "clip":
        return dcfast.ClipLoss(), theirs.ClipLoss()
    return dcfast.SigLipLoss(), theirs.SigLipLoss()


def one_step(loss: Loss, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Loss and the gradients of all inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    value = loss(*leaves)
    value.backward()
    return [value.detach(), *[x.grad for x in leaves]]


def exact_clip(image: Tensor, text: Tensor, scale: Tensor) -> list[Tensor]:
    """Loss and gradients in float64, with no difference of nearly equal numbers; features' for ``checked_rows``."""
    import torch

    image, text, factor = image.double(), text.double(), float(scale)
    n = len(image)
    positive = (image * text).sum(1)
    # of each row, of each column: sums of exponentials relative to the positive's, and of these times differences
    row_off, row_dots, col_off, col_dots = image.new_zeros(4, n)
    for begin in range(0, n, BLOCK):
        block = slice(begin, begin + BLOCK)
        dots = image[block] @ text.T
        for dim, off, weighted, to in ((1, row_off[block], row_dots[block], positive[block, None]),
                                       (0, col_off, col_dots, positive)):  # fmt: skip
            difference = dots - to
            terms = (factor * difference).exp_()
            terms.diagonal(begin).zero_()
            off += terms.sum(dim)
            weighted += terms.mul_(difference).sum(dim)
    loss = (row_off.log1p().mean() + col_off.log1p().mean()) / 2
    of_scale = ((row_dots / (1 + row_off)).mean() + (col_dots / (1 + col_off)).mean()) / 2
    rows = checked_rows(n)
    grads = []
    for side, other, off, other_off in ((image, text, row_off, col_off), (text, image, col_off, row_off)):
        dots = side[rows] @ other.T
        p = (factor * (dots - positive[rows, None])).exp_() / (1 + off[rows, None])
        grad = p.add_((factor * (dots - positive)).exp_() / (1 + other_off))
        grad[torch.arange(len(rows)), rows] = -(off / (1 + off) + other_off / (1 + other_off))[rows]
        grads.append(factor / (2 * n) * (grad @ other))
    return [loss, *grads, of_scale]


def checked_rows(n: int) -> Tensor:
    """The rows whose features' gradients are compared."""
    import torch

    return torch.arange(n) if n <= ALL_ROWS else torch.linspace(0, n - 1, SOME_ROWS).long()


def errors(answer: Sequence[Tensor], exact: Sequence[Tensor]) -> list[float]:
    """Relative l2 errors of loss and gradients; absolute where what is exact is 0, as all is of one pair."""
    rows = checked_rows(len(answer[1]))
    answer = [x[rows] if 0 < k < 3 and len(exact[k]) == len(rows) else x for k, x in enumerate(answer)]
    return [float((a.double() - b).norm()) / (float(b.norm()) or 1.0) for a, b in zip(answer, exact, strict=True)]


def allowed_errors(kind: str, dtype: str, peer_errors: Sequence[float], exact: Sequence[Tensor]) -> list[float]:
    """What dcfast may err, from the errors of open_clip in the same precision."""
    allowed = [max(BARS[dtype], 2 * error) for error in peer_errors]
    if kind != "clip" or dtype != "float32":
        return allowed
    capped = [k > 0 and float(x.norm()) > LEAST_NORM for k, x in enumerate(exact)]
    return [min(bar, MOST_ERROR) if cap else bar for bar, cap in zip(allowed, capped, strict=True)]


def note_of(off: Sequence[float]) -> str:
    names = ("loss", "image", "text", "scale", "bias")
    return f"errors: {', '.join(f'{name} {error:.1e}' for name, error in zip(names, off, strict=False))}"


class Answers:
    """The errors of each side's answer, and what dcfast's may be, once open_clip's are known."""

    def __init__(self, kind: str, dtype: str, exact: Sequence[Tensor] | None) -> None:
        self._kind, self._dtype, self._exact = kind, dtype, exact
        self.errors: dict[str, list[float]] = {}

    def check(self, provider: str, answer: Sequence[Tensor]) -> None:
        """Raises WrongAnswerError where an error is above what is allowed; open_clip comes first."""
        if self._exact is None:
            if not all(bool(x.isfinite().all()) for x in answer):
                raise WrongAnswerError(f"{provider}: loss or gradients are not finite")
            return
        off = self.errors[provider] = errors(answer, self._exact)
        # open_clip itself is held to hardly more than being finite: of a fitted batch it has lost everything
        allowed = [max(10.0, 100 * error) for error in off]
        if provider == "dcfast":
            allowed = allowed_errors(self._kind, self._dtype, self.errors[OPEN_CLIP], self._exact)
        if not all(error <= limit for error, limit in zip(off, allowed, strict=True)):
            raise WrongAnswerError(f"{provider}: relative errors {off}, allowed {allowed}")


def compiled_side(
    loss: Loss, inputs: Sequence[Tensor], side: Callable[[str, Loss], Side], *, quick: bool
) -> Side | Absent:
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
    dtype: str = "float32",
    *,
    rounds: int = 6,
    cosine: float = COSINE,
    everyone: bool = False,
    in_float64: bool = True,
) -> None:
    """``everyone``: open_clip's compiled, and those that run on GPUs only, too. ``in_float64``: errors are measured."""
    import torch

    image, text = features(rows, dtype, cosine)
    inputs = [image, text, torch.tensor(scale)] + ([torch.tensor(-10.0)] if kind == "siglip" else [])
    ours, theirs = losses(kind)
    exact = None
    if in_float64:
        exact = exact_clip(*inputs) if kind == "clip" else one_step(theirs, [x.double() for x in inputs])
    answers = Answers(kind, dtype, exact)
    versions = {"torch": torch.__version__, **harness.version_of("open_clip_torch")}

    def side(provider: str, loss: Loss, *, once: bool = False) -> Side:
        return Side(
            provider,
            partial(one_step, loss, inputs),
            partial(answers.check, provider),
            prepare=lambda: [float(x.sum()) for x in inputs] and None,
            threads=torch.get_num_threads(),
            versions=versions,
            once=once,
        )

    denormal = kind == "clip" and scale * cosine > LEAST_EXPONENT
    sides: list[Side | Absent] = [side(OPEN_CLIP, theirs, once=denormal), side("dcfast", ours)]
    if everyone:
        sides.append(compiled_side(theirs, inputs, side, quick=bench.options.quick))
        sides += [Absent(name, "runs on GPUs only") for name in GPU_ONLY]
    shape = f"N={rows}, D={WIDTH}, {dtype}, scale {scale:g}, cosine {cosine:g}, forward and backward"
    bench.compare(op, sides, shape=shape, dtype=dtype, rounds=rounds)
    for row in bench.rows[-len(sides) :]:
        if row["checked"]:
            row["note"] = note_of(answers.errors[row["provider"]]) if in_float64 else "finite; errors not measured"
            print(f"  {row['provider']:<34} {row['note']}")


def compare_grid(bench: harness.Bench) -> None:
    """CLIP in float32 over the grid; rows of the worst and of the median cell again, for the bars."""
    grid = ((192,), COSINES[1:2], SCALES) if bench.options.quick else (ROWS, COSINES, SCALES)
    cells = list(itertools.product(*grid))
    ratios = {}
    for rows, cosine, scale in cells:
        op = f"clip_loss_{rows}_{scale:.0f}_{cosine:g}"
        in_float64 = rows < max(ROWS) or COSINES.index(cosine) == SCALES.index(scale)
        compare_losses(bench, op, "clip", rows, scale, rounds=ROUNDS.get(rows, 2), cosine=cosine, in_float64=in_float64)
        ours, theirs = (row_of(bench.rows, op, provider) for provider in ("dcfast", OPEN_CLIP))
        ratios[op] = ratio(theirs, ours) or 0.0
    ordered = sorted(ratios, key=lambda op: ratios[op])
    print(f"\nclip_loss, {len(cells)} cells: times open_clip's speed")
    for rows, cosine in dict.fromkeys((rows, cosine) for rows, cosine, _ in cells):
        shown = [f"{scale:g}: {ratios[f'clip_loss_{rows}_{scale:.0f}_{cosine:g}']:.2f}" for scale in SCALES]
        print(f"  N={rows}, cosine {cosine:g}, by scale   {'   '.join(shown)}")
    for op, cell in (("clip_loss_worst", ordered[0]), ("clip_loss_median", ordered[(len(ordered) - 1) // 2])):
        bench.rows += [{**row, "op": op} for row in bench.rows if row["op"] == cell]


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
    for kind in ("clip", "siglip"):
        for loss in losses(kind):
            one_step(loss, [*features(300, "float32"), torch.tensor(14.3), torch.tensor(-10.0)])
    bench = harness.Bench("bench_loss", options)
    compare_grid(bench)
    compare_losses(bench, "clip_loss", "clip", 192 if options.quick else 4096, 14.3, everyone=True)
    for dtype in ("bfloat16", "float16"):
        compare_losses(bench, f"clip_loss_{dtype}", "clip", 128 if options.quick else 2048, 14.3, dtype)
    compare_losses(bench, "siglip_loss", "siglip", 160 if options.quick else 4096, 10.0)
    rounds = 4 if options.quick else SMALL_ROUNDS
    for kind, rows in itertools.product(("clip", "siglip"), SMALL_ROWS):
        compare_losses(bench, f"{kind}_loss_small_{rows}", kind, rows, 14.3, rounds=rounds)
    note_memory(bench, 512 if options.quick else 4096)
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
