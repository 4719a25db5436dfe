"""Short reshards of a directory by a subset file: bytes of the reference, next to no imports, errors, kills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dcfast import resharding as resharder
from dcfast.errors import CorruptDataError, PoolError, RunError, SubsetError
from dcfast.index.build import write_segment
from dcfast.resharding import inputs
from dcfast.resharding.files import flat_json, plain_path, write_bytes
from dcfast.resharding.plan import ShardSources
from dcfast.uids.sets import save_subset
from reshard_reference import make_sample, make_uid, read_output, reference_reshard, subset_of, write_pool


def random_pool(directory: Path, seed: int, *, cut: bool = True) -> list[str]:
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
    if cut and rng.random() < 0.3:
        victim = directory / names[-1]
        os.truncate(victim, victim.stat().st_size * 2 // 3)
    return names


def both(directory: Path, subset_file: Path, place: Path, **options) -> tuple[dict, dict]:
    """Reports of a run as short as can be, and of one by arrays and an index that is there."""
    shards = directory / "shards"
    segments = []
    for name in sorted(path.name for path in shards.glob("*.tar")):
        segments.append(str(place / f"{name}.dcx"))
        write_segment([(shards / name, name)], segments[-1], sync=False)
    short = resharder.reshard(directory, place / "short", subset_file, **options)
    subset = np.load(subset_file)
    long = resharder.reshard(segments, place / "long", subset, shards_dir=shards, **options)
    for report in (short, long):
        report.pop("free_bytes")
    return short, long


@pytest.mark.parametrize("seed", range(12))
def test_from_files_and_from_arrays_the_same_is_written(tmp_path, seed):
    rng = np.random.default_rng(1000 + seed)
    random_pool(tmp_path / "pool/shards", seed)
    uids = [make_uid(int(i)) for i in rng.integers(0, 70, int(rng.integers(0, 80)))]
    save_subset(tmp_path / "s.npy", subset_of(uids))
    options = {
        "shard_size": int(rng.choice([1, 3, 10_000])),
        "max_bytes": int(rng.choice([1, 5000, 3_000_000_000])),
        "threads": int(rng.integers(1, 4)),
        "sync": bool(seed % 2),
    }
    short, long = both(tmp_path / "pool", tmp_path / "s.npy", tmp_path, **options)
    assert short == long
    assert all(type(value) is int for name, value in short.items() if name != "damage")
    names = [sorted(path.name for path in (tmp_path / way).iterdir()) for way in ("short", "long")]
    assert names[0] == names[1]
    for name in names[0]:
        data = [(tmp_path / way / name).read_bytes() for way in ("short", "long")]
        if name == "meta.json":
            metas = [json.loads(text) for text in data]
            assert [meta.pop("subset_file") for meta in metas] == ["s.npy", ""]
            assert len({meta.pop("arguments_xxh3") for meta in metas}) == 2
            assert metas[0] == metas[1]
        else:
            assert data[0] == data[1], name
    dry = resharder.reshard(tmp_path / "pool", tmp_path / "dry", tmp_path / "s.npy", dry_run=True, **options)
    assert dry["output_count"] == short["output_count"]
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize("seed", range(12))
def test_a_short_run_of_a_random_pool_equals_the_reference(tmp_path, seed):
    rng = np.random.default_rng(1000 + seed)
    names = random_pool(tmp_path / "pool", seed, cut=False)
    subset = subset_of([make_uid(int(i)) for i in rng.integers(0, 70, int(rng.integers(0, 80)))])
    save_subset(tmp_path / "s.npy", subset)
    shard_size, max_bytes = int(rng.choice([1, 3, 10_000])), int(rng.choice([1, 5000, 3_000_000_000]))
    resharder.reshard(tmp_path / "pool", tmp_path / "o", tmp_path / "s.npy", shard_size=shard_size, max_bytes=max_bytes)
    assert read_output(tmp_path / "o") == reference_reshard(tmp_path / "pool", names, subset, shard_size, max_bytes)


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
heavy = {"numpy", "typing", "json", "re", "pathlib", "shutil", "argparse", "dataclasses", "hashlib", "tempfile"}
heavy = (heavy | {"pyarrow", "threading", "concurrent.futures"}) & set(sys.modules)
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


@pytest.mark.parametrize(
    ("other", "error"),
    [
        ({"first_shard": 1}, PoolError), ({"threads": -1}, ValueError), ({"shard_size": 0}, ValueError),
        ({"max_bytes": 0}, ValueError), ({"shuffle_seed": 0}, None), ({"idx": True}, None), ({"resume": True}, None),
        ({"verify": True}, None), ({"max_bytes": 1.5}, None), ({"max_bytes": 3e9}, None), ({"max_bytes": 10**30}, None),
        ({"num_shards": 10**30}, None), ({"subset": "raw"}, None), ({"subset": "empty.npy"}, None),
        ({"out": "full"}, RunError), ({"pool": "none"}, PoolError), ({"pool": b"pool"}, TypeError),
        ({"subset": "records.npy"}, SubsetError), ({"subset": "unsorted.npy"}, SubsetError),
    ],
)  # fmt: skip
def test_every_option_goes_the_one_way(tmp_path, monkeypatch, other, error):
    """Options that keep a run from being short, and inputs that are refused, beside a subset file and a directory."""
    rng = np.random.default_rng(2)
    monkeypatch.chdir(tmp_path)
    names = write_pool(tmp_path / "pool", [[make_sample(rng, i, make_uid(i)) for i in range(9)]])
    subset = subset_of([make_uid(3)])
    save_subset(tmp_path / "s.npy", subset)
    (tmp_path / "raw").write_bytes(subset.tobytes())
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    np.save(tmp_path / "unsorted.npy", subset_of([make_uid(3), make_uid(4)])[::-1])
    np.save(tmp_path / "records.npy", np.zeros(3, "u8,u8,u8"))
    np.save(tmp_path / "empty.npy", subset[:0])
    options = {"pool": "pool", "out": "o", "subset": "s.npy", **other}
    if error is not None:
        with pytest.raises(error):
            resharder.reshard(**options)
        assert not (tmp_path / "o").exists()
        return
    report = resharder.reshard(**options)
    expected = reference_reshard(tmp_path / "pool", names, subset[:0] if options["subset"] == "empty.npy" else subset)
    assert read_output(tmp_path / "o") == expected
    assert report["output_count"] == sum(count for _, count in expected)


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (lambda t: (t / "s.npy").write_bytes((t / "s.npy").read_bytes()[:-3]), SubsetError, "s.npy.*truncated"),
        (lambda t: np.save(t / "s.npy", np.load(t / "s.npy")[::-1]), SubsetError, "s.npy: expected uids sorted"),
        (lambda t: (t / "s.npy").unlink(), FileNotFoundError, "the subset file cannot be read: No such file"),
        (lambda t: (t / "pool/00000000.tar").unlink(), PoolError, r"has no \.tar files"),
    ],
)
def test_errors_of_a_short_run_have_their_words(tmp_path, break_it, error, message):
    rng = np.random.default_rng(2)
    write_pool(tmp_path / "pool", [[make_sample(rng, i, make_uid(i)) for i in range(9)]])
    save_subset(tmp_path / "s.npy", subset_of([make_uid(3), make_uid(4)]))
    break_it(tmp_path)
    with pytest.raises(error, match=message):
        resharder.reshard(tmp_path / "pool", tmp_path / "o", tmp_path / "s.npy")
    assert not (tmp_path / "o").exists()


def test_a_shard_that_changes_and_a_full_disk(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    (name,) = write_pool(tmp_path / "pool", [[make_sample(rng, i, make_uid(i)) for i in range(9)]])
    shard = tmp_path / "pool" / name
    save_subset(tmp_path / "s.npy", subset_of([make_uid(3), make_uid(4)]))
    segments = [tmp_path / "s.dcx"]
    write_segment([(shard, name)], segments[0], sync=False)
    plan = resharder.make_plan(segments, tmp_path / "s.npy", shards_dir=tmp_path / "pool")
    sources = ShardSources(plan, tmp_path / "s.npy")
    with pytest.raises(OSError, match="No space left"):
        sources.write(0, "/dev/full", 2, True)
    with pytest.raises(IndexError, match="no such output shard"):
        sources.write(1, str(tmp_path / "o"), 1, True)
    os.utime(shard, ns=(1, 1))
    with pytest.raises(CorruptDataError, match="expected modification time"):
        sources.write(0, str(tmp_path / "o"), 1, True)
    assert sources.write(0, str(tmp_path / "o"), 1, False)[3] % 10_240 == 0
    monkeypatch.setattr("dcfast.resharding.output.free_bytes", lambda path: 100)
    with pytest.raises(OSError, match="not enough space: the output needs"):
        resharder.reshard(tmp_path / "pool", tmp_path / "out", tmp_path / "s.npy")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_full_for_the_index(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    write_pool(tmp_path / "pool", [[make_sample(rng, i, make_uid(i)) for i in range(9)]])
    save_subset(tmp_path / "s.npy", subset_of([make_uid(3)]))
    monkeypatch.setattr("dcfast.resharding.inputs.unnamed_file", lambda: os.open("/dev/full", os.O_RDWR))
    with pytest.raises(OSError, match=r"No space left on device; free some space, .*the index of the input"):
        resharder.reshard(tmp_path / "pool", tmp_path / "o", tmp_path / "s.npy")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("named", [False, True])
def test_the_index_of_a_run_leaves_no_file(tmp_path, monkeypatch, named):
    """Where a file system knows files without names, and where it does not."""
    rng = np.random.default_rng(2)
    names = write_pool(tmp_path / "pool", [[make_sample(rng, i, make_uid(i)) for i in range(9)]])
    save_subset(tmp_path / "s.npy", subset_of([make_uid(3)]))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    if named:
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)
    seen = []
    write_segment = inputs.core_index.write_segment

    def written(*arguments):
        seen.append(os.listdir(tmp_path / "tmp"))
        return write_segment(*arguments)

    monkeypatch.setattr(inputs.core_index, "write_segment", written)
    resharder.reshard(tmp_path / "pool", tmp_path / "o", tmp_path / "s.npy")
    assert read_output(tmp_path / "o") == reference_reshard(tmp_path / "pool", names, np.load(tmp_path / "s.npy"))
    assert seen == [[]]
    assert os.listdir(tmp_path / "tmp") == []


def test_copies_without_end_are_planned(tmp_path):
    rng = np.random.default_rng(2)
    write_pool(tmp_path / "pool", [[make_sample(rng, i, make_uid(7), size=0) for i in range(20)]])
    save_subset(tmp_path / "s.npy", np.repeat(subset_of([make_uid(7)]), 1_000_000))
    report = resharder.reshard(tmp_path / "pool", tmp_path / "o", tmp_path / "s.npy", dry_run=True)
    assert report["output_count"] == 20_000_000
    assert report["repeated_rows"] == 19


@pytest.mark.parametrize("path", ["a", "a/", "./a//b/.", "/", "//x/y", "///x", ".", "", "../a/..", "a/../b"])
def test_paths_are_those_of_pathlib(path):
    assert plain_path(path) == str(Path(path)) == plain_path(Path(path))


def test_a_directory_is_not_replaced(tmp_path):
    (tmp_path / "o").mkdir()
    with pytest.raises(IsADirectoryError, match="cannot be replaced by a file"):
        write_bytes(str(tmp_path / "o"), b"x", sync=False)
    with pytest.raises(TypeError, match="a path must be text; got bytes"):
        plain_path(b"o")


def test_json_is_that_of_the_json_module():
    for value in ({}, {"b": 1, "a": 'q"\\\n\x01é'}, {"10": "x", "9": -5}):
        assert flat_json(value).decode() == json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def killed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> Path:
    """A short run that ended while it wrote its files, after so many; its output directory."""
    rng = np.random.default_rng(2)
    write_pool(tmp_path / "pool", [[make_sample(rng, i, make_uid(i)) for i in range(s, s + 9)] for s in (0, 9)])
    save_subset(tmp_path / "s.npy", subset_of([make_uid(i) for i in range(18)]))
    replace, written = os.replace, []

    def replace_or_die(temporary, path):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(path)
        replace(temporary, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_or_die)
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


@pytest.mark.parametrize("note", [{"quick_key": "(1, 2)"}, {"reshard_key": "0" * 64}, {}])
def test_what_another_version_began_is_refused(tmp_path, monkeypatch, note):
    out = killed_run(tmp_path, monkeypatch, 4)
    (out / "reshard_key.json").write_text(json.dumps(note))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(RunError, match=r"^output \S+ holds a run that another version of dcfast began: choose another"):
        resharder.reshard(tmp_path / "pool", out, tmp_path / "s.npy", shard_size=5, resume=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


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


def counted(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(5)
    samples = [make_sample(rng, i, make_uid(i)) for i in range(30)]
    write_pool(tmp_path / "pool", [samples[:10], samples[10:20], samples[20:]])
    save_subset(tmp_path / "s.npy", subset_of([make_uid(i) for i in range(30)]))
    return tmp_path / "pool", tmp_path / "s.npy"


@pytest.mark.parametrize("many", [float("inf"), 1e30, 1 << 70, np.uint64(1 << 63)])
def test_no_bound_is_a_number_too(tmp_path: Path, many: object) -> None:
    pool, subset = counted(tmp_path)
    report = resharder.reshard(pool, tmp_path / "o", subset, shard_size=many, max_bytes=many, dry_run=True)
    assert (report["output_count"], report["output_shard_count"]) == (30, 1)
    small = resharder.reshard(pool, tmp_path / "o", subset, shard_size=np.uint64(7), threads=np.uint8(1), dry_run=True)
    assert small["output_shard_count"] == 5


@pytest.mark.parametrize("name", ["shard_size", "max_bytes", "first_shard", "num_shards", "shuffle_seed", "threads"])
@pytest.mark.parametrize("value", [1.5, float("nan"), "7"])
def test_counts_are_whole_numbers(tmp_path: Path, name: str, value: object) -> None:
    pool, subset = counted(tmp_path)
    if value == 1.5 and name in ("shard_size", "max_bytes"):  # a bound may lie between two counts
        assert resharder.reshard(pool, tmp_path / "o", subset, dry_run=True, **{name: value})["output_count"] == 30
        return
    with pytest.raises((TypeError, ValueError)) as failed:
        resharder.reshard(pool, tmp_path / "o", subset, **{name: value})
    assert "\n" not in str(failed.value)
    assert not (tmp_path / "o").exists()


def test_exclude_has_one_dimension_and_any_order(tmp_path: Path) -> None:
    pool, subset = counted(tmp_path)
    plain = np.array([5, 1 << 32 | 3, 0, 2])
    report = resharder.reshard(pool, tmp_path / "o", subset, exclude=plain, dry_run=True)
    assert (report["excluded"], report["output_count"]) == (4, 26)
    assert plain.tolist() == [5, 1 << 32 | 3, 0, 2], "the caller's array is left as it was"
    for bad, words in (([[5, 6], [0, 1]], "one-dimensional"), ([0.7], "integers"), ([-1], "negative")):
        with pytest.raises((TypeError, ValueError), match=words):
            resharder.reshard(pool, tmp_path / "o", subset, exclude=np.array(bad), dry_run=True)


def test_a_subset_of_bytes_is_told_what_to_pass(tmp_path: Path) -> None:
    pool, subset = counted(tmp_path)
    with pytest.raises(TypeError, match=r"os\.fsdecode"):
        resharder.reshard(pool, tmp_path / "o", os.fsencode(subset))
