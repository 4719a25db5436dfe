"""The perceptual hash: against its definition in plain integers, and what it must survive."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast.images.perceptual import perceptual_hash
from dcfast.images.signatures import STATUS, phash_grey
from drawn_pictures import drawing, encode, flat_pictures
from PIL import Image

GREY_LEVEL = 2**40


def phash_ref(grey: np.ndarray) -> tuple[int, bool]:
    """docs/formats.md, word for word, in Python integers."""
    height, width = grey.shape

    def weights(n: int) -> list[list[int]]:
        return [[max(0, min(32 * x + 32, (i + 1) * n) - max(32 * x, i * n)) for x in range(n)] for i in range(32)]

    by_row = np.array(weights(height), dtype=object) @ grey.astype(object)
    sums = by_row @ np.array(weights(width), dtype=object).T
    area = width * height
    cells = [[(256 * int(s) + area // 2) // area for s in row] for row in sums]

    def table(k: int, x: int) -> int:
        return 11585 if k == 0 else round(2**14 * math.cos((2 * x + 1) * k * math.pi / 64))

    tables = [[table(k, x) for x in range(32)] for k in range(11)]
    half = [[sum(t * c for t, c in zip(tables[v], row, strict=True)) for v in range(11)] for row in cells]
    order = [(u, d - u) for d in range(1, 11) for u in range(d + 1)][:64]
    frequencies = [sum(tables[u][j] * half[j][v] for j in range(32)) for u, v in order]
    ranked = sorted(frequencies)
    centre = ranked[31] + ranked[32]
    bits = 0
    for f in frequencies:
        bits = bits * 2 + (2 * f > centre)
    deviations = sorted(abs(2 * f - centre) for f in frequencies)
    return bits, deviations[31] + deviations[32] < 4 * 5 * GREY_LEVEL


def distance(a: int, b: int) -> int:
    return (a ^ b).bit_count()


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 2), (2, 1), (7, 11), (31, 33), (32, 32), (28, 28), (64, 64), (97, 3), (5, 131), (200, 301)]
)
def test_equals_the_definition(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape[0] * 1000 + shape[1])
    for grey in (
        rng.integers(0, 256, shape, dtype=np.uint8),
        np.full(shape, 255, np.uint8),
        (rng.integers(0, 3, shape) + 100).astype(np.uint8),
        np.asarray(drawing(shape[0]).convert("L").resize(shape[::-1])),
    ):
        assert phash_grey(np.ascontiguousarray(grey)) == phash_ref(grey)


def test_worked_example_of_the_documentation() -> None:
    y, x = np.mgrid[:4, :6]
    grey = ((37 * x + 91 * y + 50 * (x == y)) % 256).astype(np.uint8)
    assert grey.tolist() == [
        [50, 37, 74, 111, 148, 185],
        [91, 178, 165, 202, 239, 20],
        [182, 219, 50, 37, 74, 111],
        [17, 54, 91, 178, 165, 202],
    ]
    assert phash_grey(grey) == phash_ref(grey) == (304087749552976464, False)


@pytest.mark.parametrize("seed", range(12))
def test_survives_what_the_web_does(seed: int) -> None:
    image = drawing(seed)
    original = perceptual_hash(encode(image, quality=92))
    assert original.status == "ok"
    assert not original.flat
    copies = {
        "recompressed": encode(image, quality=30),
        "progressive": encode(image, quality=75, progressive=True),
        "half": encode(image.resize((200, 150)), quality=85),
        "thumbnail": encode(image.resize((80, 60)), quality=85),
        "double": encode(image.resize((800, 600)), quality=85),
        "squashed": encode(image.resize((300, 400)), quality=85),
        "square": encode(image.resize((224, 224)), quality=85),
        "grey": encode(image.convert("L"), quality=85),
        "png": encode(image, "PNG"),
        "webp": encode(image, "WEBP", quality=50),
        "lossless": encode(image, "WEBP", lossless=True),
        "palette": encode(image.quantize(64), "PNG"),
    }
    for name, copy in copies.items():
        got = perceptual_hash(copy)
        assert distance(got.hash, original.hash) <= 6, name
        assert not got.flat, name
    assert distance(perceptual_hash(encode(image, quality=92), full=True).hash, original.hash) <= 4


def test_different_scenes_lie_apart() -> None:
    found = perceptual_hash([encode(drawing(seed)) for seed in range(40)])
    assert not found.flat.any()
    distances = np.bitwise_count(found.hash[:, None] ^ found.hash[None, :])[np.triu_indices(40, 1)]
    assert distances.min() > 8
    assert 28 < distances.mean() < 36


@pytest.mark.parametrize("size", [32, 100, 500])
def test_flat_pictures_are_marked(size: int) -> None:
    for name, values in flat_pictures(size).items():
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
        for copy in (encode(image, quality=75), encode(image, "PNG")):
            assert perceptual_hash(copy).flat, name


def test_solid_pictures_hash_to_zero() -> None:
    for size in (1, 31, 32, 33, 100):
        assert phash_grey(np.full((size, size + 3), 77, np.uint8)) == (0, True)


def test_sequences_keep_order_and_say_why_not() -> None:
    good = encode(drawing(1))
    found = perceptual_hash([good, b"", b"nothing", good[:500], good], threads=3)
    assert found.status.tolist() == [0, 1, 2, 3, 0]
    assert found.flat.tolist() == [False, True, True, True, False]
    assert found.hash[0] == found.hash[4] == perceptual_hash(good).hash
    assert found.hash[1:4].tolist() == [0, 0, 0]
    assert perceptual_hash([]).hash.shape == (0,)
    assert perceptual_hash(b"") == (0, True, "empty")
    assert perceptual_hash(bytearray(good)) == perceptual_hash(memoryview(good)) == perceptual_hash(good)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.zeros((3, 3), np.float32), TypeError, "grey must be a two-dimensional uint8 array"),
        (np.zeros((3, 3, 3), np.uint8), TypeError, "grey must be a two-dimensional uint8 array"),
        (np.zeros((0, 3), np.uint8), ValueError, "expected width \\* height values"),
        (np.zeros((8, 8), np.uint8)[:, ::2], ValueError, "grey must be contiguous"),
        ([[1, 2]], TypeError, "grey must be a two-dimensional uint8 array; got list"),
    ],
)
def test_bad_grey(value, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        phash_grey(value)


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Any]:
    """One drawing in each form."""
    image = drawing(3).convert("RGB")
    encoded = encode(image, "PNG")
    (tmp_path / "a.png").write_bytes(encoded)
    return {
        "bytes": encoded, "str": str(tmp_path / "a.png"), "path": tmp_path / "a.png", "pillow": image,
        "opened": Image.open(tmp_path / "a.png"), "rgb": np.asarray(image), "grey": np.asarray(image.convert("L")),
        "not contiguous": np.asarray(image)[::-1][::-1],
    }  # fmt: skip


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_all_forms_of_a_picture_have_one_hash(pictures: dict[str, Any], threads: int | None) -> None:
    expected = phash_grey(pictures["grey"])
    for form, picture in pictures.items():
        assert (form, *perceptual_hash(picture, threads=threads)) == (form, *expected, "ok")
        many = perceptual_hash([picture, picture], threads=threads)
        assert (many.hash.tolist(), many.flat.tolist(), many.status.tolist()) == (
            [expected[0]] * 2,
            [expected[1]] * 2,
            [0, 0],
        )
    other = drawing(4)
    mixed = perceptual_hash([b"", *pictures.values(), other], threads=threads)
    assert mixed.hash.tolist() == [0, *[expected[0]] * len(pictures), perceptual_hash(other).hash]
    assert (mixed.hash.dtype, mixed.flat.dtype, mixed.status.dtype) == (np.uint64, np.bool_, np.uint8)
    assert mixed.status.tolist() == [STATUS.index("empty"), *[0] * (len(pictures) + 1)]


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture at all")
    (tmp_path / "cut.png").write_bytes(encode(drawing(1), "PNG")[:400])
    names = ["empty.jpg", "text.jpg", "cut.png"]
    statuses = [STATUS[n] for n in perceptual_hash([tmp_path / name for name in names]).status]
    assert statuses == [perceptual_hash((tmp_path / name).read_bytes()).status for name in names]
    assert perceptual_hash(Image.open(tmp_path / "cut.png")) == (0, True, "broken")
    for wrong, error in (("none.jpg", FileNotFoundError), (".", IsADirectoryError)):
        with pytest.raises(error):
            perceptual_hash(tmp_path / wrong)


def test_no_pictures_have_no_hashes() -> None:
    assert [column.shape for column in perceptual_hash([])] == [(0,)] * 3


@pytest.mark.parametrize(
    ("picture", "error", "message"),
    [
        (7, TypeError, "pictures must be bytes .*; got int: pass one"),
        ([b"", None], TypeError, "pictures must be bytes .*; got NoneType"),
        (np.zeros((3, 3), np.float32), TypeError, "an array must have dtype uint8; got float32"),
        (np.zeros((3, 3, 4), np.uint8), ValueError, r"of shape .*; got \(3, 3, 4\): pass one picture an array"),
        (np.zeros((2, 3, 3, 3), np.uint8), ValueError, r"of shape .*; got \(2, 3, 3, 3\)"),
    ],
)
def test_bad_pictures(picture: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        perceptual_hash(picture)


def test_bad_threads() -> None:
    with pytest.raises(ValueError, match="threads must be None or"):
        perceptual_hash([], threads="2")  # type: ignore[arg-type]
