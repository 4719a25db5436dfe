"""The tar index agrees with Python's tarfile, GNU tar and webdataset, in every dialect."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import dcfast
import numpy as np
import pytest
import webdataset
from dcfast.index.build import index_tars, write_segment
from dcfast.index.segments import SampleFlag, Segment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tar_reference import FORMATS, GIF, UID, group, make_tar, our_groups, our_members, sample_members, tarfile_members

LONG = "d/" + "/".join(["123456789"] * 40) + "/name.with.dots.jpg"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("count", [0, 1, 2, 101])
def test_formats_of_tarfile(tmp_path: Path, format: str, count: int) -> None:
    sizes = random.Random(1)
    members = [m for i in range(count) for m in sample_members(i, sizes.choice([0, 1, 511, 512, 513, 9000]))]
    path = make_tar(tmp_path / "a.tar", members, format)
    index = index_tars(path)
    assert our_members(path) == tarfile_members(path)[0]
    assert (len(index), index.damage, index.notes) == (count, [], [])
    samples = index.samples().to_pylist()
    assert [s["uid"] for s in samples] == [f"{i:032x}" for i in range(count)]
    assert [(s["width"], s["height"], s["row"], s["flags"]) for s in samples] == [(3, 2, i, 0) for i in range(count)]


@pytest.mark.parametrize("format", ["gnu", "pax"])
@pytest.mark.parametrize("length", [99, 100, 101, 255, 256, 257, 4096, 70_000])
def test_long_names(tmp_path: Path, format: str, length: int) -> None:
    name = ("long/" * length)[: length - 5] + "k.jpg"
    path = make_tar(tmp_path / "a.tar", [(name, GIF), ("z.txt", b"after")], format)
    assert our_members(path) == tarfile_members(path)[0]
    assert our_members(path)[0][0] == name


def test_ustar_prefix(tmp_path: Path) -> None:
    name = "p" * 100 + "/" + "n" * 96 + ".jpg"
    path = make_tar(tmp_path / "a.tar", [(name, GIF)])
    assert our_members(path) == [(name, 512, len(GIF))]


def test_pax_header_on_every_member(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", [m for i in range(7) for m in sample_members(i)], "pax", mtime=1.5)
    rows = our_members(path)
    assert rows == tarfile_members(path)[0]
    assert rows[0][1] == 1536
    segment = index_tars(path).segment
    assert segment.sample_base[0] == 0
    assert segment.num_samples == 7


def pax_block(records: dict[str, str], type: bytes = b"x") -> bytes:
    return tarfile.TarInfo._create_pax_generic_header(records, type, "utf-8")  # type: ignore[attr-defined]


def plain(name: str, data: bytes, type: bytes = b"0", size: int | None = None) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = len(data) if size is None else size
    member.type = type
    return member.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


END = bytes(1024)


def test_pax_path_size_and_global(tmp_path: Path) -> None:
    data = b"0123456789"
    path = tmp_path / "a.tar"
    body = data + bytes(502)
    path.write_bytes(
        pax_block({"path": "dir/new.jpg", "size": "10"})
        + plain("old.jpg", b"", size=0)
        + body
        + pax_block({"path": "global.txt", "comment": "x"}, b"g")
        + plain("a.txt", b"one")
        + pax_block({"path": "local.txt"})
        + plain("b.txt", b"two")
        + END
    )
    assert [(n, s) for n, _, s in our_members(path)] == [("dir/new.jpg", 10), ("global.txt", 3), ("local.txt", 3)]
    assert our_members(path) == tarfile_members(path)[0]


def test_base_256_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    size = 9 << 30
    with open(path, "wb") as out:
        out.write(plain("big.bin", b"", size=size))  # tarfile writes it in base 256
        out.seek(512 + size)
        out.write(plain("big.json", json.dumps({"uid": UID}).encode()) + END)
    assert our_members(path) == [("big.bin", 512, size), ("big.json", 1024 + size, 43)]
    segment = index_tars(path).segment
    assert segment.member_offset().tolist() == [512, 1024 + size]
    assert segment.member_size().tolist() == [size, 43]
    assert index_tars(path).samples()["uid"].to_pylist() == [UID]


def test_kinds_that_are_not_regular(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind in (
            ("d", tarfile.DIRTYPE),
            ("a.jpg", tarfile.REGTYPE),
            ("a.json", tarfile.LNKTYPE),
            ("a.lnk", tarfile.SYMTYPE),
            ("a.fifo", tarfile.FIFOTYPE),
            ("a.txt", tarfile.CONTTYPE),
            ("v7dir/", tarfile.AREGTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "a.jpg"
            tar.addfile(member)
    index = index_tars(path)
    assert [n for n, _, _ in our_members(path)] == ["a.jpg", "a.txt"]
    assert our_members(path) == tarfile_members(path)[0]
    kinds = [(o["name"], o["kind"]) for o in index.others().to_pylist()]
    assert kinds == [
        ("d", "directory"),
        ("a.json", "hard_link"),
        ("a.lnk", "symlink"),
        ("a.fifo", "other"),
        ("v7dir", "directory"),
    ]
    assert our_groups(index.segment) == [("a", ["jpg", "txt"])]


def test_sizes_of_links_and_directories_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    types = [b"1", b"2", b"3", b"4", b"5", b"6"]
    path.write_bytes(b"".join(plain(f"n{t.decode()}", b"", t, size=700) for t in types) + plain("x.txt", b"t") + END)
    assert our_members(path) == tarfile_members(path)[0] == [("x.txt", 512 * 7, 1)]


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")
@pytest.mark.parametrize("format", ["v7", "ustar", "gnu", "oldgnu", "posix"])
def test_gnu_tar(tmp_path: Path, format: str) -> None:
    tree = tmp_path / "tree"
    for name in ["a.jpg", "a.json", "a.txt", "sub/b.jpg", "sub/b.tar.gz", "ümlaut.png", "no_dot", ".hidden.jpg"]:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(name.encode() * 300)
    if format not in ("v7", "ustar"):
        deep = tree / LONG
        deep.parent.mkdir(parents=True)
        deep.write_bytes(b"deep")
    os.symlink("a.jpg", tree / "link.jpg")
    os.link(tree / "a.jpg", tree / "z.jpg")
    path = tmp_path / "a.tar"
    subprocess.run(["tar", f"--format={format}", "--sort=name", "-C", str(tree), "-cf", str(path), "."], check=True)
    rows, error = tarfile_members(path)
    assert error is None
    assert our_members(path) == rows
    assert len(rows) == (9 if format not in ("v7", "ustar") else 8)  # a.jpg or z.jpg is a hard link
    assert index_tars(path).damage == []


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")
@pytest.mark.parametrize("version", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_members_are_reported(tmp_path: Path, version: str) -> None:
    with open(tmp_path / "holes.bin", "wb") as out:
        for i in range(40):
            out.seek(i * (1 << 20))
            out.write(b"x" * 4096)
    (tmp_path / "holes.txt").write_bytes(b"plain")
    path = tmp_path / "a.tar"
    options = ["--format=gnu"] if version == "gnu" else ["--format=posix", f"--sparse-version={version}"]
    names = ["holes.bin", "holes.txt"]
    subprocess.run(["tar", *options, "-S", "-C", str(tmp_path), "-cf", str(path), *names], check=True)
    index = index_tars(path)
    assert [n for n, _, _ in our_members(path)] == ["holes.txt"]
    assert our_members(path) == tarfile_members(path)[0]
    assert [(o["name"], o["kind"]) for o in index.others().to_pylist()] == [("holes.bin", "sparse")]
    assert index.damage == []
    assert [n.message for n in index.notes] == [
        "sparse member 'holes.bin' is listed, but not readable as plain bytes: it belongs to no sample"
    ]


def test_webdataset_writer_and_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    draw = random.Random(2)
    with webdataset.TarWriter(str(path)) as writer:
        for i in range(53):
            uid = f"{draw.getrandbits(128):032x}"
            sample = {"__key__": f"x/{i:05d}", "jpg": draw.randbytes(draw.choice([10, 30_000])), "json": {"uid": uid}}
            writer.write({**sample, "txt": "t" * draw.randrange(900), "cls": i, "Seg.PNG": b"p"})
    segment = index_tars(path).segment
    data = path.read_bytes()
    offset, size = segment.member_offset(), segment.member_size()
    ours = []
    for i, (key, exts) in enumerate(our_groups(segment)):
        first = int(segment.member_begin[i])
        spans = [(int(offset[first + k]), int(size[first + k])) for k in range(len(exts))]
        ours.append({"__key__": key, **{e.lower(): data[o : o + s] for e, (o, s) in zip(exts, spans, strict=True)}})
    theirs = [
        {k: v for k, v in s.items() if k not in ("__url__", "__local_path__")}
        for s in webdataset.WebDataset(str(path), shardshuffle=False)
    ]
    assert ours == theirs
    assert our_members(path) == tarfile_members(path)[0]


NAMES = st.one_of(
    st.sampled_from(["a.jpg", "a.JPG", "a.json", "b.txt", "a", ".a.jpg", "d/.x", "__m__/a.jpg", "__m__", "__m__.jpg"]),
    st.builds(
        "".join,
        st.lists(
            st.sampled_from(["a", "b", ".", "/", "__", "Ä", "é", "jpg", "json", "x" * 90]), min_size=1, max_size=9
        ),
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(NAMES, st.binary(max_size=1200)), max_size=12), st.sampled_from(["gnu", "pax"]))
def test_round_trip(tmp_path: Path, members: list[tuple[str, bytes]], format: str) -> None:
    members = [(name.strip("/") or "x", data) for name, data in members]
    path = make_tar(tmp_path / "a.tar", members, format)
    rows, error = tarfile_members(path)
    assert error is None
    assert our_members(path) == rows
    data = path.read_bytes()
    assert [(n, data[o : o + s]) for n, o, s in rows] == members
    index = index_tars(path)
    samples, strays = group(name for name, _ in members)
    assert our_groups(index.segment) == samples
    assert index.others()["name"].to_pylist() == strays
    assert index.damage == []


def test_repeated_extensions_and_keys(tmp_path: Path) -> None:
    names = ["a.jpg", "a.JPG", "a.txt", "b.jpg", "readme", "b.txt", "a.jpg"]
    index = index_tars(make_tar(tmp_path / "a.tar", [(n, b"") for n in names]))
    assert our_groups(index.segment) == [("a", ["jpg"]), ("a", ["JPG", "txt"]), ("b", ["jpg", "txt"]), ("a", ["jpg"])]
    both = int(SampleFlag.REPEATED_EXT | SampleFlag.REPEATED_KEY)
    assert (index.segment.flags & both).tolist() == [0, both, 0, int(SampleFlag.REPEATED_KEY)]
    assert index.segment.exts_lower == ["jpg", "jpg", "txt"]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    raw = [b"\xff\xfe.jpg", b"a\xe2\x98.txt", "☺.png".encode(), b"\xed\xa0\x80.gif", b"ok\\x41.txt"]
    path = make_tar(tmp_path / "a.tar", [(os.fsdecode(n), b"1") for n in raw], "gnu")
    names = [n for n, _, _ in our_members(path)]
    assert names == [n.decode("utf-8", "backslashreplace") for n in raw]
    assert names == [n for n, _, _ in tarfile_members(path)[0]]
    assert index_tars(path).segment.key(1) == "a\\xe2\\x98"


UIDS = [
    (json.dumps({"a": [1, {"uid": "no"}], "uid": UID, "z": None}), UID, 0),
    (json.dumps({"uid": UID.upper()}), UID, 0),
    ('{"\\u0075id": "' + "\\u0030\\u0030" + UID[2:] + '"}', UID, 0),
    (
        '{"uid": "' + UID + '", "x": 1, "uid": "00000000000000000000000000000000"}',
        UID,
        0,
    ),  # the first, as simdjson has it
    ('{"uid": null, "uid": "' + UID + '"}', None, SampleFlag.NO_UID),
    (json.dumps({"uid": UID[2:]}), "00" + UID[2:], 0),  # as if zeros stood on the left
    (json.dumps({"uid": "aB"}), "0" * 30 + "ab", 0),
    (json.dumps({"uid": ""}), None, SampleFlag.BAD_UID),
    ('{"x": NaN, "y": [-Infinity, Infinity], "uid": "' + UID + '"}', UID, 0),
    ('{"n": 123456789012345678901234567890, "f": 1e999, "uid": "' + UID + '"}', UID, 0),
    ('{"t": "\\ud83d and \\udc00 \\ud83d\\ude00 NaN \\" 1", "uid": "' + UID + '"}', UID, 0),
    ('\ufeff{"uid": "' + UID + '"}', UID, 0),
    (json.dumps({"caption": "x" * 200_000, "uid": UID}), UID, 0),
    (json.dumps({"uid": "0" * 32}), "0" * 32, 0),
    (json.dumps({"key": 1}), None, SampleFlag.NO_UID),
    (json.dumps({"uid": None}), None, SampleFlag.NO_UID),
    (json.dumps([UID]), None, SampleFlag.NO_UID),
    ('"uid"', None, SampleFlag.NO_UID),
    (json.dumps({"uid": UID[:-1] + "g"}), None, SampleFlag.BAD_UID),
    (json.dumps({"uid": UID + "0"}), None, SampleFlag.BAD_UID),
    (json.dumps({"uid": int(UID, 16)}), None, SampleFlag.BAD_UID),
    (json.dumps({"uid": 7}), None, SampleFlag.BAD_UID),
    ("", None, SampleFlag.BAD_JSON),
    ('{"uid": "' + UID + '"', None, SampleFlag.BAD_JSON),
    ('{"uid": "' + UID + '", "x": }', None, SampleFlag.BAD_JSON),
    ('{"uid": "' + UID + '"} trailing', None, SampleFlag.BAD_JSON),
    ('{"x": 01, "uid": "' + UID + '"}', None, SampleFlag.BAD_JSON),
    ('{"x": -NaN, "uid": "' + UID + '"}', None, SampleFlag.BAD_JSON),
    ('{"x": NaNs, "uid": "' + UID + '"}', None, SampleFlag.BAD_JSON),
    ('{"x": --1, "uid": "' + UID + '"}', None, SampleFlag.BAD_JSON),
    ("\udcff", None, SampleFlag.BAD_JSON),
]


@pytest.mark.parametrize(("text", "uid", "flag"), UIDS, ids=range(len(UIDS)))
def test_uid_of_the_json(tmp_path: Path, text: str, uid: str | None, flag: int) -> None:
    raw = text.encode("utf-8", "surrogateescape")
    path = make_tar(tmp_path / "a.tar", [("a.jpg", GIF), ("a.json", raw), ("a.txt", b"t"), ("b.txt", b"t")])
    index = index_tars(path)
    first, second = index.samples().to_pylist()
    assert (first["uid"], first["flags"]) == (uid, int(flag))
    assert (second["uid"], second["flags"]) == (None, int(SampleFlag.NO_JSON | SampleFlag.NO_IMAGE))
    high, low = index.segment.uid[0].tolist()
    assert (high << 64 | low) == int(uid or "0", 16)
    # what we call bad, Python's json refuses too, and the other way round
    try:
        value = json.loads(raw, object_pairs_hook=lambda pairs: dict(reversed(pairs)))  # the first of equal names
    except ValueError:
        assert flag == SampleFlag.BAD_JSON
    else:
        assert flag != SampleFlag.BAD_JSON
        assert not isinstance(value, dict) or str(value.get("uid")).lower().zfill(32) == uid or uid is None


def test_options_and_flags(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", [m for i in range(3) for m in sample_members(i)])
    stats = write_segment([(path, "x")], tmp_path / "s", read_uid=False, read_image_size=False)
    assert dict(zip(SampleFlag.__members__, stats.flag_counts, strict=False))["NO_UID"] == 3
    segment = Segment.open(tmp_path / "s")
    assert (segment.width.tolist(), segment.uid.tolist()) == ([0, 0, 0], [(0, 0)] * 3)
    assert segment.uid_hex().null_count == 3
    empty = index_tars(make_tar(tmp_path / "b.tar", [("k.cls", b"1")])).segment
    assert empty.flags.tolist() == [int(SampleFlag.NO_JSON | SampleFlag.NO_CAPTION | SampleFlag.NO_IMAGE)]


def test_first_picture(tmp_path: Path) -> None:
    names = ["a.txt", "a.seg.PNG", "a.jpg", "b.jpgx", "b.json", "c.jpeg"]
    segment = index_tars(make_tar(tmp_path / "a.tar", [(n, GIF) for n in names])).segment
    assert segment.image_member().tolist() == [1, -1, 5]
    assert segment.width.tolist() == [3, 0, 3]


def test_threads_and_directories(tmp_path: Path) -> None:
    for k in range(5):
        make_tar(tmp_path / f"{k}.tar", [m for i in range(11 * k) for m in sample_members(100 * k + i)], "pax")
    (tmp_path / "notes.txt").write_text("x")
    paths = [tmp_path / f"{k}.tar" for k in range(5)]
    pairs = [(path, path.name) for path in paths]
    for threads in (1, 2, 3, None):
        write_segment(pairs, tmp_path / f"s{threads}", threads)
    assert len({(tmp_path / f"s{t}").read_bytes() for t in (1, 2, 3, None)}) == 1
    by_list, by_directory = index_tars(paths, threads=2), index_tars(tmp_path)
    assert by_list.members().equals(by_directory.members())
    assert by_list.samples().equals(by_directory.samples())
    assert len(by_list) == 110
    assert by_list.segment.shard_sample_begin.tolist() == [0, 0, 11, 33, 66, 110]
    assert len(index_tars([])) == 0
    assert index_tars([]).members().num_rows == index_tars([]).samples().num_rows == 0


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tar"):
        index_tars(tmp_path / "nowhere.tar")
    with pytest.raises(dcfast.PoolError, match=r"no \.tar files"):
        index_tars(tmp_path)
    with pytest.raises(ValueError, match="threads must be None or"):
        index_tars([], threads=-1)
    with pytest.raises(TypeError, match="got bytes"):
        index_tars(b"a.tar")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads must be None or"):
        write_segment([], tmp_path / "s", -1)
    with pytest.raises(FileNotFoundError, match="gone"):
        write_segment([(tmp_path / "gone", "gone")], tmp_path / "s")
    assert list(tmp_path.iterdir()) == []  # nothing half written stays


def test_paths_with_spaces_and_bytes(tmp_path: Path) -> None:
    path = make_tar(tmp_path / os.fsdecode(b"a b \xff\n.tar"), sample_members(1))
    index = index_tars(str(path))
    assert index.segment.shard_names == [str(path)]
    assert index.segment.check_fresh() == []
    shard = index.members()["shard"].to_pylist()[0]
    assert shard == os.fsencode(path).decode("utf-8", "backslashreplace")


def test_many_extensions(tmp_path: Path) -> None:
    count = 65_600
    names = [f"img_2013.{i}.jpg" for i in range(count)]
    # one key throughout, an extension of its own each: the numbers do not fit in 16 bits
    path = make_tar(tmp_path / "a.tar", [(n, b"") for n in names])
    segment = index_tars(path).segment
    assert segment.num_samples == 1
    assert segment.member_ext().dtype == np.uint32
    assert segment.member_ext().tolist() == list(range(count))
    assert segment.member_offset().tolist() == [512 * (i + 1) for i in range(count)]
    assert index_tars(path).members()["name"].to_pylist() == names


def test_picture_far_from_its_start(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.new("RGB", (37, 59)).save(buffer, "jpeg", icc_profile=bytes(300_000), exif=b"Exif\0\0" + bytes(60_000))
    members = [("a.jpg", buffer.getvalue() + bytes(5000)), ("a.json", json.dumps({"uid": UID}).encode())]
    segment = index_tars(make_tar(tmp_path / "a.tar", members * 3)).segment
    assert segment.width.tolist() == [37, 37, 37]
    assert segment.height.tolist() == [59, 59, 59]
    assert segment.uid_hex().to_pylist() == [UID] * 3
