"""Megatron-Energon's index of a webdataset: the bytes as documented, read back, and what it cannot hold."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast.errors import CorruptDataError, PoolError, RunError
from dcfast.index.build import index_tars, write_segment
from dcfast.index.segments import Segment
from dcfast.interop import (
    count_differences,
    read_energon,
    read_energon_idx,
    read_energon_members,
    stale_energon_idx,
    write_energon,
)
from dcfast.interop.energon_files import META
from dcfast.storage.lock import locked
from tar_reference import make_tar, sample_members

NAMES = ["README", "k/a.jpg", "k/a.seg.PNG", "__meta__/x.json", "d.x/b.txt", ".hid.jpg", "c.tar.gz", "e.", "end"]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    folder = tmp_path / "pool"
    folder.mkdir()
    make_tar(folder / "0.tar", [m for i in range(5) for m in sample_members(i, 70)], "pax", mtime=0.5)
    make_tar(folder / "1.tar", [(name, b"x" * (i % 3 * 300)) for i, name in enumerate(NAMES)], "gnu")
    return folder


def by_tarfile(path: Path) -> tuple[list[int], list[tuple[str, int, int, list[tuple[str, int, int]]]]]:
    """energon's rule over Python's tarfile: the offsets, and of each sample key, offset, size and parts."""
    samples: list[tuple[str, int, list[tuple[str, int, int]]]] = []
    with tarfile.open(path) as tar:
        for member in tar:
            folder, slash, name = member.name.rpartition("/")
            stem, dot, ext = name.partition(".")
            if not (member.isreg() and stem and dot) or member.name.startswith("__"):
                continue
            key = folder + slash + stem
            if not samples or samples[-1][0] != key:
                samples.append((key, member.offset, []))
            samples[-1][2].append((ext, member.offset_data, member.size))
        end = tar.offset
    offsets = [*(at for _, at, _ in samples), end]
    return offsets, [(key, at, offsets[i + 1] - at, parts) for i, (key, at, parts) in enumerate(samples)]


def test_files_are_the_documented_ones(pool: Path) -> None:
    index = index_tars(pool)
    idx = write_energon(index, pool)
    assert idx == [pool / "0.tar.idx", pool / "1.tar.idx"]
    meta = pool / ".nv-meta"
    assert sorted(file.name for file in meta.iterdir()) == [
        ".info.json", "dataset.yaml", "index.sqlite", "index.uuid", "split.yaml"
    ]  # fmt: skip
    database = sqlite3.connect(meta / "index.sqlite")
    for shard in range(2):
        offsets, samples = by_tarfile(pool / f"{shard}.tar")
        assert idx[shard].read_bytes() == struct.pack(f"<{len(offsets)}Q", *offsets)
        rows = database.execute("SELECT * FROM samples WHERE tar_file_id = ? ORDER BY sample_index", (shard,))
        assert rows.fetchall() == [(shard, key, i, at, size) for i, (key, at, size, _) in enumerate(samples)]
        parts = database.execute("SELECT * FROM sample_parts WHERE tar_file_id = ? ORDER BY 2, 4", (shard,))
        assert parts.fetchall() == [(shard, i, *part) for i, sample in enumerate(samples) for part in sample[3]]
    assert {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE sql IS NOT NULL")} == {
        "samples", "sample_parts", "idx_samples_by_tar_and_idx", "idx_sample_parts_seq", "idx_sample_parts_full"
    }  # fmt: skip
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
    info = json.loads((meta / ".info.json").read_text())
    assert info == {"energon_version": "7.4.1", "shard_counts": {"0.tar": 5, "1.tar": 4}}
    assert json.loads((meta / "split.yaml").read_text())["split_parts"] == {"train": ["0.tar", "1.tar"]}


def test_what_was_written_is_read(pool: Path) -> None:
    index = index_tars(pool)
    write_energon(index, pool)
    known = read_energon(pool)
    assert (len(known), known.samples, known.version) == (9, {"0.tar": 5, "1.tar": 4}, "7.4.1")
    assert count_differences(index, known.counts) == []
    offsets = read_energon_idx(pool / "0.tar.idx", tar=pool / "0.tar")
    assert offsets[:-1].tolist() == index.segment.sample_base[:5].tolist()
    members = read_energon_members(pool)
    offset, size, ext = index.segment.members_of(0, 9)
    assert members["offset"].to_pylist() == offset.tolist()
    assert members["size"].to_pylist() == size.tolist()
    assert members["ext"].to_pylist() == [index.segment.exts[i] for i in ext]
    assert members["key"].to_pylist()[15:] == ["k/a", "k/a", "d.x/b", "c", "e"]
    assert members["sample"].to_pylist()[12:] == [4, 4, 4, 0, 0, 1, 2, 3]
    assert members["shard"].to_pylist() == ["0.tar"] * 15 + ["1.tar"] * 5


def test_it_is_the_same_whoever_writes_it(pool: Path, tmp_path: Path) -> None:
    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in [*pool.glob("*.idx"), *(pool / ".nv-meta").iterdir()]}

    write_energon(index_tars(pool), pool)
    first = files()
    (pool / ".nv-meta" / "dataset.yaml").write_text("mine")
    write_segment([(path, path.name) for path in sorted(pool.glob("*.tar"))], tmp_path / "segment")
    write_energon([tmp_path / "segment"], pool)
    assert files() == {**first, "dataset.yaml": b"mine"}
    write_energon(Segment.open(tmp_path / "segment"), pool, splits={"train": ["1.tar"], "val": ["0.tar"]})
    assert json.loads(files()["split.yaml"])["split_parts"] == {"train": ["1.tar"], "val": ["0.tar"]}
    with pytest.raises(PoolError, match=r"split 'val' names shard '9\.tar'.*names are like '0\.tar'"):
        write_energon(index_tars(pool), pool, splits={"val": ["9.tar"]})
    with pytest.raises(TypeError, match=r"splits\['val'\] must be a sequence of shards' names; got"):
        write_energon(index_tars(pool), pool, splits={"val": "0.tar"})


def test_an_index_of_another_tar_shows(pool: Path) -> None:
    index = index_tars(pool)
    write_energon(index, pool)
    assert stale_energon_idx(index, pool) == []
    (pool / "1.tar.idx").write_bytes((pool / "0.tar.idx").read_bytes())
    (pool / "0.tar.idx").unlink()
    assert stale_energon_idx(index, pool) == ["0.tar", "1.tar"]
    with pytest.raises(CorruptDataError, match=r"byte 40: expected offsets of .*1\.tar, 10240 bytes; got 30720"):
        read_energon_idx(pool / "1.tar.idx", tar=pool / "1.tar")
    os.utime(pool / "0.tar", ns=(1, 1))
    with pytest.raises(PoolError, match=r"0\.tar is not the file that was indexed \(size or time\); index it again"):
        write_energon(index, pool)
    write_energon(index, pool, check_mtime=False)
    with open(pool / "0.tar", "ab") as file:
        file.write(bytes(512))
    with pytest.raises(PoolError, match=r"0\.tar is not the file that was indexed"):
        write_energon(index, pool, check_mtime=False)
    (pool / "0.tar").unlink()
    with pytest.raises(PoolError, match=r"0\.tar' is no file below .*; give the directory that holds the shards"):
        write_energon(index, pool)


def odd_link(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name in ("\udcff.jpg", "b.jpg"):
            tar.addfile(tarfile.TarInfo(name))


def joined(path: Path) -> None:
    make_tar(path, sample_members(1))
    first = path.read_bytes()
    path.write_bytes(first + make_tar(path, sample_members(2)).read_bytes())


def cut(path: Path) -> None:
    path.write_bytes(make_tar(path, sample_members(1)).read_bytes()[:3000])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: make_tar(p, [("README", b"1")]), ValueError, r"has no samples, and energon refuses"),
        (
            lambda p: make_tar(p, [("a.jpg", b"1"), ("a.jpg", b"2")]),
            ValueError,
            r"key 'a' is that of an",
        ),
        (lambda p: make_tar(p, sample_members(3)), ValueError, r"9\.tar: key '000000003' is that of an"),
        (odd_link, ValueError, r"key '\\\\xff' is not UTF-8"),
        (joined, ValueError, r"bytes 4608 to 10240 are of no member \(joined archives"),
        (cut, PoolError, r"9\.tar is damaged at \d+: .*; replace it, index again"),
    ],
)
def test_what_energon_cannot_hold(pool: Path, make: Any, error: type[Exception], message: str) -> None:
    write_energon(index_tars(pool), pool)
    before = read_energon_members(pool)
    make(pool / "9.tar")
    with pytest.raises(error, match=message):
        write_energon(index_tars(pool), pool)
    assert read_energon_members(pool).equals(before)  # the old dataset is whole
    assert not [*pool.rglob(".tmp-*")]


def test_names_of_shards(pool: Path) -> None:
    (pool / "0.tar").rename(pool / "{0,1}.tar")
    with pytest.raises(ValueError, match="energon takes no name with braces, backslashes"):
        write_energon(index_tars([pool / "{0,1}.tar"]), pool)
    (pool / "{0,1}.tar").rename(pool / "1.wds")
    segment = pool.parent / "segment"
    write_segment([(pool / name, name) for name in ("1.wds", "1.tar")], segment)
    with pytest.raises(ValueError, match=r"1\.wds and .*1\.tar would both have the index .*1\.tar\.idx; rename one"):
        write_energon([segment], pool)
    with pytest.raises(ValueError, match="index must have shards; got none"):
        write_energon([], pool)
    for name in ("../pool/1.tar", "/etc/passwd", "http://h/1.tar"):
        write_segment([(pool / "1.tar", name)], segment)
        with pytest.raises(PoolError, match="is no file below"):
            write_energon([segment], pool)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "byte 0: expected offsets of 8 bytes each; got 0 bytes"),
        (struct.pack("<QQ", 0, 1024)[:-3], "byte 8: expected offsets of 8 bytes each; got 13 bytes"),
        (struct.pack("<QQ", 0, 1025), "byte 8: expected multiples of 512 that grow; got 1025"),
        (struct.pack("<QQQ", 0, 1024, 1024), "byte 16: expected multiples of 512 that grow; got 1024"),
        (struct.pack("<QQ", 1 << 63, 512), "byte 0: expected multiples of 512 that grow; got 9223372036854775808"),
    ],
)
def test_bad_idx(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.tar.idx").write_bytes(data)
    with pytest.raises(CorruptDataError, match=r"a\.tar\.idx, " + message):
        read_energon_idx(tmp_path / "a.tar.idx")


def test_offsets_beyond_8_gib(tmp_path: Path) -> None:
    """A tar with holes: its headers say 9 GiB."""
    path, size = tmp_path / "a.tar", 9 << 30
    with open(path, "wb") as file:
        for name, length in (("a.jpg", size), ("b.jpg", 5)):
            member = tarfile.TarInfo(name)
            member.size = length
            file.write(member.tobuf(tarfile.PAX_FORMAT))
            file.seek(-(-length // 512) * 512, os.SEEK_CUR)
        file.truncate(file.tell() + 1024)
    (idx,) = write_energon(index_tars(path), tmp_path)
    begin = int(read_energon_idx(idx, tar=path)[1])
    assert begin > size
    assert read_energon_members(tmp_path)["offset"].to_pylist()[1] == begin + 512
    assert read_energon_members(tmp_path)["size"].to_pylist() == [size, 5]


def test_every_cut_of_the_sqlite_file_is_an_error(pool: Path) -> None:
    write_energon(index_tars(pool), pool)
    path = pool / ".nv-meta" / "index.sqlite"
    whole = path.read_bytes()
    for cut_at in [*range(0, 200, 7), *range(200, len(whole), 509)]:
        path.write_bytes(whole[:cut_at])
        with pytest.raises(CorruptDataError, match=r"energon index .*: (expected|it cannot be read)"):
            read_energon_members(pool)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "UPDATE samples SET tar_file_id = 7",
            "each sample that .info.json counts, once; got shard 7",
        ),
        ("UPDATE samples SET sample_index = 0", "got shard 0, sample 0"),
        ("DELETE FROM samples WHERE sample_key = 'c'", "expected the 9 samples that .info.json counts; got 8"),
        ("UPDATE sample_parts SET content_byte_offset = 7", "in blocks of 512; got shard 0, sample 0, offset 7"),
        ("UPDATE sample_parts SET content_byte_size = -1", "size -1"),
        ("UPDATE sample_parts SET content_byte_size = 'x'", "size b'x'"),
        ("UPDATE sample_parts SET part_name = NULL", "expected parts"),
        ("DROP TABLE samples", "expected a plain table 'samples'; got none"),
        ("ALTER TABLE samples RENAME COLUMN sample_key TO k", "expected a column 'sample_key' in 'samples'; got none"),
    ],
)
def test_values_that_are_not_energons(pool: Path, script: str, message: str) -> None:
    write_energon(index_tars(pool), pool)
    database = sqlite3.connect(pool / ".nv-meta" / "index.sqlite")
    database.executescript(script)
    database.close()
    with pytest.raises(CorruptDataError, match=message):
        read_energon_members(pool)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"shard_counts": {"a": -1}}', '{"shard_counts": {"a": true}}', "{}", '{"shard_counts": 3}']
)
def test_bad_info(tmp_path: Path, text: str) -> None:
    (tmp_path / ".nv-meta").mkdir()
    (tmp_path / ".nv-meta" / ".info.json").write_text(text)
    with pytest.raises(CorruptDataError, match=r"\.info\.json"):
        read_energon(tmp_path)


def test_empty_members_and_folders(tmp_path: Path) -> None:
    """The data of an empty member lie where the next header does."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("d/a.txt", b"0"), ("d/b.txt", b"0"), ("l", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            tar.addfile(member)
    (idx,) = write_energon(index_tars(tmp_path), tmp_path)
    assert np.fromfile(idx, "<u8").tolist() == by_tarfile(tmp_path / "a.tar")[0] == [512, 1024, 2048]


