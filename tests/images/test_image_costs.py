"""What an image may cost, in every path that reads one: what is over a bound is refused soon, by all alike.

A module that reads images and is not in the table of ``image_readers`` fails the first test.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from dcfast._core import images as core_images
from dcfast.images import costs
from dcfast.images.blur import blur_boxes, blur_image
from dcfast.images.costs import BadImage, pixel_parts, too_many_scans
from dcfast.images.decode import check_resized, decode_image
from image_readers import MODULES, Readers, encoded, scene
from PIL import Image

SECONDS = 10.0
"""Of processor time for the paths together to look at one file; they take a fifth, and without the bounds minutes."""


def png(width: int, height: int, *, before: bytes = b"", after: bytes = b"", bits: int = 8) -> bytes:
    row = b"\0" * ((width * bits + 7) // 8 + 1)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(row * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + after + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(*tags: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    """Grey, 64 x 64, 8 bits, in one strip, with other tags (number, type, count, value), and data at 1,000."""
    own = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 273: 1000, 278: 64, 279: 4096}
    entries = {tag: (3, 1, value) for tag, value in own.items()} | {tag: rest for tag, *rest in tags}
    out = b"II*\0" + struct.pack("<IH", 8, len(entries))
    for tag, (kind, count, value) in sorted(entries.items()):
        out += struct.pack("<HHI", tag, kind, count) + struct.pack("<I", value)
    return (out + bytes(4)).ljust(1000, b"\0") + (data or bytes(4096))


def twice(tag: int, data: bytes) -> bytes:
    """A TIFF with 16 for a tag that it has, in the place of its last: decoders take the first or the last."""
    (count,) = struct.unpack_from("<H", data, 8)
    last = 10 + 12 * (count - 1)
    return data[:last] + struct.pack("<HHII", tag, 4, 1, 16) + data[last + 12 :]


def bmp(width: int, height: int, runs: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + bytes(1024) + runs


def bmp_runs(runs: int) -> bytes:
    """Runs of one pixel each, which Pillow reads in Python."""
    return bmp(100, runs // 100, (b"\1\1" * 100 + b"\0\0") * (runs // 100) + b"\0\1")


JPEG = encoded(scene(), "JPEG")
PROGRESSIVE = encoded(scene(), "JPEG", progressive=True)
LARGE = encoded(Image.new("L", (2000, 2000), 128), "JPEG", progressive=True)


def scans(jpeg: bytes, more: int) -> bytes:
    return jpeg[:-2] + jpeg[jpeg.rindex(b"\xff\xda") : -2] * more + b"\xff\xd9"


def segments(count: int, content: bytes = b"", marker: int = 0xE1) -> bytes:
    return JPEG[:2] + (struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content) * count + JPEG[2:]


GIF = encoded(Image.new("L", (8, 8)), "GIF")
FRAME = b"\x2c\0\0\0\0"
BOMB = zlib.compress(bytes(64 << 20))
TEXTS = {
    "png, text of 64 MiB": png(64, 64, before=chunk(b"zTXt", b"a\0\0" + BOMB)),
    "png, unicode text of 64 MiB": png(64, 64, before=chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB)),
    "png, profile of 64 MiB": png(64, 64, before=chunk(b"iCCP", b"a\0\0" + BOMB)),
    "png, text behind the pixels": png(64, 64, after=chunk(b"zTXt", b"a\0\0" + BOMB)),
    "png, frames behind the pixels": png(64, 64, after=chunk(b"fdAT", bytes(8)) * 1000),
    "jpeg, exif of 19 MB": segments(300, b"Exif\0\0" + bytes(65_527)),
    "jpeg, profile of 19 MB": segments(300, b"ICC_PROFILE\0" + bytes(65_521), 0xE2),
    "jpeg, comments": segments(60_000, b"", 0xFE),
    "jpeg, filling": JPEG[:2] + b"\xff" * 2_000_000 + JPEG[2:],
    "png, 65,000 chunks": png(64, 64, before=chunk(b"teSt", b"") * 65_000),
    "gif, comment of 2 MB": GIF.replace(FRAME, b"!\xfe" + (b"\xff" + bytes(255)) * 8000 + b"\0" + FRAME, 1),
    "gif, 20,000 frames": GIF[:-1] + GIF[GIF.rindex(FRAME) : -1] * 20_000 + b";",
    "jpeg of 400 scans": scans(PROGRESSIVE, 400),
    "tiff, bytes of a tag": tiff((34675, 7, 4096, 1000)),
    "bmp, runs": bmp_runs(10_000),
}
"""Within the bounds: all take them, soon."""

OVER = {
    "png of 13,378 x 13,378": (png(13_378, 13_378, bits=1), "too_large"),
    "png, 66,000 chunks": (png(64, 64, before=chunk(b"teSt", b"") * 66_000), "broken"),
    "png, 66,000 chunks behind": (png(64, 64, after=chunk(b"teSt", b"") * 66_000), "broken"),
    "jpeg, 66,000 segments": (segments(66_000), "broken"),
    "jpeg of 520 scans": (scans(PROGRESSIVE, 520), "broken"),
    "jpeg of 4 million pixels and 300 scans": (scans(LARGE, 300), "broken"),
    "tiff, 66,000 strips": (tiff((273, 4, 66_000, 1000), (279, 4, 66_000, 1000), data=bytes(264_000)), "broken"),
    "tiff, 66,000 rationals": (tiff((282, 5, 66_000, 1000), data=bytes(528_000)), "broken"),
    "tiff, tiles of 30,000 x 30,000": (tiff((322, 4, 1, 30_000), (323, 4, 1, 30_000)), "too_large"),
    "tiff, a tag of more bytes than there are": (tiff((34675, 7, 6000, 1000)), "broken"),
    "tiff, the same, and a directory that is cut": (
        (lambda data: b"II*\0" + struct.pack("<I", len(data)) + data[8:] + b"\xff\0" + data[10:142])(
            tiff((34675, 7, 9000, 1000))
        ),
        "broken",
    ),
    "tiff, tiles of 1 x 60,000 for a line": (
        tiff((256, 4, 1, 4096), (257, 4, 1, 1), (322, 4, 1, 1), (323, 4, 1, 60_000)),
        "too_large",
    ),
    "tiff, the width of its tiles twice": (
        twice(322, tiff((322, 4, 1, 30_000), (323, 4, 1, 30_000), (340, 3, 1, 1))),
        "too_large",
    ),
    "tiff, progressive jpeg in it": (tiff((259, 3, 1, 7), data=PROGRESSIVE), "unsupported"),
    "tiff, 16 bits from white to black": (
        tiff((258, 3, 1, 16), (262, 3, 1, 0), (279, 4, 1, 8192), data=bytes(8192)),
        "unsupported",
    ),
    "bmp, one run and 5 million pixels": (bmp(5_000_000, 1, b"\1\1\0\0\0\1"), "too_large"),
    "the same in an icon": (
        b"\0\0\1\0\1\0" + bytes(8) + struct.pack("<II", 2000, 22) + bmp(2_500_000, 2, b"\1\1\0\0\0\1")[14:],
        "too_large",
    ),
    "bmp, too many runs": (bmp_runs(20_000), "broken"),
    "ppm as text": (b"P2 64 64 255\n" + b"1 " * 4096, "unsupported"),
    **(
        {"jpeg 2000": (encoded(Image.new("L", (220, 200)), "JPEG2000"), "too_large")}
        if "JPEG2000" in Image.SAVE
        else {}
    ),
}
"""(file, status): over a bound; none takes them."""
NOT_BY_PILLOW = {"bmp, too many runs"}
"""Over bounds of what Pillow does in Python, and OpenCV in no time."""


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bounds of the paths by Pillow that are dear to reach."""
    monkeypatch.setattr(costs, "MAX_READS", 30_000)
    monkeypatch.setattr(costs, "MAX_JPEG2000_PIXELS", 40_000)


