"""The pool index: every row of a uid, in bounded memory; refreshed by reading only what changed."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import dcfast
import numpy as np
import pytest
from dcfast import PoolIndex, cli, refresh_index
from dcfast.errors import CorruptDataError, PoolError, RunError
from dcfast.index import pool_index
from dcfast.index import refresh as pool_refresh
from dcfast.index.build import ShardColumns, write_segment
from dcfast.index.segments import Segment
from dcfast.uids.sets import UID_DTYPE, save_records
from pool_builder import plain_pool
from reshard_reference import make_sample, make_uid, subset_of, write_pool
from tar_reference import GIF, make_tar, sample_members

OLD = 1_700_000_000_000_000_007


def write_shard(path: Path, numbers: list[int], at: int = OLD) -> Path:
    make_tar(path, [m for n in numbers for m in sample_members(n, 50)])
    os.utime(path, ns=(at, at))
    return path


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    folder = tmp_path / "pool"
    folder.mkdir()
    for k in range(5):
        write_shard(folder / f"{k:08d}.tar", list(range(10 * k, 10 * k + 3 + k)))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


def fresh(tmp_path: Path, pool: Path) -> dict[str, bytes]:
    """The files of an index made from nothing."""
    shutil.rmtree(tmp_path / "fresh", ignore_errors=True)
    report = refresh_index(tmp_path / "fresh", pool)
    assert report["reused"] == 0
    return files(tmp_path / "fresh")


def uid_array(*values: int) -> Any:
    return np.array([(v >> 64, v & (2**64 - 1)) for v in values], UID_DTYPE)


# --- look-up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 2, 997])
@pytest.mark.parametrize("distinct", [1, 5, 10**9])
def test_find_equals_a_dict(tmp_path: Path, rows: int, distinct: int) -> None:
    rng = np.random.default_rng(rows)
    values = rng.integers(0, distinct, rows).tolist()
    places = [(int(s), int(r)) for s, r in zip(rng.integers(0, 7, rows), range(rows), strict=True)]
    truth: dict[int, list[tuple[int, int]]] = {}
    for value, place in sorted(zip(values, places, strict=True)):
        truth.setdefault(value, []).append(place)
    records = np.zeros(rows, "u8,u8,u8")
    records["f1"] = values
    records["f2"] = [s << 32 | r for s, r in places]
    index = tmp_path / "index"
    save_records(index / "pool.npy", np.sort(records))
    (index / "index.json").write_text(json.dumps({"shards": 7, "segments": [[0, 7]]}))
    opened = PoolIndex.open(tmp_path, verify=True)
    assert (len(opened), opened.num_shards) == (rows, 7)
    asked = rng.permutation(np.concatenate([np.array(values, np.int64), rng.integers(0, 2 * distinct, 100)])).tolist()
    for queries in ([], asked[:1], asked):
        found = opened.find(uid_array(*queries))
        assert found.counts.tolist() == [len(truth.get(q, [])) for q in queries]
        expected = [place for q in queries for place in truth.get(q, [])]
        assert list(zip(found.shard.tolist(), found.row.tolist(), strict=True)) == expected
        assert found.row_ids.tolist() == [s << 32 | r for s, r in expected]
        assert opened.contains(uid_array(*queries)).tolist() == [q in truth for q in queries]
    with pytest.raises(TypeError, match="u8,u8"):
        opened.find(np.zeros(3, np.int64))


def test_rows_of_a_pool(tmp_path: Path, pool: Path) -> None:
    write_shard(pool / "00000009.tar", [11, 400, 11])
    make_tar(pool / "0000000a.tar", [("x.jpg", GIF), ("y.json", b"{}"), ("z.json", b'{"uid": "%032x"}' % 12)])
    refresh_index(tmp_path / "index", pool)
    index = PoolIndex.open(tmp_path / "index")
    found = index.find(uid_array(11, 5000, 12, 43, 11))
    assert found.counts.tolist() == [3, 0, 2, 1, 3]
    places = list(zip([index.shard_names[s] for s in found.shard], found.row.tolist(), strict=True))
    eleven = [("00000001.tar", 1), ("00000009.tar", 0), ("00000009.tar", 2)]
    assert places == [*eleven, ("00000001.tar", 2), ("0000000a.tar", 2), ("00000004.tar", 3), *eleven]
    # what is found can be read
    reader = dcfast.open_pool(tmp_path / "index", pool)
    texts = [bytes(view) for view in reader.read(found.row_ids[:3], "json")]
    assert [json.loads(text)["uid"] for text in texts] == [f"{11:032x}"] * 3
    assert len(index) == sum(3 + k for k in range(5)) + 3 + 1


def test_records_are_built_in_pieces(tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refresh_index(tmp_path / "index", pool)
    segments = sorted((tmp_path / "index").glob("*.dcx"))
    whole = (tmp_path / "index" / "pool.npy").read_bytes()
    for rows_at_once in (1, 2, 7):
        monkeypatch.setattr(pool_index, "_ROWS_AT_ONCE", rows_at_once)
        for rows in (1, 2, 3, 24, 25, 26):
            runs = pool_index._Runs(tmp_path / "runs", rows, 1)
            (tmp_path / "runs").mkdir(exist_ok=True)
            for first, path in enumerate(segments):
                runs.add(Segment.open(path), first)
            runs.flush()
            assert len(runs.paths) == -(-25 // rows)
            dcfast.uids.merge_runs(runs.paths, tmp_path / "out.npy")
            assert (tmp_path / "out.npy").read_bytes() == whole
    report = pool_index.build_pool_records([], tmp_path / "none.npy")
    assert report.rows_out == len(dcfast.uids.open_records(tmp_path / "none.npy")) == 0
    with pytest.raises(ValueError, match="memory_bytes must be at least 4194304"):
        pool_index.build_pool_records(segments, tmp_path / "out.npy", memory_bytes=1)
    assert sorted(p.name for p in (tmp_path / "index").glob(".tmp*")) == []


def test_million_look_ups_take_less_than_a_second(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    records = np.zeros(2_000_000, "u8,u8,u8")
    records["f0"], records["f1"] = rng.integers(0, 2**64, (2, len(records)), dtype=np.uint64)
    records["f2"] = np.arange(len(records))
    records = dcfast.uids.record_sort(records)
    index = PoolIndex(tmp_path, records, [0, 1])
    asked = np.zeros(1_000_000, "u8,u8")
    chosen = rng.permutation(len(records))[:900_000]
    asked["f0"][100_000:], asked["f1"][100_000:] = records["f0"][chosen], records["f1"][chosen]
    seconds = []
    for _ in range(3):
        began = time.process_time()  # of all threads: whatever else the machine does meanwhile
        found = index.find(asked)
        seconds.append(time.process_time() - began)
    assert found.counts.tolist() == [0] * 100_000 + [1] * 900_000
    assert np.array_equal(found.row, records["f2"][chosen])
    assert min(seconds) < 1.0


# --- refresh ----------------------------------------------------------------------------------------------------


def test_equals_the_index_of_a_run(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    from dcfast.run import workflow as run

    assert run.main(["--pool", str(pool), "--out", str(tmp_path / "run"), "--to", "index"]) == 0
    for name in os.listdir(pool / "shards"):
        assert name.endswith(".tar")
    refresh_index(tmp_path / "index", pool)
    assert files(tmp_path / "index") == files(tmp_path / "run" / "index")
    assert PoolIndex.open(tmp_path / "run").num_shards == 3


def test_nothing_changed_reads_nothing(tmp_path: Path, pool: Path) -> None:
    first = refresh_index(tmp_path / "index", pool)
    assert (len(first["indexed"]), first["reused"], first["samples"], first["rows"]) == (5, 0, 25, 25)
    before = files(tmp_path / "index")
    again = refresh_index(tmp_path / "index", pool)
    assert (again["indexed"], again["reused"], again["segments_kept"], again["segments_written"]) == ([], 5, 5, 0)
    assert files(tmp_path / "index") == before == fresh(tmp_path, pool)


def change(pool: Path, what: str) -> list[str]:
    """Changes the pool; returns the shards that have to be read."""
    if what == "new at the end":
        write_shard(pool / "00000005.tar", [500, 501])
        return ["00000005.tar"]
    if what == "new in the middle":
        write_shard(pool / "00000001a.tar", [500, 501])
        return ["00000001a.tar"]
    if what == "removed":
        (pool / "00000002.tar").unlink()
        return []
    if what == "longer":
        write_shard(pool / "00000003.tar", list(range(60, 99)))
        return ["00000003.tar"]
    if what == "same size, newer":
        write_shard(pool / "00000003.tar", list(range(80, 86)), OLD + 1)
        return ["00000003.tar"]
    if what == "older than before":
        os.utime(pool / "00000000.tar", ns=(5, 5))
        return ["00000000.tar"]
    if what == "renamed":
        (pool / "00000004.tar").rename(pool / "00000007.tar")
        return ["00000007.tar"]
    if what == "cut":
        data = (pool / "00000001.tar").read_bytes()
        (pool / "00000001.tar").write_bytes(data[:5000])
        return ["00000001.tar"]
    assert what == "all at once"
    return sorted(name for one in ("new in the middle", "removed", "longer", "cut") for name in change(pool, one))


CHANGES = [
    *("new at the end", "new in the middle", "removed", "longer", "same size, newer", "older than before", "renamed"),
    *("cut", "all at once"),
]


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("most", [4096, 2])
def test_refreshed_equals_fresh(
    tmp_path: Path, pool: Path, what: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # with at most 2 segments, shards of one segment come from several old ones
    monkeypatch.setattr("dcfast.index.pool.MAX_SEGMENTS", most)
    make_tar(pool / "00000000.tar", [("a.x1", b""), ("a.x2", b""), ("lone", b"1"), ("a.json", b"{")])
    os.utime(pool / "00000000.tar", ns=(OLD, OLD))
    refresh_index(tmp_path / "index", pool)
    before = set(os.listdir(pool))
    read = change(pool, what)
    report = refresh_index(tmp_path / "index", pool)
    assert report["indexed"] == read
    assert report["reused"] == len(os.listdir(pool)) - len(read)
    assert report["removed"] == sorted(before - set(os.listdir(pool)))
    assert [d["shard"] for d in report["damage"]] == (["00000001.tar"] if what in ("cut", "all at once") else [])
    assert files(tmp_path / "index") == fresh(tmp_path, pool)


def test_shard_written_again_in_the_tick_in_which_it_was_indexed(tmp_path: Path, pool: Path) -> None:
    """Size and time are the indexed ones, and only the index's own time tells that they prove nothing."""
    refresh_index(tmp_path / "index", pool)
    indexed = (tmp_path / "index" / "segment-00000.dcx").stat().st_mtime_ns
    for name, at in (("00000000.tar", indexed - 1), ("00000001.tar", indexed - 10**9), ("00000002.tar", indexed + 5)):
        os.utime(pool / name, ns=(at, at))
    refresh_index(tmp_path / "index", pool)
    for number, written in ((0, indexed), (1, indexed), (2, indexed)):
        os.utime(tmp_path / "index" / f"segment-{number:05d}.dcx", ns=(written, written))
    assert refresh_index(tmp_path / "index", pool)["indexed"] == ["00000000.tar", "00000002.tar"]
    # whole seconds: a coarse file system
    second = indexed // 10**9 * 10**9
    os.utime(pool / "00000003.tar", ns=(second, second))
    refresh_index(tmp_path / "index", pool)
    os.utime(tmp_path / "index" / "segment-00003.dcx", ns=(second + 10**9, second + 10**9))
    assert "00000003.tar" in refresh_index(tmp_path / "index", pool)["indexed"]


