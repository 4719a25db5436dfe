"""Crops by the core: Pillow's pixels to the last bit, whatever the JPEG; strangers' bytes get a status."""

from __future__ import annotations

import io
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast._core import images as core_images
from dcfast.images import crops
from dcfast.images.costs import BadImage
from dcfast.images.crops import DAMAGED, DONE, ELSEWHERE, OTHER_SIZE
from dcfast.train.decode import PilDecoder, ReducedPilDecoder
from drawn_pictures import drawing, encode
from PIL import Image

Window = tuple[int, int, int, int]
SIDES = (1, 3, 8, 10, 11, 16, 33, 64, 100, 224)


def noisy(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Broad blobs and grain, so that all frequencies are there."""
    coarse = rng.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height)), np.int16)
    return Image.fromarray((smooth + rng.integers(-25, 25, smooth.shape)).clip(0, 255).astype(np.uint8))


def crop(
    data: bytes, window: Window, size: tuple[int, int], side: int, *, reduced: bool = False
) -> tuple[int, np.ndarray]:
    out = np.zeros((1, side, side, 3), np.uint8)
    rows = np.array([window], np.int32), np.array([size], np.int32), out, np.array([0])
    rule = crops.pillow_rule().tall_first_down
    status = core_images.crop_resize(data, np.array([0]), np.array([len(data)]), *rows, 1, reduced, rule)
    return int(status[0]), out[0]


def by_pillow(data: bytes, window: Window, side: int, *, reduced: bool = False) -> np.ndarray:
    decoder = ReducedPilDecoder() if reduced else PilDecoder()
    return decoder(memoryview(data), lambda *_: window, side)


def any_window(rng: np.random.Generator, width: int, height: int) -> Window:
    if rng.random() < 0.3:
        return 0, 0, width, height
    wide, tall = int(rng.integers(1, width + 1)), int(rng.integers(1, height + 1))
    return int(rng.integers(0, width - wide + 1)), int(rng.integers(0, height - tall + 1)), wide, tall


def cases(seed: int, count: int) -> Iterator[tuple[bytes, Window, tuple[int, int], int, bool]]:
    """JPEG, window, size, side, reduced: of all kinds that Pillow writes."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        width, height = (int(side) for side in rng.integers(1, 500, 2))
        if number % 4 == 0:
            height = int(width * rng.uniform(2, 4)) + 1
        image = noisy(rng, width, height)
        options: dict[str, Any] = {"quality": int(rng.integers(5, 101)), "subsampling": int(rng.integers(0, 3))}
        if rng.random() < 0.3:  # Pillow's buffer is too small for both grain and the best quality
            options |= {"progressive": True, "quality": min(85, options["quality"])}
        if rng.random() < 0.3:
            options["restart_marker_blocks"] = int(rng.integers(1, 20))
        if rng.random() < 0.2:
            image = image.convert("L")
        window = any_window(rng, width, height)
        side = int(rng.choice(SIDES)) if rng.random() < 0.9 or window[2] > 300 else window[2]
        yield encode(image, **options), window, (width, height), side, bool(rng.random() < 0.4)


@pytest.mark.parametrize("seed", range(3))
def test_pixels_are_pillows(seed: int) -> None:
    for data, window, size, side, reduced in cases(seed, 40):
        status, ours = crop(data, window, size, side, reduced=reduced)
        assert status == DONE
        np.testing.assert_array_equal(ours, by_pillow(data, window, side, reduced=reduced), f"{size} {window} {side}")


@pytest.mark.parametrize("name", ["411", "420", "422", "440", "444"])
def test_samplings_that_pillow_does_not_write(name: str) -> None:
    cv2 = pytest.importorskip("cv2")
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}")
    rng = np.random.default_rng(factor)
    for width, height in ((121, 77), (64, 200), (17, 15), (250, 180)):
        options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
        data = bytes(cv2.imencode(".jpg", np.asarray(noisy(rng, width, height)), options)[1])
        for window in ((0, 0, width, height), any_window(rng, width, height)):
            status, ours = crop(data, window, (width, height), 40)
            assert status == DONE
            np.testing.assert_array_equal(ours, by_pillow(data, window, 40))


