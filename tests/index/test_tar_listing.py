"""The one listing of tars: which names are shards, what is passed over and named, and that every caller says it."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import dcfast
import pytest
from dcfast import refresh_index
from dcfast.errors import PoolError
from dcfast.evaluate.folders import list_set_tars
from dcfast.evaluate.tasks import compared_sets
from dcfast.index.pool import Pool, list_parquet, shard_folder
from dcfast.resharding.cli import main as resharder_main
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.storage.listing import list_tars
from dcfast.storage.remote import list_shards
from dcfast.train.settings import TrainSource
from dcfast.train.source import prepare_source
from dcfast.uids.sets import save_subset
from evalset_builder import labelled, write_set
from pool_builder import plain_pool, uid_of
from reshard_reference import subset_of

SHARD = "00000000.tar"
ODD = {
    ".00000001.tar": "hidden",
    "._00000001.tar": "hidden",
    ".tmp-123-0a1b2c3d-00000001.tar": "unfinished: its writer was stopped",
    "00000001.tar.part": "unfinished: its writer was stopped",
    "00000001.TAR": "the name must end in .tar, in lower case",
    "00000001.tar.gz": "compressed: unpack it",
    "00000001.tgz": "compressed: unpack it",
    "00000001.TAR.ZST": "compressed: unpack it",
}
COMPANIONS = (
    "00000000_stats.json",
    "00000000.parquet",
    "00000000.idx",
    "00000000.tar.md5",
    ".lock",
    "sizes.json",
    "tar",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory of shards with everything in it that has been seen among shards."""
    place = tmp_path / "some"
    (place / "below").mkdir(parents=True)
    (place / "deep" / "er").mkdir(parents=True)
    for name in ("notes", ".hidden"):
        (place / name).mkdir()
    for name in (
        "00000010.tar",
        SHARD,
        *ODD,
        *COMPANIONS,
        "below/7.tar",
        "below/a.txt",
        "notes/x.txt",
        ".hidden/8.tar",
    ):
        (place / name).write_bytes(b"")
    return place


def test_the_rule(folder: Path) -> None:
    listing = list_tars(folder)
    assert listing.names == [SHARD, "00000010.tar"]
    found = dict(listing.passed_over)
    assert found.pop("below") == "a directory, with 7.tar in it: shards must lie side by side"
    assert found.pop("deep") == "a directory of directories: shards must lie side by side"
    assert found == ODD
    [note] = listing.notes
    assert note.startswith(f"{folder}: passed over: .00000001.tar (hidden), ")
    assert "00000001.tar.gz (compressed: unpack it)" in note
    for n in range(20):
        (folder / f"x{n}.tar.gz").write_bytes(b"")
    assert list_tars(folder).notes[0].endswith(", and 20 more")


def test_nothing_odd_is_nothing_said(tmp_path: Path) -> None:
    assert list_tars(tmp_path).names == list_tars(tmp_path).notes == []
    assert list_tars(tmp_path).hint == ""
    (tmp_path / SHARD).write_bytes(b"")
    assert (list_tars(tmp_path).names, list_tars(tmp_path).notes) == ([SHARD], [])
    for bad in (tmp_path / "absent", tmp_path / SHARD):
        with pytest.raises(OSError, match=bad.name):
            list_tars(bad)


def test_links_and_directories_stay_to_be_named_when_opened(tmp_path: Path) -> None:
    place, other = tmp_path / "place", tmp_path / "other"
    place.mkdir()
    other.mkdir()
    (other / "real.tar").write_bytes(b"")
    (place / "1.tar").symlink_to(other / "real.tar")
    (place / "2.tar").symlink_to(other / "gone.tar")
    (place / "3.tar").mkdir()
    (place / "linked").symlink_to(other)
    assert list_tars(place).names == ["1.tar", "2.tar", "3.tar"]
    assert [name for name, _ in list_tars(place).passed_over] == ["linked"]
    with pytest.raises(OSError, match=r"[23]\.tar"):
        dcfast.index_tars(place)
    (place / "2.tar").unlink()
    with pytest.raises(IsADirectoryError, match=r"3\.tar"):
        dcfast.index_tars(place)
    (place / "2.tar").symlink_to(other / "gone.tar")
    (place / "3.tar").rmdir()
    with pytest.raises(FileNotFoundError, match=r"2\.tar"):
        dcfast.index_tars(place)


