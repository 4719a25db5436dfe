"""Log-sum-exps of rows and columns against float64, on every path."""

from __future__ import annotations

import os
import subprocess
import sys

import dcfast.similarity.log_sums as module
import numpy as np
import pytest
from dcfast.similarity.log_sums import MOST_ERROR, log_sums

SCALE = 100.0


def pairs(n: int, d: int, seed: int = 0, common: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors like CLIP's: those of a side have much in common, pairs a little more."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, d))
    sides = []
    for _ in range(2):
        rows = common * rng.normal(size=d) + 0.5 * shared + 0.7 * rng.normal(size=(n, d))
        sides.append((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16))
    return sides[0], sides[1]


def formula(x: np.ndarray, y: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z = scale * (x.astype(np.float64) @ y.astype(np.float64).T)
    return np.logaddexp.reduce(z, axis=1), np.logaddexp.reduce(z, axis=0), np.diag(z)


@pytest.fixture(autouse=True)
def always_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 0)


@pytest.mark.parametrize(
    ("n", "d"), [(1, 1), (1, 512), (2, 3), (5, 7), (16, 16), (17, 33), (97, 64), (385, 128), (1000, 512), (800, 769)]
)
@pytest.mark.parametrize("threads", [1, 3])
def test_equal_the_formula(n: int, d: int, threads: int) -> None:
    x, y = pairs(n, d)
    for got, expected in zip(log_sums(x, y, SCALE, threads=threads), formula(x, y, SCALE), strict=True):
        assert np.abs(got - expected).max() / SCALE < 3e-5


def test_few_pairs_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 200)
    monkeypatch.setattr(module, "_TILE", 64)
    x, y = pairs(200, 24)
    for got, expected in zip(log_sums(x, y, SCALE), formula(x, y, SCALE), strict=True):
        assert np.abs(got - expected).max() < 1e-10


@pytest.mark.parametrize("scale", [0.0, 1.0, -20.0, 1 / 0.07, 200.0])
def test_any_scale(scale: float) -> None:
    x, y = pairs(150, 40)
    for got, expected in zip(log_sums(x, y, scale), formula(x, y, scale), strict=True):
        assert np.abs(got - expected).max() < max(1e-6, 3e-5 * abs(scale))


def test_threads_change_no_bit() -> None:
    x, y = pairs(900, 96)
    for one, many in zip(log_sums(x, y, SCALE, threads=1), log_sums(x, y, SCALE, threads=7), strict=True):
        assert np.array_equal(one, many)


def test_every_processor_gives_the_same_bits() -> None:
    program = (
        "import sys, numpy as np; sys.path.insert(0, 'tests/similarity'); from test_log_sums import module, pairs\n"
        "module.SMALL = 0\n"
        "sys.stdout.buffer.write(np.concatenate(module.log_sums(*pairs(203, 77), 100.0)).tobytes())"
    )
    outputs = []
    for isa in ("baseline", ""):
        environment = {**os.environ, "DCFAST_ISA": isa}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment)
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 3 * 203 * 8


def test_vectors_of_any_length_are_as_exact() -> None:
    rng = np.random.default_rng(3)
    x, y = (rng.normal(size=(120, 24)) * 10.0 ** rng.uniform(-3, 1, size=(120, 1)) for _ in range(2))
    for got, expected in zip(
        log_sums(x, y, 3.0), formula(x.astype(np.float32), y.astype(np.float32), 3.0), strict=True
    ):
        assert np.allclose(got, expected, rtol=1e-6, atol=1e-4)


def test_a_large_common_mean_is_as_exact() -> None:
    x, y = (100 + np.random.default_rng(seed).normal(size=(200, 8)) * 0.01 for seed in (1, 2))
    for got, expected in zip(log_sums(x, y, 1.0), formula(*(s.astype(np.float32) for s in (x, y)), 1.0), strict=True):
        assert np.abs(got - expected).max() < MOST_ERROR


def test_a_row_that_is_unlike_all_others_is_not_lost() -> None:
    x, y = pairs(64, 8)
    x, y = x.astype(np.float32), y.astype(np.float32)
    x[5], y[5] = -3 * x[5], -3 * y[5]
    for got, expected in zip(log_sums(x, y, SCALE), formula(x, y, SCALE), strict=True):
        assert np.abs(got - expected).max() / SCALE < 1e-4
    assert MOST_ERROR < 1e-4


def test_the_order_of_pairs_is_only_rounding() -> None:
    x, y = pairs(300, 64)
    order = np.random.default_rng(1).permutation(300)
    for whole, moved in zip(log_sums(x, y, SCALE), log_sums(x[order], y[order], SCALE), strict=True):
        assert np.abs(whole[order] - moved).max() / SCALE < 3e-5


@pytest.mark.parametrize(
    ("x", "y", "scale", "error", "message"),
    [
        (np.ones((3, 2)), np.ones((3, 3)), 1.0, ValueError, "of one width"),
        (np.ones((0, 2)), np.ones((0, 2)), 1.0, ValueError, "at least 1"),
        (np.ones(3), np.ones(3), 1.0, ValueError, "shape"),
        (np.ones((3, 2), int), np.ones((3, 2)), 1.0, TypeError, "floats"),
        (np.array([[1.0], [np.nan]]), np.ones((2, 1)), 1.0, ValueError, "x, row 1: not finite"),
        (np.ones((2, 1)), np.array([[np.inf], [1.0]]), 1.0, ValueError, "y, row 0: not finite"),
        (np.ones((2, 1)), np.ones((2, 1)), float("nan"), ValueError, "scale must be finite"),
    ],
)
def test_what_is_refused(x: np.ndarray, y: np.ndarray, scale: float, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        log_sums(x, y, scale)
