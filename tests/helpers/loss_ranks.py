"""Run as a script: ranks as forked processes with gloo; all modes of the losses beside open_clip's in the same ranks.

Prints one JSON object: errors, case -> [the largest error over ranks, that of open_clip in the same precision], both
against open_clip in float64; checks, name -> whether it held on every rank.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import dcfast
import torch
from dcfast.loss import ClipLoss, SigLipLoss
from torch import Tensor
from torch import distributed as dist

WIDTH = 24
Pair = tuple[Tensor, Tensor]
Scalars = tuple[float, ...]


def open_clip_loss() -> ModuleType:
    """open_clip's loss module alone: the package imports much that is not needed."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None
    assert package.origin is not None
    spec = importlib.util.spec_from_file_location("open_clip_loss", Path(package.origin).with_name("loss.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def features(rank: int, rows: int, dtype: torch.dtype, *, width: int = WIDTH, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + rank + 10 * seed)
    image = torch.nn.functional.normalize(torch.randn(rows, width, generator=generator), dim=1)
    noise = torch.randn(rows, width, generator=generator) / (3 * (width / WIDTH) ** 0.5)
    text = torch.nn.functional.normalize(image + noise, dim=1)
    return image.to(dtype), text.to(dtype)


def opposite(rank: int, rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """All texts opposite to all images: no common shift serves."""
    generator = torch.Generator().manual_seed(rank)
    image = torch.nn.functional.normalize(torch.ones(rows, WIDTH), dim=1)
    text = -image + 0.01 * torch.randn(rows, WIDTH, generator=generator)
    return image.to(dtype), text.to(dtype)


def cone(rank: int, rows: int) -> Pair:
    """All in one narrow cone, the same on all ranks."""
    shared = torch.ones(1, WIDTH) / WIDTH**0.5
    return tuple(torch.nn.functional.normalize(3 * shared + x, dim=1) for x in features(rank, rows, torch.float32))


def run(loss: Callable[..., Tensor], pair: Pair, *scalars: float, dtype: torch.dtype) -> list[Tensor]:
    """Loss and gradients of features and scalars."""
    leaves = [x.to(dtype).detach().clone().requires_grad_() for x in pair]
    leaves += [torch.tensor(s, dtype=torch.float64 if dtype == torch.float64 else torch.float32) for s in scalars]
    for leaf in leaves:
        leaf.requires_grad_()
    value = loss(*leaves)
    (value * 3).backward()
    return [value.detach(), *[x.grad for x in leaves if x.grad is not None]]


def error(ours: list[Tensor], theirs: list[Tensor]) -> float:
    assert len(ours) == len(theirs)
    found = []
    for a, b in zip(ours, theirs, strict=True):
        norm = float(b.double().norm())
        found.append(float((a.double() - b.double()).norm()) / (norm if norm > 1e-12 else 1.0))
    return max(found)  # NaN is not below any bar


def cases(rank: int, world_size: int) -> Iterator[tuple[str, Callable[[], tuple[float, float]]]]:
    theirs = open_clip_loss()
    ranks = {"rank": rank, "world_size": world_size}

    done: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}

    def compare(ours: Any, other: Any, pair: Pair, scalars: Scalars, dtype: torch.dtype) -> tuple[float, float]:
        # the reference is computed in float64 from the same rounded features, once for both schedules
        key = str(vars(other)), pair[0].shape, float(pair[0][0, 0]), scalars, dtype
        if key not in done:
            done[key] = tuple(run(other, pair, *scalars, dtype=d) for d in (torch.float64, dtype))
        exact, plain = done[key]
        return error(run(ours, pair, *scalars, dtype=dtype), exact), error(plain, exact)

    modes = list(itertools.product((True, False), (True, False)))
    for (local, with_grad), schedule in itertools.product(modes, ("gather", "ring")):
        settings = {"local_loss": local, "gather_with_grad": with_grad, **ranks}
        ours, other = ClipLoss(**settings, schedule=schedule), theirs.ClipLoss(**settings)
        name = f"clip local={local} grad={with_grad} {schedule}"
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            pair = features(rank, 17, dtype)
            kind = str(dtype).removeprefix("torch.")
            yield f"{name} {kind}", lambda o=ours, t=other, p=pair, d=dtype: compare(o, t, p, (25.0,), d)
            if kind == "float32":
                for seed in range(1, 6):
                    # small batches, where the scale's gradient nearly cancels in some draws
                    pair = features(rank, 3, dtype, seed=seed)
                    yield (
                        f"{name} seed {seed} {kind}",
                        lambda o=ours, t=other, p=pair: compare(o, t, p, (14.3,), p[0].dtype),
                    )
                # more than 256 rows, nearly fitted: a few entries carry the loss
                pair = features(rank, 280, dtype, width=64)
                yield f"{name} fitted {kind}", lambda o=ours, t=other, p=pair: compare(o, t, p, (60.0,), p[0].dtype)
                pair = cone(rank, 270)
                yield f"{name} cone {kind}", lambda o=ours, t=other, p=pair: compare(o, t, p, (60.0,), p[0].dtype)
                for rows, norm in ((20, 1e6), (261, 30.0)):  # logits much further apart than exponents
                    pair = tuple(norm * x for x in features(rank, rows, dtype))
                    yield (
                        f"{name} norm {norm:g} {kind}",
                        lambda o=ours, t=other, p=pair: compare(o, t, p, (5.0,), p[0].dtype),
                    )
        pair = opposite(rank, 5, torch.float32)
        yield f"{name} opposite", lambda o=ours, t=other, p=pair: compare(o, t, p, (140.0,), torch.float32)
    one = features(rank, 1, torch.float32)
    settings = {"local_loss": True, "gather_with_grad": True, **ranks}
    pair_losses = ClipLoss(**settings), theirs.ClipLoss(**settings)
    yield "clip one pair a rank", lambda: compare(*pair_losses, one, (9.0,), torch.float32)
    for impl in ("bidir", "shift", "reduce", "gather"):
        for dtype in (torch.float64, torch.float32):
            pair = features(rank, 13, dtype)
            kind = str(dtype).removeprefix("torch.")
            mine, other = SigLipLoss(**ranks, dist_impl=impl), theirs.SigLipLoss(**ranks, dist_impl=impl)
            yield f"siglip {impl} {kind}", lambda o=mine, t=other, p=pair, d=dtype: compare(o, t, p, (12.0, -9.0), d)


def other_checks(rank: int, world_size: int) -> dict[str, bool]:
    """Things that hold or do not, each a name and whether it did on this rank."""
    settings = {"local_loss": True, "gather_with_grad": True, "rank": rank, "world_size": world_size}
    pair = features(rank, 19, torch.float32)
    first, second = (run(ClipLoss(**settings), pair, 20.0, dtype=torch.float32) for _ in range(2))
    found = {"two runs are equal": all(torch.equal(a, b) for a, b in zip(first, second, strict=True))}
    if world_size == 2:  # slow, and the same for more
        compiled = torch.compile(ClipLoss(**settings), fullgraph=True, backend="aot_eager")
        third = run(compiled, pair, 20.0, dtype=torch.float32)
        found["compiled is equal"] = all(torch.equal(a, b) for a, b in zip(first, third, strict=True))
    group = dist.new_group(list(range(world_size)))
    if world_size == 2:
        compiled = torch.compile(ClipLoss(**settings, group=group), fullgraph=True, backend="aot_eager")
        third = run(compiled, pair, 20.0, dtype=torch.float32)
        found["compiled is equal, own group"] = all(torch.equal(a, b) for a, b in zip(first, third, strict=True))
    found |= siglip_without_features_gradients(rank, world_size, pair)
    fourth = run(ClipLoss(**settings, group=group, schedule="ring"), pair, 20.0, dtype=torch.float32)
    found["a group by itself, in a ring"] = error(fourth, first) < 2e-5
    bad = (pair[0].clone(), pair[1])
    if rank == world_size - 1:
        bad[0][0, 0] = torch.nan
    found["NaN reaches every rank"] = bool(ClipLoss(**settings)(*bad, 20.0).isnan())
    try:
        ClipLoss(rank=rank, world_size=world_size + 1)(*pair, 20.0)
    except ValueError as problem:
        found["a wrong world size is refused"] = "those of the process group" in str(problem)
    found |= refused_on_every_rank(rank, world_size, pair)
    alone = torch.tensor(20.0, requires_grad=True)
    for schedule in ("gather", "ring"):
        alone.grad = None
        (ClipLoss(**settings, schedule=schedule)(*pair, alone) * 3).backward()
        found[f"the scale alone, {schedule}"] = error([alone.grad], [first[3]]) < 2e-5
    image = pair[0].clone().requires_grad_()
    ClipLoss(**settings)(image, pair[1], 20.0).backward()
    found["frozen texts"] = image.grad is not None and error([image.grad * 3], [first[1]]) < 1e-6
    theirs = open_clip_loss()
    for local in (True, False):
        for with_grad in (True, False):
            modes = {**settings, "local_loss": local, "gather_with_grad": with_grad}
            logits = [
                run(lambda *x, m=m: sum(y.square().sum() for y in m.get_logits(*x)), pair, 2.0, dtype=torch.float64)
                for m in (ClipLoss(**modes), theirs.ClipLoss(**modes))
            ]
            found["logits"] = found.get("logits", True) and error(*logits) < 1e-10
    labels = [m.ClipLoss(**settings).get_ground_truth(torch.device("cpu"), 5) for m in (theirs, dcfast)]
    found["labels"] = torch.equal(*labels)
    return found


def siglip_without_features_gradients(rank: int, world_size: int, pair: Pair) -> dict[str, bool]:
    """As in evaluation, and where only scale and bias are trained."""
    found = {}
    for impl in ("bidir", "gather"):
        loss = SigLipLoss(rank=rank, world_size=world_size, dist_impl=impl)
        whole = run(loss, pair, 9.0, -5.0, dtype=torch.float32)
        with torch.no_grad():
            value = loss(*pair, 9.0, -5.0)
        found[f"siglip without gradients, {impl}"] = error([value], whole[:1]) < 2e-6
        scalars = [torch.tensor(x, requires_grad=True) for x in (9.0, -5.0)]
        (loss(*pair, *scalars) * 3).backward()
        found[f"siglip's scalars alone, {impl}"] = error([x.grad for x in scalars], whole[3:]) < 2e-6
    return found


def refused_on_every_rank(rank: int, world_size: int, pair: Pair) -> dict[str, bool]:
    """What one rank alone gives wrong must raise on all: none may wait for the others."""
    last = rank == world_size - 1
    losses = [ClipLoss(rank=rank, world_size=world_size, schedule=schedule) for schedule in ("gather", "ring")]
    losses += [SigLipLoss(rank=rank, world_size=world_size, dist_impl=impl) for impl in ("bidir", "gather")]
    shorter = [x[: -1 if last else None] for x in pair]
    other = [x.double() if last else x for x in pair]
    given = {"rows": (*shorter, 20.0), "dtype": (*other, 20.0)}
    given["scale"] = (*pair, torch.tensor(float("nan") if last else 20.0))
    found = {}
    for name, arguments in given.items():
        held = []
        for loss in losses:
            try:
                loss(*arguments, torch.tensor(0.0))
                held.append(False)
            except ValueError as problem:
                held.append("all ranks must give features of the same shape and dtype" in str(problem))
        found[f"other {name} on one rank"] = all(held)
    return found


def work(rank: int, world_size: int, store: str, queue: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    found = {name: case() for name, case in cases(rank, world_size)}
    queue.put((found, other_checks(rank, world_size)))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    world_size = int(sys.argv[1])
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as directory:
        queue = context.Queue()
        store = os.path.join(directory, "store")
        children = [
            context.Process(target=work, args=(k, world_size, store, queue), daemon=True) for k in range(world_size)
        ]
        for child in children:
            child.start()
        answers = [queue.get(timeout=200) for _ in children]
        for child in children:
            child.join()
    errors = {name: [max(answer[0][name][k] for answer in answers) for k in (0, 1)] for name in answers[0][0]}
    checks = {name: all(answer[1].get(name, False) for answer in answers) for name in answers[0][1]}
    print(json.dumps({"errors": errors, "checks": checks}))


if __name__ == "__main__":
    main()
