"""The short way of a reshard, which the core does alone: same bytes, same report and same errors as the long one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dcfast import resharding as resharder
from dcfast.errors import CorruptDataError, RunError, SubsetError
from dcfast.resharding.quick import _flat_json, quick_reshard
from dcfast.resharding.run import run_reshard
from dcfast.uids.sets import save_subset
from reshard_reference import make_sample, make_uid, read_output, reference_reshard, subset_of, write_pool


def random_pool(directory: Path, seed: int) -> list[str]:
    """Shards with what can be amiss: no uid, uids again, odd extensions, no samples, shards cut short."""
    rng = np.random.default_rng(seed)
    shards, number = [], 0
    for _ in range(int(rng.integers(1, 5))):
        samples = []
        for _ in range(int(rng.integers(0, 25))):
            uid = None if rng.random() < 0.1 else make_uid(int(rng.integers(0, 60)))
            key, members = make_sample(rng, number, uid)
            if rng.random() < 0.2:
                members |= {"JPG2": b"upper", "größe": b"x", "e" * int(rng.integers(1, 120)): rng.bytes(700)}
            if rng.random() < 0.2:
                members = dict(reversed(members.items()))
            samples.append((key, members))
            number += 1
        shards.append(samples)
    names = write_pool(directory, shards)
    if rng.random() < 0.3:
        victim = directory / names[-1]
        os.truncate(victim, victim.stat().st_size * 2 // 3)
    return names


def both(directory: Path, subset_file: Path, place: Path, **options) -> tuple[dict, dict]:
    quick = resharder.reshard(directory, place / "quick", subset_file, **options)
    long = run_reshard(directory, place / "long", subset_file, **options)
    for report in (quick, long):
        report.pop("free_bytes")
    return quick, long


@pytest.mark.parametrize("seed", range(12))
def test_both_ways_write_the_same(tmp_path, seed):
    rng = np.random.default_rng(1000 + seed)
    random_pool(tmp_path / "pool/shards", seed)
    uids = [make_uid(int(i)) for i in rng.integers(0, 70, int(rng.integers(0, 80)))]
    save_subset(tmp_path / "s.npy", subset_of(uids))
    options = {
        "shard_size": int(rng.choice([1, 3, 10_000])),
        "max_bytes": int(rng.choice([1, 5000, 3_000_000_000])),
        "threads": int(rng.integers(0, 4)),
        "sync": bool(seed % 2),
    }
    quick, long = both(tmp_path / "pool", tmp_path / "s.npy", tmp_path, **options)
    assert quick == long
    assert all(type(value) is int for name, value in quick.items() if name != "damage")
    names = [sorted(path.name for path in (tmp_path / way).iterdir()) for way in ("quick", "long")]
    assert names[0] == names[1]
    for name in names[0]:
        assert (tmp_path / "quick" / name).read_bytes() == (tmp_path / "long" / name).read_bytes(), name
    dry = resharder.reshard(tmp_path / "pool", tmp_path / "dry", tmp_path / "s.npy", dry_run=True, **options)
    assert dry["output_count"] == quick["output_count"]
    assert not (tmp_path / "dry").exists()


def test_the_short_way_equals_the_reference(tmp_path):
    rng = np.random.default_rng(2)
    names = write_pool(tmp_path / "pool", [[make_sample(rng, i, make_uid(i)) for i in range(s, s + 9)] for s in (0, 9)])
    subset = subset_of([make_uid(i) for i in range(18) for _ in range(i % 3)])
    save_subset(tmp_path / "s.npy", subset)
    resharder.reshard(tmp_path / "pool", tmp_path / "o", tmp_path / "s.npy", shard_size=5)
    assert read_output(tmp_path / "o") == reference_reshard(tmp_path / "pool", names, subset, 5)


IMPORTS = """
import sys, dcfast
report = dcfast.reshard(*sys.argv[1:4], sync=False)
heavy = {"numpy", "typing", "json", "re", "pathlib", "shutil", "argparse"} & set(sys.modules)
print(report["output_count"], sorted(heavy))
"""


def test_the_short_way_imports_next_to_nothing(tmp_path):
    rng = np.random.default_rng(2)
    write_pool(tmp_path / "pool", [[make_sample(rng, i, make_uid(i)) for i in range(9)]])
    save_subset(tmp_path / "s.npy", subset_of([make_uid(3)]))
    # -S: an editable install has imports of its own
    command = [sys.executable, "-S", "-c", IMPORTS, *map(str, (tmp_path / "pool", tmp_path / "o", tmp_path / "s.npy"))]
    package = str(Path(resharder.__file__).parents[2])
    extension = str(Path(sys.modules["dcfast._core"].__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([package, extension])}
    code = f"import dcfast; dcfast.__path__.append({extension + '/dcfast'!r})\n" + IMPORTS
    command[3] = code
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout.strip()) == (0, "1 []"), done.stderr


def test_what_takes_the_long_way(tmp_path):
    rng = np.random.default_rng(2)
    write_pool(tmp_path / "pool", [[make_sample(rng, i, make_uid(i)) for i in range(9)]])
    save_subset(tmp_path / "s.npy", subset_of([make_uid(3)]))
    plain = {
        "pool": tmp_path / "pool", "output_dir": tmp_path / "o", "subset": tmp_path / "s.npy", "shards_dir": None,
        "shard_size": 10, "max_bytes": 1000, "first_shard": 0, "num_shards": None, "shuffle_seed": None,
        "exclude": None, "pool_records": None, "boxes": None, "apply_blur": False, "inject_boxes": False,
        "webp_quality": 100, "idx": False, "overwrite": False, "resume": False, "dry_run": True, "verify": False,
        "threads": 0, "sync": True, "check_mtime": True,
    }  # fmt: skip
    assert quick_reshard(plain) is not None
    (tmp_path / "raw").write_bytes(np.load(tmp_path / "s.npy").tobytes())
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    np.save(tmp_path / "unsorted.npy", np.load(tmp_path / "s.npy").repeat(2)[::-1])
    np.save(tmp_path / "records.npy", np.zeros(3, "u8,u8,u8"))
    for other in (
        {"first_shard": 1}, {"shuffle_seed": 0}, {"idx": True}, {"resume": True}, {"verify": True}, {"threads": -1},
        {"shard_size": 0}, {"max_bytes": 1.5}, {"subset": tmp_path / "raw"}, {"output_dir": tmp_path / "full"},
        {"pool": tmp_path / "none"}, {"pool": os.fsencode(tmp_path / "pool")}, {"subset": tmp_path / "records.npy"},
    ):  # fmt: skip
        assert quick_reshard({**plain, **other}) is None, other


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lambda t: (t / "s.npy").write_bytes((t / "s.npy").read_bytes()[:-3]), SubsetError),
        (lambda t: np.save(t / "s.npy", np.load(t / "s.npy")[::-1]), SubsetError),
        (lambda t: (t / "s.npy").unlink(), FileNotFoundError),
        (lambda t: (t / "pool/00000000.tar").unlink(), Exception),
    ],
)
def test_errors_are_those_of_the_long_way(tmp_path, break_it, error):
    rng = np.random.default_rng(2)
    write_pool(tmp_path / "pool", [[make_sample(rng, i, make_uid(i)) for i in range(9)]])
    save_subset(tmp_path / "s.npy", subset_of([make_uid(3), make_uid(4)]))
    break_it(tmp_path)
    said = []
    for way in (resharder.reshard, run_reshard):
        with pytest.raises(error) as caught:
            way(tmp_path / "pool", tmp_path / "o", tmp_path / "s.npy")
        said.append((type(caught.value), str(caught.value)))
    assert said[0] == said[1]
    assert not (tmp_path / "o").exists()


def test_a_shard_that_changes_and_a_full_disk(tmp_path, monkeypatch):
    from dcfast._core import reshard as core_reshard

    rng = np.random.default_rng(2)
    (name,) = write_pool(tmp_path / "pool", [[make_sample(rng, i, make_uid(i)) for i in range(9)]])
    save_subset(tmp_path / "s.npy", subset_of([make_uid(3), make_uid(4)]))
    shard = os.fsencode(tmp_path / "pool" / name)
    plan = core_reshard.PoolReshard([shard], os.fsencode(tmp_path / "s.npy"), shard_size=9, max_bytes=9**9, threads=1)
    with pytest.raises(OSError, match="No space left"):
        plan.write(0, b"/dev/full", threads=2, check_mtime=True)
    with pytest.raises(IndexError, match="no such output shard"):
        plan.write(1, os.fsencode(tmp_path / "o"), threads=1, check_mtime=True)
    os.utime(shard, ns=(1, 1))
    with pytest.raises(CorruptDataError, match="expected modification time"):
        plan.write(0, os.fsencode(tmp_path / "o"), threads=1, check_mtime=True)
    assert plan.write(0, os.fsencode(tmp_path / "o"), threads=1, check_mtime=False) % 10_240 == 0
    monkeypatch.setattr("dcfast.resharding.quick._free_bytes", lambda out: 100)
    monkeypatch.setattr("dcfast.resharding.output.shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(OSError, match="not enough space: the output needs"):
        resharder.reshard(tmp_path / "pool", tmp_path / "out", tmp_path / "s.npy")
    assert not (tmp_path / "out").exists()


def test_copies_without_end_are_left_to_the_long_way(tmp_path):
    rng = np.random.default_rng(2)
    write_pool(tmp_path / "pool", [[make_sample(rng, i, make_uid(7), size=0) for i in range(20)]])
    save_subset(tmp_path / "s.npy", np.repeat(subset_of([make_uid(7)]), 1_000_000))
    report = resharder.reshard(tmp_path / "pool", tmp_path / "o", tmp_path / "s.npy", dry_run=True)
    assert report["output_count"] == 20_000_000
    assert report["repeated_rows"] == 19


def test_json_is_that_of_the_json_module():
    for value in ({}, {"b": 1, "a": 'q"\\\n\x01é'}, {"10": "x", "9": -5}):
        assert _flat_json(value).decode() == json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def killed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> Path:
    """A short run that ended while it wrote its files, after so many; its output directory."""
    import dcfast.resharding.quick as quick

    rng = np.random.default_rng(2)
    write_pool(tmp_path / "pool", [[make_sample(rng, i, make_uid(i)) for i in range(s, s + 9)] for s in (0, 9)])
    save_subset(tmp_path / "s.npy", subset_of([make_uid(i) for i in range(18)]))
    atomic, written = quick._atomic, []

    def atomic_or_die(out, name, content, sync):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(name)
        atomic(out, name, content, sync)

    with monkeypatch.context() as patch:
        patch.setattr(quick, "_atomic", atomic_or_die)
        with pytest.raises(KeyboardInterrupt):
            resharder.reshard(tmp_path / "pool", tmp_path / "o", tmp_path / "s.npy", shard_size=5)
    return tmp_path / "o"


@pytest.mark.parametrize("after", range(12))
def test_a_killed_short_run_is_resumed(tmp_path, monkeypatch, after):
    out = killed_run(tmp_path, monkeypatch, after)
    whole = {path.name: path.stat().st_ino for path in out.glob("*.tar") if (out / f"{path.stem}_stats.json").exists()}
    report = resharder.reshard(tmp_path / "pool", out, tmp_path / "s.npy", shard_size=5, resume=True)
    assert report["skipped"] == len(whole) == min(4, max(0, after - 1) // 2)
    assert all((out / name).stat().st_ino == inode for name, inode in whole.items())
    resharder.reshard(tmp_path / "pool", tmp_path / "again", tmp_path / "s.npy", shard_size=5)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in (tmp_path / "again").iterdir())
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_a_killed_short_run_is_not_resumed_as_another(tmp_path, monkeypatch):
    out = killed_run(tmp_path, monkeypatch, 4)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    save_subset(tmp_path / "other.npy", subset_of([make_uid(i) for i in range(17)]))

    def resume(**other):
        arguments = {"subset": tmp_path / "s.npy", "shard_size": 5, **other}
        with pytest.raises(RunError, match="holds another run"):
            resharder.reshard(tmp_path / "pool", out, resume=True, **arguments)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    for other in (
        {"subset": tmp_path / "other.npy"}, {"shard_size": 6}, {"max_bytes": 9000}, {"shuffle_seed": 1}, {"idx": True},
        {"num_shards": 1}, {"first_shard": 1},
    ):  # fmt: skip
        resume(**other)
    os.utime(tmp_path / "pool/00000001.tar", ns=(5, 5))
    resume()
