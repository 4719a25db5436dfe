"""hamming_join and hamming_blocks against the obvious double loop, for 64 and 256 bits."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from dcfast.similarity import hamming as module
from dcfast.similarity.hamming import HammingPairs, hamming_blocks, hamming_join
from hypothesis import given, settings
from hypothesis import strategies as st

WIDTHS = [1, 4]


def hashes(n: int, seed: int, words: int = 1) -> np.ndarray:
    """Random hashes around a few centres, so that all distances occur."""
    rng = np.random.default_rng(seed)
    shape = (n, words) if words > 1 else (n,)
    centres = rng.integers(0, 2**64, (7, *shape[1:]), dtype=np.uint64)
    flips = rng.integers(0, 2**64, (5, *shape), dtype=np.uint64)
    return centres[rng.integers(0, 7, n)] ^ np.bitwise_and.reduce(flips, axis=0)


def many(n: int, seed: int, words: int, crowd: float = 0.0) -> np.ndarray:
    """Uniform hashes, enough for tables to be made; a share of them is one hash, and some differ in few bits."""
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 2**64, (n, words), dtype=np.uint64)
    centres = np.random.default_rng(99).integers(0, 2**64, (40, words), dtype=np.uint64)
    near = rng.permutation(n)[:400]
    found[near] = centres[rng.integers(0, 40, 400)]
    for _ in range(10):
        some = near[rng.random(400) < 0.3]
        found[some, rng.integers(0, words, len(some))] ^= np.uint64(1) << rng.integers(
            0, 64, len(some), dtype=np.uint64
        )
    found[rng.permutation(n)[: int(crowd * n)]] = centres[0]
    return found if words > 1 else found[:, 0]


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    differing = np.bitwise_count(a[:, None] ^ b[None, :])
    return differing.sum(axis=2, dtype=np.int64) if differing.ndim == 3 else differing.astype(np.int64)


def join_ref(a: np.ndarray, b: np.ndarray | None, max_distance: int) -> list[tuple[int, int, int]]:
    """Row after row, as a whole matrix of large sides would not fit."""
    out = []
    for i in range(len(a)):
        row = distances(a[i : i + 1], a if b is None else b)[0]
        near = np.flatnonzero(row <= max_distance)
        out += [(i, j, int(row[j])) for j in near.tolist() if b is not None or j > i]
    return out


def as_tuples(pairs: HammingPairs) -> list[tuple[int, int, int]]:
    return list(zip(pairs.ia.tolist(), pairs.ib.tolist(), pairs.distance.tolist(), strict=True))


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 5), (5, 0), (1, 1), (64, 65), (131, 67), (3, 4099)])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("words", WIDTHS)
def test_join_equals_double_loop(n: int, m: int, threads: int, words: int) -> None:
    a, b = hashes(n, 1, words), hashes(m, 2, words)
    for distance in (0, 1, 8, 11, 31, 64, 64 * words):
        pairs = hamming_join(a, b, distance, threads=threads)
        assert as_tuples(pairs) == join_ref(a, b, distance)
        assert (pairs.ia.dtype, pairs.ib.dtype, pairs.distance.dtype) == (np.int64, np.int64, np.uint16)
        assert as_tuples(hamming_join(a, None, distance, threads=threads)) == join_ref(a, None, distance)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=70),
    st.lists(st.integers(0, 2**64 - 1), max_size=70),
    st.integers(0, 64),
)
def test_join_of_any_hashes(a: list[int], b: list[int], distance: int) -> None:
    left, right = np.array(a, np.uint64), np.array(b, np.uint64)
    assert as_tuples(hamming_join(left, right, distance)) == join_ref(left, right, distance)


@cache
def many_ref(n: int, m: int, words: int, crowd: float) -> list[tuple[int, int, int]]:
    """The pairs up to the largest distance that is asked for, made once: it takes a second."""
    return join_ref(many(m, 4, words, crowd), many(n, 3, words, crowd), 12 if words == 1 else 60)


@pytest.mark.xdist_group("hamming")  # one worker makes the references
@pytest.mark.parametrize(("n", "m"), [(20_000, 3_000), (2_000, 30_000)])
@pytest.mark.parametrize(
    ("words", "distance"), [(1, 0), (1, 1), (1, 2), (1, 5), (1, 8), (1, 12), (4, 0), (4, 3), (4, 17), (4, 31), (4, 60)]
)
@pytest.mark.parametrize("crowd", [0.0, pytest.param(0.02, marks=pytest.mark.long)])
def test_tables_find_what_the_loop_finds(n: int, m: int, words: int, distance: int, crowd: float) -> None:
    a, b = many(n, 3, words, crowd), many(m, 4, words, crowd)
    expected = [(j, i, d) for i, j, d in many_ref(n, m, words, crowd) if d <= distance]
    assert as_tuples(hamming_join(a, b, distance)) == sorted(expected)
    assert len(expected) > 2


@pytest.mark.parametrize(("words", "distance"), [(1, 0), (1, 5), (1, 8), (1, 20), (4, 31)])
@pytest.mark.parametrize("crowd", [0.0, 0.02])
def test_a_set_with_itself(words: int, distance: int, crowd: float) -> None:
    a = many(6_000, 5, words, crowd)
    expected = join_ref(a, None, distance)
    for threads in (1, 3):
        assert as_tuples(hamming_join(a, None, distance, threads=threads)) == expected
    both = hamming_join(a, a, distance)
    upper = both.ia < both.ib
    assert as_tuples(HammingPairs(*(column[upper] for column in both))) == expected


def test_hashes_that_crowd_in_most_parts() -> None:
    rng = np.random.default_rng(8)
    a = rng.integers(0, 2**12, 20_000, dtype=np.uint64) << np.uint64(20)  # most bits are always zero
    b = a[:4000] ^ (np.uint64(1) << rng.integers(0, 64, 4000, dtype=np.uint64))
    pairs = hamming_join(a, b, 1)
    assert as_tuples(pairs) == sorted((j, i, d) for i, j, d in join_ref(b, a, 1))


def test_join_is_sorted_across_tiles() -> None:
    a = hashes(200, 2)
    b = np.tile(a, 31)  # three tiles of b, every hash in each
    pairs = hamming_join(a, b, 0)
    assert np.array_equal(np.lexsort((pairs.ib, pairs.ia)), np.arange(pairs.ia.size))
    assert (a[pairs.ia] == b[pairs.ib]).all()
    assert pairs.ia.size == int((a[:, None] == b[None, :]).sum())


def test_crowds_are_refused_in_time() -> None:
    same = np.full(10_000, 77, np.uint64)
    with pytest.raises(ValueError, match=r"more than max_pairs=1048576 pairs within distance 8 among 10000 x 10000"):
        hamming_join(same, same, 8, max_pairs=1 << 20)
    with pytest.raises(ValueError, match=r"more than max_pairs=16777216 pairs"):
        hamming_join(np.full(1_000_000, 77, np.uint64), None, 8)  # 5e11 pairs


def test_max_pairs_is_exact() -> None:
    same = np.full(100, 5, np.uint64)
    assert hamming_join(same, same, 0, max_pairs=10_000).ia.size == 10_000
    with pytest.raises(ValueError, match="more than max_pairs=9999 pairs"):
        hamming_join(same, same, 0, max_pairs=9_999)
    with pytest.raises(ValueError, match="more than max_pairs=0 pairs"):
        hamming_join(same, same, 0, max_pairs=0)
    assert hamming_join(same, ~same, 8, max_pairs=0).ia.size == 0
    a = many(30_000, 6, 1, 0.02)
    count = hamming_join(a, None, 8).ia.size
    assert count > 600 * 599 / 2
    assert hamming_join(a, None, 8, max_pairs=count).ia.size == count
    with pytest.raises(ValueError, match="raise max_pairs"):
        hamming_join(a, None, 8, max_pairs=count - 1)


@pytest.mark.parametrize("words", WIDTHS)
@pytest.mark.parametrize("alone", [True, False])
def test_blocks_are_the_join(words: int, alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 64)
    monkeypatch.setattr(module, "BLOCK_PAIRS", 300)
    a = hashes(1000, 7, words)
    b = None if alone else a[::4].copy()
    blocks = list(hamming_blocks(a, b, 24, threads=2))
    assert len(blocks) > 20
    assert 0 < max(len(block.ia) for block in blocks) <= max(300, len(a if b is None else b))
    whole = [np.concatenate(columns) for columns in zip(*blocks, strict=True)]
    for got, expected in zip(whole, hamming_join(a, b, 24), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_blocks_of_a_crowd_that_no_join_would_return() -> None:
    same = np.full(6_000, 9, np.uint64)
    blocks = hamming_blocks(same, None, 3)
    first = next(blocks)
    assert first.ia[0] == 0
    count = len(first.ia) + sum(len(block.ia) for block in blocks)
    assert count == 6_000 * 5_999 // 2


def test_blocks_refuse_at_once() -> None:
    with pytest.raises(ValueError, match="max_distance must be 0 to 64 bits"):
        hamming_blocks(hashes(3, 1), None, 65)


def fingerprints(a: np.ndarray, b: np.ndarray) -> list[int]:
    found = [hamming_join(a, b, distance) for distance in (4, 10, 11, 30)]
    return [int((pairs.ia * 31 + pairs.ib * 7 + pairs.distance).sum()) for pairs in found]


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_all_instruction_sets_agree(isa: str) -> None:
    code = "import test_hamming as t; print(t.fingerprints(t.hashes(3000, 11), t.hashes(1001, 12)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DCFAST_ISA": isa},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(fingerprints(hashes(3000, 11), hashes(1001, 12)))


def test_lists_that_are_empty_and_views_that_are_strided() -> None:
    a = hashes(100, 5)
    assert hamming_join([], a, 8).ia.size == 0
    assert hamming_join(hashes(9, 1, 4), [], 8).ia.size == 0
    assert as_tuples(hamming_join(a[::3], a[::-1], 8)) == join_ref(a[::3], a[::-1], 8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: hamming_join(a.astype(np.int64), a, 8), TypeError, "a must have dtype uint64"),
        (lambda a: hamming_join(a, a.astype(np.float64), 8), TypeError, "b must have dtype uint64"),
        (lambda a: hamming_join(a, a.reshape(2, -1), 8), ValueError, r"b must be of shape \(n,\) for 64 bits"),
        (lambda a: hamming_join(a, np.zeros((4, 4), np.uint64), 8), ValueError, "pass hashes of one width"),
        (lambda a: hamming_join(a, a, 65), ValueError, "max_distance must be 0 to 64 bits; got 65"),
        (lambda a: hamming_join(a[:8].reshape(-1, 4), None, 257), ValueError, "0 to 256 bits; got 257"),
        (lambda a: hamming_join(a, a, -1), ValueError, "max_distance must be 0 to 64 bits; got -1"),
        (lambda a: hamming_join(a, a, 8.0), TypeError, "max_distance must be an integer; got float"),  # type: ignore[arg-type]
        (lambda a: hamming_join(a, a, 8, max_pairs=-1), ValueError, "max_pairs must not be negative"),
        (lambda a: hamming_join(a, a, 8, threads=-1), ValueError, "threads must be None or"),
        (lambda a: hamming_blocks(a, a, 8, threads=1.5), ValueError, "threads must be None or .*; got 1.5"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(hashes(10, 6))
