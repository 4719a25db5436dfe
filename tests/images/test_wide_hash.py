"""The 256-bit hash: against its definition in plain integers, its turned variants, and what it must survive."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
import zlib
from pathlib import Path

import dcfast._core as _core
import numpy as np
import pytest
from dcfast.images.signatures import (
    FLAT_QUALITY,
    STATUS,
    VARIANTS,
    hash_variants,
    image_signature,
    image_signatures,
    phash256_grey,
    signatures_of,
)
from drawn_pictures import drawing, encode, flat_pictures
from PIL import Image, ImageEnhance, ImageFilter

GREY_LEVEL = 2**33


EXAMPLE = ["0000b94bad6a46b4", "0000b94b529546b4", "0000b94bad6a46b4", "0000b94b529546b4"]
EXAMPLE_QUALITY = 7


def wide_ref(grey: np.ndarray) -> tuple[list[int], int]:
    """docs/formats.md, word for word, in Python integers."""
    height, width = grey.shape

    def weights(n: int) -> np.ndarray:
        rows = [[max(0, min(64 * x + 64, (i + 1) * n) - max(64 * x, i * n)) for x in range(n)] for i in range(64)]
        return np.array(rows, dtype=object)

    sums = weights(height) @ grey.astype(object) @ weights(width).T
    area = width * height
    cells = np.array([[(16 * int(s) + area // 2) // area - 2048 for s in row] for row in sums], dtype=object)
    table = np.array(
        [[round(2**12 * math.cos((2 * x + 1) * k * math.pi / 128)) for x in range(64)] for k in range(1, 17)], object
    )
    frequencies = table @ cells @ table.T
    even = sorted(int(frequencies[u, v]) for u in range(1, 16, 2) for v in range(1, 16, 2))
    above = [2 * int(frequencies[u, v]) for u in range(16) for v in range(16)]
    for i in range(256):
        if (i // 16) % 2 == 1 and i % 2 == 1:
            above[i] -= even[31] + even[32]
    bits = sum((value > 0) << i for i, value in enumerate(above))
    ranked = sorted(map(abs, above))
    words = [bits >> 64 * word & (2**64 - 1) for word in range(4)]
    return words, min(255, (ranked[127] + ranked[128]) // (4 * GREY_LEVEL))


def wide(picture: bytes, full: bool = False) -> np.ndarray:
    return np.array(image_signature(picture, wide=True, full=full).phash256, np.uint64)


def distance(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.bitwise_count(a ^ b).sum())


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (28, 28), (64, 64), (63, 65), (97, 3), (5, 131), (200, 301)])
def test_equals_the_definition(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape[0] * 1000 + shape[1])
    for grey in (
        rng.integers(0, 256, shape, dtype=np.uint8),
        np.full(shape, 255, np.uint8),
        (rng.integers(0, 3, shape) + 100).astype(np.uint8),
        np.asarray(drawing(shape[0]).convert("L").resize(shape[::-1])),
    ):
        words, quality = phash256_grey(np.ascontiguousarray(grey))
        assert (words.tolist(), quality) == wide_ref(grey)


def test_largest_sums_fit() -> None:
    """Black and white where a frequency's cosine is negative and positive: the most that 32 bits must hold."""
    x = np.arange(64)
    for k in (1, 2, 16):
        wave = np.cos((2 * x + 1) * k * np.pi / 128)
        grey = np.where(wave[:, None] * wave > 0, 255, 0).astype(np.uint8)
        words, quality = phash256_grey(grey)
        assert (words.tolist(), quality) == wide_ref(grey)


def test_worked_example_of_the_documentation() -> None:
    y, x = np.mgrid[:4, :6]
    grey = ((37 * x + 91 * y + 50 * (x == y)) % 256).astype(np.uint8)
    words, quality = phash256_grey(grey)
    assert (words.tolist(), quality) == wide_ref(grey)
    assert [f"{word:016x}" for word in words.tolist()] == EXAMPLE
    assert quality == EXAMPLE_QUALITY


@pytest.mark.parametrize("seed", range(6))
def test_variants_are_the_hashes_of_turned_pictures(seed: int) -> None:
    picture = drawing(seed).convert("L")
    variants = hash_variants(phash256_grey(np.asarray(picture))[0])
    assert variants.shape == (8, 4)
    for name, variant in zip(VARIANTS, variants, strict=True):
        turned = picture if name == "identity" else picture.transpose(Image.Transpose[name.upper()])
        assert distance(phash256_grey(np.ascontiguousarray(turned))[0], variant) == 0, name
        # decoded from a JPEG, at a scale of its own
        assert distance(wide(encode(turned, quality=80)), variant) <= 16, name


