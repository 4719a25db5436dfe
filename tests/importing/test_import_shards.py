"""Shards of others become a pool: linked where they can be read as they are, written again where captions lack."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast import cli
from dcfast.errors import PoolError, RunError
from dcfast.importing import ImportOptions, ImportReport, import_pool
from dcfast.importing import shards as shards_module
from dcfast.importing.samples import own_file
from dcfast.index.build import index_tars
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.uids.sets import open_records
from pool_builder import PoolBuilder, picture, plain_pool
from tar_reference import GIF
from things_to_import import image_table, members_of, pair, shard_of, tar_bytes, tree, write_shard


def imported(source: Path, pool: Path, **options: Any) -> ImportReport:
    return import_pool(ImportOptions(str(source), str(pool), workers=options.pop("workers", 1), quiet=True, **options))


def kept(pool: Path, out: Path) -> dict[str, int]:
    """The fates of a run with no options but the pool, as far as its filter."""
    settings = Settings(pool=str(pool), filter="no_filter", train=False)
    return run(out, settings, last="filter")["filter"].fates


def test_shards_with_uids_and_their_metadata_are_linked(tmp_path: Path) -> None:
    source = plain_pool(tmp_path / "source", 6, 2).write()
    report = imported(source, tmp_path / "pool")
    assert (report.uid_from, report.samples, report.linked, report.metadata_linked) == ("json", 6, 2, 2)
    for name in ("shards/00000000.tar", "metadata/00000001.parquet"):
        assert os.path.samefile(source / name, tmp_path / "pool" / name)
    assert kept(tmp_path / "pool", tmp_path / "run")["kept"] == 6


def test_shards_without_uids_run_without_options(tmp_path: Path) -> None:
    """The rule is in pool.json; metadata of the shard's name is linked, of the other it is written."""
    for number in range(2):
        write_shard(tmp_path / f"source/{number:05d}.tar", shard_of(10 * number, url="https://example.com/{n}"))
    rows = [{"key": f"{n:09d}", "caption": "words", "url": "u", "status": "success"} for n in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "source/00000.parquet")
    report = imported(tmp_path / "source", tmp_path / "pool")
    assert (report.uid_from, report.linked, report.metadata_linked, report.metadata_written) == ("key", 2, 1, 1)
    made = pq.read_table(tmp_path / "pool/metadata/00001.parquet").to_pylist()
    assert made[0] == {
        "key": "000000010",
        "text": "a caption of number 10",
        "url": "https://example.com/a",
        "original_width": 96,
        "original_height": 80,
    }
    fates = kept(tmp_path / "pool", tmp_path / "run")
    assert (fates["kept"], fates["missing"]) == (6, 1)
    subset, pool = str(tmp_path / "run/subset.npy"), str(tmp_path / "pool")
    assert cli.main(["resharder", "-i", pool, "-o", str(tmp_path / "new"), "-s", subset, "-q", "-j", "1"]) == 0
    assert len(members_of(tmp_path / "new/00000000.tar")) == 18
    assert cli.main(["refresh", str(tmp_path / "index"), pool]) == 0
    assert len(open_records(tmp_path / "index/pool.npy")) == 6


def test_metadata_of_other_samples_is_not_taken(tmp_path: Path) -> None:
    write_shard(tmp_path / "source/0.tar", shard_of(0))
    pq.write_table(pa.table({"key": ["x", "y"], "text": ["a", "b"]}), tmp_path / "source/0.parquet")
    report = imported(tmp_path / "source", tmp_path / "pool")
    assert (report.metadata_linked, report.metadata_written) == (0, 1)
    assert "parquet files beside shards whose rows are of other samples" in report.passed.counts


def test_captions_in_json_become_txt(tmp_path: Path) -> None:
    """LAION's keys; every payload is as it was, the sample that has a txt keeps it."""
    members = shard_of(0, 2, txt=False, TEXT="alt text {n}", URL="https://example.com/{n}")
    members = [*members, *pair("k", 7, "its own", {"TEXT": "other"}), ("p.json", b"{}"), ("q.jpg", GIF)]
    write_shard(tmp_path / "source/a.tar", members)
    report = imported(tmp_path / "source", tmp_path / "pool")
    assert (report.rewritten, report.linked, report.samples) == (1, 0, 4)
    expected = {name: data for name, data in members if not name.startswith("p.")}
    texts = {"000000000.txt": b"alt text 0", "000000001.txt": b"alt text 1"}
    assert members_of(tmp_path / "pool/shards/a.tar") == expected | texts
    assert report.notes[0].startswith("1 of 5 samples have no picture")
    assert kept(tmp_path / "pool", tmp_path / "run")["kept"] == 3