@pytest.mark.parametrize("damage", ["flipped bit", "cut", "other file"])
def test_damaged_segment_is_not_trusted(tmp_path: Path, pool: Path, damage: str) -> None:
    refresh_index(tmp_path / "index", pool)
    path = tmp_path / "index" / "segment-00002.dcx"
    data = bytearray(path.read_bytes())
    if damage == "flipped bit":
        data[len(data) // 2] ^= 4
    path.write_bytes(data if damage == "flipped bit" else data[:1000] if damage == "cut" else b"hello")
    report = refresh_index(tmp_path / "index", pool)
    assert (report["damaged_segments"], report["indexed"]) == (["segment-00002.dcx"], ["00000002.tar"])
    assert files(tmp_path / "index") == fresh(tmp_path, pool)


@pytest.mark.parametrize("step", range(0, 20, 2))
def test_killed_at_any_step_is_completed(
    tmp_path: Path, pool: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh_index(tmp_path / "index", pool)
    change(pool, "all at once")
    left = step
    states = []

    class KilledError(BaseException):
        pass

    def counted(call: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            return call(*args, **kwargs)

        return wrapper

    # what a kill leaves: nothing is cleaned up
    with monkeypatch.context() as patch:
        patch.setattr(pool_refresh.os, "replace", counted(os.replace))
        patch.setattr(pool_refresh, "write_segment", counted(write_segment))
        patch.setattr(pool_refresh, "_staging", WithoutCleaning)
        try:
            refresh_index(tmp_path / "index", pool)
        except KilledError:
            states.append(state_of(tmp_path / "index"))
    # old until the exchange begins, then none until it is done: never a mixture
    assert states == (["old"] if step <= 6 else ["refused"] if step <= 14 else [])
    report = refresh_index(tmp_path / "index", pool)
    assert files(tmp_path / "index") == fresh(tmp_path, pool)
    assert PoolIndex.open(tmp_path / "index").num_shards == report["shards"]


class WithoutCleaning:
    def __init__(self, folder: Path) -> None:
        self.path = folder / ".tmp-1-0a1b2c3d-refresh"

    def __enter__(self) -> Path:
        self.path.mkdir()
        return self.path

    def __exit__(self, *_: object) -> None:
        pass


def state_of(folder: Path) -> str:
    try:
        index = PoolIndex.open(folder)
    except PoolError:
        return "refused"
    return "old" if index.num_shards == 5 and len(index) == 25 else "new"


def test_two_refreshes_at_once(tmp_path: Path, pool: Path) -> None:
    (tmp_path / "index").mkdir()
    with open(tmp_path / "index" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process refreshes this index"):
            refresh_index(tmp_path / "index", pool)
    refresh_index(tmp_path / "index", pool)


def test_bad_pools_and_indexes(tmp_path: Path, pool: Path) -> None:
    with pytest.raises(PoolError, match="no such directory"):
        refresh_index(tmp_path / "index", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PoolError, match=r"no \.tar files in directory .*; give the directory"):
        refresh_index(tmp_path / "index", tmp_path / "empty")
    with pytest.raises(PoolError, match="no finished pool index"):
        PoolIndex.open(tmp_path / "empty")
    refresh_index(tmp_path / "index", pool)
    good = (tmp_path / "index" / "index.json").read_text()
    for text, message in (
        ("{", "not json"),
        ("[]", "expected an object"),
        ("{}", "missing required field"),
        ('{"shards": 5, "segments": [[1, 5]]}', "begins at 1, expected 0"),
        ('{"shards": 6, "segments": [[0, 5]]}', "shards is 6, the segments have 5"),
        ('{"shards": 0, "segments": [[0, 0]]}', "a segment of 0 shards"),
    ):
        (tmp_path / "index" / "index.json").write_text(text)
        with pytest.raises(CorruptDataError, match=message):
            PoolIndex.open(tmp_path / "index")
    (tmp_path / "index" / "index.json").write_text('{"shards": 4, "segments": [[0, 2], [2, 2]]}')
    with pytest.raises(CorruptDataError, match=r"not the segment that index\.json lists"):
        _ = PoolIndex.open(tmp_path / "index").shard_names
    (tmp_path / "index" / "index.json").write_text(good)
    (tmp_path / "index" / "pool.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(CorruptDataError):
        PoolIndex.open(tmp_path / "index")


def test_command(tmp_path: Path, pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "dcfast.pool_refresh", str(tmp_path / "index"), str(pool)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["samples"] == 25
    assert cli.main(["refresh", str(tmp_path / "index"), str(pool), "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["reused"] == 5
    assert pool_refresh.main([str(tmp_path / "index"), str(tmp_path / "none")]) == 1
    assert "error: pool" in capsys.readouterr().err


# --- the columns of a shard, taken over -------------------------------------------------------------------------


def test_columns_taken_over_equal_those_read(tmp_path: Path) -> None:
    """Odd shards: strays, damage, repeats, extensions shared and not, members far apart."""
    paths = [tmp_path / f"{k}.tar" for k in range(5)]
    make_tar(paths[0], [(n, b"1") for n in ("a.jpg", "lone", "a.JPG", "__m__/x.y", "b.txt", "a.json")])
    make_tar(paths[1], [(f"k.e{i}", b"") for i in range(300)], "pax", mtime=0.5)
    paths[2].write_bytes(make_tar(paths[2], [m for i in range(9) for m in sample_members(i)]).read_bytes()[:20_000])
    paths[3].write_bytes(b"")
    with tarfile.open(paths[4], "w") as tar:
        for name, size in (("z.e7", 100), ("y", 40 << 20), ("z.jpg", 3)):
            entry = tarfile.TarInfo(name)
            entry.size = size
            tar.addfile(entry, io.BytesIO(bytes(size)))
    read = [(path, path.name) for path in paths]
    write_segment(read, tmp_path / "all")
    whole = Segment.open(tmp_path / "all")
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2], [1, 1, 4]):
        write_segment([read[k] for k in order], tmp_path / "read")
        taken = [(ShardColumns(whole, k), paths[k].name) for k in order]
        write_segment(taken, tmp_path / "taken", 3)
        assert (tmp_path / "taken").read_bytes() == (tmp_path / "read").read_bytes()
    with pytest.raises(IndexError, match="out of range: there are 5"):
        write_segment([(ShardColumns(whole, 5), "x")], tmp_path / "taken")


def test_a_shard_written_again_while_its_segment_is_written(tmp_path, monkeypatch):
    from dcfast.index import refresh as pool_refresh

    rng = np.random.default_rng(3)
    (name,) = write_pool(tmp_path / "pool", [[make_sample(rng, 0, make_uid(1))]])
    shard = tmp_path / "pool" / name
    other = shard.read_bytes().replace(make_uid(1).encode(), make_uid(2).encode())
    at = (time.time_ns() + 60_000_000_000) | 1
    os.utime(shard, ns=(at, at))
    write = pool_refresh.write_segment

    def write_slowly(*args, **kwargs):
        write(*args, **kwargs)
        shard.write_bytes(other)
        os.utime(shard, ns=(at, at))  # in the same tick
        os.utime(args[1], ns=(2 * at, 2 * at))  # the segment is whole long after

    monkeypatch.setattr(pool_refresh, "write_segment", write_slowly)
    refresh_index(tmp_path / "index", tmp_path / "pool")
    monkeypatch.undo()
    assert refresh_index(tmp_path / "index", tmp_path / "pool")["indexed"] == [name]


def test_shards_of_which_only_the_size_is_known_are_read_again(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    from dcfast.storage import remote

    rng = np.random.default_rng(3)
    (name,) = write_pool(tmp_path / "pool", [[make_sample(rng, 0, make_uid(1))]])
    memory = fsspec.filesystem("memory")
    try:
        memory.pipe(f"/dcfast-untold/{name}", (tmp_path / "pool" / name).read_bytes())
        for modified_ns, indexed in ((0, [name]), (0, [name]), (7, [name]), (7, [])):
            monkeypatch.setattr(remote, "_modified_ns", lambda info, ns=modified_ns: ns)
            assert refresh_index(tmp_path / "index", "memory://dcfast-untold")["indexed"] == indexed
    finally:
        memory.rm("/dcfast-untold", recursive=True)


@pytest.mark.parametrize("gone", ["segment-00000.dcx", "index.json"])
def test_a_pool_whose_index_is_not_whole_is_not_opened(tmp_path: Path, gone: str) -> None:
    rng = np.random.default_rng(0)
    shards = tmp_path / "pool/shards"
    write_pool(shards, [[make_sample(rng, i, make_uid(i))] for i in range(3)])
    index = tmp_path / "index"
    dcfast.refresh_index(index, shards)
    assert dcfast.open_pool(index, shards).num_samples == 3
    (index / gone).unlink()
    message = "segment-00000.dcx is missing; make it whole" if gone != "index.json" else "a refresh was stopped"
    with pytest.raises(PoolError, match=message):
        dcfast.open_pool(index, shards)
    dcfast.refresh_index(index, shards)
    assert dcfast.open_pool(index, shards).num_samples == 3
    shutil.copy(index / "segment-00000.dcx", index / "segment-00077.dcx")
    with pytest.raises(PoolError, match=r"segment-00077\.dcx is not of this index"):
        dcfast.open_pool(index, shards)


def test_a_layout_of_brackets_is_no_layout(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("[" * 100_000)
    with pytest.raises(CorruptDataError, match=r"index.json: not json: .*; refresh the index"):
        dcfast.PoolIndex.open(tmp_path)


def test_records_of_another_index_are_no_answer(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for pool, numbers in (("a", range(3)), ("b", range(3, 6))):
        write_pool(tmp_path / pool, [[make_sample(rng, i, make_uid(i))] for i in numbers])
        dcfast.refresh_index(tmp_path / f"index-{pool}", tmp_path / pool)
    shutil.copy(tmp_path / "index-b/pool.npy", tmp_path / "index-a/pool.npy")
    reader = dcfast.open_pool(tmp_path / "index-a", tmp_path / "a")
    with reader, pytest.raises(CorruptDataError, match=r"\(pool.npy\) is not of the segment .*; make it whole"):
        list(dcfast.iterate_uids(reader, subset_of([make_uid(4)])))


@pytest.mark.parametrize("threads", [-1, 1 << 32, 1.5, "x", True])
def test_threads_of_a_refresh(tmp_path: Path, threads: Any) -> None:
    with pytest.raises(ValueError, match="threads must be None or a whole number from 1 to 4096; got"):
        refresh_index(tmp_path / "index", tmp_path, threads=threads)
    assert not (tmp_path / "index").exists()