def test_tall_pictures_switch_the_passes_where_pillow_does() -> None:
    """Around the bound: a height that shrinks by more than twice as many pixels as the width."""
    rng = np.random.default_rng(7)
    unlike = 0
    for side, width in ((16, 40), (30, 31), (64, 20), (50, 90)):
        for height in range(max(side, 2 * width - side) - 1, max(side, 2 * width - side) + 4):
            data = encode(noisy(rng, width, height), quality=95)
            window = 0, 0, width, height
            status, ours = crop(data, window, (width, height), side)
            assert status == DONE
            np.testing.assert_array_equal(ours, by_pillow(data, window, side), f"{width} x {height} to {side}")
            rows = np.array([window], np.int32), np.array([[width, height]], np.int32)
            both = np.zeros((2, 1, side, side, 3), np.uint8)
            for rule in (False, True):
                span = np.array([0]), np.array([len(data)])
                core_images.crop_resize(data, *span, *rows, both[int(rule)], np.array([0]), 1, False, rule)
            unlike += bool((both[0] != both[1]).any())
    assert 4 <= unlike <= 16


@pytest.mark.parametrize("side", [20, 64, 200])
def test_large_pictures_reduced(side: int) -> None:
    rng = np.random.default_rng(side)
    differs = 0
    for width, height in ((1200, 900), (801, 1503)):
        data = encode(drawing(side, width, height), quality=90, subsampling=side % 3)
        for window in ((0, 0, width, height), any_window(rng, width, height), any_window(rng, width, height)):
            status, ours = crop(data, window, (width, height), side, reduced=True)
            assert status == DONE
            np.testing.assert_array_equal(ours, by_pillow(data, window, side, reduced=True))
            differs += not np.array_equal(ours, by_pillow(data, window, side))
    assert differs >= 1


def plain(**options: Any) -> bytes:
    return encode(drawing(1, 120, 90), **options)


def with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return plain(exif=exif)


def with_marker(data: bytes, old: int, new: int, *, precision: int = 8) -> bytes:
    """A frame's header of another kind."""
    at = data.index(bytes((0xFF, old)))
    return data[: at + 1] + bytes((new,)) + data[at + 2 : at + 4] + bytes((precision,)) + data[at + 5 :]


def of_size(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 4 :]


def without_last_scans(data: bytes) -> bytes:
    return data[: [match.start() for match in re.finditer(b"\xff\xda", data)][4]] + b"\xff\xd9"


@pytest.mark.parametrize("data", [with_exif(), plain(keep_rgb=True), plain(quality=100), plain() + b"\0" * 50])
def test_kinds_that_are_taken(data: bytes) -> None:
    status, ours = crop(data, (10, 5, 100, 80), (120, 90), 32)
    assert status == DONE
    np.testing.assert_array_equal(ours, by_pillow(data, (10, 5, 100, 80), 32))


