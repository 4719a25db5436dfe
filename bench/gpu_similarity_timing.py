"""Times of similarity beside torch: answers of some rows are checked first, at the full size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bench.gpu_checks import claim, tested
from bench.gpu_device import Run
from bench.gpu_similarity import make_importable, reference, same, screens, searching

OURS, MM = "dcfast", "torch.mm alone, per score"
DATACOMP, TOPK = "DataComp's function", "torch mm + topk"
THRESHOLD = 0.6
# rows of the pool of datacomp's medium scale, whose join against itself is reckoned
POOL = 12_800_000
# seconds that all of this may take: the losses come after it
MOST = 170.0


@dataclass(frozen=True)
class Shape:
    """Query rows, database rows, width; ``slice`` query rows for what writes the whole matrix."""

    n: int
    m: int
    d: int
    slice: int

    def __str__(self) -> str:
        return f"{self.n}x{self.m}x{self.d}"


def shapes(run: Run) -> tuple[Shape, Shape]:
    """Of assign, and of join and top-k."""
    if run.device.dry_run:
        return Shape(40, 70, 24, 16), Shape(48, 64, 16, 16)
    return Shape(1_000_000, 100_000, 768, 65_536), Shape(262_144, 1_000_000, 512, 16_384)


def make_sides(run: Run, shape: Shape) -> tuple[Tensor, Tensor]:
    """bfloat16 unit rows; one in a hundred of the database is near to a query."""
    generator = torch.Generator(device=run.device.device).manual_seed(3)
    a, b = (
        torch.cat([
            normalize(torch.randn(min(65536, rows - i), shape.d, generator=generator, device=run.device.device), dim=1)
            for i in range(0, rows, 65536)
        ])
        for rows in (shape.n, shape.m)
    )  # fmt: skip
    planted = torch.arange(0, shape.m, 100, device=a.device)
    near = a[planted % shape.n] + 0.6 / math.sqrt(shape.d) * torch.randn(
        len(planted), shape.d, generator=generator, device=a.device
    )
    b[planted] = normalize(near, dim=1)
    return a.bfloat16(), b.bfloat16()


def time(
    run: Run, op: str, provider: str, shape: Shape, call: Callable[[], Any], rows: int, most_s: float = 3.0
) -> float:
    """A row with the median and scores a second; the rate."""
    found = run.device.time(call, reps=10, warm_up=1, most_s=most_s).row()
    rate = rows * shape.m / found["median_s"]
    run.add(
        op, provider, shape=str(shape), dtype="bfloat16", query_rows=rows, scores_per_s=rate,
        flops_per_s=2 * shape.d * rate, **found,
    )  # fmt: skip
    print(f"    {op}, {provider}: {found['median_s'] * 1e3:.1f} ms for {rows} rows, "
          f"{2e-12 * shape.d * rate:.0f} TFLOP/s", flush=True)  # fmt: skip
    return rate


def library_rate(run: Run, op: str, shape: Shape, a: Tensor, b: Tensor) -> None:
    """The product alone, of a slice whose bfloat16 result fits."""
    rows = min(shape.slice, shape.n)
    out = torch.empty(rows, shape.m, dtype=torch.bfloat16, device=a.device)
    time(run, op, MM, shape, lambda: torch.mm(a[:rows], b.t(), out=out), rows)


def datacomp_assign(embeddings: Tensor, centroids: Tensor, batch: int) -> Tensor:
    """What DataComp's filter does, by its description: float32 products with all centroids, argmax, to the CPU."""
    parts = []
    for begin in range(0, len(embeddings), batch):
        scores = torch.einsum("nd,kd->nk", embeddings[begin : begin + batch].float(), centroids.float())
        parts.append(scores.argmax(dim=1).cpu())
    return torch.cat(parts)


