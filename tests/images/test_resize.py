"""Images resized as img2dataset does it: its own numbers, its rules, faces before the cut, and bytes of strangers."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from dcfast.errors import MissingDependencyError
from dcfast.images import costs, resize
from dcfast.images.blur import blur_boxes
from dcfast.images.costs import BadImage
from dcfast.images.resize import HOW, MODES, Resized, ResizeError, ResizeOptions, resize_image
from drawn_pictures import drawing, encode
from PIL import Image
from test_blur import drawn

cv2 = pytest.importorskip("cv2")


def lossless(
    size: int = 512, mode: str = "keep_ratio_largest", *, only: bool = True, how: str = "exact"
) -> ResizeOptions:
    return ResizeOptions(size=size, mode=mode, only_if_bigger=only, how=how, encode_format="png", quality=1)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


PINNED = [
    ((61, 83), "keep_ratio_largest", 50, (50, 37), "2b5d2e492c897feee436e287558a928b4d9b429ee061e69a972e51", 636311),
    ((61, 83), "keep_ratio_largest", 150, (150, 110),
     "2a5a2c5a2686bdd2d436e487669299c56fab4299d772dbacd12175", 5676712),
    ((61, 83), "keep_ratio", 30, (41, 30), "26662d362d8b5bf6cf32d683429593675ca33f85d94e919b73745d", 423070),
    ((61, 83), "center_crop", 33, (33, 33), "5baf425628839390c5670dcf62939a9f3165736e5b6ee1b020506e", 404094),
    ((61, 83), "center_crop", 120, (120, 120), "5ba644562d879e94cc6715d062849eaa356b736a5c6efab3004226", 5335528),
    ((61, 83), "border", 48, (48, 48), "2a7112602635c8f5593bd896719ebad957d64c4e2582143feaca64", 1055191),
    ((61, 83), "no", 10, (83, 61), "27692b462a8587e7df33cd82528e9093439e3fa1d85ee29a9f2f5c", 1741467),
    ((90, 40), "keep_ratio_largest", 50, (22, 50), "0f6a1d4d885bcd9e9a21f7555f7a0dde1dc7324a8d708ac0f0a38e", 355716),
    ((90, 40), "keep_ratio_largest", 150, (67, 150), "11681f55d660e1afa123d55f675e30ff0bd035599f79ffff598b31", 3249012),
    ((90, 40), "keep_ratio", 30, (30, 68), "1174215bcc63e9a7a423ee626c51277a36e83555a47deae60c892e", 659731),
    ((90, 40), "center_crop", 33, (33, 33), "1ab33f5e19c6e9774d22f55b66551cf13adf2a27776e9b74f9ea72", 366772),
    ((90, 40), "center_crop", 120, (120, 120), "1aa1425f10cdec6e5922d95e685d2ef418df2b0e7b6fb37bfcc57e", 4850235),
    ((90, 40), "border", 48, (48, 48), "ffffff65ce6effffffffffff777745ffffffffffff89ea21ffffff", 1317417),
    ((90, 40), "no", 10, (40, 90), "10611e51ce5fd5aba022cb5a63641de701e0345d9675f2dbf99720", 1164192),
]  # fmt: skip
"""Shape, mode, size; width and height, nine pixels and the sum of what img2dataset 1.47 makes of ``drawn``, also where
that is smaller (OpenCV 4.14, albumentations 1.4)."""


@pytest.mark.parametrize(("shape", "mode", "size", "made", "some", "total"), PINNED)
def test_numbers_of_img2dataset(
    shape: tuple[int, int], mode: str, size: int, made: tuple[int, int], some: str, total: int
) -> None:
    png = encode(Image.fromarray(drawn(*shape)), "PNG")
    got = resize_image(png, lossless(size, mode, only=False))
    assert (got.width, got.height, got.original_width, got.original_height) == (*made, *shape[::-1])
    levels = pixels(got.data).astype(np.int64)
    height, width, _ = levels.shape
    nine = levels[height // 6 :: height // 3, width // 6 :: width // 3][:3, :3]
    assert np.abs(nine - np.frombuffer(bytes.fromhex(some), np.uint8).reshape(3, 3, 3)).max() <= 1
    assert abs(levels.sum() - total) / levels.size < 0.02


SIZES = {
    (1531, 403): [(1531, 403), (512, 512), (1531, 403), (512, 135), (1531, 403)],
    (700, 523): [(700, 523), (512, 512), (685, 512), (512, 383), (512, 512)],
    (512, 300): [(512, 300)] * 5,
    (9, 7): [(9, 7)] * 5,
    (1, 900): [(1, 900), (512, 512), (1, 900), (1, 512), (1, 900)],
}
"""What each of MODES makes of a size at 512 where only larger ones are resized."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", HOW)
def test_sizes(size: tuple[int, int], how: str) -> None:
    jpeg = encode(Image.new("RGB", size, "red"))
    for mode, made in zip(MODES, SIZES[size], strict=True):
        got = resize_image(jpeg, ResizeOptions(mode=mode, how=how))
        assert got[1:] == (*made, *size)
        assert Image.open(io.BytesIO(got.data)).size == made


