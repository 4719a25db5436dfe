"""All that read images accept and refuse the same bytes, and none of them ever starts a program."""

from __future__ import annotations

import base64
import io
import os
import re
import struct
import subprocess
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast.images.costs import BadImage
from dcfast.images.decode import decode_image, load_image, open_image
from dcfast.images.signatures import image_signature
from dcfast.train.decode import PilDecoder, ReducedPilDecoder
from image_readers import Readers, encoded, scene
from PIL import EpsImagePlugin, Image, ImageCms

torch = pytest.importorskip("torch")
EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
"""Members with which a sample has a picture."""

PILLOW = (*("training", "reduced training", "features", "evaluation", "page", "blur", "descriptors", "calibration"),)
CODEC_DIFFERENCES: dict[str, set[str]] = {
    # the core wants the end of the file, Pillow only that of the pixels
    "made: png without its last chunk": {*PILLOW},
    "made: grey jpeg without its end marker": {*PILLOW, "resize"},
    # OpenCV knows no icons
    "read: ico": {*PILLOW, "signatures"},
    "read: ico that lies about its size": {*PILLOW, "signatures"},
}
"""File -> who reads it, of those on which not all agree: the core and OpenCV link other libraries than Pillow."""


def thin_png(width: int) -> bytes:
    return encoded(Image.new("L", (width, 1), 128), "PNG")


def lying_icon() -> bytes:
    """An icon of 80 x 60 that says 16 x 16."""
    png = encoded(scene(), "PNG")
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png


