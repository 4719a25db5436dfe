"""``dcfast evalsets fetch``: DataComp's sets from a hub on this machine, whole, locked, and scored as there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from dcfast import cli
from dcfast.errors import CorruptDataError, EvalsetError, RunError
from dcfast.evaluate import datacomp_tasks, evaluate_model, fetch_sets
from dcfast.evaluate.fetch_sets import FetchOptions, FetchReport, repo_of
from dcfast.evaluate.fetch_sets import fetch_sets as fetch
from dcfast.hub import LOCK_FILE, read_lock
from dcfast.storage.lock import locked
from evalset_builder import NAMES, colour_clip, labelled, npy, write_set
from hub_builder import PAIRS, RIDDLES, write_source
from killed_writes import kill_at
from local_hub import Fault, LocalHub, local_hub

PARQUET = "refs/convert/parquet"
KEYS = ["cifar10", "vtab/flowers", f"retrieval/{PAIRS}", "misc/winogavil", "fairness/dollar_street"]
REPOS = ["djghosh/wds_cifar10_test", "djghosh/wds_vtab-flowers_test", "djghosh/wds_dollar_street_test"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sets as they are scored, to compare with."""
    home = tmp_path_factory.mktemp("published")
    write_set(home, "cifar10", labelled(20, 5), NAMES, shard_size=7)
    write_set(home, "vtab-flowers", labelled(16, 3), NAMES)
    write_set(home, "dollar_street", labelled(16, 2, npy=npy([0, 1, 2])), NAMES)
    source = write_source(home / "source")
    for directory, name in ((f"retrieval-{PAIRS}", PAIRS), (f"misc-{RIDDLES}", RIDDLES)):
        (home / f"wds_{directory}_test/test").mkdir(parents=True)
        shutil.copy(source / f"{name}.parquet", home / f"wds_{directory}_test/test/0000.parquet")
    return home