def test_all_that_is_passed_over_is_said_at_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_shard(source / "good.tar", shard_of(0))
    write_shard(source / "labels.tar", [("1.png", GIF), ("1.cls", b"3")])
    write_shard(source / "texts.tar", [("1.txt", b"words"), ("1.json", b"{}")])
    (source / "empty.tar").write_bytes(b"")
    (source / "noise.tar").write_bytes(bytes(range(256)) * 8)
    (source / "more.tar.gz").write_bytes(b"x")
    (source / "notes.md").write_bytes(b"x")
    (source / "loose.jpg").write_bytes(GIF)
    os.mkfifo(source / "pipe.tar")
    report = imported(source, tmp_path / "pool")
    assert (report.samples, sorted(tree(tmp_path / "pool"))) == (3, ["metadata/good.parquet", "shards/good.tar"])
    said = "\n".join(report.passed.lines)
    for words in (
        "in which no picture has a caption, in txt or json (members end in cls, png) (the first: labels.tar)",
        "1 shards without a picture (members end in json, txt) (the first: texts.tar)",
        "(the first: empty.tar)",
        "(the first: noise.tar)",
        "(the first: pipe.tar)",
        "1 archives (compressed: unpack it) (the first: more.tar.gz)",
        "1 files of a kind that is not read (.md) (the first: notes.md)",
        "1 loose pictures, since something else is taken: --kind pictures",
    ):
        assert words in said


def test_the_command_says_what_to_run_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "source/0.tar", [*shard_of(0), ("x.txt", b"words")])
    words = ["import", str(tmp_path / "source"), "--out", str(tmp_path / "pool"), "--workers", "1"]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert "3 samples" not in said.out  # the fourth stays in the shard
    assert "4 samples; shards: 1 linked; metadata: 1 written\nnote: 1 of 4 samples have no picture" in said.out
    assert f"next: dcfast run --pool {tmp_path / 'pool'} --set global_batch=2 --to verify  " in said.out
    assert "source: 1 .tar; taken: shards" in said.err
    assert cli.main([*words, "--shard-size", "0"]) == 2


