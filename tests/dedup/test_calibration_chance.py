"""The tail of distances: what is extrapolated from a sample, where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dcfast.dedup.calibration.chance import GROUPS, chances, group_counts
from dcfast.dedup.calibration.methods import PHASH, TURNED, WIDE, Coded, distances, nearest, of_hashes
from dcfast.images.signatures import FLAT_QUALITY, Signatures, hash_variants

NO_PAIRS = np.zeros((0, 2), np.int64)


def signed(words: np.ndarray, phash: np.ndarray | None = None, quality: int = 200) -> Signatures:
    count = len(words)
    zeros = np.zeros(count, np.uint8)
    narrow = words[:, 0] if phash is None else phash
    content = np.zeros(count, "u8,u8")
    flat = np.zeros(count, np.bool_)
    size = zeros.astype(np.uint32)
    return Signatures(zeros, zeros, size, size, content, narrow, flat, words, zeros + np.uint8(quality))


def random_words(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, (count, 4), dtype=np.uint64)


def binomial_within(bits: int, threshold: int) -> float:
    return sum(math.comb(bits, k) for k in range(threshold + 1)) / 2**bits


def test_distances_are_hamming_distances() -> None:
    words = random_words(30)
    apart = np.bitwise_count(words[:, None] ^ words[None]).sum(-1)
    for method in (WIDE, TURNED):
        coded = of_hashes(method, signed(words))
        assert np.array_equal(distances(method, coded.own, coded.own), apart)
    narrow = of_hashes(PHASH, signed(words))
    assert np.array_equal(
        distances(PHASH, narrow.own, narrow.own), np.bitwise_count(words[:, None, 0] ^ words[None, :, 0])
    )
    turned = of_hashes(TURNED, signed(words))
    expected = np.bitwise_count(hash_variants(words)[:, :, None] ^ words[None, None]).sum(-1).min(axis=1)
    assert np.array_equal(nearest(TURNED, turned, turned), expected)


def test_flat_pictures_match_nothing() -> None:
    words = np.zeros((3, 4), np.uint64)
    flat = of_hashes(WIDE, signed(words, quality=FLAT_QUALITY - 1))
    assert (nearest(WIDE, flat, flat) == WIDE.most + 1).all()
    assert group_counts(WIDE, flat, NO_PAIRS).sum() == 0


@pytest.mark.parametrize("method", [WIDE, TURNED])
def test_each_pair_is_counted_once(method) -> None:
    words = random_words(1500)  # more than are compared at a time
    coded = of_hashes(method, signed(words))
    alike = np.array([[0, 1], [3, 1400], [1100, 1400]])
    by_group = group_counts(method, coded, alike)
    assert by_group.shape == (GROUPS, GROUPS, 257)
    assert np.array_equal(by_group.sum(axis=2), np.triu(by_group.sum(axis=2)))
    counts = by_group.sum(axis=(0, 1))
    assert counts.sum() == method.comparisons * (1500 * 1499 // 2 - len(alike))
    upper = np.triu_indices(1500, 1)
    expected = np.zeros(257, np.int64)
    for way in range(method.comparisons):
        apart = distances(method, coded.turned[:, way], coded.own)
        expected += np.bincount(apart[upper], minlength=257)
        expected -= np.bincount(apart[alike[:, 0], alike[:, 1]], minlength=257)
    assert np.array_equal(counts, expected)


def test_the_tail_of_uniform_bits_is_found() -> None:
    """2,000 hashes tell of 2 million pairs; what lies 10^9 times farther out is known to be binomial."""
    by_group = group_counts(WIDE, of_hashes(WIDE, signed(random_words(2000))), NO_PAIRS)
    at = 1e15
    tail, found = chances(WIDE, by_group, at, (60, 72, 80, 100, 120))
    assert tail is not None
    assert tail.first < tail.last < 128
    for chance in found:
        truth = at * binomial_within(256, chance.threshold)
        assert chance.expected is not None
        assert chance.at_most is not None
        assert abs(math.log10(chance.expected / truth)) < 0.07 * (128 - chance.threshold), chance
        assert chance.at_most > truth
        assert chance.at_most >= chance.expected
    assert found[0].measured == 0
    assert found[-1].measured > 100_000


def test_hashes_of_even_weight_are_fitted_too() -> None:
    """64 bits of which half are set lie an even distance apart."""
    random = np.random.default_rng(1)
    bits = np.argsort(random.random((1500, 64)), axis=1) < 32
    phash = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    by_group = group_counts(PHASH, of_hashes(PHASH, signed(random_words(1500), phash)), NO_PAIRS)
    assert by_group[:, :, 1::2].sum() == 0
    _, found = chances(PHASH, by_group, 1e12, (8, 12, 16))
    for chance in found:
        # of the 32 bits that are set in one, k are not in the other
        truth = 1e12 * sum(math.comb(32, k) ** 2 for k in range(chance.threshold // 2 + 1)) / math.comb(64, 32)
        assert chance.expected is not None
        assert chance.at_most is not None
        assert abs(math.log10(chance.expected / truth)) < 1.5
        assert chance.at_most > truth


def test_a_small_sample_bounds_nothing() -> None:
    by_group = group_counts(WIDE, of_hashes(WIDE, signed(random_words(15))), NO_PAIRS)
    tail, found = chances(WIDE, by_group, 1e16, (32, 128))
    assert tail is None
    assert [(chance.expected, chance.at_most) for chance in found] == [(None, None)] * 2
    assert found[1].measured > 0
    empty = Coded(np.zeros((0, 256), np.float32), np.zeros((0, 1, 256), np.float32), np.zeros(0, np.bool_))
    assert chances(WIDE, group_counts(WIDE, empty, NO_PAIRS), 1e16, (32,))[0] is None


def test_copies_beside_the_bulk_do_not_move_the_fit() -> None:
    words = random_words(2000)
    clean = group_counts(WIDE, of_hashes(WIDE, signed(words)), NO_PAIRS)
    spoiled = words.copy()
    spoiled[1000:1020] = words[:20] ^ np.uint64(1)  # 4 bits
    counts = group_counts(WIDE, of_hashes(WIDE, signed(spoiled)), NO_PAIRS)
    tail, found = chances(WIDE, counts, 1e15, (64,))
    assert tail is not None
    assert tail.nearer - tail.explained > 10
    before = chances(WIDE, clean, 1e15, (64,))[1][0].expected
    assert before is not None
    assert found[0].expected is not None
    assert abs(math.log10(found[0].expected / before)) < 0.5
