"""What options change of an acquisition: opt-outs, robots, hashes, rules of size, boxes; and what lists may hold."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from acquisitions import acquire, outcomes, web_of, write_list
from dcfast.acquire import ImageOptions
from dcfast.errors import PoolError
from hostile_bytes import picture
from hostile_web import HostileWeb, hostile_web
from PIL import Image

PICTURES = {f"/{n}.jpg": picture(seed=n) for n in range(8)}
SHA256 = {path: hashlib.sha256(data).hexdigest() for path, data in PICTURES.items()}


@pytest.fixture(scope="module")
def web() -> Iterator[HostileWeb]:
    with hostile_web(PICTURES) as running:
        yield running


def images(out: Path) -> dict[str, bytes]:
    """Key -> member, of the images of a pool."""
    found = {}
    for path in sorted((out / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None and not member.name.endswith((".json", ".txt")):
                    found[member.name.partition(".")[0]] = file.read()
    return found


def found(out: Path, name: str = "cause") -> list[Any]:
    return [row[name] for row in outcomes(out)]


def test_robots_and_opt_outs_can_be_left_unread(web: HostileWeb, tmp_path: Path) -> None:
    names = ["robots_disallow", "robots_500", "opt_out_noai", "opt_out_noindex", "good_jpeg"]
    urls = write_list(tmp_path / "l.parquet", [web.url(name, "unread") for name in names])
    before = len(web.requests)
    acquire(tmp_path / "no", urls, web_of(web, robots=False))
    assert found(tmp_path / "no") == ["", "", "opt_out", "opt_out", ""]
    assert [one.path for one in web.requests[before:] if one.path == "/robots.txt"] == []
    acquire(tmp_path / "none", urls, web_of(web, robots=False, opt_outs=[]))
    assert found(tmp_path / "none") == [""] * 5
    acquire(tmp_path / "one", urls, web_of(web, robots=False, opt_outs=["noai"]))
    assert found(tmp_path / "one") == ["", "", "opt_out", "", ""]


def test_drift_is_written_down_or_refused(web: HostileWeb, tmp_path: Path) -> None:
    given = [SHA256["/0.jpg"], SHA256["/1.jpg"].upper(), "0" * 64, None, ""]
    urls = [web.at(f"/{n}.jpg") for n in range(5)]
    table = write_list(tmp_path / "l.parquet", urls, sha256=given)
    drifted = acquire(tmp_path / "drift", table, web_of(web))
    assert found(tmp_path / "drift", "drifted") == [False, False, True, None, None]
    assert found(tmp_path / "drift", "sha256") == [SHA256[f"/{n}.jpg"] for n in range(5)]
    assert (drifted.successes, drifted.drifted, drifted.expected) == (5, 1, 3)
    assert "1 of 3 images are not the bytes of the list's SHA-256" in drifted.lines
    strict = acquire(tmp_path / "strict", table, web_of(web), ImageOptions(verify_sha256=True))
    assert found(tmp_path / "strict") == ["", "", "hash_mismatch", "", ""]
    assert strict.causes == {"hash_mismatch": 1}
    row = outcomes(tmp_path / "strict")[2]
    assert (row["status"], row["error_message"]) == ("failed_to_download", "hash mismatch")
    assert row["expected_sha256"] == "0" * 64


def test_more_pixels_than_are_wanted_have_a_cause(web: HostileWeb, tmp_path: Path) -> None:
    web.files.update({"/101.jpg": picture(width=101, height=100), "/100.jpg": picture(width=100, height=100)})
    table = write_list(tmp_path / "l.parquet", [web.at("/101.jpg"), web.at("/100.jpg")])
    acquire(tmp_path / "pool", table, web_of(web), ImageOptions(max_pixels=10_000))
    assert found(tmp_path / "pool") == ["too_many_pixels", ""]
    assert found(tmp_path / "pool", "error_message")[0] == "more than 10,000 pixels"


def test_sizes_that_rules_refuse(web: HostileWeb, tmp_path: Path) -> None:
    sides = {"/wide.jpg": (300, 50), "/small.jpg": (60, 60), "/good.jpg": (120, 100)}
    web.files.update({path: picture(width=width, height=height) for path, (width, height) in sides.items()})
    table = write_list(tmp_path / "l.parquet", [web.at(path) for path in sides])
    acquire(tmp_path / "pool", table, web_of(web), ImageOptions(min_image_size=50, max_aspect_ratio=3.0))
    assert found(tmp_path / "pool") == ["by_rule", "", ""]
    assert found(tmp_path / "pool", "error_message")[0] == "aspect ratio too large"
    acquire(
        tmp_path / "larger", table, web_of(web), ImageOptions(min_image_size=61, image_size=64, encode_format="png")
    )
    assert found(tmp_path / "larger", "error_message") == ["image too small", "image too small", None]
    assert found(tmp_path / "larger", "status")[0] == "failed_to_resize"
    [made] = images(tmp_path / "larger").values()
    with Image.open(io.BytesIO(made)) as image:
        assert (image.format, image.size) == ("PNG", (64, 53))


def test_quality_goes_with_the_format(web: HostileWeb, tmp_path: Path) -> None:
    table = write_list(tmp_path / "l.parquet", [web.at("/0.jpg")])
    with pytest.raises(ValueError, match="--quality of png must be its compression, 0 to 9; got 95"):
        acquire(tmp_path / "pool", table, web_of(web), ImageOptions(encode_format="png", quality=95))
    assert not (tmp_path / "pool").exists()
    for encode_format, quality in (("png", None), ("png", 0), ("webp", None), ("jpg", 50)):
        out = tmp_path / f"{encode_format}{quality}"
        acquire(out, table, web_of(web), ImageOptions(encode_format=encode_format, quality=quality))
        assert found(out) == [""], encode_format
    [[smaller], [larger]] = (images(tmp_path / name).values() for name in ("pngNone", "png0"))
    assert len(smaller) < len(larger)


@pytest.mark.parametrize("boxes", [["[[0, 0, 1, 1]]"], [1.5], [{"x0": 0.5}]])
def test_boxes_of_another_type_are_refused_before_work(boxes: list[Any], web: HostileWeb, tmp_path: Path) -> None:
    table = write_list(tmp_path / "l.parquet", [web.at("/0.jpg")], face_bboxes=boxes)
    with pytest.raises(
        PoolError, match=r"l\.parquet: expected one column face_bboxes, lists of boxes .*nothing would be"
    ):
        acquire(tmp_path / "pool", table, web_of(web))
    assert not list((tmp_path / "pool").rglob("*.parquet"))


BOXES: list[Any] = [
    [[0.2, 0.2, 0.8, 0.8]],
    [],
    None,
    [[0.2, 0.2, 1.8, 0.8]],
    [[0.1, 0.1, 0.5]],
    [[0.1, 0.1, 0.5, float("nan")]],
    [[0.1, 0.1, 0.5, None]],
    [None, [0.2, 0.2, 0.8, 0.8]],
]


def test_boxes_blur_and_bad_ones_let_nothing_through(web: HostileWeb, tmp_path: Path) -> None:
    urls = [web.at("/0.jpg")] * len(BOXES)
    table = write_list(tmp_path / "l.parquet", urls, face_bboxes=BOXES)
    acquire(tmp_path / "blurred", table, web_of(web))
    assert found(tmp_path / "blurred") == ["", "", "", *["bad_boxes"] * 5]
    blurred, plain, also_plain = images(tmp_path / "blurred").values()
    assert plain == also_plain != blurred
    acquire(tmp_path / "not", table, web_of(web), ImageOptions(blur=False))
    assert found(tmp_path / "not") == [""] * len(BOXES)
    assert set(images(tmp_path / "not").values()) == {plain}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.string_view(), "dictionary"])
def test_strings_of_lists_are_any_bytes(kind: Any, web: HostileWeb, tmp_path: Path) -> None:
    """What is no UTF-8 in a URL or a caption is one row's trouble."""
    odd = [web.at("/0.jpg").encode(), web.at("/1.jpg").encode() + b"?\xff", b"http://\xff\xfe.test/", None]
    values = pa.array(odd, pa.binary())
    if kind == "dictionary":
        values = values.view(pa.string()).dictionary_encode()
    elif kind == pa.string():
        values = values.view(pa.string())
    elif kind == pa.large_string():
        values = values.cast(pa.large_binary()).view(pa.large_string())
    elif kind == pa.string_view():
        values = values.cast(pa.binary_view()).view(pa.string_view())
    table = write_list(tmp_path / "l.parquet", [None] * 4)
    import pyarrow.parquet as pq

    texts = pa.array([b"caf\xc3\xa9", b"caf\xe9", None, b""], pa.binary()).view(pa.string())
    whole = pq.read_table(table)
    whole = whole.set_column(1, "url", values).set_column(2, "text", texts)
    pq.write_table(whole, table)
    acquire(tmp_path / "pool", table, web_of(web))
    assert found(tmp_path / "pool") == ["", "", "invalid_url", "invalid_url"]
    with tarfile.open(tmp_path / "pool/shards/00000000.tar") as tar:
        captions = [tar.extractfile(m).read() for m in tar if m.name.endswith(".txt")]  # type: ignore[union-attr]
    assert captions == ["café".encode(), "caf\ufffd".encode()]
    sidecar = pq.read_table(tmp_path / "pool/shards/00000000.parquet")
    assert sidecar["caption"].to_pylist() == ["café", "caf\ufffd", None, ""]
    sidecar.validate(full=True)