def test_variants_of_many() -> None:
    hashes = np.random.default_rng(1).integers(0, 2**64, (50, 4), dtype=np.uint64)
    variants = hash_variants(hashes)
    assert variants.shape == (50, 8, 4)
    assert np.array_equal(variants[:, 0], hashes)
    for some, own in zip(variants, hashes, strict=True):
        assert np.array_equal(some, hash_variants(own))
        assert len({row.tobytes() for row in some}) == 8
        # a turn and the turn back; a mirror twice
        assert np.array_equal(hash_variants(some[1])[3], own)
        for k in (2, 4, 5, 6, 7):
            assert np.array_equal(hash_variants(some[k])[k], own)
    assert hash_variants(np.zeros((0, 4), np.uint64)).shape == (0, 8, 4)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.zeros(4), TypeError, "phash256 must have dtype uint64; got float64: pass"),
        (np.zeros(3, np.uint64), ValueError, r"must have shape \(4,\) or \(N, 4\); got \(3,\): pass"),
        (np.zeros((2, 2, 4), np.uint64), ValueError, r"got \(2, 2, 4\)"),
        (np.uint64(3), ValueError, r"got \(\)"),
    ],
)
def test_bad_hashes(value, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hash_variants(value)
    with pytest.raises(TypeError, match="grey must be a two-dimensional uint8 array; got list"):
        phash256_grey([[1]])  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(12))
def test_survives_what_the_web_does(seed: int) -> None:
    image = drawing(seed)
    original = wide(encode(image, quality=92))
    copies = {
        "recompressed": encode(image, quality=30),
        "half": encode(image.resize((200, 150)), quality=85),
        "thumbnail": encode(image.resize((80, 60)), quality=85),
        "squashed": encode(image.resize((300, 400)), quality=85),
        "grey": encode(image.convert("L"), quality=85),
        "png": encode(image, "PNG"),
        "webp": encode(image, "WEBP", quality=50),
        "gif": encode(image, "GIF"),
        "blurred": encode(image.filter(ImageFilter.GaussianBlur(3)), quality=85),
        "bright": encode(ImageEnhance.Brightness(image).enhance(1.1), quality=85),
    }
    for name, copy in copies.items():
        assert distance(wide(copy), original) <= 31, name
    assert distance(wide(encode(image, quality=92), full=True), original) <= 16


def test_different_scenes_lie_apart() -> None:
    found = signatures_of([encode(drawing(seed)) for seed in range(40)], wide=True)
    assert not found.flat256.any()
    distances = np.bitwise_count(found.phash256[:, None] ^ found.phash256[None]).sum(-1)[np.triu_indices(40, 1)]
    assert distances.min() > 80
    assert 110 < distances.mean() < 136


@pytest.mark.parametrize("size", [32, 100, 500])
def test_flat_pictures_are_marked(size: int) -> None:
    for name, values in flat_pictures(size).items():
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
        found = signatures_of([encode(image, quality=75), encode(image, "PNG")], wide=True)
        assert found.flat256.all(), name
        assert found.quality.max() < FLAT_QUALITY


def test_the_narrow_hash_does_not_change_with_the_wide_one() -> None:
    pictures = [encode(drawing(3)), encode(drawing(4), "PNG"), encode(drawing(5), "GIF"), b"", b"no picture"]
    narrow, both = signatures_of(pictures), signatures_of(pictures, wide=True)
    assert all(map(np.array_equal, narrow[:7], both[:7]))
    assert narrow.phash256.shape == (0, 4)
    assert both.phash256.shape == (5, 4)
    assert both.phash256.dtype == np.uint64
    assert both.phash256[:3].any(axis=1).all()
    assert not both.phash256[3:].any()
    assert both.flat256.tolist() == [False, False, False, True, True]
    assert image_signature(pictures[0]).phash256 == (0, 0, 0, 0)
    assert image_signature(pictures[0], wide=True).phash256 == tuple(both.phash256[0].tolist())


def test_members_of_a_shard_for_any_threads(tmp_path: Path) -> None:
    members = [encode(drawing(seed), kind) for seed in range(8) for kind in ("JPEG", "PNG", "GIF")]
    path = tmp_path / "0.tar"
    path.write_bytes(b"".join(members))
    sizes = np.array([len(member) for member in members], np.uint64)
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.uint64)
    first = image_signatures(path, offsets, sizes, threads=1, wide=True)
    for threads in (None, 3):
        assert all(map(np.array_equal, first, image_signatures(path, offsets, sizes, threads=threads, wide=True)))
    assert all(map(np.array_equal, first, signatures_of(members, wide=True)))
    assert set(first.status) == {STATUS.index("ok")}


def test_the_baseline_has_the_same_bits() -> None:
    """DCFAST_ISA=baseline: the loops that are not compiled for AVX2."""
    script = "import io, sys, numpy as np; from dcfast.images.signatures import *\n"
    script += "for shape in ((1, 1), (3, 900), (64, 64), (70, 91), (480, 641)):\n"
    script += "    grey = np.random.default_rng(shape[0]).integers(0, 256, shape, dtype=np.uint8)\n"
    script += "    words, quality = phash256_grey(grey); print(words.tolist(), quality, phash_grey(grey))"
    package = str(Path(_core.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, *sys.path])}

    def printed(**more: str) -> str:
        run = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env={**environment, **more}, check=True
        )
        return run.stdout

    assert printed(DCFAST_ISA="baseline") == printed() != ""


def test_a_bomb_has_no_hash() -> None:
    """A PNG of more pixels than are decoded says so, whatever follows its header."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    bomb = bytearray(buffer.getvalue())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    found = image_signature(bytes(bomb), wide=True)
    assert (found.status, found.phash256, found.quality) == ("too_large", (0, 0, 0, 0), 0)
