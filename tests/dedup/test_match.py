"""Matches against brute force: every method, ties, crowds of alike pictures, pictures that match nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast.dedup import match
from dcfast.dedup.evidence import PERCEPTUAL, PERCEPTUAL_256
from dcfast.dedup.match import EvalImages, Hits, Limits, all_matches, descriptor_matches, exact_matches, near_matches
from dcfast.dedup.signature_file import DescriptorInfo
from dcfast.dedup.thresholds import CONFIRMING_DISTANCE_256, UNCONFIRMED_DISTANCE
from dcfast.errors import PoolError
from dcfast.images.signatures import FLAT_QUALITY, hash_variants
from signature_builder import ISC, records, rows_of, turned, unit, write_signatures


def flipped(values: Any, bits: int, seed: int) -> Any:
    """Hashes of 64 bits with so many bits changed in each."""
    rng = np.random.default_rng(seed)
    return np.array([v ^ np.uint64(sum(1 << int(b) for b in rng.choice(64, bits, replace=False))) for v in values])


def usable(evals: EvalImages) -> Any:
    return np.flatnonzero((evals.records["flat"] == 0) & (evals.records["status"] == 0))


def as_set(hits: Hits) -> set[tuple[int, int, float]]:
    return set(zip(hits.row.tolist(), hits.picture.tolist(), hits.near.tolist(), strict=True))


def nearest(evals: EvalImages, near: Any, is_hit: Any, sign: int = 1) -> set[tuple[int, int, float]]:
    """By brute force: of each row and set the nearest picture, ties to the first."""
    found = set()
    for row in range(near.shape[0]):
        for number in np.unique(evals.set_id):
            mine = np.flatnonzero(evals.set_id == number)
            best = mine[np.argmin(sign * near[row, mine])]
            if is_hit[row, best]:
                found.add((row, int(best), float(near[row, best])))
    return found


@pytest.fixture
def evals(tmp_path: Path) -> EvalImages:
    one, two = records(40, 1), records(30, 2)
    two["h0"][:3], two["h1"][:3] = one["h0"][:3], one["h1"][:3]
    two["flat"][5], two["quality"][5], two["status"][6] = 1, 0, 3
    vectors = [unit(40, seed=1), unit(30, seed=2)]
    vectors[1][7] = 0  # no descriptor
    write_signatures(tmp_path / "a", {"one": rows_of(one, vectors[:1])}, [ISC])
    write_signatures(
        tmp_path / "b", {"two": rows_of(two, vectors[1:], "z"), "none": rows_of(records(0), [unit(0)])}, [ISC]
    )
    return EvalImages([tmp_path / "a", tmp_path / "b"])


@pytest.fixture
def pool(evals: EvalImages) -> Any:
    made = records(50, 3)
    made["phash"][:20] = flipped(evals.records["phash"][:20], 8, 5)
    made["phash"][20:30] = flipped(evals.records["phash"][45:55], 9, 6)
    made["phash256"][:15] = evals.records["phash256"][:15]
    made["phash256"][20:30] = evals.records["phash256"][45:55]
    made["quality"][15:18] = 0  # these cannot be confirmed
    made["phash256"][3, 2] ^= np.uint64(0b111)
    one = records(40, 1)
    made["h0"][:3], made["h1"][:3] = one["h0"][:3], one["h1"][:3]
    return made


ALL = np.arange(50)


def test_pictures_that_have_nothing_are_left_out(evals: EvalImages) -> None:
    assert [one.name for one in evals.sets] == ["one", "two", "none"]
    assert len(evals) == 70  # one is not readable, but has a descriptor
    assert len(evals.content) == 69
    assert len(usable(evals)) == 68
    assert len(evals.descriptors["isc_ft_v107"].picture) == 69


def test_equal_bytes_name_the_first_picture_of_each_set(evals: EvalImages, pool: Any) -> None:
    hits = exact_matches(evals, pool, ALL)
    assert as_set(hits) == {(row, row + of, 0.0) for row in range(3) for of in (0, 40)}
    sets, shards, keys = evals.keys(hits.picture)
    assert (sets[:2], shards[0], keys[:2]) == (["one", "two"], "0.tar", ["k0", "z0"])
    assert len(exact_matches(evals, pool, ALL[40:]).row) == 0


@pytest.mark.parametrize("bits", [0, 7, 8, 9, 20, 64])
def test_hashes_of_64_bits(bits: int, evals: EvalImages, pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    near = np.bitwise_count(pool["phash"][:, None] ^ evals.records["phash"][None, :]).astype(np.int64)
    near[:, np.setdiff1d(np.arange(70), usable(evals))] = 100
    wide = np.bitwise_count(pool["phash256"][:, None] ^ evals.records["phash256"][None, :]).sum(axis=2)
    flat = (pool["quality"] < FLAT_QUALITY)[:, None] | (evals.records["quality"] < FLAT_QUALITY)[None]
    near[~np.where(flat, near <= UNCONFIRMED_DISTANCE, wide <= CONFIRMING_DISTANCE_256)] = 100
    expected = nearest(evals, near, near <= bits)
    assert as_set(near_matches(evals, pool, ALL, bits, PERCEPTUAL)) == expected
    monkeypatch.setattr(match, "MOST_PAIRS", 5)  # a crowd: blocks shrink, to one row at last
    assert as_set(near_matches(evals, pool, ALL, bits, PERCEPTUAL)) == expected


@pytest.mark.parametrize("bits", [0, 3, 31, 100, 255])
def test_hashes_of_256_bits(bits: int, evals: EvalImages, pool: Any) -> None:
    near = np.bitwise_count(pool["phash256"][:, None] ^ evals.records["phash256"][None, :]).sum(axis=2).astype(np.int64)
    near[:, np.setdiff1d(np.arange(70), usable(evals))] = 1000
    near[pool["quality"] < FLAT_QUALITY] = 1000
    assert as_set(near_matches(evals, pool, ALL, bits, PERCEPTUAL_256)) == nearest(evals, near, near <= bits)


@pytest.mark.parametrize("bits", [64, 65])
def test_256_bits_confirm_what_64_call_alike(bits: int, evals: EvalImages) -> None:
    own = evals.records[:2].copy()
    for bit in range(bits):
        own["phash256"][:, bit // 64] ^= np.uint64(1 << bit % 64)
    own["phash"] ^= np.uint64(31)
    one = np.arange(2)
    assert near_matches(evals, own, one, 8, PERCEPTUAL).row.tolist() == ([0, 1] if bits == 64 else [])
    own["quality"][0] = 0  # five bits apart, and nothing confirms it
    assert near_matches(evals, own, one, 8, PERCEPTUAL).row.tolist() == ([1] if bits == 64 else [])
    own["phash"] ^= np.uint64(4)
    assert near_matches(evals, own, one, 8, PERCEPTUAL).row.tolist() == ([0, 1] if bits == 64 else [0])


def test_descriptors_from_the_threshold_on(evals: EvalImages) -> None:
    known = evals.descriptors["isc_ft_v107"]
    parts = [turned(unit(40, seed=1), 0.604170), turned(unit(40, seed=1), 0.604167)]
    parts += [np.full((1, 256), value, np.float32) for value in (0, np.nan, np.inf)]
    vectors = np.concatenate(parts)
    hits = descriptor_matches(evals, "isc_ft_v107", vectors, 0.604169)
    scores = vectors[:40].astype(np.float64) @ unit(40, seed=1).astype(np.float64).T
    expected = {(row, row) for row in range(40) if np.float32(scores[row, row]) >= np.float32(0.604169)}
    assert {(row, picture) for row, picture, _ in as_set(hits)} == expected
    assert len(expected) >= 35
    assert len(known.picture) == 69
    assert np.allclose(hits.near, 0.60417, atol=1e-5)


def test_methods_are_those_asked_for(evals: EvalImages, pool: Any) -> None:
    described: dict[str, Any] = {"isc_ft_v107": unit(50, seed=1)}
    every = all_matches(evals, pool, Limits(8, 31, {"isc_ft_v107": 0.9}), described)
    assert [one.method for one in every] == ["content", "perceptual", "perceptual256", "descriptor:isc_ft_v107"]
    assert [len(one.row) > 0 for one in every] == [True] * 4
    some = all_matches(evals, pool, Limits(None, None, {}, content=False), described)
    assert [len(one.row) for one in some] == [0]


def test_pool_pictures_that_are_flat_or_broken_match_nothing_by_looks(evals: EvalImages, pool: Any) -> None:
    pool["phash"], pool["phash256"], pool["quality"] = evals.records["phash"][0], evals.records["phash256"][0], 255
    pool["flat"][:10], pool["status"][10:20] = 1, 3
    content, perceptual = all_matches(evals, pool, Limits(8, None, {}), {})
    assert set(content.row.tolist()) == {0, 1, 2}  # flat ones still match by their bytes
    assert perceptual.row.tolist() == list(range(20, 50))


def test_other_weights_and_names_twice_are_refused(tmp_path: Path) -> None:
    one = write_signatures(tmp_path / "one", {"a": rows_of(records(2), [unit(2)])}, [ISC])
    other = DescriptorInfo("isc_ft_v107", "b" * 64, 256)
    two = write_signatures(tmp_path / "two", {"b": rows_of(records(2), [unit(2)])}, [other])
    with pytest.raises(
        PoolError, match=r"two has descriptors isc_ft_v107 of width 256 by weights b+, .*by a+; give files"
    ):
        EvalImages([one, two])
    three = write_signatures(tmp_path / "three", {"a": rows_of(records(2), [unit(2)])}, [ISC])
    with pytest.raises(PoolError, match=r"set a is in .*one and in .*three; give one of the two"):
        EvalImages([one, three])


def test_a_set_without_a_row_is_compared_with(tmp_path: Path, pool: Any) -> None:
    evals = EvalImages([write_signatures(tmp_path / "none", {"none": rows_of(records(0), [unit(0)])}, [ISC])])
    described: dict[str, Any] = {"isc_ft_v107": unit(50)}
    every = all_matches(evals, pool, Limits(64, 255, {"isc_ft_v107": -1.0}), described)
    assert [len(one.row) for one in every] == [0] * 4


def test_turned_pictures_are_found_by_256_bits_where_asked(tmp_path: Path) -> None:
    from dcfast.images.signatures import signatures_of
    from drawn_pictures import drawing, encode
    from PIL.Image import Transpose

    images = [drawing(n) for n in range(3)]
    made = records(3, 8)
    made["phash256"] = signatures_of([encode(image, "PNG") for image in images], threads=1, wide=True).phash256
    evals = EvalImages([write_signatures(tmp_path / "a", {"one": rows_of(made)})])
    turned = [encode(images[1].transpose(way), "PNG") for way in Transpose]
    pool = records(len(turned), 9)
    pool["phash256"] = signatures_of(turned, threads=1, wide=True).phash256
    rows = np.arange(len(turned))
    hits = near_matches(evals, pool, rows, 31, PERCEPTUAL_256, turned=True)
    assert (hits.row.tolist(), hits.picture.tolist()) == (rows.tolist(), [1] * len(turned))
    assert len(near_matches(evals, pool, rows, 31, PERCEPTUAL_256).row) == 0


@pytest.mark.parametrize("most", [match.MOST_PAIRS, 5])
def test_turning_the_one_side_is_turning_the_other(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match, "MOST_PAIRS", most)
    made, pool = records(30, 8), records(40, 9)
    pool["phash256"][:30] = hash_variants(made["phash256"])[np.arange(30), np.arange(30) % 8]
    evals = EvalImages([write_signatures(tmp_path / "a", {"one": rows_of(made)})])
    turned = hash_variants(made["phash256"])
    near = np.bitwise_count(pool["phash256"][:, None, None] ^ turned[None]).sum(axis=3).min(axis=2).astype(np.int64)
    hits = near_matches(evals, pool, np.arange(40), 120, PERCEPTUAL_256, turned=True)
    assert as_set(hits) == nearest(evals, near, near <= 120)
    assert (hits.near[:30] == 0).all()
