"""Damaged archives: what is whole before the damage is indexed, and the damage is told; never a crash."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import tarfile
from pathlib import Path

import pytest
from dcfast.index.build import index_tars
from dcfast.index.segments import SampleFlag
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tar_reference import GIF, make_tar, our_members, sample_members
from test_tar_index import END, pax_block, plain

NOISE = random.Random(0).randbytes(9999)


def damage_of(path: Path) -> tuple[int, str]:
    (report,) = index_tars(path).damage
    assert report.shard == 0
    return report.offset, report.message


@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_cut_at_each_byte(tmp_path: Path, format: str) -> None:
    name = "n" * 120  # long enough for a pax header or a GNU long name
    members = [("a.jpg", GIF), ("a.json", b"{}"), (f"{name}.txt", b"t" * 600), ("b.jpg", b""), ("b.txt", b"x" * 512)]
    whole = make_tar(tmp_path / "whole.tar", members, format)
    data = whole.read_bytes()
    with tarfile.open(whole) as tar:
        infos = tar.getmembers()
    begins = [i.offset for i in infos]
    ends = [i.offset_data + i.size for i in infos]
    blocks = {-(-end // 512) * 512 for end in ends}
    content_end = max(blocks)
    cuts = [tmp_path / f"{n}.tar" for n in range(content_end + 1500)]
    for n, path in enumerate(cuts):
        path.write_bytes(data[:n])
    index = index_tars(cuts)
    by_shard: dict[str, list[str]] = {}
    for row in index.members().to_pylist():
        by_shard.setdefault(row["shard"], []).append(row["name"])
    damage = {d.shard: d for d in index.damage}
    notes = {d.shard: d for d in index.notes}
    assert len(damage) == len(index.damage)
    for n, path in enumerate(cuts):
        kept = sum(end <= n for end in ends)
        assert by_shard.get(str(path), []) == [name for name, _ in members][:kept], n
        if n >= content_end + 1024:
            assert n not in damage
            assert n not in notes
        elif n >= content_end or (n in blocks and n > 0):
            assert n not in damage
            assert "end-of-archive" in notes[n].message
        else:
            assert n in damage
            expected = begins[kept] if kept < len(begins) else n
            assert damage[n].offset in (expected, n), n


def test_cut_flag(tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "whole.tar", [*sample_members(0, 4000), *sample_members(1, 4000)])
    data = whole.read_bytes()
    with tarfile.open(whole) as tar:
        infos = tar.getmembers()
    path = tmp_path / "cut.tar"

    def flags_when_cut(at: int) -> list[bool]:
        path.write_bytes(data[:at])
        return [bool(f & SampleFlag.CUT) for f in index_tars(path).segment.flags.tolist()]

    assert flags_when_cut(infos[4].offset_data + 5) == [False, True]  # inside the json of the second sample
    assert flags_when_cut(infos[4].offset + 100) == [False, True]  # inside its header: it may belong to the sample
    assert flags_when_cut(infos[3].offset_data + 100) == [False]  # the next sample's picture: the first is whole
    assert flags_when_cut(infos[3].offset + 100) == [True]  # a header that cannot be read


@pytest.mark.parametrize(
    ("content", "offset", "message"),
    [
        (b"", 0, "empty file"),
        (b"short", 0, "not a tar file: it has 5 bytes, less than one header"),
        (bytes(100), 0, "not a tar file: it has 100 bytes, less than one header"),
        (b"garbage " * 100, 0, "not a tar file: the first header's checksum is wrong"),
        (gzip.compress(b"x" * 9999), 0, "not a tar file: it starts like gzip; decompress it first"),
        (
            gzip.compress(NOISE),
            0,
            "not a tar file: it starts like gzip; decompress it first",
        ),
        (
            bz2.compress(NOISE),
            0,
            "not a tar file: it starts like bzip2; decompress it first",
        ),
        (lzma.compress(NOISE), 0, "not a tar file: it starts like xz; decompress it first"),
    ],
    ids=["empty", "short", "zeros", "garbage", "gz small", "gz", "bz2", "xz"],
)
def test_not_a_tar(tmp_path: Path, content: bytes, offset: int, message: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    assert damage_of(path) == (offset, message)
    assert our_members(path) == []


GOOD = plain("a.txt", b"good")
BIG = "member 'big.txt' cut off: its data end at byte 1099511629312, the file at"
BAD_SUM = bytearray(plain("b.txt", b"bad"))
BAD_SUM[0] ^= 1


def negative_size() -> bytes:
    header = bytearray(plain("neg.txt", b""))
    header[124:136] = b"\xff" * 11 + b"\x00"
    return resum(header)


def large_size() -> bytes:
    header = bytearray(plain("large.txt", b""))
    header[124:136] = b"\x80" + b"\x7f" * 11
    return resum(header)


def text_size() -> bytes:
    header = bytearray(plain("text.txt", b""))
    header[124:136] = b"00000000xyz\0"
    return resum(header)


def resum(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (bytes(BAD_SUM) + END, "header checksum is wrong at offset 1024: nothing from there on is indexed"),
        (negative_size() + END, "size of member 'neg.txt' is negative"),
        (large_size() + END, "size of member 'large.txt' is absurdly large"),
        (text_size() + END, "size of member 'text.txt' is not a number"),
        (
            plain("big.txt", b"", size=1 << 40) + END,
            "member 'big.txt' cut off: its data end at byte 1099511629312, the file at",
        ),
        (pax_block({"size": "-5"}) + plain("p.txt", b"") + END, "pax size of member 'p.txt' is not a valid size: '-5'"),
        (pax_block({"size": "9" * 30}) + plain("p.txt", b"") + END, "pax size of member 'p.txt' is not a valid size"),
        (pax_block({"path": "x"}), "the archive ends after an extended header, before the member it describes"),
        (pax_block({"path": "x"}) + END, "the archive ends after an extended header, before the member it describes"),
        (plain("././@LongLink", b"", b"L", size=2 << 20) + END, "GNU long name of 2097152 bytes: more than 1 MiB"),
        (plain("././@LongLink", b"", b"L", size=1 << 19) + END, "GNU long name cut off by the end of the file"),
        (plain("pax", b"", b"x", size=1 << 30) + END, "pax header of 1073741824 bytes: more than 16 MiB"),
        (plain("pax", b"", b"x", size=1 << 20) + END, "pax header cut off by the end of the file"),
        (bytes(512) + GOOD + END, "a single zero block is followed by data: nothing from there on is indexed"),
    ],
)
def test_damage_behind_a_good_member(tmp_path: Path, tail: bytes, message: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(GOOD + tail)
    offset, text = damage_of(path)
    assert text.startswith(message)
    assert offset == 1024
    assert our_members(path) == [("a.txt", 512, 4)]


def test_notes(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(GOOD + END + b"not a header" * 100)
    index = index_tars(path)
    assert (index.damage, len(index)) == ([], 1)
    assert [n.message for n in index.notes] == ["data follow the end-of-archive marker: they are not indexed"]
    path.write_bytes(GOOD + END)
    assert index_tars(path).notes == []


def test_signed_checksum(tmp_path: Path) -> None:
    header = bytearray(plain("ä.txt", b"x"))
    header[148:156] = b" " * 8
    signed = sum(b - 256 if b > 127 else b for b in header[:512])
    header[148:156] = b"%06o\0 " % signed
    path = tmp_path / "a.tar"
    path.write_bytes(header + END)
    assert our_members(path) == [("ä.txt", 512, 1)]


SEED_TARS = [
    GOOD + pax_block({"path": "é.jpg", "size": "3"}) + plain("q.jpg", b"abc") + GOOD + END,
    plain("././@LongLink", b"n" * 200 + b".json\0", b"L") + plain("n", b'{"uid": "x"}') + GOOD + END,
    b"".join(plain(f"{i}.jpg", GIF) + plain(f"{i}.json", b'{"uid": NaN}') for i in range(5)) + END,
]


EDITS = st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=16)), max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(SEED_TARS),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=16)), max_size=5),
)
def test_flipped_bytes_never_crash(tmp_path: Path, seed: bytes, edits: list[tuple[int, bytes]]) -> None:
    data = bytearray(seed)
    for at, new in edits:
        at %= len(data)
        data[at : at + len(new)] = new[: len(data) - at]
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    index = index_tars(path)
    for row in index.members().to_pylist():
        assert row["offset"] + row["size"] <= len(data)
    index.samples()
    index.others()


def test_named_pipe_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(OSError, match=r"expected a regular file.*a\.tar"):
        index_tars(tmp_path / "a.tar")


def test_long_global_name_does_not_multiply(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    members = b"".join(plain(f"{i}.jpg", b"") for i in range(50))
    for length in (253, 4000):
        path.write_bytes(pax_block({"path": "a" * length + ".jpg"}, b"g") + members + END)
        assert damage_of(path)[1] == f"global pax path of {length + 4} bytes: more than 256"
    path.write_bytes(pax_block({"path": "a" * 252 + ".jpg"}, b"g") + members + END)
    assert len(index_tars(path)) == 50