def test_kinds_of_pixels() -> None:
    """Grey stays grey; palettes and four inks are colours; transparency is laid on white; nothing is turned."""
    scene = drawing(1, 90, 60)
    grey = resize_image(encode(scene.convert("L"), "PNG"), lossless(30))
    assert pixels(grey.data).shape == (20, 30)
    for data in (encode(scene.quantize(8), "PNG"), encode(scene.quantize(8), "GIF"), encode(scene, "BMP")):
        assert pixels(resize_image(data, lossless()).data).shape == (60, 90, 3)
    assert pixels(resize_image(encode(scene.convert("CMYK")), lossless()).data).shape == (60, 90, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP"):
        assert resize_image(encode(scene, kind, exif=exif.tobytes()), lossless())[1:] == (90, 60, 90, 60)
    for encode_format in resize.ENCODE_FORMATS:
        got = resize_image(encode(scene, "WEBP"), ResizeOptions(encode_format=encode_format, quality=9))
        assert Image.open(io.BytesIO(got.data)).format == {"jpg": "JPEG"}.get(encode_format, encode_format.upper())


def test_every_transparency_of_every_level() -> None:
    level, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    image = Image.fromarray(np.stack([level, level, level[::-1], alpha], axis=2))
    got = pixels(resize_image(encode(image, "PNG"), lossless()).data)
    share = alpha[..., None] / 255
    expected = np.rint(share * np.asarray(image)[..., :3] + 255 - alpha[..., None])
    assert np.array_equal(got, expected)
    image.putalpha(255)
    assert np.array_equal(pixels(resize_image(encode(image, "PNG"), lossless()).data), np.asarray(image)[..., :3])


def png_16(levels: np.ndarray) -> bytes:
    """(h, w, 4) u16 as a PNG, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_levels_of_16_bits() -> None:
    ramp = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    png = encode(Image.fromarray(ramp), "PNG")
    assert np.array_equal(pixels(resize_image(png, lossless()).data), ramp)
    jpeg = pixels(resize_image(png, ResizeOptions(how="exact", quality=100)).data)
    assert np.abs(jpeg - np.minimum(ramp, 255).astype(int)).max() <= 8  # nearly all of it white
    blurred = pixels(resize_image(png, lossless(), np.array([[0.5, 0.5, 1, 1]])).data)
    assert blurred.dtype == np.uint8
    rng = np.random.default_rng(0)
    four = rng.integers(0, 65536, (9, 7, 4)).astype(np.uint16)
    four[:4] //= 200
    expected = np.rint((four[..., 3:] / 255 * four[..., :3] + 255 - four[..., 3:]).clip(0, 255))
    assert np.array_equal(pixels(resize_image(png_16(four), lossless()).data), expected)


@pytest.mark.parametrize("by", [1, 1.5, 2, 3, 4, 7, 8, 9])
def test_scaled_is_close_and_never_from_fewer_pixels(by: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = drawing(3, round(64 * by), round(48 * by) + 1)
    decoded: list[tuple[int, ...]] = []
    inner = resize._decoded

    def noted(*args: object) -> np.ndarray:
        image = inner(*args)  # type: ignore[arg-type]
        decoded.append(image.shape)
        return image

    monkeypatch.setattr(resize, "_decoded", noted)
    for image, options in ((scene, {}), (scene.convert("L"), {}), (scene, {"progressive": True, "subsampling": 0})):
        data = encode(image, quality=95, **options)
        exact, scaled = (resize_image(data, lossless(64, how=how)) for how in HOW)
        assert exact[1:] == scaled[1:]
        gap = np.abs(pixels(exact.data).astype(int) - pixels(scaled.data))
        assert gap.mean() < 6
        full, reduced = decoded[-2:]
        scale = round(full[0] / reduced[0])
        assert scale == max(n for n in (1, 2, 4, 8) if n <= by)
        assert reduced[0] >= scaled.height
        assert reduced[1] >= scaled.width
        assert (scale > 1) or gap.max() == 0
    for kind in ("PNG", "WEBP"):
        data = encode(scene, kind)
        assert resize_image(data, lossless(64, how="scaled")) == resize_image(data, lossless(64))


BOXES = np.array([[0.1, 0.2, 0.5, 0.6], [0.7, 0.1, 0.9, 0.4]])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("colour", ["RGB", "L"])
def test_faces_are_blurred_after_resizing_and_before_the_cut(mode: str, colour: str) -> None:
    png = encode(drawing(2, 300, 200).convert(colour), "PNG")
    whole = {"border": "keep_ratio_largest", "center_crop": "keep_ratio"}.get(mode, mode)
    small = pixels(resize_image(png, lossless(100, whole)).data)
    blurred = blur_boxes(small.reshape(*small.shape[:2], -1), BOXES).reshape(small.shape)
    assert (blurred != small).mean() > 0.1
    if mode == "border":
        pad = ((16, 17), (0, 0), (0, 0))[: blurred.ndim]
        blurred = np.pad(blurred, pad, constant_values=255)
    elif mode == "center_crop":
        blurred = blurred[:, 25:125]
    assert np.array_equal(pixels(resize_image(png, lossless(100, mode), BOXES).data), blurred)
    untouched = resize_image(png, lossless(100, mode)).data
    for none in (np.empty((0, 4)), np.array([[0.5, 0.5, 0.5, 0.5]])):
        assert resize_image(png, lossless(100, mode), none).data == untouched


@pytest.mark.real_data
def test_blur_is_that_of_datacomps_version(real_data: Path) -> None:
    folder = real_data / "img2dataset/blur_test_files"
    boxes = np.load(folder / "bbox.npy").reshape(-1, 4)
    got = pixels(resize_image((folder / "original.png").read_bytes(), lossless(mode="no"), boxes).data)
    gap = np.abs(got - np.asarray(Image.open(folder / "blurred_1.40.png").convert("RGB")).astype(int))
    assert gap.mean() < 0.1


@pytest.mark.parametrize("boxes", [[[0, 0, 1, 2]], [[0, 0, np.nan, 1]], [0.1, 0.2, 0.3, 0.4]])
def test_boxes_that_cannot_be_blurred_leave_the_image_out(boxes: list[object]) -> None:
    with pytest.raises(ResizeError, match="faces cannot be blurred: "):
        resize_image(encode(drawing(2)), ResizeOptions(), np.array(boxes))


def test_rules() -> None:
    jpeg = encode(Image.new("L", (90, 30)))
    for options, text in (
        (ResizeOptions(min_size=31), "image too small"),
        (ResizeOptions(max_area=90 * 30 - 1), "image area too large"),
        (ResizeOptions(max_aspect=2.9), "aspect ratio too large"),
    ):
        with pytest.raises(ResizeError, match=f"^{text}$"):
            resize_image(jpeg, options)
    at_the_bounds = ResizeOptions(min_size=30, max_area=90 * 30, max_aspect=3)
    assert resize_image(jpeg, at_the_bounds)[1:] == (90, 30, 90, 30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "all"}, "mode must be one of no, border, keep_ratio, keep_ratio_largest, center_crop; got 'all'"),
        ({"how": "fast"}, "how must be one of exact, scaled; got 'fast'"),
        ({"encode_format": "gif"}, "encode_format must be one of jpg, png, webp; got 'gif'"),
        ({"encode_format": "png"}, "quality of png must be the compression, 0 to 9; got 95"),
        ({"quality": 101}, "quality of jpg must be 0 to 100; got 101"),
        ({"size": 0}, "size must be 1 to 16,383 pixels; got 0"),
    ],
)  # fmt: skip
def test_options_that_are_none(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        ResizeOptions(**options)  # type: ignore[arg-type]


PNG = encode(drawing(1, 96, 72), "PNG")
JPEG = encode(drawing(1, 96, 72))


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"", "unsupported", "not a picture of a known kind"),
        (b"<html>404</html>", "unsupported", "not a picture of a known kind"),
        (encode(drawing(1, 64, 64), "ICO"), "unsupported", "ICO is not read here"),
        (b"\xff\xd8\xff\xd9", "broken", "Image decoding error"),
        (JPEG[: len(JPEG) // 2], "broken", "Image decoding error"),
        (PNG[:-12], "truncated", "Image decoding error"),
        (PNG.replace(b"IDAT", b"IDA_"), "broken", "Image decoding error"),
        (JPEG.replace(struct.pack(">HH", 72, 96), b"\xf0\0\xf0\0", 1), "too_large", "more than 178,956,970 pixels"),
        (b"P2 64 64 255\n" + b"1 " * 4096, "unsupported", "pixels written as text"),
        (encode(Image.new("F", (9, 9)), "TIFF"), "unsupported", "pixels of 32 bits, whose range is unknown"),
    ],
)  # fmt: skip
def test_what_is_no_image(data: bytes, status: str, reason: str) -> None:
    for how in HOW:
        with pytest.raises(BadImage, match=f"^{reason}$") as refused:
            resize_image(memoryview(data), ResizeOptions(how=how))
        assert refused.value.status == status


def test_lengths_that_lie_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV would make room for them: nothing of such a file reaches it."""
    monkeypatch.setattr(cv2, "imdecode", None)
    at = PNG.index(b"IDAT") - 4
    for length in (b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", struct.pack(">I", len(PNG))):
        with pytest.raises(BadImage, match="Image decoding error"):
            resize_image(PNG[:at] + length + PNG[at + 4 :], ResizeOptions())


def test_wide_pixels_have_a_bound_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize, "MAX_WIDE_PIXELS", 96 * 72)
    wide = encode(Image.fromarray(np.zeros((72, 97), np.uint16)), "PNG")
    assert resize_image(PNG, ResizeOptions()).width == 96
    with pytest.raises(BadImage, match="more than 6,912 pixels"):
        resize_image(wide, ResizeOptions())


def test_kinds_that_take_long_have_a_bound_of_their_own() -> None:
    """A GIF of a few kilobytes; others of as many pixels are made in a fraction of a second."""
    size = (8_192, 4_097)
    began = time.process_time()
    with pytest.raises(BadImage, match="more than 33,554,432 pixels") as caught:
        resize_image(encode(Image.new("L", size), "GIF"), ResizeOptions())
    assert caught.value.status == "too_large"
    assert resize_image(encode(Image.new("L", size), "PNG"), ResizeOptions()).width == 512
    assert time.process_time() - began < 5


def test_pixels_may_be_fewer() -> None:
    assert resize_image(PNG, ResizeOptions(max_pixels=96 * 72)).width == 96
    with pytest.raises(BadImage, match="more than 6,911 pixels"):
        resize_image(PNG, ResizeOptions(max_pixels=96 * 72 - 1))


def test_results_that_no_format_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    line = encode(Image.new("L", (70_000, 2)), "PNG")
    with pytest.raises(ResizeError, match="jpg cannot hold 70000 x 2 pixels"):
        resize_image(line, ResizeOptions(mode="no"))
    monkeypatch.setattr(costs, "MAX_RESIZED", 1 << 20)
    with pytest.raises(BadImage, match="too long and thin"):
        resize_image(line, ResizeOptions(mode="keep_ratio", only_if_bigger=False, size=32))


@pytest.mark.long
def test_threads_make_the_same_and_the_interpreter_goes_on() -> None:
    jpegs = [encode(drawing(seed, 900, 700)) for seed in range(6)]
    expected = [resize_image(data, ResizeOptions()) for data in jpegs]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda data: resize_image(data, ResizeOptions()), jpegs)) == expected
    large = encode(Image.effect_noise((6000, 5000), 50))
    done: list[Resized] = []
    thread = threading.Thread(target=lambda: done.append(resize_image(large, ResizeOptions(how="exact"))))
    thread.start()
    turns = 0
    while thread.is_alive():
        time.sleep(0.001)
        turns += 1
    assert done[0].original_width == 6000
    assert turns > 10  # a few where a thread of OpenCV held the interpreter


