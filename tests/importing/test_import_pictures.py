"""Loose pictures and datasets become shards: captions beside, in tables, in columns; what is odd is counted."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.errors import DcfastError, PoolError
from dcfast.importing import ImportOptions, ImportReport, import_pool
from dcfast.importing import pictures as pictures_module
from dcfast.importing.found import LEADS_OUT
from dcfast.index.build import index_tars
from dcfast.storage.hashing import hash_bytes
from pool_builder import picture, uid_of
from tar_reference import GIF
from things_to_import import IMAGE, image_table, members_of, shard_of, tar_bytes, tree


def imported(source: Path, pool: Path, **options: Any) -> ImportReport:
    return import_pool(ImportOptions(str(source), str(pool), workers=options.pop("workers", 1), quiet=True, **options))


def captions(pool: Path) -> list[str]:
    """Of all samples, in the order of the shards; the shards and the metadata agree."""
    texts, uids, listed = [], [], []
    for tar in sorted((pool / "shards").iterdir()):
        members = members_of(tar)
        texts += [data.decode() for name, data in members.items() if name.endswith(".txt")]
        uids += [json.loads(data)["uid"] for name, data in members.items() if name.endswith(".json")]
        listed += pq.read_table(pool / f"metadata/{tar.stem}.parquet", columns=["uid", "text"]).to_pylist()
    assert listed == [{"uid": uid, "text": text} for uid, text in zip(uids, texts, strict=True)]
    return texts


def write_pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for n in range(count):
        (folder / f"{n}.jpg").write_bytes(picture(n))


def test_captions_beside_pictures(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_pictures(source / "b", 4)
    (source / "b/0.txt").write_text("first\nand more\n")
    (source / "b/1.json").write_text(json.dumps({"caption": "second", "url": "https://example.com", "uid": uid_of(5)}))
    (source / "b/2.txt").write_text(" \n")
    (source / "a.PNG").write_bytes(picture(9, fmt="PNG"))
    (source / "a.txt").write_bytes("\ufeffcafé \xff".encode("utf-8") + b"\xff")
    (source / "empty.jpg").write_bytes(b"")
    (source / "empty.txt").write_text("of nothing")
    report = imported(source, tmp_path / "pool", shard_size=2)
    # the folder's own files come before those of folders below
    assert captions(tmp_path / "pool") == ["café ÿ\ufffd", "first\nand more", "second"]
    assert report.passed.counts == {
        "pictures without a byte": 1,
        "pictures without a caption": 1,
        "pictures without a caption beside them": 1,
    }
    assert report.passed.first["pictures without a caption beside them"] == "b/3.jpg"
    members = members_of(tmp_path / "pool/shards/00000001.tar")
    info = json.loads(members["00001000000.json"])
    assert members["00001000000.jpg"] == picture(0)
    assert info["uid"] == hash_bytes(b"b/0.jpg\nfirst\nand more")
    last = json.loads(members["00001000001.json"])
    assert (last["uid"], last["url"], last["source"]) == (uid_of(5), "https://example.com", "b/1.jpg")


ROWS = [
    {"file_name": "img/1.jpg", "caption": 'one, "quoted"'},
    {"file_name": "img/0.jpg", "caption": "nought"},
    {"file_name": "img/1.jpg", "caption": "one again"},
    {"file_name": "img/7.jpg", "caption": "not there"},
    {"file_name": "../../secret.jpg", "caption": "leads out"},
    {"file_name": "img/2.jpg", "caption": " "},
]


def _csv(delimiter: str, head: bool = True) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        quoted = [[str(value).replace('"', '""') for value in row.values()] for row in ROWS]
        lines = [list(ROWS[0])] if head else []
        text = "\n".join(delimiter.join(f'"{cell}"' for cell in line) for line in lines + quoted)
        (path / "table.csv").write_text(text)

    return write


TABLES: dict[str, Callable[[Path], object]] = {
    "csv": _csv(","),
    "tabs": _csv("\t"),
    "bars": _csv("|"),
    "without a head": _csv(",", head=False),
    "jsonl": lambda path: (path / "t.jsonl").write_text("\n".join(map(json.dumps, ROWS))),
    "parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path / "t.parquet"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_captions_in_tables(kind: str, tmp_path: Path) -> None:
    write_pictures(tmp_path / "source/img", 4)
    (tmp_path / "secret.jpg").write_bytes(GIF)
    TABLES[kind](tmp_path / "source")
    report = imported(tmp_path / "source", tmp_path / "pool")
    assert captions(tmp_path / "pool") == ['one, "quoted"', "nought", "one again"]
    assert report.passed.counts == {
        "pictures that no row of a table names": 1,
        "rows of tables whose file leads out of the folder": 1,
        "rows of tables whose picture is not there": 1,
        "rows of tables without a caption": 1,
    }


def test_columns_of_other_names(tmp_path: Path) -> None:
    write_pictures(tmp_path / "source", 2)
    (tmp_path / "source/t.csv").write_text("which,words\n0.jpg,a\n1.jpg,b\n")
    with pytest.raises(PoolError, match=r"t\.csv: expected a column of files .*got which, words"):
        imported(tmp_path / "source", tmp_path / "pool")
    imported(tmp_path / "source", tmp_path / "pool", image_column="which", text_column="words")
    assert captions(tmp_path / "pool") == ["a", "b"]


def test_how_many_pictures_are_named_is_counted_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures_module, "_NAMES_AT_ONCE", 3)
    named = pictures_module._Named(tmp_path)
    for n in [*range(10), *range(5, 20)]:
        named.add(str(n))
    assert named.count() == 20


def test_the_shards_do_not_depend_on_workers_nor_on_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "source", 6)
    for n in range(6):
        (tmp_path / f"source/{n}.txt").write_text(f"words {n}")
    imported(tmp_path / "source", tmp_path / "one", shard_size=2)
    imported(tmp_path / "source", tmp_path / "two", shard_size=2, workers=2)
    write, begun = pictures_module.write_pairs, []

    def stopped(*arguments: Any) -> int:
        begun.append(arguments[1])
        if len(begun) == 2:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(pictures_module, "write_pairs", stopped)
    with pytest.raises(KeyboardInterrupt):
        imported(tmp_path / "source", tmp_path / "three", shard_size=2)
    imported(tmp_path / "source", tmp_path / "three", shard_size=2)
    assert begun == [0, 1, 1, 2]
    assert tree(tmp_path / "one") == tree(tmp_path / "two") == tree(tmp_path / "three")
    segment = index_tars(sorted((tmp_path / "three/shards").iterdir())).segment
    (tmp_path / "source/5.txt").write_text("other")  # the tar's size stays
    imported(tmp_path / "source", tmp_path / "three", shard_size=2)
    assert begun[4:] == [2], "a changed caption redoes its shard alone"
    assert segment.check_fresh() == [(2, "changed")], "and the index hears of it"


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_captions_do_not_multiply_a_picture(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8,000 captions 64 are taken; shards end among them, by count and by bytes."""
    write_pictures(tmp_path / "source", 2)
    texts = [f"c{n}" for n in range(8000)]
    names = {"jsonl": "t.jsonl", "json": "1.json"}
    row = {"file_name": "1.jpg", "text": texts}
    (tmp_path / "source" / names[kind]).write_text(json.dumps(row))
    if kind == "jsonl":
        (tmp_path / "source/u.jsonl").write_text(json.dumps({"file_name": "0.jpg", "text": "after"}))
    else:
        (tmp_path / "source/0.txt").write_text("before")
    report = imported(tmp_path / "source", tmp_path / "pool", shard_size=30)
    assert report.passed.counts == {"captions beyond the first 64 of a picture or row": 8000 - 64}
    assert captions(tmp_path / "pool") == [*texts[:64], "after"] if kind == "jsonl" else ["before", *texts[:64]]
    counts = [len(members_of(tar)) // 3 for tar in sorted((tmp_path / "pool/shards").iterdir())]
    assert counts == [30, 30, 5]
    monkeypatch.setattr(pictures_module, "MOST_SHARD_BYTES", 20 * len(picture(1)))
    imported(tmp_path / "source", tmp_path / "small")
    sizes = [sum(map(len, members_of(tar).values())) for tar in (tmp_path / "small/shards").iterdir()]
    assert len(sizes) > 3
    assert max(sizes) < 25 * len(picture(1))
    assert sorted(captions(tmp_path / "small")) == sorted(captions(tmp_path / "pool"))


def test_captions_of_a_dataset_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    pq.write_table(image_table(1, caption=[[f"c{n}" for n in range(100)]]), tmp_path / "source/t.parquet")
    report = imported(tmp_path / "source", tmp_path / "pool")
    assert (report.samples, report.passed.counts) == (64, {"captions beyond the first 64 of a picture or row": 36})


@pytest.mark.parametrize("table", [False, True])
def test_links_that_lead_out_are_passed_over(table: bool, tmp_path: Path) -> None:
    """Texts, pictures, json, tables, and folders on the way of a table's rows; links within the folder are followed."""
    outside, source = tmp_path / "outside", tmp_path / "source"
    write_pictures(outside, 2)
    for name in ("secret.txt", "secret.json", "secret.csv"):
        (outside / name).write_text('{"url": "secret"}' if name.endswith("json") else "0.jpg,secret\n")
    write_pictures(source, 4)
    (source / "0.txt").symlink_to(outside / "secret.txt")
    (source / "1.txt").write_text("one")
    (source / "1.json").symlink_to("../outside/secret.json")
    (source / "2.txt").symlink_to("1.txt")
    (source / "4.jpg").symlink_to(outside / "1.jpg")
    (source / "4.txt").write_text("of a picture outside")
    (source / "up").symlink_to(outside)
    (source / "secret.csv").symlink_to(outside / "secret.csv")
    if table:
        (source / "t.csv").write_text("0.jpg,nought\nup/1.jpg,x\n4.jpg,x\n")
    (tmp_path / "named").symlink_to(source)  # the folder that is given may be a link
    report = imported(tmp_path / "named", tmp_path / "pool")
    assert captions(tmp_path / "pool") == (["nought"] if table else ["one", "one"])
    assert report.passed.counts["links to folders, which are not followed: give the folder itself"] == 1
    out = "rows of tables whose file leads out of the folder"
    assert (report.passed.counts[LEADS_OUT], report.passed.counts.get(out, 0)) == ((1, 2) if table else (4, 0))
    for tar in (tmp_path / "pool/shards").iterdir():
        assert b"secret" not in tar.read_bytes()


def test_a_snapshot_in_the_cache_of_hugging_face(tmp_path: Path) -> None:
    """Its files are links to the blobs of its repository, and may be to no other's."""
    repository = tmp_path / "datasets--o--pairs"
    snapshot = repository / "snapshots/abc"
    (snapshot / "train").mkdir(parents=True)
    for home in (repository, tmp_path / "datasets--o--other"):
        (home / "blobs").mkdir(parents=True)
        (home / "blobs/1").write_bytes(picture(1))
    (snapshot / "train/a.jpg").symlink_to("../../../blobs/1")
    (snapshot / "train/b.jpg").symlink_to(tmp_path / "datasets--o--other/blobs/1")
    for name in "ab":
        (snapshot / f"train/{name}.txt").write_text(name)
    for source in (snapshot, snapshot / "train"):
        report = imported(source, tmp_path / source.name)
        assert (captions(tmp_path / source.name), report.passed.counts) == (["a"], {LEADS_OUT: 1})


def test_parquet_with_pictures(tmp_path: Path) -> None:
    (tmp_path / "source/data").mkdir(parents=True)
    texts = [["one", "two"], ["three"], [], None, ["four"]]
    pq.write_table(image_table(5, caption=texts, url=["u"] * 5), tmp_path / "source/data/t.parquet", row_group_size=2)
    report = imported(tmp_path / "source", tmp_path / "pool", shard_size=3)
    assert captions(tmp_path / "pool") == ["one", "two", "three", "four"]
    assert report.passed.counts == {"pictures without a caption": 2}
    assert report.passed.first["pictures without a caption"] == "data/t.parquet/2"
    info = json.loads(members_of(tmp_path / "pool/shards/00000001.tar")["00001000000.json"])
    assert (info["source"], info["url"]) == ("data/t.parquet/4", "u")


def test_arrow_of_save_to_disk(tmp_path: Path) -> None:
    """Bytes, a path in the folder, one that leads out of it; a file that is cut; caches are none."""
    (tmp_path / "source/train").mkdir(parents=True)
    (tmp_path / "source/train/there.png").write_bytes(picture(3, fmt="PNG"))
    images = [{"bytes": picture(1), "path": None}, *({"bytes": None, "path": p} for p in ("there.png", "/etc/passwd"))]
    table = pa.table({"picture": pa.array([*images, None], IMAGE), "text": ["a", "b", "c", "d"]})
    for name in ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow", "cache-1.arrow"):
        with pa.ipc.new_stream(tmp_path / "source/train" / name, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    cut = tmp_path / "source/train/data-00001-of-00002.arrow"
    data = cut.read_bytes()
    cut.write_bytes(data[: data.rindex(b"/etc/passwd")])
    (tmp_path / "source/train/state.json").write_text("{}")
    report = imported(tmp_path / "source", tmp_path / "pool")
    assert captions(tmp_path / "pool") == ["a", "b", "a", "b"]
    said = "\n".join(report.passed.lines)
    assert "1 rows whose picture is a file outside of the folder" in said
    assert "1 pictures without a byte" in said
    assert "1 files that cannot be read to their end (the first: train/data-00001-of-00002.arrow, behind row 2" in said
    assert "1 caches of Hugging Face" in said


def test_a_dataset_without_captions_says_which_columns_it_has(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    pq.write_table(image_table(2, label=[0, 1]), tmp_path / "source/t.parquet")
    with pytest.raises(PoolError, match=r"no column of captions .*label: int64.*--text-column; .*evalsets import"):
        imported(tmp_path / "source", tmp_path / "pool")


def test_what_is_no_file_beside_pictures_is_counted(tmp_path: Path) -> None:
    """Named pipes and devices are not waited for; json that nests deeply counts as absent."""
    source = tmp_path / "source"
    write_pictures(source, 4)
    os.mkfifo(source / "0.txt")
    (source / "1.txt").symlink_to("/dev/zero")  # leads out
    (source / "2.txt").write_text("two")
    (source / "2.json").write_bytes(b"[" * 100_000)
    (source / "3.json").write_bytes(b'{"caption":' * 100_000)
    os.mkfifo(source / "4.jpg")
    (source / "4.txt").write_text("of a pipe")
    for name in ("t.csv", "t.jsonl", "t.parquet", "t.arrow", "t.tar"):
        os.mkfifo(source / name)
    report = imported(source, tmp_path / "pool", kind="pictures")
    assert captions(tmp_path / "pool") == ["two"]
    said = report.passed.counts
    assert said["pictures that cannot be read (is a named pipe; expected a regular file: write what it gives to one)"]
    assert (said[LEADS_OUT], said["pictures without a caption beside them"], said["pictures without a caption"]) == (
        1,
        1,
        1,
    )
    for kind in ("shards", "datasets"):
        with pytest.raises(PoolError):
            imported(source, tmp_path / kind, kind=kind)


def test_tables_with_odd_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NUL, a lone CR, a quote that nobody closes, and a row longer than what is read at a time."""
    source = tmp_path / "source"
    write_pictures(source, 4)
    (source / "a.csv").write_bytes(
        b'file,text\n0.jpg,"nought\r and\0more"\n\0.jpg,"no name"\n1.jpg,one\rtwo\n2.jpg,x\n'
    )
    (source / "b.csv").write_bytes(b'file,text\n2.jpg,two\n3.jpg,"never' + b" closed\n" * 100_000)
    report = imported(source, tmp_path / "pool")
    assert captions(tmp_path / "pool") == ["nought\r and\0more", "two"]
    beyond = {key: first for key, first in report.passed.first.items() if key.startswith("tables that cannot be read")}
    assert sorted(beyond.values()) == ["a.csv, row 3", "b.csv, row 2"]
    assert report.passed.counts["rows of tables whose file leads out of the folder"] == 1
    monkeypatch.setattr("dcfast.importing.tables.MOST_LINE_BYTES", 50)
    monkeypatch.setattr("dcfast.importing.pictures.MOST_LINE_BYTES", 90)
    (source / "a.csv").write_bytes(b"file,text\n0.jpg,nought\n1.jpg,one\n" + b'3.jpg,"a\n' + b'",x,"\n' * 20 + b'"\n')
    (source / "b.csv").write_bytes(b"file,text\n2.jpg," + b"t" * 40 + b"\n")
    (source / "c.jsonl").write_text(
        '{"file": "2.jpg", "text": "two"}\n{"file": "3.jpg", "text": "x"' + " " * 100 + "}\n"
    )
    monkeypatch.setattr("dcfast.storage.lines.MOST_LINE_BYTES", 100)
    report = imported(source, tmp_path / "other")
    assert captions(tmp_path / "other") == ["nought", "one", "two"]
    (place,) = [first for key, first in report.passed.first.items() if "expected lines of at most 100 bytes" in key]
    assert place == "c.jsonl, line 2"
    said = report.passed.counts
    assert said["tables that cannot be read beyond a row (expected rows of at most 50 bytes)"] == 1
    assert said["rows of tables of more than 90 bytes"] == 1


@pytest.mark.parametrize("seed", range(12))
def test_bytes_of_strangers_never_crash(seed: int, tmp_path: Path) -> None:
    """Files of each kind with bytes changed, cut or repeated: a pool, or an error that names what is wrong."""
    draw = random.Random(seed)
    source = tmp_path / "source"
    source.mkdir()
    pq.write_table(image_table(3, caption=["a", "b", "c"]), source / "t.parquet")
    with pa.ipc.new_stream(source / "t.arrow", image_table(1).schema) as writer:
        writer.write_table(image_table(3))
    (source / "t.csv").write_text("file_name,caption\na.jpg,x\n")
    (source / "t.jsonl").write_text('{"file_name": "a.jpg", "caption": "x"}\n')
    (source / "t.tar").write_bytes(tar_bytes(shard_of(0, 2, txt=False, caption="words")))
    (source / "a.json").write_text('{"caption": "x"}')
    for path in sorted(source.iterdir()):
        data = bytearray(path.read_bytes())
        for _ in range(draw.randrange(1, 20)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data[: draw.randrange(1, len(data) + 1)] if draw.random() < 0.3 else bytes(data))
    (source / "a.jpg").write_bytes(os.urandom(20))
    for kind in ("shards", "datasets", "pictures"):
        with contextlib.suppress(DcfastError):
            assert imported(source, tmp_path / kind, kind=kind).samples
