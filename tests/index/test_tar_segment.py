"""Segment files: the bytes are what docs/formats.md says, views are views, damage to the file is found."""

from __future__ import annotations

import gc
import os
import pickle
import re
import struct
from pathlib import Path

import dcfast
import numpy as np
import pytest
from dcfast.index.build import index_tars, write_segment
from dcfast.index.segments import Segment
from tar_reference import GIF, UID, make_tar, sample_members

HEADER = struct.Struct("<8sIIQQQQQQ")
ENTRY = struct.Struct("<24sQQQ")


def sections(data: bytes) -> dict[str, tuple[int, int, int]]:
    table = {}
    for k in range(struct.unpack_from("<I", data, 12)[0]):
        name, *place = ENTRY.unpack_from(data, HEADER.size + k * ENTRY.size)
        table[name.rstrip(b"\0").decode()] = tuple(place)
    return table


@pytest.fixture
def tiny_segment(tmp_path: Path) -> Path:
    """The example of docs/formats.md."""
    members = [
        ("README", b"hello"),
        ("cat.GIF", GIF),
        ("cat.json", b'{"uid": "%s"}' % UID.encode()),
        ("cat.txt", b"a red cat"),
    ]
    tar = make_tar(tmp_path / "tiny.tar", members)
    os.utime(tar, ns=(10**9, 10**9))
    write_segment([(tar, "tiny.tar")], tmp_path / "tiny.segment")
    return tmp_path / "tiny.segment"


def test_worked_example(tiny_segment: Path, repo_root: Path) -> None:
    data = tiny_segment.read_bytes()
    page = (repo_root / "docs" / "formats.md").read_text("utf-8")
    text = page[page.index("## Index segment") :]
    header = re.search(r"```\n([0-9a-f\s]+)```", text)
    assert header is not None
    assert bytes.fromhex(header.group(1)) == data[:64]
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| `([0-9a-f]{16})` \| `?([0-9a-f ]*)`? \|$", text, re.MULTILINE)
    assert [row[0] for row in rows] == list(sections(data))
    for name, offset, size, checksum, content in rows:
        assert sections(data)[name] == (int(offset), int(size), int(checksum, 16))
        assert bytes.fromhex(content) == data[int(offset) : int(offset) + int(size)]
    assert f"{len(data):,} bytes" in text


def test_content_digest_is_of_all_but_the_times(tiny_segment: Path, tmp_path: Path) -> None:
    digest = Segment.open(tiny_segment).content_digest()
    os.utime(tmp_path / "tiny.tar", ns=(5, 7))
    write_segment([(tmp_path / "tiny.tar", "tiny.tar")], tmp_path / "touched.segment")
    assert (tmp_path / "touched.segment").read_bytes() != tiny_segment.read_bytes()
    assert Segment.open(tmp_path / "touched.segment").content_digest() == digest
    found = {digest}
    for n, (key, caption) in enumerate((("dog", b"a red cat"), ("cat", b"a red dog"), ("cat", b"a red cats"))):
        members = [("README", b"hello"), (f"{key}.GIF", GIF), (f"{key}.txt", caption)]
        members.insert(2, (f"{key}.json", b'{"uid": "%s"}' % UID.encode()))
        write_segment([(make_tar(tmp_path / f"{n}.tar", members), "tiny.tar")], tmp_path / f"{n}.segment")
        found.add(Segment.open(tmp_path / f"{n}.segment").content_digest())
    assert len(found) == 3, "bytes within a member of the same size are not in an index"


