"""``dcfast calibrate`` on drawn pictures: what must be found is, the same every time, and what is wrong is said."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from dcfast.cli import main
from dcfast.dedup.calibration.edits import EDITS, edited
from dcfast.dedup.calibration.measure import Calibration
from dcfast.dedup.calibration.page import table
from dcfast.dedup.calibration.pictures import choose, list_pictures
from dcfast.dedup.thresholds import MAX_DISTANCE, MAX_DISTANCE_256
from dcfast.errors import PoolError
from dcfast.storage.records import read_record
from drawn_pictures import drawing, encode
from PIL import Image

COUNT = 30


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard and files; among them a copy, a flat picture, a broken one and a picture twice."""
    root = tmp_path_factory.mktemp("pictures")
    with tarfile.open(root / "0.tar", "w") as tar:
        for seed in range(COUNT - 10):
            data = encode(drawing(seed, 200, 150))
            info = tarfile.TarInfo(f"{seed:03d}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (root / "below").mkdir()
    for seed in range(COUNT - 10, COUNT):
        (root / "below" / f"{seed}.png").write_bytes(encode(drawing(seed, 200, 150), "PNG"))
    (root / "copy.jpg").write_bytes(encode(drawing(3, 200, 150), quality=40))
    (root / "same.jpg").write_bytes(encode(drawing(4, 200, 150)))
    (root / "flat.png").write_bytes(encode(Image.new("RGB", (90, 90), "red"), "PNG"))
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden.jpg").write_bytes(b"")
    return root


def run(pictures: Path, out: Path, *more: str) -> Calibration:
    assert main(["calibrate", str(pictures), "--out", str(out), "--edited", "6", *more]) == 0
    return read_record(out / "calibration.json", Calibration)


@pytest.fixture(scope="module")
def calibration(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    return run(pictures, tmp_path_factory.mktemp("out"), "--threads", "1")


def test_what_is_compared(calibration: Calibration) -> None:
    assert (calibration.pictures, calibration.edited) == (COUNT + 1, 6)
    assert (calibration.unreadable, calibration.flat, calibration.identical) == (1, 1, 1)
    assert calibration.alike == 1
    (pair,) = calibration.alike_pairs
    assert {pair.first, pair.second} == {"0.tar/003", "copy.jpg"}
    assert [method.name for method in calibration.methods] == ["phash", "phash256", "phash256_turned"]
    pairs = (COUNT + 1) * COUNT // 2 - 1
    assert [sum(method.unrelated) for method in calibration.methods] == [pairs, pairs, 8 * pairs]


def test_what_is_found(calibration: Calibration) -> None:
    found = {
        method.name: {
            (edit.kind, edit.strength): edit.recall[method.thresholds.index(method.default or 0)]
            for edit in method.edits
        }
        for method in calibration.methods
    }
    for name in found:
        for easy in (("jpeg", "quality 50"), ("resize", "x0.5"), ("blur", "0.5%"), ("grey", "all")):
            assert found[name][easy] == 1, (name, easy)
    for kind, strength in found["phash256"]:
        if kind in ("turn", "flip"):
            assert found["phash256_turned"][kind, strength] == 1
            assert found["phash256"][kind, strength] == found["phash"][kind, strength] == 0
    for method in calibration.methods:
        for edit in method.edits:
            assert edit.pictures == 6
            assert edit.recall == sorted(edit.recall)
            assert edit.false_hits == sorted(edit.false_hits)
        assert method.precision[method.thresholds.index(method.default or 0)] == 1


def test_the_result_is_the_same_for_any_threads(pictures: Path, calibration: Calibration, tmp_path: Path) -> None:
    assert run(pictures, tmp_path / "a", "--threads", "3") == calibration
    other = run(pictures, tmp_path / "b", "--seed", "1")
    assert other.methods != calibration.methods


def test_files(pictures: Path, calibration: Calibration, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    for name in ("a", "b"):
        run(pictures, tmp_path / name)
        names = ["calibration.json", "calibration.md", "calibration.png", "calibration.svg"]
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    text = (tmp_path / "a" / "calibration.md").read_text()
    assert text == table(calibration)
    assert text in capsys.readouterr().out
    assert "| sample too small | sample too small |" in text
    assert f"| **{MAX_DISTANCE}** |" in text
    assert f"| **{MAX_DISTANCE_256}** |" in text


def test_pictures_are_drawn_by_seed(pictures: Path) -> None:
    places = list_pictures([str(pictures)])
    assert [place.name for place in places[:2]] == ["0.tar/000", "0.tar/001"]
    assert {place.name for place in places} >= {"below/20.png", "copy.jpg", "broken.jpg"}
    assert not any("hidden" in place.name or "notes" in place.name for place in places)
    some = choose(places, 12, 5, threads=1)
    again = choose(places, 12, 5, threads=2)
    assert some.places == again.places
    assert all(map(np.array_equal, some.signed, again.signed))
    assert len(some.places) + some.unreadable + some.flat + some.identical == 12
    assert choose(places, 12, 6, threads=1).places != some.places


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: f"{edit.kind} {edit.strength}")
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (160, 120)])
def test_every_edit_takes_every_picture(edit, size: tuple[int, int]) -> None:
    image = drawing(1).resize(size)
    before = image.tobytes()
    first = edited(image, edit, seed=3, number=7)
    assert edited(image, edit, seed=3, number=7) == first
    assert image.tobytes() == before
    with Image.open(io.BytesIO(first)) as made:
        made.load()
        assert made.format == "JPEG"


def test_by_a_model(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("open_clip", reason="descriptors need open_clip")
    result = run(pictures, tmp_path, "--edited", "1", "--model", "dcfast-tiny", "--device", "cpu")
    descriptor = result.methods[-1]
    assert descriptor.name == "descriptor"
    assert descriptor.default is None
    assert result.descriptor is not None
    assert result.descriptor.startswith("dcfast-tiny, ")
    assert sum(descriptor.unrelated) == sum(result.methods[0].unrelated)
    assert descriptor.edits[0].recall[-1] == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "the following arguments are required: FOLDER"),
        (["{}/none"], 1, "none"),
        (["{}", "--pictures", "3"], 2, "--pictures must be at least 20|--pictures must be 20 to"),
        (["{}/empty"], 1, "no picture below .* name other folders"),
        (["{}/few"], 1, "1 pictures that are readable.* name folders with more pictures"),
        (["{}", "--model", "no-such"], 2, "open_clip knows no model"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], status: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "a.jpg").write_bytes(encode(drawing(1)))
    given = [word.format(tmp_path) for word in arguments]
    try:
        got = main(["calibrate", *given, "--out", str(tmp_path / "out")])
    except SystemExit as end:
        got = end.code
    assert got == status
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="no picture below"):
        list_pictures([str(tmp_path)])
    (tmp_path / "a.json").write_text(json.dumps({}))
    with pytest.raises(PoolError, match="name other folders"):
        list_pictures([str(tmp_path)])
