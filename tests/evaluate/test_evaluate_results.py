"""Results of a model on disk: DataComp's form, resuming, averages, the stage, the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dcfast.errors import EvalsetError, PoolError, RunError
from dcfast.evaluate import EvalTask, check_evalsets, datacomp_tasks, evaluate_model, results_dir
from dcfast.evaluate.results import Result, ResultFile, aggregate, load_results, mean, read_results
from dcfast.evaluate.scores import read_scores
from dcfast.storage.records import plain, replaced
from evalset_builder import NAMES, colour_clip, labelled, sample, write_set


def _three_sets(home: Path) -> None:
    write_set(home, "cifar10", labelled(9), NAMES)
    write_set(home, "mine", labelled(5, wrong=1), NAMES)
    write_set(home, "zzz", [sample(f"s{i}", name, txt=name) for i, name in enumerate(NAMES)])
    own = {"key": "own/mine", "name": "Mine", "directory": "wds_mine_test", "kind": "classification"}
    (home / "tasks.json").write_text(json.dumps([{**own, "main_metric": "acc1", "size": 5}]))


def test_results_are_written_in_datacomps_form(tmp_path: Path) -> None:
    _three_sets(tmp_path / "sets")
    summary = evaluate_model(colour_clip(), tmp_path / "sets", tmp_path / "out")
    path = results_dir(tmp_path / "out", "c0" * 32) / "eval_results.jsonl"
    assert path.parent.name == "c0" * 8
    assert summary.results == str(path.relative_to(tmp_path / "out"))
    assert (tmp_path / "out" / "eval_results.jsonl").read_bytes() == path.read_bytes()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [plain(result) for result in summary.tasks]
    assert [(line["key"], line["dataset"]) for line in lines] == [
        *(("cifar10", "CIFAR-10"), ("own/mine", "Mine"), ("zzz", "zzz"))
    ]
    assert [line["metrics"]["main_metric"] for line in lines] == [1.0, 4 / 5, 1.0]
    assert {line["checkpoint"] for line in lines} == {"c0" * 32}
    assert json.loads((tmp_path / "out/evaluate/summary.json").read_text()) == {
        name: value for name, value in plain(summary).items() if name != "scored"
    }
    assert summary.own_average == 4 / 5
    assert (summary.unlisted, summary.partial) == (["zzz"], ["cifar10"])
    assert len(summary.missing) == 39
    assert set(summary.averages.values()) == {None}
    assert summary.notes == [
        "evaluation set cifar10: it holds 9 pictures, the benchmark's has 10,000: its score is not comparable"
    ]


def test_what_is_done_is_skipped_and_what_changed_is_redone(tmp_path: Path) -> None:
    sets, out = tmp_path / "sets", tmp_path / "out"
    _three_sets(sets)
    said: list[str] = []
    first = evaluate_model(colour_clip(), sets, out, say=said.append)
    assert first.scored == ["cifar10", "own/mine", "zzz"]
    assert said[1].startswith("Mine: acc1 0.8000 (chance 0.1250), 5 pictures")
    before = (out / "eval_results.jsonl").read_bytes()
    clip = colour_clip()
    assert evaluate_model(clip, sets, out).scored == []
    assert (clip.model.pictures, clip.model.texts) == (0, 0)  # type: ignore[union-attr]
    shutil.rmtree(sets / "wds_zzz_test")
    write_set(sets, "zzz", [sample(f"s{i}", name, txt=name) for i, name in enumerate(NAMES[:4])])
    assert evaluate_model(clip, sets, out).scored == ["zzz"]
    assert clip.model.pictures == 4  # type: ignore[union-attr]
    # a killed run leaves whole lines of what it had scored
    path = results_dir(out, "c0" * 32) / "eval_results.jsonl"
    path.write_text(path.read_text().splitlines()[0] + '\n{"key": "own/mine", "chec')
    assert evaluate_model(colour_clip(), sets, out, batch_size=2, threads=1).scored == ["own/mine", "zzz"]
    assert (out / "eval_results.jsonl").read_bytes().splitlines()[:2] == before.splitlines()[:2]
    shutil.rmtree(sets / "wds_zzz_test")
    summary = evaluate_model(colour_clip(), sets, out)
    assert (summary.scored, [line.key for line in summary.tasks]) == ([], ["cifar10", "own/mine"])


def test_checkpoints_never_mix(tmp_path: Path) -> None:
    sets, out = tmp_path / "sets", tmp_path / "out"
    _three_sets(sets)
    evaluate_model(colour_clip(), sets, out)
    blind = colour_clip(0.0, content_hash="ab" * 32)
    summary = evaluate_model(blind, sets, out)
    assert summary.scored == ["cifar10", "own/mine", "zzz"]
    lines = [json.loads(line) for line in (out / "eval_results.jsonl").read_text().splitlines()]
    assert {line["checkpoint"] for line in lines} == {"ab" * 32}
    names = sorted(p.name for p in (out / "evaluate").iterdir() if p.name != ".lock")
    assert names == ["ab" * 8, "c0" * 8, "summary.json"]
    # a results file of another checkpoint, put where this one's belongs, counts as absent
    theirs = results_dir(out, "c0" * 32) / "eval_results.jsonl"
    assert read_results(theirs, "ab" * 32) == {}
    assert len(read_results(theirs, "c0" * 32)) == 3


def test_one_bad_set_stops_no_other(tmp_path: Path) -> None:
    sets, out = tmp_path / "sets", tmp_path / "out"
    write_set(sets, "a", labelled(4), NAMES)
    write_set(sets, "cifar10", labelled(4), NAMES)
    bad = write_set(sets, "b", [sample("s0", "red", cls="one")], NAMES)  # found when it is opened
    broken = {"s0.cls": b"0", "s0.jpg": b"no picture"}
    write_set(sets, "imagenet1k", [broken], ["red"])  # found when it is scored
    write_set(sets, "c", labelled(2), NAMES, templates=None)  # found before
    said: list[str] = []
    summary = evaluate_model(colour_clip(), sets, out, say=said.append)
    assert summary.scored == ["cifar10", "a"]
    assert list(summary.failed) == ["imagenet1k", "b", "c"]
    assert summary.failed["b"] == "wds_b_test: the cls of sample s0 must be a number; got 'one'"
    assert "none of its 1 pictures can be decoded" in summary.failed["imagenet1k"]
    assert "it has no zeroshot_classification_templates.txt" in summary.failed["c"]
    assert sum("could not be scored" in line for line in said) == 3
    assert f"evaluation set b: could not be scored: {summary.failed['b']}" in summary.notes
    assert "imagenet1k" not in summary.missing
    assert set(summary.averages.values()) == {None}
    found = load_results(out / "eval_results.jsonl")
    assert [result.key for result in found.results if result.error is None] == ["cifar10", "a"]
    assert {result.key: result.error for result in found.results if result.error} == summary.failed
    scores = read_scores(out)
    assert (scores.mean, scores.tasks, list(scores.failed)) == (
        None,
        {"cifar10": 1.0, "a": 1.0},
        list(summary.failed),
    )
    # a set that was bad is tried again, and what was scored is not
    shutil.rmtree(bad)
    write_set(sets, "b", labelled(4), NAMES)
    again = evaluate_model(colour_clip(), sets, out)
    assert (again.scored, list(again.failed)) == (["b"], ["imagenet1k", "c"])
    assert list(check_evalsets(sets)) == ["c"]


def test_where_no_set_can_be_scored_nothing_is(tmp_path: Path) -> None:
    write_set(tmp_path, "b", [sample("s0", "red", cls="x")], NAMES)
    with pytest.raises(EvalsetError, match="wds_b_test: the cls of sample s0 must be a number; got 'x'"):
        evaluate_model(colour_clip(), tmp_path, tmp_path / "out")
    write_set(tmp_path, "c", [sample("s0", "red", cls=0)], NAMES, templates=None)
    with pytest.raises(EvalsetError, match=r"none of the 2 evaluation sets in .* can be scored: .*wds_b_test"):
        evaluate_model(colour_clip(), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "eval_results.jsonl").exists()
    for name, value, least in (("batch_size", 0, "at least 1"), ("threads", -1, "None or a whole number from 1")):
        with pytest.raises(ValueError, match=f"{name} must be {least}"):
            evaluate_model(colour_clip(), tmp_path, tmp_path / "out", **{name: value})  # type: ignore[arg-type]


def test_damage_is_a_note_or_with_strict_an_error(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "a", labelled(4), NAMES)
    (folder / "test" / "nshards.txt").write_text("2")
    with pytest.raises(EvalsetError, match=r"evaluation set a: nshards\.txt says 2 shards, but there are 1 \(--st"):
        evaluate_model(colour_clip(), tmp_path, tmp_path / "out", strict=True)
    summary = evaluate_model(colour_clip(), tmp_path, tmp_path / "out")
    assert summary.notes == ["evaluation set a: nshards.txt says 2 shards, but there are 1"]


def _result(task: EvalTask, value: float | None) -> Result:
    return Result.of({"key": task.key, "metrics": {"main_metric": value}, "benchmark": task.benchmark})


def test_the_average_over_38_needs_all_38() -> None:
    tasks = datacomp_tasks()
    values = {task.key: (i / 100 if task.main_metric else None) for i, task in enumerate(tasks)}
    results = [_result(task, values[task.key]) for task in tasks]
    found = aggregate(results)
    scores = [value for value in values.values() if value is not None]
    assert len(scores) == 38
    assert found.averages["Average"] == pytest.approx(sum(scores) / 38)
    assert found.averages["ImageNet"] == values["imagenet1k"]
    assert found.averages["VTAB"] == pytest.approx(
        np.mean([v for k, v in values.items() if k.startswith("vtab/") or k == "sun397"])
    )
    assert found.averages["Retrieval"] == pytest.approx(
        np.mean([v for k, v in values.items() if k.startswith("retrieval/") or k == "misc/winogavil"])
    )
    assert (found.missing, found.partial, found.own_average) == ([], [], None)
    without = aggregate([result for result in results if result.key != "stl10"])
    assert without.averages["Average"] is None
    assert without.averages["VTAB"] == found.averages["VTAB"]
    assert without.missing == ["stl10"]
    part = aggregate([replaced(result, complete=result.key != "imagenet1k") for result in results])
    assert (part.averages["Average"], part.averages["ImageNet"], part.partial) == (None, None, ["imagenet1k"])
    # a set that merely has the name of a task is no part of the benchmark
    foreign = aggregate([replaced(result, benchmark=result.key != "stl10") for result in results])
    assert (foreign.averages["Average"], foreign.unlisted) == (None, ["stl10"])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dcfast.evaluate.__main__ import main

    write_set(tmp_path / "sets", "cifar10", labelled(9), NAMES)
    common = ["--evalsets", str(tmp_path / "sets"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["--model", "dcfast-tiny", *common]) == 0
    said = capsys.readouterr()
    assert "CIFAR-10" in said.out
    assert "no average over the 38: 39 of DataComp's 40 are missing: vtab/caltech101," in said.out
    assert "note: evaluation set cifar10: it holds 9 pictures" in said.out
    assert said.err.startswith("CIFAR-10: acc1 ")
    assert main(["--model", "dcfast-tinny", *common]) == 2
    assert "did you mean 'dcfast-tiny'" in capsys.readouterr().err
    write_set(tmp_path / "sets", "mnist", labelled(3), NAMES, templates=None)
    assert main(["--model", "dcfast-tiny", *common]) == 1
    said = capsys.readouterr()
    assert "39 of DataComp's 40" not in said.out
    assert "38 of DataComp's 40 are missing: vtab/caltech101," in said.out
    assert "1 of DataComp's 40 could not be scored: mnist" in said.out
    assert "error: evaluation set mnist could not be scored: wds_mnist_test: it has no zeroshot" in said.err
    (tmp_path / "sets/wds_cifar10_test/classnames.txt").unlink()
    assert main(["--model", "dcfast-tiny", *common]) == 1
    assert "can be scored: " in capsys.readouterr().err


def test_importing_the_package_needs_no_torch() -> None:
    code = "import sys, dcfast.evaluate as e; e.datacomp_tasks(); print('torch' in sys.modules, 'PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def _trained(out: Path, sets: Path) -> Any:
    """A run whose training is done: a checkpoint, and the summaries that the stage reads."""
    from dcfast.models.clip import create_model
    from dcfast.rundir.run_dir import Run
    from dcfast.rundir.settings import Settings
    from dcfast.storage.atomic import write_json
    from dcfast.storage.hashing import sha256_file

    checkpoint = out / "train/checkpoints/epoch_1.pt"
    checkpoint.parent.mkdir(parents=True)
    torch.save({"state_dict": create_model("dcfast-tiny", seed=3).state_dict()}, checkpoint)
    about = {
        "model": "dcfast-tiny",
        "checkpoint": "train/checkpoints/epoch_1.pt",
        "checkpoint_sha256": sha256_file(checkpoint),
    }
    write_json(out / "train/summary.json", about)
    write_json(out / "state/train.json", about)
    return Run(out, Settings(evalsets=str(sets), device="cpu"))


def test_the_stage_scores_the_last_checkpoint_once(tmp_path: Path) -> None:
    from dcfast.engine import open_engine
    from dcfast.engine.progress import Silent
    from dcfast.stages.evaluate import steps
    from dcfast.stages.runner import run_stage

    sets, out = tmp_path / "sets", tmp_path / "out"
    write_set(sets, "cifar10", labelled(9), NAMES)
    run = _trained(out, sets)
    with open_engine("local", 1, None) as engine:
        summary = run_stage(run, engine, "evaluate", steps, Silent)
        assert summary.available
        assert list(summary.scores) == ["cifar10"]
        assert summary.checkpoint == json.loads((out / "train/summary.json").read_text())["checkpoint_sha256"]
        written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
        assert run_stage(run, engine, "evaluate", steps, Silent) == summary
        assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == written
        trained = json.loads((out / "train/summary.json").read_text())
        unsaid = {name: value for name, value in trained.items() if name != "checkpoint_sha256"}
        (out / "train/summary.json").write_text(json.dumps(unsaid))  # of an older release: nothing to hold it against
        assert run_stage(run, engine, "evaluate", steps, Silent) == summary
        (out / "train/summary.json").write_text(json.dumps(trained))
        checkpoint = out / "train/checkpoints/epoch_1.pt"
        torch.save({**torch.load(checkpoint, weights_only=True), "more": 1}, checkpoint)
        with pytest.raises(RunError, match="is not the file that the training wrote"):
            run_stage(run, engine, "evaluate", steps, Silent)


def test_the_stage_names_a_bad_set_and_scores_it_once_it_is_mended(tmp_path: Path) -> None:
    from dcfast.engine import open_engine
    from dcfast.engine.progress import Silent
    from dcfast.stages.evaluate import steps
    from dcfast.stages.runner import run_stage

    sets, out = tmp_path / "sets", tmp_path / "out"
    write_set(sets, "cifar10", labelled(9), NAMES)
    bad = write_set(sets, "mnist", labelled(9), NAMES)
    (bad / "test/0.tar").rename(tmp_path / "0.tar")  # its files cannot even be listed
    run = _trained(out, sets)
    with open_engine("local", 1, None) as engine:
        summary = run_stage(run, engine, "evaluate", steps, Silent)
        assert (list(summary.scores), list(summary.failed)) == (["cifar10"], ["mnist"])
        assert "wds_mnist_test: it holds no test/*.tar" in summary.failed["mnist"]
        assert run_stage(run, engine, "evaluate", steps, Silent).failed == summary.failed
        (tmp_path / "0.tar").rename(bad / "test/0.tar")
        mended = run_stage(run, engine, "evaluate", steps, Silent)
        assert (list(mended.scores), mended.failed) == (["cifar10", "mnist"], {})


def test_the_stage_without_sets_or_training(tmp_path: Path) -> None:
    from dcfast.engine import LocalEngine
    from dcfast.engine.progress import Silent
    from dcfast.rundir.run_dir import Run
    from dcfast.rundir.settings import Settings
    from dcfast.rundir.summaries import EvaluateSummary
    from dcfast.stages.evaluate import steps
    from dcfast.stages.runner import Do

    run = Run(tmp_path, Settings(pool="p"))
    assert steps(run, Do(run, LocalEngine(1), Silent)) == EvaluateSummary()
    write_set(tmp_path / "sets", "cifar10", labelled(9), NAMES)
    run = Run(tmp_path, Settings(pool="p", evalsets=str(tmp_path / "sets")))
    with pytest.raises(RunError, match="stage train has not been run yet"):
        steps(run, Do(run, LocalEngine(1), Silent))


def test_one_reader_for_whole_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "eval_results.jsonl"
    assert load_results(path) == ResultFile([], [])
    full = {
        **{"key": "a", "dataset": "A\u2028b", "metrics": {"main_metric": 0.5, "acc5": 1}, "main_metric_name": "acc1"},
        **{"chance": 0.1, "kind": "classification", "benchmark": True, "complete": False, "pictures": 7},
        **{"unreadable": 0, "notes": ["x"], "state": "s", "model": "m", "checkpoint": "c"},
    }
    odd: list[dict[str, Any]] = [
        {"key": 1, "metrics": {}},
        {"key": "nan", "metrics": {"main_metric": float("nan")}, "chance": float("inf"), "checkpoint": 5},
        {"key": "yes", "metrics": {"main_metric": True}, "notes": "none", "pictures": "7"},
    ]
    bad = [b"", b'{"key": "cut', b"[1]", b"3", b'{"key": "x", "metrics": 3}', b'{"metrics": {}}', b'{"key": "\xff"}']
    good = [json.dumps(line, ensure_ascii=False).encode() for line in (full, *odd)]
    path.write_bytes(b"\n".join([good[0], *bad, *good[1:], b"[" * 100_000]))
    found = load_results(path)
    assert found.damaged == [2, 3, 4, 5, 6, 7, 8, 12]
    assert [result.key for result in found.results] == ["a", "1", "nan", "yes"]
    first = found.results[0]
    assert plain(first) == full
    assert (first.score, first.chance, first.dataset, first.main_metric_name) == (0.5, 0.1, "A\u2028b", "acc1")
    assert (first.benchmark, first.complete, first.pictures, first.notes) == (True, False, 7, ["x"])
    assert [result.score for result in found.results[1:]] == [None] * 3
    assert [result.checkpoint for result in found.results] == ["c", None, "5", None]
    assert (found.results[3].notes, found.results[3].pictures, found.results[3].complete) == ([], None, True)
    assert read_results(path, "c") == {"a": first}
    with pytest.raises(PoolError, match=r"eval_results\.jsonl, line 2: not a result"):
        read_scores(tmp_path)
    path.write_bytes(b"\n".join(good))
    scores = read_scores(tmp_path)
    assert (scores.tasks, scores.chance, scores.unscored) == ({"a": 0.5}, {"a": 0.1}, ("1", "nan", "yes"))
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        load_results(path)


def test_the_mean_is_that_of_the_scores() -> None:
    assert mean([]) is None
    assert mean([0.1] * 10) == 0.1


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"complete": 0}, "complete", False),
        ({"complete": None}, "complete", False),
        ({}, "complete", True),
        ({"benchmark": 1}, "benchmark", True),
        ({"state": 5}, "state", "5"),
        ({"pictures": "many"}, "pictures", None),
    ],
)
def test_a_foreign_line_is_read_as_far_as_it_goes(given: dict[str, object], field: str, value: object) -> None:
    line = {"key": "a", "metrics": {"main_metric": 0.5}, **given}
    assert getattr(Result.of(line), field) == value
