"""Options of a reshard: global shuffle, several inputs, DALI index files, resumption, the command line."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from dcfast import resharding as resharder
from dcfast._core import access as core_access
from dcfast._core import reshard as core_reshard
from dcfast.errors import CorruptDataError, PoolError, RunError
from dcfast.index.build import index_tars, write_segment
from dcfast.index.segments import Segment
from dcfast.resharding.cli import main, parse_arguments
from dcfast.uids.sets import save_subset
from reshard_reference import (
    make_sample,
    make_uid,
    read_output,
    reference_reshard,
    sample_keys,
    subset_of,
    three_shards,
    write_pool,
)


@pytest.fixture
def pool(tmp_path):
    return three_shards(tmp_path)


def members_of(out: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                assert member.name not in found
                found[member.name] = tar.extractfile(member).read()
    return found


def whole_subset(copies: int = 4) -> np.ndarray:
    return subset_of([make_uid(i) for i in range(37) for _ in range(i * 5 % copies)])


# global shuffle


@pytest.mark.parametrize(("options", "shards"), [({"shard_size": 10}, 6), ({"max_bytes": 20_000}, None), ({}, 1)])
def test_a_shuffled_output_is_the_permutation_of_the_plain_one(pool, tmp_path, options, shards):
    directory, _, segments = pool
    subset = whole_subset()
    plain, out = tmp_path / "plain", tmp_path / "shuffled"
    resharder.reshard(segments, plain, subset, shards_dir=directory)
    report = resharder.reshard(segments, out, subset, shards_dir=directory, shuffle_seed=7, verify=True, **options)
    assert members_of(out) == members_of(plain)
    keys = [key for path in sorted(out.glob("*.tar")) for key in sample_keys(path)]
    in_order = sample_keys(plain / "00000000.tar")
    n = len(subset)
    assert n == len(in_order) == 54
    assert keys == [in_order[i] for i in core_reshard.permuted(n, 7, 0, n)]
    sizes = [count for _, count in read_output(out)]
    assert sum(sizes) == n
    assert len(sizes) == report["output_shard_count"]
    assert len(set(sizes[:-1])) <= 1  # the same number in each but the last
    if shards is not None:
        assert len(sizes) == shards
    else:
        mean = report["payload_bytes"] / len(sizes)
        assert mean <= 20_000
        assert len(sizes) > 1
    assert all(name.endswith((".jpg", ".json", ".txt")) for name in members_of(out))


def test_a_shuffle_is_its_seeds_alone(pool, tmp_path):
    directory, _, segments = pool
    subset = whole_subset()
    first = resharder.make_plan(segments, subset, shards_dir=directory, shard_size=9, shuffle_seed=1)
    for k in reversed(range(first.num_output_shards)):
        resharder.write_output_shards(first, subset, k, k + 1, tmp_path / "a", segments=segments, threads=3)
    resharder.reshard(segments, tmp_path / "b", subset, shards_dir=directory, shard_size=9, shuffle_seed=1, threads=2)
    resharder.reshard(segments, tmp_path / "c", subset, shards_dir=directory, shard_size=9, shuffle_seed=2)
    assert read_output(tmp_path / "a") == read_output(tmp_path / "b")
    assert read_output(tmp_path / "a") != read_output(tmp_path / "c")


def test_a_saved_shuffled_plan_is_enough_for_a_worker(pool, tmp_path):
    directory, names, _ = pool
    paths = []
    for number, name in enumerate(names):  # a segment a shard: scattered rows of many segments
        paths.append(str(tmp_path / f"{number}.dcx"))
        write_segment([(directory / name, name)], paths[-1], sync=False)
    subset = whole_subset()
    plan = resharder.make_plan(paths, subset, shards_dir=directory, shard_size=4, shuffle_seed=5)
    plan.save(tmp_path / "plan")
    assert (tmp_path / "plan/rows.npy").exists()
    loaded = resharder.ReshardPlan.load(tmp_path / "plan")
    assert loaded.shuffle_seed == 5
    assert np.array_equal(loaded.rows, plan.rows)
    resharder.write_output_shards(tmp_path / "plan", subset, 0, plan.num_output_shards, tmp_path / "a", threads=2)
    resharder.reshard(directory, tmp_path / "b", subset, shard_size=4, shuffle_seed=5)
    assert read_output(tmp_path / "a") == read_output(tmp_path / "b")


def test_a_shuffle_of_more_copies_than_are_spooled_at_once(pool, tmp_path):
    directory, _, segments = pool
    subset = np.repeat(subset_of([make_uid(3), make_uid(9)]), 70_000)
    plan = resharder.make_plan(segments, subset, shards_dir=directory, shard_size=50_000, shuffle_seed=2)
    assert plan.cuts["samples"].tolist() == [50_000, 50_000, 40_000]
    assert plan.rows.tolist() == [3] * 70_000 + [2 << 32 | 2] * 70_000


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_a_seed_that_is_none(pool, tmp_path, seed):
    directory, _, segments = pool
    with pytest.raises(ValueError, match="shuffle_seed must be 0 to"):
        resharder.reshard(segments, tmp_path / "o", whole_subset(), shards_dir=directory, shuffle_seed=seed)


def test_an_empty_shuffle(pool, tmp_path):
    directory, _, segments = pool
    report = resharder.reshard(
        segments, tmp_path / "o", subset_of([]), shards_dir=directory, shuffle_seed=1, verify=True
    )
    assert report["output_shard_count"] == report["tar_bytes"] == 0


def test_members_of_scattered_rows(tmp_path, pool):
    directory, names, _ = pool
    write_segment([(directory / names[2], names[2])], tmp_path / "s.dcx", sync=False)
    segment = Segment.open(tmp_path / "s.dcx")
    rows = np.array([29, 0, 7, 7])
    none = np.empty(0, np.uint32)
    count, offset, size, ext = core_access.sample_members(segment._core, rows.astype(np.uint64), none, 0)
    assert count.tolist() == [3, 3, 3, 3]
    one = [segment.members_of(int(row), int(row) + 1) for row in rows]
    for got, column in zip((offset, size, ext), zip(*one, strict=True), strict=True):
        assert got.tolist() == np.concatenate(column).tolist()
    with pytest.raises(ValueError, match="out of range"):
        core_access.sample_members(segment._core, np.array([30], np.uint64), none, 0)


# several inputs


def test_several_input_directories(tmp_path):
    rng = np.random.default_rng(3)
    parts = [[make_sample(rng, i, make_uid(i)) for i in range(a, b)] for a, b in ((0, 5), (5, 9), (9, 16))]
    repeated = make_sample(rng, 99, make_uid(1))
    write_pool(tmp_path / "in/first", parts[:2])
    write_pool(tmp_path / "in/b/shards", [[*parts[2], repeated]])
    together = write_pool(tmp_path / "one", [*parts[:2], [*parts[2], repeated]])
    subset = subset_of([make_uid(i) for i in range(16)])
    report = resharder.reshard(
        [tmp_path / "in/first", tmp_path / "in/b"], tmp_path / "o", subset, shard_size=6, verify=True
    )
    assert read_output(tmp_path / "o") == reference_reshard(tmp_path / "one", together, subset, 6)
    assert report["repeated_rows"] == 1  # counted over all inputs
    meta = json.loads((tmp_path / "o/meta.json").read_text())
    assert meta["input_dir"] == "first::shards"  # without their places
    for place in ("in/first", "in/b/shards"):
        with pytest.raises(RunError, match="is the pool itself"):
            resharder.reshard([tmp_path / "in/first", tmp_path / "in/b"], tmp_path / place, subset, overwrite=True)


def test_input_directories_through_a_link_and_back(tmp_path):
    rng = np.random.default_rng(4)
    (tmp_path / "y/z").mkdir(parents=True)
    for number, place in enumerate(("x/b", "y/b", "x/c")):
        write_pool(tmp_path / place, [[make_sample(rng, number, make_uid(number))]])
    (tmp_path / "x/link").symlink_to(tmp_path / "y/z")
    there = tmp_path / "x/link/../b"  # y/b
    resharder.reshard([there, tmp_path / "x/c"], tmp_path / "o", subset_of([make_uid(i) for i in range(3)]))
    with tarfile.open(tmp_path / "o/00000000.tar") as tar:
        assert {name.split("-")[0] for name in tar.getnames()} == {make_uid(1), make_uid(2)}


@pytest.mark.parametrize("option", ["first_shard", "num_shards"])
def test_numbers_of_shards_below_zero(pool, tmp_path, option):
    with pytest.raises(ValueError, match="first_shard and num_shards must be 0 or more; got"):
        resharder.reshard(pool[0], tmp_path / "o", whole_subset(), **{option: -1})
    assert not (tmp_path / "o").exists()


def test_bad_input_directories(tmp_path):
    write_pool(tmp_path / "a", [[make_sample(np.random.default_rng(0), 0, make_uid(0))]])
    (tmp_path / "empty").mkdir()
    subset = subset_of([make_uid(0)])
    for pool, error, message in (
        ([tmp_path / "a", tmp_path / "a/../a"], PoolError, "is given twice"),
        ([tmp_path / "a", tmp_path / "empty"], PoolError, "has no .tar files"),
        ([tmp_path / "a", tmp_path / "none"], TypeError, "shards_dir must be given"),
        ([], PoolError, "no index segments"),
    ):
        with pytest.raises(error, match=message):
            resharder.reshard(pool, tmp_path / "o", subset)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["../out.tar", "/etc/hostname"])
def test_an_index_never_leads_out_of_its_pool(pool, tmp_path, name):
    directory, names, _ = pool
    write_segment([(directory / names[0], name)], tmp_path / "s.dcx", sync=False)
    (tmp_path / "out.tar").write_bytes((directory / names[0]).read_bytes())
    with pytest.raises(CorruptDataError, match="outside of its pool"):
        resharder.reshard([str(tmp_path / "s.dcx")], tmp_path / "o", whole_subset(), shards_dir=directory)


# index files for DALI


def test_idx_files_say_where_the_members_lie(tmp_path):
    rng = np.random.default_rng(4)
    key, members = make_sample(rng, 1, make_uid(1))
    members |= {"e" * 90: b"long name", "größe": b"not ascii", "b": b""}
    directory = tmp_path / "pool"
    write_pool(directory, [[make_sample(rng, 0, make_uid(0)), (key, members), make_sample(rng, 2, make_uid(2))]])
    subset = subset_of([make_uid(i) for i in (0, 1, 1, 2)])
    resharder.reshard(directory, tmp_path / "o", subset, shard_size=2, idx=True, verify=True)
    total = 0
    for number in range(2):
        data = (tmp_path / f"o/{number:08d}.tar").read_bytes()
        head, *lines = (tmp_path / f"o/{number:08d}.idx").read_bytes().decode().splitlines()
        assert head == f"v1.2 {len(lines)}"
        with tarfile.open(tmp_path / f"o/{number:08d}.tar") as tar:
            for line in lines:
                for ext, offset, size, name in zip(*[iter(line.split(" "))] * 4, strict=True):
                    member = tar.next()
                    assert (member.name, member.size, member.offset_data) == (name, int(size), int(offset))
                    assert name.split(".", 1)[1] == ext
                    assert len(data) >= int(offset) + int(size)
                    total += 1
            assert tar.next() is None
    assert total == 18


def test_idx_of_an_extension_with_white_space(tmp_path):
    key, members = make_sample(np.random.default_rng(4), 1, make_uid(1))
    write_pool(tmp_path / "pool", [[(key, {**members, "a b": b""})]])
    with pytest.raises(ValueError, match="has white space in its name"):
        resharder.reshard(tmp_path / "pool", tmp_path / "o", subset_of([make_uid(1)]), idx=True)
    assert list((tmp_path / "o").glob("*.tar")) == []


def test_verification_reads_the_idx_files(pool, tmp_path):
    directory, _, segments = pool
    subset = whole_subset()
    resharder.reshard(segments, tmp_path / "o", subset, shards_dir=directory, idx=True)
    plan = resharder.make_plan(segments, subset, shards_dir=directory)
    victim = tmp_path / "o/00000000.idx"
    text = victim.read_bytes()
    victim.write_bytes(text.replace(b"jpg 512", b"jpg 513"))
    for problem in ("does not say where the members lie", "index file cannot be read"):
        report = resharder.verify_output_shards(plan, subset, tmp_path / "o", segments=segments, idx=True)
        assert problem in report["mismatches"][0]["problem"]
        assert report["mismatch_count"] == 1
        victim.unlink(missing_ok=True)


# resumption


def test_a_killed_run_goes_on(pool, tmp_path, monkeypatch):
    directory, names, _ = pool
    subset = whole_subset()
    out = tmp_path / "o"
    done: list[int] = []
    from dcfast.resharding.write import _Writer

    write = _Writer.write

    def write_or_die(self, k):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(k)
        return write(self, k)

    options = {"shard_size": 6, "idx": True, "threads": 1}
    monkeypatch.setattr(_Writer, "write", write_or_die)
    with pytest.raises(KeyboardInterrupt):
        resharder.reshard(directory, out, subset, **options)
    monkeypatch.setattr(_Writer, "write", write)
    (out / "00000002_stats.json").unlink()  # killed between the tar and its stats
    (out / ".tmp-1-0a1b2c3d-00000005.tar").write_bytes(b"half")
    kept = (out / "00000001.tar").stat().st_ino
    with pytest.raises(RunError, match="is not empty; to go on with a run that has not ended, pass resume=True"):
        resharder.reshard(directory, out, subset, **options)
    for other in ({"shard_size": 7}, {"shuffle_seed": 1}, {"idx": False}):
        with pytest.raises(RunError, match="holds another run"):
            resharder.reshard(directory, out, subset, resume=True, **{**options, **other})
    with pytest.raises(RunError, match="holds another run"):
        resharder.reshard(directory, out, subset[1:], resume=True, **options)
    report = resharder.reshard(directory, out, subset, resume=True, verify=True, **options)
    assert report["skipped"] == 2
    assert (out / "00000001.tar").stat().st_ino == kept
    assert read_output(out) == reference_reshard(directory, names, subset, 6)
    assert not [path.name for path in out.iterdir() if path.name.startswith(".tmp-") or "key" in path.name]
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert resharder.reshard(directory, out, subset, resume=True, **options)["skipped"] == len(before)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")} == before


def test_nothing_to_resume(pool, tmp_path):
    directory, names, _ = pool
    subset = whole_subset()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds no run that could be resumed"):
        resharder.reshard(directory, tmp_path / "full", subset, resume=True)
    resharder.reshard(directory, tmp_path / "new", subset, resume=True)  # a first run may say it too
    assert read_output(tmp_path / "new") == reference_reshard(directory, names, subset)
    for other in ({"shard_size": 7}, {"shuffle_seed": 1}, {"subset": subset[1:]}):
        with pytest.raises(RunError, match="holds another run"):
            resharder.reshard(**{"pool": directory, "out": tmp_path / "new", "subset": subset, **other}, resume=True)
    (tmp_path / "new/sample_ids.npy").unlink()
    with pytest.raises(RunError, match=r"sample_ids\.npy.*nothing can be resumed here, pass overwrite=True"):
        resharder.reshard(directory, tmp_path / "new", subset, resume=True)


def test_an_ended_run_of_a_pool_that_grew_is_another(tmp_path):
    rng = np.random.default_rng(4)
    write_pool(tmp_path / "pool", [[make_sample(rng, i, make_uid(i)) for i in range(9)]])
    subset = subset_of([make_uid(i) for i in range(30)])
    out = tmp_path / "o"
    resharder.reshard(tmp_path / "pool", out, subset)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write_pool(tmp_path / "more", [[make_sample(rng, i, make_uid(i)) for i in range(20, 24)]])
    os.rename(tmp_path / "more/00000000.tar", tmp_path / "pool/00000001.tar")
    with pytest.raises(RunError, match="holds another run"):
        resharder.reshard(tmp_path / "pool", out, subset, resume=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(("name", "text"), [("reshard_key.json", ""), ("meta.json", "[1]"), ("reshard_key.json", "7")])
def test_resumption_by_a_damaged_note(pool, tmp_path, name, text):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / name).write_text(text)
    with pytest.raises(RunError, match=f"{name}: .*nothing can be resumed here, pass overwrite=True"):
        resharder.reshard(pool[0], tmp_path / "o", whole_subset(), resume=True)


def test_overwrite_never_removes_what_is_read(pool, tmp_path):
    directory, _, _ = pool
    out = tmp_path / "o"
    resharder.reshard(directory, out, whole_subset(), shard_size=20)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "links").mkdir()
    for path in out.glob("*.tar"):
        (tmp_path / "links" / path.name).symlink_to(path)
    (tmp_path / "s.npy").symlink_to(out / "sample_ids.npy")
    for pool_dir, subset in (
        (directory, out / "sample_ids.npy"),
        (directory, tmp_path / "s.npy"),
        (tmp_path / "links", whole_subset()),
    ):
        with pytest.raises(RunError, match="is read by this run, and overwrite=True would remove it; choose another"):
            resharder.reshard(pool_dir, out, subset, overwrite=True)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


# the command line


def run_cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dcfast.resharder", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_command_line_as_datacomps(pool, tmp_path):
    directory, names, _ = pool
    subset = whole_subset()
    save_subset(tmp_path / "subset.npy", subset)
    usual = ["-i", directory, "-o", tmp_path / "o", "-s", tmp_path / "subset.npy", "-j", 2, "--shard-size", 20]
    dry = run_cli(*usual, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert dry.stdout.startswith("would write 54 samples in 3 shards")
    assert not (tmp_path / "o").exists()
    done = run_cli(*usual, "--verify", "--shard-format", "{:08d}.tar", "--write-shard-table")
    assert (done.returncode, done.stderr) == (0, "")
    assert "verified 162 members" in done.stdout
    assert read_output(tmp_path / "o") == reference_reshard(directory, names, subset, 20)
    again = run_cli(*usual, "-q")
    assert (again.returncode, again.stdout) == (1, "")
    assert "is not empty" in again.stderr
    assert "Traceback" not in again.stderr


def test_command_line_in_process(pool, tmp_path, capsys):
    directory, _, _ = pool
    write_pool(tmp_path / "more", [[make_sample(np.random.default_rng(8), 50, make_uid(50))]])
    save_subset(tmp_path / "s.npy", subset_of([make_uid(0), make_uid(50), "77"]))
    usual = ["-i", str(directory), "-i", str(tmp_path / "more"), "-s", str(tmp_path / "s.npy"), "--no-sync"]
    assert main([*usual, "-o", str(tmp_path / "o"), "--shuffle-bufsize", "100", "--idx", "-v"]) == 0
    said = capsys.readouterr().out
    assert "wrote 2 samples in 1 shards" in said
    assert "1 of 3 entries of the subset are in no input shard" in said
    assert json.loads((tmp_path / "o/meta.json").read_text())["shuffle_seed"] == "0"
    assert main([*usual, "-o", str(tmp_path / "o"), "--resume"]) == 1
    assert "holds another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "these have to be given: --input-dir DIR, --output-dir DIR, --subset-file FILE"),
        (["-i", "a", "-o", "b", "-s", "c", "--output-shard-format", "{}.tar"], "can only be {:08d}.tar; got {}.tar"),
        (["-i", "a", "-o", "b", "-s", "c", "--apply-blur"], "need --blur-metadata-map"),
        (["-i", "a", "-o", "b", "-s", "c", "-j", "-1"], "--num-workers must be at least 0; got -1"),
        (["-i", "a", "-o", "b", "-s", "c", "--shard-size", "x"], "invalid int value"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_arguments(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_free_space_counts_the_index_files(pool, tmp_path, monkeypatch):
    directory, _, segments = pool
    subset = whole_subset()
    plain = resharder.reshard(segments, tmp_path / "o", subset, shards_dir=directory, dry_run=True)
    with_idx = resharder.reshard(segments, tmp_path / "o", subset, shards_dir=directory, dry_run=True, idx=True)
    assert with_idx["needed_bytes"] > plain["needed_bytes"]
    monkeypatch.setattr("dcfast.resharding.output.free_bytes", lambda path: plain["needed_bytes"])
    with pytest.raises(OSError, match="not enough space") as caught:
        resharder.reshard(segments, tmp_path / "o", subset, shards_dir=directory, idx=True)
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "o").exists()


def test_index_of_the_output_agrees_with_the_plan(pool, tmp_path):
    directory, _, segments = pool
    resharder.reshard(segments, tmp_path / "o", whole_subset(), shards_dir=directory, shuffle_seed=9, shard_size=30)
    index = index_tars(tmp_path / "o")
    assert not index.damage
    assert index.segment.num_samples == 54
    assert not index.segment.flags.any()
