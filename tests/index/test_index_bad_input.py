"""Bad input of the index: nothing is split, lost or believed silently."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import dcfast
import pytest
from dcfast import access
from dcfast.errors import CorruptDataError
from dcfast.index.build import index_tars, write_segment
from dcfast.index.segments import SampleFlag, Segment
from dcfast.interop.wids import write_wids
from tar_reference import GIF, UID, make_tar, our_groups, our_members, sample_members, tarfile_members
from test_tar_index import END, plain


def test_interleaved_samples_are_reported(tmp_path: Path) -> None:
    """Two writers into one tar: every part is there, marked, and the shard has a note that says so."""
    a, b, c = (sample_members(i, 10) for i in range(3))
    path = make_tar(tmp_path / "a.tar", [a[0], b[0], a[1], b[1], a[2], b[2], *c])
    index = index_tars(path)
    groups = [*(["jpg"], ["jpg"], ["json"], ["json"], ["txt"], ["txt"]), ["jpg", "json", "txt"]]
    assert [exts for _, exts in our_groups(index.segment)] == groups
    repeated = [bool(f & SampleFlag.REPEATED_KEY) for f in index.segment.flags.tolist()]
    assert repeated == [False, False, True, True, True, True, False]
    # no part passes for a whole sample
    lacking = int(SampleFlag.NO_JSON | SampleFlag.NO_CAPTION | SampleFlag.NO_IMAGE)
    assert all(f & lacking for f in index.segment.flags.tolist()[:6])
    assert index.damage == []
    (note,) = index.notes
    assert note.message == (
        "4 samples have the key of an earlier one, the first '000000000': written twice, or interleaved with others; "
        "each part is a sample of its own"
    )
    with tarfile.open(path) as tar:
        assert note.offset == tar.getmembers()[2].offset


def test_samples_written_twice_are_reported(tmp_path: Path) -> None:
    """A writer that was killed and began anew at the end of the same tar."""
    members = [m for i in range(3) for m in sample_members(i, 10)]
    index = index_tars(make_tar(tmp_path / "a.tar", [*members[:4], *members]))
    assert [n.message.split(",")[0] for n in index.notes] == ["2 samples have the key of an earlier one"]
    one = index_tars(make_tar(tmp_path / "b.tar", [*members, *members[:3]]))
    assert [n.message.split(":")[0] for n in one.notes] == ["1 sample has the key of an earlier one, '000000000'"]
    uid = one.segment.uid
    assert uid[0].tolist() == uid[3].tolist()


def test_shorter_archive_written_over_a_longer_one(tmp_path: Path) -> None:
    """What a killed writer left stays behind the new end: it is not indexed, and a note tells of it."""
    noise = GIF + random.Random(3).randbytes(3000)  # zeros alone, as padding is, would lead on to the next header
    members = {i: sample_members(i, 0, picture=noise) for i in range(93)}
    old = make_tar(tmp_path / "old.tar", [m for i in range(40) for m in members[i]]).read_bytes()
    new = make_tar(tmp_path / "new.tar", [m for i in range(90, 93) for m in members[i]]).read_bytes()
    path = tmp_path / "a.tar"
    end = len(new.rstrip(b"\0")) // 512 * 512 + 512 + 1024
    path.write_bytes(new[:end] + old[end:])
    index = index_tars(path)
    assert [key for key, _ in our_groups(index.segment)] == [f"{i:09d}" for i in (90, 91, 92)]
    assert [n.message for n in index.notes] == ["data follow the end-of-archive marker: they are not indexed"]


@pytest.mark.parametrize("size", [(8 << 30) - 1, 8 << 30, (8 << 30) + 1, 20 << 30])
@pytest.mark.parametrize("dialect", ["gnu", "pax"])
def test_members_of_8_gib(tmp_path: Path, size: int, dialect: str) -> None:
    """Sizes past the octal field; what lies behind them is found and can be read."""
    path = tmp_path / "a.tar"
    entry = tarfile.TarInfo("k.bin")
    entry.size = size
    formats = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
    header = entry.tobuf(formats[dialect])
    text = json.dumps({"uid": UID}).encode()
    with open(path, "wb") as out:  # holes take no space
        out.write(header)
        out.seek(len(header) + -(-size // 512) * 512)
        out.write(plain("k.json", text) + plain("l.txt", b"behind") + END)
    rows, error = tarfile_members(path)
    assert (our_members(path), error) == (rows, None)
    assert rows[0] == ("k.bin", len(header), size)
    index = index_tars(path)
    assert index.samples()["uid"].to_pylist() == [UID, None]
    assert bytes(access.read_members(index, [0], "json")[0]) == text
    assert bytes(access.read_members(index, [1], "txt")[0]) == b"behind"
    with pytest.raises(ValueError, match="memory_bytes"):
        access.read_members(index, [0, 1])  # a hole of gigabytes is not read into memory unasked


@pytest.mark.parametrize("dialect", ["gnu", "pax"])
def test_names_of_4_kb(tmp_path: Path, dialect: str) -> None:
    stem = "d/" * 1000 + "é" * 1000
    names = [f"{stem}{i}.{ext}" for i in range(20) for ext in ("jpg", "json")]
    assert len(os.fsencode(names[0])) > 4000
    path = make_tar(
        tmp_path / "a.tar", [(n, GIF if n.endswith("jpg") else b'{"uid": "%s"}' % UID.encode()) for n in names], dialect
    )
    assert our_members(path) == tarfile_members(path)[0]
    index = index_tars(path)
    assert index.segment.key(7) == f"{stem}7"
    assert index.segment.uid_hex().to_pylist() == [UID] * 20
    assert bytes(access.read_members(index, [19], "jpg")[0]) == GIF
    (idx,) = dcfast.interop.write_wds2idx(index, tmp_path)
    assert dcfast.interop.read_wds2idx(idx)["name"].to_pylist() == names


def test_names_that_lead_out_of_a_directory_are_only_names(tmp_path: Path) -> None:
    """Members are read by offset: no name is ever opened, whatever it says."""
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    names = ["../secret.txt", "/etc/passwd.txt", "a/../../secret.txt", "..", "../..", "./x.txt", str(secret)]
    pool = tmp_path / "pool"
    pool.mkdir()
    with tarfile.open(pool / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 4
            tar.addfile(entry, io.BytesIO(b"mine"))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    index = index_tars(pool / "a.tar")
    read = access.read_members(index, range(len(index)), "txt", numbering="sample")
    assert [bytes(view) for view in read] == [b"mine"] * 5
    assert index.others()["name"].to_pylist() == ["..", "../..", "link.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pool", "secret.txt"]


@pytest.mark.parametrize("name", ["../outside.tar", "/outside.tar", "a/../../outside.tar"])
def test_index_that_names_shards_outside_of_the_pool(tmp_path: Path, name: str) -> None:
    """A hostile index cannot make a reader open what is not in the pool."""
    make_tar(tmp_path / "outside.tar", sample_members(0))
    (tmp_path / "pool" / "a").mkdir(parents=True)
    write_segment([(tmp_path / "outside.tar", name)], tmp_path / "s")
    segment = Segment.open(tmp_path / "s")
    with pytest.raises(CorruptDataError, match=r"outside\.tar"):
        access.read_members(segment, [0], "jpg", shards_dir=tmp_path / "pool")
    with pytest.raises(CorruptDataError, match="lies outside of"):
        write_wids(segment, tmp_path / "w.json", md5=True, shards_dir=tmp_path / "pool")


def test_index_older_than_its_shard(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", sample_members(0))
    os.utime(path, ns=(5, 5))
    segment = index_tars(path).segment
    assert segment.check_fresh() == []
    os.utime(path, ns=(6, 6))
    assert segment.check_fresh() == [(0, "changed")]
    with pytest.raises(CorruptDataError, match=r"a\.tar"):
        access.read_members(segment, [0], "jpg")


def _until_damaged(path: Path, disturb: str) -> str:
    """Indexes while another process disturbs the file without a pause, until the index notices; its message.

    A process, because a thread would wait for the interpreter's lock most of the time; and a time limit instead of
    a number of tries, because a busy machine may not run the other process for a while.
    """
    code = f"import os\nutime, link, rename = os.utime, os.link, os.rename\nwhile True:\n    {disturb}"
    with subprocess.Popen([sys.executable, "-c", code], cwd=path.parent) as disturbing:
        try:
            until = time.monotonic() + 120
            while time.monotonic() < until and disturbing.poll() is None:
                index = index_tars(path)
                if index.damage:
                    return index.damage[-1].message
        finally:
            disturbing.kill()
    return "nothing noticed"


def test_shard_changed_while_it_is_indexed(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", [m for i in range(1500) for m in sample_members(i, 10)])
    message = _until_damaged(path, "utime('a.tar')")
    assert message == "the file changed while it was indexed: index it again"


def test_shard_replaced_while_it_is_indexed(tmp_path: Path) -> None:
    """Another file of the same size and time takes the path: only its inode tells."""
    path = make_tar(tmp_path / "a.tar", [m for i in range(1500) for m in sample_members(i, 10)])
    for name in ("one", "two"):
        shutil.copy2(path, tmp_path / name)
    message = _until_damaged(path, "; ".join(f"link('{n}', 'new'); rename('new', 'a.tar')" for n in ("one", "two")))
    assert message == "the file was replaced while it was indexed: index it again"


def test_flipped_bits_of_an_index_are_found_or_harmless(tmp_path: Path) -> None:
    """Without the checksums a damaged index gives wrong rows at worst: it never reads outside of its file."""
    path = make_tar(tmp_path / "a.tar", [m for i in range(5) for m in sample_members(i, 10)])
    write_segment([(path, str(path))], tmp_path / "s")
    good = (tmp_path / "s").read_bytes()
    for at in range(64 + 28 * 48, len(good), 5):
        data = bytearray(good)
        data[at] ^= 0x80
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(CorruptDataError):
            Segment.open(tmp_path / "bad")
        try:
            segment = Segment.open(tmp_path / "bad", verify=False)
            access.read_members(segment, [0, 4], "json", memory_bytes=1 << 20)
            segment.members()
            segment.samples()
        except (dcfast.DcfastError, OSError, ValueError, IndexError):
            pass
