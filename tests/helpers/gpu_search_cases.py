"""Searches as a GPU does them, on the CPU: with torch's products in the test's process, and, run as a script with
TRITON_INTERPRET=1, with the Triton kernels (``interpreter``). Every answer is held against float64, to the bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from dcfast.similarity import gpu, gpu_search
from dcfast.similarity.database import as_database
from dcfast.similarity.gpu_screen import Screen, TorchScreen, screen_for
from dcfast.similarity.operands import Rows, as_rows
from interpreter import answer_cases
from similarity_oracle import clustered

CPU = torch.device("cpu")
SIGN = {"ip": 1, "cos": 1, "l2": -1}


def lanes(terms: np.ndarray) -> np.ndarray:
    """Sums of the last axis in the order of ``gpu_scores``, written another way."""
    sums = np.zeros((*terms.shape[:-1], 16))
    for i in range(terms.shape[-1]):
        sums[..., i % 16] += terms[..., i]
    for half in (8, 4, 2, 1):
        sums = sums[..., :half] + sums[..., half : 2 * half]
    return sums[..., 0]


def exact(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    """(n, m) float32 scores."""
    x, y = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    if metric == "l2":
        return lanes(np.square(x - y)).astype(np.float32)
    scores = lanes(x * y)
    if metric == "cos":
        scores /= np.sqrt(lanes(x * x)) * np.sqrt(lanes(y * y))
    return scores.astype(np.float32)


def hard(n: int, m: int, d: int, dtype: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clusters with equal rows among them, rows a rounding apart, and rows of other lengths."""
    kind = np.dtype(dtype).type
    a, b = clustered(n, d, seed + 1, kind), clustered(m, d, seed + 2, kind)
    if m > 20:
        b[m // 2 : m // 2 + 7] = b[3]
        b[m // 4] = b[3]
        if dtype != "int8":
            b[m // 4, 0] = np.nextafter(b[3, 0], kind(9))
            b[-3:] *= kind(0.01)
            a[n // 2] *= kind(8)
    return a, b


def search(
    a: object, b: object, metric: str = "ip", *, devices: tuple[str, ...] = ("cpu",), skips: bool = False
) -> gpu.Search:
    return gpu.Search(as_rows(a, "a"), as_database(b, metric, "b", "raise"), devices, skips)


def on_cuda(rows: Rows, index: int) -> Rows:
    """The same, as if it were on a GPU."""
    return replace(rows, device=f"cuda:{index}")


@contextmanager
def small_pieces(block: int = 64, part: int | None = None, capacity: int | None = None) -> Iterator[None]:
    """Several blocks of queries, parts of the database, passes for the candidates."""
    before = gpu.BLOCK["cpu"], gpu_search.CPU_PART, gpu_search.CAPACITY
    gpu.BLOCK["cpu"], gpu_search.CPU_PART = block, part or before[1]
    gpu_search.CAPACITY = capacity or before[2]
    try:
        yield
    finally:
        gpu.BLOCK["cpu"], gpu_search.CPU_PART, gpu_search.CAPACITY = before


def answers(
    n: int, m: int, d: int, metric: str, dtype: str = "float32", devices: int = 1, part: int = 0, capacity: int = 0
) -> None:
    """assign, row_max, topk, join and any_above of one pair of sides."""
    a, b = hard(n, m, d, dtype)
    scores, sign = exact(a, b, metric), SIGN[metric]
    order = np.argsort(-sign * scores, axis=1, kind="stable")
    names = ("cpu",) * devices
    with small_pieces(part=part, capacity=capacity):
        indices, found = gpu.assign(search(a, b, metric, devices=names))
        best = np.take_along_axis(scores, order[:, :1], 1)[:, 0]
        assert np.array_equal(indices, order[:, 0])
        assert np.array_equal(found, best)
        assert np.array_equal(gpu.row_max(search(a, b, metric, devices=names), False, False), best)
        for k in {1, min(m, 5), m}:
            found, indices = gpu.topk(search(a, b, metric, devices=names), k, False)
            assert np.array_equal(indices, order[:, :k])
            assert np.array_equal(found, np.take_along_axis(scores, order[:, :k], 1))
        for threshold in np.quantile(scores, [0.0, 0.5, 0.99, 1.0], method="nearest").tolist():
            hits = scores <= threshold if metric == "l2" else scores >= threshold
            ia, ib, found = gpu.join(search(a, b, metric, devices=names), threshold, False, n * m, False)
            wanted = np.nonzero(hits)
            assert np.array_equal(ia, wanted[0])
            assert np.array_equal(ib, wanted[1])
            assert np.array_equal(found, scores[wanted])
            assert np.array_equal(gpu.any_above(search(a, b, metric, devices=names), threshold, False), hits.any(1))


def alone(metric: str) -> None:
    """A set against itself: no row is its own neighbour, and each pair is scored once."""
    x, _ = hard(150, 1, 20, "float32")
    x[90:97] = x[4]
    scores, sign = exact(x, x, metric), SIGN[metric]
    others = np.where(np.eye(len(x), dtype=bool), -np.inf, sign * scores)
    order = np.argsort(-others, axis=1, kind="stable")[:, :4]
    with small_pieces(block=32, part=50):
        found, indices = gpu.topk(search(x, x, metric), 4, True)
        assert np.array_equal(indices, order)
        assert np.array_equal(found, np.take_along_axis(scores, order, 1))
        assert np.array_equal(gpu.row_max(search(x, x, metric), False, True), found[:, 0])
        threshold = float(np.quantile(scores, 0.8 if sign > 0 else 0.2, method="nearest"))
        wanted = np.nonzero((sign * scores >= sign * threshold) & ~np.eye(len(x), dtype=bool))
        for same in (False, True):
            ia, ib, found = gpu.join(search(x, x, metric), threshold, True, 1 << 20, same)
            assert np.array_equal(ia, wanted[0])
            assert np.array_equal(ib, wanted[1])
            assert np.array_equal(found, scores[wanted])


def groups(metric: str) -> None:
    """Pairs within groups alone, of small groups that are joined together and of one that is larger."""
    x, _ = hard(300, 1, 16, "float32")
    offsets = np.array([0, 0, 30, 31, 60, 62, 299, 300])
    scores, sign = exact(x, x, metric), SIGN[metric]
    group = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    threshold = float(np.quantile(scores, 0.7 if sign > 0 else 0.3, method="nearest"))
    wanted = np.nonzero(np.triu((sign * scores >= sign * threshold) & (group[:, None] == group), 1))
    found = gpu.group_join(as_rows(x, "x"), offsets, threshold, metric, 1 << 20, False, ("cpu", "cpu"), None)
    assert np.array_equal(found[0], wanted[0])
    assert np.array_equal(found[1], wanted[1])
    assert np.array_equal(found[2], scores[wanted])


def screens(n: int, m: int, d: int, dtype: str) -> None:
    """Both functions of a screen against its products: every score, ties, the capacity."""
    screen: Screen = screen_for(CPU) if os.environ.get("TRITON_INTERPRET") == "1" else TorchScreen(tile=48)
    random = torch.Generator().manual_seed(n + m)
    # few values, exact in any order of sums: ties are ties
    rows, cols = (torch.randint(-2, 3, (k, d), generator=random).to(getattr(torch, dtype)) for k in (n, m))
    scores = rows.float() @ cols.float().T
    high, place, following = screen.best_two(rows, cols)
    assert torch.equal(high, scores.amax(1))
    assert np.array_equal(place.numpy(), scores.numpy().argmax(1))
    scores_left = scores.scatter(1, place[:, None], -torch.inf)
    assert torch.equal(following, scores_left.amax(1))
    threshold = scores.quantile(0.9, dim=1).floor()
    threshold[0], threshold[-1] = -torch.inf, torch.inf
    hits = scores >= threshold[:, None]
    row, col = hits.nonzero(as_tuple=True)
    keys, count = screen.above(rows, cols, threshold, n * m)
    assert count == len(row)
    assert torch.equal(keys.sort().values, row << 32 | col)
    keys, count = screen.above(rows, cols, threshold, 1)
    assert count == len(row)
    assert len(keys) <= 1


def sums(d: int, dtype: str) -> None:
    """Exact sums of pairs, in the one order."""
    screen: Screen = screen_for(CPU) if os.environ.get("TRITON_INTERPRET") == "1" else TorchScreen()
    random = np.random.default_rng(d)
    x, y = (torch.from_numpy(random.normal(size=(k, d)) * 10).to(getattr(torch, dtype)) for k in (9, 31))
    rows, cols = (torch.from_numpy(random.integers(0, k, 130)) for k in (9, 31))
    a, b = x.double().numpy()[rows], y.double().numpy()[cols]
    assert np.array_equal(screen.pair_sums(x, y, rows, cols, False).numpy(), lanes(a * b))
    assert np.array_equal(screen.pair_sums(x, y, rows, cols, True).numpy(), lanes(np.square(a - b)))


def halves(d: int, dtype: str, half: str) -> None:
    """Copies with what they cost, values beyond the range of float16 among them."""
    screen: Screen = screen_for(CPU) if os.environ.get("TRITON_INTERPRET") == "1" else TorchScreen()
    random = np.random.default_rng(d)
    rows = torch.from_numpy(random.normal(size=(37, d)) * 10).to(getattr(torch, dtype))
    factor = torch.from_numpy(np.exp2(random.integers(-20, 8, 37)))
    factor[0] = 1e30 if half == "float16" else 1.0
    out = torch.full((37, d + 5), 3.0, dtype=getattr(torch, half))
    norms, errors = screen.halved(rows, factor, out)
    kept, wide = out[:, :d].double(), rows.double() * factor[:, None]
    assert torch.isfinite(out).all()
    assert (out[:, d:] == 3).all()
    assert torch.allclose(norms, kept.square().sum(1), rtol=1e-12)
    assert torch.allclose(errors, (wide - kept).square().sum(1), rtol=1e-12)
    # the interpreter truncates to bfloat16 where a GPU rounds to nearest
    assert (errors[1:].sqrt() <= 2.0**-7 * wide[1:].norm(dim=1) + 1e-6 * d).all()


CASES = {f.__name__: f for f in (answers, alone, groups, screens, sums, halves)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["DCFAST_SIMILARITY_BACKEND"] = "triton"
    answer_cases(CASES)
