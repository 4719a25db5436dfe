"""Correctness on the device that is timed: every answer beside float64, hard cases, repeatability, no waiting."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bench import gpu_losses
from bench.gpu_device import Run
from bench.gpu_losses import Answer, Batch, Loss, clip_reference, errors, make_batch, naive_clip, step

# relative l2 errors of feature gradients beside float64, from the same rounded features
BOUNDS = {"float32": 2e-6, "bfloat16": 5e-3, "float16": 5e-4}
# the interpreter of the dry run truncates to bfloat16 where a GPU rounds to nearest
DRY_BOUNDS = {**BOUNDS, "bfloat16": 1e-2}
# of the limit: kernels are compiled during the checks, and a slow compiler must not leave the timing nothing
MOST_OF_CHECKS = 0.5


def check(
    run: Run,
    name: str,
    batch: Batch,
    loss: Loss,
    wanted: Answer,
    *,
    bounds: dict[str, float],
    naive: Loss | None = None,
) -> Answer:
    """One step beside the reference; a row, and a failure where it is outside.

    ``naive``, a plain loss of the same dtype: where it errs by half of a bound or more, twice its error is allowed, as
    the features are what is ill-conditioned then. The row holds both, and what is above the bar by itself.
    """
    found = step(loss, batch)
    off = errors(found, wanted)
    bound = bounds[batch.dtype]
    # loss and scale keep float32 sums whatever the features; the scale's gradient is a dot with rounded products
    allowed = {
        "loss": 5e-6,
        "image": bound,
        "text": bound,
        "scale": max(bound, 2e-5) * (10 if run.device.dry_run else 1),
    }
    plain = errors(step(naive, batch), wanted) if naive is not None else {}
    allowed = {k: max(limit, 2 * plain.get(k, 0.0)) for k, limit in allowed.items()}
    above = [k for k in allowed if off[k] > bound]
    good = found.finite() and all(off[k] <= allowed[k] for k in allowed)
    values = {"errors": off, "naive_errors": plain, "allowed": allowed, "above_bar": above, "checked": good}
    run.add("check", name, shape=batch.shape, dtype=batch.dtype, **values)
    if above:
        print(f"  above {bound:g}: {name} {batch.shape} {batch.dtype}: {off}; naive {plain}", flush=True)
    if not good:
        run.fail(f"{name} {batch.shape} {batch.dtype}: errors {off}, allowed {allowed}")
    return found


def claim(run: Run, name: str, good: bool, note: str = "") -> None:
    """A row for something that holds or not."""
    run.add("check", name, checked=bool(good), note=note)
    if not good:
        run.fail(f"{name}: {note or 'does not hold'}")


@contextlib.contextmanager
def tested(run: Run, name: str) -> Iterator[None]:
    """An exception is a failure of this check, not the end of the run."""
    try:
        yield
    except Exception as error:
        run.fail(f"{name}: {type(error).__name__}: {error}")
        run.add("check", name, checked=False, note=f"{type(error).__name__}: {error}"[:300])


def shapes(run: Run) -> list[tuple[int, int, float]]:
    """(N, D, logit scale)."""
    if run.device.dry_run:
        return [(1, 16, 14.2857), (33, 24, 100.0)]
    return [
        *(
            (1, 512, 14.2857),
            (2, 8, 14.2857),
            (31, 33, 1.0),
            (127, 96, 14.2857),
            (128, 512, 100.0),
            (129, 500, 14.2857),
        ),
        *((257, 17, -5.0), (1000, 640, 14.2857), (1024, 768, 100.0), (2047, 1024, 14.2857), (2048, 512, 100.0)),
        (2500, 768, 14.2857),
    ]


def clip_answers(run: Run) -> None:
    """Sizes around tiles, in three dtypes; a fitted batch; large norms; a batch beyond the exponent window."""
    ours = gpu_losses.dcfast_clip()
    bounds = DRY_BOUNDS if run.device.dry_run else BOUNDS
    device = run.device.device
    for n, d, scale in shapes(run):
        if run.clock.spent() > MOST_OF_CHECKS * run.clock.limit_s and not run.device.dry_run:
            run.skipped.append(f"clip N={n} D={d}")
            continue
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            with tested(run, f"clip N={n} D={d} {dtype}"):
                batch = make_batch(n, d, dtype, device, scale=scale)
                check(run, "clip", batch, ours, clip_reference(batch), bounds=bounds, naive=naive_clip)
        run.write()
    fitted = (33, 24) if run.device.dry_run else (1500, 512)
    with tested(run, "clip, fitted"):
        batch = make_batch(*fitted, torch.float32, device, scale=20.0, like=0.7)
        check(run, "clip, fitted", batch, ours, clip_reference(batch), bounds=bounds, naive=naive_clip)
    with tested(run, "clip, beyond the window"):
        batch = opposite(*fitted, device)
        loss = step(ours, batch).loss
        off = abs(float(loss) - float(clip_reference(batch).loss))
        claim(run, "clip, beyond the window", off <= 1e-3, f"loss off by {off:.1e}")
        one_away = make_batch(*fitted, torch.bfloat16, device, scale=1000.0)
        check(run, "clip, scale 1000", one_away, ours, clip_reference(one_away), bounds={"bfloat16": 1e-2})


def opposite(n: int, d: int, device: torch.device) -> Batch:
    """All texts opposite to all images: with the common shift every sum would vanish."""
    generator = torch.Generator(device=device).manual_seed(1)
    one = normalize(torch.randn(1, d, generator=generator, device=device), dim=1).expand(n, d)
    noise = torch.randn(n, d, generator=generator, device=device)
    text = normalize(-one + 0.01 * noise, dim=1)
    scale = torch.tensor(100.0, device=device, requires_grad=True)
    return Batch(one.clone().requires_grad_(), text.requires_grad_(), scale)


def behaviour(run: Run) -> None:
    """Not finite, repeatable, views, autocast, compiled, captured, never waiting for the device."""
    ours, device = gpu_losses.dcfast_clip(), run.device.device
    size = (33, 24) if run.device.dry_run else (2304, 512)
    with tested(run, "not finite shows"):
        for value in (float("nan"), float("inf")):
            batch = make_batch(*size, torch.bfloat16, device)
            with torch.no_grad():
                batch.image[3, 1] = value
            claim(run, f"{value} in a feature shows", not bool(torch.isfinite(step(ours, batch).loss)))
    with tested(run, "two runs are equal to the bit"):
        batch = make_batch(*size, torch.bfloat16, device)
        first, second = step(ours, batch), step(ours, batch)
        pairs = [(getattr(first, k), getattr(second, k)) for k in ("loss", "image", "text", "scale")]
        claim(run, "two runs are equal to the bit", all(torch.equal(a, b) for a, b in pairs))
    with tested(run, "views"):
        _views(run, ours, batch)
    with tested(run, "autocast"):
        _autocast(run, ours, size)
    if not run.device.dry_run:
        with tested(run, "compiled"):
            compiled = torch.compile(ours, fullgraph=True)
            check(run, "clip, compiled", batch, compiled, clip_reference(batch), bounds=BOUNDS)
        with tested(run, "never waits"):
            _never_waits(run, ours, batch)
        with tested(run, "captured in a CUDA graph"):
            _captured(run, ours, size)


def _views(run: Run, ours: Loss, batch: Batch) -> None:
    n, d = batch.image.shape
    wide = torch.full((n, 2 * d + 1), float("nan"), device=batch.image.device, dtype=batch.image.dtype)
    wide[:, 1::2] = batch.image.detach()
    column_major = batch.text.detach().t().contiguous().t()
    view = Batch(wide[:, 1::2].requires_grad_(), column_major.requires_grad_(), batch.scale)
    found, wanted = step(ours, view), step(ours, batch)
    claim(run, "strided views give the same bits", torch.equal(found.image, wanted.image))
    claim(run, "strided views give the same loss", torch.equal(found.loss, wanted.loss))


def _autocast(run: Run, ours: Loss, size: tuple[int, int]) -> None:
    device = run.device.device
    batch = make_batch(*size, torch.float32, device)

    def under(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return ours(image, text, scale)

    rounded = Batch(batch.image.detach().bfloat16(), batch.text.detach().bfloat16(), batch.scale)
    check(run, "clip, autocast", batch, under, clip_reference(rounded), bounds={"float32": 1e-2})


def _never_waits(run: Run, ours: Loss, batch: Batch) -> None:
    step(ours, batch)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(ours, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    claim(run, "no step waits for the device", True)


def _captured(run: Run, ours: Loss, size: tuple[int, int]) -> None:
    batch = make_batch(*size, torch.bfloat16, run.device.device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(ours, batch)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step(ours, batch)
    other = make_batch(*size, torch.bfloat16, run.device.device, seed=5)
    with torch.no_grad():
        batch.image.copy_(other.image)
        batch.text.copy_(other.text)
    graph.replay()
    torch.cuda.synchronize()
    off = errors(found, clip_reference(other))
    claim(run, "captured in a CUDA graph", max(off["loss"] * 1e3, off["image"]) <= 5e-3, str(off))


def siglip_answers(run: Run) -> None:
    """SigLIP's loss and gradients beside float64."""
    from dcfast.loss.functional import siglip_loss

    bounds = DRY_BOUNDS if run.device.dry_run else BOUNDS
    for n, d in ((33, 24),) if run.device.dry_run else ((1, 512), (129, 500), (1024, 768), (2047, 512)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            with tested(run, f"siglip N={n} D={d} {dtype}"):
                batch = make_batch(n, d, dtype, run.device.device, scale=10.0)

                def loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
                    return siglip_loss(image, text, scale, -10.0)

                wanted = gpu_losses.siglip_reference(batch, -10.0)
                check(run, "siglip", batch, loss, wanted, bounds=bounds)


def ranks_answers(run: Run) -> None:
    """The rows of four ranks in one process: together they are the whole."""
    from dcfast.kernels import contrastive as kernels

    rows, depth = (10, 24) if run.device.dry_run else (640, 512)
    with tested(run, "rows of ranks"):
        batch = make_batch(4 * rows, depth, torch.bfloat16, run.device.device)
        image, text, scale = batch.image.detach(), batch.text.detach(), batch.scale.detach()
        shift = kernels.clip_shift(kernels.clip_norms(image), kernels.clip_norms(text), scale, len(image))
        begins = range(0, len(image), rows)
        sums = [kernels.clip_sums(image[b : b + rows], text, scale, shift, b) for b in begins]
        diagonal = torch.cat([s.diag for s in sums])
        col_off = torch.stack([s.col_off for s in sums]).sum(0)
        wanted = clip_reference(batch)
        d_text = torch.zeros_like(wanted.text)
        factor = scale.double() / (2 * len(image))
        for b, s in zip(begins, sums, strict=True):
            stats = kernels.clip_stats((s.row_off, s.diag), (col_off, diagonal), shift)
            products = kernels.clip_products(image[b : b + rows], text, scale, stats, b, dots=True)
            off = float((products.image * factor - wanted.image[b : b + rows]).norm() / wanted.image.norm())
            claim(run, f"rows of rank {b // rows}", off <= 5e-3, f"error {off:.1e}")
            d_text += products.text * factor
        off = float((d_text - wanted.text).norm() / wanted.text.norm())
        claim(run, "text gradients of all ranks", off <= 5e-3, f"error {off:.1e}")


CHECKS: tuple[Callable[[Run], None], ...] = (clip_answers, siglip_answers, ranks_answers, behaviour)


def correctness(run: Run) -> None:
    """All checks, as long as the clock allows."""
    for part in CHECKS:
        if run.clock.left() <= 0:
            run.skipped.append(part.__name__)
            run.fail(f"{part.__name__}: no time left to check")
            continue
        before = len(run.failures)
        part(run)
        print(f"  {part.__name__}: {len(run.failures) - before} wrong ({run.clock.spent():.0f} s)", flush=True)
        run.write()
