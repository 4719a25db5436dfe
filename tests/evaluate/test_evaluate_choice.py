"""Some of the sets, some of the pictures: results are kept set by set, and a part is never taken for the whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast.engine import open_engine
from dcfast.engine.progress import Silent
from dcfast.errors import EvalsetError
from dcfast.evaluate import EvalTask, check_evalsets, evaluate_model, results_dir
from dcfast.evaluate.evalset import open_evalset
from dcfast.evaluate.scores import read_scores
from dcfast.evaluate.tasks import chosen_tasks
from dcfast.process.advance import Advance, advance_heard
from dcfast.rundir.settings import Settings
from dcfast.stages.evaluate import steps
from dcfast.stages.runner import run_stage
from evalset_builder import NAMES, colour_clip, labelled, npy, sample, write_set
from test_evaluate_results import _three_sets, _trained


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "eval_results.jsonl").read_text().splitlines()]


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    _three_sets(tmp_path / "sets")
    return tmp_path / "sets"


@pytest.fixture
def whole(sets: Path, tmp_path: Path) -> bytes:
    """The results of all sets at once."""
    evaluate_model(colour_clip(), sets, tmp_path / "whole")
    return (tmp_path / "whole/eval_results.jsonl").read_bytes()


def test_an_evaluation_that_was_killed_goes_on_with_the_sets_that_are_missing(
    sets: Path, tmp_path: Path, whole: bytes
) -> None:
    def stop(line: str) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            evaluate_model(colour_clip(), sets, tmp_path / "out", say=stop)
        assert not (tmp_path / "out/eval_results.jsonl").exists()
    clip = colour_clip()
    assert evaluate_model(clip, sets, tmp_path / "out").scored == ["zzz"]
    assert clip.model.pictures == 8  # type: ignore[union-attr]
    assert (tmp_path / "out/eval_results.jsonl").read_bytes() == whole


def test_what_is_published_is_of_the_sets_that_are_named_and_others_are_kept(
    sets: Path, tmp_path: Path, whole: bytes
) -> None:
    out = tmp_path / "out"
    first = evaluate_model(colour_clip(), sets, out, sets=["mine"])
    assert (first.scored, first.left_out) == (["own/mine"], ["cifar10", "zzz"])
    assert [line["key"] for line in lines(out)] == ["own/mine"]
    second = evaluate_model(colour_clip(), sets, out, sets=["wds_zzz_test"])
    assert (second.scored, second.left_out) == (["zzz"], ["cifar10", "own/mine"])
    assert [line["key"] for line in lines(out)] == [result.key for result in second.tasks] == ["zzz"]
    kept = results_dir(out, "c0" * 32) / "eval_results.jsonl"
    assert [json.loads(line)["key"] for line in kept.read_text().splitlines()] == ["own/mine", "zzz"]
    assert (second.own_average, list(read_scores(out).tasks)) == (None, ["zzz"])
    last = evaluate_model(colour_clip(), sets, out)
    assert (last.scored, last.left_out) == (["cifar10"], None)
    assert (out / "eval_results.jsonl").read_bytes() == whole
    summary = json.loads((out / "evaluate/summary.json").read_text())
    assert summary.keys() & {"limit", "left_out", "scored"} == set()
    # after all of them, some: nothing is scored, and the rest is kept
    some = evaluate_model(colour_clip(), sets, out, sets=["zzz"])
    assert (some.scored, [line["key"] for line in lines(out)]) == ([], ["zzz"])
    assert json.loads((out / "evaluate/summary.json").read_text())["left_out"] == ["cifar10", "own/mine"]
    assert kept.read_bytes() == whole
    # of a set that is not asked for and has changed, what was scored does not hold
    (sets / "wds_cifar10_test/zeroshot_classification_templates.txt").write_text("one {c}\n")
    evaluate_model(colour_clip(), sets, out, sets=["zzz"])
    assert [json.loads(line)["key"] for line in kept.read_text().splitlines()] == ["own/mine", "zzz"]
    # that others were scored before does not hide that nothing of what is asked for can be
    write_set(sets, "broken", [{"s0.cls": b"0", "s0.jpg": b"no picture"}], ["red"])
    with pytest.raises(EvalsetError, match="none of its 1 pictures can be decoded"):
        evaluate_model(colour_clip(), sets, out, sets=["broken"])


def test_a_name_of_no_set_is_said_with_the_nearest(sets: Path, tmp_path: Path) -> None:
    for refused in (
        lambda: check_evalsets(sets, ["cifar01"]),
        lambda: evaluate_model(colour_clip(), sets, tmp_path / "out", sets=["zzz", "cifar01"]),
    ):
        with pytest.raises(
            EvalsetError, match=r"--sets: .*sets has no evaluation set 'cifar01'; did you mean 'cifar10'"
        ):
            refused()
    with pytest.raises(EvalsetError, match="has no evaluation set '日本'; there are cifar10, own/mine, zzz"):
        check_evalsets(sets, ["日本"])
    with pytest.raises(ValueError, match="limit must be at least 1 picture"):
        evaluate_model(colour_clip(), sets, tmp_path / "out", limit=0)
    assert not (tmp_path / "out").exists()


def test_a_part_is_said_to_be_one_and_never_taken_for_the_whole(sets: Path, tmp_path: Path, whole: bytes) -> None:
    out = tmp_path / "out"
    clip = colour_clip()
    summary = evaluate_model(clip, sets, out, limit=5)
    assert clip.model.pictures == 15  # type: ignore[union-attr]
    assert (summary.limit, summary.partial, summary.own_average) == (5, ["cifar10"], 4 / 5)
    assert set(summary.averages.values()) == {None}
    assert summary.notes[0] == "at most 5 pictures of each set were scored (--limit): no scores of DataComp's"
    assert not any("not comparable" in note for note in summary.notes)
    of = {line["key"]: line for line in lines(out)}
    assert [(line["dataset"], line["pictures"], line["complete"]) for line in of.values()] == [
        *(("CIFAR-10 (limit 5)", 5, False), ("Mine", 5, True), ("zzz (limit 5)", 5, False))
    ]
    assert "limit" not in of["own/mine"], "it has no more than five: its result is whole"
    assert of["cifar10"]["limit"] == 5
    assert read_scores(out).limit == 5
    # the whole sets are scored after it, and lie beside; and the part after the whole
    assert evaluate_model(colour_clip(), sets, out).scored == ["cifar10", "own/mine", "zzz"]
    assert (out / "eval_results.jsonl").read_bytes() == whole
    assert read_scores(out).limit is None
    again = evaluate_model(colour_clip(), sets, out, limit=5)
    assert (again.scored, [line["key"] for line in lines(out)]) == ([], list(of))
    assert evaluate_model(colour_clip(), sets, out, limit=4).scored == ["cifar10", "own/mine", "zzz"]
    # whatever stands in the place of whole results: a part there is scored again
    place = results_dir(out, "c0" * 32) / "eval_results.jsonl"
    place.write_bytes((results_dir(out, "c0" * 32, 5) / "eval_results.jsonl").read_bytes())
    assert evaluate_model(colour_clip(), sets, out).scored == ["cifar10", "zzz"]
    assert place.read_bytes() == whole


@pytest.mark.parametrize("most", [1, 5, 7, 12, 13, 14])
def test_what_belongs_to_a_picture_stays_with_it(tmp_path: Path, most: int) -> None:
    rows = [sample(f"s{i:02d}", NAMES[i % 8], cls=i % 8, npy=npy([i, 0])) for i in range(13)]
    task = EvalTask("a", "A", "wds_a_test", kind="fairness", metadata_fields=("number", "other"), group_field="number")
    evalset = open_evalset(task, write_set(tmp_path, "a", rows, NAMES))
    assert evalset.limit_to(most) is (most < 13)
    assert len(evalset.rows) == len(evalset.labels) == min(most, 13)
    numbers = [int(evalset.key(row)[1:]) for row in range(len(evalset.rows))]
    assert evalset.labels.tolist() == [number % 8 for number in numbers]
    assert evalset.column("number").tolist() == numbers
    assert numbers == sorted(set(numbers))
    if 1 < most < 13:
        assert np.diff(numbers).max() - np.diff(numbers).min() <= 1, "spread over the set"


def test_riddles_keep_their_pictures(tmp_path: Path) -> None:
    keys = [f"{name}{i}" for name in NAMES for i in range(2)]
    riddles = [
        {"cue": name, "candidates": [f"{name}0", f"{name}1", *(k for k in keys if name not in k)][:10],
         "associations": [f"{name}0", f"{name}1"]}
        for name in NAMES
    ]  # fmt: skip
    folder = write_set(tmp_path, "a", [sample(key, key[:-1]) for key in keys], riddles=json.dumps(riddles))
    evalset = open_evalset(EvalTask("a", "A", folder.name), folder)
    assert evalset.limit_to(3)
    assert [riddle.cue for riddle in evalset.riddles] == [NAMES[i * 8 // 3] for i in range(3)]
    for riddle, number in zip(evalset.riddles, (0, 2, 5), strict=True):
        assert [evalset.key(row) for row in riddle.candidates] == riddles[number]["candidates"]
        assert {evalset.key(row) for row in riddle.associations} == set(riddles[number]["associations"])
    summary = evaluate_model(colour_clip(), tmp_path, tmp_path / "out", limit=3)
    assert summary.tasks[0].metrics["main_metric"] == 1.0
    assert summary.tasks[0].dataset == "a (limit 3)"
    captions = [sample(f"s{i}", name, txt=name) for i, name in enumerate(NAMES)]
    retrieval = open_evalset(EvalTask("b", "B", "wds_b_test"), write_set(tmp_path, "b", captions))
    assert retrieval.limit_to(3)
    assert retrieval.captions == [[NAMES[i * 8 // 3]] for i in range(3)]


def test_it_tells_how_far_it_is(sets: Path, tmp_path: Path) -> None:
    told: list[Advance] = []
    with advance_heard(told.append):
        evaluate_model(colour_clip(), sets, tmp_path / "out", batch_size=4)
    assert [one.done for one in told if one.unit == "sets"] == [0, 1, 2]
    both = [one for one in told if one.unit == "embeddings"]
    prompts = [open_evalset(task, folder).text_count() for task, folder in chosen_tasks(sets, None)]
    assert prompts[0] % len(NAMES) == 0
    assert prompts[2] == len(NAMES), "a caption each"
    assert {one.total for one in both} == {9 + 5 + 8 + sum(prompts)}
    assert [one.done for one in both] == sorted(one.done for one in both)
    assert both[-1].done == both[-1].total
    details = [one.detail for one in both]
    assert (both[0].done, details[0]) == (0, "CIFAR-10, set 1 of 3"), "before the first batch"
    assert details[1].startswith("CIFAR-10, set 1 of 3, text ")
    assert both[1].done == prompts[0]
    assert "Mine, set 2 of 3" in details
    assert len(details) > 6


def test_a_limit_leaves_all_prompts_and_the_progress_counts_them(sets: Path, tmp_path: Path) -> None:
    prompts = open_evalset(*chosen_tasks(sets, ["cifar10"])[0]).text_count()
    told: list[Advance] = []
    with advance_heard(told.append):
        evaluate_model(colour_clip(), sets, tmp_path / "out", sets=["cifar10"], limit=2)
    assert [one.done for one in told if one.unit == "embeddings"] == [0, prompts, prompts + 2]


def test_the_stage_takes_both_from_the_settings(sets: Path, tmp_path: Path) -> None:
    run = _trained(tmp_path / "out", sets)
    with open_engine("local", 1, None) as engine:
        whole = run_stage(run, engine, "evaluate", steps, Silent)
        assert whole.limit is None
        run.settings = Settings(evalsets=str(sets), device="cpu", sets=["cifar10"], limit=4)
        part = run_stage(run, engine, "evaluate", steps, Silent)
        assert (part.limit, list(part.scores), part.partial) == (4, ["cifar10"], ["cifar10"])
        assert [line["dataset"] for line in lines(run.out)] == ["CIFAR-10 (limit 4)"]
        run.settings = Settings(evalsets=str(sets), device="cpu", sets=["zzz"])
        assert list(run_stage(run, engine, "evaluate", steps, Silent).scores) == ["zzz"], "whatever was scored before"
        assert list(read_scores(run.out).tasks) == ["zzz"]
        run.settings = Settings(evalsets=str(sets), device="cpu")
        assert run_stage(run, engine, "evaluate", steps, Silent) == whole


def test_the_command_line(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dcfast.evaluate.__main__ import main

    words = ["--model", "dcfast-tiny", "--evalsets", str(sets), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--sets", "zzz, cifar10", "--limit", "4"]) == 0
    said = capsys.readouterr()
    assert "CIFAR-10 (limit 4)  " in said.out
    assert "no averages: at most 4 pictures of each set were scored (--limit)" in said.out
    assert "not asked for (--sets), part of nothing here: own/mine" in said.out
    assert re.search(r"  evaluate: \d+ embeddings, ", said.err)
    assert main([*words, "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit):
        main([*words, "--sets", ","])
    assert "expected names with commas between" in capsys.readouterr().err


def test_damage_of_a_set_that_is_not_asked_for_is_nobodys_matter(sets: Path, tmp_path: Path) -> None:
    write_set(sets, "bad", labelled(3), NAMES, templates=None)
    assert check_evalsets(sets, ["zzz"]) == {}
    summary = evaluate_model(colour_clip(), sets, tmp_path / "out", sets=["zzz"])
    assert (summary.failed, summary.left_out) == ({}, ["cifar10", "own/mine", "bad"])
