"""Arguments of the command lines that make no sense: named in one line, before any work; and disks that are full."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from dcfast import resharding as resharder
from dcfast.evaluate.__main__ import main as evaluate_main
from dcfast.index import refresh as pool_refresh
from dcfast.interop.wds2idx import write_wds2idx
from dcfast.resharding import cli as reshard_cli
from dcfast.run import workflow as run
from dcfast.storage.atomic import atomic_path
from dcfast.storage.paths import check_writable, make_directory, not_left_empty, path_argument, real
from dcfast.study.command import main as study_main
from dcfast.study.grid import parse_seeds
from dcfast.train.__main__ import main as train_main
from dcfast.uids.sets import save_subset
from dcfast.world import WorldSpec
from pool_builder import plain_pool
from reshard_reference import make_uid, subset_of, write_pool

Main = Callable[[Sequence[str]], int]
RESHARD = ["-i", "p", "-s", "s.npy", "-o", "o"]
EMPTY: list[tuple[Main, list[str], str]] = [
    (run.main, ["--out", ""], "--out"),
    (run.main, ["--pool", ""], "--pool"),
    (run.main, ["--evalsets", ""], "--evalsets"),
    (run.main, ["--teacher-uids", ""], "--teacher-uids"),
    (reshard_cli.main, [*RESHARD, "-o", ""], "-o/--output-dir"),
    (reshard_cli.main, [*RESHARD, "-i", ""], "-i/--input-dir"),
    (reshard_cli.main, [*RESHARD, "-s", ""], "-s/--subset-file"),
    (reshard_cli.main, [*RESHARD, "--blur-metadata-map", ""], "--blur-metadata-map"),
    (pool_refresh.main, ["", "pool"], "index_dir"),
    (pool_refresh.main, ["index", ""], "pool"),
    (study_main, ["--out", ""], "--out"),
    (evaluate_main, ["--model", "dcfast-tiny", "--evalsets", "e", "--out", ""], "--out"),
    (evaluate_main, ["--model", "dcfast-tiny", "--out", "o", "--evalsets", ""], "--evalsets"),
    (train_main, ["--shards", "s", "--out", ""], "--out"),
]


@pytest.mark.parametrize(("main", "words", "name"), EMPTY)
def test_an_empty_path_is_named(
    main: Main,
    words: list[str],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert f"error: argument {name}: expected a path; got an empty text" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--shard-size", "--max-bytes", "--first-shard", "--num-shards"])
def test_numbers_of_the_resharder_are_checked_up_front(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        reshard_cli.main([*RESHARD, option, "-1"])
    assert stopped.value.code == 2
    assert f"{option} must be at least " in capsys.readouterr().err


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A pool to reshard, its subset, and a file in the way."""
    samples = [(f"{i}", {"txt": b"a" * 3000, "json": json.dumps({"uid": make_uid(i)}).encode()}) for i in range(20)]
    write_pool(tmp_path / "p", [samples])
    save_subset(tmp_path / "s.npy", subset_of([make_uid(i) for i in range(20)]))
    (tmp_path / "file").write_text("in the way")
    return tmp_path


@pytest.mark.parametrize("where", ["file", "file/below", "file/far/below"])
def test_an_output_that_is_a_file_or_below_one_is_named(
    small: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain_pool(small / "pool").write()
    out = str(small / where)
    reshard_words = ["-i", str(small / "p"), "-s", str(small / "s.npy"), "-o", out]
    cases: list[tuple[Main, list[str], str]] = [
        (run.main, ["--pool", str(small / "pool"), "--no-train", "--quiet", "--out", out], "--out must be a directory"),
        (reshard_cli.main, reshard_words, f"output {out} "),
        (pool_refresh.main, [out, str(small / "pool")], "index_dir must be a directory"),
    ]
    for main, words, expected in cases:
        assert main(words) == 1
        said = capsys.readouterr().err
        assert expected in said
        assert out in said
        assert "choose another place" in said.lower()
        assert said.count("\n") == 1
    assert (small / "file").read_text() == "in the way"


def test_a_directory_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match=r"--out must be .*; it cannot be made: Permission denied"):
        make_directory(tmp_path / "x", "--out")