def check_rows(run: Run, op: str, a: Tensor, b: Tensor, found: Callable[[Tensor, Tensor], bool]) -> None:
    """Some rows at full size against float64; ``found(rows, scores)`` says whether they agree."""
    rows = torch.arange(0, len(a), max(1, len(a) // 16), device=a.device)[:16]
    claim(run, f"similarity, {op}, some rows at full size", found(rows, reference(a[rows], b, "ip")))


def assign(run: Run, ways: dict[str, Any], shape: Shape) -> None:
    """Nearest centers."""
    from dcfast.similarity import gpu

    a, b = make_sides(run, shape)
    print(f"  assign {shape}", flush=True)
    library_rate(run, "assign", shape, a, b)
    for name, screen in ways.items():
        search = searching(run, screen, a, b, "ip")
        index, score = gpu.assign(search)

        def agrees(rows: Tensor, scores: Tensor, index: Tensor = index, score: Tensor = score) -> bool:
            return same((score[rows], index[rows]), (scores.amax(1), (scores == scores.amax(1, True)).byte().argmax(1)))

        check_rows(run, f"assign, {name}", a, b, agrees)
        if name != "torch" or run.device.dry_run:
            time(run, "assign", f"{OURS}, {name}", shape, lambda s=search: gpu.assign(s), shape.n, 4.0)
        kernel_rate(run, "assign", name, screen, shape, a, b)
    rows = min(shape.slice, shape.n)
    time(run, "assign", DATACOMP, shape, lambda: datacomp_assign(a[:rows], b, 16384), rows)


def kernel_rate(run: Run, op: str, name: str, screen: Any, shape: Shape, a: Tensor, b: Tensor) -> None:
    """The screening alone."""
    from torch.nn.functional import pad

    rows = min(shape.n, 131072)
    x, y = (pad(side, (0, -shape.d % 16)) for side in (a[:rows], b))
    limit = torch.full((rows,), THRESHOLD, device=a.device)
    calls = {"assign": lambda: screen.best_two(x, y), "join": lambda: screen.above(x, y, limit, 1 << 20)}
    time(run, op, f"screening alone, {name}", shape, calls[op], rows, 1.5)


def join(run: Run, ways: dict[str, Any], shape: Shape) -> None:
    """Pairs above a threshold, and the best k."""
    from dcfast.similarity import gpu

    a, b = make_sides(run, shape)
    print(f"  join and top-k {shape}", flush=True)
    library_rate(run, "join", shape, a, b)
    for name, screen in ways.items():
        search = searching(run, screen, a, b, "ip")
        if name == "torch" and not run.device.dry_run:
            continue  # the oracle of the checks; its time says nothing
        pairs = gpu.join(search, THRESHOLD, False, 1 << 26, False)

        def joined(rows: Tensor, scores: Tensor, pairs: Any = pairs) -> bool:
            ia, ib = (scores >= THRESHOLD).nonzero(as_tuple=True)
            here = torch.isin(pairs[0], rows)
            return same([field[here] for field in pairs], (rows[ia], ib, scores[ia, ib]))

        check_rows(run, f"join, {name}", a, b, joined)

        def joining(search: Any = search) -> Any:
            return gpu.join(search, THRESHOLD, False, 1 << 26, False)

        rate = time(run, "join", f"{OURS}, {name}", shape, joining, shape.n, 4.0)
        kernel_rate(run, "join", name, screen, shape, a, b)
        minutes = POOL * POOL / 2 / rate / 60
        note = f"{POOL} rows against themselves, each pair once, reckoned from this rate: {minutes:.1f} minutes"
        run.add("pool_join", f"{OURS}, {name}", shape=f"{POOL}x{POOL}x{shape.d}", minutes=minutes, note=note)
        print(f"    {note}", flush=True)
        for k in (1, 10, 32):
            topk(run, name, search, shape, a, b, k)
    torch_topk(run, shape, a, b)


def topk(run: Run, name: str, search: Any, shape: Shape, a: Tensor, b: Tensor, k: int) -> None:
    from dcfast.similarity import gpu

    scores, index = gpu.topk(search, k, False)

    def agrees(rows: Tensor, wanted: Tensor) -> bool:
        order = wanted.argsort(dim=1, descending=True, stable=True)[:, :k]
        return same((scores[rows], index[rows]), (wanted.gather(1, order), order))

    check_rows(run, f"top-{k}, {name}", a, b, agrees)
    time(run, f"topk {k}", f"{OURS}, {name}", shape, lambda: gpu.topk(search, k, False), shape.n, 3.0)


def torch_topk(run: Run, shape: Shape, a: Tensor, b: Tensor) -> None:
    """What one writes by hand: the product in bfloat16, then its best k; not exact."""
    rows = min(shape.slice // 4, shape.n)
    for k in (1, 10, 32):
        time(run, f"topk {k}", TOPK, shape, lambda k=k: torch.mm(a[:rows], b.t()).topk(k, dim=1), rows, 2.0)


def timing(run: Run) -> None:
    """All of it."""
    make_importable()
    ways, (nearest, pairs) = screens(run), shapes(run)
    ends = run.clock.spent() + MOST
    for part, shape in ((assign, nearest), (join, pairs)):
        if run.clock.spent() > ends - MOST / 3 or (run.clock.left() < 40 and not run.device.dry_run):
            run.skipped.append(f"similarity, {part.__name__}")
            continue
        with tested(run, f"similarity, {part.__name__}"):
            part(run, ways, shape)
        run.write()
        if not run.device.dry_run:
            torch.cuda.empty_cache()


def print_table(run: Run) -> None:
    """Scores a second of each provider, and ratios to the product alone."""
    rows = [row for row in run.rows if row.get("scores_per_s")]
    if not rows:
        return
    title = "times of a dry run: they mean nothing" if run.device.dry_run else run.device.name
    print(f"\nSimilarity, bfloat16; {title}")
    print(f"{'operation':<10}{'shape':<24}{'provider':<36}{'ms':>10}{'rows':>9}{'TFLOP/s':>9}{'x torch.mm':>11}")
    alone = {row["shape"]: row["scores_per_s"] for row in rows if row["provider"] == MM}
    for row in rows:
        ratio = row["scores_per_s"] / alone.get(row["shape"], math.nan)
        print(
            f"{row['op']:<10}{row['shape']:<24}{row['provider']:<36}{row['median_s'] * 1e3:>10.1f}"
            f"{row['query_rows']:>9}{row['flops_per_s'] / 1e12:>9.0f}{ratio:>11.2f}"
        )
