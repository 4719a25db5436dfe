"""ratarmount's index of a tar: as the tool makes it, mounted by the tool without a scan, and read back."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from dcfast.errors import CorruptDataError, PoolError
from dcfast.index.build import index_tars
from dcfast.interop import read_ratarmount, write_ratarmount
from dcfast.interop.sqlite_files import open_database
from tar_reference import make_tar, sample_members

NAMES = [
    "README",
    "k/a.jpg",
    "k/x/a.seg.PNG",
    "./b//c.txt",
    "größe.txt",
    "\udcff.jpg",
    "y" * 300 + ".jpg",
    "a.jpg",
    "a.jpg",
]


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as out:
        folder = tarfile.TarInfo("k")
        folder.type = tarfile.DIRTYPE
        out.addfile(folder)
    make_tar(path, [(name, b"x" * (i % 3 * 300)) for i, name in enumerate(NAMES)], "gnu")
    with tarfile.open(path, "a", format=tarfile.GNU_FORMAT) as out:
        folder = tarfile.TarInfo("later/")
        folder.type = tarfile.DIRTYPE
        out.addfile(folder)
    return path


def rows(path: Path, query: str) -> list[Any]:
    database = sqlite3.connect(path)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def test_rows_are_the_documented_ones(tar: Path) -> None:
    (path,) = write_ratarmount(index_tars(tar), tar.parent)
    assert path == Path(f"{tar}.index.sqlite")
    time_s = tar.stat().st_mtime
    expected = []
    with tarfile.open(tar) as archive:
        for member in archive:
            name = os.path.normpath("/" + member.name).encode("utf-8", "surrogateescape")
            folder, _, base = name.decode("utf-8", "backslashreplace").rpartition("/")
            mode = stat.S_IFDIR | 0o555 if member.isdir() else stat.S_IFREG | 0o444
            expected.append((folder, base, member.offset, member.offset_data, member.size, time_s, mode, 0))
    columns = "path, name, offsetheader, offset, size, mtime, mode, isgenerated"
    got = rows(path, f"SELECT {columns} FROM files WHERE NOT isgenerated ORDER BY offsetheader")
    assert got == expected
    assert rows(path, "SELECT path, name FROM files WHERE isgenerated") == [("", "b"), ("", "k"), ("/k", "x")]
    metadata = dict(rows(path, "SELECT * FROM metadata"))
    assert json.loads(metadata["tarstats"]) == {"st_size": tar.stat().st_size, "st_mtime": time_s}
    assert (metadata["backendName"], metadata["isGnuIncremental"]) == ("SQLiteIndexedTar", "0")
    assert rows(path, "SELECT * FROM versions") == [("index", "0.7.0", 0, 7, 0)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


MOUNT = r"""
import json, logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from ratarmountcore.mountsource.formats.tar import SQLiteIndexedTar
tar = SQLiteIndexedTar(sys.argv[1], writeIndex=True, indexMinimumFileCount=0)
found, folders = {}, [""]
while folders:
    folder = folders.pop()
    for name, info in (tar.list(folder or "/") or {}).items():
        path = f"{folder}/{name}"
        if info.mode & 0xF000 == 0x4000:
            folders.append(path)
        else:
            with tar.open(info) as file:
                found[path] = file.read().hex()
