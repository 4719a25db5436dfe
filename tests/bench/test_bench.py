"""The benches run from start to end on a tiny pool, refuse a wrong answer, and keep rows that the README is made of."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bars = pytest.importorskip("bench.bars", reason="bench is part of the checkout, not of the package")
from bench import harness, make_pool, readme  # noqa: E402
from bench.bars import BARS  # noqa: E402

pytestmark = pytest.mark.bench

pytest.importorskip("webdataset", reason="the benches make their pool with webdataset")
pytest.importorskip("xxhash", reason="the benches check hashes with xxhash")

BENCHES = (
    *("bench_tar_index", "bench_uid_set", "bench_hashing", "bench_random_access", "bench_reshard", "bench_loss"),
    *("bench_filters", "bench_similarity", "bench_phash", "bench_dedup", "bench_scores", "bench_sampling"),
    *("bench_hamming", "bench_kmeans", "bench_pool_dataset", "bench_acquire", "bench_decode", "bench_loader"),
    *("bench_remote", "bench_checkpoint", "bench_features"),
)
FIELDS = [
    *("op", "provider", "shape", "dtype", "reps", "median_s", "p20_s", "p80_s", "bytes", "checked", "cpu", "gpu"),
    *("threads", "versions", "commit", "date_utc", "note"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny pool is made once for all tests."""
    return tmp_path_factory.mktemp("bench")


def options_of(cache: Path, results: Path) -> list[str]:
    return ["--quick", "--rounds", "1", "--cache", str(cache), "--results", str(results)]


LONG = (
    *("bench_loss", "bench_filters", "bench_tar_index", "bench_random_access", "bench_similarity", "bench_scores"),
    *("bench_pool_dataset", "bench_loader", "bench_features"),
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak if name in LONG else ()) for name in BENCHES]
)
def test_bench_runs(name: str, cache: Path, tmp_path: Path, repo_root: Path) -> None:
    command = [sys.executable, "-m", f"bench.{name}", *options_of(cache, tmp_path)]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    values = json.loads(done.stdout.splitlines()[-1])
    assert list(values) == [bar.name for bar in BARS if bar.bench == name]
    rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        assert list(row)[: len(FIELDS)] == FIELDS
        absent = row["note"].startswith("absent: ")
        assert row["checked"] is not absent
        assert (row["median_s"] is None) is absent
        if not absent:
            assert 0 < row["p20_s"] <= row["median_s"] <= row["p80_s"]
            assert row["reps"] >= 1
    # what the last line says is what the rows say, and only an absent side leaves a bar empty
    for bar in (bar for bar in BARS if bar.bench == name):
        sides = [row for row in rows if row["op"] == bar.op and row["provider"] in (bar.over, bar.under)]
        assert len(sides) == 1 + bool(bar.under), f"{bar.name}: {[row['provider'] for row in rows]}"
        assert values[bar.name] == bars.measure(bar, rows)
        assert (values[bar.name] is None) == any(row["median_s"] is None for row in sides)


