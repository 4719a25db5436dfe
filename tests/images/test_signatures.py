"""Statuses, sizes, grey levels and content hashes of pictures, against Pillow and xxhash's published values."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import dcfast._core as _core
import numpy as np
import pytest
from dcfast._core import images as core_images
from dcfast.errors import CorruptDataError
from dcfast.images.signatures import FORMATS, STATUS, image_signature, image_signatures
from PIL import Image, ImageDraw


def drawing(width: int = 150, height: int = 130) -> Image.Image:
    """A picture of moderate colours, so that no conversion has to clip."""
    y, x = np.mgrid[:height, :width]
    base = np.stack([60 + 100 * x / width, 70 + 90 * y / height, 120 + 30 * np.sin(x / 9)], -1)
    image = Image.fromarray(base.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width * 0.2, height * 0.3, width * 0.6, height * 0.8), fill=(90, 120, 160))
    draw.rectangle((width * 0.5, height * 0.1, width * 0.9, height * 0.4), fill=(170, 140, 110))
    return image


def encode(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes], interlace: int = 0):
    """A PNG of our own making: what Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    middle = b"".join(chunk(kind, data) for kind, data in extra)
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def grey_of(data: bytes, full: bool = True) -> np.ndarray:
    status, grey = core_images.decode_grey(data, full)
    assert STATUS[status] == "ok"
    return grey