def test_names_that_are_not_utf8_can_be_told(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff.tar.gz"
    with open(raw, "wb"):
        pass
    [note] = list_tars(tmp_path).notes
    assert "\\xff.tar.gz (compressed" in note
    json.dumps(note).encode("utf-8")


def test_shards_below_a_pool_and_parquet_files(tmp_path: Path) -> None:
    assert shard_folder(tmp_path) == tmp_path
    (tmp_path / "shards").write_text("a file")
    assert shard_folder(str(tmp_path)) == tmp_path
    (tmp_path / "shards").unlink()
    (tmp_path / "shards").mkdir()
    assert shard_folder(tmp_path) == tmp_path / "shards"
    for name in ("b.parquet", "a.parquet", "._a.parquet", ".tmp-1-a.parquet", "a.npz"):
        (tmp_path / name).write_bytes(b"")
    assert list_parquet(tmp_path) == ["a.parquet", "b.parquet"]


def _odd_pool(root: Path) -> Path:
    """A good pool, beside whose shards lie a half-written tar and a compressed one."""
    pool = plain_pool(root).write()
    whole = (pool / "shards" / SHARD).read_bytes()
    (pool / "shards" / ".tmp-1-0a1b2c3d-00000009.tar").write_bytes(whole[: len(whole) // 2])
    (pool / "shards" / "00000009.tar.gz").write_bytes(b"\x1f\x8b")
    return pool


def _said(text: str) -> bool:
    return "00000009.tar.gz (compressed" in text and ".tmp-1-0a1b2c3d-00000009.tar (unfinished" in text


def test_a_run_says_it_and_reads_none_of_it(tmp_path: Path) -> None:
    pool = _odd_pool(tmp_path / "pool")
    assert _said(Pool.open(pool).notes[0])
    summary = run(tmp_path / "run", Settings(pool=str(pool), filter="no_filter", train=False), last="report")
    assert summary["index"].damaged_shards == 0
    assert _said(summary["index"].notes[0])
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [_said(note) for note in report["notes"]].count(True) == 1


def test_refresh_reshard_training_and_a_look_say_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pool = _odd_pool(tmp_path / "pool")
    shards = Pool.open(pool).shards
    names = [".tmp-1-0a1b2c3d-00000009.tar", "00000009.tar.gz"]
    report = refresh_index(tmp_path / "index", pool)
    assert (report["shards"], [entry["name"] for entry in report["passed_over"]]) == (len(shards), names)
    look = dcfast.index_tars(pool / "shards")
    assert (look.damage, [name for name, _ in look.passed_over]) == ([], names)

    save_subset(tmp_path / "subset.npy", subset_of([uid_of(0), uid_of(1)]))
    words = ["-i", str(pool), "-o", str(tmp_path / "out"), "-s", str(tmp_path / "subset.npy"), "--verify", "--quiet"]
    assert resharder_main(words) == 0
    said = capsys.readouterr().err
    assert said.startswith("warning: ")
    assert _said(said)

    (tmp_path / "work").mkdir()
    with caplog.at_level(logging.WARNING, "dcfast.train"):
        files = prepare_source(TrainSource(shards=str(pool)), tmp_path / "work", 0)
    assert _said(files.notes[0])
    assert _said(caplog.text)


def test_where_nothing_is_left_the_error_says_what_was_passed_over(tmp_path: Path) -> None:
    pool = _odd_pool(tmp_path / "pool")
    for path in (pool / "shards").glob("0*.tar"):
        path.unlink()
    source = TrainSource(shards=str(pool))
    asks: list[Any] = [
        lambda: Pool.open(pool),
        lambda: refresh_index(tmp_path / "index", pool),
        lambda: dcfast.index_tars(pool / "shards"),
        lambda: dcfast.reshard(pool, tmp_path / "out", subset_of([uid_of(0)])),
        lambda: prepare_source(source, tmp_path, 0),
    ]
    for ask in asks:
        with pytest.raises(PoolError, match=r"\.tar file.* \(passed over: .*00000009\.tar\.gz \(compressed"):
            ask()


def test_evaluation_sets_by_length_then_name(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "a", labelled(4), ["red"])
    shard = folder / "test" / "0.tar"
    for name in ("10.tar", "2.tar", ".3.tar", ".tmp-1-4.tar", "5.TAR"):
        shutil.copyfile(shard, folder / "test" / name)
    listing = list_set_tars(folder)
    assert listing.names == ["0.tar", "2.tar", "10.tar"]
    assert [name for name, _ in listing.passed_over] == [".3.tar", ".tmp-1-4.tar", "5.TAR"]
    [(name, tars)] = compared_sets(tmp_path)
    assert (name, tars) == ("a", [str(folder / "test" / n) for n in listing.names])
    assert list_set_tars(tmp_path / "wds_none_test").names == []


def test_remote_directories_by_the_same_rule(folder: Path) -> None:
    (folder / "x.tar").mkdir()
    found = list_shards(f"file://{folder}")
    assert sorted(found.states) == [SHARD, "00000010.tar"]
    named = dict(found.passed_over)
    below = {name for name in named if named[name] == "a directory: shards must lie side by side"}
    assert below == {"below", "deep", "notes", "x.tar"}
    assert {name: reason for name, reason in named.items() if name not in below} == ODD


def test_links_that_lead_nowhere_are_no_directories(tmp_path: Path) -> None:
    (tmp_path / SHARD).write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "below").symlink_to(f"{SHARD}/x")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/loop").symlink_to("loop")
    listing = list_tars(tmp_path)
    assert (listing.names, listing.passed_over) == ([SHARD], [])


def test_names_in_a_note_stand_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "x\n\x1b[2J.TAR").write_bytes(b"")
    [(name, _)] = list_tars(tmp_path).passed_over
    assert name == "x\\n\\x1b[2J.TAR"
