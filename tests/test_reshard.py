"""Reshard: every output byte against webdataset's own writer; cuts, copies, repeats, errors, verification."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import webdataset
from dcfast import _core, resharder
from dcfast import reshard_rows as rows_module
from dcfast import reshard_verify as verify_module
from dcfast.errors import CorruptDataError, PoolError, RunError
from reshard_reference import (
    UID,
    FakeSegment,
    make_sample,
    make_uid,
    reference_reshard,
    subset_of,
    uid_array,
    write_pool,
    write_with_webdataset,
)

NO_SIZES, NO_TIMES = np.zeros(0, np.uint64), np.zeros(0, np.int64)


@pytest.fixture
def pool(tmp_path):
    """Three shards of 7, 0 and 30 samples in a directory with a space, as a list of two segments."""
    rng = np.random.default_rng(5)
    shards, number = [], 0
    for count in (7, 0, 30):
        shards.append([make_sample(rng, number + i, make_uid(number + i)) for i in range(count)])
        number += count
    directory = tmp_path / "a pool"
    names = write_pool(directory, shards)
    return directory, names, [FakeSegment(directory, names[:1]), FakeSegment(directory, names[1:])]


def read_output(out: Path) -> list[tuple[bytes, int]]:
    tars = sorted(out.glob("*.tar"))
    assert [t.name for t in tars] == [f"{i:08d}.tar" for i in range(len(tars))]
    return [(t.read_bytes(), json.loads(t.with_name(t.stem + "_stats.json").read_text())["successes"]) for t in tars]


def sample_keys(tar_path: Path) -> list[str]:
    """Keys of the samples of a shard in which each has three members."""
    with tarfile.open(tar_path) as tar:
        return [name.split(".")[0] for name in tar.getnames()[::3]]


# the core: headers and windows


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 8**11 - 1])
def test_header_equals_tarfile(size):
    info = tarfile.TarInfo("0123456789abcdef0123456789abcdef-0.jpg")
    info.size, info.mode, info.uname, info.gname = size, 0o444, "bigdata", "bigdata"
    assert _core.tar_member_header(info.name, size) == info.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize("size", [8**11, 8**11 + 1, 1 << 40, (1 << 63) - 1])
def test_header_of_a_large_member_is_base_256(size):
    info = tarfile.TarInfo("k.bin")
    info.size, info.mode, info.uname, info.gname = size, 0o444, "bigdata", "bigdata"
    header = _core.tar_member_header("k.bin", size)
    assert tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size == size
    assert header[124:136] == info.tobuf(tarfile.GNU_FORMAT)[124:136]


@pytest.mark.parametrize(
    "name",
    [
        "k." + "e" * 98,
        "k." + "e" * 99,
        "k." + "e" * 4096,
        "k." + "e" * 86,  # the pax record's length takes another digit with itself
        "k." + "e" * 982,
        "a/b.c/" * 40 + "k.jpg",
        "k.größe",
        "k.写真",
        "k.🙂" * 30,
        b"k.\xff\xfe".decode("utf-8", "surrogateescape"),
        b"k.\xe2\x82".decode("utf-8", "surrogateescape"),
        b"k.\xed\xa0\x80".decode("utf-8", "surrogateescape"),
        b"k.\xc0\x80\xf5".decode("utf-8", "surrogateescape"),
    ],
)
def test_header_of_a_long_or_foreign_name_equals_tarfile(name):
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uname, info.gname = 5, 0o444, "bigdata", "bigdata"
    assert _core.tar_member_header(os.fsencode(name), 5) == info.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize(("name", "message"), [("", "must not be empty"), ("a\0b", "NUL")])
def test_header_refuses_a_bad_name(name, message):
    with pytest.raises(ValueError, match=message):
        _core.tar_member_header(name, 0)


def write_core(out, sources, members, **options):
    """members: (name, source, offset, size)."""
    names = [os.fsencode(m[0]) for m in members]
    columns = [np.array([m[i] for m in members], t) for i, t in ((1, np.uint32), (2, np.uint64), (3, np.uint64))]
    begin = np.cumsum([0] + [len(n) for n in names]).astype(np.uint64)
    blob = np.frombuffer(b"".join(names), np.uint8)
    paths = [os.fsencode(s) for s in sources]
    return _core.write_shard(os.fsencode(out), paths, NO_SIZES, NO_TIMES, *columns, blob, begin, **options)


@pytest.mark.parametrize("window", [4096, 5000, 1 << 19])
def test_payloads_of_odd_sizes(tmp_path, window):
    rng = np.random.default_rng(1)
    data = rng.bytes(9_000_001)
    (tmp_path / "source").write_bytes(data)
    sizes = [0, 1, 511, 512, 513, 1023, 8_388_609, 0, 4095, 4096, 4097]
    offsets = rng.integers(0, len(data) - max(sizes), len(sizes))
    members = [(f"k-{i}.bin", 0, int(at), size) for i, (at, size) in enumerate(zip(offsets, sizes, strict=True))]
    written, hashes = write_core(
        tmp_path / "o.tar", [tmp_path / "source"], members, window_bytes=window, hash_payloads=True
    )
    samples = [{"__key__": f"k-{i}", "bin": data[at : at + size]} for i, (_, _, at, size) in enumerate(members)]
    assert (tmp_path / "o.tar").read_bytes() == write_with_webdataset(samples)
    assert written == (tmp_path / "o.tar").stat().st_size
    assert len(hashes) == len(sizes)
    assert hashes[0] == hashes[7]  # both are empty
    assert f"{hashes[0]['f0']:016x}{hashes[0]['f1']:016x}" == "99aa06d3014798d86001c324468d497f"  # XXH3-128 of nothing
    alone = write_core(
        tmp_path / "p.tar", [tmp_path / "source"], members[6:7], window_bytes=1 << 24, hash_payloads=True
    )[1]
    assert alone[0] == hashes[6]  # in one piece or in many


def test_more_sources_than_may_be_open(tmp_path):
    sources = []
    for i in range(150):
        (tmp_path / f"s{i}").write_bytes(bytes([i]) * 1000)
        sources.append(tmp_path / f"s{i}")
    order = np.random.default_rng(2).permutation(np.repeat(np.arange(150), 3))
    members = [(f"k-{n}.bin", int(i), 10, 600) for n, i in enumerate(order)]
    write_core(tmp_path / "o.tar", sources, members, max_open_sources=4)
    with tarfile.open(tmp_path / "o.tar") as tar:
        assert [tar.extractfile(m).read() for m in tar] == [bytes([i]) * 600 for i in order]


def test_disk_full_is_an_os_error(tmp_path):
    (tmp_path / "source").write_bytes(b"x" * 100)
    with pytest.raises(OSError, match="No space left") as caught:
        write_core("/dev/full", [tmp_path / "source"], [("k.bin", 0, 0, 100)])
    assert caught.value.errno == errno.ENOSPC


def test_arguments_of_the_core_are_checked(tmp_path):
    good = [np.zeros(1, np.uint32), np.zeros(1, np.uint64), np.zeros(1, np.uint64), np.array([107], np.uint8)]
    begin = np.array([0, 1], np.uint64)
    (tmp_path / "s").write_bytes(b"")
    paths = [os.fsencode(tmp_path / "s")]
    out = os.fsencode(tmp_path / "o")
    with pytest.raises(TypeError, match="offset must have dtype uint64"):
        _core.write_shard(out, paths, NO_SIZES, NO_TIMES, good[0], good[1].astype(np.int64), good[2], good[3], begin)
    with pytest.raises(ValueError, match="name_begin one more"):
        _core.write_shard(out, paths, NO_SIZES, NO_TIMES, *good, begin[:1])
    with pytest.raises(ValueError, match="out of range"):
        _core.write_shard(out, [], NO_SIZES, NO_TIMES, *good, begin)
    with pytest.raises(ValueError, match="source_size must be empty or one entry per source"):
        _core.write_shard(out, paths, np.zeros(2, np.uint64), NO_TIMES, *good, begin)


def test_member_names():
    uids = uid_array(["0" * 31 + "a", "f" * 32])
    blob, begin = _core.sample_member_names(
        uids,
        np.array([0, (1 << 64) - 1], np.uint64),
        np.array([0, 1, 1], np.uint32),
        np.array([1, 0, 1], np.uint16),
        ["jpg", "ö"],
    )
    names = [bytes(blob[int(a) : int(b)]).decode() for a, b in pairwise(begin)]
    assert names == ["0" * 31 + "a-0.ö", "f" * 32 + "-18446744073709551615.jpg", "f" * 32 + "-18446744073709551615.ö"]
    with pytest.raises(ValueError, match="member_ext: 2 is out of range"):
        _core.sample_member_names(
            uids, np.zeros(2, np.uint64), np.zeros(1, np.uint32), np.array([2], np.uint16), ["a", "b"]
        )


# selection and plan


def test_select_rows():
    subset = subset_of(["1", "1", "5", "5", "5", "1" + "0" * 16])
    uids = uid_array(["5", "2", "1" + "0" * 16, "1", "5"])
    rows, multiplicity = resharder.select_rows(uids, None, subset)
    assert rows.tolist() == [0, 2, 3, 4]
    assert multiplicity.tolist() == [3, 1, 2, 3]
    rows, multiplicity = resharder.select_rows(uids, np.array([0, 1, 1, 1, 1], bool), subset)
    assert rows.tolist() == [2, 3, 4]
    assert multiplicity.tolist() == [1, 2, 3]
    for a, b in ((uids[:0], subset), (uids, subset[:0])):
        assert [len(x) for x in resharder.select_rows(a, None, b)] == [0, 0]


def slow_cuts(segments, shard_size, max_bytes):
    cuts = []
    for segment, (rows, multiplicity, payload, members, _) in enumerate(segments):
        for row, count, size, parts in zip(rows, multiplicity, payload, members, strict=True):
            for copy in range(count):
                if not cuts or cuts[-1][3] >= shard_size or cuts[-1][5] >= max_bytes:
                    cuts.append([segment, row, copy, 0, 0, 0])
                cuts[-1][3] += 1
                cuts[-1][4] += parts
                cuts[-1][5] += size
    return cuts


@pytest.mark.parametrize("seed", range(30))
def test_cuts_equal_the_slow_rule(seed):
    rng = np.random.default_rng(seed)
    segments = []
    for _ in range(int(rng.integers(0, 5))):
        n = int(rng.integers(0, 60))
        rows = np.sort(rng.choice(1000, n, replace=False)).astype(np.uint32)
        multiplicity = rng.integers(1, int(rng.choice([2, 4, 50])), n).astype(np.uint32)
        payload = rng.integers(0, 1000, n) * rng.integers(0, 2, n)
        segments.append((rows, multiplicity, payload, rng.integers(1, 4, n), payload + 512))
    shard_size, max_bytes = int(rng.choice([1, 2, 7, 10_000])), int(rng.choice([1, 999, 5000, 3_000_000_000]))
    cuts = resharder.plan_cuts(((i, *s) for i, s in enumerate(segments)), shard_size, max_bytes)
    names = ("segment", "row", "copy", "samples", "members", "payload_bytes")
    assert [[int(c[n]) for n in names] for c in cuts] == slow_cuts(segments, shard_size, max_bytes)


@pytest.mark.parametrize("options", [{"shard_size": 0}, {"max_bytes": 0}])
def test_cuts_refuse_zero(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        resharder.plan_cuts([], **options)


def test_repeated_uids_across_chunks():
    records = np.array([(0, 1, 0), (0, 1, 9), (0, 1, 11), (0, 2, 3), (4, 1, 1), (4, 2, 2), (4, 2, 5)], "u8,u8,u8")
    for chunk in (1, 2, 3, 100):
        assert resharder.repeated_uids(records, chunk=chunk).tolist() == [(0, 1), (4, 2)]
    assert len(resharder.repeated_uids(records[:0])) == 0


def test_first_copies():
    uids = uid_array(["7", "3", "7", "7", "3"])
    got = resharder.first_copies(uids, np.array([40, 1, 2, 3, 50], np.uint64), np.array([2, 1, 2, 2, 1], np.uint32))
    assert got.tolist() == [(3, 2), (40, 4), (50, 1)]


def test_saved_plan_is_the_plan(pool, tmp_path):
    directory, _, segments = pool
    subset = uid_array(sorted(make_uid(i) for i in range(0, 37, 2)))
    plan = resharder.make_plan(segments, subset, shards_dir=directory, shard_size=4)
    plan.save(tmp_path / "plan")
    loaded = resharder.ReshardPlan.load(tmp_path / "plan")
    for name in ("cuts", "repeats", "exclude"):
        assert np.array_equal(getattr(plan, name), getattr(loaded, name))
    for name in ("segments", "segment_first", "shards_dir", "options", "counts"):
        assert getattr(plan, name) == getattr(loaded, name)


# whole runs


@pytest.mark.parametrize(
    "options", [{}, {"shard_size": 1}, {"shard_size": 7}, {"max_bytes": 1}, {"max_bytes": 9000, "shard_size": 11}]
)
@pytest.mark.parametrize("seed", range(3))
def test_output_equals_the_reference(pool, tmp_path, options, seed):
    directory, names, segments = pool
    rng = np.random.default_rng(seed)
    chosen = [make_uid(i) for i in range(37) for _ in range(int(rng.choice([0, 0, 1, 1, 2, 5])))]
    subset = subset_of([*chosen, make_uid(1000), make_uid(1000)])
    report = resharder.reshard(segments, tmp_path / "out", subset, shards_dir=directory, threads=2, **options)
    expected = reference_reshard(directory, names, subset, **options)
    assert read_output(tmp_path / "out") == expected
    assert report["output_count"] == len(chosen)
    assert report["missing_count"] == 2
    assert report["processed_count"] == report["samples"] == 37
    assert report["output_shard_count"] == len(expected)
    assert report["tar_bytes"] == sum(len(tar) for tar, _ in expected)
    assert report["needed_bytes"] >= report["tar_bytes"]
    assert {p.name for p in (tmp_path / "out").iterdir() if p.suffix != ".tar" and "_stats" not in p.name} == {
        "meta.json",
        "sample_ids.npy",
        "sizes.json",
    }
    assert np.array_equal(np.load(tmp_path / "out" / "sample_ids.npy"), subset)
    sizes = json.loads((tmp_path / "out" / "sizes.json").read_text())
    assert sizes == {f"{k:08d}.tar": count for k, (_, count) in enumerate(expected)}
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["output_shard_count"] == len(expected)
    assert meta["output_shard_format"] == "{:08d}.tar"
    assert meta["processed_count"] == 37
    assert meta["output_count"] == len(chosen)
    plan = resharder.make_plan(segments, subset, shards_dir=directory, **options)
    assert int(plan.cuts["tar_bytes"].sum()) == report["tar_bytes"]  # planned exactly where extensions are plain
    checked = resharder.verify_output_shards(plan, subset, tmp_path / "out", segments=segments)
    assert checked["mismatches"] == []
    assert checked["samples"] == len(chosen)


def test_any_order_and_any_threads_give_the_same_bytes(pool, tmp_path):
    directory, _, segments = pool
    subset = subset_of([make_uid(i) for i in range(37)] * 2)
    plan = resharder.make_plan(segments, subset, shards_dir=directory, shard_size=3)
    count = plan.num_output_shards
    assert count == 25
    resharder.write_output_shards(plan, subset, 0, count, tmp_path / "a", segments=segments)
    resharder.write_output_shards(plan, subset, 0, count, tmp_path / "b", segments=segments, threads=4, sync=False)
    for k in np.random.default_rng(0).permutation(count):
        done = resharder.write_output_shards(plan, subset, int(k), int(k) + 1, tmp_path / "c", segments=segments)
        assert done["shards"] == 1
    files = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    for other in "bc":
        assert {p.name: p.read_bytes() for p in (tmp_path / other).iterdir()} == files
    with pytest.raises(IndexError, match="not in a plan of 25"):
        resharder.write_output_shards(plan, subset, 0, count + 1, tmp_path / "d", segments=segments)
    assert resharder.write_output_shards(plan, subset, 3, 3, tmp_path / "d", segments=segments)["shards"] == 0


def test_other_readers_see_the_samples(pool, tmp_path):
    directory, _, segments = pool
    resharder.reshard(segments, tmp_path / "out", subset_of([make_uid(i) for i in range(37)]), shards_dir=directory)
    shard = tmp_path / "out" / "00000000.tar"
    expected = []
    for segment, first in zip(segments, (0, 7), strict=True):
        for i, sample in enumerate(segment.samples):
            data = (directory / segment.shard_names[sample.shard]).read_bytes()
            expected.append((make_uid(first + i), {e: data[at : at + n] for e, (at, n) in sample.members.items()}))
    with shard.open("rb") as stream:
        read = list(
            webdataset.tariterators.group_by_keys(
                webdataset.tariterators.tar_file_expander([{"url": str(shard), "stream": stream}])
            )
        )
    assert [s["__key__"] for s in read] == [f"{uid}-0" for uid, _ in expected]
    assert [{e: s[e] for e in ("jpg", "json", "txt")} for s in read] == [members for _, members in expected]
    listed = subprocess.run(["tar", "-tvf", shard], capture_output=True, text=True, check=True)
    assert listed.stderr == ""
    lines = listed.stdout.splitlines()
    assert [line.split()[-1] for line in lines] == [f"{u}-0.{e}" for u, _ in expected for e in ("jpg", "json", "txt")]
    assert all(line.startswith("-r--r--r-- bigdata/bigdata") for line in lines)


def test_repeated_uids_in_the_pool_keep_every_occurrence(tmp_path):
    rng = np.random.default_rng(0)
    twin, single = make_uid(0), make_uid(1)
    shards = [[(0, twin), (1, single), (2, twin)], [(3, twin), (4, None), (5, single)]]
    names = write_pool(tmp_path / "pool", [[make_sample(rng, n, uid) for n, uid in shard] for shard in shards])
    segments = [FakeSegment(tmp_path / "pool", [name]) for name in names]
    subset = subset_of([twin, twin, single, make_uid(9)])
    records = np.concatenate([s.uid for s in segments])
    keyed = sorted((hi, lo, i // 3 << 32 | i % 3) for i, (hi, lo) in enumerate(records.tolist()) if i != 4)
    for pool_records in (None, np.array(keyed, "u8,u8,u8")):
        report = resharder.reshard(
            segments,
            tmp_path / "out",
            subset,
            shards_dir=tmp_path / "pool",
            shard_size=3,
            pool_records=pool_records,
            overwrite=True,
        )
        assert read_output(tmp_path / "out") == reference_reshard(tmp_path / "pool", names, subset, shard_size=3)
        assert report["output_count"] == 8
        assert report["missing_count"] == 1
        assert report["no_uid"] == 1
        assert report["repeated_rows"] == 3
        keys = [key for k in range(3) for key in sample_keys(tmp_path / f"out/{k:08d}.tar")]
        assert keys == [
            f"{twin}-0",
            f"{twin}-1",
            f"{single}-0",
            f"{twin}-2",
            f"{twin}-3",
            f"{twin}-4",
            f"{twin}-5",
            f"{single}-1",
        ]
    # an excluded row is not written, and later ones count as if it were not there
    report = resharder.reshard(
        segments, tmp_path / "out2", subset, shards_dir=tmp_path / "pool", exclude=np.array([0, 1 << 32 | 2], np.uint64)
    )
    assert sample_keys(tmp_path / "out2/00000000.tar") == [f"{single}-0", *(f"{twin}-{j}" for j in range(4))]
    assert (report["excluded"], report["processed_count"]) == (2, 3)
    with pytest.raises(ValueError, match=r"row 3 is not in shard 00000001\.tar"):
        resharder.make_plan(segments, subset, shards_dir="x", exclude=np.array([1 << 32 | 3], np.uint64))


def test_extensions_sort_lower_case_and_may_be_long(tmp_path):
    members = {"Txt": b"t", "JSON": json.dumps({"uid": make_uid(3)}).encode(), "b" * 80: b"long", "jpg": b"j",
               "seg.PNG": b"p", "é": b"e"}  # fmt: skip
    names = write_pool(tmp_path / "pool", [[("k", members), make_sample(np.random.default_rng(0), 1, make_uid(4))]])
    segments = [FakeSegment(tmp_path / "pool", names)]
    subset = subset_of([make_uid(3), make_uid(4)])
    report = resharder.reshard(segments, tmp_path / "out", subset, shards_dir=tmp_path / "pool")
    assert read_output(tmp_path / "out") == reference_reshard(tmp_path / "pool", names, subset)
    key = make_uid(3)
    with tarfile.open(tmp_path / "out/00000000.tar") as tar:
        got = [name.removeprefix(f"{key}-0.") for name in tar.getnames()[:6]]
    assert got == ["b" * 80, "jpg", "json", "seg.png", "txt", "é"]
    assert report["tar_bytes"] <= report["needed_bytes"]


def test_input_shards_by_number(pool, tmp_path):
    directory, names, segments = pool
    subset = subset_of([make_uid(i) for i in range(37)])
    for first, count, kept in ((0, 1, 7), (1, 1, 0), (1, 2, 30), (2, None, 30), (3, None, 0)):
        report = resharder.reshard(
            segments,
            tmp_path / "out",
            subset,
            shards_dir=directory,
            first_shard=first,
            num_shards=count,
            overwrite=True,
        )
        assert report["output_count"] == report["samples"] == kept
        assert report["missing_count"] == 37 - kept
        asked = names[first : None if count is None else first + count]
        assert read_output(tmp_path / "out") == reference_reshard(directory, asked, subset)


def test_empty_subset(pool, tmp_path):
    directory, _, segments = pool
    report = resharder.reshard(segments, tmp_path / "out", np.zeros(0, UID), shards_dir=directory)
    assert report["output_shard_count"] == report["output_count"] == 0
    assert json.loads((tmp_path / "out/meta.json").read_text())["output_shard_count"] == 0
    assert json.loads((tmp_path / "out/sizes.json").read_text()) == {}
    assert len(np.load(tmp_path / "out/sample_ids.npy")) == 0
    assert not list((tmp_path / "out").glob("*.tar"))


def test_many_copies_cost_no_memory_of_their_own(pool, tmp_path):
    directory, _, segments = pool
    subset = np.full(200_000, uid_array([make_uid(3)])[0])
    plan = resharder.make_plan(segments, subset, shards_dir=directory, shard_size=10)
    assert plan.num_output_shards == 20_000
    resharder.write_output_shards(plan, subset, 12_345, 12_346, tmp_path / "out", segments=segments)
    with tarfile.open(tmp_path / "out/00012345.tar") as tar:
        assert tar.getnames()[::3] == [f"{make_uid(3)}-{j}.jpg" for j in range(123_450, 123_460)]


# what goes wrong


def test_output_directory_is_protected(pool, tmp_path):
    directory, names, segments = pool
    subset = subset_of([make_uid(0)])
    out = tmp_path / "out"
    resharder.reshard(segments, out, subset_of([make_uid(i) for i in range(37)]), shards_dir=directory, shard_size=2)
    (out / "notes.txt").write_text("mine")
    for name in ("00000007.tar", "00000000_stats.json", "meta.json"):
        (out / f".tmp-123-0a1b2c3d-{name}").write_text("left by a killed run")
    with pytest.raises(RunError, match="is not empty; choose another place, or pass overwrite=True"):
        resharder.reshard(segments, out, subset, shards_dir=directory)
    before = {p.name for p in out.iterdir()}
    assert resharder.reshard(segments, out, subset, shards_dir=directory, dry_run=True)["output_count"] == 1
    assert {p.name for p in out.iterdir()} == before
    resharder.reshard(segments, out, subset, shards_dir=directory, overwrite=True)
    assert sorted(p.name for p in out.iterdir()) == [
        "00000000.tar", "00000000_stats.json", "meta.json", "notes.txt", "sample_ids.npy", "sizes.json",
    ]  # fmt: skip
    for options in ({}, {"overwrite": True}, {"dry_run": True}):
        with pytest.raises(RunError, match="is the pool itself"):
            resharder.reshard(segments, directory, subset, shards_dir=directory, **options)
    assert sorted(p.name for p in directory.iterdir()) == names


def test_finish_removes_shards_of_an_earlier_plan_and_misses_none(pool, tmp_path):
    directory, _, segments = pool
    subset = subset_of([make_uid(i) for i in range(37)])
    first = resharder.make_plan(segments, subset, shards_dir=directory, shard_size=5)
    resharder.write_output_shards(first, subset, 0, 8, tmp_path / "out", segments=segments)
    second = resharder.make_plan(segments, subset, shards_dir=directory, shard_size=10)
    resharder.write_output_shards(second, subset, 0, 4, tmp_path / "out", segments=segments)
    resharder.finish_reshard(second, subset, tmp_path / "out")
    assert len(read_output(tmp_path / "out")) == 4
    (tmp_path / "out/00000002_stats.json").unlink()
    with pytest.raises(RunError, match=r"00000002_stats.json is missing"):
        resharder.finish_reshard(second, subset, tmp_path / "out")


def test_free_space_is_checked_before_the_first_byte(pool, tmp_path, monkeypatch):
    directory, _, segments = pool
    usage = type("Usage", (), {"free": 20_000})
    monkeypatch.setattr(resharder.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"output needs \d+ bytes, but only 20000 are free") as caught:
        resharder.reshard(segments, tmp_path / "out", subset_of([make_uid(i) for i in range(37)]), shards_dir=directory)
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "out").exists()


def test_source_that_was_cut_after_planning(pool, tmp_path):
    directory, names, segments = pool
    subset = subset_of([make_uid(i) for i in range(37)])
    plan = resharder.make_plan(segments, subset, shards_dir=directory, shard_size=10)
    victim = directory / names[2]
    os.truncate(victim, 20_000)
    with pytest.raises(CorruptDataError, match="changed since it was indexed") as caught:
        resharder.write_output_shards(plan, subset, 0, 4, tmp_path / "out", segments=segments)
    assert caught.value.path == str(victim)
    assert caught.value.offset == 20_000
    assert list((tmp_path / "out").iterdir()) == []  # shard 0 needs it too, and nothing half-written stays
    # without recorded sizes the payload that is cut is found when it is read
    column = np.array([int(s.members["jpg"][0]) for s in segments[1].samples], np.uint64)
    inside = int(column[column < 20_000].max())
    with pytest.raises(CorruptDataError, match="source ends") as caught:
        write_core(tmp_path / "o.tar", [victim], [("k.jpg", 0, inside, 20_001 - inside)])
    assert caught.value.offset == 20_000


def test_source_touched_or_gone(pool, tmp_path):
    directory, names, segments = pool
    subset = subset_of([make_uid(0)])
    os.utime(directory / names[0], ns=(1, 1))
    with pytest.raises(CorruptDataError, match="expected modification time"):
        resharder.reshard(segments, tmp_path / "out", subset, shards_dir=directory)
    report = resharder.reshard(segments, tmp_path / "out", subset, shards_dir=directory, check_mtime=False)
    assert report["output_count"] == 1
    (directory / names[0]).unlink()
    with pytest.raises(FileNotFoundError):
        resharder.reshard(segments, tmp_path / "gone", subset, shards_dir=directory)


def test_another_subset_than_the_planned_one(pool, tmp_path):
    directory, _, segments = pool
    plan = resharder.make_plan(segments, subset_of([make_uid(i) for i in range(9)]), shards_dir=directory)
    with pytest.raises(ValueError, match="is not the one that was planned"):
        resharder.write_output_shards(plan, subset_of([make_uid(3)]), 0, 1, tmp_path / "out", segments=segments)
    with pytest.raises(ValueError, match="segments must be the 2 that were planned; got 1"):
        resharder.write_output_shards(plan, subset_of([make_uid(3)]), 0, 1, tmp_path / "out", segments=segments[:1])


def test_bad_subsets_and_pools(pool, tmp_path):
    directory, _, segments = pool
    unsorted = uid_array(["2", "1"])
    with pytest.raises(ValueError, match="subset must be sorted"):
        resharder.reshard(segments, tmp_path / "out", unsorted, shards_dir=directory)
    with pytest.raises(TypeError, match="subset must be one-dimensional"):
        resharder.reshard(segments, tmp_path / "out", np.zeros(3), shards_dir=directory)
    with pytest.raises(TypeError, match="shards_dir must be given"):
        resharder.reshard(segments, tmp_path / "out", unsorted)
    with pytest.raises(PoolError, match="has no index segments"):
        resharder.reshard([], tmp_path / "out", unsorted, shards_dir=directory)
    with pytest.raises(PoolError, match="is not a directory"):
        resharder.reshard(tmp_path / "absent", tmp_path / "out", unsorted)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PoolError, match=r"has no \.tar files"):
        resharder.reshard(tmp_path / "empty", tmp_path / "out", unsorted)
    assert not (tmp_path / "out").exists()


FILE_TOO_LARGE = """
import os, resource, sys
import numpy as np
from dcfast import _core
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    _core.write_shard(sys.argv[1].encode(), [sys.argv[2].encode()], np.zeros(0, np.uint64), np.zeros(0, np.int64),
                      np.zeros(1, np.uint32), np.zeros(1, np.uint64), np.array([500_000], np.uint64),
                      np.frombuffer(b"k.bin", np.uint8), np.array([0, 5], np.uint64))
