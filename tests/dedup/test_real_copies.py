"""Both hashes at the default thresholds on real pictures with known copies."""

from __future__ import annotations

import json
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from dcfast.dedup.calibration.methods import PHASH, TURNED, WIDE, nearest, of_hashes
from dcfast.dedup.thresholds import MAX_DISTANCE, MAX_DISTANCE_256
from dcfast.images.signatures import STATUS, Signatures, hash_variants, signatures_of

IMAGES = (".jpg", ".png", ".webp")


@cache
def of_tars(folder: Path) -> tuple[list[str], Signatures]:
    """(uid, or name) of each sample's picture, and the signatures."""
    names, pictures = [], []
    for path in sorted(folder.rglob("*.tar")):
        uids = {}
        with tarfile.open(path) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar if member.isfile()]  # type: ignore[union-attr]
        for name, data in members:
            if name.endswith(".json"):
                uids[name.removesuffix(".json")] = json.loads(data)["uid"]
        for name, data in members:
            if name.endswith(IMAGES):
                names.append(uids.get(name.rpartition(".")[0], name))
                pictures.append(data)
    return names, signatures_of(pictures, wide=True)


def of_files(paths: list[Path]) -> Signatures:
    signed = signatures_of([path.read_bytes() for path in paths], wide=True)
    assert (signed.status == STATUS.index("ok")).all()
    return signed


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bits in which hashes (..., words) differ."""
    return np.bitwise_count(a ^ b).sum(axis=-1)


def hits(pool: Signatures, evals: Signatures, *, turned: bool) -> dict[str, np.ndarray]:
    """Method -> (pool pictures,): which have an evaluation picture within the default threshold."""
    ways = {"phash": PHASH, "phash256": TURNED if turned else WIDE}
    found = {}
    for name, method in ways.items():
        limit = MAX_DISTANCE if method is PHASH else MAX_DISTANCE_256
        found[name] = (nearest(method, of_hashes(method, evals), of_hashes(method, pool)) <= limit).any(axis=0)
    same = pool.content_hash[:, None] == evals.content_hash[None]
    readable = (pool.status == 0)[:, None] & (evals.status == 0)[None]
    return {**found, "content": (same & readable).any(axis=1)}


@pytest.mark.parametrize("turned", [False, True])
def test_leaks_of_the_pool(real_data: Path, turned: bool) -> None:
    rows = (line.split("\t") for line in (real_data / "pool_truth.tsv").read_text().splitlines()[1:])
    truth = dict(rows)
    uids, pool = of_tars(real_data / "pool" / "shards")
    kinds = np.array([truth[uid] for uid in uids])
    found = {method: np.zeros(len(uids), np.bool_) for method in ("phash", "phash256", "content")}
    for name in ("imagenet1k", "vtab-caltech101", "retrieval-flickr8k_mini", "cifar10", "mnist"):
        evals = of_tars(real_data / "evalsets" / f"wds_{name}_test")[1]
        for method, hit in hits(pool, evals, turned=turned).items():
            found[method] |= hit
    exact, near = np.char.startswith(kinds, "leak-exact"), np.char.startswith(kinds, "leak-near")
    assert (exact.sum(), near.sum()) == (40, 120)
    assert found["content"][exact].all()
    for method in ("phash", "phash256"):
        assert found[method][near].sum() == 120, method
        assert not kinds[found[method] & ~exact & ~near].tolist(), method


def test_edits_of_pdq(real_data: Path) -> None:
    folder = real_data / "near_dup" / "bridge-mods"
    signed = of_files(sorted(folder.glob("*.jpg")))  # aaa-orig.jpg is the first
    assert (apart(signed.phash256[0], signed.phash256[1:]) <= MAX_DISTANCE_256).sum() == 11
    assert (apart(signed.phash[0], signed.phash[1:, None]) <= MAX_DISTANCE).sum() == 11


def test_turns_and_flips(real_data: Path) -> None:
    signed = of_files(sorted((real_data / "near_dup" / "dih").glob("*.jpg")))
    own = signed.phash256[0]
    variants = hash_variants(own)
    nearest = apart(variants[None], signed.phash256[1:, None])
    assert (nearest.min(axis=1) <= MAX_DISTANCE_256).all()
    assert sorted(nearest.argmin(axis=1).tolist()) == [1, 2, 3, 4, 5, 6, 7]
    assert (apart(own, signed.phash256[1:]) > MAX_DISTANCE_256).all()


def test_unrelated_photos(real_data: Path) -> None:
    near_dup = real_data / "near_dup"
    paths = [near_dup / "bridge-mods" / "aaa-orig.jpg", *sorted((near_dup / "labelme-subset").glob("*.jpg"))]
    signed = of_files(paths)
    found = apart(hash_variants(signed.phash256)[:, :, None], signed.phash256[None, None]).min(axis=1)
    assert (found[~np.eye(len(paths), dtype=bool)] > MAX_DISTANCE_256).all()