@pytest.mark.parametrize(("samples", "batch"), [(12, "4"), pytest.param(129, None, marks=pytest.mark.long)])
def test_the_next_command_runs_as_it_is_and_trains_in_the_same_directory(
    samples: int, batch: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain_pool(tmp_path / "my source", samples, 1).write()
    assert cli.main(["import", "my source", "--out", "my pool", "--quiet", "--workers", "1"]) == 0
    line = capsys.readouterr().out.splitlines()[-1].partition("next: dcfast ")[2].partition("    (")[0]
    words = [*shlex.split(line), "--workers", "1", "--quiet"]
    assert (f"global_batch={batch}" in words) == (batch is not None)
    assert cli.main(words) == 0, capsys.readouterr().err
    assert (tmp_path / "runs/tiny/verify.json").exists()
    at = words.index("--to")
    assert cli.main([*words[:at], *words[at + 2 :], "--dry-run"]) == 0, capsys.readouterr().err


def test_nothing_to_import_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.tar.zst").write_text("x")
    with pytest.raises(
        PoolError, match=r"nothing that can be imported; it holds 1 \.txt or \.json, 1 archives .*\.tar"
    ):
        imported(tmp_path, tmp_path.parent / "pool")
    assert not (tmp_path.parent / "pool").exists()
    pq.write_table(pa.table({"URL": ["u"], "TEXT": ["t"]}), tmp_path / "laion.parquet")
    with pytest.raises(PoolError, match="links alone have to be downloaded first"):
        imported(tmp_path, tmp_path.parent / "pool")
    with pytest.raises(PoolError, match="it is a file; give the folder"):
        imported(tmp_path / "a.txt", tmp_path.parent / "pool")
    with pytest.raises(PoolError, match="no such directory"):
        imported(tmp_path / "none", tmp_path / "pool")


def test_a_damaged_shard_keeps_what_is_whole(tmp_path: Path) -> None:
    data = tar_bytes(shard_of(0, 5))
    (tmp_path / "source").mkdir()
    (tmp_path / "source/0.tar").write_bytes(data[: len(data) * 3 // 5])
    report = imported(tmp_path / "source", tmp_path / "pool")
    assert report.linked == 1
    assert any("shards are damaged" in note for note in report.notes)
    fates = kept(tmp_path / "pool", tmp_path / "run")
    assert fates["kept"] == 3


def test_shards_of_one_name_get_their_paths(tmp_path: Path) -> None:
    for folder in ("a", "b", "a/b"):
        write_shard(tmp_path / "source" / folder / "0.tar", shard_of(ord(folder[-1])))
    imported(tmp_path / "source", tmp_path / "pool")
    assert sorted(os.listdir(tmp_path / "pool/shards")) == ["a_0.tar", "a_b_0.tar", "b_0.tar"]
    assert shards_module.names_in_pool(["a/b_0.tar", "a_b/0.tar", "a/b/0.tar"]) == [
        "b_0.tar",
        "a__b_0.tar",
        "a_b_0.tar",
    ]


def test_the_bytes_do_not_depend_on_workers_and_a_second_import_does_nothing(tmp_path: Path) -> None:
    for number in range(4):
        write_shard(tmp_path / f"source/{number}.tar", shard_of(5 * number, txt=number % 2 == 0, caption="c {n}"))
    reports = [imported(tmp_path / "source", tmp_path / f"pool{w}", workers=w) for w in (1, 3)]
    assert reports[0] == reports[1]
    assert tree(tmp_path / "pool1") == tree(tmp_path / "pool3")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "pool1/state/import/place").iterdir()}
    assert imported(tmp_path / "source", tmp_path / "pool1") == reports[0]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (tmp_path / "source/3.tar").unlink()
    imported(tmp_path / "source", tmp_path / "pool1")
    assert sorted(os.listdir(tmp_path / "pool1/shards")) == ["0.tar", "1.tar", "2.tar"]


def test_a_stopped_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write_shard(tmp_path / f"source/{number}.tar", shard_of(5 * number, txt=False, caption="c {n}"))
    imported(tmp_path / "source", tmp_path / "whole")
    rewrite = shards_module._rewrite

    def stopped(source: str, *rest: Any) -> int:
        if source.endswith("1.tar"):
            raise KeyboardInterrupt
        return rewrite(source, *rest)

    monkeypatch.setattr(shards_module, "_rewrite", stopped)
    with pytest.raises(KeyboardInterrupt):
        imported(tmp_path / "source", tmp_path / "pool")
    assert not (tmp_path / "pool/pool.json").exists()
    (tmp_path / "pool/shards/.tmp-1-00000000-2.tar").write_bytes(b"of a killed process")
    monkeypatch.undo()
    imported(tmp_path / "source", tmp_path / "pool")
    assert tree(tmp_path / "pool") == tree(tmp_path / "whole")


def other_disk(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hard link can be made to what lies in a folder."""
    link = os.link

    def elsewhere(place: str, target: str) -> None:
        if str(place).startswith(str(source)):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(place, target)

    monkeypatch.setattr("os.link", elsewhere)


@pytest.mark.parametrize("kind", ["pictures", "copy", "rewrite", "datasets", "again"])
def test_nothing_is_written_through_a_link(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What replaces a pool whose shards are a link to the folder of somebody's leaves that folder as it is."""
    source, other, pool = tmp_path / "source", tmp_path / "other", tmp_path / "pool"
    write_shard(source / "00000000.tar", shard_of(0))
    other_disk(source, monkeypatch)
    imported(source, pool)
    assert (pool / "shards").is_symlink()
    before = (source / "00000000.tar").read_bytes(), os.stat(source / "00000000.tar")
    other.mkdir()
    if kind == "pictures":
        (other / "a.jpg").write_bytes(picture(1))
        (other / "a.txt").write_text("words")
    elif kind == "datasets":
        pq.write_table(image_table(1, text=["words"]), other / "t.parquet")
    elif kind == "rewrite":
        write_shard(other / "00000000.tar", shard_of(7, txt=False, caption="words"))
    taken = source if kind in ("copy", "again") else other
    report = imported(taken, pool, overwrite=True, copy=kind == "copy")
    assert (pool / "shards").is_symlink() == (kind == "again")
    assert len(members_of(pool / "shards/00000000.tar")) == 3 * report.samples
    after = os.stat(source / "00000000.tar")
    assert (source / "00000000.tar").read_bytes() == before[0]
    assert (after.st_ino, after.st_mtime_ns, os.listdir(source)) == (
        before[1].st_ino,
        before[1].st_mtime_ns,
        ["00000000.tar"],
    )


def test_a_folder_of_the_pool_that_is_a_link_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/metadata").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="metadata is a link; expected a folder of the pool's own"):
        own_file(tmp_path / "pool", "metadata", "0.parquet")


def test_what_another_import_did_is_forgotten(tmp_path: Path) -> None:
    """What it says is done may have been replaced by files of the same names and sizes."""
    source, other, pool = tmp_path / "source", tmp_path / "other", tmp_path / "pool"
    write_shard(source / "00000000.tar", shard_of(0))
    other.mkdir()
    (other / "a.jpg").write_bytes(picture(1))
    (other / "a.txt").write_text("words")
    imported(source, pool)
    assert (pool / "state/import/place").exists()
    imported(other, pool, overwrite=True)
    assert not (pool / "state/import/place").exists()
    imported(source, pool, overwrite=True)
    assert os.path.samefile(pool / "shards/00000000.tar", source / "00000000.tar")


def test_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the shards is linked; where that cannot be, the message says what can."""
    write_shard(tmp_path / "source/0.tar", shard_of(0))
    write_shard(tmp_path / "source/1.tar", shard_of(5))
    other_disk(tmp_path / "source", monkeypatch)
    report = imported(tmp_path / "source", tmp_path / "pool")
    assert report.linked == 2
    assert (tmp_path / "pool/shards").is_symlink()
    settings = Settings(pool=str(tmp_path / "pool"), filter="no_filter", train=False)
    assert run(tmp_path / "run", settings, last="reshard")["reshard"].samples == 6
    write_shard(tmp_path / "source/below/2.tar", shard_of(9))
    with pytest.raises(RunError, match=r"cannot be linked from there .*--copy"):
        imported(tmp_path / "source", tmp_path / "pool2")
    copied = imported(tmp_path / "source", tmp_path / "pool2", copy=True)
    assert (copied.copied, copied.linked) == (3, 0)


def test_places_that_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "source/0.tar", shard_of(0))
    for out in (tmp_path / "source", tmp_path / "source/pool", tmp_path):
        with pytest.raises(RunError, match="lie in each other"):
            imported(tmp_path / "source", out)
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/file").write_text("x")
    with pytest.raises(RunError, match="no import made it"):
        imported(tmp_path / "source", tmp_path / "strange")
    (tmp_path / "pool/state/import").mkdir(parents=True)  # of an import that was killed as it began
    (tmp_path / "pool/state/import/.tmp-1-00000000-settings.json").write_text("{")
    imported(tmp_path / "source", tmp_path / "pool")
    with pytest.raises(RunError, match="holds another import"):
        imported(tmp_path / "source", tmp_path / "pool", uid_from="url")
    assert imported(tmp_path / "source", tmp_path / "pool", uid_from="url", overwrite=True).uid_from == "url"


def test_a_pool_json_that_makes_no_sense(tmp_path: Path) -> None:
    pool = PoolBuilder(tmp_path / "pool", []).write()
    for text, message in (
        ("{", "import the pool again"),
        ('{"uid_from": "guess"}', "uid_from must be one of json, url"),
    ):
        (pool / "pool.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "run", Settings(pool=str(pool), train=False))


def test_real_shard_of_img2dataset(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/0.tar").symlink_to(real_data / "cc12m-train-0000.tar")
    report = imported(tmp_path / "source", tmp_path / "pool", copy=True)
    assert (report.samples, report.uid_from) == (32, "key")
    assert kept(tmp_path / "pool", tmp_path / "run")["kept"] == 32


def test_what_a_written_index_says_of_a_rewritten_shard(tmp_path: Path) -> None:
    """Samples of long, odd and repeated keys come through."""
    keys = ["a/" + "k" * 120, "é", "dup", "other", "dup"]
    members = [m for n, key in enumerate(keys) for m in pair(key, n, None, {"caption": f"c{n}"})]
    write_shard(tmp_path / "source/0.tar", members)
    imported(tmp_path / "source", tmp_path / "pool")
    segment = index_tars([tmp_path / "pool/shards/0.tar"]).segment
    assert segment.keys().to_pylist() == keys
    assert pq.read_table(tmp_path / "pool/metadata/0.parquet")["text"].to_pylist() == [f"c{n}" for n in range(5)]


def test_one_shard_is_as_a_folder_of_that_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        write_shard(tmp_path / f"source/{number:05d}.tar", shard_of(10 * number))
    report = imported(tmp_path / "source/00001.tar", tmp_path / "source/pool")
    assert (report.linked, report.metadata_written) == (1, 1)
    assert os.listdir(tmp_path / "source/pool/shards") == ["00001.tar"]
    assert report.passed.lines == []
    assert kept(tmp_path / "source/pool", tmp_path / "run")["kept"] == report.samples
    assert imported(tmp_path / "source/00001.tar", tmp_path / "source/pool") == report
    with pytest.raises(RunError, match="holds another import"):
        imported(tmp_path / "source/00000.tar", tmp_path / "source/pool")

    link = os.link

    def elsewhere(source: str, target: str) -> None:
        if str(source).startswith(str(tmp_path / "source")):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr("os.link", elsewhere)  # a link to the folder would be all that lies there
    with pytest.raises(RunError, match=r"cannot be linked from there .*--copy"):
        imported(tmp_path / "source/00001.tar", tmp_path / "other")