def test_every_path_that_reads_images_is_looked_at(repo_root: Path, tmp_path: Path) -> None:
    reads = re.compile(r"\b(open_image|load_image|decode_image|pixel_parts|core_images)\b|decoders\.image")
    package = repo_root / "python/dcfast"
    own = {"images/decode.py", "images/costs.py", "images/crops.py"}  # the last reads what it drew
    found = {p.relative_to(package).as_posix() for p in package.rglob("*.py") if reads.search(p.read_text())}
    assert found - own == set(MODULES)
    readers = set(Readers(tmp_path, {"one": ("jpg", JPEG)}).all())
    assert readers | {"training by dali"} == {*MODULES.values(), "reduced training"}


@pytest.mark.parametrize("name", [*TEXTS, *OVER])
@pytest.mark.usefixtures("low")
def test_every_path_decides_alike_and_soon(name: str, tmp_path: Path) -> None:
    data = TEXTS[name] if name in TEXTS else OVER[name][0]
    readers = Readers(tmp_path, {name: ("jpg", data)})
    begin = time.process_time()
    taken = readers.all()
    assert time.process_time() - begin < SECONDS
    assert taken == {reader: [name in TEXTS or (reader == "resize" and name in NOT_BY_PILLOW)] for reader in taken}
    if name in OVER:
        with pytest.raises(BadImage) as refused:
            decode_image(data)
        assert refused.value.status == OVER[name][1]


