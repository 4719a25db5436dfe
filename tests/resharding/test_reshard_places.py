"""Slices without shards, options that contradict each other, and outputs that would be written over their input."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast import resharding as resharder
from dcfast.errors import PoolError, RunError
from dcfast.index.build import write_segment
from dcfast.resharding.cli import main, parse_arguments
from dcfast.uids.sets import save_subset
from reshard_reference import index_shards, make_sample, make_uid, subset_of, write_pool

SUBSET = subset_of([make_uid(i) for i in range(6)])


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A pool with ``shards``, its companions and a subset file: shards numbered 0, 1 and 5, shard 1 empty."""
    rng = np.random.default_rng(0)
    directory = tmp_path / "pools/p/shards"
    write_pool(
        directory, [[make_sample(rng, i, make_uid(i)) for i in range(4)], [], [make_sample(rng, 4, make_uid(4))]]
    )
    (directory / "00000002.tar").rename(directory / "00000005.tar")
    for place in (directory, directory.parent, directory.parent.parent):
        (place / "meta.json").write_text("{}")
        (place / "sizes.json").write_text('{"mine": 1}')
    save_subset(tmp_path / "s.npy", SUBSET)
    return directory.parent


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def command(tmp_path: Path, *more: object) -> list[str]:
    return [str(x) for x in ("-i", tmp_path / "pools/p", "-s", tmp_path / "s.npy", "--no-sync", *more)]


# slices