print("FOUND" + json.dumps(found))
"""


def mounted(tar: Path) -> tuple[dict[str, bytes], str]:
    """The files that ratarmount shows, and what it says."""
    command = [sys.executable, "-c", MOUNT, str(tar)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    said, _, found = done.stdout.partition("FOUND")
    return {name: bytes.fromhex(data) for name, data in json.loads(found).items()}, said + done.stderr


def test_ratarmount_mounts_without_a_scan(tar: Path) -> None:
    pytest.importorskip("ratarmountcore")
    theirs, said = mounted(tar)
    assert "Creating new SQLite index" in said
    index = Path(f"{tar}.index.sqlite")
    their_members = read_ratarmount(index, tar=tar)
    index.unlink()
    write_ratarmount(index_tars(tar), tar.parent)
    before = index.read_bytes(), index.stat().st_mtime_ns, index.stat().st_ino
    ours, said = mounted(tar)
    assert "Successfully loaded offset dictionary" in said
    assert "Creating" not in said
    assert (index.read_bytes(), index.stat().st_mtime_ns, index.stat().st_ino) == before
    assert ours == theirs
    assert len(ours) == len(NAMES) - 1  # of a name that comes twice the last one
    assert read_ratarmount(index, tar=tar) == their_members


def test_ratarmount_takes_the_place_of_a_folder_for_no_end(tmp_path: Path) -> None:
    """The last data of the tar are in a folder without a member of its own, and there is one sample."""
    pytest.importorskip("ratarmountcore")
    tar = make_tar(tmp_path / "0.tar", [("a.jpg", b"1"), ("z/b.jpg", b"2" * 2000)])
    write_ratarmount(index_tars(tar), tmp_path)
    found, said = mounted(tar)
    assert found == {"/a.jpg": b"1", "/z/b.jpg": b"2" * 2000}
    assert "Creating" not in said


def test_what_was_written_is_read(tar: Path, tmp_path: Path) -> None:
    index = index_tars(tar)
    (path,) = write_ratarmount(index, tar.parent, out=tmp_path / "out")
    assert path == tmp_path / "out" / "0.tar.index.sqlite"
    known = read_ratarmount(path, tar=tar)
    theirs = index.members()
    assert known.members["offset"].to_pylist() == theirs["offset"].to_pylist()
    assert known.members["size"].to_pylist() == theirs["size"].to_pylist()
    assert known.members["name"].to_pylist() == [
        "b/c.txt" if n == "./b//c.txt" else n for n in theirs["name"].to_pylist()
    ]
    assert (known.tar_size, known.tar_mtime) == (tar.stat().st_size, tar.stat().st_mtime)


def test_an_index_of_another_tar_is_refused(tar: Path) -> None:
    index = index_tars(tar)
    (path,) = write_ratarmount(index, tar.parent)
    other = make_tar(tar.parent / "1.tar", sample_members(1, 90_000))
    with pytest.raises(PoolError, match=r"is of a tar of \d+ bytes, time .*1\.tar has \d+ bytes"):
        read_ratarmount(path, tar=other)
    os.utime(tar, ns=(1, 1))
    with pytest.raises(PoolError, match=r"is of a tar of"):
        read_ratarmount(path, tar=tar)
    with pytest.raises(PoolError, match=r"0\.tar is not the file that was indexed"):
        write_ratarmount(index, tar.parent)


def special(kind: bytes) -> Any:
    def make(path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            for name, type_ in (("a.jpg", tarfile.REGTYPE), ("odd", kind)):
                member = tarfile.TarInfo(name)
                member.type, member.linkname = type_, "a.jpg"
                tar.addfile(member)

    return make


def no_end(path: Path) -> None:
    path.write_bytes(make_tar(path, [("a.jpg", b"1")]).read_bytes()[:1024])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            special(tarfile.SYMTYPE),
            ValueError,
            r"member 'odd' \(symlink\) cannot be told to ratarmount from an index",
        ),
        (special(tarfile.LNKTYPE), ValueError, r"member 'odd' \(hard link\)"),
        (special(tarfile.FIFOTYPE), ValueError, r"member 'odd' \(other\)"),
        (no_end, PoolError, r"0\.tar has no end of an archive, or no members; write it anew"),
        (lambda path: path.write_bytes(bytes(10240)), PoolError, r"0\.tar has no end of an archive, or no members"),
        (lambda path: path.write_bytes(b"x" * 2000), PoolError, r"0\.tar is damaged at 0: "),
    ],
)
def test_what_ratarmount_cannot_be_told(tmp_path: Path, make: Any, error: type[Exception], message: str) -> None:
    make(tmp_path / "0.tar")
    with pytest.raises(error, match=message):
        write_ratarmount(index_tars(tmp_path), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["0.tar"]


def test_two_shards_of_one_name(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        make_tar(tmp_path / folder / "0.tar", sample_members(1))
    index = index_tars([tmp_path / "x" / "0.tar", tmp_path / "y" / "0.tar"])
    assert len(write_ratarmount(index, tmp_path)) == 2
    with pytest.raises(ValueError, match=r"two shards would be written as .*0\.tar\.index\.sqlite; leave out= out"):
        write_ratarmount(index, tmp_path, out=tmp_path / "out")


def test_every_cut_is_an_error(tar: Path) -> None:
    (path,) = write_ratarmount(index_tars(tar), tar.parent)
    whole = path.read_bytes()
    for cut in [*range(0, 200, 7), *range(200, len(whole), 509)]:
        path.write_bytes(whole[:cut])
        with pytest.raises(CorruptDataError, match=r"0\.tar\.index\.sqlite: (expected|it cannot be read)"):
            read_ratarmount(path)


def test_no_flipped_byte_does_more_than_an_error(tar: Path) -> None:
    (path,) = write_ratarmount(index_tars(tar), tar.parent)
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 211):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            read_ratarmount(path)
        except (CorruptDataError, PoolError):
            refused += 1
    assert refused


FILES = "path, name, offsetheader, offset, size, mode, issparse, recursiondepth"
HOSTILE = {
    "a view of the name": "ALTER TABLE files RENAME TO f; CREATE VIEW files AS SELECT * FROM f",
    "a view without end": "DROP TABLE files; CREATE VIEW files AS WITH RECURSIVE c(path) AS "
    "(SELECT 1 UNION ALL SELECT path + 1 FROM c) SELECT path, 1 AS name FROM c",
    "a virtual table": "DROP TABLE files; CREATE VIRTUAL TABLE files USING fts5(path, name)",
    "a computed column": "DROP TABLE files; CREATE TABLE files "
    f"({FILES.replace('path,', 'path AS (printf(name)),').replace('mode', 'mode DEFAULT 1')})",
    "a column less": "ALTER TABLE files DROP COLUMN mode",
    "a mode of text": "UPDATE files SET mode = 'x'",
    "an offset within a block": 'UPDATE files SET "offset" = 7',
    "an offset of text": "UPDATE files SET \"offset\" = 'x'",
    "an offset below zero": 'UPDATE files SET "offset" = -512',
    "an offset beyond the tar": 'UPDATE files SET "offset" = 1 << 40',
    "an end beyond 64 bits": "UPDATE files SET size = 9223372036854775807",
    "members on each other": 'UPDATE files SET "offset" = 512, size = 600',
    "another version": "UPDATE versions SET version = '1.0.0'",
    "a version of before": "UPDATE versions SET version = '0.1.0'",
    "no version": "DELETE FROM versions",
    "another program's": "UPDATE metadata SET value = 'ZipMountSource' WHERE key = 'backendName'",
    "a compressed tar's": "CREATE TABLE gzipindex (data BLOB)",
    "no json": "UPDATE metadata SET value = '{' WHERE key = 'tarstats'",
    "a size of text": 'UPDATE metadata SET value = \'{"st_size": "x", "st_mtime": 1}\' WHERE key = \'tarstats\'',
    "a long text": "UPDATE files SET name = zeroblob(5000000)",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_strangers_database(tar: Path, what: str) -> None:
    (path,) = write_ratarmount(index_tars(tar), tar.parent)
    database = sqlite3.connect(path)
    database.executescript(HOSTILE[what])
    database.close()
    before = path.read_bytes()
    began = time.monotonic()
    with pytest.raises((CorruptDataError, PoolError), match=r"ratarmount index .*sqlite.* (expected|is of|cannot)"):
        read_ratarmount(path)
    assert time.monotonic() - began < 5
    assert path.read_bytes() == before


def test_nothing_of_a_schema_is_run(tar: Path) -> None:
    """An authorizer stands before what a reader does not look for: here a function in an index of the table."""
    (path,) = write_ratarmount(index_tars(tar), tar.parent)
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TRIGGER t AFTER INSERT ON files BEGIN DELETE FROM files; END; CREATE INDEX i ON files (abs(size));"
        "CREATE VIEW v AS SELECT randomblob(1 << 30)"
    )
    database.close()
    assert len(read_ratarmount(path).members) == len(NAMES)
    with open_database(path, "x") as opened, pytest.raises(CorruptDataError, match=r"prohibited|not authorized"):
        list(opened._run("SELECT * FROM v", "v"))
    for suffix in ("-journal", "-wal"):
        beside = Path(f"{path}{suffix}")
        beside.write_bytes(b"x")
        with pytest.raises(CorruptDataError, match=r"beside it says that it was not written to its end"):
            read_ratarmount(path)
        beside.unlink()


def test_rows_that_share_their_pages(tmp_path: Path) -> None:
    """A small file of rows that all have the text of the first one is refused before its texts fill the memory."""
    path, short, pages = tmp_path / "bomb.sqlite", 465 + 508 * 39, 400  # one row a page
    with closing(sqlite3.connect(path)) as database:
        database.executescript("PRAGMA page_size = 512; CREATE TABLE files (a)")
        database.execute("INSERT INTO files VALUES (?)", ("x" * (short + 508 * pages),))  # as much of it in its cell
        database.executemany("INSERT INTO files VALUES (?)", [("x" * short,) for _ in range(20)])
        database.commit()
    data = bytearray(path.read_bytes())
    leaves = [at for at in range(512, len(data), 512) if data[at] == 13 and data[at + 3 : at + 5] == b"\0\1"]
    assert len(leaves) == 21
    first, *others = (at + int.from_bytes(data[at + 8 : at + 10]) for at in leaves)
    for cell in others:  # bytes of the payload, the row's number, the payload's beginning and the page of the rest
        end = cell - cell % 512 + 512
        assert end - cell == 512 - first % 512
        data[cell : cell + 3] = data[first : first + 3]
        data[cell + 4 : end] = data[first + 4 : first - first % 512 + 512]
    path.write_bytes(data)
    with closing(sqlite3.connect(path)) as database:
        lengths = [length for (length,) in database.execute("SELECT length(a) FROM files")]
    assert lengths == [short + 508 * pages] * 21, "SQLite takes it"
    assert sum(lengths) > 5 * len(data)
    message = "expected no more in the rows of 'files' than its bytes can hold"
    with open_database(path, "x") as opened, pytest.raises(CorruptDataError, match=message):
        list(opened.rows("files", ["a"]))


def test_a_journal_beside_what_a_link_leads_to(tar: Path) -> None:
    (path,) = write_ratarmount(index_tars(tar), tar.parent)
    link = tar.parent / "link.sqlite"
    link.symlink_to(path)
    assert read_ratarmount(link).members.num_rows == read_ratarmount(path).members.num_rows
    path.with_name(path.name + "-wal").write_bytes(b"rows that are not in the file")
    for where in (path, link):
        with pytest.raises(CorruptDataError, match="sqlite-wal beside it says that it was not written to its end"):
            read_ratarmount(where)


def test_a_schema_that_is_not_utf8(tar: Path) -> None:
    (path,) = write_ratarmount(index_tars(tar), tar.parent)
    data = path.read_bytes()
    assert b"CREATE TABLE files" in data
    path.write_bytes(data.replace(b"CREATE TABLE files", b"CREATE \xffABLE files"))
    with pytest.raises(CorruptDataError, match="it cannot be read: "):
        read_ratarmount(path)


@pytest.mark.parametrize("name", ["/..|passwd", "/../../etc|passwd", "/a/..|b", "|", "/a//b|c", "/.|a"])
def test_names_that_lead_out_of_the_tar(tar: Path, name: str) -> None:
    (path,) = write_ratarmount(index_tars(tar), tar.parent)
    with closing(sqlite3.connect(path)) as database:
        folder, base = name.split("|")
        database.execute("UPDATE files SET path = ?, name = ? WHERE type = '0' OR size > 0", (folder, base))
        database.commit()
    with pytest.raises(CorruptDataError, match="expected normal paths below the tar; got"):
        read_ratarmount(path)


def test_a_folder_of_the_name_of_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a shard's name is that of two files, neither is taken."""
    monkeypatch.chdir(tmp_path)
    for name in ("pool/0.tar", "pool/pool/0.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make_tar(tmp_path / name, [("a.txt", b"1")])
    with pytest.raises(PoolError, match=r"shard 'pool/0.tar' may be pool/0.tar or 0.tar below pool"):
        write_ratarmount(index_tars(["pool/0.tar"]), "pool")
    assert write_ratarmount(index_tars(str(tmp_path / "pool/0.tar")), "pool") == [Path("pool/0.tar.index.sqlite")]
