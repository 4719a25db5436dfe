"""Whole reshards: every output byte against webdataset's own writer; what goes wrong; verification."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from dcfast import resharding as resharder
from dcfast.errors import CorruptDataError, PoolError, RunError
from dcfast.index.build import write_segment
from reshard_reference import (
    UID,
    index_shards,
    make_sample,
    make_uid,
    read_output,
    reference_reshard,
    sample_keys,
    subset_of,
    three_shards,
    uid_array,
    write_core,
    write_pool,
)

HELPERS = Path(__file__).resolve().parents[1] / "helpers"


@pytest.fixture
def pool(tmp_path):
    return three_shards(tmp_path)


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


@pytest.mark.parametrize("small", [0, 1 << 30])
def test_any_order_and_any_threads_give_the_same_bytes(pool, tmp_path, monkeypatch, small):
    monkeypatch.setattr("dcfast.resharding.write._SMALL_OUTPUT_BYTES", small)  # workers, or threads in each shard
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


@pytest.mark.parametrize("rows_at_once", [1, 2, 5])
def test_blocks_of_rows_change_nothing(pool, tmp_path, monkeypatch, rows_at_once):
    directory, names, segments = pool
    monkeypatch.setattr("dcfast.resharding.plan.ROWS_AT_ONCE", rows_at_once)
    subset = subset_of([make_uid(i) for i in range(37) for _ in range(i * 5 % 4)])
    resharder.reshard(segments, tmp_path / "out", subset, shards_dir=directory, shard_size=8)
    assert read_output(tmp_path / "out") == reference_reshard(directory, names, subset, shard_size=8)


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
    segments = [index_shards(tmp_path / "pool", [name]) for name in names]
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
    segments = [index_shards(tmp_path / "pool", names)]
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
    for first, count, kept in ((0, 1, 7), (1, 1, 0), (1, 2, 30), (2, None, 30), (0, 0, 0)):
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
    monkeypatch.setattr("dcfast.resharding.output.free_bytes", lambda path: 20_000)
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


DISK_FULL = """
import errno, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from reshard_reference import index_shards, make_uid, subset_of
from dcfast import resharding as resharder
pool, out = Path(sys.argv[1]), Path(sys.argv[2])
segment = index_shards(pool, sorted(p.name for p in pool.iterdir()))
subset = subset_of([make_uid(i) for i in range(37)])
plan = resharder.make_plan([segment], subset, shards_dir=pool, shard_size=8)
try:
    resharder.write_output_shards(plan, subset, 0, plan.num_output_shards, out, segments=[segment], threads=2)
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    tars = sorted(out.glob("*"))
    assert not [p for p in tars if p.name.startswith(".tmp-")], tars
    print("full after", len([p for p in tars if p.suffix == ".tar"]), "shards")
try:
    resharder.check_free_space(plan, out)
except OSError as error:
    print(error.strerror)
