"""What may hide samples is told by one list, and whoever uses shards says what is in it."""

from __future__ import annotations

import io
import json
import logging
import re
import tarfile
from pathlib import Path
from typing import Any

import dcfast
import pytest
from dcfast import resharding
from dcfast.errors import CorruptDataError
from dcfast.evaluate.evalset import open_evalset
from dcfast.evaluate.tasks import find_tasks
from dcfast.index import refresh_index
from dcfast.index.build import index_tars
from dcfast.index.pool import Pool
from dcfast.resharding.cli import main as resharder
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.storage.listing import list_tars
from dcfast.train.settings import TrainSource
from dcfast.train.source import prepare_source
from dcfast.uids.sets import save_subset, uid_parse, uid_sort
from pool_builder import evalset, picture, plain_pool, uid_of
from tar_reference import GIF, make_tar, sample_members
from test_tar_index import END, plain

DOTTED = [(f"img.{i:06d}.{ext}", GIF if ext == "jpg" else b"text") for i in range(5) for ext in ("jpg", "txt")]


def pictures(*names: str) -> list[tuple[str, bytes]]:
    """Three samples with members of these extensions."""
    return [(f"{i}.{name}", GIF) for i in range(3) for name in names]


MANY = "several pictures in one sample: "


def losses(path: Path) -> list[tuple[bool, str]]:
    return [(loss.archive, loss.message) for loss in index_tars(path).segment.losses]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (DOTTED, f"{MANY}'img' has 5: a sample's key ends at the first dot"),
        ([(f"{k}{n}", d) for k in ("a.", "b.") for n, d in DOTTED], f"{MANY}2 samples, the first 'a' has 5"),
        ([(f"x.{i}.jpg", GIF) for i in range(2)], f"{MANY}'x' has 2"),
        ([(f"x.frame{i}.jpg", GIF) for i in range(5)], f"{MANY}'x' has 5"),
        # two that are no picture of their own by name: which one would be used is chance
        ([(f"x.{name}.jpg", GIF) for name in ("beach", "city")], f"{MANY}'x' has 2"),
        (pictures("front.jpg", "back.JPEG"), f"{MANY}3 samples, the first '0' has 2"),
        (pictures("a.jpg", "a.txt", "b.jpg", "b.txt", "c.webp"), f"{MANY}3 samples, the first '0' has 3"),
        (pictures("jpg", "txt", "old.jpg", "old.txt"), f"{MANY}3 samples, the first '0' has 2"),
        (pictures("left.jpg", "right.jpg", "mask.png", "depth.png"), f"{MANY}3 samples, the first '0' has 4"),
        # a picture, and what belongs to it
        (pictures("jpg", "seg.png"), ""),
        (pictures("jpg", "png", "txt", "json"), ""),
        (pictures("depth.png", "jpg", "normal.png", "thumb.jpg", "meta.json"), ""),
        (pictures("rgb.jpg", "depth.png", "rgb.json"), f"{MANY}3 samples, the first '0' has 2"),
        (pictures("rgb.jpg", "depth.png"), ""),
        (pictures("000001.jpg", "txt"), ""),
        ([("a.jpg", GIF), ("a.1.txt", b""), ("a.2.txt", b"")], ""),
        (sample_members(0) + sample_members(1) + sample_members(0), "1 sample has the key of an earlier one"),
        ([("no_extension", GIF), (".hidden.jpg", GIF)], "no member belongs to a sample: 2 members"),
        ([("README", b"text"), *sample_members(0)], ""),
        ([], ""),
    ],
)
def test_names_that_make_other_samples(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    found = losses(make_tar(tmp_path / "a.tar", members))
    assert [archive for archive, _ in found] == [False] * bool(message)
    assert all(text.startswith(message) for _, text in found)


def test_links_hold_no_data(tmp_path: Path) -> None:
    """GNU tar packs a file with two names as a file and a link."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in sample_members(0):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            link = tarfile.TarInfo(f"{kind.decode()}.jpg")
            link.type, link.linkname = kind, "000000000.jpg"
            tar.addfile(link)
        link.name = "latest"  # which would be no member of a sample as a file either
        tar.addfile(link)
    ((archive, text),) = losses(path)
    assert not archive
    assert text.startswith("2 members are links, which hold no data and belong to no sample, the first '1.jpg'")


def test_what_loses_nothing_is_no_loss(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    good = plain("a.jpg", GIF) + plain("a.txt", b"x")
    for behind in (END, END[:700], END * 20, END + good.replace(b"a.", b"b.", 1)[:0]):
        path.write_bytes(good + behind)
        assert losses(path) == []


def test_an_index_of_an_earlier_release_tells_it_too(tmp_path: Path) -> None:
    """Segments hold messages: those that were written before count by their wording."""
    from dcfast._core import index as core_index

    path = tmp_path / "a.tar"
    path.write_bytes(plain("a.txt", b"a") + END + b"x" * 600)
    out = tmp_path / "s.dcx"
    core_index.write_segment([(bytes(path), b"a.tar")], bytes(out), True, True, 1, 0)
    assert b"data follow the end-of-archive marker: they are not indexed" in out.read_bytes()
    assert [loss[2] for loss in core_index.TarSegment(bytes(out), True).losses()] == [True]


# whoever uses shards

ARCHIVE = "data follow the end-of-archive marker"
NAMES = "several pictures in one sample"


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A pool of three shards: bytes behind the end of the first, dotted names in the second."""
    root = plain_pool(tmp_path / "pool", 12, 3).write()
    one, two, _ = sorted((root / "shards").iterdir())
    one.write_bytes(one.read_bytes() + b"rest of something else" * 100)
    with tarfile.open(two) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
    make_tar(two, [(f"img.{name}", data) for name, data in members])
    return root


def said(notes: list[str]) -> bool:
    """Whether the notes are those of the pool, with shard and place."""
    one = [n for n in notes if re.search(rf"00000000\.tar.*byte [\d,]+: {ARCHIVE}", n)]
    two = [n for n in notes if re.search(rf"00000001\.tar.*byte 0: {NAMES}", n)]
    return (len(one), len(two)) == (1, 1)


def test_a_run_and_its_report_say_it(pool: Path, tmp_path: Path) -> None:
    settings = Settings(pool=str(pool), filter="no_filter", train=False)
    done = run(tmp_path / "run", settings)
    assert said(done["index"].notes)
    assert done["index"].damaged_shards == done["filter"].damaged_shards == 1
    assert done["filter"].damage[0][1].startswith("shard damaged at byte")
    assert said(json.loads((tmp_path / "run/report.json").read_text())["notes"])
    with pytest.raises(CorruptDataError, match=r"shard 00000000\.tar, offset \d+: data follow .*--strict"):
        run(tmp_path / "strict", Settings(pool=str(pool), filter="no_filter", train=False, strict=True))


def test_a_refresh_says_it(pool: Path, tmp_path: Path) -> None:
    for _ in range(2):  # of shards that are read, and of those that are taken over
        report = refresh_index(tmp_path / "ix", pool)
        assert [d["shard"] for d in report["damage"]] == ["00000000.tar"]
        assert said([f"{d['shard']} byte {d['offset']}: {d['message']}" for d in report["damage"]] + report["notes"])


def test_the_resharder_says_it(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subset = uid_sort(uid_parse([uid_of(i) for i in range(12)])[0])
    report = resharding.reshard(pool, tmp_path / "a", subset)
    assert said([f"{d['shard']} byte {d['offset']}: {d['message']}" for d in report["damage"]] + report["notes"])
    save_subset(tmp_path / "s.npy", subset)
    assert resharder(["-i", str(pool), "-o", str(tmp_path / "b"), "-s", str(tmp_path / "s.npy")]) == 0
    printed = capsys.readouterr().err
    assert ARCHIVE in printed
    assert NAMES in printed
    part = resharding.reshard(pool, tmp_path / "c", subset, first_shard=2)  # of the shards that are asked for alone
    assert "damage" not in part
    assert "notes" not in part


def test_training_says_it(pool: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    refresh_index(tmp_path / "ix", pool)
    save_subset(tmp_path / "s.npy", uid_sort(uid_parse([uid_of(i) for i in range(12)])[0]))
    index = TrainSource(index=str(tmp_path / "ix"), shards_dir=str(pool / "shards"), subset=str(tmp_path / "s.npy"))
    for number, source in enumerate((index, TrainSource(shards=str(pool / "shards")))):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            files = prepare_source(source, tmp_path, number)
        assert said(list(files.notes))
        assert said([r.getMessage() for r in caplog.records])


def test_evaluation_and_comparison_say_it(tmp_path: Path) -> None:
    sets = evalset(tmp_path / "evalsets", "tiny", {f"s{i}": picture(i) for i in range(4)})
    tar = sets / "wds_tiny_test/test/0.tar"
    for name, text in (("classnames.txt", "a\n"), ("zeroshot_classification_templates.txt", "a {c}\n")):
        (sets / "wds_tiny_test" / name).write_text(text)
    tar.write_bytes(tar.read_bytes() + b"x" * 600)
    ((task, folder),) = find_tasks(sets)
    assert [ARCHIVE in note for note in open_evalset(task, folder).notes] == [True]
    pool = plain_pool(tmp_path / "pool", 4, 1).write()
    settings = Settings(pool=str(pool), evalsets=str(sets), filter="no_filter", train=False)
    done: dict[str, Any] = run(tmp_path / "run", settings, last="signatures")
    assert [ARCHIVE in note for note in done["signatures"].notes] == [True]


def test_the_kinds_are_told_apart_in_one_place() -> None:
    root = Path(dcfast.__file__).parent
    words = ("end-of-archive", "the key of an earlier")
    found = [p.name for p in root.rglob("*.py") if any(word in p.read_text("utf-8") for word in words)]
    assert found == []


def test_tars_beside_the_directory_of_shards_are_named(tmp_path: Path) -> None:
    """Whoever takes a pool takes its directory ``shards``, and says what lies beside it."""
    pool = plain_pool(tmp_path / "pool", 4, 1).write()
    make_tar(pool / "00000007.tar", sample_members(1))
    words = "passed over: ../00000007.tar (1 .tar beside the directory shards, which is taken)"
    said = [
        Pool.open(pool).notes,
        resharding.reshard(pool, tmp_path / "o", uid_parse([uid_of(0)])[0])["notes"],
        list(prepare_source(TrainSource(shards=str(pool)), tmp_path, 0).notes),
    ]
    assert all(len(notes) == 1 and notes[0].endswith(words) for notes in said)
    assert [p["name"] for p in refresh_index(tmp_path / "ix", pool)["passed_over"]] == ["../00000007.tar"]
    assert Pool.open(pool).shards == ["00000000.tar"]
    assert list_tars(pool / "shards").passed_over == []  # of a directory that is given itself