except OSError as error:
    print(error.errno)
"""


def test_a_limit_on_file_size_is_an_os_error(tmp_path):
    (tmp_path / "source").write_bytes(b"x" * 500_000)
    done = subprocess.run(
        [sys.executable, "-c", FILE_TOO_LARGE, tmp_path / "o.tar", tmp_path / "source"],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout.strip() == str(errno.EFBIG)


# verification


def test_verification_finds_what_differs(pool, tmp_path):
    directory, _, segments = pool
    subset = subset_of([make_uid(i) for i in range(37)])
    out = tmp_path / "out"
    plan = resharder.make_plan(segments, subset, shards_dir=directory, shard_size=10)
    resharder.write_output_shards(plan, subset, 0, 4, out, segments=segments)

    def verify(**options):
        return resharder.verify_output_shards(plan, subset, out, segments=segments, threads=2, **options)

    assert verify()["mismatches"] == []
    good = (out / "00000001.tar").read_bytes()
    with tarfile.open(out / "00000001.tar") as tar:
        member = tar.getmembers()[4]
    flipped = bytearray(good)
    flipped[member.offset_data] ^= 1
    (out / "00000001.tar").write_bytes(flipped)
    found = verify()
    assert found["mismatch_count"] == 1
    assert found["mismatches"] == [
        {"shard": "00000001.tar", "key": member.name.split(".")[0], "member": member.name,
         "problem": "payload differs from its source"}
    ]  # fmt: skip
    with pytest.raises(CorruptDataError, match=r"payload differs.*00000001\.tar"):
        verify(strict=True)
    (out / "00000001.tar").write_bytes((out / "00000000.tar").read_bytes())
    found = verify()
    assert found["mismatch_count"] == 30  # every member has another name
    assert len(found["mismatches"]) == 20
    (out / "00000001.tar").unlink()
    (out / "00000002_stats.json").write_text('{"successes": 9}')
    problems = {m["shard"]: m["problem"] for m in verify()["mismatches"]}
    assert problems["00000001.tar"].startswith("shard cannot be read")
    assert problems["00000002.tar"] == "stats: expected 10 successes; got 9"
    with pytest.raises(IndexError, match="not in a plan of 4"):
        resharder.verify_output_shards(plan, subset, out, 0, 5, segments=segments)


# the format page


def test_worked_example_of_the_format_page(tmp_path):
    docs = Path(__file__).parents[1] / "docs"
    page = next(docs / name for name in ("formats.md", "_reshard.md") if (docs / name).exists()).read_text("utf-8")
    dump = page.split("## Output shards")[1].split("```hexdump\n")[1].split("```")[0]
    expected = bytearray(1024)
    for line in dump.splitlines():
        place, _, values = line.split("  |")[0].partition("  ")
        data = bytes.fromhex(values)
        expected[int(place, 16) : int(place, 16) + len(data)] = data
    (tmp_path / "source").write_bytes(b"a red cat")
    name = "00000000000000010000000000000002-0.txt"
    write_core(tmp_path / "o.tar", [tmp_path / "source"], [(name, 0, 0, 9)])
    got = (tmp_path / "o.tar").read_bytes()
    assert got[:1024] == bytes(expected)
    assert got[1024:] == bytes(10_240 - 1024)
    with tarfile.open(fileobj=io.BytesIO(got)) as tar:
        assert tar.getnames() == [name]


# until the modules of the other domains are there, slow stand-ins
@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    import importlib.util

    import pyarrow as pa

    if importlib.util.find_spec("dcfast.uids") is None:
        from collections import Counter

        def multiplicity(uids, sorted_uids):
            counts = Counter(sorted_uids.tolist())
            return np.array([counts[u] for u in uids.tolist()], np.int64)

        monkeypatch.setattr(rows_module, "uid_multiplicity", multiplicity)
        monkeypatch.setattr("dcfast.reshard_plan.uid_multiplicity", multiplicity)
    if importlib.util.find_spec("dcfast.shards") is None:

        def list_members(path):
            with tarfile.open(path) as tar:
                m = tar.getmembers()
            return (
                pa.array([x.name.encode() for x in m], pa.large_binary()),
                np.array([x.offset_data for x in m], np.uint64),
                np.array([x.size for x in m], np.uint64),
            )

        monkeypatch.setattr(verify_module, "list_members", list_members)
    if importlib.util.find_spec("dcfast.hashing") is None:
        import hashlib

        def hash_ranges(path, offset, size):
            data = Path(path).read_bytes()
            digests = b"".join(
                hashlib.blake2b(data[int(a) : int(a) + int(n)], digest_size=16).digest()
                for a, n in zip(offset, size, strict=True)
            )
            return np.frombuffer(digests, UID)

        monkeypatch.setattr(verify_module, "hash_ranges", hash_ranges)