def test_decoded_with_struct(tiny_segment: Path) -> None:
    data = tiny_segment.read_bytes()
    magic, version, count, size, shards, samples, members, strays, _ = HEADER.unpack_from(data)
    assert (magic, version, count, size) == (b"DCFASTIX", 1, 28, len(data))
    assert (shards, samples, members, strays) == (1, 1, 3, 1)
    place = sections(data)

    def items(name: str, code: str) -> list[int]:
        offset, length, _ = place[name]
        assert offset % 64 == 0
        return [v[0] for v in struct.iter_unpack("<" + code, data[offset : offset + length])]

    assert items("uid", "Q") == [int(UID[:16], 16), int(UID[16:], 16)]
    base, exts = items("base", "Q")[0], items("ext_begin", "Q")
    found = []
    end = base
    for packed in items("members", "Q"):
        start = end + 512 * (packed >> 48)
        length = packed & 0xFFFFFFFF
        ext = packed >> 32 & 0xFFFF
        text_at = place["exts"][0]
        found.append((data[text_at + exts[ext] : text_at + exts[ext + 1]], start, length))
        end = start + -(-length // 512) * 512
    assert found == [(b"GIF", 1536, 14), (b"json", 2560, 43), (b"txt", 3584, 9)]


def test_attributes(tmp_path: Path, tiny_segment: Path) -> None:
    segment = Segment.open(tiny_segment)
    assert (segment.num_shards, segment.num_samples, segment.num_members, segment.num_strays) == (1, 1, 3, 1)
    assert segment.shard_names == ["tiny.tar"]
    assert segment.shard_sizes.tolist() == [(tmp_path / "tiny.tar").stat().st_size]
    assert segment.shard_mtimes_ns.tolist() == [10**9]
    assert segment.uid.dtype == np.dtype("u8,u8")
    assert [a.dtype.str for a in (segment.flags, segment.width, segment.height)] == ["<u2", "<u4", "<u4"]
    assert [a.dtype.str for a in (segment.sample_base, segment.member_begin)] == ["<u8", "<u8"]
    assert [a.dtype.str for a in (segment.member_offset(), segment.member_ext())] == ["<u8", "<u2"]
    assert segment.member_size().tolist() == [14, 43, 9]
    assert (segment.exts, segment.exts_lower) == (["GIF", "json", "txt"], ["gif", "json", "txt"])
    assert (segment.key(0), segment.keys().to_pylist()) == ("cat", ["cat"])
    assert segment.image_member().tolist() == [0]
    for bad in (1, -1):
        with pytest.raises(IndexError, match="sample"):
            segment.key(bad)
    with pytest.raises(IndexError, match="out of range"):
        segment.members_of(0, 2)


def test_views_keep_the_map(tiny_segment: Path) -> None:
    uid = Segment.open(tiny_segment).uid
    tiny_segment.unlink()
    gc.collect()
    assert uid[0].tolist() == (int(UID[:16], 16), int(UID[16:], 16))
    with pytest.raises(ValueError, match="read-only"):
        uid[0] = (0, 0)


def test_every_flipped_byte_is_found(tiny_segment: Path) -> None:
    good = tiny_segment.read_bytes()
    path = tiny_segment.with_name("bad")
    place = sections(good)
    for at in range(len(good)):
        data = bytearray(good)
        data[at] ^= 0x10
        path.write_bytes(data)
        with pytest.raises(dcfast.CorruptDataError) as caught:
            Segment.open(path)
        assert caught.value.path == str(path)
        assert caught.value.offset is not None
        inside = [n for n, (offset, size, _) in place.items() if offset <= at < offset + size]
        if inside:
            early = inside[0] in ("sample_begin", "stray_begin")  # also checked without verify, and before
            what = "does not ascend" if early else "checksum mismatch"
            assert f"section {inside[0]}: {what}" in str(caught.value)


def test_every_cut_is_found(tiny_segment: Path) -> None:
    good = tiny_segment.read_bytes()
    path = tiny_segment.with_name("bad")
    for size in [*range(0, len(good), 7), len(good) - 1]:
        path.write_bytes(good[:size])
        for verify in (True, False):
            with pytest.raises(dcfast.CorruptDataError, match="index segment"):
                Segment.open(path, verify=verify)
    path.write_bytes(good + b"\0")
    with pytest.raises(dcfast.CorruptDataError, match="header says"):
        Segment.open(path)


def test_other_files_and_versions(tiny_segment: Path, tmp_path: Path) -> None:
    with pytest.raises(dcfast.CorruptDataError, match="wrong magic"):
        Segment.open(tmp_path / "tiny.tar")
    data = bytearray(tiny_segment.read_bytes())
    data[8] = 2
    (tmp_path / "v2").write_bytes(data)
    with pytest.raises(dcfast.CorruptDataError, match="version 2, expected 1") as caught:
        Segment.open(tmp_path / "v2")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.path, again.offset) == (str(tmp_path / "v2"), 8)
    with pytest.raises(FileNotFoundError):
        Segment.open(tmp_path / "none")


def test_check_fresh(tmp_path: Path) -> None:
    for k in range(4):
        make_tar(tmp_path / f"{k}.tar", sample_members(k))
    write_segment([(tmp_path / f"{k}.tar", f"{k}.tar") for k in range(4)], tmp_path / "s")
    segment = Segment.open(tmp_path / "s")
    assert segment.check_fresh(tmp_path) == []
    (tmp_path / "1.tar").unlink()
    os.utime(tmp_path / "2.tar", ns=(5, 5))
    with open(tmp_path / "3.tar", "ab") as out:
        out.write(bytes(512))
    assert segment.check_fresh(tmp_path) == [(1, "vanished"), (2, "changed"), (3, "changed")]


def test_stats(tmp_path: Path) -> None:
    good = make_tar(tmp_path / "good.tar", [*sample_members(1), ("stray", b"")])
    (tmp_path / "empty.tar").write_bytes(b"")
    stats = write_segment([(good, "g"), (tmp_path / "empty.tar", "e")], tmp_path / "s", 2)
    assert (stats.num_shards, stats.num_samples, stats.num_members, stats.num_strays) == (2, 1, 3, 1)
    assert stats.tar_bytes == good.stat().st_size
    assert stats.reports == [(1, 0, True, "empty file")]
    assert sum(stats.flag_counts) == 0
    assert Segment.open(tmp_path / "s").shard_damage == [(1, 0, "empty file")]


def test_an_old_segment_stays_when_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"old")
    with pytest.raises(OSError, match="gone"):
        write_segment([(tmp_path / "gone", "gone")], tmp_path / "s")
    assert (tmp_path / "s").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_tar_index_repr_and_len(tiny_segment: Path, tmp_path: Path) -> None:
    index = index_tars(tmp_path / "tiny.tar")
    assert len(index) == 1
    assert repr(index) == "<TarIndex: 1 shards, 1 samples, 0 damaged>"