SCENE = scene()
RAMP = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
ALPHA = Image.merge("RGBA", (*SCENE.split(), SCENE.convert("L")))
JPEG = encoded(SCENE, "JPEG")
PROGRESSIVE = encoded(SCENE, "JPEG", progressive=True)
SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
EPS = encoded(SCENE, "EPS")
OTHER_KINDS = {
    "eps": EPS,
    "eps, binary": struct.pack("<4sIIIIIIH", b"\xc5\xd0\xd3\xc6", 30, len(EPS), 0, 0, 0, 0, 0xFFFF) + EPS,
    "pdf": encoded(SCENE, "PDF"),
    "psd": struct.pack(">4sH6xHIIHHIIIH", b"8BPS", 1, 3, 8, 8, 8, 3, 0, 0, 0, 0) + bytes(192),
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9"/></svg>',
    "wmf": b"\xd7\xcd\xc6\x9a\0\0"
    + struct.pack("<hhhhHI", 0, 0, 100, 100, 96, 0)
    + b"\0\0\x01\0\x09\0\0\x03"
    + bytes(60),
    "emf": struct.pack("<IIiiiiiiii", 1, 108, 0, 0, 9, 9, 0, 0, 900, 900) + b" EMF" + bytes(64),
    "fits": b"SIMPLE  =                    T" + b" " * 2850,
    "tga": encoded(SCENE, "TGA"),
    "pcx": encoded(SCENE, "PCX"),
    "dds": encoded(SCENE, "DDS"),
    "icns": encoded(scene(64, 64), "ICNS"),
    "text": b"P3 is what this text begins with",
    "nothing": b"",
}
READ_KINDS = {
    "jpeg": JPEG,
    "jpeg, progressive": PROGRESSIVE,
    "jpeg, four inks": encoded(SCENE.convert("CMYK"), "JPEG"),
    "jpeg, grey": encoded(SCENE.convert("L"), "JPEG"),
    "jpeg, large": encoded(scene(900, 700), "JPEG"),
    "jpeg of 400 scans": PROGRESSIVE[:-2] + SCAN * 400 + b"\xff\xd9",
    "jpeg, much behind its end": JPEG + b"\xff\xda" * 1000,
    "mpo": encoded(SCENE, "MPO", save_all=True, append_images=[SCENE.rotate(180)]),
    "png": encoded(SCENE, "PNG"),
    "png, alpha": encoded(ALPHA, "PNG"),
    "png, palette": encoded(SCENE.quantize(20), "PNG", transparency=bytes(range(20))),
    "png, 16 bit": encoded(RAMP, "PNG"),
    "png, bilevel": encoded(SCENE.convert("1"), "PNG"),
    "webp": encoded(SCENE, "WEBP"),
    "webp, alpha": encoded(ALPHA, "WEBP"),
    "webp, animated": encoded(SCENE, "WEBP", save_all=True, append_images=[SCENE.rotate(180)]),
    "gif": encoded(SCENE, "GIF"),
    "gif, animated": encoded(SCENE, "GIF", save_all=True, append_images=[SCENE.rotate(180)]),
    "bmp": encoded(SCENE, "BMP"),
    "tiff": encoded(SCENE, "TIFF"),
    "tiff, 16 bit": encoded(RAMP, "TIFF"),
    "ppm, 16 bit": b"P5 64 64 65535\n" + np.asarray(RAMP).astype(">u2").tobytes(),
    "tiff, jpeg in it": encoded(SCENE, "TIFF", compression="jpeg"),
    "tiff, two pages": encoded(SCENE, "TIFF", save_all=True, append_images=[SCENE.rotate(180)]),
    "tiff, lab": encoded(
        ImageCms.applyTransform(  # type: ignore[arg-type]
            SCENE,
            ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
        ),
        "TIFF",
    ),
    "ppm": encoded(SCENE, "PPM"),
    "ico": encoded(SCENE, "ICO"),
    "ico that lies about its size": lying_icon(),
    **{kind.lower(): encoded(SCENE, kind) for kind in ("AVIF", "JPEG2000") if kind in Image.SAVE},
}
DAMAGED = {
    "jpeg, cut": JPEG[: len(JPEG) // 2],
    "jpeg of 600 scans": PROGRESSIVE[:-2] + SCAN * 600 + b"\xff\xd9",
    "jpeg, huge": JPEG.replace(struct.pack(">HH", *SCENE.size[::-1]), b"\xf0\0\xf0\0", 1),
    "jpeg of nothing": b"\xff\xd8\xff\xd9",
    "jpeg of 12 bits": JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
    "png, cut": encoded(SCENE, "PNG")[:300],
    "png, huge": encoded(Image.new("1", (14_000, 14_000)), "PNG"),
    "webp, cut": encoded(SCENE, "WEBP")[:100],
    "gif, cut": encoded(SCENE, "GIF")[:900],
    "tiff, cut": encoded(SCENE, "TIFF")[:5000],
    "tiff, float": encoded(RAMP.convert("F"), "TIFF"),
    "tiff, 32 bit": encoded(Image.fromarray(np.asarray(RAMP).astype(np.int32)), "TIFF"),
    "tiff, 16 bit with a sign": encoded(RAMP, "TIFF", tiffinfo={339: 2}),
    "png without its last chunk": encoded(SCENE, "PNG")[:-12],
    "jpeg without its end marker": JPEG[:-2],
    "grey jpeg without its end marker": encoded(SCENE.convert("L"), "JPEG", quality=95)[:-2],
}


def agreed(folder: Path, files: dict[str, tuple[str, bytes]]) -> dict[str, bool]:
    """Of each file whether all take it; on those of the table they differ as it says."""
    readers = Readers(folder, files)
    takes = readers.all()
    found: dict[str, bool] = {}
    differ: dict[str, set[str]] = {}
    for number, name in enumerate(readers.names):
        who = {reader for reader, read in takes.items() if read[number]}
        if who and len(who) < len(takes):
            differ[name] = who - {"training by dali", "training by the core"}
            assert ("training by the core" in who) == ("training" in who), name
            assert ("training by dali" in who) == ("training" in who) or "training by dali" not in takes, name
        found[name] = len(who) == len(takes)
    assert differ == {name: who for name, who in CODEC_DIFFERENCES.items() if name in files}
    return found


def test_all_agree_on_files_that_decoders_stumble_on(real_data: Path, tmp_path: Path) -> None:
    paths = [p for p in sorted((real_data / "odd_images").glob("*/*")) if not p.name.startswith("LICENSE")]
    found = agreed(tmp_path, {f"odd: {p.name}": (p.suffix[1:], p.read_bytes()) for p in paths})
    assert sum(found.values()) > 80
    assert not any(found[f"odd: {name}"] for name in ("decompression_bomb.gif", "testorig12.jpg", "truncated_jpeg.jpg"))


def test_all_agree_on_every_kind(tmp_path: Path) -> None:
    files = {"read": READ_KINDS, "other": OTHER_KINDS, "made": DAMAGED}
    named = {f"{what}: {name}": ("jpg", data) for what, kind in files.items() for name, data in kind.items()}
    found = agreed(tmp_path, named)
    wanted = {name: name.startswith("read: ") and name not in CODEC_DIFFERENCES for name in found}
    assert found == wanted


def test_no_image_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the member is called. Noted rather than raised: a reader may take an error for a bad image."""
    started: list[str] = []
    names = ["system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp", "execv", "execve"]
    for module, name in [(subprocess, "Popen"), (EpsImagePlugin, "Ghostscript"), *((os, name) for name in names)]:

        def note(*_: Any, _name: str = name, **__: Any) -> None:
            started.append(_name)
            raise OSError("a program was started")

        monkeypatch.setattr(module, name, note)
    kinds = ("eps", "eps, binary", "pdf", "psd", "svg", "wmf", "emf")
    files = {f"{kind} as {ext}": (ext, OTHER_KINDS[kind]) for kind in kinds for ext in EXTENSIONS}
    assert not any(agreed(tmp_path, files).values())
    assert started == []
    with pytest.raises(OSError, match="a program was started"):  # which Pillow does where it is asked for all it knows
        Image.open(io.BytesIO(EPS)).load()
    assert started == ["Ghostscript"]


def test_images_are_opened_in_one_place(repo_root: Path) -> None:
    # a type and a way to resize open nothing
    modules = r"\bfrom PIL\.(?!Image import (?:Image|Resampling)\n)\w+ import"
    opens = re.compile(rf"\bImage\.open\(|{modules}|ImageFile\.Parser|torchvision\.io|import cv2|\bimageio\b")
    package = repo_root / "python/dcfast"
    found = {p.relative_to(package).as_posix(): len(opens.findall(p.read_text())) for p in package.rglob("*.py")}
    assert {name: count for name, count in found.items() if count} == {
        "images/decode.py": 1,
        "images/resize.py": 1,  # by OpenCV, what decode.py let through
        "dedup/calibration/edits.py": 1,  # draws on images that decode.py opened
    }


@pytest.mark.parametrize("name", READ_KINDS)
def test_pixels_are_those_of_pillows_rgb(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = Image.open(io.BytesIO(READ_KINDS[name]))
        if opened.mode.startswith("I"):
            opened = Image.fromarray((np.asarray(opened) // 256).astype(np.uint8))
        expected = opened.convert("RGB")
        loaded = load_image(memoryview(READ_KINDS[name])).convert("RGB")
    for image in (decode_image(READ_KINDS[name]), loaded):
        assert (image.mode, image.size, image.tobytes()) == ("RGB", expected.size, expected.tobytes())


@pytest.mark.parametrize("name", ["png, 16 bit", "tiff, 16 bit", "ppm, 16 bit"])
def test_all_see_the_same_ramp_of_16_bits(name: str) -> None:
    """Black to white, whoever looks: in Pillow's own conversion all but the first levels are white."""
    from dcfast.images.blur import blur_image
    from dcfast.report.page.images import thumbnail

    data = READ_KINDS[name]
    upper = np.asarray(RAMP) >> 8
    pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[..., 0]  # what DataComp's evaluation sees
    assert np.array_equal(pillow, np.minimum(np.asarray(RAMP), 255))
    seen = {
        "evaluation": np.asarray(decode_image(data)),
        "features": np.asarray(load_image(data).convert("RGB")),
        "training": PilDecoder()(memoryview(data), lambda w, h: (0, 0, w, h), 64),
        "reduced training": ReducedPilDecoder()(memoryview(data), lambda w, h: (0, 0, w, h), 64),
        "blur": np.asarray(Image.open(io.BytesIO(blur_image(data, np.empty((0, 4))))).convert("RGB")),
        "page": np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail(data).uri.split(",")[1]))).convert("RGB")),
    }
    for reader, pixels in seen.items():
        near = 0 if reader in ("evaluation", "features", "training", "reduced training") else 8
        assert np.abs(pixels.astype(int) - upper[..., None]).max() <= near, reader
    grey = Image.fromarray(upper.astype(np.uint8))
    assert image_signature(data).phash == image_signature(encoded(grey, "PNG")).phash


