"""Pixels made fewer by the core are OpenCV's, bit for bit, at any size and with any instruction set."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from dcfast._core import images as core_images
from dcfast.images import resize

cv2 = pytest.importorskip("cv2")

SIZES = [
    *(
        ((h, w), (h2, w2))
        for h, w, h2, w2 in [(1, 9, 1, 4), (9, 1, 7, 1), (2, 2, 1, 2), (5, 5, 4, 4), (700, 3, 512, 2)]
    ),
    *(
        ((h, w), (round(h * 512 / w), 512))
        for h, w in [(400, 513), (384, 600), (683, 1024 - 1), (768, 1200), (300, 2049)]
    ),
    *(((h, w), (max(1, h // 3), w - 1)) for h, w in [(100, 64), (333, 77), (64, 500)]),
]
SHRINK = """
import hashlib, numpy as np
from dcfast._core import images
found = hashlib.sha256()
for h, w, h2, w2 in {sizes}:
    found.update(images.shrink(np.random.default_rng(h).integers(0, 256, 3 * h * w, np.uint8), h, w, h2, w2))
print(images.shrinks_fast, found.hexdigest())
"""


def shrunk(pixels: np.ndarray, to: tuple[int, int]) -> np.ndarray:
    return core_images.shrink(pixels.reshape(-1), *pixels.shape[:2], *to).reshape(*to, 3)


@pytest.mark.parametrize(("size", "to"), SIZES)
def test_the_pixels_are_opencvs(size: tuple[int, int], to: tuple[int, int]) -> None:
    noise = np.random.default_rng(size).integers(0, 256, (*size, 3), np.uint8)
    for pixels in (noise, np.full_like(noise, 255), noise // 255 * 255):
        expected = cv2.resize(pixels, to[::-1], interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(shrunk(pixels, to), expected)


def test_any_sizes() -> None:
    rng = np.random.default_rng(7)
    for _ in range(200):
        height, width = rng.integers(1, 200, 2).tolist()
        to = (int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1)))
        if height % to[0] == 0 and width % to[1] == 0:
            continue  # whole numbers: OpenCV's own way
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        expected = cv2.resize(pixels, to[::-1], interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(shrunk(pixels, to), expected)


def test_without_avx2_they_are_the_same() -> None:
    code = SHRINK.format(sizes=[(*size, *to) for size, to in SIZES])

    def printed(**more: str) -> list[str]:
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **more}, capture_output=True, check=True)
        return done.stdout.decode().split()

    baseline, usual = printed(DCFAST_ISA="baseline"), printed()
    assert baseline == ["False", usual[1]]


@pytest.mark.parametrize("fast", [True, False])
def test_what_is_no_colour_of_8_bits_is_left_to_opencv(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_images, "shrinks_fast", fast)
    noise = np.random.default_rng(1).integers(0, 256, (61, 83, 3), np.uint8)
    for pixels in (noise, noise[..., 0].copy(), noise.astype(np.uint16)):
        for to in ((50, 37), (41, 61), (83, 20), (120, 90)):
            smaller = to[0] <= 83 and to[1] <= 61
            expected = cv2.resize(pixels, to, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LANCZOS4)
            np.testing.assert_array_equal(resize._resized(cv2, pixels, to, smaller=smaller), expected)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="target of 7 x 5"):
        core_images.shrink(np.zeros(90, np.uint8), 5, 6, 5, 7)
    with pytest.raises(ValueError, match="90 bytes"):
        core_images.shrink(np.zeros(90, np.uint8), 6, 6, 5, 5)
