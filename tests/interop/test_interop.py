"""Index files of other tools: equal to what the tools write, read by them, and read back."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import dcfast
import numpy as np
import pytest
from dcfast.errors import CorruptDataError, PoolError
from dcfast.index.build import index_tars, write_segment
from dcfast.interop.sizes import CountDifference, count_differences, read_sizes, shard_counts, write_sizes
from dcfast.interop.wds2idx import read_wds2idx, write_wds2idx
from dcfast.interop.wids import WidsShard, read_wids, write_wids
from tar_reference import GIF, UID, make_tar, reference_idx, sample_members, tarfile_members

NAMES = ["k/a.jpg", "k/a.seg.PNG", "k/a.json", "b.txt", "c.jpg", "c.txt", "a.jpg"]


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    pool = tmp_path / "pool"
    pool.mkdir()
    make_tar(pool / "00000000.tar", [(n, n.encode() * 99) for n in NAMES], "pax", mtime=0.5)
    make_tar(pool / "00000001.tar", [m for i in range(13) for m in sample_members(i, 700)], "gnu")
    make_tar(pool / "00000002.tar", [m for i in range(5) for m in sample_members(i, 70)], "ustar")
    return sorted(pool.glob("*.tar"))


@pytest.fixture
def segment(tmp_path: Path, shards: list[Path]) -> dcfast.index.build.Segment:
    write_segment([(path, path.name) for path in shards], tmp_path / "segment")
    return dcfast.index.build.Segment.open(tmp_path / "segment")


# --- DALI -------------------------------------------------------------------------------------------------------


def test_idx_is_the_documented_format(tmp_path: Path, shards: list[Path], segment: Any) -> None:
    written = write_wds2idx(segment, tmp_path / "idx")
    assert [path.name for path in written] == [path.stem + ".idx" for path in shards]
    for idx, tar in zip(written, shards, strict=True):
        assert idx.read_text() == reference_idx(tar)
        table = read_wds2idx(idx)
        rows = list(zip(*(table[c].to_pylist() for c in ("name", "offset", "size")), strict=True))
        assert rows == tarfile_members(tar)[0]
        assert all(
            n.endswith("." + e) for n, e in zip(table["name"].to_pylist(), table["ext"].to_pylist(), strict=True)
        )
    assert read_wds2idx(written[0])["sample"].to_pylist() == [0, 0, 0, 1, 2, 2, 3]
    assert [path.name for path in write_wds2idx(index_tars(shards), tmp_path / "more")] == [p.name for p in written]
    assert [path.name for path in write_wds2idx([tmp_path / "segment"], tmp_path / "more")] == [p.name for p in written]


def test_idx_equals_that_of_the_tool(tmp_path: Path, shards: list[Path], segment: Any, real_data: Path) -> None:
    if importlib.util.find_spec("wds2idx") is None:
        pytest.skip("no wds2idx: pip install nvidia-dali-cuda130")
    wds2idx = importlib.import_module("wds2idx")
    tars = [*shards, real_data / "cc12m-train-0000.tar", *sorted((real_data / "pool" / "shards").glob("*.tar"))[:2]]
    for tar in tars:
        with wds2idx.IndexCreator(str(tar), str(tmp_path / "theirs.idx"), verbose=False) as creator:
            creator.create_index()
        (ours,) = write_wds2idx(index_tars(tar), tmp_path / "idx")
        assert ours.read_bytes() == (tmp_path / "theirs.idx").read_bytes(), tar


def test_dali_reads_with_our_idx(tmp_path: Path) -> None:
    fn = pytest.importorskip("nvidia.dali.fn", exc_type=ImportError)
    pipeline = importlib.import_module("nvidia.dali").pipeline_def
    tar = make_tar(tmp_path / "a.tar", [m for i in range(17) for m in sample_members(i)], "pax", mtime=0.5)
    (idx,) = write_wds2idx(index_tars(tar), tmp_path)

    @pipeline(batch_size=17, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def captions() -> Any:
        texts, infos = fn.readers.webdataset(paths=[str(tar)], index_paths=[str(idx)], ext=["txt", "json"])
        return texts, infos

    built = captions()
    built.build()
    texts, _ = built.run()
    assert [np.asarray(text).tobytes().decode() for text in texts] == [f"caption {i}" for i in range(17)]


def test_worked_example(tmp_path: Path, repo_root: Path) -> None:
    members = [("README", b"hello"), ("cat.GIF", GIF), ("cat.json", b'{"uid": "%s"}' % UID.encode())]
    tar = make_tar(tmp_path / "tiny.tar", [*members, ("cat.txt", b"a red cat")])
    (idx,) = write_wds2idx(index_tars(tar), tmp_path)
    page = (repo_root / "docs" / "formats.md").read_text("utf-8")
    assert "".join(f"    {line}\n" for line in idx.read_text().splitlines()) in page


def test_idx_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    for name in ("a b.jpg", "a.j\tpg", "a\n.jpg", "a."):
        index = index_tars(make_tar(tmp_path / "a.tar", [("x.jpg", b"1"), (name, b"1")]))
        with pytest.raises(ValueError, match=r"cannot stand in DALI's index.*a\.tar"):
            write_wds2idx(index, tmp_path / "idx")
    with pytest.raises(ValueError, match=r"a shard without samples.*a\.tar"):
        write_wds2idx(index_tars(make_tar(tmp_path / "a.tar", [("README", b"1")])), tmp_path / "idx")
    with pytest.raises(TypeError, match=r"pass \[path\]"):
        write_wds2idx("x", tmp_path)
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        make_tar(tmp_path / folder / "0.tar", sample_members(1))
    twice = index_tars([tmp_path / "x" / "0.tar", tmp_path / "y" / "0.tar"])
    with pytest.raises(ValueError, match=r"two shards would be written as .*0\.idx"):
        write_wds2idx(twice, tmp_path / "idx")
    with pytest.raises(ValueError, match=r"two shards of the index have the file name '0\.tar'"):
        shard_counts(twice)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected 'v1.2 SAMPLES'"),
        ("v1.0 1\njpg 512 3\n", "line 1: expected 'v1.2 SAMPLES' or 'v1.1 SAMPLES'; got 'v1.0 1'"),
        ("v1.2 2\njpg 512 3 a.jpg\n", "line 1: expected 2 samples; got 1; cut off"),
        ("v1.2 1\njpg 512 3\n", "line 2: expected 4 fields a member; got 3"),
        ("v1.2 1\njpg 512 3 a.jpg txt 1024\n", "line 2: expected 4 fields a member; got 6"),
        ("v1.2 1\n\n", "line 2: expected 4 fields a member; got 0"),
        ("v1.2 1\njpg 513 3 a.jpg\n", "line 2: expected an offset in blocks of 512 and a size; got 'jpg 513 3 a.jpg'"),
        ("v1.2 1\njpg -512 3 a.jpg\n", "line 2: expected an offset"),
        ("v1.1 1\njpg 512 x\n", "line 2: expected an offset"),
        (f"v1.1 1\njpg {1 << 63} 1\n", "line 2: expected an offset"),
        (f"v1.1 1\njpg 512 {1 << 64}\n", "line 2: expected an offset"),
        (f"v1.2 1\njpg 512 {(1 << 63) - 512} a.jpg\n", "line 2: expected an offset"),
        ("v1.1 1\njpg 512 " + "9" * 5000 + "\n", "line 2: expected an offset"),
        ("v1.2 " + "9" * 5000 + "\n", "line 1: expected 'v1.2 SAMPLES'"),
        ("v1.2 99999999999999\njpg 512 3 a.jpg\n", "line 1: expected 99999999999999 samples; got 1"),
        ("v1.2 1\njpg 512 3 a.j", "line 2: expected a line end behind the last line; got 'jpg 512 3 a.j'; cut off?"),
        ("v1.1 1\njpg 512 30", "line 2: expected a line end behind the last line"),
        ("v1.2 0", "line 1: expected a line end"),
        ("v1.2 1\rjpg 512 3 a.jpg\r", "line 1: expected 'v1.2 SAMPLES'"),
        ("\ufeffv1.2 0\n", "line 1: expected 'v1.2 SAMPLES'"),
        ("v1.2 2\n\njpg 512 3 a.jpg\n", "line 2: expected 4 fields a member; got 0"),
    ],
)
def test_bad_idx(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.idx"
    path.write_text(text, newline="")
    with pytest.raises(CorruptDataError) as caught:
        read_wds2idx(path)
    assert f"DALI index {path}, {message}" in str(caught.value)
    assert caught.value.path == str(path)
    assert caught.value.offset == (0 if "line 1" in message else 7)


def test_every_cut_of_an_idx_is_an_error(tmp_path: Path, shards: list[Path]) -> None:
    (idx,) = write_wds2idx(index_tars(shards[2]), tmp_path)
    whole = idx.read_bytes()
    for cut in range(len(whole)):
        idx.write_bytes(whole[:cut])
        with pytest.raises(CorruptDataError, match=r"a?0*2?\.idx, line \d+: expected"):
            read_wds2idx(idx)
    idx.write_bytes(whole.replace(b"\n", b"\r\n"))  # as an editor of another system leaves it
    (tmp_path / "again.idx").write_bytes(whole)
    assert read_wds2idx(idx).equals(read_wds2idx(tmp_path / "again.idx"))


def test_idx_of_names_that_are_not_utf8(tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as out:
        for name in (b"\xff/\xe9a.jpg", "größe.jpg".encode(), b"\x85\xa0.jp\x1cg", b"x" * 3000 + b".jpg"):
            out.addfile(tarfile.TarInfo(os.fsdecode(name)), io.BytesIO())
    (idx,) = write_wds2idx(index_tars(tar), tmp_path)
    assert [name[:20] for name in read_wds2idx(idx)["name"].to_pylist()] == [
        "\\xff/\\xe9a.jpg", "größe.jpg", "\\x85\\xa0.jp\x1cg", "x" * 20
    ]  # fmt: skip
    assert read_wds2idx(idx)["offset"].to_pylist() == index_tars(tar).members()["offset"].to_pylist()


def test_idx_of_no_samples(tmp_path: Path) -> None:
    (tmp_path / "a.idx").write_text("v1.2 0\n")
    table = read_wds2idx(tmp_path / "a.idx")
    assert (len(table), table.column_names) == (0, ["sample", "ext", "offset", "size", "name"])


def test_idx_of_version_1_1(tmp_path: Path) -> None:
    (tmp_path / "a.idx").write_bytes(b"v1.1 2\njpg 512 3 txt 1536 4\n\xffx 2560 0\n")
    assert read_wds2idx(tmp_path / "a.idx").to_pylist() == [
        {"sample": 0, "ext": "jpg", "offset": 512, "size": 3, "name": None},
        {"sample": 0, "ext": "txt", "offset": 1536, "size": 4, "name": None},
        {"sample": 1, "ext": "\\xffx", "offset": 2560, "size": 0, "name": None},
    ]


# --- wids -------------------------------------------------------------------------------------------------------


def test_wids_reads_what_is_written(tmp_path: Path, shards: list[Path], segment: Any) -> None:
    path = tmp_path / "pool" / "index.json"
    write_wids(segment, path, name="mine", md5=True, shards_dir=tmp_path / "pool")
    known = read_wids(path)
    assert (known.name, known.base, len(known)) == ("mine", "", 4 + 13 + 5)
    assert known.urls == [str(tar) for tar in shards]
    assert known.shards[1] == WidsShard(
        shards[1].name, 13, shards[1].stat().st_size, hashlib.md5(shards[1].read_bytes()).hexdigest()
    )
    assert count_differences(segment, known.counts) == []
    wids = pytest.importorskip("wids")
    local = tmp_path / "pool"
    theirs = wids.ShardListDataset(str(path), localname=lambda url: str(local / Path(url).name), transformations=[])
    assert len(theirs) == len(known)
    sample = theirs[4 + 3]
    assert sample["__key__"].endswith("000000003")
    names = [f"mine{i}.tar" for i in range(2)]
    for i, name in enumerate(names):
        make_tar(tmp_path / name, [m for k in range(3 + i) for m in sample_members(k)])
    # the other way round: wids' own tool writes, we read
    specs = sys.modules["wids.wids"]
    listed = [{"url": n, "nsamples": specs.compute_num_samples(str(tmp_path / n)), "filesize": 1} for n in names]
    text = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": listed, "base": "http://h/x"}
    (tmp_path / "theirs.json").write_text(json.dumps(text))
    read = read_wids(tmp_path / "theirs.json")
    assert read.urls == [f"http://h/x/{name}" for name in names]
    assert count_differences(index_tars([tmp_path / n for n in names]), read.counts) == []


def test_wids_datasets(tmp_path: Path) -> None:
    parts = [{"shardlist": [{"url": "b.tar", "nsamples": 2}], "base": "s3://x"}]
    text = {"wids_version": 1, "shardlist": [{"url": "/a.tar", "nsamples": 1}], "datasets": parts}
    (tmp_path / "d.json").write_text(json.dumps(text))
    assert read_wids(tmp_path / "d.json").urls == ["/a.tar", "s3://x/b.tar"]
    (tmp_path / "d.json").write_text(json.dumps({"wids_version": 1, "datasets": [{"source_url": "http://h/d.json"}]}))
    with pytest.raises(PoolError, match=r"datasets\[0\] is 'http://h/d\.json'; give read_wids that"):
        read_wids(tmp_path / "d.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not json"),
        ("[" * 100_000, "not json"),
        ("[]", "expected an object; got "),
        ('{"wids_version": 2}', "wids_version: expected 1; got 2"),
        ('{"wids_version": 1}', "it lists no shards"),
        ('{"wids_version": 1, "shardlist": {}}', "shardlist: expected a list; got {}"),
        ('{"wids_version": 1, "datasets": [3]}', r"datasets\[0\]: expected an object; got 3"),
        ('{"wids_version": 1, "datasets": [{}]}', r"datasets\[0\] has no shardlist"),
        (
            '{"wids_version": 1, "shardlist": [{"url": "a"}]}',
            r"shardlist\[0\]: object missing required field nsamples",
        ),
        ('{"wids_version": 1, "shardlist": [{"url": "a", "nsamples": -1}]}', r"shardlist\[0\]\.\w+: expected"),
        ('{"wids_version": 1, "shardlist": [{"url": "a", "nsamples": true}]}', r"shardlist\[0\]\.\w+: expected"),
        ('{"wids_version": 1, "shardlist": [{"url": "", "nsamples": 1}]}', r"shardlist\[0\]\.\w+: expected"),
        (
            '{"wids_version": 1, "shardlist": [{"url": "a", "nsamples": 9223372036854775808}]}',
            "nsamples: .*9223372036854775808",
        ),
        ('{"wids_version": 1, "shardlist": [{"url": "a", "nsamples": NaN}]}', "not json: expected numbers; got NaN"),
        (
            '{"wids_version": 1, "shardlist": [{"url": "a", "nsamples": 1, "filesize": "x"}]}',
            r"shardlist\[0\]\.\w+: expected",
        ),
        (
            '{"wids_version": 1, "shardlist": [{"url": "a", "nsamples": 1, "md5sum": 7}]}',
            r"shardlist\[0\]\.\w+: expected",
        ),
        (
            '{"wids_version": 1, "shardlist": [{"url": "a", "nsamples": ' + "9" * 5000 + "}]}",
            "not json: expected whole numbers of at most 20 digits",
        ),
        ('{"wids_version": 1, "shardlist": null}', "shardlist: expected a list; got null"),
        ('{"wids_version": 1, "datasets": 5}', "datasets: expected a list; got 5"),
        ('{"wids_version": 1, "datasets": null}', "datasets: expected a list; got null"),
        (
            '{"wids_version": 1, "datasets": [{"shardlist": [], "base": 7}]}',
            r"datasets\[0\].base: expected text or null; got 7",
        ),
        (
            '{"wids_version": 1, "shardlist": [{"url": "a", "nsamples": 1}], "base": ["x"]}',
            "base: expected text or null; got",
        ),
        (
            '{"wids_version": 1, "shardlist": [{"url": "a", "nsamples": 1}], "name": 5}',
            "name: expected text or null; got 5",
        ),
        ('{"wids_version": true}', "wids_version: expected a whole number; got true"),
        ('{"wids_version": 1, "shardlist": [], "shardlist": []}', "each key once in an object; got 'shardlist' more"),
        ('{"wids_version": 1,\r\n"shardlist":\r\n [x]}', "not json: Expecting value: line 3 column 3"),
        (b'{"wids_version": 1, "name": "\xff"}', "not json: .*can't decode byte 0xff in position 29"),
    ],
)
def test_bad_wids(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "w.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CorruptDataError, match=message) as caught:
        read_wids(tmp_path / "w.json")
    assert caught.value.path == str(tmp_path / "w.json")
    assert str(tmp_path / "w.json") in str(caught.value)


def test_every_cut_of_a_wids_description_is_an_error(tmp_path: Path, segment: Any) -> None:
    path = tmp_path / "w.json"
    write_wids(segment, path, name="a name\nwith \udcff", base="http://h/a b")
    known = read_wids(path)
    assert (known.name, known.base) == ("a name\nwith \udcff", "http://h/a b")
    whole = path.read_bytes()
    for cut in range(len(whole) - 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(CorruptDataError, match=r"w\.json: "):
            read_wids(path)
    for same in (whole.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + whole):
        path.write_bytes(same)
        assert read_wids(path) == known


def test_wids_shards_of_one_file_name_have_no_counts(tmp_path: Path) -> None:
    """The counts of one would be taken for the other's."""
    shards = [{"url": "x/a.tar", "nsamples": 1}, {"url": "y/a.tar", "nsamples": 3}]
    (tmp_path / "w.json").write_text(json.dumps({"wids_version": 1, "shardlist": shards}))
    known = read_wids(tmp_path / "w.json")
    assert len(known) == 4
    with pytest.raises(PoolError, match=r"w\.json: two shards have the file name 'a\.tar'"):
        _ = known.counts


