"""Scores to the bit, whatever the instruction set, threads, blocks, order and coarseness of the codes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import dcfast
import numpy as np
import pytest
from dcfast._core import similarity as core
from dcfast.similarity import Database, cpu
from dcfast.similarity import database as databases
from hypothesis import given, settings
from hypothesis import strategies as st
from similarity_oracle import all_scores, best_by_lanes, clustered, lane_scores

METRICS = ["ip", "cos", "l2"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [1, 15, 16, 17, 64, 65, 130, 512])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
def test_scores_to_the_bit(metric: str, d: int, dtype: type) -> None:
    a, b = clustered(37, d, 1, dtype, spread=1.0), clustered(70, d, 2, dtype, spread=1.0)
    a[:, 0] += a[:, 0] == 0  # no zero rows
    b[:, 0] += b[:, 0] == 0
    scores, indices = best_by_lanes(a, b, 9, metric)
    found = dcfast.topk(a, b, 9, metric=metric)
    assert np.array_equal(found.indices, indices)
    assert np.array_equal(found.scores, scores)
    limit = float(np.median(scores))
    pairs = dcfast.join(a, b, limit, metric=metric)
    every = lane_scores(a, b, metric)
    ia, ib = np.nonzero(every <= np.float32(limit) if metric == "l2" else every >= np.float32(limit))
    assert np.array_equal(pairs.ia, ia)
    assert np.array_equal(pairs.ib, ib)
    assert np.array_equal(pairs.scores, every[ia, ib])


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 90), st.integers(1, 70), st.integers(0, 2**31), st.sampled_from(METRICS))
def test_any_rows(n: int, m: int, d: int, seed: int, metric: str) -> None:
    """Rows of all lengths and shapes: dense, of one large number, equal to others, at both ends of floats."""
    rng = np.random.default_rng(seed)

    def rows(count: int) -> np.ndarray:
        made = rng.normal(size=(count, d)) * np.exp(rng.normal(size=(count, 1)) * rng.choice([0.1, 3, 12]))
        made[:, rng.integers(0, d)] *= rng.choice([1, 50])
        made[rng.integers(0, count, count // 3)] = made[0]
        return made.astype(np.float32)

    a, b = rows(n), rows(m)
    k = int(rng.integers(1, m + 1))
    scores, indices = best_by_lanes(a, b, k, metric)
    found = dcfast.topk(a, b, k, metric=metric, threads=2)
    assert np.array_equal(found.scores, scores)
    assert np.array_equal(found.indices, indices)
    limit = scores[rng.integers(0, n), rng.integers(0, k)]
    every = lane_scores(a, b, metric)
    hits = every <= limit if metric == "l2" else every >= limit
    pairs = dcfast.join(a, b, float(limit), metric=metric)
    assert np.array_equal(np.stack([pairs.ia, pairs.ib]), np.stack(np.nonzero(hits)))
    assert np.array_equal(dcfast.any_above(a, b, float(limit), metric=metric), hits.any(axis=1))


@pytest.mark.parametrize("d", [256, 512])
def test_pairs_beside_the_threshold(d: int) -> None:
    """Planted within 1e-6 of the threshold on both sides, among rows that are far from it."""
    rng = np.random.default_rng(3)
    a, b = (rng.normal(size=(n, d)) for n in (300, 900))
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    for i in range(200):
        side = b[i] - (b[i] @ a[i]) * a[i]
        score = 0.6 + rng.uniform(-1e-6, 1e-6)
        b[i] = score * a[i] + np.sqrt(1 - score**2) * side / np.linalg.norm(side)
    a, b = a.astype(np.float32), b.astype(np.float32)
    every = lane_scores(a, b, "ip")
    found = dcfast.join(a, b, 0.6)
    ia, ib = np.nonzero(every >= np.float32(0.6))
    assert 20 < len(ia) < 180
    assert np.array_equal(found.ia, ia)
    assert np.array_equal(found.ib, ib)


@pytest.mark.parametrize("order", ["rising", "falling", "equal"])
@pytest.mark.parametrize("k", [1, 10, 100])
def test_orders_that_are_hard_to_select_from(order: str, k: int) -> None:
    rng = np.random.default_rng(4)
    query = clustered(9, 64, 1)
    b = clustered(5000, 64, 2, spread=1.0)
    if order == "equal":
        b[:] = b[rng.integers(0, 3, len(b))]
    else:
        along = lane_scores(query[:1], b, "ip")[0].argsort(kind="stable")
        b = b[along if order == "rising" else along[::-1]]
    scores, indices = best_by_lanes(query, b, k, "ip")
    found = dcfast.topk(query, b, k)
    assert np.array_equal(found.scores, scores)
    assert np.array_equal(found.indices, indices)


def test_data_that_eight_bits_are_too_coarse_for() -> None:
    """A large common direction: all scores lie within what narrow codes lose."""
    rng = np.random.default_rng(5)
    b = 0.01 * rng.normal(size=(4000, 64)) + np.eye(64)[3] * 30
    b = (b / np.linalg.norm(b, axis=1, keepdims=True)).astype(np.float32)
    prepared = Database(b)
    found = dcfast.topk(b[:40], prepared, 5)
    scores, indices = best_by_lanes(b[:40], b, 5, "ip")
    assert np.array_equal(found.indices, indices)
    assert np.array_equal(found.scores, scores)
    assert any(block.is_coarse for _, block in prepared.packed(1, skips=False))
    assert np.array_equal(dcfast.topk(b[:40], prepared, 5).indices, indices)


def test_the_same_for_any_threads_blocks_and_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    a, b = clustered(230, 48, 1, np.float16), clustered(700, 48, 2, np.float16)
    best, pairs = dcfast.topk(a, b, 7, threads=1), dcfast.join(a, b, 0.7, threads=1)
    shuffled = np.random.default_rng(1).permutation(len(b))
    other = dcfast.topk(a, b[shuffled], 7, threads=3)
    assert np.array_equal(other.scores, best.scores)
    b.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.float16, "r", shape=b.shape)
    monkeypatch.setattr(databases, "BLOCK_BYTES", 100 * 96)
    monkeypatch.setattr(cpu, "QUERY_BYTES", 64 * 96)
    for kept in (1 << 30, 0):
        monkeypatch.setattr(databases, "KEPT_BYTES", kept)
        for left, right in ((a, mapped), (Reads(a), Reads(b)), (Reads(a), mapped)):
            calls = Calls()
            found = dcfast.topk(left, right, 7, threads=3, progress=calls)
            assert np.array_equal(found.scores, best.scores)
            assert np.array_equal(found.indices, best.indices)
            assert calls.last == (230 * 700, 230 * 700)
            joined = dcfast.join(left, right, 0.7, threads=2)
            assert all(np.array_equal(x, y) for x, y in zip(joined, pairs, strict=True))
            above = dcfast.any_above(left, right, 0.95)
            assert np.array_equal(above, best.scores[:, 0] >= np.float32(0.95))
    with pytest.raises(ValueError, match=r"more than max_pairs=100 pairs .* in the first"):
        dcfast.join(a, Reads(b), 0.7, max_pairs=100)


class Calls:
    """What a progress callback was told last."""

    last = (0, 0)

    def __call__(self, done: int, total: int) -> None:
        assert done > self.last[0]
        self.last = (done, total)


class Reads:
    """Blocks: rows that are read by slices."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows, self.shape, self.dtype = rows, rows.shape, rows.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.array(self._rows[rows])


