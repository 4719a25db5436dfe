"""Evaluation sets of one's own: of class folders, of tables, of captions; scored, in none of DataComp's averages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dcfast import cli
from dcfast.errors import EvalsetError, RunError
from dcfast.evaluate import evaluate_model
from dcfast.evaluate.evalset import set_fingerprint
from dcfast.evaluate.import_set import EvalsetOptions, EvalsetReport, import_evalset
from dcfast.evaluate.tasks import find_tasks
from dcfast.importing.found import LEADS_OUT
from evalset_builder import NAMES, colour_clip, picture
from things_to_import import members_of


def imported(folder: Path, sets: Path, **options: Any) -> EvalsetReport:
    return import_evalset(EvalsetOptions(str(folder), str(sets), **options))


def class_folders(folder: Path, count: int = 2) -> Path:
    for name in NAMES:
        (folder / f"{name}_thing/deep").mkdir(parents=True)
        for n in range(count):
            (folder / f"{name}_thing" / ("deep" if n else "") / f"{n}.png").write_bytes(picture(name))
    return folder


def test_class_folders_are_scored_and_in_no_average(tmp_path: Path) -> None:
    class_folders(tmp_path / "colours")
    (tmp_path / "colours/empty_class").mkdir()
    (tmp_path / "colours/red_thing/notes.txt").write_text("x")
    (tmp_path / "colours/loose.png").write_bytes(picture("red"))
    report = imported(tmp_path / "colours", tmp_path / "sets")
    assert (report.kind, report.pictures, report.classes) == ("classification", 16, 9)
    assert report.passed.counts == {
        "class folders without a picture; their class stays": 1,
        "files that are no pictures": 1,
        "pictures outside of the class folders": 1,
    }
    names = (tmp_path / "sets/wds_colours_test/classnames.txt").read_text().split("\n")
    assert names[:2] == ["black thing", "blue thing"]
    summary = evaluate_model(colour_clip(), tmp_path / "sets", tmp_path / "out", threads=1)
    result = summary.tasks[0]
    assert (result.key, result.score, result.benchmark) == ("colours", 1.0, False)
    assert (summary.unlisted, set(summary.averages.values())) == (["colours"], {None})


def test_parts_of_a_set(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        class_folders(tmp_path / "set" / part, 1 if part == "test" else 2)
    assert imported(tmp_path / "set", tmp_path / "sets").pictures == 8
    report = imported(tmp_path / "set", tmp_path / "sets", name="val", split="val")
    assert report.pictures == 16
    with pytest.raises(EvalsetError, match=r"no folder 'dev' \(--split\); it has test, train, val"):
        imported(tmp_path / "set", tmp_path / "sets", name="dev", split="dev")


@pytest.mark.parametrize(("numbers", "classes"), [(False, None), (True, "lines"), (True, "json"), (False, "lines")])
def test_a_table_of_labels(numbers: bool, classes: str | None, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    lines = ["path,label"]
    for number, name in enumerate(NAMES):
        (tmp_path / f"set/{name}.png").write_bytes(picture(name))
        lines.append(f"{name}.png,{number if numbers else name}")
    (tmp_path / "set/labels.csv").write_text("\n".join([*lines, lines[1], "none.png,0", "red.png,"]))
    path = tmp_path / f"names.{'json' if classes == 'json' else 'txt'}"
    table = {str(n): name for n, name in enumerate(NAMES)}
    path.write_text(json.dumps(table) if classes == "json" else "\n".join(NAMES))
    report = imported(tmp_path / "set", tmp_path / "sets", classes=str(path) if classes else None)
    assert (report.kind, report.pictures, report.classes) == ("classification", 8, 8)
    assert report.passed.counts == {
        "rows that name a picture again": 1,
        "rows whose picture is not there": 1,
        "rows without a label": 1,
    }
    assert evaluate_model(colour_clip(), tmp_path / "sets", tmp_path / "out", threads=1).tasks[0].score == 1.0


def test_numbers_as_class_names_are_noted(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.png").write_bytes(picture("red"))
    (tmp_path / "set/labels.csv").write_text("path,label\na.png,10\n")
    assert "--classes FILE" in imported(tmp_path / "set", tmp_path / "sets").notes[0]
    (tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(EvalsetError, match=r"has 2 names, but there is a label 10 \(they count from 0\)"):
        imported(tmp_path / "set", tmp_path / "sets", name="other", classes=str(tmp_path / "names.txt"))


def test_files_of_names_that_do_not_fit(tmp_path: Path) -> None:
    class_folders(tmp_path / "set", 1)
    for text, name, message in (
        (b"\xff\n", "n.txt", r"is not UTF-8 \(byte 0\)"),
        (b"a\nb\n", "n.txt", "expected a name for each of the 8 classes; got 2"),
        (b'{"red_thing": ""}', "n.json", "no name is empty"),
        (b'{"red_thing": "red"}', "n.json", "no name for the class 'black_thing'; it has red_thing"),
    ):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(EvalsetError, match=message):
            imported(tmp_path / "set", tmp_path / "sets", classes=str(tmp_path / name))
    assert not (tmp_path / "sets").exists()


@pytest.mark.parametrize("how", ["table", "beside"])
def test_captions_make_a_retrieval_set(how: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    rows = ["image,caption"]
    for name in NAMES:
        (tmp_path / f"set/{name}.png").write_bytes(picture(name))
        if how == "beside":
            (tmp_path / f"set/{name}.txt").write_text(f"a {name} thing\n\n{name}\n")
        rows += [f"{name}.png,a {name} thing", f"{name}.png,{name}"]
    if how == "table":
        (tmp_path / "set/captions.csv").write_text("\n".join(rows))
    report = imported(tmp_path / "set/captions.csv" if how == "table" else tmp_path / "set", tmp_path / "sets")
    assert (report.kind, report.pictures) == ("retrieval", 8)
    members = members_of(next((tmp_path / "sets").glob("wds_*_test/test/0.tar")))
    assert members["s0000000.txt"] == b"black thing".replace(b"black", b"a black") + b"\nblack"
    assert evaluate_model(colour_clip(), tmp_path / "sets", tmp_path / "out", threads=1).tasks[0].score == 1.0


def test_links_that_lead_out_are_passed_over(tmp_path: Path) -> None:
    """Pictures, texts, class folders, tables; a link within the set is followed."""
    outside, folder = class_folders(tmp_path / "outside", 1), class_folders(tmp_path / "set", 1)
    (folder / "linked").symlink_to(outside / "red_thing")
    (folder / "red_thing/out.png").symlink_to(outside / "red_thing/0.png")
    (folder / "red_thing/in.png").symlink_to("../blue_thing/0.png")
    report = imported(folder, tmp_path / "sets")
    assert (report.pictures, report.classes) == (9, 8)
    assert report.passed.counts == {LEADS_OUT: 1, "links to folders, which are not followed: give the folder itself": 1}
    (outside / "red_thing/0.txt").write_text("secret")
    (outside / "t.csv").write_text("path,label\nred_thing/0.png,secret\n")
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in ("a", "b"):
        (texts / f"{name}.png").write_bytes(picture("red"))
    (texts / "a.txt").symlink_to(outside / "red_thing/0.txt")
    (texts / "b.txt").write_text("b")
    (texts / "labels.csv").symlink_to(outside / "t.csv")
    report = imported(texts, tmp_path / "sets")
    assert (report.pictures, report.passed.counts[LEADS_OUT]) == (1, 2)
    (folder / "labels.csv").write_text("path,label\nlinked/0.png,red\nblue_thing/0.png,blue\n")
    report = imported(folder, tmp_path / "sets", overwrite=True)
    assert (report.pictures, report.passed.counts["rows whose picture leads out of the folder"]) == (1, 1)


def test_a_set_that_is_replaced_is_another_one(tmp_path: Path) -> None:
    """The same sizes, other labels: scores of the first are not kept."""
    class_folders(tmp_path / "set", 1)
    prints = []
    for _ in range(2):
        imported(tmp_path / "set", tmp_path / "sets", overwrite=True)
        prints += [set_fingerprint(task, folder) for task, folder in find_tasks(tmp_path / "sets")]
        for old, new in (("red", "x"), ("blue", "red"), ("x", "blue")):
            (tmp_path / f"set/{old}_thing").rename(tmp_path / f"set/{new}_thing")
    assert len(prints) == 2
    assert prints[0] != prints[1]


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class_folders(tmp_path / "set", 1)
    imported(tmp_path / "set", tmp_path / "sets")
    before = {path: path.read_bytes() for path in (tmp_path / "sets").rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="is there already; choose another --name, or --overwrite"):
        imported(tmp_path / "set", tmp_path / "sets")
    (tmp_path / "bad.txt").write_text("a photo\n")
    with pytest.raises(EvalsetError, match=r"line 1 has no \{c\}"):
        imported(tmp_path / "set", tmp_path / "sets", overwrite=True, templates=str(tmp_path / "bad.txt"))
    assert {path: path.read_bytes() for path in (tmp_path / "sets").rglob("*") if path.is_file()} == before
    with pytest.raises(ValueError, match="imagenet1k is that of DataComp's task"):
        imported(tmp_path / "set", tmp_path / "sets", name="imagenet1k")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvalsetError, match=r"nothing for an evaluation set.*Expected class folders with pictures"):
        imported(tmp_path / "empty", tmp_path / "sets")
    words = ["evalsets", "import", str(tmp_path / "set"), "--out", str(tmp_path / "sets")]
    assert cli.main(words) == 1
    assert cli.main([*words, "--name", "../x"]) == 2
    capsys.readouterr()
    assert cli.main([*words, "--overwrite"]) == 0
    assert "none of DataComp's averages" in capsys.readouterr().out
