"""What is published says nothing of the machine: no place, no command line. What a run goes on by stays in state/."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from dcfast.evaluate import evaluate_model
from dcfast.resharding import reshard
from dcfast.run.workflow import main
from dcfast.rundir.settings import Settings
from dcfast.storage.parquet import read_table
from dcfast.storage.published import base_name, without_places
from dcfast.study.grid import Grid
from dcfast.study.output import write_results
from dcfast.study.records import Failure
from dcfast.study.study import collect
from dcfast.uids.sets import save_subset, uid_parse, uid_sort
from evalset_builder import NAMES, colour_clip, labelled, write_set
from pool_builder import plain_pool, uid_of

PRIVATE = "Jane Doe"
LOCAL = {"state", "reshard", "filter", "index", "signatures", "train/settings.json"}
"""What of a run directory is for resuming, and not published (SECURITY.md)."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    home = tmp_path_factory.mktemp("run") / PRIVATE / "secret project"
    pool = plain_pool(home / "pool").write()
    (pool / "shards/left.tar.gz").write_bytes(b"")  # a note names the directory
    uids = home / "my uids.npy"
    save_subset(uids, uid_sort(uid_parse([uid_of(n) for n in range(8)])[0]))
    words = ["--pool", str(pool), "--out", str(home / "out"), "--no-train", "--workers", "1", "--quiet"]
    words += ["--filter", f'uids("{uids}")']
    assert main(words) == 0
    return home / "out", words


def published(out: Path) -> list[Path]:
    files = [path for path in out.rglob("*") if path.is_file()]
    return [
        path for path in files if not {str(p) for p in (path.relative_to(out), *path.relative_to(out).parents)} & LOCAL
    ]


def test_no_place_in_what_is_published(whole: tuple[Path, list[str]]) -> None:
    out, _ = whole
    files = published(out)
    assert {"manifest.json", "report.json", "report.html", "meta.json", "fates.parquet"} <= {
        path.name for path in files
    }
    for path in files:
        data = path.read_bytes()
        for word in (PRIVATE, "secret project", str(out), "pytest-of"):
            assert word.encode() not in data, (path, word)
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert "command" not in manifest
    assert manifest["settings"]["pool"] == "pool"
    assert manifest["settings"]["filter"] == 'uids("my uids.npy")'
    assert list(manifest["settings"]["uid_hashes"]) == ["my uids.npy"]
    report = json.loads((out / "report.json").read_bytes())
    assert report["run"] == {**report["run"], "out": "out", "pool": "pool"}
    assert "command" not in report["run"]
    assert any("pool/shards: passed over: left.tar.gz" in note for note in report["notes"])


def test_the_rest_stays_here(whole: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    out, words = whole
    settings = json.loads((out / "state/settings.json").read_bytes())
    assert PRIVATE in settings["pool"]
    assert (out / "state/command.txt").read_text().endswith("\n")
    # nothing is done again, and nothing changes
    before = {path: path.stat().st_mtime_ns for path in published(out)}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in published(out)} == before
    capsys.readouterr()
    assert main([*words, "--dry-run"]) == 0
    assert "nothing is to be done" in capsys.readouterr().out


def test_a_run_of_before_is_resumed(whole: tuple[Path, list[str]]) -> None:
    """Its manifest and meta.json have the whole places: both are written again."""
    out, words = whole
    manifest = json.loads((out / "manifest.json").read_bytes())
    manifest["settings"]["pool"] = str(out.parent / "pool")
    (out / "manifest.json").write_text(json.dumps({**manifest, "command": "dcfast.run --pool /x"}))
    (out / "state/command.txt").unlink()
    assert main(words) == 0
    assert "command" not in json.loads((out / "manifest.json").read_bytes())


def test_shards_of_their_own(tmp_path: Path) -> None:
    home = tmp_path / PRIVATE
    pool = plain_pool(home / "pool").write()
    uids = home / "s.npy"
    save_subset(uids, uid_sort(uid_parse([uid_of(n) for n in range(8)])[0]))
    reshard(pool, home / "o", uids)
    meta = json.loads((home / "o/meta.json").read_bytes())
    assert (meta["input_dir"], meta["subset_file"]) == ("shards", "s.npy")
    assert all(PRIVATE.encode() not in path.read_bytes() for path in (home / "o").iterdir())
    before = {path: path.stat().st_mtime_ns for path in (home / "o").glob("*.tar")}
    reshard(pool, home / "o", uids, resume=True)
    # one of before places were left out goes on, too
    del meta["arguments_xxh3"]
    old = {**meta, "input_dir": str(pool / "shards"), "subset_file": str(uids)}
    (home / "o/meta.json").write_text(json.dumps(old))
    reshard(pool, home / "o", uids, resume=True)
    assert {path: path.stat().st_mtime_ns for path in (home / "o").glob("*.tar")} == before
    # the same names elsewhere are another run
    (home / "elsewhere").mkdir()
    shutil.copytree(pool, home / "elsewhere/pool")
    with pytest.raises(Exception, match="holds another run"):
        reshard(home / "elsewhere/pool", home / "o", uids, resume=True)


