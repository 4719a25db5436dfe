"""The bar on real data: every leaked evaluation picture is found, and hardly anything else."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast.images.perceptual import perceptual_hash
from dcfast.images.signatures import FORMATS, STATUS, Signatures, image_signatures
from dcfast.similarity.hamming import hamming_join

pytestmark = pytest.mark.real_data

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
MAX_DISTANCE = 8


@dataclass
class Signed:
    """Signatures of all pictures of some shards, with the uid (pool) or the shard's path (evaluation sets)."""

    owner: list[str]
    arrays: Signatures

    def where(self, rows: Any) -> list[str]:
        return [self.owner[i] for i in np.flatnonzero(rows)]


def sign(shards: list[Path]) -> Signed:
    owner: list[str] = []
    parts = []
    for shard in shards:
        uids, names, extents = {}, [], []
        with tarfile.open(shard) as tar:
            for member in tar:
                key = member.name.split(".")[0]
                if member.name.endswith(".json"):
                    uids[key] = json.load(tar.extractfile(member))["uid"]  # type: ignore[arg-type]
                elif member.name.endswith(PICTURES):
                    names.append(key)
                    extents.append((member.offset_data, member.size))
        offsets, sizes = np.array(extents, np.uint64).T
        parts.append(image_signatures(shard, offsets, sizes, threads=2))
        owner += [uids.get(name, str(shard)) for name in names]
    return Signed(owner, Signatures(*map(np.concatenate, zip(*parts, strict=True))))


@pytest.fixture(scope="module")
def pool(real_data: Path) -> Signed:
    return sign(sorted((real_data / "pool" / "shards").glob("*.tar")))


@pytest.fixture(scope="module")
def evaluation(real_data: Path) -> Signed:
    return sign(sorted((real_data / "evalsets").glob("*/test/*.tar")))


@pytest.fixture(scope="module")
def truth(real_data: Path) -> dict[str, str]:
    lines = (real_data / "pool_truth.tsv").read_text().splitlines()[1:]
    return dict(line.split("\t") for line in lines)  # type: ignore[misc]


def test_statuses_of_the_pool(pool: Signed, evaluation: Signed, truth: dict[str, str]) -> None:
    """Truncated are exactly the 12; the odd ones, and all of the evaluation sets, are ok."""
    assert len(pool.owner) == 1952
    truncated = {uid for uid, kind in truth.items() if kind == "truncated"}
    status = pool.arrays.status
    assert set(pool.where(status == STATUS.index("truncated"))) == truncated
    assert len(truncated) == 12
    assert set(pool.where(status == STATUS.index("ok"))) == set(truth) - truncated
    assert (evaluation.arrays.status == STATUS.index("ok")).all()
    assert set(np.unique(pool.arrays.format)) == {FORMATS.index("jpeg")}


def test_leaks_are_found(pool: Signed, evaluation: Signed, truth: dict[str, str]) -> None:
    """All exact leaks by content; of near leaks all, where 118 of 120 would do; no false alarm, where 2 would do."""
    by_content = np.isin(pool.arrays.content_hash, evaluation.arrays.content_hash)
    mine, theirs = np.flatnonzero(~pool.arrays.flat), np.flatnonzero(~evaluation.arrays.flat)
    pairs = hamming_join(pool.arrays.phash[mine], evaluation.arrays.phash[theirs], MAX_DISTANCE, threads=2)
    by_look = np.zeros(len(pool.owner), bool)
    by_look[mine[pairs.ia.astype(np.int64)]] = True

    exact = {uid for uid, kind in truth.items() if kind.startswith("leak-exact:")}
    near = {uid for uid, kind in truth.items() if kind.startswith("leak-near:")}
    assert (len(exact), len(near)) == (40, 120)
    assert set(pool.where(by_content)) == exact
    found = set(pool.where(by_look | by_content))
    assert len(found & near) == 120
    assert exact <= found
    assert [truth[uid] for uid in found - exact - near] == []


def test_few_real_pictures_are_flat(pool: Signed, evaluation: Signed, truth: dict[str, str]) -> None:
    flat = pool.arrays.flat & (pool.arrays.status == STATUS.index("ok"))
    kinds = Counter(truth[uid].split(":")[0] for uid in pool.where(flat))
    assert set(kinds) <= {"odd"}, kinds  # one-coloured test pictures
    assert not evaluation.arrays.flat.any()


def test_full_scale_changes_few_bits(real_data: Path, pool: Signed) -> None:
    shard = sorted((real_data / "pool" / "shards").glob("*.tar"))[0]
    with tarfile.open(shard) as tar:
        extents = [(m.offset_data, m.size) for m in tar if m.name.endswith(PICTURES)]
    offsets, sizes = np.array(extents, np.uint64).T
    full = image_signatures(shard, offsets, sizes, threads=2, full=True)
    reduced = Signatures(*(array[: len(extents)] for array in pool.arrays))
    for name in ("status", "width", "height", "flat", "content_hash"):
        assert np.array_equal(getattr(full, name), getattr(reduced, name))
    assert np.bitwise_count(full.phash ^ reduced.phash)[~full.flat].max() <= 4


def test_edits_of_one_photo_match_and_other_photos_do_not(real_data: Path) -> None:
    near = real_data / "near_dup"
    edits = sorted((near / "bridge-mods").glob("*.jpg"))
    others = sorted((near / "labelme-subset").glob("*.jpg"))
    assert (len(edits), len(others)) == (12, 7)
    same = perceptual_hash([path.read_bytes() for path in edits])
    apart = perceptual_hash([path.read_bytes() for path in others])
    assert not same.flat.any()
    assert np.bitwise_count(same.hash[:, None] ^ same.hash[None, :]).max() <= MAX_DISTANCE
    hashes = np.concatenate([same.hash[:1], apart.hash[~apart.flat]])
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    assert distances[np.triu_indices(len(hashes), 1)].min() > 2 * MAX_DISTANCE


def test_odd_pictures_are_read_as_pillow_reads_them(real_data: Path) -> None:
    """One difference: unknown_compression_method.png, whose colour profile alone is broken, is ok for us."""
    from dcfast.images.signatures import image_signature

    expected = {
        "truncated_jpeg.jpg": "truncated",
        "ultrahdr.jpg": "truncated",
        "truncated_end_chunk.png": "truncated",
        "broken.png": "broken",
        "testorig12.jpg": "unsupported",
        "decompression_bomb.gif": "too_large",
        "zero_width.gif": "unsupported",
    }
    paths = [path for path in sorted((real_data / "odd_images").glob("*/*")) if not path.name.startswith("LICENSE")]
    assert len(paths) == 89
    for path in paths:
        assert image_signature(path.read_bytes()).status == expected.get(path.name, "ok"), path.name