def wrong_by_one(function: Callable[..., Any], spoil: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: spoil(function(*args, **kwargs))


def swapped(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed[[0, -1]] = changed[[-1, 0]]
    return changed


@pytest.mark.parametrize(
    ("name", "target", "spoil", "message"),
    [
        ("bench_uid_set", "dcfast.uid_sort", swapped, "dcfast: order differs: .*first at 0"),
        ("bench_uid_set", "dcfast.uid_isin", np.logical_not, "dcfast: members differs"),
        ("bench_uid_set", "dcfast.uid_parse", lambda got: (swapped(got[0]), got[1]), "dcfast: uids differs"),
        ("bench_hashing", "dcfast.hash_members", swapped, "dcfast: hashes differs"),
    ],
)
def test_a_wrong_answer_is_refused(
    name: str,
    target: str,
    spoil: Callable[[Any], Any],
    message: str,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import dcfast

    function = target.removeprefix("dcfast.")
    monkeypatch.setattr(dcfast, function, wrong_by_one(getattr(dcfast, function), spoil))
    bench = importlib.import_module(f"bench.{name}")
    with pytest.raises(harness.WrongAnswerError, match=message):
        bench.main(options_of(cache, tmp_path))
    assert not list(tmp_path.iterdir()), "rows were kept of a bench whose answer is wrong"


def test_a_wrong_index_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import bench_tar_index

    real = bench_tar_index.ours

    def spoiled(shards: list[str], *rest: Any) -> str:
        return real([shards[0], shards[0], *shards[2:]], *rest)

    monkeypatch.setattr(bench_tar_index, "ours", spoiled)
    with pytest.raises(harness.WrongAnswerError, match="dcfast: list of members differs"):
        bench_tar_index.main(options_of(cache, tmp_path))


def test_a_wrong_reshard_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dcfast

    from bench import bench_reshard

    real = dcfast.reshard

    def spoiled(pool: Any, out: Path, subset: np.ndarray, **options: Any) -> Any:
        return real(pool, out, subset[1:], **options)

    monkeypatch.setattr(dcfast, "reshard", spoiled)
    with pytest.raises(harness.WrongAnswerError, match="dcfast: list of members differs"):
        bench_reshard.main(options_of(cache, tmp_path))


def test_pools_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    size = make_pool.PoolSize(shards=2, samples=7, mean_jpeg=500)
    first, second = (make_pool.make_pool(size, str(tmp_path / name)) for name in "ab")
    for one, other in zip(sorted(first.root.rglob("*")), sorted(second.root.rglob("*")), strict=True):
        assert one.name == other.name
        assert one.is_dir() or one.read_bytes() == other.read_bytes()
    assert first.num_members == 42
    assert len(np.load(first.subset_file)) == 4
    # found again, not made again
    (first.root / "mark").touch()
    assert (make_pool.make_pool(size, str(tmp_path / "a")).root / "mark").exists()


def test_pool_has_pax_headers_and_picture_sizes(tmp_path: Path) -> None:
    import tarfile

    from dcfast.index.build import index_tars

    pool = make_pool.make_pool(make_pool.PoolSize(shards=1, samples=5, mean_jpeg=400), str(tmp_path))
    with tarfile.open(pool.shards[0]) as tar:
        members = tar.getmembers()
    assert all("mtime" in member.pax_headers for member in members)
    assert [member.offset_data - member.offset for member in members] == [1536] * 15
    index = index_tars(pool.shards)
    assert not index.damage
    assert index.segment.flags.tolist() == [0] * 5
    assert (index.segment.width >= 200).all()


def side(provider: str, answer: Any = 1, expected: Any = 1) -> harness.Side:
    return harness.Side(provider, lambda: answer, lambda got: harness.require_equal(provider, "answer", got, expected))


def some_bench(tmp_path: Path) -> harness.Bench:
    return harness.Bench("bench_none", harness.parse_options("none", ["--results", str(tmp_path), "--rounds", "3"], ""))


def test_harness_checks_before_it_times(tmp_path: Path) -> None:
    bench = some_bench(tmp_path)
    with pytest.raises(harness.WrongAnswerError, match="wrong: answer differs: expected 1, got 2"):
        bench.compare("op", [side("right"), side("wrong", answer=2)], shape="")
    assert bench.rows == []


def test_harness_prepares_each_turn_and_takes_kept_time(tmp_path: Path) -> None:
    bench = some_bench(tmp_path)
    prepared = []
    timed = harness.Side("kept", lambda: harness.Timed(0.2, 1), lambda _: None, lambda: prepared.append(1))
    bench.compare("op", [timed, harness.Absent("gone", "not here")], shape="s", size_bytes=10)
    kept, gone = bench.rows
    assert (kept["median_s"], kept["reps"], len(prepared)) == (0.2, 3, 4)
    assert (gone["median_s"], gone["checked"], gone["note"]) == (None, False, "absent: not here")
    assert bench.finish() == {}
    assert len((tmp_path / "bench_none.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("got", "expected", "message"),
    [
        ([1, 2], [1, 3], "2 entries, expected 2; first difference at 1: expected 3, got 2"),
        ([1], [1, 3], "1 entries, expected 2; first difference at 1: expected 3, got None"),
        ([1, 3, 4], [1, 3], "3 entries, expected 2"),
        ({"a": 1}, {"a": 2}, "first difference at 'a'"),
        (np.array([1, 2]), np.array([1, 5]), "first at 1: expected 5, got 2"),
        (np.array([1]), np.array([1, 5]), "expected int64 .2,., got int64 .1,."),
        (None, np.array([1]), "got NoneType"),
        (3, 4, "expected 4, got 3"),
    ],
)
def test_differences_are_told(got: Any, expected: Any, message: str) -> None:
    with pytest.raises(harness.WrongAnswerError, match=f"peer: answer differs: .*{message}"):
        harness.require_equal("peer", "answer", got, expected)


def test_no_stored_number_stands_in_for_an_absent_peer() -> None:
    bar = next(bar for bar in BARS if bar.name == "tar_index_vs_dali")

    def row(provider: str, seconds: float | None, date: str) -> dict[str, Any]:
        return {"op": bar.op, "provider": provider, "median_s": seconds, "date_utc": date}

    earlier = [row("dcfast", 1.0, "1"), row(bar.peer, 20.0, "1")]
    assert bars.measure(bar, earlier) == 20
    assert bars.measure(bar, [*earlier, row("dcfast", 1.0, "2"), row(bar.peer, None, "2")]) is None
    assert bars.measure(bar, []) is None


def test_absent_interpreters_and_peers_say_why() -> None:
    with (
        harness.PeerProcess("/no/such/python") as peers,
        pytest.raises(harness.PeerAbsentError, match="does not start"),
    ):
        peers.ask("dali_version")
    with harness.PeerProcess(sys.executable) as peers, pytest.raises(harness.PeerAbsentError, match="TypeError"):
        peers.ask("wids_index")


def test_without_a_compiler_floors_are_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import floors

    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert floors.load(tmp_path) == "no C compiler (cc)"


def test_readme_table(tmp_path: Path, repo_root: Path) -> None:
    text = (repo_root / "README.md").read_text()
    assert text.count(readme.BEGIN) == text.count(readme.END) == 1
    copy = tmp_path / "README.md"
    shutil.copy(repo_root / "README.md", copy)
    about = {"cpu": "some processor", "versions": {"dcfast": "1"}, "date_utc": "2030-01-02T03:04:05Z"}
    op = next(bar for bar in BARS if bar.name == "tar_index_vs_dali")
    rows = [
        {"op": op.op, "provider": "dcfast", "median_s": 0.05, **about},
        {"op": op.op, "provider": op.peer, "median_s": 1.5, **about},
        {"op": op.op, "provider": op.floor, "median_s": 0.04, **about},
    ]
    assert readme.rewrite(copy, rows)
    table = copy.read_text().partition(readme.BEGIN)[2].partition(readme.END)[0]
    assert f"| {op.work} | 50 ms | {op.peer}: 1.50 s | 30x | >= 15x | 1.2 |" in table
    assert "absent" in table
    assert "some processor; 2030-01-02. dcfast 1." in table
    assert not readme.rewrite(copy, rows)
    copy.write_text("nothing")
    with pytest.raises(ValueError, match="must have the lines"):
        readme.rewrite(copy, rows)


def test_readme_is_that_of_the_kept_rows(repo_root: Path, tmp_path: Path) -> None:
    rows = readme.read_rows(repo_root / "bench" / "results")
    copy = tmp_path / "README.md"
    shutil.copy(repo_root / "README.md", copy)
    assert rows
    assert not readme.rewrite(copy, rows), "run python -m bench.readme"
