"""The crop windows: pure functions of seed, step and slot."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dcfast.access.counter import stream_key, uniform
from dcfast.train.windows import crop_windows


def reference_window(seed: int, g: int, width: int, height: int, scale: tuple[float, float]) -> list[int]:
    """torchvision's RandomResizedCrop.get_params line by line, its random numbers taken from the counter."""
    key = stream_key(seed, 16)
    for attempt in range(10):
        u = [float(uniform(key, [g * 40 + 4 * attempt + c])[0]) for c in range(4)]
        area = width * height * (scale[0] + (scale[1] - scale[0]) * u[0])
        ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * u[1])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return [math.floor(u[2] * (width - w + 1)), math.floor(u[3] * (height - h + 1)), w, h]
    w, h = width, height
    if width / height < 3 / 4:
        h = round(w / (3 / 4))
    elif width / height > 4 / 3:
        w = round(h * (4 / 3))
    return [(width - w) // 2, (height - h) // 2, w, h]


@pytest.mark.parametrize("scale", [(0.9, 1.0), (0.08, 1.0), (1.0, 1.0)])
def test_windows_equal_the_plain_reference(scale: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    width, height = rng.integers(1, 700, (2, 300))
    width[:5], height[:5] = [1, 1, 640, 2, 1000], [1, 700, 480, 3, 10]
    g = rng.integers(0, 1 << 40, 300)
    found = crop_windows(11, g, width, height, scale)
    expected = [reference_window(11, *map(int, row), scale) for row in zip(g, width, height, strict=True)]
    assert found.tolist() == expected


def test_windows_lie_in_the_picture_and_have_the_area() -> None:
    g = np.arange(5000)
    width, height = np.full(5000, 211), np.full(5000, 199)
    left, top, w, h = crop_windows(0, g, width, height).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + w <= 211).all()
    assert (top + h <= 199).all()
    share = w * h / (211 * 199)
    assert share.min() > 0.89
    assert share.max() <= 1.0
    assert left.max() > 0


@pytest.mark.parametrize("size", [(1000, 100), (100, 1000), (3, 500), (1333, 1000)])
def test_long_pictures_fall_back_as_in_torchvision(size: tuple[int, int]) -> None:
    from PIL import Image
    from torchvision.transforms import RandomResizedCrop

    if size != (1333, 1000):
        top, left, h, w = RandomResizedCrop.get_params(Image.new("RGB", size), [0.99, 1.0], [3 / 4, 4 / 3])
        assert crop_windows(0, [5], [size[0]], [size[1]], (0.99, 1.0)).tolist() == [[left, top, w, h]]
    assert crop_windows(0, [5], [size[0]], [size[1]]).shape == (1, 4)


def test_no_samples_no_windows() -> None:
    assert crop_windows(0, [], [], []).shape == (0, 4)