def test_bounds_are_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert costs.MAX_PIXELS == core_images.max_image_pixels == 2 * (Image.MAX_IMAGE_PIXELS or 0)
    assert (core_images.max_image_bytes, core_images.max_image_parts) == (costs.MAX_BYTES, costs.MAX_PARTS)
    monkeypatch.setattr(costs, "MAX_PIXELS", 80 * 60)
    assert decode_image(JPEG).size == (80, 60)
    monkeypatch.setattr(costs, "MAX_PIXELS", 80 * 60 - 1)
    with pytest.raises(BadImage, match="more than 4,799 pixels") as error:
        decode_image(JPEG)
    assert (error.value.status, error.value.size) == ("too_large", (80, 60))
    monkeypatch.setattr(costs, "MAX_BYTES", 100)
    with pytest.raises(BadImage, match="more than 0 MiB"):
        decode_image(JPEG)


@pytest.mark.parametrize(
    ("pixels", "scans"),
    [(0, 500), (1, 500), (2_147_483, 500), (1 << 22, 256), (44_739_242, 24), (1 << 26, 24), (178_956_970, 24)],
)
def test_large_images_may_have_fewer_scans(pixels: int, scans: int) -> None:
    assert costs.max_scans(pixels) == scans


def test_parts_are_counted_alike() -> None:
    """By Pillow's side and by the core, at the bound and one beyond."""
    own = len(re.findall(rb"\xff[\xc0-\xcf\xdb-\xfe]..", JPEG[: JPEG.index(b"\xff\xda")], re.DOTALL))
    for extra, fits in ((0, True), (1, False)):
        jpeg = segments(costs.MAX_PARTS - own + extra)
        image = png(8, 8, before=chunk(b"teSt", b"") * (costs.MAX_PARTS - 2 + extra))
        for data in (jpeg, image):
            assert (core_images.decode_grey(data, False)[0] == 0) == fits
            if fits:
                pixel_parts(data)
            else:
                with pytest.raises(BadImage, match="more than 65,536 parts"):
                    pixel_parts(data)


