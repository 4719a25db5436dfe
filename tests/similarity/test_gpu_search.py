"""Searches as a GPU does them, with torch's products on the CPU; devices, errors, what leads to a GPU at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dcfast
import gpu_search_cases as cases
import numpy as np
import pytest
import torch
from dcfast.similarity import Database, gpu, gpu_screen
from dcfast.similarity.devices import placed
from dcfast.similarity.gpu_operands import prepare_columns, prepare_queries
from dcfast.similarity.gpu_search import packed, unpacked
from dcfast.similarity.operands import as_rows

METRICS = ["ip", "cos", "l2"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (5, 40, 3), (130, 300, 33)])
def test_answers(n: int, m: int, d: int, dtype: str, metric: str) -> None:
    cases.answers(n, m, d, metric, dtype)


@pytest.mark.parametrize("metric", METRICS)
def test_answers_in_parts_and_passes_by_several_devices(metric: str) -> None:
    cases.answers(130, 300, 24, metric, devices=3, part=64, capacity=100)


@pytest.mark.parametrize("metric", METRICS)
def test_a_set_against_itself(metric: str) -> None:
    cases.alone(metric)


@pytest.mark.parametrize("metric", METRICS)
def test_groups(metric: str) -> None:
    cases.groups(metric)


@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 16), (100, 200, 48)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_screens(n: int, m: int, d: int, dtype: str) -> None:
    cases.screens(n, m, d, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("d", [1, 8, 37])
def test_sums_of_pairs(d: int, dtype: str) -> None:
    cases.sums(d, dtype)


@pytest.mark.parametrize(("dtype", "half"), [("float32", "float16"), ("bfloat16", "bfloat16"), ("int8", "float16")])
def test_copies(dtype: str, half: str) -> None:
    cases.halves(130, dtype, half)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spread", [0, 3, 30])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_screened_scores_are_within_the_bound(metric: str, spread: int, dtype: torch.dtype) -> None:
    """Also where norms differ by 2^60 and most of them vanish in float16."""
    random, screen = np.random.default_rng(spread), gpu_screen.TorchScreen()
    x, y = (torch.from_numpy(random.normal(size=(n, 40)) * np.exp2(random.uniform(-spread, spread, (n, 1)))).float()
            for n in (60, 70))  # fmt: skip
    columns = prepare_columns(y, metric, dtype, screen)
    ready = prepare_queries(x, columns, screen)
    scores = cases.exact(x.numpy(), y.numpy(), metric).astype(np.float64)
    screened = ready.values.float() @ columns.copy.values.float().T
    wanted = torch.stack([ready.scaled(torch.from_numpy(column)) for column in scores.T], 1)
    off = (screened.double() - wanted).abs()
    assert torch.isfinite(ready.bound).all()
    assert (off <= ready.bound[:, None]).all()
    if spread == 0 and dtype == torch.float16:  # and the bound is worth having
        assert float((ready.bound / ready.gain).max()) < 0.01 * float(np.abs(scores).max())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("threshold", [-np.inf, -1e38, 1.0, 1e38, np.inf])
def test_infinite_thresholds_and_scores(metric: str, threshold: float) -> None:
    """As the CPU finds them: scores beyond float32 are infinite."""
    x = np.array([[1e20, 0], [1e25, 1], [3, 4], [-1e20, 5]], np.float32)
    pairs = gpu.join(cases.search(x, x, metric), threshold, False, 1000, False)
    for found, wanted in zip(pairs, dcfast.join(x, x, threshold, metric=metric), strict=True):
        assert np.array_equal(found, wanted)
    scores, indices = gpu.topk(cases.search(x, x, metric), 4, False)
    wanted = dcfast.topk(x, x, 4, metric=metric)
    assert np.array_equal(scores, wanted.scores)
    assert np.array_equal(indices, wanted.indices)


def test_rows_that_are_not_finite() -> None:
    a, b = cases.hard(90, 120, 8, "float32")
    a[70, 1], b[7, 3] = np.inf, np.nan
    with pytest.raises(ValueError, match="a row 70 is not finite"):
        gpu.assign(cases.search(a, b[8:]))
    with pytest.raises(ValueError, match="b row 7 is not finite"):
        gpu.assign(cases.search(a[:9], b))
    with cases.small_pieces():
        scores, indices = gpu.topk(cases.search(a, b, skips=True), 120, False)
        nearest, best = gpu.assign(cases.search(a, b, skips=True))
    assert (indices != 7).all()
    assert (indices[70] == -1).all()
    assert (scores[70] == -np.inf).all()
    assert (indices[:, -1] == -1).all()
    assert np.array_equal(nearest, indices[:, 0])
    assert np.array_equal(best, scores[:, 0])
    a[3] = 0
    with pytest.raises(ValueError, match="a row 3 is zero"):
        gpu.assign(cases.search(a[:9], b[8:], "cos"))


def test_magnitudes_and_their_exception() -> None:
    a, b = cases.hard(50, 60, 16, "int8")
    a[0, 0], b[0, 0] = -128, -128
    found = gpu.row_max(cases.search(a, b), True, False)
    assert np.array_equal(found, np.abs(cases.exact(a, b, "ip")).max(1))


def test_empty_sides() -> None:
    a, b = cases.hard(5, 7, 8, "float32")
    assert gpu.any_above(cases.search(a, b[:0]), -9.0, False).tolist() == [False] * 5
    assert gpu.any_above(cases.search(a[:1], a[:1]), -9.0, True).tolist() == [False]
    assert gpu.any_above(cases.search(a[:0], b), -9.0, False).shape == (0,)
    for left, right in ((a, b[:0]), (a[:0], b), (a[:0], b[:0])):
        assert [len(field) for field in gpu.join(cases.search(left, right), -9.0, False, 10, False)] == [0, 0, 0]
    indices, scores = gpu.assign(cases.search(a[:0], b))
    assert (indices.dtype, scores.dtype, len(indices)) == (np.int64, np.float32, 0)


def test_too_many_pairs() -> None:
    x, _ = cases.hard(300, 1, 8, "float32")
    with cases.small_pieces(), pytest.raises(ValueError, match="more than max_pairs=1000 pairs reach the threshold -9"):
        gpu.join(cases.search(x, x), -9.0, False, 1000, False)
    with pytest.raises(ValueError, match="more than max_pairs=10 pairs"):
        gpu.group_join(as_rows(x, "x"), np.array([0, 100, 300]), -9.0, "ip", 10, False, ("cpu",), None)


def test_the_kind_and_progress() -> None:
    a, b = (torch.from_numpy(x).to(torch.bfloat16) for x in cases.hard(90, 70, 12, "float32"))
    told: list[tuple[int, int]] = []
    with cases.small_pieces():
        search = cases.search(a, b)
        search.progress = lambda done, total: told.append((done, total))
        scores, indices = gpu.topk(search, 3, False)
    assert isinstance(scores, torch.Tensor)
    assert (scores.dtype, indices.dtype) == (torch.float32, torch.int64)
    wanted = cases.exact(a.float().numpy(), b.float().numpy(), "ip")
    order = np.argsort(-wanted, axis=1, kind="stable")[:, :3]
    assert np.array_equal(indices.numpy(), order)
    assert told == [(64 * 70, 90 * 70), (90 * 70, 90 * 70)]
    scores, indices = gpu.topk(cases.search(a[:0], b), 3, False)
    assert scores.shape == indices.shape == (0, 3)


def test_a_database_stays_where_it_is() -> None:
    a, b = cases.hard(30, 70, 12, "float32")
    database = Database(b)
    for _ in range(2):
        gpu.assign(gpu.Search(as_rows(a, "a"), database, ("cpu",), False))
    (kept,) = database.on_devices.values()
    assert len(kept._resident[torch.float16]) == 1


def test_packed_scores_sort_as_scores() -> None:
    scores = torch.tensor([-torch.inf, -3e38, -1.0, -1e-45, -0.0, 0.0, 1e-45, 2.0, torch.inf])
    keys = packed(scores, torch.arange(9))
    assert (keys.diff()[torch.tensor([0, 1, 2, 3, 5, 6, 7])] > 0).all()
    assert keys[4] > keys[5]  # equal scores: the lower index is the higher
    again, index = unpacked(keys)
    assert torch.equal(again, scores)
    assert index.tolist() == list(range(9))


def test_ordered_bits_of_the_kernels_come_back() -> None:
    values = torch.tensor([-torch.inf, -2.5, 0.0, 1e-45, 7.0])
    bits = values.view(torch.int32).long() & 0xFFFFFFFF
    ordered = torch.where(bits >> 31 == 1, bits ^ 0xFFFFFFFF, bits | 1 << 31)
    assert torch.equal(gpu_screen.unordered(ordered), values)
    assert torch.equal(gpu_screen.unordered(ordered.to(torch.int32)), values)


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [
        ("cuda", ValueError, "this machine has no CUDA device"),
        (["cuda:0", "cuda:1"], ValueError, "device is cuda:0, cuda:1; this machine has"),
        (torch.device("cuda", 1), ValueError, "device is cuda:1; this machine has"),
        ("gpu", ValueError, "device must be 'cpu', 'cuda' or 'cuda:N'; got 'gpu'"),
        (0, TypeError, "device must be a name"),
        ([], TypeError, "device must be a device or a list of them"),
    ],
)
def test_devices_that_are_not_there(
    device: object, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    x = np.ones((3, 4), np.float32)
    with pytest.raises(error, match=message):
        dcfast.topk(x, x, 1, device=device)


def test_devices_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    x = as_rows(np.ones((3, 4), np.float32), "x")
    on_first, on_second = (cases.on_cuda(x, i) for i in (0, 1))
    assert placed(None, x) == placed("cpu", x) == ()
    assert placed("cuda", x) == ("cuda:0", "cuda:1")
    assert placed("cuda:1", x) == ("cuda:1",)
    assert placed(None, on_first, x) == placed("cuda", on_first, on_first) == ("cuda:0",)
    with pytest.raises(ValueError, match="the sides are on cuda:0 and cuda:1"):
        placed(None, on_first, on_second)
    with pytest.raises(ValueError, match="a side is on cuda:0 and device is 'cpu'"):
        placed("cpu", on_first)
    with pytest.raises(ValueError, match="give each of them once"):
        placed(["cuda:0", "cuda:0"], x)


def test_backends_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCFAST_SIMILARITY_BACKEND", "cublas")
    with pytest.raises(ValueError, match="must be one of fused, triton, torch"):
        gpu_screen.screen_for(torch.device("cpu"))
    monkeypatch.setenv("DCFAST_SIMILARITY_BACKEND", "fused")
    with pytest.raises(ValueError, match="compute capability 9"):
        gpu_screen.screen_for(torch.device("cpu"))


def test_the_cpu_needs_neither_torch_nor_triton() -> None:
    code = (
        "import sys, numpy as np, dcfast; x = np.ones((3, 4), np.float32); dcfast.topk(x, x, 1);"
        "dcfast.join(x, x, 1.0); assert not {'torch', 'triton'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_gpu_half_needs_no_core(repo_root: Path) -> None:
    """``bench/gpu.py`` runs from a checkout where nothing is built."""
    code = (
        "import sys, types; sys.modules['dcfast._core'] = None;"
        "face = sys.modules['dcfast.similarity'] = types.ModuleType('dcfast.similarity');"
        f"face.__path__ = [{str(repo_root / 'python/dcfast/similarity')!r}]; import dcfast.similarity.gpu"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
def test_the_cpu_gives_the_same_bits(metric: str, dtype: torch.dtype) -> None:
    kind = "int8" if dtype == torch.int8 else "float32"
    a, b = (torch.from_numpy(x).to(dtype) for x in cases.hard(120, 400, 67, kind))
    with cases.small_pieces():
        found = (*gpu.topk(cases.search(a, b, metric), 9, False), *gpu.assign(cases.search(a, b, metric)))
        threshold = float(found[0][:, 4].median())
        found += gpu.join(cases.search(a, b, metric), threshold, False, 1 << 20, False)
    wanted = (*dcfast.topk(a, b, 9, metric=metric), *dcfast.assign(a, b, metric=metric))
    wanted += tuple(dcfast.join(a, b, threshold, metric=metric))
    assert all(torch.equal(x, y) for x, y in zip(found, wanted, strict=True))