@pytest.mark.parametrize("first", [6, 99])
def test_a_first_shard_beyond_the_pool(pool: Path, tmp_path: Path, first: int, capsys: Any) -> None:
    message = f"first_shard={first} is beyond the pool: it has 3 input shards, numbered 0 to 5; begin at one of these"
    for dry_run in (True, False):
        with pytest.raises(PoolError, match=message):
            resharder.reshard(pool, tmp_path / "o", SUBSET, first_shard=first, dry_run=dry_run)
    assert main(command(tmp_path, "-o", tmp_path / "o", "--first-shard", first)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_slice_between_shards_is_empty_and_says_so(pool: Path, tmp_path: Path, capsys: Any) -> None:
    for number, (first, count, chosen) in enumerate(((2, 3, 0), (0, 0, 0), (1, 1, 1), (0, 2, 2), (5, 9, 1))):
        words = ["-o", tmp_path / f"o{number}", "--first-shard", first, "-n", count, "-v"]
        assert main(command(tmp_path, *words)) == 0
        said = capsys.readouterr()
        assert f"chosen_shards: {chosen}" in said.out
        warning = f"warning: no input shard has a number in the slice of --first-shard {first} --num-shards {count}"
        assert (warning in said.err) == (chosen == 0)
        assert bool(said.err) == (chosen == 0)


def test_shards_without_numbers_count_by_place(tmp_path: Path) -> None:
    names = write_pool(tmp_path / "p", [[make_sample(np.random.default_rng(0), 0, make_uid(0))]])
    (tmp_path / "p" / names[0]).rename(tmp_path / "p/a.tar")
    with pytest.raises(PoolError, match="first_shard=1 is beyond the pool: it has 1 input shard, numbered 0 to 0"):
        resharder.reshard(tmp_path / "p", tmp_path / "o", SUBSET, first_shard=1)
    with pytest.raises(PoolError, match="first_shard=1 is beyond the pool: it has 1 input shard, numbered 0 to 0"):
        resharder.make_plan([index_shards(tmp_path / "p", ["a.tar"])], SUBSET, shards_dir=tmp_path / "p", first_shard=1)


# options


def test_overwrite_and_resume_exclude_each_other(pool: Path, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(ValueError, match="overwrite removes what resume would go on with; pass one of them"):
        resharder.reshard(pool, tmp_path / "o", SUBSET, overwrite=True, resume=True)
    with pytest.raises(SystemExit) as caught:
        parse_arguments(command(tmp_path, "-o", tmp_path / "o", "--overwrite", "--resume"))
    assert caught.value.code == 2
    assert "--overwrite removes what --resume would go on with: give one of them" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


# places


@pytest.mark.parametrize(
    ("output", "how"),
    [
        ("pools/p", "is"),
        ("pools/p/shards", "is the pool itself"),
        ("pools", "holds"),
        (".", "holds"),
        ("pools/p/other", "lies in"),
        ("pools/p/shards/deep/new", "lies in"),
        ("link", "is"),
        ("link/../../pools", "holds"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_overwrite_never_writes_over_the_pool(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, how: str, dry_run: bool
) -> None:
    (tmp_path / "link").symlink_to(pool)
    (tmp_path / "pools/p/other").mkdir()
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    for source in ("pools/p", "link", ["pools/p"]):
        for subset in (SUBSET, tmp_path / "s.npy"):
            with pytest.raises(RunError, match=f"output {output} .*{how}") as caught:
                resharder.reshard(source, output, subset, overwrite=True, dry_run=dry_run)
            assert "choose another place" in str(caught.value)
            if how != "is the pool itself":
                for path in (os.path.realpath(output), os.path.realpath(pool)):
                    assert f"({path})" in str(caught.value)
    assert tree(tmp_path) == before


def test_an_output_becomes_no_shards_directory(tmp_path: Path) -> None:
    """Of a pool without ``shards``: from then on its tars would be those of the output."""
    write_pool(tmp_path / "p", [[make_sample(np.random.default_rng(0), 0, make_uid(0))]])
    save_subset(tmp_path / "s.npy", SUBSET)
    for subset in (SUBSET, tmp_path / "s.npy"):
        with pytest.raises(RunError, match=r"is where pool .* would have its shards; choose another place"):
            resharder.reshard(tmp_path / "p", tmp_path / "p/shards", subset)
    assert not (tmp_path / "p/shards").exists()


def test_new_outputs_inside_of_a_pool_are_written(pool: Path, tmp_path: Path) -> None:
    """As the reference does: nothing is replaced."""
    before = tree(pool)
    for name, subset in (("a", SUBSET), ("b", tmp_path / "s.npy")):
        assert resharder.reshard(pool, pool / name, subset)["output_count"] == 5
    assert {name: data for name, data in tree(pool).items() if name[:2] not in ("a/", "b/")} == before
    assert tree(pool / "a").keys() == tree(pool / "b").keys()


def test_overwrite_with_an_index_of_the_output(pool: Path, tmp_path: Path) -> None:
    """Index segments may be relative to a directory of many pools: outputs beside them are fine, over them not."""
    shards = pool / "shards"
    names = ["00000000.tar", "00000005.tar"]
    write_segment([(shards / n, f"p/shards/{n}") for n in names], tmp_path / "s.dcx", sync=False)
    segments, root = [str(tmp_path / "s.dcx")], pool.parent
    before = tree(pool)
    with pytest.raises(RunError, match="is read by this run, and overwrite=True would remove it"):
        resharder.reshard(segments, shards, SUBSET, shards_dir=root, overwrite=True)
    assert tree(pool) == before
    for _ in range(2):
        report = resharder.reshard(segments, root / "o", SUBSET, shards_dir=root, overwrite=True)
        assert report["output_count"] == 5
    with pytest.raises(RunError, match="holds the pool"):
        resharder.reshard(segments, tmp_path, SUBSET, shards_dir=root, overwrite=True)
    assert tree(pool) == before


def test_shards_behind_urls_are_not_read_as_files(pool: Path, tmp_path: Path) -> None:
    write_segment([(pool / "shards/00000000.tar", "https://h/a.tar")], tmp_path / "s.dcx", sync=False)
    with pytest.raises(PoolError, match=r"shard https://h/a\.tar is named by a URL of its own in the index; give"):
        resharder.reshard([str(tmp_path / "s.dcx")], tmp_path / "o", SUBSET, shards_dir=pool)
    assert not (tmp_path / "o").exists()


def test_the_map_of_the_boxes_is_not_removed(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o/meta.json").write_text("{}")
    with pytest.raises(RunError, match=r"o/meta\.json is read by this run, and overwrite=True would remove it"):
        resharder.reshard(
            pool, tmp_path / "o", SUBSET, boxes=tmp_path / "o/meta.json", inject_boxes=True, overwrite=True
        )
    assert (tmp_path / "o/meta.json").read_text() == "{}"


def test_from_the_shell(pool: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    words = [sys.executable, "-m", "dcfast.resharder", *command(tmp_path, "-o", tmp_path / "pools", "--overwrite")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: output {tmp_path}/pools ")
    assert "Traceback" not in done.stderr
    assert tree(tmp_path) == before


@pytest.mark.parametrize("way", ["short", "long"])
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_damaged_input_shards_are_named(pool: Path, tmp_path: Path, capsys: Any, way: str, damage: str) -> None:
    shards = sorted(pool.rglob("*.tar"))
    data = shards[0].read_bytes()
    shards[0].write_bytes(data[: len(data) // 2 + 77] if damage == "cut" else b"\x1f\x8b" + bytes(range(256)) * 4)
    more = ["--verify"] if way == "long" else []
    words = ["-i", str(pool), "-s", str(tmp_path / "s.npy"), *more]
    assert main([*words, "-o", str(tmp_path / "out"), "-q"]) == 0
    said = capsys.readouterr().err
    assert re.search(rf"^warning: input shard '{shards[0].name}' is damaged at byte \d+: .+ may be missing", said)
    # a slice without that shard has nothing to say of it
    assert main([*words, "-o", str(tmp_path / "rest"), "-q", "--first-shard", "1"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("threads", [-1, 1 << 32, 10**30])
def test_threads_out_of_range(pool: Path, tmp_path: Path, threads: int) -> None:
    with pytest.raises(ValueError, match=rf"threads must be None or a whole number from 1 to 4096; got {threads}:"):
        resharder.reshard(pool, tmp_path / "out", tmp_path / "s.npy", threads=threads)
    assert not (tmp_path / "out").exists()
