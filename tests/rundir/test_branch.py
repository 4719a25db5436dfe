"""Branches: what a base run made is shared by hard links, and neither run can harm the other."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dcfast.errors import RunError
from dcfast.run.comparison import run_branch
from dcfast.run.workflow import run
from dcfast.rundir import branch as branching
from dcfast.rundir.branch import branch_settings, branch_stages, comparison_dir, link_base, slug
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.uids.sets import load_subset
from pool_builder import evalset, picture, plain_pool


@pytest.fixture
def base(tmp_path: Path) -> tuple[Path, Settings]:
    """A run up to decontamination, with one contaminated sample."""
    pool = plain_pool(tmp_path / "pool").write()
    sets = evalset(tmp_path / "sets", "one", {"a": picture(1)})
    settings = Settings(pool=str(pool), evalsets=str(sets), filter="no_filter")
    run(tmp_path / "base", settings, last="decontaminate")
    return tmp_path / "base", settings


def content(root: Path) -> dict[str, str]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name not in (".lock", "timings.jsonl")]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def go(base: tuple[Path, Settings], out: Path, expression: str, **options: Any) -> dict[str, Any]:
    return run_branch(base[0], base[1], out, branch_settings(base[1], expression), last="filter", **options)


def test_branch_is_what_a_run_of_its_own_would_be(base: tuple[Path, Settings], tmp_path: Path) -> None:
    go(base, tmp_path / "branch", "~contaminated")
    run(tmp_path / "alone", replace(base[1], filter="~contaminated", compare="none"), last="filter")
    for name in ("subset.npy", "fates.parquet", "quarantine.parquet", "filter/outcomes.npy", "contaminated.npy"):
        assert (tmp_path / "branch" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    assert len(load_subset(tmp_path / "branch/subset.npy")) == len(load_subset(base[0] / "contaminated.npy")) + 10


def test_what_is_shared_is_not_copied_and_the_base_is_left_alone(base: tuple[Path, Settings], tmp_path: Path) -> None:
    before = content(base[0])
    go(base, tmp_path / "branch", "no_filter")
    assert content(base[0]) == before
    for name in ("index/pool.npy", "signatures/pool-00000.npy", "contaminated.npy", "state/index.json"):
        assert os.path.samefile(base[0] / name, tmp_path / "branch" / name)
    assert not os.path.samefile(base[0] / "state/settings.json", tmp_path / "branch/state/settings.json")


def test_second_time_links_and_redoes_nothing(base: tuple[Path, Settings], tmp_path: Path) -> None:
    go(base, tmp_path / "branch", "no_filter")
    told = ("progress.json", "log.txt")  # of each start
    files = [path for path in (tmp_path / "branch").rglob("*") if path.is_file() and path.name not in told]
    times = {path: path.stat().st_mtime_ns for path in files}
    source, target = Run(base[0], base[1]), Run(tmp_path / "branch", base[1])
    assert link_base(source, target) == 0
    go(base, tmp_path / "branch", "no_filter")
    assert {path: path.stat().st_mtime_ns for path in files} == times
    assert {path for path in (tmp_path / "branch").rglob("*") if path.is_file() and path.name not in told} == {*files}


def test_branch_follows_a_base_that_changed(base: tuple[Path, Settings], tmp_path: Path) -> None:
    go(base, tmp_path / "branch", "~contaminated")
    before = len(load_subset(tmp_path / "branch/subset.npy"))
    evalset(Path(str(base[1].evalsets)), "two", {"b": picture(2)})
    run(base[0], base[1], last="decontaminate")
    go(base, tmp_path / "branch", "~contaminated")
    assert len(load_subset(tmp_path / "branch/subset.npy")) == before - 1
    # and what the base no longer has, goes
    stale = tmp_path / "branch/signatures/pool-00007.npy"
    stale.write_bytes(b"")
    assert link_base(Run(base[0], base[1]), Run(tmp_path / "branch", base[1])) == 0
    assert not stale.exists()


@pytest.mark.parametrize("code", [errno.EPERM, errno.EXDEV])
def test_without_hard_links_it_copies_with_times(
    base: tuple[Path, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(code, "no links here")

    monkeypatch.setattr(branching.os, "link", refuse)
    go(base, tmp_path / "branch", "no_filter")
    ours, theirs = tmp_path / "branch/index/pool.npy", base[0] / "index/pool.npy"
    assert not os.path.samefile(ours, theirs)
    assert ours.stat().st_mtime_ns == theirs.stat().st_mtime_ns
    assert link_base(Run(base[0], base[1]), Run(tmp_path / "branch", base[1])) == 0


def test_base_that_is_not_done_is_said(tmp_path: Path) -> None:
    settings = Settings(pool=str(plain_pool(tmp_path / "pool").write()), filter="no_filter")
    run(tmp_path / "base", settings, last="index")
    with pytest.raises(RunError, match="stage signatures has not been run yet"):
        run_branch(tmp_path / "base", settings, tmp_path / "branch", settings, last="filter")


def test_branch_of_another_pool_or_to_another_end_is_refused(base: tuple[Path, Settings], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a branch shares pool with its base: '.*' there, '/elsewhere' here"):
        run_branch(base[0], base[1], tmp_path / "b", replace(base[1], pool="/elsewhere"))
    with pytest.raises(ValueError, match="last must be one of filter, train, evaluate; got 'report'"):
        run_branch(base[0], base[1], tmp_path / "b", base[1], last="report")


def test_branch_with_other_settings_is_refused_unless_overwritten(base: tuple[Path, Settings], tmp_path: Path) -> None:
    go(base, tmp_path / "branch", "no_filter")
    with pytest.raises(RunError, match=r"holds another run \(filter: 'no_filter' there, '~contaminated' now\)"):
        go(base, tmp_path / "branch", "~contaminated")
    go(base, tmp_path / "branch", "~contaminated", overwrite=True)


def test_stages_of_a_branch(tmp_path: Path) -> None:
    whole = Settings(evalsets="/sets", pool="/pool")
    assert branch_stages(Run(tmp_path, whole)) == ["filter", "train", "evaluate"]
    assert branch_stages(Run(tmp_path, replace(whole, train_from="shards"))) == [
        "filter",
        "reshard",
        "train",
        "evaluate",
    ]
    assert branch_stages(Run(tmp_path, replace(whole, evalsets=None))) == ["filter", "train"]


def test_where_the_comparison_lies(tmp_path: Path) -> None:
    assert comparison_dir(Run(tmp_path, Settings())) == tmp_path / "compare/no_filter"
    assert comparison_dir(Run(tmp_path, Settings(compare="none"))) is None
    assert comparison_dir(Run(tmp_path, Settings(filter="no_filter"))) is None, "it would be the same run twice"
    assert comparison_dir(Run(tmp_path, Settings(train=False))) is None
    assert comparison_dir(Run(tmp_path, Settings(scale="small", pool="/pool"))) is None
    asked = Settings(scale="small", pool="/pool", compare="clip_score(l14, fraction=0.5)")
    assert comparison_dir(Run(tmp_path, asked)) == tmp_path / "compare/clip_score-l14-fraction-0.5"


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("no_filter", "no_filter"),
        ("basic_filter & ~contaminated", "basic_filter-not-contaminated"),
        ("clip_score(l14, fraction=0.3)", "clip_score-l14-fraction-0.3"),
        ("..", "filter"),
    ],
)
def test_slug(expression: str, name: str) -> None:
    assert slug(expression) == name


def test_slugs_are_safe_names_and_differ() -> None:
    long = [
        " & ".join(["basic_filter"] * 20),
        " & ".join(["basic_filter"] * 21),
        'uids("/a/b.npy")',
        'uids("/a-b.npy")',
    ]
    names = [slug(text) for text in [*long, "a & b", "a | b", "a & ~b", "/../etc", "x" * 500]]
    assert len(set(names)) == len(names)
    for name in names:
        assert 0 < len(name) <= 60
        assert "/" not in name
        assert not name.startswith((".", "-"))