@pytest.fixture
def hub(published: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("dcfast.hub.transfer.BACKOFF_S", 0.0)
    repos: dict[str, Mapping[str, bytes]] = {
        repo: {"README.md": b"x", **files_of(published / repo.partition("/")[2])} for repo in REPOS
    }
    repos |= {f"nlphuji/{name}": {f"{name}.py": b"a script"} for name in (PAIRS, RIDDLES)}
    with local_hub(repos) as served:
        for name, config in ((PAIRS, "TEST"), (RIDDLES, "default")):
            data = (published / f"source/{name}.parquet").read_bytes()
            served.commit(f"nlphuji/{name}", {f"{config}/test/0000.parquet": data, "other.txt": b""}, PARQUET)
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def fetched(out: Path, sets: list[str] | None = None, **options: Any) -> FetchReport:
    return fetch(FetchOptions(str(out), sets=KEYS if sets is None else sets, **options))


def scores(home: Path, out: Path) -> dict[str, Any]:
    summary = evaluate_model(colour_clip(), home, out, batch_size=3, threads=1)
    assert summary.failed == {}
    return {line.key: line.metrics for line in summary.tasks}


def test_what_is_fetched_is_scored_as_it_was_published(hub: LocalHub, published: Path, tmp_path: Path) -> None:
    report = fetched(tmp_path / "sets")
    assert (report.whole, report.failed) == (KEYS, {})
    assert scores(tmp_path / "sets", tmp_path / "a") == scores(published, tmp_path / "b")
    assert files_of(tmp_path / "sets/wds_cifar10_test") == files_of(published / "wds_cifar10_test")
    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == [
        ".lock",
        LOCK_FILE,
        *sorted(task.directory for task in datacomp_tasks() if task.key in KEYS),
    ]
    assert "missing of DataComp's 40 tasks (35): vtab/caltech101" in report.missing
    assert any(note.startswith("cifar10: it holds 20 pictures, the whole set has 10,000") for note in report.notes)
    lock = read_lock(tmp_path / "sets" / LOCK_FILE)
    assert sorted(lock.repos) == sorted([*REPOS, f"nlphuji/{PAIRS}", f"nlphuji/{RIDDLES}"])
    assert list(lock.repos[f"nlphuji/{PAIRS}"].files) == ["TEST/test/0000.parquet"]

    asked = len(hub.log)
    assert fetched(tmp_path / "sets").whole == KEYS
    assert len(hub.log) == asked, "the lock says it all"
    shutil.copytree(tmp_path / "sets" / "wds_cifar10_test", tmp_path / "other/wds_cifar10_test")
    shutil.copy(tmp_path / "sets" / LOCK_FILE, tmp_path / "other")
    hub.commit(REPOS[0], {"classnames.txt": b"another"})
    assert fetched(tmp_path / "other", ["cifar10"]).whole == ["cifar10"]
    assert fetched(tmp_path / "third", ["wds_cifar10_test"]).failed["cifar10"].startswith("dataset djghosh/wds_cifar10")


def test_every_task_has_a_repository() -> None:
    repos = {task.key: repo_of(task) for task in datacomp_tasks()}
    assert len(set(repos.values())) == 40
    assert repos["vtab/clevr_count_all"] == "djghosh/wds_vtab-clevr_count_all_test"
    assert repos["fairness/geode"] == "djghosh/wds_geode_test"
    assert repos["retrieval/mscoco_2014_5k_test_image_text_retrieval"] == (
        "nlphuji/mscoco_2014_5k_test_image_text_retrieval"
    )
    assert repos["misc/winogavil"] == "nlphuji/winogavil"


def test_parquet_of_the_repository_itself(hub: LocalHub, published: Path, tmp_path: Path) -> None:
    """Where there is no such branch; and no part of a split that was cut is taken for all of it."""
    repo, data = f"nlphuji/{PAIRS}", (published / f"source/{PAIRS}.parquet").read_bytes()
    hub.repos[repo].branches.clear()
    hub.commit(repo, {"data/test-00000-of-00001.parquet": data, "data/train-00000-of-00001.parquet": b"no"})
    assert fetched(tmp_path / "sets", [KEYS[2]]).whole == [KEYS[2]]
    assert [path.name for path in (tmp_path / "sets").glob("wds_*/test/*")] == ["test-00000-of-00001.parquet"]
    assert fetched(tmp_path / "sets", [KEYS[2]]).whole == [KEYS[2]]
    hub.commit(repo, {"x": b""})
    hub.commit(repo, {"default/partial-test/0000.parquet": data}, PARQUET)
    failed = fetched(tmp_path / "other", [KEYS[2]]).failed[KEYS[2]]
    assert "refs/convert/parquet: dataset nlphuji/" in failed
    assert "; main: dataset nlphuji/" in failed
    hub.commit(repo, {"data/test-00000-of-00002.parquet": data})
    assert "part 1 of 2 is not there" in fetched(tmp_path / "other", [KEYS[2]]).failed[KEYS[2]]


def test_what_is_wrong_with_a_set_stops_no_other(
    hub: LocalHub, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = files_of(published / "wds_cifar10_test")
    hub.commit(REPOS[0], {name: data for name, data in files.items() if name != "classnames.txt"})
    files = files_of(published / "wds_vtab-flowers_test")
    hub.commit(REPOS[1], {**files, "test/0.tar": files["test/0.tar"][:3000]})
    words = ["evalsets", "fetch", "--out", str(tmp_path / "sets"), "--quiet", "--sets"]
    assert cli.main([*words, "cifar10,vtab/flowers,dollar_street"]) == 1
    said = capsys.readouterr()
    assert "whole (1): fairness/dollar_street" in said.out
    assert "evaluation set cifar10 was not fetched: dataset djghosh/wds_cifar10_test" in said.err
    assert "lacks classnames.txt" in said.err
    assert "0.tar is damaged at byte" in said.err
    assert not (tmp_path / "sets/wds_cifar10_test").exists()
    assert cli.main([*words, "dollar_street"]) == 0


def test_three_in_a_row_are_no_network(hub: LocalHub, tmp_path: Path) -> None:
    failed = fetched(tmp_path / "sets", ["mnist", "cars", "stl10", "cifar10", "gtsrb"]).failed
    assert list(failed) == ["gtsrb", "mnist", "cars", "stl10"]
    assert "there is no such dataset" in failed["mnist"]
    assert failed["stl10"] == "not tried, since 3 in a row before it failed"


def test_bytes_that_are_wrong_are_not_taken(hub: LocalHub, tmp_path: Path) -> None:
    hub.faults.append(Fault("wrong", "0.tar", on="cdn"))
    assert "other bytes came than were said" in fetched(tmp_path / "sets", ["cifar10"]).failed["cifar10"]
    assert not (tmp_path / "sets/wds_cifar10_test").exists()
    hub.faults.clear()
    assert fetched(tmp_path / "sets", ["cifar10"]).whole == ["cifar10"]


def test_another_state_of_the_hub_is_taken_when_it_is_asked_for(hub: LocalHub, published: Path, tmp_path: Path) -> None:
    fetched(tmp_path / "sets", ["cifar10"])
    before = files_of(tmp_path / "sets/wds_cifar10_test")
    files = files_of(published / "wds_vtab-flowers_test")
    hub.commit(REPOS[0], files)
    assert fetched(tmp_path / "sets", ["cifar10"]).whole == ["cifar10"]
    assert files_of(tmp_path / "sets/wds_cifar10_test") == before
    failed = fetched(tmp_path / "sets", ["cifar10"], update_lock=True).failed["cifar10"]
    assert "test/1.tar is not one of its files" in failed
    for name in ("1.tar", "2.tar"):
        (tmp_path / "sets/wds_cifar10_test/test" / name).unlink()
    assert fetched(tmp_path / "sets", ["cifar10"]).whole == ["cifar10"]
    assert files_of(tmp_path / "sets/wds_cifar10_test") == files


@pytest.mark.long
def test_killed_at_any_moment_it_goes_on(hub: LocalHub, published: Path, tmp_path: Path) -> None:
    words = ["evalsets", "fetch", "--out", str(tmp_path / "sets"), "--sets", ",".join(KEYS), "--quiet"]
    assert kill_at([1, 4, 9], words) == 3
    assert kill_at([999], words) == 0
    assert scores(tmp_path / "sets", tmp_path / "a") == scores(published, tmp_path / "b")
    assert not list((tmp_path / "sets").rglob(".fetching-*"))


def test_what_is_refused(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvalsetError, match="--sets: DataComp has no evaluation set 'cifar11'; did you mean 'cifar10'"):
        fetched(tmp_path / "sets", ["cifar11"])
    assert not (tmp_path / "sets").exists()
    (tmp_path / "sets").mkdir()
    with (
        locked(tmp_path / "sets/.lock", ""),
        pytest.raises(RunError, match="another import, fetch, convert or unpack is at work there"),
    ):
        fetched(tmp_path / "sets")
    (tmp_path / "sets" / LOCK_FILE).write_text("{")
    with pytest.raises(CorruptDataError, match=LOCK_FILE):
        fetched(tmp_path / "sets")
    os.unlink(tmp_path / "sets" / LOCK_FILE)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch_sets, "fetch_repo", full)
    with pytest.raises(OSError, match="No space left"):
        fetched(tmp_path / "sets")
    assert not hub.log