def test_a_multi_picture_jpeg_is_the_jpeg_it_begins_with() -> None:
    both = READ_KINDS["mpo"]
    first = both[: both.index(b"\xff\xd9") + 2]
    assert decode_image(both).tobytes() == decode_image(first).tobytes()
    assert image_signature(both).phash == image_signature(first).phash


def test_a_lying_icon_has_its_own_size() -> None:
    with open_image(lying_icon()) as image:
        assert image.size == (80, 60)
    assert image_signature(lying_icon()).width == 80


def test_thin_images_are_refused_where_they_are_scaled_whole(tmp_path: Path) -> None:
    takes = Readers(tmp_path, {"thin": ("jpg", thin_png(70_000)), "less so": ("jpg", thin_png(60_000))}).all()
    for reader, read in takes.items():
        wanted = {"features": [False, True], "evaluation": [False, True], "blur": [False, False]}  # no WebP is as long
        assert read == wanted.get(reader, [True, True]), reader


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("jpeg, cut", "truncated", "truncated"),
        ("jpeg of 600 scans", "broken", "more than 500 scans"),
        ("jpeg, huge", "too_large", "more than 178,956,970 pixels"),
        ("jpeg of nothing", "unsupported", "not a picture of a known kind"),
        ("tiff, cut", "truncated", "truncated"),
        ("tiff, float", "unsupported", "pixels of 32 bits, whose range is unknown"),
        ("tiff, 32 bit", "unsupported", "pixels of 32 bits, whose range is unknown"),
    ],
)
def test_reasons(name: str, status: str, reason: str) -> None:
    with pytest.raises(BadImage, match=reason) as error, open_image(DAMAGED[name]) as image:
        image.load()
    assert error.value.status == status


def test_no_memory_is_not_the_images_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MemoryError), open_image(JPEG):
        raise MemoryError
    with pytest.raises(BadImage, match="x") as error, open_image(JPEG):
        raise KeyError("x")
    assert error.value.status == "broken"


def test_pillow_warns_of_nothing_and_the_filters_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)  # of which it warns, and refuses twice as many
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        barrier = threading.Barrier(8)

        def work(name: str) -> None:
            barrier.wait()
            for _ in range(20):
                images.append(decode_image(READ_KINDS[name]).size)

        images: list[tuple[int, int]] = []
        threads = [threading.Thread(target=work, args=(name,)) for name in ("jpeg", "png, palette", "gif", "mpo") * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert images == [(80, 60)] * 160
        assert list(warnings.filters) == before
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(io.BytesIO(JPEG))