def test_blocks_that_are_not_what_they_say() -> None:
    blocks = Reads(clustered(50, 8, 1))
    blocks.shape = (60, 8)
    with pytest.raises(ValueError, match="make shape and dtype say what slices give"):
        dcfast.topk(blocks, clustered(50, 8, 2), 1)


def test_lengths_at_both_ends_of_floats() -> None:
    rng = np.random.default_rng(6)
    x = (rng.normal(size=(60, 5)) * 10.0 ** rng.integers(-30, 30, (60, 1))).astype(np.float32)
    with np.errstate(over="ignore"):
        scores, indices = best_by_lanes(x, x, 60, "ip")
    found = dcfast.topk(x, x, 60)
    assert np.array_equal(found.scores, scores)
    assert np.array_equal(found.indices, indices)
    cos = dcfast.topk(x, x, 4, metric="cos")
    assert np.array_equal(cos.scores, best_by_lanes(x, x, 4, "cos")[0])


def test_squares_that_are_no_floats_match() -> None:
    x = np.array([[1e20, 0], [1e25, 1], [3, 4]], np.float32)
    found = dcfast.topk(x, x, 3, metric="l2")
    assert found.indices[:, 0].tolist() == [0, 1, 2]
    assert np.array_equal(np.sort(found.indices, axis=1), [[0, 1, 2]] * 3)
    assert dcfast.join(x, x, 1.0, metric="l2").ib.tolist() == [0, 1, 2]


def test_prepared_once_and_used_by_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    x, centers = clustered(600, 32, 1, np.float16), clustered(90, 32, 2)
    prepared = Database(centers, "l2")
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(lambda i: dcfast.assign(x[i : i + 100], prepared, threads=1).indices, range(0, 600, 100))
    assert np.array_equal(np.concatenate(list(parts)), best_by_lanes(x, centers, 1, "l2")[1][:, 0])


WORK = """
import hashlib, sys, numpy as np, dcfast
from dcfast._core import similarity as core
from similarity_oracle import clustered
digest = hashlib.sha256()
for d, dtype in ((7, np.float32), (129, np.float16), (200, np.int8)):
    a, b = clustered(50, d, 1, dtype, spread=1.0), clustered(333, d, 2, dtype, spread=1.0)
    for metric in ("ip", "cos", "l2"):
        best = dcfast.topk(a, b, 5, metric=metric)
        for part in (*best, *dcfast.join(a, b, float(best.scores.mean()), metric=metric)):
            digest.update(np.ascontiguousarray(part).tobytes())
print(core.select_kernels(), digest.hexdigest())
"""


def test_every_instruction_set_gives_the_same_bits(repo_root: Path) -> None:
    digests = {}
    for isa in ("baseline", "avx2", "avx512", ""):
        environment = {**os.environ, "DCFAST_ISA": isa, "PYTHONPATH": str(repo_root / "tests/helpers")}
        done = subprocess.run(
            [sys.executable, "-c", WORK], env=environment, capture_output=True, text=True, timeout=100, check=True
        )
        kernels, digest = done.stdout.split()
        digests[kernels] = digest
    assert "baseline" in digests
    assert core.select_kernels() in digests
    assert len(set(digests.values())) == 1
    assert len(hashlib.sha256().hexdigest()) == len(digests["baseline"])


def test_oracles_agree() -> None:
    a, b = clustered(20, 40, 1), clustered(30, 40, 2)
    for metric in METRICS:
        np.testing.assert_allclose(lane_scores(a, b, metric), all_scores(a, b, metric), rtol=3e-7, atol=1e-7)
