"""``dcfast evalsets convert``: DataComp's download and CLIP_benchmark's folders, whole, linked, and scored the same."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from dcfast import cli
from dcfast.errors import EvalsetError, RunError
from dcfast.evaluate import convert_sets as module
from dcfast.evaluate import evaluate_model, find_tasks, hub_parquet
from dcfast.evaluate.convert_sets import ConvertOptions, ConvertReport, convert_sets
from dcfast.evaluate.place_set import RECORD_FILE
from evalset_builder import NAMES, colour_clip, labelled, npy, picture, write_set
from hub_builder import PAIRS, RIDDLES, SCHEMAS, set_file, write_cache, write_stream
from killed_writes import kill_at


def data_dir(home: Path, layout: str = "script") -> Path:
    """What ``download_evalsets.py`` leaves, of some of the 40."""
    write_set(home, "cifar10", labelled(20, 5), NAMES, shard_size=7)
    write_set(home, "vtab-flowers", labelled(16, 3), NAMES)
    write_set(home, "dollar_street", labelled(16, 2, npy=npy([0, 1, 2])), NAMES)
    write_set(home, "mine", labelled(9, 1), NAMES)
    return write_cache(home, layout)


def converted(source: Path, out: Path, **options: Any) -> ConvertReport:
    return convert_sets(ConvertOptions(str(source), str(out), quiet=True, **options))


def scores(home: Path, out: Path) -> dict[str, Any]:
    summary = evaluate_model(colour_clip(), home, out, batch_size=3, threads=1)
    assert summary.failed == {}
    return {line.key: (line.metrics, line.pictures, line.complete) for line in summary.tasks}


def files_of(home: Path) -> dict[str, bytes]:
    return {str(p.relative_to(home)): p.read_bytes() for p in sorted(home.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("layout", ["script", "today", "hub"])
def test_what_datacomp_left_scores_the_same(layout: str, tmp_path: Path) -> None:
    source = data_dir(tmp_path / "source", layout)
    before = files_of(source)
    report = converted(source, tmp_path / "sets")
    keys = ["cifar10", "vtab/flowers", f"retrieval/{PAIRS}", "misc/winogavil", "fairness/dollar_street", "mine"]
    assert (report.made, report.kept, report.failed) == (keys, [], {})
    assert scores(tmp_path / "sets", tmp_path / "a") == scores(source, tmp_path / "b")
    assert files_of(source) == before
    assert "missing of DataComp's 40 tasks (35): vtab/caltech101, vtab/cifar100" in report.missing
    assert not (tmp_path / "sets/hf_cache").exists()
    shutil.rmtree(source)
    assert len(scores(tmp_path / "sets", tmp_path / "c")) == 6


def test_files_are_linked_copied_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = data_dir(tmp_path / "source")
    (source / "wds_mine_test/test/nshards.txt").unlink()
    report = converted(source, tmp_path / "sets")
    assert (report.linked, report.copied, report.written) == (17, 0, 3)
    tar = "wds_cifar10_test/test/0.tar"
    assert (tmp_path / "sets" / tar).samefile(source / tar)
    assert (tmp_path / "sets/wds_mine_test/test/nshards.txt").read_text() == "1"
    report = converted(source, tmp_path / "copies", copy=True)
    assert (report.linked, report.copied) == (0, 17)
    assert not (tmp_path / "copies" / tar).samefile(source / tar)
    assert (tmp_path / "copies" / tar).stat().st_mtime_ns == (source / tar).stat().st_mtime_ns
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "another disk")))
    report = converted(source, tmp_path / "elsewhere")
    assert (report.linked, report.copied) == (0, 17)
    assert files_of(tmp_path / "elsewhere") == files_of(tmp_path / "copies")


def test_the_pictures_bytes_and_all_texts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_parquet, "GROUP_BYTES", 500)
    source = write_cache(tmp_path / "source", "today")
    converted(source, tmp_path / "sets")
    (file,) = (tmp_path / "sets/wds_misc-winogavil_test/test").glob("*.parquet")
    rows = pq.read_table(file).to_pylist()
    assert pq.ParquetFile(file).num_row_groups > 2
    assert [len(row["candidate_images"]) for row in rows] == [len(row["candidates"]) for row in rows]
    assert all(
        image == {"bytes": picture(name), "path": f"{name}.png"}
        for row in rows
        for name, image in zip(row["candidates"], row["candidate_images"], strict=True)
    )
    (file,) = (tmp_path / "sets").glob("wds_retrieval-*/test/*.parquet")
    assert [row["caption"][-1] for row in pq.read_table(file).to_pylist()] == [f"a {name} thing" for name in NAMES]


def test_names_of_clip_benchmark(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name, now in (("a", "cifar10"), ("b", "wds_vtab-flowers"), ("c", "wds_mnist_test"), ("d", "mnist")):
        write_set(source, name, labelled(8), NAMES).rename(source / now)
    (source / "notes").mkdir()
    (source / "README.md").write_text("x")
    report = converted(source, tmp_path / "sets")
    assert report.made == ["cifar10", "mnist", "vtab/flowers"]
    assert "mnist is passed over: the set of this name is taken from wds_mnist_test" in report.notes
    folders = sorted(path.name for path in (tmp_path / "sets").iterdir() if path.is_dir())
    assert folders == ["wds_cifar10_test", "wds_mnist_test", "wds_vtab-flowers_test"]
    assert converted(source / "cifar10", tmp_path / "one").made == ["cifar10"]


def test_a_table_of_tasks_comes_along(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_set(source, "mine", labelled(8, 2), NAMES)
    table = [{"key": "my/own", "directory": "wds_mine_test", "kind": "classification", "main_metric": "acc5"}]
    (source / "tasks.json").write_text(json.dumps(table))
    assert converted(source, tmp_path / "sets").made == ["my/own"]
    assert scores(tmp_path / "sets", tmp_path / "a") == scores(source, tmp_path / "b")
    (source / "tasks.json").write_text(json.dumps([{**table[0], "main_metric": "acc1"}]))
    with pytest.raises(RunError, match=r"tasks\.json is there and is not the one of"):
        converted(source, tmp_path / "sets")


def damaged_sets(home: Path) -> Path:
    write_set(home, "whole", labelled(8), NAMES)
    cut = write_set(home, "cut", labelled(8), NAMES) / "test/0.tar"
    cut.write_bytes(cut.read_bytes()[:3000])
    (write_set(home, "shards", labelled(8), NAMES) / "test/nshards.txt").write_text("3")
    write_set(home, "nameless", labelled(8))
    (home / "wds_empty_test").mkdir()
    write_cache(home, "script")
    (home / "hf_cache/downloads/extracted" / ("e" * 64) / "images/blue.png").unlink()
    secret = home.parent / "secret"
    secret.write_text("secret")
    (write_set(home, "leads_out", labelled(8), NAMES) / "dataset_type.txt").symlink_to(secret)
    return home


def test_what_is_damaged_is_named_and_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = damaged_sets(tmp_path / "source")
    assert cli.main(["evalsets", "convert", str(source), "--out", str(tmp_path / "sets")]) == 1
    said = capsys.readouterr()
    assert "made (1): whole" in said.out
    for key, why in {
        "cut": r"0.tar is damaged at byte",
        "shards": "nshards.txt says 3 shards, but there are 1",
        "nameless": "it has no classnames.txt",
        "empty": "it holds no test/*.tar",
        f"retrieval/{PAIRS}": "blue.png: its file blue.png is not in hf_cache/downloads/extracted",
        "misc/winogavil": "blue.png: its file blue.png is not in hf_cache/downloads/extracted",
        "leads_out": "dataset_type.txt",
    }.items():
        (line,) = [line for line in said.err.splitlines() if f"evaluation set {key} was passed over" in line]
        assert why in line
    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == [".lock", "wds_whole_test"]


def test_some_of_the_sets(tmp_path: Path) -> None:
    source = damaged_sets(tmp_path / "source")
    report = converted(source, tmp_path / "sets", sets=["wds_whole_test"])
    assert (report.made, report.failed) == (["whole"], {})
    with pytest.raises(EvalsetError, match="has no evaluation set 'whale'; did you mean"):
        converted(source, tmp_path / "sets", sets=["whale"])


def test_the_same_command_goes_on_and_others_are_refused(tmp_path: Path) -> None:
    source = data_dir(tmp_path / "source")
    converted(source, tmp_path / "sets", sets=["cifar10"])
    times = (tmp_path / "sets/wds_cifar10_test" / RECORD_FILE).stat().st_mtime_ns
    report = converted(source, tmp_path / "sets")
    assert (report.kept, len(report.made)) == (["cifar10"], 5)
    assert (tmp_path / "sets/wds_cifar10_test" / RECORD_FILE).stat().st_mtime_ns == times
    (tmp_path / "sets/wds_cifar10_test/test/1.tar").unlink()
    assert converted(source, tmp_path / "sets").made == ["cifar10"]
    shutil.rmtree(source / "wds_cifar10_test")
    write_set(source, "cifar10", labelled(5), NAMES)
    before = files_of(tmp_path / "sets")
    report = converted(source, tmp_path / "sets")
    assert list(report.failed) == ["cifar10"]
    assert (
        "is there and is made of other files; choose another --out, or --overwrite to replace it"
        in report.failed["cifar10"]
    )
    assert files_of(tmp_path / "sets") == before
    assert converted(source, tmp_path / "sets", overwrite=True).made == ["cifar10"]
    assert (tmp_path / "sets/wds_cifar10_test/test/0.tar").samefile(source / "wds_cifar10_test/test/0.tar")


def test_of_what_was_converted_before(tmp_path: Path) -> None:
    """A record of the source is neither taken nor written through its link."""
    source = data_dir(tmp_path / "source")
    converted(source, tmp_path / "sets")
    before = files_of(tmp_path / "sets")
    assert len(converted(tmp_path / "sets", tmp_path / "again").made) == 6
    assert files_of(tmp_path / "sets") == before
    assert scores(tmp_path / "again", tmp_path / "a") == scores(source, tmp_path / "b")


@pytest.mark.long
def test_killed_at_any_moment_it_goes_on(tmp_path: Path) -> None:
    source = data_dir(tmp_path / "source")
    words = ["evalsets", "convert", str(source), "--out", str(tmp_path / "sets"), "--quiet"]
    assert kill_at([1, 2, 3, 5], words) >= 3
    assert kill_at([999], words) == 0
    converted(source, tmp_path / "whole")
    assert files_of(tmp_path / "sets") == files_of(tmp_path / "whole")


def test_a_full_disk_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = data_dir(tmp_path / "source")
    monkeypatch.setattr("dcfast.evaluate.place_set.free_bytes", lambda path: 10)
    with pytest.raises(OSError, match="bytes are needed and 10 are free"):
        converted(source, tmp_path / "sets", copy=True)
    assert not (tmp_path / "sets").exists()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_set_record", full)
    with pytest.raises(OSError, match="No space left"):
        converted(source, tmp_path / "sets")
    assert not (tmp_path / "sets").exists()


def test_a_row_of_too_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_parquet, "MOST_ROW_BYTES", 100)
    report = converted(write_cache(tmp_path / "source", "today", (RIDDLES,)), tmp_path / "sets")
    assert "the pictures of a row have more than 100 bytes" in report.failed["misc/winogavil"]


def test_null_texts_and_pictures_of_a_cache(tmp_path: Path) -> None:
    home = tmp_path / "source"
    image = {"bytes": picture("red"), "path": None}
    rows = [
        {"image": image, "caption": ["red", None], "filename": None},
        {"image": image, "caption": None, "filename": "b"},
        {"image": image, "caption": [], "filename": "c"},
    ]
    import pyarrow as pa

    write_stream(set_file(home, "today", PAIRS), pa.Table.from_pylist(rows, SCHEMAS[PAIRS]))
    report = converted(home, tmp_path / "sets")
    assert report.made == [f"retrieval/{PAIRS}"]
    assert any("2 samples without a caption were left out" in note for note in report.notes)
    assert scores(tmp_path / "sets", tmp_path / "a") == scores(home, tmp_path / "b")


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(EvalsetError, match=r"no evaluation set in it; expected wds_\*_test folders"):
        converted(tmp_path / "none", tmp_path / "sets")
    with pytest.raises(EvalsetError, match="no such directory"):
        converted(tmp_path / "nowhere", tmp_path / "sets")
    source = data_dir(tmp_path / "source")
    for out in (source, source / "below", tmp_path):
        with pytest.raises(RunError, match="lie in each other"):
            converted(source, out)
    assert not (tmp_path / "sets").exists()
    assert [folder.name for _, folder in find_tasks(source)][-1] == "wds_mine_test"