def test_what_is_refused_changes_nothing(pool: Path) -> None:
    first = pool / "again"
    first.mkdir()
    make_tar(first / "0.tar", [("a.txt", b"1")])
    make_tar(first / "1.tar", [("b.txt", b"1")])
    write_energon(index_tars(first), first)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.suffix != ".tar" and path.is_file()}
    make_tar(first / "0.tar", [("a.txt", b"1"), ("c.txt", b"2")])
    make_tar(first / "1.tar", [("a.txt", b"1")])
    with pytest.raises(ValueError, match="key 'a' is that of an earlier sample"):
        write_energon(index_tars(first), first)
    assert {path: path.read_bytes() for path in first.rglob("*") if path.suffix != ".tar" and path.is_file()} == before


def test_one_writer_at_a_time(pool: Path) -> None:
    with locked(pool, "busy", folder=True), pytest.raises(RunError, match="is being written by another process"):
        write_energon(index_tars(pool), pool)
    write_energon(index_tars(pool), pool)


def test_counts_beyond_what_a_number_holds(tmp_path: Path) -> None:
    (tmp_path / META).mkdir()
    counts = {"a.tar": 2**63 - 1, "b.tar": 2**63 - 1, "c.tar": 2}
    (tmp_path / META / ".info.json").write_text(json.dumps({"shard_counts": counts}))
    with pytest.raises(CorruptDataError, match=r"expected fewer than 2\^63 samples in all; got 18446744073709551616"):
        read_energon(tmp_path)


@pytest.mark.parametrize("splits", [["0.tar"], {"train": 5}, {"train": [Path("0.tar")]}, {"train": "0.tar"}])
def test_splits_of_another_kind(pool: Path, splits: Any) -> None:
    with pytest.raises(TypeError, match=r"write_energon: splits.* must be a "):
        write_energon(index_tars(pool), pool, splits=splits)