# --- sizes.json -------------------------------------------------------------------------------------------------


def test_sizes(tmp_path: Path, shards: list[Path], segment: Any) -> None:
    write_sizes(segment, tmp_path / "pool")
    assert json.loads((tmp_path / "pool" / "sizes.json").read_bytes()) == {
        "00000000.tar": 4,
        "00000001.tar": 13,
        "00000002.tar": 5,
    }
    counts = read_sizes(tmp_path / "pool")
    assert counts == read_sizes(tmp_path / "pool" / "sizes.json") == shard_counts(segment)
    # a shard that was cut after it was counted
    shards[1].write_bytes(shards[1].read_bytes()[:8000])
    del counts["00000002.tar"]
    counts["00000009.tar"] = 7
    found = count_differences(index_tars(tmp_path / "pool"), counts)
    assert found[0][:2] == ("00000001.tar", 13)
    assert found[0].indexed is not None
    assert found[0].indexed < 13
    assert found[1:] == [CountDifference("00000002.tar", None, 5), CountDifference("00000009.tar", 7, None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not json"),
        ("[1]", "expected an object; got list"),
        ('{"a": "1"}', "expected a number of samples for 'a'; got '1'"),
        ('{"a": -1}', "got -1"),
        ('{"a": 1.5}', "got 1.5"),
        ('{"a": 9223372036854775808}', "got 9223372036854775808"),
        ('{"a": true}', "got True"),
        ('{"a": 1, "b": 1, "a": 2}', "expected each key once in an object; got 'a' more than once"),
        ('{"a":\r\n1,', "not json: .*line 2"),
    ],
)
def test_bad_sizes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sizes.json").write_text(text)
    with pytest.raises(CorruptDataError, match=message):
        read_sizes(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_sizes(tmp_path / "none.json")


def test_sizes_of_a_reshard_are_read(tmp_path: Path, shards: list[Path], segment: Any) -> None:
    uids = np.unique(segment.uid[segment.flags == 0])
    dcfast.reshard([segment], tmp_path / "out", uids, shards_dir=tmp_path / "pool", shard_size=7)
    assert count_differences(index_tars(tmp_path / "out"), read_sizes(tmp_path / "out")) == []