def test_codecs_are_silent_and_python_is_not() -> None:
    odd = JPEG[:-2] + bytes(99) + JPEG[-2:]  # libjpeg writes of bytes before a marker, past OpenCV's log
    program = (
        "import sys, os; from dcfast.images.resize import *; data = bytes.fromhex(sys.argv[1])\n"
        "if sys.argv[2] == 'yes': silence_codecs()\n"
        "print(resize_image(data, ResizeOptions()).width); print('python', file=sys.stderr)\n"
        "print(os.environ.get('OPENCV_IO_MAX_IMAGE_PIXELS'))"
    )
    for silent, said in (("yes", ["python"]), ("no", ["Corrupt JPEG data", "python"])):
        command = [sys.executable, "-c", program, odd.hex(), silent]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert run.stdout.split() == ["96", "None"]
        lines = run.stderr.splitlines()
        assert len(lines) == len(said)
        assert all(line.startswith(begin) for line, begin in zip(lines, said, strict=True))


def test_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    resize._opencv.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"resizing images needs cv2.*pip install 'dcfast\[acquire\]'"):
        resize_image(JPEG, ResizeOptions())


def test_many_threads_may_be_the_first() -> None:
    program = (
        "import io, sys, threading\n"
        "sys.setswitchinterval(1e-6)\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from PIL import Image\n"
        "from dcfast.images.resize import ResizeOptions, resize_image\n"
        "buffer = io.BytesIO()\n"
        "Image.new('RGB', (40, 30)).save(buffer, 'JPEG')\n"
        "at_once = threading.Barrier(8)\n"
        "def one(_):\n"
        "    at_once.wait()\n"
        "    return resize_image(buffer.getvalue(), ResizeOptions()).width\n"
        "with ThreadPoolExecutor(8) as threads:\n"
        "    print(sum(threads.map(one, range(8))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout == "320\n", done.stderr