def test_a_study(tmp_path: Path) -> None:
    out = tmp_path / PRIVATE / "study"
    out.mkdir(parents=True)
    grid = Grid({"mine": f'uids("{out}/u.npy")'}, (), (), Settings(pool=str(out / "pool")))
    failure = Failure("c", f"it died; its output is in {out}/tiny/state/cell.log")
    study = collect(grid, {}, (), (), [failure])
    write_results(out, study, plots=False)
    for path in out.iterdir():
        assert PRIVATE not in path.read_text(), path
    assert json.loads((out / "study.json").read_text())["filters"] == {"mine": 'uids("study/u.npy")'}
    assert "its output is in study/tiny/state/cell.log" in (out / "study.md").read_text()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/jane/x/pool", "pool"),
        ("see /home/j/b.txt, /c/d; (/a/b)", "see b.txt, d; (b)"),
        ('uids("/home/Jane Doe/a b.npy") & basic_filter', 'uids("a b.npy") & basic_filter'),
        ("local-dir:/home/j/m", "local-dir:m"),
        ("ViT-B-32:/home/j/w.pt", "ViT-B-32:w.pt"),
        ("file:///home/x/y.txt", "y.txt"),
        ("~/private/x and ~jane/private/y", "x and y"),
        ("/a/b::/c/d", "b::d"),
        ("http://host/a/b, s3://bucket/a, and/or 1/2", "http://host/a/b, s3://bucket/a, and/or 1/2"),
        ("/known place/shards/0.tar is damaged", "known place/shards/0.tar is damaged"),
        ("/known place2 is another", "known place2 is another"),
    ],
)
def test_places_in_texts(text: str, shown: str) -> None:
    assert without_places(text, ["/known place"]) == shown
    nested = without_places({"a": [text, {"x": text}], "b": 2.0}, ["/known place"])
    assert nested == {"a": [shown, {"x": shown}], "b": 2.0}


def test_urls_of_shards_have_their_last_part() -> None:
    said = without_places({"note": "source s3://bucket/mine/shards: 3 of 4"}, ["s3://bucket/mine/shards/"])
    assert said == {"note": "source shards: 3 of 4"}


def test_keys_and_strangers_texts() -> None:
    assert without_places({"/a/x y.npy": 1, "/b c/x y.npy": 2}) == {"x y.npy": 1, "x y.npy'": 2}
    assert (
        without_places("a caption of /r/pics in /run/out", ["/run/out"], all_texts=False)
        == "a caption of /r/pics in out"
    )
    assert base_name("a/b/") == "b"


def test_fates_name_a_uid_file_by_its_last_part(whole: tuple[Path, list[str]]) -> None:
    out, _ = whole
    reasons = set(read_table(out / "fates.parquet", ["reason"])["reason"].to_pylist())
    assert reasons == {None, 'not (uids("my uids.npy"))'}
    shown = json.loads((out / "report.json").read_bytes())["reasons"]
    assert [(row["fate"], row["reason"], row["count"]) for row in shown] == [
        ("dropped", 'not (uids("my uids.npy"))', 4)
    ]
    # tables are compressed: their texts are looked at as they are
    for path in out.glob("*.parquet"):
        assert PRIVATE not in str(read_table(path).to_pylist())


def test_results_of_an_evaluation(tmp_path: Path) -> None:
    home = tmp_path / PRIVATE
    write_set(home / "sets", "shapes", labelled(4), classes=NAMES)
    (home / "sets/wds_shapes_test/test/9.tar.gz").write_bytes(b"")
    clip = replace(colour_clip(), name=f"local-dir:{home}/model", source=str(home / "w.pt"))
    summary = evaluate_model(clip, home / "sets", home / "out", threads=1)
    assert (summary.model, summary.source) == ("local-dir:model", "w.pt")
    written = [path for path in (home / "out").rglob("*") if path.is_file()]
    assert len(written) >= 3
    for path in written:
        assert PRIVATE not in path.read_text(), path
    assert "passed over: 9.tar.gz" in (home / "out/eval_results.jsonl").read_text()
    assert evaluate_model(clip, home / "sets", home / "out", threads=1).scored == []