STATUSES: dict[str, tuple[bytes, int]] = {
    "png": (encode(drawing(1, 120, 90), "PNG"), ELSEWHERE),
    "nothing": (b"", ELSEWHERE),
    "four inks": (encode(drawing(1, 120, 90).convert("CMYK")), ELSEWHERE),
    "arithmetic": (with_marker(plain(), 0xC0, 0xC9), ELSEWHERE),
    "12 bits": (with_marker(plain(), 0xC0, 0xC1, precision=12), ELSEWHERE),
    "lossless": (with_marker(plain(), 0xC0, 0xC3), ELSEWHERE),
    "scans missing": (without_last_scans(plain(progressive=True)), ELSEWHERE),
    "over the bound on pixels": (of_size(plain(), 65000, 65000), ELSEWHERE),
    "other size": (encode(drawing(1, 121, 90)), OTHER_SIZE),
    "no height": (of_size(plain(), 120, 0), DAMAGED),
    "cut in the middle": (plain()[: len(plain()) // 2], DAMAGED),
    "cut at the end": (plain()[:-2], DAMAGED),
    "cut header": (plain()[:30], DAMAGED),
    "garbage between": (plain().replace(b"\xff\xda", b"\x01\x02\xff\xda", 1), DAMAGED),
    "too many segments": (b"\xff\xd8" + b"\xff\xfe\0\2" * 65537 + plain()[2:], DAMAGED),
}


@pytest.mark.parametrize("name", STATUSES)
def test_what_the_core_does_not_take(name: str) -> None:
    data, expected = STATUSES[name]
    assert crop(data, (0, 0, 120, 90), (120, 90), 32)[0] == expected


def test_a_cut_below_the_window_is_seen() -> None:
    """The lines there are not decoded, but a file that Pillow calls truncated is not taken."""
    data = encode(noisy(np.random.default_rng(0), 200, 400), quality=90)
    for share in (0.5, 0.8, 0.99):
        cut = data[: int(len(data) * share)]
        assert crop(cut, (0, 0, 200, 50), (200, 400), 32)[0] == DAMAGED
        with pytest.raises(BadImage):
            by_pillow(cut, (0, 0, 200, 50), 32)


def too_many_scans() -> bytes:
    data = plain(progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 600 + b"\xff\xd9"


def test_scans_are_bounded() -> None:
    assert crop(too_many_scans(), (0, 0, 120, 90), (120, 90), 32)[0] == DAMAGED


@pytest.mark.parametrize("kind", ["baseline", "progressive"])
def test_altered_bytes_are_refused_or_pillows(kind: str) -> None:
    data, rng = plain(progressive=kind == "progressive", quality=60), random.Random(kind)
    window, taken, refused = (3, 2, 110, 85), 0, 0
    for _ in range(400):
        altered = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            altered[rng.randrange(2, len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del altered[rng.randrange(2, len(data)) :]
        status, ours = crop(bytes(altered), window, (120, 90), 24)
        refused += status != DONE
        if status == DONE:
            np.testing.assert_array_equal(ours, by_pillow(bytes(altered), window, 24))
            taken += 1
    assert taken > 20
    assert refused > 100


def batch(count: int) -> tuple[list[bytes], dict[str, Any]]:
    """Arguments of one call: pictures one after another, of which every seventh is no picture."""
    files = [plain(quality=20 + 5 * (i % 12)) if i % 7 else b"\xff\xd8\xff" + bytes(40) for i in range(count)]
    size = np.array([len(data) for data in files], np.int64)
    arguments = {
        "encoded": memoryview(b"".join(files)),
        "begin": np.cumsum(size) - size,
        "size": size,
        "windows": np.array([(i % 9, i % 5, 100, 80) for i in range(count)], np.int32).reshape(-1, 4),
        "expected": np.tile(np.array([[120, 90]], np.int32), (count, 1)),
        "out": np.full((count + 3, 48, 48, 3), 7, np.uint8),
        "at": np.arange(count)[::-1].copy() + 2,
        "threads": 1,
        "reduced": False,
    }
    return files, arguments


def test_a_batch_is_the_same_for_any_number_of_threads() -> None:
    files, arguments = batch(40)
    statuses = core_images.crop_resize(**arguments)
    assert statuses.dtype == np.uint8
    assert (statuses == [DAMAGED if i % 7 == 0 else DONE for i in range(40)]).all()
    assert (arguments["out"][[0, 1, 42]] == 7).all()  # rows that `at` does not name
    for i in np.flatnonzero(statuses == DONE):
        expected = by_pillow(files[i], tuple(arguments["windows"][i]), 48)
        np.testing.assert_array_equal(arguments["out"][arguments["at"][i]], expected)
    for threads in (2, 5):
        again = {**arguments, "out": np.zeros_like(arguments["out"]), "threads": threads}
        assert (core_images.crop_resize(**again) == statuses).all()
        done = arguments["at"][statuses == DONE]
        np.testing.assert_array_equal(again["out"][done], arguments["out"][done])


def frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def at_row(array: np.ndarray, row: int, values: Any) -> np.ndarray:
    array = array.copy()
    array[row] = values
    return array


WRONG: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "begin below 0": ("begin", lambda a: at_row(a, 0, -1), r"picture 0 must lie in encoded.*got begin -1"),
    "size beyond the end": ("size", lambda a: at_row(a, 3, 1 << 62), r"picture 3 must lie in encoded"),
    "begin at the end of numbers": ("begin", lambda a: at_row(a, 1, (1 << 63) - 1), r"picture 1 must lie in encoded"),
    "begin of int32": ("begin", lambda a: a.astype(np.int32), r"begin must have dtype int64"),
    "fewer rows": ("at", lambda a: a[:-1], r"one length"),
    "fewer windows": ("windows", lambda a: a[:-1], r"a row a picture, 4; got 3 and 4"),
    "windows of int64": ("windows", lambda a: a.astype(np.int64), r"windows must have dtype int32"),
    "windows of three": ("windows", lambda a: a[:, :3].copy(), r"windows must have 4 columns"),
    "windows apart": ("windows", lambda a: np.asfortranarray(a), r"windows must be contiguous"),
    "window left of it": ("windows", lambda a: at_row(a, 0, (-1, 0, 5, 5)), r"window 0 .* must lie in"),
    "empty window": ("windows", lambda a: at_row(a, 0, (0, 0, 0, 5)), r"window 0 .* must lie in"),
    "window beyond it": ("windows", lambda a: at_row(a, 2, (2**31 - 1, 0, 2**31 - 1, 5)), r"window 2 .* must lie in"),
    "expected below 0": ("expected", lambda a: at_row(a, 0, -5), r"window 0 .* must lie in"),
    "expected of one": ("expected", lambda a: a[:, 0].copy(), r"expected must have 2 columns"),
    "row beyond out": ("at", lambda a: at_row(a, 0, 7), r"at\[0\] must be a row of out, 0 to 6; got 7"),
    "row below 0": ("at", lambda a: at_row(a, 0, -1), r"at\[0\] must be a row of out"),
    "row twice": ("at", lambda a: at_row(a, 0, a[1]), r"each row once"),
    "out of floats": ("out", lambda a: a.astype(np.float32), r"out must be a uint8 array"),
    "out not square": ("out", lambda a: a[:, :40].copy(), r"out must be a uint8 array of shape \(n, side, side, 3\)"),
    "out of no pixels": ("out", lambda a: a[:, :0, :0].copy(), r"out must be a uint8 array"),
    "out of four": ("out", lambda a: np.zeros((7, 48, 48, 4), np.uint8), r"out must be a uint8 array"),
    "out apart": ("out", lambda a: a[::2], r"out must be contiguous and writable"),
    "out frozen": ("out", frozen, r"out must be contiguous and writable"),
    "no threads": ("threads", lambda _: 0, r"threads must be 1 or more"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_named(name: str) -> None:
    argument, change, message = WRONG[name]
    _, arguments = batch(4)
    arguments[argument] = change(arguments[argument])
    with pytest.raises((TypeError, ValueError), match=message):
        core_images.crop_resize(**arguments)


def test_no_pictures() -> None:
    _, arguments = batch(0)
    assert core_images.crop_resize(**arguments).shape == (0,)
    assert (arguments["out"] == 7).all()


def digest_of_many() -> str:
    digest = sha256()
    for data, window, size, side, reduced in cases(11, 20):
        status, pixels = crop(data, window, size, side, reduced=reduced)
        digest.update(bytes((status,)) + pixels.tobytes())
    return digest.hexdigest()


def test_machines_without_avx2_give_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import test_crop_resize; print(test_crop_resize.digest_of_many())"],
        env={**os.environ, "DCFAST_ISA": "baseline", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True, cwd=Path(__file__).parent,
    )  # fmt: skip
    assert done.stdout.strip() == digest_of_many()


def test_whole_pictures_are_pillows() -> None:
    data = plain(quality=80)
    pixels = np.zeros((90, 120, 3), np.uint8)
    assert core_images.decode_rgb(data, pixels) == DONE
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data))))
    assert core_images.decode_rgb(data[:-100], pixels) == DAMAGED
    assert core_images.decode_rgb(data, np.zeros((120, 90, 3), np.uint8)) == OTHER_SIZE
    for wrong in (np.zeros((90, 120), np.uint8), pixels[:, ::-1], frozen(pixels.copy()), pixels.astype(np.int8)):
        with pytest.raises(ValueError, match="out must be"):
            core_images.decode_rgb(data, wrong)


def test_what_is_installed_agrees() -> None:
    rule = crops.pillow_rule()
    assert rule.difference == ""
    assert "jpeg" in core_images.jpeg_version()


def test_a_pillow_that_differs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = crops._by_pillow
    monkeypatch.setattr(crops, "_by_pillow", lambda *a: real(*a) ^ 1)
    crops.pillow_rule.cache_clear()
    try:
        assert re.fullmatch(
            r"Pillow [\d.]+\S* \(libjpeg-turbo .*\) and the core \(libjpeg.*\) give pixels that differ by up to 1 of"
            r" 255 levels",
            crops.pillow_rule().difference,
        )
    finally:
        crops.pillow_rule.cache_clear()


def test_a_pillow_of_the_other_order_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Releases before 13 always resample across first."""

    def across_first(data: bytes, window: Window) -> np.ndarray:
        out = np.zeros((1, 24, 24, 3), np.uint8)
        size = np.array([core_images.image_size(data)], np.int32)
        rows = np.array([window], np.int32), size, out, np.array([0])
        core_images.crop_resize(data, np.array([0]), np.array([len(data)]), *rows, 1, False, False)
        return out[0]

    monkeypatch.setattr(crops, "_by_pillow", across_first)
    crops.pillow_rule.cache_clear()
    try:
        assert crops.pillow_rule() == (False, "")
    finally:
        crops.pillow_rule.cache_clear()
