"""Evaluation sets: which are found and how they are scored, and what is wrong with bad ones, in words."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast.errors import EvalsetError
from dcfast.evaluate import check_evalsets, datacomp_tasks, find_tasks
from dcfast.evaluate.evalset import class_names, open_evalset, set_fingerprint
from dcfast.evaluate.results import AGGREGATES
from dcfast.evaluate.tasks import EvalTask, read_task_table
from dcfast.images.decode import decode_image
from dcfast.world.spec import WorldSpec
from dcfast.world.tasks import task_table
from evalset_builder import NAMES, npy, picture, sample, write_set
from PIL import Image


def _opened(folder: Path, **fields: Any) -> Any:
    return open_evalset(EvalTask("a", "A", folder.name, **fields), folder)


def test_the_table_has_datacomps_forty_tasks() -> None:
    tasks = {task.key: task for task in datacomp_tasks()}
    assert len(tasks) == 40
    assert sorted(key for key, task in tasks.items() if not task.main_metric) == [
        *("fairness/fairface", "fairness/utkface")
    ]
    assert Counter(task.kind for task in tasks.values()) == {
        **{"classification": 30, "retrieval": 2, "association": 1},
        **{"wilds": 3, "fairness": 2, "fairness_multilabel": 2},
    }
    assert all(task.benchmark and task.size > 0 for task in tasks.values())
    metrics = Counter(task.main_metric for task in tasks.values())
    assert metrics == {
        **{"acc1": 27, "mean_per_class_recall": 4, "mean_recall@1": 2, "jaccard_score_10-12": 1, "": 2},
        **{"F1-macro_all": 1, "acc_worst_region": 1, "acc_top5_wg": 1, "acc_wg": 1},
    }
    for keys in AGGREGATES.values():
        assert set(keys) <= set(tasks)
    assert [len(keys) for keys in AGGREGATES.values()] == [1, 6, 13, 3, 0]


def test_the_worlds_table_is_read_by_the_same_reader(tmp_path: Path) -> None:
    spec = WorldSpec.small()
    (tmp_path / "tasks.json").write_text(task_table(spec))
    tasks = read_task_table(tmp_path / "tasks.json")
    assert len(tasks) == 14
    assert not any(task.benchmark for task in tasks)
    portraits = next(task for task in tasks if task.key == "world/portraits")
    assert portraits.objectives == ("race", "gender", "age", "toxic")
    assert (portraits.toxic_nonhuman, portraits.toxic_crime) == ((14, 18), (18, 21))


def test_directories_find_their_tasks(tmp_path: Path) -> None:
    own = {"key": "mine/x", "directory": "wds_mine-x_test", "kind": "classification", "main_metric": "acc5"}
    (tmp_path / "tasks.json").write_text(json.dumps([own, {**own, "key": "gone", "directory": "wds_gone_test"}]))
    for name in ("dollar_street", "vtab-caltech101", "imagenet1k", "mine-x", "other-set", "misc-winogavil"):
        (tmp_path / f"wds_{name}_test").mkdir()
    (tmp_path / "wds_not-a-set").mkdir()
    found = find_tasks(tmp_path)
    assert [task.key for task, _ in found] == [
        *("vtab/caltech101", "imagenet1k", "misc/winogavil", "fairness/dollar_street", "mine/x", "other-set")
    ]
    assert [folder.name for _, folder in found][3:5] == ["wds_dollar_street_test", "wds_mine-x_test"]
    assert found[-1][0] == EvalTask("other-set", "other-set", "wds_other-set_test")


def test_no_directory_and_no_set_are_said(tmp_path: Path) -> None:
    with pytest.raises(EvalsetError, match=r"no such directory; expected one with wds_\*_test"):
        find_tasks(tmp_path / "absent")
    with pytest.raises(EvalsetError, match="nothing to evaluate on"):
        find_tasks(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not json"),
        ("{}", r"tasks\.json: expected a list; got {}"),
        ("[3]", r"tasks\.json: \[0\]: expected an object; got 3"),
        ('[{"key": "a", "directory": "d", "kind": "odd"}]', "task 'a': kind must be one of classification, .*'odd'"),
        ('[{"key": "a", "kind": "wilds"}]', "task 'a': it names no directory"),
        (
            '[{"key": "a", "directory": "d", "kind": "wilds", "size": -1}]',
            r"\[0\]\.size: expected a whole number >= 0; got -1",
        ),
        (
            '[{"key": "a", "directory": "d", "kind": "wilds", "group_names": 3}]',
            r"\[0\]\.group_names: expected a list; got 3",
        ),
        (
            '[{"key": "a", "directory": "d", "kind": "wilds", "toxic_crime": [1]}]',
            r"\[0\]\.toxic_crime: expected a list of length 2",
        ),
        ('[{"key": "a", "directory": "d", "kind": "wilds", "group_field": "r"}]', "'r' is not among its metadata_f"),
        ('[{"key": "a", "directory": 4, "kind": "wilds"}]', r"\[0\]\.directory: expected text; got 4"),
        (
            '[{"key": "a", "directory": "d", "kind": "wilds"}, {"key": "b", "directory": "d", "kind": "wilds"}]',
            "two tasks have the directory 'd'",
        ),
    ],
)
def test_bad_task_tables(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "tasks.json").write_text(content)
    with pytest.raises(EvalsetError, match=words):
        read_task_table(tmp_path / "tasks.json")


def test_two_directories_of_one_task_are_refused(tmp_path: Path) -> None:
    own = {"key": "x", "directory": "wds_y_test", "kind": "classification"}
    (tmp_path / "tasks.json").write_text(json.dumps([own]))
    (tmp_path / "wds_x_test").mkdir()
    (tmp_path / "wds_y_test").mkdir()
    with pytest.raises(EvalsetError, match="wds_x_test: its name makes it the task 'x', which another directory"):
        find_tasks(tmp_path)


def test_a_set_is_read_whole(tmp_path: Path) -> None:
    samples = [sample(f"s{i}", NAMES[i % 8], cls=f"{i % 8}\n") for i in range(13)]
    folder = write_set(tmp_path, "a", samples, NAMES, shard_size=5)
    found = _opened(folder)
    assert found.task.kind == "classification"
    assert found.task.main_metric == "acc1"
    assert found.labels.tolist() == [i % 8 for i in range(13)]
    assert found.classes == list(NAMES)
    assert [found.key(row) for row in range(13)] == [f"s{i}" for i in range(13)]
    shard, offset, size = found.pictures.file, found.pictures.offset, found.pictures.size
    assert shard.tolist() == [0] * 5 + [1] * 5 + [2] * 3
    for row in (0, 7, 12):
        data = Path(found.pictures.files[shard[row]]).read_bytes()[offset[row] :][: size[row]]
        assert data == picture(NAMES[row % 8])
    assert not found.notes
    assert not found.left_out


def test_members_tell_the_kind_where_no_table_does(tmp_path: Path) -> None:
    plain = write_set(tmp_path, "a", [sample("s", "red", txt="a\n\n b \n")])
    found = _opened(plain)
    assert (found.task.kind, found.task.main_metric) == ("retrieval", "mean_recall@1")
    assert found.captions == [["a", "b"]]
    stated = write_set(tmp_path, "b", [sample("s", "red", txt="a", cls=0)], dataset_type="retrieval\n")
    assert _opened(stated).task.kind == "retrieval"
    riddles = json.dumps([{"cue": "red", "candidates": ["s", "t"], "associations": ["s"]}])
    linked = write_set(tmp_path, "c", [sample("s", "red"), sample("t", "blue")], riddles=riddles)
    found = _opened(linked)
    assert (found.task.kind, found.task.main_metric) == ("association", "jaccard_score_10-12")
    assert [(r.cue, r.candidates, r.associations) for r in found.riddles] == [("red", (0, 1), frozenset([0]))]


def test_a_set_without_class_names_is_refused_before_its_shards_are_read(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "a", [sample("s", "red", cls=0)])
    with pytest.raises(EvalsetError, match=r"wds_a_test: it has no classnames\.txt; expected one class name a line"):
        _opened(folder)
    (tmp_path / "wds_cifar10_test" / "test").mkdir(parents=True)
    (tmp_path / "wds_cifar10_test" / "test" / "0.tar").write_bytes(b"not read")
    assert "wds_cifar10_test: it has no classnames.txt" in check_evalsets(tmp_path)["cifar10"]


@pytest.mark.parametrize(
    ("classes", "templates", "words"),
    [
        ("", "{c}\n", r"classnames\.txt is empty"),
        ("\n \n", "{c}\n", r"classnames\.txt is empty"),
        ("a\n", "", r"templates\.txt is empty; expected one prompt a line, with \{c\}"),
        ("a\n", "{c}\nno place\n", r"templates\.txt, line 2 has no \{c\}: 'no place'"),
        (b"\xff\n", "{c}\n", r"classnames\.txt is not UTF-8 \(byte 0\)"),
    ],
)
def test_bad_class_files(tmp_path: Path, classes: str | bytes, templates: str, words: str) -> None:
    folder = write_set(tmp_path, "a", [sample("s", "red", cls=0)], ["a"])
    (folder / "classnames.txt").write_bytes(classes.encode() if isinstance(classes, str) else classes)
    (folder / "zeroshot_classification_templates.txt").write_text(templates)
    with pytest.raises(EvalsetError, match=words):
        _opened(folder)


def test_prompts_are_counted_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_set(tmp_path, "a", [sample("s", "red", cls=0)], ["a"])
    names, templates = folder / "classnames.txt", folder / "zeroshot_classification_templates.txt"
    (folder / "test" / "0.tar").write_bytes(b"not read")

    def files(classes: int, prompts: int, name: str = "a", template: str = "the {c}") -> None:
        names.write_text(f"{name}\n" * classes)
        templates.write_text(f"{template}\n" * prompts)

    files(21_841, 80)  # ImageNet-21k
    assert len(class_names(folder)[0]) == 21_841
    files(50_001, 80)
    for refused in (check_evalsets, lambda _: _opened(folder)):
        with pytest.raises(
            EvalsetError, match=r"wds_a_test: 50,001 class names with 80 templates are 4,000,080 prompts"
        ):
            refused(tmp_path)
    files(1, 1, name="x" * 5_000, template="{c} {c} {c}")
    assert class_names(folder)[1] == ["{c} {c} {c}"]
    files(1, 1, name="x" * 5_000, template="{c} {c} {c} {c}")
    with pytest.raises(EvalsetError, match=r"wds_a_test: a prompt of 20,015 characters; expected at most 16,384"):
        check_evalsets(tmp_path)


def test_missing_templates_and_odd_types_are_said(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "a", [sample("s", "red", cls=0)], ["a"], templates=None)
    with pytest.raises(EvalsetError, match=r"it has no zeroshot_classification_templates\.txt"):
        check_evalsets(tmp_path)
    (folder / "dataset_type.txt").write_text("segmentation")
    with pytest.raises(EvalsetError, match="expected one of classification, retrieval, association; got 'segm"):
        check_evalsets(tmp_path)


def test_blank_class_names_and_labels_beyond_them_are_remarked(tmp_path: Path) -> None:
    """As CLEVR Distance is published: a blank line among the names, and a label for each line."""
    rows = [sample(f"s{i}", NAMES[i % 3], cls=i % 4) for i in range(8)]
    found = _opened(write_set(tmp_path, "a", rows, ["red", "", "green", "blue"], ["{c}", "", "a {c}"]))
    assert (found.classes, found.templates) == (["red", "green", "blue"], ["{c}", "a {c}"])
    assert found.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert found.notes == []  # it is whole all the same
    assert found.remarks == [
        "classnames.txt, line 2 is blank, so those behind it count one less",
        "2 of 8 samples have a label that classnames.txt has no class for (s3 has 3; its 3 classes are 0 to 2): every "
        "answer to them is wrong",
    ]


@pytest.mark.parametrize("label", ["-1", "1000001", "999999999999999999"])
def test_labels_out_of_range(tmp_path: Path, label: str) -> None:
    folder = write_set(tmp_path, "a", [sample("s0", "red", cls=0), sample("s1", "red", cls=label)], ["a", "b"])
    words = (
        rf"wds_a_test: sample s1 has label {label}; expected the number of a class, from 0 \(classnames\.txt names 2"
    )
    with pytest.raises(EvalsetError, match=words):
        _opened(folder)


@pytest.mark.parametrize("label", ["", "one", "1.5", "1 2"])
def test_labels_that_are_no_numbers(tmp_path: Path, label: str) -> None:
    folder = write_set(tmp_path, "a", [sample("s1", "red", cls=label)], ["a", "b"])
    with pytest.raises(EvalsetError, match=f"the cls of sample s1 must be a number; got '{label}'"):
        _opened(folder)


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "a", [], ["a"])
    with pytest.raises(EvalsetError, match=r"nothing in it can be scored as classification \(its tars are empty\)"):
        _opened(folder)
    for tar in folder.glob("test/*.tar"):
        tar.unlink()
    with pytest.raises(EvalsetError, match=r"wds_a_test: it holds no test/\*\.tar; download the set again"):
        check_evalsets(tmp_path)


def test_samples_that_lack_a_member_are_left_out_and_named(tmp_path: Path) -> None:
    rows = [sample("s0", "red", cls=0), sample("s1", "red"), {"s2.cls": b"1"}, sample("s3", "blue", cls=1)]
    found = _opened(write_set(tmp_path, "a", rows, ["red", "blue"]))
    assert found.labels.tolist() == [0, 1]
    assert found.left_out == {"without a picture": ["s2"], "without a label": ["s1"]}
    rows = [sample("s0", "red", txt=" \n"), sample("s1", "red", txt="x"), sample("s2", "red")]
    found = _opened(write_set(tmp_path, "b", rows, dataset_type="retrieval"))
    assert found.left_out == {"without a caption": ["s0", "s2"]}
    with pytest.raises(EvalsetError, match=r"scored as retrieval \(2 without a caption\)"):
        _opened(write_set(tmp_path, "c", [rows[0], rows[2]], dataset_type="retrieval"))


def test_captions_without_an_end_are_left_out_and_named(tmp_path: Path) -> None:
    rows = [
        sample("s0", "red", txt="a dog"),
        sample("s1", "red", txt="a" * 65_537),
        sample("s2", "red", txt="b" * 65_536),
    ]
    found = _opened(write_set(tmp_path, "a", rows, dataset_type="retrieval"))
    assert found.left_out == {"with captions of more than 65,536 bytes": ["s1"]}
    assert found.captions == [["a dog"], ["b" * 65_536]]


def test_metadata_is_checked(tmp_path: Path) -> None:
    fields = {"kind": "wilds", "main_metric": "acc1", "metadata_fields": ("region", "y"), "group_field": "region"}

    def opened(name: str, *values: Any) -> Any:
        rows = [
            sample(f"s{i}", "red", cls=0, **({} if value is None else {"npy": value})) for i, value in enumerate(values)
        ]
        return _opened(write_set(tmp_path, name, rows, ["a"]), **fields)

    found = opened("good", npy([3, 0]), None, npy([1, 0]))
    assert found.column("region").tolist() == [3, 1]
    assert found.left_out == {"without metadata": ["s1"]}
    with pytest.raises(EvalsetError, match=r"npy of sample s0 must hold 2 numbers \(region, y\); got int64 of shape"):
        opened("shape", npy([3]))
    with pytest.raises(EvalsetError, match="npy of sample s0 cannot be read"):
        opened("cut", npy([3, 0])[:-20])
    pickled = np.array([{}, 1], dtype=object)
    buffer = io.BytesIO()
    np.save(buffer, pickled, allow_pickle=True)
    with pytest.raises(EvalsetError, match="npy of sample s1 cannot be read: it holds Python objects"):
        opened("pickle", npy([3, 0]), buffer.getvalue())
    for name, value in (("negative", -1), ("half", 0.5), ("nan", float("nan")), ("huge", 10**9)):
        with pytest.raises(EvalsetError, match="region of sample s1 must be a whole number from 0; got"):
            opened(name, npy([0, 0]), npy([value, 0])).column("region")


@pytest.mark.parametrize(
    ("riddles", "words"),
    [
        ("{", "not json"),
        ("[]", "expected a list of riddles, at least one"),
        ('[{"cue": " ", "candidates": ["s"], "associations": ["s"]}]', "riddle 0: expected a cue"),
        ('[{"cue": "a", "candidates": ["s", "s"], "associations": ["s"]}]', "riddle 0: expected a cue"),
        ('[{"cue": "a", "candidates": ["s"], "associations": []}]', "riddle 0: expected a cue"),
        ('[{"cue": "a", "candidates": ["s"], "associations": ["t"]}]', "riddle 0: expected a cue"),
        ("[4]", r"riddles\.json: \[0\]: expected an object; got 4"),
        ('[{"cue": "a", "candidates": ["s", "u"], "associations": ["s"]}]', "riddle 0: no picture .* the key 'u'"),
    ],
)
def test_bad_riddles(tmp_path: Path, riddles: str, words: str) -> None:
    folder = write_set(tmp_path, "a", [sample("s", "red")], dataset_type="association", riddles=riddles)
    with pytest.raises(EvalsetError, match=words):
        _opened(folder)


def test_riddles_need_a_file_and_different_keys(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "a", [sample("s", "red")], dataset_type="association")
    with pytest.raises(EvalsetError, match=r"it has no riddles\.json; expected a list of cue, cand"):
        check_evalsets(tmp_path)
    riddles = json.dumps([{"cue": "a", "candidates": ["s"], "associations": ["s"]}])
    twice = write_set(tmp_path, "b", [sample("s", "red")] * 2, shard_size=1, riddles=riddles)
    with pytest.raises(EvalsetError, match="two pictures have the key s; riddles need it once"):
        _opened(twice)
    assert not (folder / "riddles.json").exists()


def test_damage_is_noted(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "a", [sample(f"s{i}", "red", cls=0) for i in range(6)], ["red"], shard_size=3)
    tar = folder / "test" / "1.tar"
    tar.write_bytes(tar.read_bytes()[:2200])
    (folder / "test" / "nshards.txt").write_text("3")
    found = _opened(folder)
    assert 3 <= len(found.rows) < 6
    assert found.notes[0].startswith("1.tar is damaged at byte")
    assert found.notes[1] == "nshards.txt says 3 shards, but there are 2"


def test_the_fingerprint_follows_every_file(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "a", [sample("s", "red", cls=0)], ["red"])
    task = EvalTask("a", "A", folder.name)
    seen = {set_fingerprint(task, folder), set_fingerprint(EvalTask("a", "A", folder.name, main_metric="acc5"), folder)}
    (folder / "classnames.txt").write_text("blue\n")
    seen.add(set_fingerprint(task, folder))
    with open(folder / "test" / "0.tar", "ab") as file:
        file.write(b"\0")
    seen.add(set_fingerprint(task, folder))
    (folder / "dataset_type.txt").write_text("classification")
    seen.add(set_fingerprint(task, folder))
    assert len(seen) == 5
    assert set_fingerprint(task, folder) in seen


def test_pictures_are_decoded_as_rgb_or_refused_in_words() -> None:
    assert decode_image(picture("red", "JPEG")).mode == "RGB"
    buffer = io.BytesIO()
    palette = Image.new("P", (3, 2))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(buffer, "PNG", transparency=bytes([0, 128]))
    assert decode_image(buffer.getvalue()).getpixel((0, 0)) == (10, 20, 30)
    for data, words in ((b"", "not a picture"), (b"text", "not a picture"), (picture("red", "JPEG")[:400], ".")):
        with pytest.raises(ValueError, match=words):
            decode_image(data)
