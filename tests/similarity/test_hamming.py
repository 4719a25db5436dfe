"""hamming_join and hamming_nearest against the obvious double loop."""

from __future__ import annotations

import numpy as np
import pytest
from dcfast.similarity.hamming import hamming_join, hamming_nearest
from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = [0, 1, 2, 63, 64, 65, 131, 2048, 2053]


def hashes(n: int, seed: int) -> np.ndarray:
    """Random hashes around a few centres, so that all distances occur."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**64, 7, dtype=np.uint64)
    flips = rng.integers(0, 2**64, (5, n), dtype=np.uint64)
    return centres[rng.integers(0, 7, n)] ^ np.bitwise_and.reduce(flips, axis=0)


def join_ref(a: np.ndarray, b: np.ndarray, max_distance: int) -> list[tuple[int, int, int]]:
    out = []
    for i, x in enumerate(a.tolist()):
        for j, y in enumerate(b.tolist()):
            distance = (x ^ y).bit_count()
            if distance <= max_distance:
                out.append((i, j, distance))
    return out


def as_tuples(pairs) -> list[tuple[int, int, int]]:
    return list(zip(pairs.ia.tolist(), pairs.ib.tolist(), pairs.distance.tolist(), strict=True))


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 5), (5, 0), (1, 1), (64, 65), (131, 67), (3, 4099)])
@pytest.mark.parametrize("threads", [1, 3])
def test_join_equals_double_loop(n: int, m: int, threads: int) -> None:
    a, b = hashes(n, 1), hashes(m, 1)
    for distance in (0, 1, 8, 31, 64):
        pairs = hamming_join(a, b, distance, threads=threads)
        assert as_tuples(pairs) == join_ref(a, b, distance)
        assert (pairs.ia.dtype, pairs.ib.dtype, pairs.distance.dtype) == (np.uint64, np.uint64, np.uint8)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=70),
    st.lists(st.integers(0, 2**64 - 1), max_size=70),
    st.integers(0, 64),
)
def test_join_of_any_hashes(a: list[int], b: list[int], distance: int) -> None:
    left, right = np.array(a, np.uint64), np.array(b, np.uint64)
    assert as_tuples(hamming_join(left, right, distance)) == join_ref(left, right, distance)


def test_join_is_sorted_across_tiles() -> None:
    a = hashes(200, 2)
    b = np.tile(a, 31)  # three tiles of b, every hash in each
    pairs = hamming_join(a, b, 0)
    assert np.array_equal(np.lexsort((pairs.ib, pairs.ia)), np.arange(pairs.ia.size))
    assert (a[pairs.ia.astype(np.int64)] == b[pairs.ib.astype(np.int64)]).all()
    assert pairs.ia.size == join_count(a, b)


def join_count(a: np.ndarray, b: np.ndarray) -> int:
    return int((a[:, None] == b[None, :]).sum())


def test_ten_thousand_equal_hashes_are_refused_in_time() -> None:
    same = np.full(10_000, 77, np.uint64)
    with pytest.raises(ValueError, match=r"more than max_pairs=1048576 pairs within distance 8 among 10000 x 10000"):
        hamming_join(same, same, 8, max_pairs=1 << 20)


def test_max_pairs_is_exact() -> None:
    same = np.full(100, 5, np.uint64)
    assert hamming_join(same, same, 0, max_pairs=10_000).ia.size == 10_000
    with pytest.raises(ValueError, match="more than max_pairs=9999 pairs"):
        hamming_join(same, same, 0, max_pairs=9_999)
    with pytest.raises(ValueError, match="more than max_pairs=0 pairs"):
        hamming_join(same, same, 0, max_pairs=0)
    assert hamming_join(same, ~same, 8, max_pairs=0).ia.size == 0


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("m", [1, 2, 67, 2048, 2053])
def test_nearest_equals_argmin(n: int, m: int) -> None:
    a, b = hashes(n, 3), hashes(m, 4)
    distance = np.bitwise_count(a[:, None] ^ b[None, :])
    found = hamming_nearest(a, b, threads=2)
    assert np.array_equal(found.ib, distance.argmin(axis=1))  # argmin too takes the lowest index
    assert np.array_equal(found.distance, distance.min(axis=1))


def test_nearest_at_the_largest_distance() -> None:
    found = hamming_nearest(np.array([0], np.uint64), np.array([2**64 - 1] * 3, np.uint64))
    assert found.ib.tolist() == [0]
    assert found.distance.tolist() == [64]


def test_lists_that_are_empty_and_views_that_are_strided() -> None:
    a = hashes(100, 5)
    assert hamming_join([], a, 8).ia.size == 0
    assert as_tuples(hamming_join(a[::3], a[::-1], 8)) == join_ref(a[::3], a[::-1], 8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: hamming_join(a.astype(np.int64), a, 8), TypeError, "a must have dtype uint64"),
        (lambda a: hamming_join(a, a.astype(np.float64), 8), TypeError, "b must have dtype uint64"),
        (lambda a: hamming_join(a, a.reshape(2, -1), 8), ValueError, "b must be one-dimensional; got shape"),
        (lambda a: hamming_join(a, a, 65), ValueError, "max_distance must be 0 to 64 bits; got 65"),
        (lambda a: hamming_join(a, a, -1), ValueError, "max_distance must be 0 to 64 bits; got -1"),
        (lambda a: hamming_join(a, a, 8.0), TypeError, "max_distance must be an integer; got float"),
        (lambda a: hamming_join(a, a, 8, max_pairs=-1), ValueError, "max_pairs must not be negative"),
        (lambda a: hamming_join(a, a, 8, threads=-1), ValueError, "threads must be 0"),
        (lambda a: hamming_nearest(a, a, threads=1.5), TypeError, "threads must be an integer; got float"),
        (lambda a: hamming_nearest(a, a[:0]), ValueError, "b is empty: there is no nearest hash"),
    ],
)
def test_bad_arguments(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(hashes(10, 6))