def pillow_grey(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    if image.mode.startswith("I;16"):
        return (np.asarray(image) >> 8).astype(np.uint8)
    return np.asarray(image.convert("L"))


SCENE = drawing()
LOSSLESS = {
    "png": encode(SCENE, "PNG"),
    "png grey": encode(SCENE.convert("L"), "PNG"),
    "png bilevel": encode(SCENE.convert("1"), "PNG"),
    "png palette": encode(SCENE.quantize(50), "PNG"),
    "png 4 colours": encode(SCENE.quantize(4), "PNG", bits=2),
    "png alpha": encode(Image.merge("RGBA", (*SCENE.split(), SCENE.convert("L"))), "PNG"),
    "png grey alpha": encode(SCENE.convert("LA"), "PNG"),
    "png transparent palette": encode(SCENE.quantize(50), "PNG", transparency=3),
    "png 16 bit": encode(Image.fromarray(np.arange(0, 60000, 4, dtype=np.uint16).reshape(100, 150)), "PNG"),
    "webp lossless": encode(SCENE, "WEBP", lossless=True),
    "webp alpha": encode(Image.merge("RGBA", (*SCENE.split(), SCENE.convert("L"))), "WEBP", lossless=True, exact=True),
}
LOSSY = {
    "jpeg": encode(SCENE, quality=90),
    "jpeg 4:4:4": encode(SCENE, quality=90, subsampling=0),
    "jpeg grey": encode(SCENE.convert("L"), quality=90),
    "jpeg progressive": encode(SCENE, quality=90, progressive=True),
    "jpeg restarts": encode(SCENE, quality=90, restart_marker_blocks=3),
    "jpeg rgb": encode(SCENE, quality=90, keep_rgb=True),
    "jpeg cmyk": encode(SCENE.convert("CMYK"), quality=90),
    "webp": encode(SCENE, "WEBP", quality=90),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_grey_is_pillows(name: str) -> None:
    assert np.array_equal(grey_of(LOSSLESS[name]), pillow_grey(LOSSLESS[name]))


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_grey_is_pillows_but_for_rounding(name: str) -> None:
    difference = grey_of(LOSSY[name]).astype(int) - pillow_grey(LOSSY[name])
    assert abs(difference).max() <= 2
    assert abs(difference).mean() < 0.6


@pytest.mark.parametrize("colour", [0, 2, 3, 4, 6])
def test_interlaced_png(colour: int) -> None:
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    pixels = np.random.default_rng(colour).integers(0, 200, (13, 11, channels), dtype=np.uint8)
    rows = b""
    for top, left, down, right in (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):
        for row in pixels[top::down, left::right]:
            rows += b"\0" + row.tobytes() if row.size else b""
    colours = np.random.default_rng(1).integers(0, 256, 600, dtype=np.uint8).tobytes()
    palette = [(b"PLTE", colours)] if colour == 3 else []
    data = png(11, 13, 8, colour, rows, *palette, interlace=1)
    assert np.array_equal(grey_of(data), pillow_grey(data))


@pytest.mark.parametrize(
    ("size", "scaled"),
    [
        ((150, 130), (75, 65)),
        ((512, 512), (64, 64)),
        ((64, 2000), (64, 2000)),
        ((127, 126), (127, 126)),
        ((9, 5), (9, 5)),
    ],
)
def test_jpegs_are_scaled_to_a_shorter_side_of_64(size: tuple[int, int], scaled: tuple[int, int]) -> None:
    data = encode(drawing(*size))
    assert grey_of(data, full=False).shape == scaled[::-1]
    assert grey_of(data, full=True).shape == size[::-1]
    signature = image_signature(data)
    assert (signature.width, signature.height) == size


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
def test_no_prefix_is_ok(name: str) -> None:
    """A picture cut anywhere is truncated; Pillow forgives some the loss of the last two bytes."""
    data = {**LOSSLESS, **LOSSY}[name]
    cuts = {1, 2, 3, 4, 11, 12, 13, 20, 21, 29, 30, len(data) - 1, len(data) - 2, len(data) - 13}
    cuts |= set(random.Random(name).sample(range(1, len(data)), min(150, len(data) - 1)))
    for cut in sorted(c for c in cuts if 0 < c < len(data)):
        assert image_signature(data[:cut], fallback=False).status == "truncated", cut
        if not name.startswith("png") and cut < len(data) - 2:
            with pytest.raises(OSError, match=r".*"):
                Image.open(io.BytesIO(data[:cut])).load()
    assert image_signature(data).status == "ok"


def test_bytes_after_the_picture_do_not_matter() -> None:
    for data in (LOSSY["jpeg"], LOSSLESS["png"], LOSSLESS["webp lossless"]):
        assert image_signature(data + b"trailer" * 9).status == "ok"
        assert image_signature(data + b"trailer" * 9).phash == image_signature(data).phash


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def test_statuses() -> None:
    jpeg = LOSSY["jpeg"]
    frame = jpeg.index(b"\xff\xc0")
    twelve_bit = jpeg[: frame + 4] + b"\x0c" + jpeg[frame + 5 :]
    huge = jpeg[: frame + 5] + struct.pack(">HH", 60000, 60000) + jpeg[frame + 9 :]
    no_pixels = jpeg[: frame + 5] + struct.pack(">HH", 0, 130) + jpeg[frame + 9 :]
    cases = {
        b"": "empty",
        b"\xff": "truncated",
        b"\xff\xd8": "truncated",
        b"RIFF": "truncated",
        b"hello, world": "unsupported",
        b"\0" * 3000: "unsupported",
        twelve_bit: "unsupported",
        jpeg.replace(b"\xff\xc0", b"\xff\xc5", 1): "unsupported",
        huge: "too_large",
        no_pixels: "broken",
        b"\xff\xd8\xff\xd9": "broken",
        jpeg[:2] + segment(0xDB, b"\x07") + jpeg[2:]: "broken",
        png(200000, 200000, 8, 0, b"\0"): "too_large",
        png(20_000_000, 1, 8, 0, b"\0" * 9): "too_large",
        png(0, 5, 8, 0, b"\0"): "broken",
        png(5, 5, 3, 0, b"\0" * 30): "broken",
        LOSSLESS["png"][:50] + b"\x55" * 20 + LOSSLESS["png"][70:]: "broken",
        LOSSLESS["webp lossless"][:40] + b"\xff" * 40 + LOSSLESS["webp lossless"][80:]: "broken",
    }
    for data, status in cases.items():
        got = image_signature(data)
        assert got.status == status, data[:40]
        assert (got.phash, got.flat) == (0, True)
    assert image_signature(huge).width == 60000


def test_a_jpeg_of_endless_scans_ends() -> None:
    """Each scan passes over all blocks of the picture again: a small file that would take hours."""
    data = encode(drawing(1600, 1600), progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    status = image_signature(data[:-2] + scan * 800 + b"\xff\xd9").status
    assert status == "broken"
    assert image_signature(data[:-2] + scan * 3 + b"\xff\xd9").status == "ok"


FALLBACK = {
    "gif": encode(SCENE, "GIF"),
    "bmp": encode(SCENE, "BMP"),
    "tiff": encode(SCENE, "TIFF"),
    "tiff 16 bit": encode(Image.fromarray(np.arange(0, 60000, 4, dtype=np.uint16).reshape(100, 150)), "TIFF"),
    "ppm": encode(SCENE, "PPM"),
    "webp animated": encode(SCENE, "WEBP", save_all=True, append_images=[drawing(150, 130).rotate(90)], lossless=True),
}


@pytest.mark.parametrize("name", FALLBACK)
def test_pillow_decodes_what_the_core_does_not(name: str) -> None:
    data = FALLBACK[name]
    got = image_signature(data)
    assert got.status == "ok"
    assert got.format == (name.split()[0] if name != "ppm" else "unknown")
    assert (got.width, got.height) == Image.open(io.BytesIO(data)).size
    assert (got.phash, got.flat) == core_images.phash_grey(pillow_grey(data))
    assert image_signature(data, fallback=False).status == "unsupported"


@pytest.mark.parametrize("name", FALLBACK)
def test_damaged_pictures_of_other_formats_never_raise(name: str) -> None:
    data = FALLBACK[name]
    for cut in (2, 4, 5, 10, 20, len(data) // 3, len(data) // 2):
        got = image_signature(data[:cut])
        assert got.status in ("truncated", "broken", "unsupported"), cut
        assert got.flat
    rng = random.Random(name)
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(4):
            changed[rng.randrange(min(len(data), 300))] = rng.randrange(256)
        assert image_signature(bytes(changed)).status in STATUS


def test_a_gif_bomb_is_too_large() -> None:
    bomb = bytearray(FALLBACK["gif"])
    bomb[6:10] = struct.pack("<HH", 60000, 60000)
    assert image_signature(bytes(bomb)).status == "too_large"


@pytest.mark.parametrize(
    "name", ["jpeg", "jpeg progressive", "jpeg cmyk", "png", "png palette", "webp", "webp lossless"]
)
def test_random_changes_never_raise(name: str) -> None:
    data = {**LOSSLESS, **LOSSY}[name]
    rng = random.Random(name)
    seen = set()
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 6)):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        seen.add(image_signature(bytes(changed), fallback=False).status)
    assert seen <= set(STATUS)
    assert len(seen) > 1


def shard(path: Path, members: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Members with gaps between them; returns offsets and sizes."""
    offsets, sizes = [], []
    with path.open("wb") as file:
        for member in members:
            file.write(b"\xee" * 512)
            offsets.append(file.tell())
            sizes.append(len(member))
            file.write(member)
    return np.array(offsets, np.uint64), np.array(sizes, np.uint64)


def test_members_of_a_shard(tmp_path: Path) -> None:
    members = [*LOSSY.values(), b"", *FALLBACK.values(), b"text", LOSSY["jpeg"][:900], *LOSSLESS.values()]
    path = tmp_path / "with space é.tar"
    offsets, sizes = shard(path, members)
    first = image_signatures(path, offsets, sizes, threads=1)
    for threads in (None, 2, 5):
        again = image_signatures(str(path), offsets, sizes, threads=threads)
        assert all(map(np.array_equal, first, again))
    assert {name: str(array.dtype) for name, array in first._asdict().items()} == {
        "status": "uint8",
        "format": "uint8",
        "width": "uint32",
        "height": "uint32",
        "content_hash": "[('f0', '<u8'), ('f1', '<u8')]",
        "phash": "uint64",
        "flat": "bool",
        "phash256": "uint64",
        "quality": "uint8",
    }
    assert (first.phash256.shape, first.quality.shape) == ((0, 4), (0,))
    for i, member in enumerate(members):
        one = image_signature(member)
        assert STATUS[first.status[i]] == one.status
        assert FORMATS[first.format[i]] == one.format
        for name in ("width", "height", "phash", "flat", "content_hash"):
            assert getattr(first, name)[i].item() == getattr(one, name)


def test_no_members(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(b"")
    none = image_signatures(path, [], [])
    assert all(len(array) == 0 for array in none)


def test_content_hash_is_xxh3_128() -> None:
    """XXH3-128, seed 0: the value published for no bytes, and the halves in canonical order."""
    assert image_signature(b"").content_hash == (0x99AA06D3014798D8, 0x6001C324468D497F)
    a, b = image_signature(b"a").content_hash, image_signature(b"b").content_hash
    assert a != b
    assert a == (0xA96FAF705AF16834, 0xE6C632B61E964E1F)


def test_members_above_the_bound_are_hashed_in_pieces(tmp_path: Path) -> None:
    """A sparse file: a JPEG's first bytes and zeros, one byte more than is held in memory."""
    path = tmp_path / "large.tar"
    size = core_images.max_image_bytes + 1
    with path.open("wb") as file:
        file.write(LOSSY["jpeg"])
        file.truncate(size)
    zero = np.zeros(2, np.uint64)
    sizes = np.array([size, len(LOSSY["jpeg"])], np.uint64)
    got = image_signatures(path, zero, sizes, threads=1)
    assert [STATUS[s] for s in got.status] == ["too_large", "ok"]
    assert [FORMATS[f] for f in got.format] == ["jpeg", "jpeg"]
    assert got.content_hash[0] != got.content_hash[1]
    with path.open("r+b") as file:
        file.seek(size - 1)
        file.write(b"x")
    assert image_signatures(path, zero, sizes, threads=1).content_hash[0] != got.content_hash[0]


def test_bad_arguments(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    offsets, sizes = shard(path, [LOSSY["jpeg"]] * 3)
    with pytest.raises(
        CorruptDataError, match=r"member 2 .* reaches beyond the end of the file .* index it again"
    ) as e:
        image_signatures(path, offsets, sizes + np.uint64(1))
    assert (e.value.path, e.value.offset) == (str(path), int(offsets[2]))
    with pytest.raises(CorruptDataError, match="member 0"):
        image_signatures(path, offsets + np.uint64(2**64 - 600), sizes)
    with pytest.raises(ValueError, match="offsets and sizes must have one length; got 3 and 2"):
        image_signatures(path, offsets, sizes[:2])
    with pytest.raises(TypeError, match="offsets must have dtype uint64"):
        image_signatures(path, offsets.astype(np.int64), sizes)
    with pytest.raises(ValueError, match="sizes must be one-dimensional"):
        image_signatures(path, offsets, sizes[:, None])
    with pytest.raises(ValueError, match="threads must be None or"):
        image_signatures(path, offsets, sizes, threads=-2)
    with pytest.raises(FileNotFoundError):
        image_signatures(tmp_path / "none.tar", offsets, sizes)
    with pytest.raises(TypeError, match="pictures must be bytes"):
        image_signature("a.jpg")  # type: ignore[arg-type]


def test_nothing_is_printed_about_bad_pictures(tmp_path: Path) -> None:
    """libjpeg and libpng would write their warnings to the standard error output."""
    noisy = LOSSY["jpeg"][:700] + b"\xff\xd0\x00\x11" + LOSSY["jpeg"][704:]
    script = "import sys; from dcfast.images.signatures import image_signature as s\n"
    script += "print([s(bytes.fromhex(line)).status for line in sys.stdin])"
    bad_crc = LOSSLESS["png"][:-4] + b"abcd"
    text = png(1, 1, 8, 0, b"\0\0", (b"iCCP", b"x\0\0garbage"))
    package = str(Path(_core.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="\n".join(d.hex() for d in (noisy, bad_crc, text)),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([package, *sys.path])},
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("['ok', ")