@pytest.mark.parametrize("look", [make_directory, check_writable])
def test_a_url_is_no_directory_to_write_to(
    look: Callable[[str, str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^--out must be a directory of this machine; got the URL s3://b/x\."):
        look("s3://b/x", "--out")
    assert run.main(["--scale", "tiny", "--out", "s3://b/x", "--no-train"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_path_is_the_same_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("there")
    place = f"{os.path.realpath(tmp_path)}/there/x"
    for text in ("~/link/x", "link/x/", "./there/../there//x", f"{tmp_path}/link/x/."):
        assert real(text) == place
    assert path_argument("~/x") == f"{tmp_path}/x"
    assert path_argument("s3://bucket/~/x") == "s3://bucket/~/x"


def fail_within(path: Path, *made: str) -> None:
    """A command that makes directories and files, and fails."""
    with not_left_empty(path):
        for name in made:
            place = path / name
            (place if name.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                place.write_text("")
        raise KeyError("planned")


def test_a_failed_command_leaves_no_empty_directory(tmp_path: Path) -> None:
    def tree() -> list[str]:
        return sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))

    (tmp_path / "there").mkdir()
    for path, made, left in (
        ("new/deep/out", [], []),
        ("new/deep/out", ["./", "a/b/", ".lock"], []),
        ("new", ["a/", "b/file"], ["new", "new/b", "new/b/file"]),
        ("there", [], []),
        ("there", [".lock"], []),
        ("there/x", ["./"], []),
        ("there", ["sub/"], ["there/sub"]),
    ):
        with pytest.raises(KeyError):
            fail_within(tmp_path / path, *made)
        assert tree() == sorted(["there", *left]), (path, made)
        for name in ("new", "there/sub"):
            subprocess.run(["rm", "-rf", str(tmp_path / name)], check=True)
    (tmp_path / "there/.lock").touch()
    with pytest.raises(KeyError):
        fail_within(tmp_path / "there")
    assert tree() == ["there", "there/.lock"]
    with not_left_empty(tmp_path / "new"):
        (tmp_path / "new").mkdir()
    assert (tmp_path / "new").is_dir()


def test_empty_texts_in_place_of_paths(small: Path) -> None:
    for changed in ({"pool": ""}, {"out": ""}, {"subset": ""}):
        words: dict[str, Any] = {"pool": small / "p", "out": small / "o", "subset": small / "s.npy", **changed}
        with pytest.raises(ValueError, match=f"reshard: {next(iter(changed))} must be a path; got an empty text"):
            resharder.reshard(**words)
    for index, error, words_of_it in (
        ([None], TypeError, r"index\[0\] must be a Segment or the path of one; got NoneType"),
        (None, TypeError, "index must be a TarIndex, a Segment, or a sequence of them; got NoneType"),
        ([""], ValueError, r"index\[0\] must be the path of a segment; got an empty text"),
        ([7], TypeError, r"index\[0\] .*got int"),
    ):
        with pytest.raises(error, match=words_of_it):
            write_wds2idx(index, small / "idx")
    with pytest.raises(ValueError, match="out must be a path; got an empty text"):
        write_wds2idx([], "")


def test_numbers_too_large_to_be_meant() -> None:
    for text in ("99999999999", "0-99999999999999999999999", "10001"):
        with pytest.raises(ValueError, match="--seeds takes at most 10,000 seeds; got"):
            parse_seeds(text)
    assert parse_seeds("99999999999999999999999,7") == (99999999999999999999999, 7)
    for name, value in (("rows", 10**20), ("teacher_pairs", 10**9), ("max_side", 10**5)):
        with pytest.raises(ValueError, match=f"{name} must be at most .*; got {value}"):
            WorldSpec(**{name: value})
    with pytest.raises(ValueError, match="eval_scale must be positive, and at most 1,000; got 1"):
        WorldSpec(eval_scale=1e9)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--seed", "-1"], "--seed must be 0 to 2^63 - 1; got -1"),
        (["--seed", str(1 << 63)], "--seed must be 0 to 2^63 - 1; got 9223372036854775808"),
        (["--samples-seen", str(10**26)], "--samples-seen must be 1 to 2^63 - 1; got 1000"),
    ],
)
def test_seeds_and_lengths_that_training_cannot_take_are_said_up_front(
    option: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([*option, "--out", str(tmp_path / "o")]) == 2
    assert f"error: {words}" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("name", "error"), [("nowhere", FileNotFoundError), ("p", IsADirectoryError)])
def test_a_subset_that_is_no_file_is_named(small: Path, name: str, error: type[OSError]) -> None:
    with pytest.raises(error, match=f"the subset file cannot be read: .*{name}"):
        resharder.reshard(small / "p", small / "o", small / name)


# full disks


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_with_the_file(tmp_path: Path, number: int) -> None:
    """Also where the library that writes says nothing of it, as file objects and Arrow do."""
    words = f"{os.strerror(number)}; free some space, and run the same command"
    with pytest.raises(OSError, match=words) as raised, atomic_path(tmp_path / "t.parquet"):
        raise OSError(number, "write failed")
    assert (raised.value.errno, raised.value.filename) == (number, str(tmp_path / "t.parquet"))
    with pytest.raises(OSError, match="another") as raised, atomic_path(tmp_path / "t.parquet"):
        raise OSError(number, "another", "elsewhere")
    assert raised.value.filename == "elsewhere"
    with pytest.raises(io.UnsupportedOperation), atomic_path(tmp_path / "t.parquet"):
        raise io.UnsupportedOperation("not writable")
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import resource, runpy, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.argv[0] = sys.argv.pop(1)
runpy.run_module(sys.argv[0], run_name="__main__")
"""


def limited(limit: int, *words: object) -> subprocess.CompletedProcess[str]:
    """A command whose files can grow to ``limit`` bytes: its writes fail as those to a full disk do."""
    command = [sys.executable, "-c", LIMITED, str(limit), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("option", [[], ["--shuffle-seed", "3"]])
def test_a_reshard_that_cannot_write_resumes_to_the_same_bytes(small: Path, option: list[str]) -> None:
    words = ["-i", small / "p", "-s", small / "s.npy", "--shard-size", 6, "--resume", *option]
    assert resharder.reshard(
        small / "p",
        small / "whole",
        small / "s.npy",
        shard_size=6,
        shuffle_seed=3 if option else None,
    )
    plain = words if option else [word for word in words if word != "--resume"]  # the short way too
    done = limited(20_000, "dcfast.resharder", "-o", small / "out", *plain)
    assert done.returncode == 1
    assert "File too large; free some space, and run the same command again to resume" in done.stderr
    assert f"{small / 'out'}/0000000" in done.stderr
    assert ".tar'" in done.stderr
    assert reshard_cli.main([*map(str, words), "-o", str(small / "out"), "-q"]) == 0
    found = [{p.name: p.read_bytes() for p in (small / name).iterdir()} for name in ("out", "whole")]
    assert found[0] == found[1]


def test_a_run_that_cannot_write_names_the_file_and_resumes(tmp_path: Path) -> None:
    plain_pool(tmp_path / "pool").write()
    options = ["--pool", str(tmp_path / "pool"), "--filter", "no_filter", "--no-train", "--quiet", "--workers", "1"]
    done = limited(2_000, "dcfast.run", *options, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "File too large; free some space, and run the same command again to resume" in done.stderr
    assert f"'{tmp_path / 'out'}/" in done.stderr
    assert run.main([*options, "--out", str(tmp_path / "out")]) == 0
    assert run.main([*options, "--out", str(tmp_path / "whole")]) == 0
    for name in ("subset.npy", "fates.parquet", "shards/00000000.tar"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
