"""Squares of whole JPEGs by the core: what torchvision's resize and cut make of Pillow's pictures, to the last bit."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from dcfast._core import images as core_images
from dcfast.images import squares
from dcfast.images.crops import DAMAGED, DONE, ELSEWHERE, OTHER_SIZE, PillowRule
from dcfast.images.decode import load_image
from dcfast.images.squares import Square, write_squares
from dcfast.models.pixels import PixelShape
from drawn_pictures import drawing, encode
from PIL import Image

pytest.importorskip("open_clip")


def square_of(data: bytes, square: Square, size: tuple[int, int]) -> tuple[int, np.ndarray]:
    out = np.full((3, square.side, square.side, 3), 7, np.uint8)
    places = np.array([5]), np.array([len(data)]), np.array([size], np.int32)
    status = write_squares(memoryview(b"xxxxx" + data + b"yy"), *places, square, out, np.array([1]))
    assert (out[::2] == 7).all()
    return int(status[0]), out[1]


def shape_of(square: Square) -> PixelShape:
    return PixelShape(square.side, square.side, "squash" if square.squashed else "shortest")


def noisy(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    coarse = rng.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height)), np.int16)
    return Image.fromarray((smooth + rng.integers(-25, 25, smooth.shape)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("seed", range(3))
def test_pixels_are_torchvisions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(50):
        side = int(rng.choice([1, 2, 11, 16, 33, 48, 100, 224]))
        width, height = (int(length) for length in rng.integers(1, 400, 2))
        if number % 5 == 0:
            height = int(width * rng.uniform(2, 6)) + 1
        if number % 7 == 0:
            width, height = height + side, side  # one side stays as it is
        image = noisy(rng, width, height)
        options: dict[str, Any] = {"quality": int(rng.integers(5, 96)), "subsampling": int(rng.integers(0, 3))}
        if rng.random() < 0.3:
            options |= {"progressive": True, "quality": min(85, options["quality"])}
        data = encode(image.convert("L") if rng.random() < 0.2 else image, **options)
        square = Square(side, bool(rng.random() < 0.3))
        status, ours = square_of(data, square, (width, height))
        assert status == DONE
        theirs = shape_of(square).pixels(load_image(data))
        np.testing.assert_array_equal(ours, theirs, f"{width} x {height} to {square}")


def test_the_whole_is_never_made() -> None:
    """Long and thin: the resized picture would have 67 million pixels, of which the middle is computed."""
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (3, 3_900, 3), dtype=np.uint8))
    data, square = encode(image, quality=90), Square(224)
    target = square.targets(np.array([image.size], np.int32))[0].tolist()
    assert target == [291_200, 224, 145_488, 0]
    status, ours = square_of(data, square, image.size)
    assert status == DONE
    np.testing.assert_array_equal(ours, shape_of(square).pixels(load_image(data)))


@pytest.mark.parametrize("size", [(1, 1), (10, 11), (11, 10), (13, 10), (10, 13), (640, 427), (427, 641), (999, 7)])
@pytest.mark.parametrize("side", [1, 10, 24, 224, 337])
def test_targets_are_torchvisions(size: tuple[int, int], side: int) -> None:
    from torchvision.transforms import functional

    width, height = size
    tall, wide = functional._compute_resized_output_size((height, width), [side])
    left, top = round((wide - side) / 2), round((tall - side) / 2)
    assert Square(side).targets(np.array([size], np.int32)).tolist() == [[wide, tall, left, top]]
    assert Square(side, True).targets(np.array([size], np.int32)).tolist() == [[side, side, 0, 0]]


def test_other_files_get_a_status() -> None:
    png = io.BytesIO()
    drawing(1, 60, 40).save(png, "PNG")
    jpeg = encode(drawing(1, 60, 40), quality=90)
    assert square_of(png.getvalue(), Square(20), (60, 40))[0] == ELSEWHERE
    assert square_of(jpeg, Square(20), (60, 41))[0] == OTHER_SIZE
    assert square_of(jpeg[:-40], Square(20), (60, 40))[0] == DAMAGED
    assert square_of(b"", Square(20), (60, 40))[0] == ELSEWHERE


def test_another_pillow_decodes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squares, "pillow_rule", lambda: PillowRule(True, "other levels"))
    status, pixels = square_of(encode(drawing(1, 60, 40)), Square(20), (60, 40))
    assert status == ELSEWHERE
    assert (pixels == 7).all()


@pytest.mark.parametrize(
    "target",
    [(30, 20, 11, 0), (30, 20, 0, 1), (19, 20, 0, 0), (30, 20, -1, 0), (-30, 20, 0, 0), (2**31 - 1, 20, 2**31 - 19, 0)],
)
def test_squares_outside_are_refused(target: tuple[int, int, int, int]) -> None:
    data = encode(drawing(1, 60, 40))
    with pytest.raises(ValueError, match=re.escape("target 0 (width, height, left, top) must hold a square of 20")):
        core_images.resize_squares(
            data,
            np.array([0]),
            np.array([len(data)]),
            np.array([target], np.int32),
            np.array([(60, 40)], np.int32),
            np.zeros((1, 20, 20, 3), np.uint8),
            np.array([0]),
            1,
        )
