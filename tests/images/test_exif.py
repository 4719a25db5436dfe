"""EXIF as a JSON object: what ExifRead says of it, where it is looked for, and blocks that are made to take long."""

from __future__ import annotations

import io
import json
import logging
import struct
import sys
import time

import numpy as np
import pytest
from dcfast.errors import MissingDependencyError
from dcfast.images import exif
from dcfast.images.exif import exif_json
from drawn_pictures import drawing, encode
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

exifread = pytest.importorskip("exifread")
SECONDS = 1.0
"""Of processor time for one block; the worst takes a twentieth."""


def camera() -> bytes:
    tags = Image.Exif()
    tags[0x010F], tags[0x0110], tags[0x0112] = " Maker ", 'a "model"', 6
    tags.get_ifd(0x8769)[0x829A] = IFDRational(1, 250)
    tags.get_ifd(0x8769)[0x9000] = b"0220"
    tags.get_ifd(0x8825)[1] = "N"
    return tags.tobytes()


SAID = {
    "Image Make": "Maker",
    "Image Model": 'a "model"',
    "Image Orientation": "Rotated 90 CW",
    "EXIF ExposureTime": "1/250",
    "EXIF ExifVersion": "0220",
    "GPS GPSLatitudeRef": "N",
}
SCENE = drawing(1, 64, 48)
JPEG = encode(SCENE, exif=camera())


def in_jpeg(block: bytes) -> bytes:
    return JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + encode(SCENE)[2:]


def entries(*some: tuple[int, int, int, int], fill: bytes = b"a") -> bytes:
    """A block of one directory with entries (tag, type, count, value), filled to 65,000 bytes."""
    head = b"MM\0*\0\0\0\x08" + struct.pack(">H", len(some)) + b"".join(struct.pack(">HHII", *entry) for entry in some)
    return head.ljust(65_000, fill)


def test_what_a_camera_wrote() -> None:
    for data in (JPEG, encode(SCENE, "WEBP", exif=camera())):
        assert SAID.items() <= json.loads(exif_json(data)).items()
    assert exif_json(in_jpeg(entries((0x0110, 2, 4, 0xC3A92100)))) == '{"Image Model": "\\u00e9!"}'
    tags = exifread.process_file(io.BytesIO(JPEG), details=False, extract_thumbnail=False)
    assert json.loads(exif_json(JPEG)) == {name: str(value).strip() for name, value in tags.items()}
    tiff = json.loads(exif_json(encode(SCENE, "TIFF")))
    assert (tiff["Image ImageWidth"], tiff["Image ImageLength"]) == ("64", "48")


def test_where_there_is_none() -> None:
    for data in (
        b"", b"\xff\xd8", b"II", b"MM\0*", encode(SCENE), encode(SCENE, "PNG", exif=camera()), encode(SCENE, "GIF"),
        b"RIFF\0\0\0\0WEBPVP8X", encode(SCENE, "WEBP"), in_jpeg(b"nothing of it"), in_jpeg(b""),
        b"\xff\xd8" + b"\xff\xe2\0\x02" * 9,
    ):  # fmt: skip
        assert exif_json(data) == "{}"


BOMBS = {
    "texts of 60 kB, again and again": in_jpeg(entries(*((0x8000 + i, 2, 60_000, 10) for i in range(5000)))),
    "control characters": in_jpeg(entries(*((0x8000 + i, 2, 60_000, 10) for i in range(9)), fill=b"\1")),
    "ratios": in_jpeg(entries(*((0x8000 + i, 5, 999, 10) for i in range(5000)))),
    "a directory of 65,535": in_jpeg(b"MM\0*\0\0\0\x08\xff\xff"),
    "a chain of directories": in_jpeg(
        b"MM\0*\0\0\0\x08" + b"".join(struct.pack(">HI", 0, 8 + 6 * i) for i in range(1, 10_000))
    ),
    "a longer one in a tiff": b"MM\0*\0\0\0\x08"
    + b"".join(struct.pack(">HI", 0, 8 + 6 * i) for i in range(1, 200_000)),
    "directories that lead to themselves": in_jpeg(entries((0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8))),
    "a note of 4 GB": in_jpeg(entries((0x927C, 7, 0xFFFFFFFF, 8), (0x9286, 7, 0xFFFFFF, 8))),
    "a text of 4 GB in a large tiff": entries((0x8000, 2, 0xFFFFFFFF, 8)) + bytes(1 << 24),
}


@pytest.mark.parametrize("name", BOMBS)
def test_blocks_that_would_take_long(name: str) -> None:
    begin = time.process_time()
    text = exif_json(BOMBS[name])
    assert time.process_time() - begin < SECONDS
    assert len(text) <= exif.MAX_TEXT
    assert isinstance(json.loads(text), dict)


def test_what_was_found_before_the_bound_is_kept() -> None:
    long = [(0x8000 + i, 5, 999, 10) for i in range(50)]
    text = exif_json(in_jpeg(entries((0x0112, 3, 1, 6 << 16), *long)))
    assert json.loads(text)["Image Orientation"] == "Rotated 90 CW"
    assert 2 < len(json.loads(text)) < 50


def test_any_bytes_give_an_object(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    with caplog.at_level(logging.WARNING):
        for _ in range(300):
            data = bytearray(JPEG[: int(rng.integers(2, 400))])
            for at in rng.integers(0, len(data), 3):
                data[at] = rng.integers(0, 256)
            assert isinstance(json.loads(exif_json(bytes(data))), dict)
    assert caplog.records == []


def test_without_exifread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "exifread", None)
    exif._exifread.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"reading EXIF needs exifread.*pip install 'dcfast\[acquire\]'"):
        exif_json(JPEG)