def test_tiles_are_measured_whatever_their_numbers_type() -> None:
    for kind, form in ((16, "Q"), (3, "H6x"), (4, "I4x")):
        tags = b"".join(struct.pack(f"<HHQ{form}", tag, kind, 1, 30_000) for tag in (322, 323))
        with pytest.raises(BadImage, match="tiles of more than"):
            pixel_parts(struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 2) + tags + bytes(8))
    with pytest.raises(BadImage, match="BigTIFF with the high bytes first"):
        pixel_parts(b"MM\0+" + bytes(100))


def test_scans_are_counted_to_the_end_of_the_image() -> None:
    thumbnail = JPEG[:2] + struct.pack(">BBH", 0xFF, 0xE1, 4002) + b"\xff\xda" * 2000 + JPEG[2:]
    assert not too_many_scans(thumbnail, 1)
    assert not too_many_scans(JPEG + b"\xff\xda" * 1000, 1)
    assert not too_many_scans(b"\xff\xda" * 1000, 1)
    assert too_many_scans(b"\xff\xd8" + b"\xff" * 9 + b"\xda\0\x02" * 1 + b"\xff\xda\0\x02" * 500, 1)
    for length in range(0, 4000, 7):
        too_many_scans(thumbnail[:length] + b"\xff\xda" * 501, 1)  # never an exception
    png = zlib.compress(b"\xff\xda" * 1000, 0)
    assert not too_many_scans(b"\x89PNG\r\n\x1a\n" + png, 1)


def test_what_is_left_out_changes_no_pixel() -> None:
    """And no bytes whatever raise anything but BadImage."""
    with_exif = tiff((34665, 4, 1, 1000), data=bytes(range(256)) * 16)
    assert b"\xff\xff\x04" in pixel_parts(with_exif)
    alpha = encoded(scene().quantize(20), "PNG", transparency=bytes(range(20)))
    for data in (
        JPEG,
        PROGRESSIVE,
        encoded(scene().convert("CMYK"), "JPEG"),
        alpha,
        with_exif,
        segments(9, b"Exif\0\0" + bytes(99)),
    ):
        lean = pixel_parts(data)
        assert len(lean) <= len(data)
        with Image.open(io.BytesIO(lean)) as one, Image.open(io.BytesIO(data)) as other:
            assert one.convert("RGBA").tobytes() == other.convert("RGBA").tobytes()
        rng = np.random.default_rng(0)
        for _ in range(200):
            broken = bytearray(data[: rng.integers(2, len(data))])
            broken[rng.integers(0, len(broken))] = rng.integers(0, 256)
            with contextlib.suppress(BadImage):
                pixel_parts(bytes(broken))
    for cut in range(40):
        for kind in (b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"):
            with contextlib.suppress(BadImage):
                pixel_parts((kind + b"\x08\0\0\0" + b"\xff" * 40)[:cut])


@pytest.mark.parametrize(
    ("size", "side", "fits"), [((60_000, 1), 32, True), ((70_000, 1), 32, False), ((65_535, 1), 224, False)]
)
def test_thin_images_are_measured_before_they_are_scaled(size: tuple[int, int], side: int, fits: bool) -> None:
    for image in (Image.new("L", size), Image.new("L", size[::-1])):
        if fits:
            check_resized(image, side)
        else:
            with pytest.raises(BadImage, match="too long and thin"):
                check_resized(image, side)


def test_a_blur_is_measured_before_it_is_made() -> None:
    everywhere = np.array([[0.0, 0.0, 1.0, 1.0]])
    with pytest.raises(ValueError, match=r"65535 x 10 pixels .* expected sides of 1 to 16383"):
        blur_boxes(np.zeros((10, 65_535, 3), np.uint8), everywhere)
    with pytest.raises(ValueError, match="cannot be decoded: a side of more than 16,383 pixels, as WebP holds"):
        blur_image(png(10, 65_535), everywhere)
    began = time.process_time()
    assert blur_image(png(10, costs.MAX_BLUR_SIDE), np.repeat(everywhere, 65_535, axis=0))
    assert time.process_time() - began < SECONDS
