"""Boxes blurred in pictures: against a slow blur, against img2dataset's own numbers, and on every machine alike."""

from __future__ import annotations

import hashlib
import io
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from dcfast.images.blur import blur_boxes, blur_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pool_builder import picture

FACE = [0.25, 0.25, 0.75, 0.7]


def slow_blur(pixels: np.ndarray, boxes: list[list[float]]) -> np.ndarray:
    """Pixel by pixel, with a two-dimensional kernel."""
    height, width, _ = pixels.shape
    mask = np.zeros((height, width))
    longest = 0
    for x0, y0, x1, y1 in boxes:
        left, top, right, bottom = int(x0 * width), int(y0 * height), int(x1 * width), int(y1 * height)
        side = max(right - left, bottom - top)
        longest = max(longest, side)
        a, b = (min(max(int(v), 0), height - 1) for v in (top - 0.1 * side, bottom + 0.1 * side))
        c, d = (min(max(int(v), 0), width - 1) for v in (left - 0.1 * side, right + 0.1 * side))
        mask[a:b, c:d] = 1
    if longest == 0:
        return pixels
    sigma = 0.1 * longest
    reach = math.ceil(4 * sigma)
    kernel = np.array([math.exp(-0.5 * (i / sigma) ** 2) for i in range(-reach, reach + 1)])
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    padded = np.pad(np.dstack([pixels / 255, mask]), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    blurred = np.array(
        [
            [
                (padded[y : y + 2 * reach + 1, x : x + 2 * reach + 1] * kernel[..., None]).sum((0, 1))
                for x in range(width)
            ]
            for y in range(height)
        ]
    )
    weight = blurred[..., -1:]
    return (pixels / 255 * (1 - weight) + blurred[..., :-1] * weight) * 255


@pytest.mark.parametrize(
    "boxes",
    [
        [FACE],
        [[0, 0, 0.3, 0.2]],
        [[0.8, 0.5, 1, 1]],
        [[0, 0, 1, 1]],
        [FACE, [0.1, 0.8, 0.2, 0.9]],
        [[0.5, 0.5, 0.5, 0.5]],
    ],
)
@pytest.mark.parametrize("channels", [3, 4])
def test_blur_equals_the_slow_one(boxes: list[list[float]], channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (29, 41, channels), dtype=np.uint8)
    before = pixels.copy()
    got = blur_boxes(pixels, np.array(boxes, np.float64))
    assert np.array_equal(pixels, before)
    gap = slow_blur(pixels, boxes) - got
    assert gap.min() > -0.01
    assert gap.max() < 1  # cut to whole numbers
    assert (got != pixels).any() == (boxes[0][0] != boxes[0][2])


def drawn(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([(x * x + 3 * y) // 5 % 256, (7 * x ^ 5 * y) % 256, (x * y) // 3 % 256], axis=2).astype(np.uint8)


PINNED = [
    ((61, 83), [[0.25, 0.25, 0.75, 0.7]],
     "10261076b3304a145076936f11e58f1760307fbb8d69648f7d96731da0ad1ead508651916a9"
     "1837f6c77236ecb26e86f8c5c6568b268806c682a2dea2d368f93a5af6017ce9285ed2df510", 1728689),
    ((61, 83), [[0.0, 0.0, 0.3, 0.2], [0.7, 0.55, 1.0, 1.0], [0.65, 0.5, 0.8, 0.7]],
     "11330f77aa3043065076967010e69017602f7ef08f4a42f07ed15017a1af1eae50853ef0528"
     "e8f834e584c72a926ea708c7a5059c930856b6a715c852d369093a6b06016d08b86a2769b7b", 1740460),
    ((90, 40), [[0.1, 0.05, 0.95, 0.9]],
     "143e162d59285b874082a65580a3611e873d388564647d838478867a7b7a29a6594296776c7"
     "a7e86677e75677a3450664d617775867e889f7d719a843d916c5693747d7275906c8c697389", 1166156),
    ((400, 390), [[0.05, 0.1, 0.9, 0.95]],
     "6d846c8387768581787a83797679787b7f7d7f7f7e7e7f7e807f7e838383847f7d7f7f7e807"
     "f7e7e7f7e817e7d897f7e7f7f7e7f7f7e7e7f7e848585857f7e7f7f7f7f7f7e807f7f7c807e", 59169201),
]  # fmt: skip
"""Size, boxes; 25 pixels of what img2dataset 1.40 (OpenCV 4.6, albumentations 1.3) makes of ``drawn``, and the sum."""


@pytest.mark.parametrize(("shape", "boxes", "pixels", "total"), PINNED)
def test_numbers_of_the_pinned_img2dataset(
    shape: tuple[int, int], boxes: list[list[float]], pixels: str, total: int
) -> None:
    height, width = shape
    made = blur_boxes(drawn(*shape), np.array(boxes)).astype(np.int64)
    theirs = np.frombuffer(bytes.fromhex(pixels), np.uint8).reshape(5, 5, 3)
    gap = np.abs(made[height // 10 :: height // 5, width // 10 :: width // 5] - theirs)
    assert gap.max() <= 1
    assert abs(made.sum() - total) / made.size < 0.1
    assert (gap > 0).mean() < 0.1


fractions = st.floats(0, 1)


@given(
    st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(1, 4)),
    st.lists(st.tuples(fractions, fractions, fractions, fractions), min_size=1, max_size=4),
)
def test_any_boxes_of_small_pictures(shape: tuple[int, int, int], boxes: list[tuple[float, ...]]) -> None:
    """Corners may be swapped: the same is made of them as by img2dataset."""
    pixels = np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)
    gap = slow_blur(pixels, [list(box) for box in boxes]) - blur_boxes(pixels, np.array(boxes))
    assert gap.min() > -0.01
    assert gap.max() < 1


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 50, 3), (50, 1, 4), (2, 2, 3)])
def test_blur_of_tiny_pictures(shape: tuple[int, int, int]) -> None:
    pixels = np.full(shape, 100, np.uint8)
    assert np.array_equal(blur_boxes(pixels, np.array([[0.0, 0.0, 1.0, 1.0]])), pixels)


def test_pixels_of_any_layout() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    box = np.array([[0.25, 0.25, 0.75, 0.5]])
    expected = blur_boxes(pixels, box)
    assert np.array_equal(blur_boxes(np.asfortranarray(pixels), box), expected)
    assert np.array_equal(blur_boxes(pixels[:, ::-1][:, ::-1], box.astype(np.float32)), expected)
    assert blur_boxes(pixels, np.empty((0, 4))) is pixels


@pytest.mark.parametrize(
    ("pixels", "boxes", "error", "message"),
    [
        (np.zeros((4, 5), np.uint8), [FACE], ValueError, r"three dimensions .* got shape \(4, 5\)"),
        (
            np.zeros((0, 5, 3), np.uint8),
            [FACE],
            ValueError,
            "image of 5 x 0 pixels with 3 channels: expected sides of 1",
        ),
        (np.zeros((4, 5, 3), np.float32), [FACE], TypeError, "must have dtype uint8; got float32"),
        (np.zeros((4, 5, 3), np.uint8), [FACE[:3]], ValueError, r"shape \(b, 4\); got \(1, 3\)"),
        (np.zeros((4, 5, 3), np.uint8), FACE, ValueError, r"shape \(b, 4\); got \(4,\)"),
        (np.zeros((4, 5, 3), np.uint8), [[0, math.nan, 1, 1]], ValueError, "expected x0, y0, x1, y1 as fractions of 0"),
        (np.zeros((4, 5, 3), np.uint8), [FACE, [0, 0, 25, 40]], ValueError, r"box of \[0.000000, 0.000000, 25.0000"),
        (np.zeros((1, 16_384, 1), np.uint8), [FACE], ValueError, r"16384 x 1 pixels .* expected sides of 1 to 16383"),
    ],
)
def test_what_is_no_picture_or_no_box(
    pixels: np.ndarray, boxes: list[list[float]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        blur_boxes(pixels, np.array(boxes))


def many_blurs() -> str:
    """A hash of blurs of many sizes; pictures from one seed."""
    rng = np.random.default_rng(11)
    digest = hashlib.sha256()
    for _ in range(12):
        shape = (*rng.integers(1, 260, 2), int(rng.integers(1, 5)))
        boxes = np.sort(rng.random((int(rng.integers(1, 4)), 2, 2)), axis=1).reshape(-1, 4)
        digest.update(blur_boxes(rng.integers(0, 256, shape, dtype=np.uint8), boxes).tobytes())
    return digest.hexdigest()


def test_machines_without_avx2_and_threads_blur_alike() -> None:
    expected = many_blurs()
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(lambda _: many_blurs(), range(3))) == {expected}
    done = subprocess.run(
        [sys.executable, "-c", "import test_blur; print(test_blur.many_blurs())"],
        env={**os.environ, "DCFAST_ISA": "baseline", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True, cwd=Path(__file__).parent,
    )  # fmt: skip
    assert done.stdout.strip() == expected


def test_time_does_not_grow_with_the_box() -> None:
    """A sigma of 200 costs what one of 40 does: seconds at most, also on a slow machine."""
    pixels = np.random.default_rng(2).integers(0, 256, (2000, 2000, 1), dtype=np.uint8)
    began = time.process_time()
    blur_boxes(pixels, np.array([[0.0, 0.0, 1.0, 1.0]]))
    assert time.process_time() - began < 10


@pytest.mark.real_data
def test_blur_of_a_real_picture_is_img2datasets(real_data: Path) -> None:
    folder = real_data / "img2dataset/blur_test_files"
    original = np.asarray(Image.open(folder / "original.png").convert("RGB"))
    theirs = np.asarray(Image.open(folder / "blurred_1.40.png").convert("RGB")).astype(int)
    gap = np.abs(blur_boxes(original, np.load(folder / "bbox.npy").reshape(-1, 4)) - theirs)
    assert gap.mean() < 0.1
    assert np.quantile(gap, 0.999) <= 1
    assert (theirs != original).mean() > 0.05


def test_blurred_pictures_are_webp_of_the_same_size() -> None:
    for number, fmt, mode in (
        (1, "JPEG", "RGB"),
        (2, "PNG", "RGBA"),
        (3, "WEBP", "RGB"),
        (4, "JPEG", "L"),
        (4, "PNG", "LA"),
        (5, "JPEG", "CMYK"),
    ):
        out = io.BytesIO()
        image = Image.open(io.BytesIO(picture(number))).convert(mode)
        if mode.endswith("A"):
            image.putalpha(128)  # an opaque one is not kept by WebP
        image.save(out, fmt)
        blurred = Image.open(io.BytesIO(blur_image(out.getvalue(), np.array([FACE]))))
        assert (blurred.format, blurred.size) == ("WEBP", (96, 80))
        assert ("A" in blurred.getbands()) == mode.endswith("A")
    best, worst = (len(blur_image(picture(1), np.array([FACE]), quality)) for quality in (100, 5))
    assert worst < best


@pytest.mark.parametrize("data", [b"", b"no picture", picture(1)[:300], b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_bytes_that_are_no_picture(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be decoded"):
        blur_image(data, np.array([FACE]))
