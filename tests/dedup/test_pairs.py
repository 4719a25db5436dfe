"""Pairs by content, hashes and embeddings against all pairs counted one by one: the same groups, in bounded parts."""

from __future__ import annotations

import numpy as np
import pytest
from dcfast.dedup import pairs
from dcfast.dedup.edges import Edges, make_edges, read_edges
from dcfast.dedup.groups import lightest
from dcfast.dedup.pairs import Embedded, Hashed, content_edges, gather, hash_edges, semantic_edges
from dcfast.images.signatures import hash_variants
from dcfast.uids.sets import RECORD_DTYPE, record_sort


def near_hashes(rng: np.random.Generator, count: int, words: int, crowd: int) -> np.ndarray:
    """Hashes of which many are near each other, and a crowd is equal."""
    base = rng.integers(0, 1 << 63, (max(1, count // 3), words), dtype=np.uint64)
    hashes = base[rng.integers(0, len(base), count)]
    for _ in range(3):
        flip = np.uint64(1) << rng.integers(0, 64, (count, words)).astype(np.uint64)
        hashes = np.where(rng.random((count, words)) < 0.5, hashes ^ flip, hashes)
    hashes[rng.integers(0, count, crowd)] = hashes[0]
    return hashes[:, 0].copy() if words == 1 else hashes


def bits_apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    left, right = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return np.bitwise_count(left[:, None] ^ right[None]).sum(axis=2)


def brute(method: str, a: Hashed, b: Hashed | None, most: int) -> Edges:
    other = a if b is None else b
    apart = bits_apart(a.hashes, other.hashes)
    ia, ib = np.nonzero(apart <= most)
    return lightest(make_edges(method, a.numbers[ia], other.numbers[ib], apart[ia, ib]))


@pytest.mark.parametrize("words", [1, 4])
@pytest.mark.parametrize("most", [0, 3, 8])
@pytest.mark.parametrize("max_pairs", [1 << 21, 60])
def test_hashes(words: int, most: int, max_pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a block and between two; crowds that make too many pairs at a time are halved."""
    monkeypatch.setattr(pairs, "MAX_PAIRS", max_pairs)
    rng = np.random.default_rng(most)
    hashes = near_hashes(rng, 200, words, 30)
    numbers = np.arange(200, dtype=np.int64) * 3
    a, b = Hashed(hashes[:120], numbers[:120]), Hashed(hashes[120:], numbers[120:])
    method = "perceptual" if words == 1 else "perceptual256"
    assert np.array_equal(hash_edges(a, None, most), brute(method, a, None, most))
    parts = [hash_edges(a, None, most), hash_edges(a, b, most), hash_edges(b, None, most)]
    assert np.array_equal(gather(parts), brute(method, Hashed(hashes, numbers), None, most))


def test_nothing_to_compare() -> None:
    none = Hashed(np.empty(0, np.uint64), np.empty(0, np.int64))
    one = Hashed(np.array([5], np.uint64), np.array([9]))
    assert len(hash_edges(none, None, 8)) == len(hash_edges(one, none, 8)) == len(hash_edges(none, one, 8)) == 0
    assert len(hash_edges(one, None, 64)) == 0


def test_turned_and_mirrored() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 1 << 63, (6, 4), dtype=np.uint64)
    turned = hash_variants(hashes)
    both = Hashed(np.concatenate([hashes, turned[:, 1][:3], turned[:, 5][3:]]), np.arange(12))
    assert len(hash_edges(both, None, 20)) == 0
    edges = hash_edges(both, None, 20, variants=True)
    assert sorted(zip(edges["f1"].tolist(), edges["f2"].tolist(), strict=True)) == [(i, i + 6) for i in range(6)]
    assert (read_edges(edges).variant > 0).all()
    halves = [Hashed(both.hashes[part], both.numbers[part]) for part in (slice(6), slice(6, 12))]
    apart = hash_edges(*halves, 20, variants=True)
    assert {*zip(apart["f1"].tolist(), apart["f2"].tolist(), strict=True)} == {(i, i + 6) for i in range(6)}


@pytest.mark.parametrize("rows", [1, 3, 1 << 20])
def test_contents(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever parts the sorted records are read in; old samples are not joined with old ones."""
    monkeypatch.setattr(pairs, "CONTENT_ROWS", rows)
    rng = np.random.default_rng(1)
    records = np.empty(60, RECORD_DTYPE)
    records["f0"], records["f1"] = rng.integers(0, 4, 60), rng.integers(0, 3, 60)
    records["f2"] = rng.permutation(60)
    edges = gather(content_edges(record_sort(records), 20))
    first: dict[tuple[int, int], int] = {}
    expected = set()
    for high, low, number in sorted(records.tolist(), key=lambda record: record[2]):
        origin = first.setdefault((high, low), number)
        if origin != number and number >= 20:
            expected.add((origin, number))
    assert {*zip(edges["f1"].tolist(), edges["f2"].tolist(), strict=True)} == expected


@pytest.mark.parametrize("max_pairs", [1 << 21, 40])
def test_embeddings(max_pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "MAX_PAIRS", max_pairs)
    monkeypatch.setattr(pairs, "PART_ROWS", 32)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((25, 16))[rng.integers(0, 25, 90)] + 0.1 * rng.standard_normal((90, 16))
    x, numbers = x.astype(np.float32), np.arange(90) + 7
    unit = x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    cosine = (unit @ unit.T).astype(np.float32)
    for threshold in (0.9, 0.99, -1.0):
        ia, ib = np.nonzero(cosine >= np.float32(threshold))
        expected = lightest(make_edges("semantic", numbers[ia], numbers[ib], cosine[ia, ib]))
        a, b = Embedded(x[:50], numbers[:50]), Embedded(x[50:], numbers[50:])
        found = gather([semantic_edges(first, second, threshold) for first, second in ((a, None), (a, b), (b, None))])
        assert np.array_equal(found[["f1", "f2"]], expected[["f1", "f2"]]) or np.array_equal(
            *(np.sort(edges[["f1", "f2"]]) for edges in (found, expected))
        )
        assert np.allclose(read_edges(found).score, read_edges(expected).score, atol=1e-6)


def test_an_error_of_the_join_is_not_taken_for_a_crowd() -> None:
    x = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match="columns"):
        semantic_edges(Embedded(x, np.arange(4)), Embedded(np.ones((4, 5), np.float32), np.arange(4) + 4), 0.5)