"""


def test_a_disk_that_fills_up_leaves_whole_shards_only(pool, tmp_path):
    directory, _, _ = pool
    (tmp_path / "disk").mkdir()
    (tmp_path / "script.py").write_text(DISK_FULL)
    mount = 'mount -t tmpfs -o size=64k none "$1" && shift && exec "$@"'
    command = [sys.executable, tmp_path / "script.py", directory, tmp_path / "disk", HELPERS]
    unshare = ["unshare", "-rm", "sh", "-c", mount, "sh", tmp_path / "disk"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        pytest.skip("no small file system can be mounted here")
    done = subprocess.run(
        [*unshare, *command],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("full after")
    assert "output needs" in done.stdout


def test_a_directory_of_shards_is_indexed_first(pool, tmp_path):
    directory, names, _ = pool
    subset = subset_of([make_uid(i) for i in range(0, 37, 2)])
    np.save(tmp_path / "subset.npy", subset)
    (tmp_path / "raw").write_bytes(subset.tobytes())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "shards").symlink_to(directory)
    expected = reference_reshard(directory, names, subset, shard_size=5)
    for number, (given, chosen) in enumerate(
        [(directory, subset), (directory, tmp_path / "subset.npy"), (tmp_path / "other", tmp_path / "raw")]
    ):
        out = tmp_path / f"out{number}"
        report = resharder.reshard(given, out, chosen, shard_size=5)
        assert read_output(out) == expected
        assert report["output_count"] == 19
        assert (out / "sample_ids.npy").read_bytes() == (tmp_path / "subset.npy").read_bytes()


def test_saved_plan_and_segment_files_are_enough_for_a_worker(pool, tmp_path):
    directory, names, _ = pool
    paths = [tmp_path / "0.dcx", tmp_path / "1.dcx"]
    for path, part in zip(paths, (names[:2], names[2:]), strict=True):
        write_segment([(directory / name, name) for name in part], path)
    subset = subset_of([make_uid(i) for i in range(37)] * 2)
    np.save(tmp_path / "subset.npy", subset)
    resharder.make_plan([str(p) for p in paths], subset, shards_dir=directory, shard_size=7).save(tmp_path / "plan")
    plan, chosen, out = tmp_path / "plan", tmp_path / "subset.npy", tmp_path / "out"
    for k in (10, 3, 7, 0, 1, 2, 9, 8, 4, 6, 5):
        resharder.write_output_shards(plan, chosen, k, k + 1, out)
    assert resharder.finish_reshard(plan, chosen, out)["output_count"] == 74
    assert read_output(out) == reference_reshard(directory, names, subset, shard_size=7)
    assert resharder.verify_output_shards(plan, chosen, out, threads=2)["mismatches"] == []
    os.truncate(out / "00000004.tar", 5000)
    [mismatch] = resharder.verify_output_shards(plan, chosen, out)["mismatches"]
    assert mismatch["shard"] == "00000004.tar"
    assert "cut off" in mismatch["problem"]


@pytest.mark.parametrize("cut", [1, 100, 511, 512, 600, 5000, 20_000])
def test_a_shard_cut_anywhere_gives_its_whole_samples(tmp_path, cut):
    rng = np.random.default_rng(3)
    uids = [make_uid(i) for i in range(9)]
    names = write_pool(tmp_path / "pool", [[make_sample(rng, i, uid, 900) for i, uid in enumerate(uids)]])
    whole = index_shards(tmp_path / "pool", names)
    shard = tmp_path / "pool" / names[0]
    length = shard.stat().st_size - cut
    os.truncate(shard, length)
    report = resharder.reshard(tmp_path / "pool", tmp_path / "out", subset_of(uids))
    ends = [max(at + size for at, size in sample.members.values()) for sample in whole.samples]
    kept = [uid for uid, end in zip(uids, ends, strict=True) if end <= length]
    # the sample just before the cut may be held back: more of its members may have followed
    written = sample_keys(tmp_path / "out/00000000.tar") if report["output_count"] else []
    assert written in ([f"{uid}-0" for uid in kept], [f"{uid}-0" for uid in kept[:-1]])
    assert report["cut"] + report["no_uid"] + report["output_count"] == report["samples"]


@pytest.mark.real_data
def test_the_real_pool_equals_the_reference(real_data, tmp_path):
    directory = real_data / "pool" / "shards"
    names = sorted(p.name for p in directory.glob("*.tar"))
    segments = [index_shards(directory, names[:3]), index_shards(directory, names[3:])]
    uids = [s.uid for segment in segments for s in segment.samples if s.uid]
    subset = subset_of([uid for i, uid in enumerate(uids) for _ in range((i * 7) % 3)])
    report = resharder.reshard(segments, tmp_path / "out", subset, shards_dir=directory, shard_size=500, threads=2)
    assert read_output(tmp_path / "out") == reference_reshard(directory, names, subset, shard_size=500)
    assert report["missing_count"] == 0


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
