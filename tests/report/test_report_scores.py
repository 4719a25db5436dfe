"""Scores in the report: beside the comparison's, never of another checkpoint, no average over a part; curves; plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dcfast.evaluate.scores import Leaked, read_leaked
from dcfast.evaluate.tasks import datacomp_tasks
from dcfast.report.facts.collect import collect
from dcfast.report.facts.outcome import OwnAverage, compare_scores
from dcfast.report.facts.training import CURVE_POINTS
from dcfast.report.page.charts import bars, curves, ticks
from dcfast.report.page.images import EvalsetPreviews, PoolPreviews
from dcfast.report.page.page import environment, look_up, render
from dcfast.report.text import decimal, points, rounded, share
from dcfast.rundir.summaries import EvaluateSummary, FilterSummary
from report_builder import copies, paired, result, run_of, trained, write_summary
from strict_page import Page

MINE: dict[str, float | None] = {"shapes": 0.6, "colours": 0.5, "faces": None}
OTHER: dict[str, float | None] = {"shapes": 0.4, "colours": 0.45, "faces": None}


def reported(out: Path) -> tuple[dict[str, Any], Page]:
    report = collect(run_of(out))
    page = Page(render(report, look_up(report, PoolPreviews(out, out), EvalsetPreviews(out, []))))
    return json.loads(json.dumps(report.as_json(), allow_nan=False)), page


def test_scores_stand_beside_the_comparison(tmp_path: Path) -> None:
    report, page = reported(paired(tmp_path, MINE, OTHER))
    scores = report["scores"]
    assert scores["common"] == {
        "sets": 2,
        "score": pytest.approx(0.55),
        "comparison": pytest.approx(0.425),
        "chance": pytest.approx(0.1),
        "difference": pytest.approx(0.125),
        "better": 2,
        "worse": 0,
    }
    by_key = {row["key"]: row for row in scores["sets"]}
    assert by_key["shapes"]["difference"] == pytest.approx(0.2)
    assert by_key["faces"]["score"] is by_key["faces"]["difference"] is None
    assert scores["above_chance"] == 2
    headline = "Same compute, better subset, better model"
    assert report["verdict"] == {"kind": "better", "headline": headline, "by": "common"}
    for words in (
        "Same compute, better subset, better model",
        "+12.5 points",
        "55.0%",
        "42.5%",
        "+20.0",
        "1,000 samples",
    ):
        assert words in page.text
    assert len([v for v in page.all("svg") if v.get("class") == "row"]) == 3  # two sets and the axis
    assert len(page.all("polyline")) == 4


@pytest.mark.parametrize(
    ("mine", "other", "changes", "kind"),
    [
        ({"a": 0.4, "b": 0.4}, {"a": 0.5, "b": 0.5}, {}, "worse"),
        ({"a": 0.500, "b": 0.502}, {"a": 0.5, "b": 0.5}, {}, "even"),
        ({"a": 0.9, "b": 0.4, "c": 0.4}, {"a": 0.5, "b": 0.5, "c": 0.5}, {}, "even"),
        ({"a": 0.9}, {"a": 0.5}, {"samples_seen": 999}, "unfair"),
        ({"a": 0.9}, {"a": 0.5}, {"recipe_hash": "b" * 64}, "unfair"),
        ({"a": 0.05, "b": 0.1, "c": 0.2}, {"a": 0.1, "b": 0.1, "c": 0.1}, {}, "unlearned"),
        ({"a": 0.9}, {"b": 0.5}, {}, "scored"),
        ({}, {"b": 0.5}, {}, "none"),
    ],
)
def test_headline_is_honest(
    tmp_path: Path, mine: dict[str, Any], other: dict[str, Any], changes: dict[str, Any], kind: str
) -> None:
    report, page = reported(paired(tmp_path, mine, other, **changes))
    assert report["verdict"]["kind"] == kind
    assert "better model" not in page.text or "no better model" in page.text
    if changes:
        assert any("The two trainings" in note for note in report["notes"])
        assert "cannot be compared" in page.text


def test_a_model_that_guesses_is_not_compared(tmp_path: Path) -> None:
    mine, other = {"a": 0.3, "b": 0.1, "c": 0.1, "d": 0.1, "e": 0.1}, {"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.1, "e": 0.1}
    _, page = reported(paired(tmp_path / "one", mine, other))
    assert "Nothing learned yet: 1 and 0 of 5 sets above chance" in page.text
    _, page = reported(paired(tmp_path / "two", mine, mine))
    assert "Nothing learned yet: 1 of 5 sets above chance" in page.text
    _, page = reported(paired(tmp_path / "three", {**mine, "b": 0.2, "c": 0.2}, other))
    assert "better subset, better model" in page.text


def test_results_of_another_checkpoint_are_left_out(tmp_path: Path) -> None:
    lines = [result("a", 0.9, "e" * 64), result("b", 0.5, "c" * 64)]
    trained(tmp_path, "c" * 64, lines)
    scores = compare_scores(tmp_path, None, None)
    assert [row.key for row in scores.sets] == ["b"]
    assert scores.refused == [
        f"1 results are of another checkpoint ({'e' * 16}) than the one that was trained ({'c' * 16}) and are left "
        "out; run evaluate again"
    ]
    report, page = reported(tmp_path)
    assert "another checkpoint" in page.text
    assert report["scores"]["common"]["sets"] == 0


def test_comparison_of_another_checkpoint_is_no_comparison(tmp_path: Path) -> None:
    paired(tmp_path, MINE, OTHER, checkpoint_sha256="f" * 64)
    report, page = reported(tmp_path)
    assert report["scores"]["common"]["sets"] == 0
    assert report["verdict"]["kind"] == "scored"
    assert "42.5%" not in page.text


def test_results_without_a_training_are_refused(tmp_path: Path) -> None:
    trained(tmp_path, "c" * 64, [result("a", 0.9, "c" * 64)])
    (tmp_path / "train" / "summary.json").unlink()
    report, page = reported(tmp_path)
    assert not report["scores"]["available"]
    assert report["training"]["run"] is None
    assert "no train/summary.json" in page.text
    assert "90.0%" not in page.text


def test_sets_of_other_pictures_are_not_compared(tmp_path: Path) -> None:
    paired(tmp_path, MINE, OTHER)
    lines = [result("shapes", 0.1, "d" * 64, state="other pictures"), result("colours", 0.1, "d" * 64)]
    trained(tmp_path / "compare" / "no_filter", "d" * 64, lines)
    report, page = reported(tmp_path)
    assert report["scores"]["common"]["sets"] == 1
    assert "other pictures in the comparison" in page.text


@pytest.mark.parametrize("spoil", ["nothing", "one is absent", "one is a part"])
def test_no_average_over_a_part_of_the_38(tmp_path: Path, spoil: str) -> None:
    lines = [result(task.key, 0.5, "c" * 64, benchmark=True) for task in datacomp_tasks() if task.main_metric]
    assert len(lines) == 38
    if spoil == "one is absent":
        lines.pop(20)
    elif spoil == "one is a part":
        lines[20]["complete"] = False
    trained(tmp_path, "c" * 64, lines)
    report, page = reported(tmp_path)
    average = {row["name"]: row for row in report["scores"]["averages"]}["Average"]
    assert average["score"] == (0.5 if spoil == "nothing" else None)
    assert (average["present"], average["members"]) == (38 if spoil == "nothing" else 37, 38)
    assert f"{average['present']} of 38" in page.text
    assert len(report["scores"]["missing"]) == (3 if spoil == "one is absent" else 2)
    assert len(report["scores"]["partial"]) == (spoil == "one is a part")


def test_a_set_that_could_not_be_scored_is_named_with_its_reason(tmp_path: Path) -> None:
    out = paired(tmp_path, MINE, OTHER)
    bad = {
        **{
            "key": "cifar10",
            "dataset": "CIFAR-10",
            "metrics": {"main_metric": None},
            "benchmark": True,
            "chance": None,
        },
        **{"complete": False, "pictures": 0, "unreadable": 0, "error": "wds_cifar10_test: it has no classnames.txt"},
        **{"checkpoint": json.loads((out / "train/summary.json").read_text())["checkpoint_sha256"]},
    }
    with open(out / "eval_results.jsonl", "a") as file:
        file.write(json.dumps(bad) + "\n")
    report, page = reported(out)
    scores = report["scores"]
    assert scores["failed"] == {"cifar10": bad["error"]}
    assert "cifar10" not in [*scores["missing"], *scores["partial"]]
    row = next(row for row in scores["sets"] if row["key"] == "cifar10")
    assert (row["score"], row["error"], row["alike"]) == (None, bad["error"], True)
    assert scores["common"]["sets"] == 2
    assert "CIFAR-10 could not be scored: wds_cifar10_test: it has no classnames.txt." in page.text
    assert "these sets could not be scored, so no average counts them: CIFAR-10" in page.text
    # the run says no mean, and ends with 1
    from dcfast.run.workflow import _failed_sets, _score_lines

    lines = _score_lines(out, {"evaluate": EvaluateSummary()})
    assert lines[0] == "this run: no mean score: cifar10 could not be scored"
    ours, theirs = EvaluateSummary(failed={"a": "x"}), EvaluateSummary(failed={"b": "y"})
    told = _failed_sets({"evaluate": ours, "compare/evaluate": theirs})
    assert told == ["evaluation set a could not be scored: x", "compare: evaluation set b could not be scored: y"]
    assert _failed_sets({"filter": {}, "evaluate": {"available": False}}) == []


def test_own_average_needs_every_set_of_the_table(tmp_path: Path) -> None:
    trained(tmp_path, "c" * 64, [result("a", 0.5, "c" * 64)])
    entries = [
        {"key": key, "directory": f"wds_{key}_test", "kind": "classification", "main_metric": "acc1"} for key in "ab"
    ]
    sets = tmp_path / "sets"
    sets.mkdir()
    (sets / "tasks.json").write_text(json.dumps(entries))
    assert compare_scores(tmp_path, None, sets).own_average == OwnAverage(2, None, None)
    (sets / "tasks.json").write_text(json.dumps(entries[:1]))
    assert compare_scores(tmp_path, None, sets).own_average.score == 0.5
    (sets / "tasks.json").write_text("{")
    assert compare_scores(tmp_path, None, sets).own_average.members == 0


def test_scores_of_a_run_that_trained_on_the_pictures_are_marked(tmp_path: Path) -> None:
    """The comparison had seen a set: its lead there is none, and the other sets are said beside it."""
    mine = {"flickr": 0.01, "shapes": 0.50, "colours": 0.40, "faces": None}
    other = {"flickr": 0.48, "shapes": 0.40, "colours": 0.38, "faces": None}
    seen = copies(0, flickr=0, shapes=0, colours=0), copies(161, flickr=160, shapes=0, colours=0, faces=2)
    report, page = reported(paired(tmp_path, mine, other, seen=seen))
    scores = report["scores"]
    assert scores["common"]["difference"] == pytest.approx((0.91 - 1.26) / 3)
    assert scores["unaffected"] == {
        "sets": 2,
        "score": pytest.approx(0.45),
        "comparison": pytest.approx(0.39),
        "chance": pytest.approx(0.1),
        "difference": pytest.approx(0.06),
        "better": 2,
        "worse": 0,
    }
    assert scores["trained_on"]["run"]["samples"] == 0
    told = scores["trained_on"]["comparison"]
    assert (told["samples"], told["sets"], told["marked"]) == (161, {"flickr": 160, "faces": 2}, ["flickr"])
    by_key = {row["key"]: row for row in scores["sets"]}
    assert (by_key["flickr"]["contaminated"], by_key["flickr"]["comparison_contaminated"]) == (0, 160)
    assert report["verdict"] == {
        "kind": "better",
        "headline": "Same compute, better subset, better model",
        "by": "unaffected",
    }
    line = (
        "\u2020 The comparison run (no_filter) trained on 161 samples that are copies of evaluation pictures (flickr "
        "160, faces 2). Its scores on these sets say little. Over all 3 sets, those with \u2020 among them: 30.3% "
        "against 42.0%, \u221211.7 points, better on 2, worse on 1."
    )
    assert page.text.count(line) == 2, "beside the headline, and below the table"
    assert (
        "Mean over 2 evaluation sets that neither model trained on copies of (guessing: 10.0%): +6.0 points"
        in page.text
    )
    assert "48.0% \u2020 (trained on copies of its pictures)" in page.text
    assert "1.0% \u2020" not in page.text, "this run did not see them"
    assert "mean of the 2 of them without \u2020" in page.text
    assert "of these, copies of evaluation pictures 0 161" in page.text
    assert any("The comparison run trained on 161 samples" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("mine", "other", "seen", "kind", "by"),
    [
        # the run that leads saw nothing: its lead stands, though no set is without copies
        ({"a": 0.6, "b": 0.6}, {"a": 0.5, "b": 0.5}, (copies(0, a=0, b=0), copies(9, a=5, b=4)), "better", "common"),
        ({"a": 0.5, "b": 0.5}, {"a": 0.6, "b": 0.6}, (copies(9, a=5, b=4), copies(0, a=0, b=0)), "worse", "common"),
        # the run that leads saw some: the others decide, or nothing does
        ({"a": 0.9, "b": 0.4}, {"a": 0.5, "b": 0.5}, (copies(5, a=5, b=0), copies(0, a=0, b=0)), "worse", "unaffected"),
        (
            {"a": 0.6, "b": 0.6},
            {"a": 0.5, "b": 0.5},
            (copies(9, a=5, b=4), copies(0, a=0, b=0)),
            "contaminated",
            "common",
        ),
        (
            {"a": 0.5, "b": 0.5},
            {"a": 0.6, "b": 0.6},
            (copies(0, a=0, b=0), copies(9, a=5, b=4)),
            "contaminated",
            "common",
        ),
        (
            {"a": 0.5, "b": 0.5},
            {"a": 0.5, "b": 0.5},
            (copies(0, a=0, b=0), copies(9, a=5, b=4)),
            "contaminated",
            "common",
        ),
        ({"a": 0.6, "b": 0.6}, {"a": 0.5, "b": 0.5}, (copies(0, a=0, b=0), copies(5, a=5, b=0)), "better", "common"),
        # copies of a set that is not scored decide nothing
        (
            {"a": 0.5, "b": 0.5},
            {"a": 0.6, "b": 0.6},
            (copies(0, a=0, b=0), copies(9, a=0, b=0, c=9)),
            "worse",
            "common",
        ),
        ({"a": 0.6, "b": 0.6}, {"a": 0.5, "b": 0.5}, (None, None), "better", "common"),
    ],
)
def test_headline_never_rests_on_copies(
    tmp_path: Path, mine: dict[str, Any], other: dict[str, Any], seen: Any, kind: str, by: str
) -> None:
    report, page = reported(paired(tmp_path, mine, other, seen=seen))
    if report["scores"]["unaffected"]["sets"] == 1:
        words = (
            "Over the 1 of 2 sets that neither run trained on copies of: " if by == "common" else "Over all 2 sets, "
        )
        assert words in page.text
    assert (report["verdict"]["kind"], report["verdict"]["by"]) == (kind, by)
    marked = any(s is not None and (s["evalsets"].get("a") or s["evalsets"].get("b")) for s in seen)
    assert ("(trained on copies of its pictures)" in page.text) == marked
    if seen[1] is not None and "c" in seen[1]["evalsets"]:
        assert "(c 9), none of them of a set that has a score" in page.text
    if kind == "contaminated":
        assert "There is no set that neither run trained on copies of." in page.text
        assert report["scores"]["unaffected"]["difference"] is None


def test_copies_that_were_not_looked_for_or_not_found_are_said(tmp_path: Path) -> None:
    report, page = reported(paired(tmp_path / "a", MINE, OTHER))
    assert report["scores"]["trained_on"] == {"run": None, "comparison": None}
    assert report["scores"]["sets"][0]["contaminated"] is None
    assert "Whether this run trained on copies of evaluation pictures was not checked." in page.text
    assert "Whether the comparison run (no_filter) trained on copies" in page.text
    assert "of these, copies of evaluation pictures not checked not checked" in page.text
    none = copies(0, shapes=0, colours=0, faces=0)
    report, page = reported(paired(tmp_path / "b", MINE, OTHER, seen=(none, none)))
    assert report["scores"]["unaffected"] == report["scores"]["common"]
    assert "No sample of the training is a copy of an evaluation picture" in page.text
    assert "\u2020" not in page.text.replace("marked \u2020 as well", "")


def test_a_run_without_comparison_says_what_it_trained_on(tmp_path: Path) -> None:
    out = trained(tmp_path, "c" * 64, [result("shapes", 0.5, "c" * 64)])
    write_summary(
        out, "filter", {"filter": "no_filter", "subset": 4, "fates": {"kept": 4}, "contaminated": copies(1, shapes=1)}
    )
    report, page = reported(out)
    assert report["verdict"]["kind"] == "scored"
    assert "\u2020 This run trained on 1 sample that is a copy of an evaluation picture (shapes 1)." in page.text
    assert "50.0% \u2020" in page.text


def test_what_dali_refused_is_shown_where_dali_decoded(tmp_path: Path) -> None:
    out = paired(tmp_path, MINE, OTHER)
    report, page = reported(out)
    assert report["training"]["run"]["dali_refused_samples"] is None
    assert "DALI refused" not in page.text
    timing = {
        "seconds": 3.0,
        "samples": 150,
        "samples_per_second": 50.0,
        "dali_refused_batches": 2,
        "dali_refused_samples": 1_234,
    }
    (out / "train/timing.json").write_text(json.dumps(timing))
    summary = json.loads((out / "train/summary.json").read_bytes())
    difference = {"samples": 64, "mean": 0.125, "largest": 9}
    (out / "train/summary.json").write_text(json.dumps({**summary, "decoder_difference": difference}))
    report, page = reported(out)
    assert report["training"]["run"]["dali_refused_samples"] == 1_234
    assert "samples that DALI refused and Pillow decoded 1,234 \u2013" in page.text
    assert report["training"]["run"]["decoder_difference"] == difference
    assert 'Decoder: {"largest": 9, "mean": 0.125, "samples": 64}.' in page.text


def test_closing_lines_of_a_run_say_it_beside_the_scores(tmp_path: Path) -> None:
    from dcfast.run.workflow import _closing_lines

    seen = copies(0, shapes=0), copies(3, shapes=3)
    paired(tmp_path / "a", {"shapes": 0.5}, {"shapes": 0.9}, seen=seen)
    assert _closing_lines(tmp_path / "a", {"evaluate": EvaluateSummary(), "compare/evaluate": EvaluateSummary()})[
        :3
    ] == [
        "this run: mean score 0.5000 over 1 evaluation sets",
        "compare no_filter: mean score 0.9000 over 1 evaluation sets",
        "  it trained on 3 samples that are copies of evaluation pictures (shapes 3), so its scores on these sets say "
        "little (see the report)",
    ]
    paired(tmp_path / "b", {"shapes": 0.5}, {"shapes": 0.9})
    lines = _closing_lines(tmp_path / "b", {"evaluate": {}})
    assert lines[1] == "  whether it trained on copies of evaluation pictures was not checked"


def test_sets_are_known_by_the_keys_of_their_tasks(tmp_path: Path) -> None:
    write_summary(tmp_path, "filter", {"contaminated": {"samples": 2, "evalsets": {"vtab-caltech101": 2, "mine": 1}}})
    assert read_leaked(tmp_path, None).tasks == {"vtab/caltech101": 2, "mine": 1}
    (tmp_path / "sets/wds_mine_test").mkdir(parents=True)
    entry = {"key": "own/mine", "directory": "wds_mine_test", "kind": "classification", "main_metric": "acc1"}
    (tmp_path / "sets/tasks.json").write_text(json.dumps([entry]))
    assert read_leaked(tmp_path, tmp_path / "sets").tasks == {"vtab/caltech101": 2, "own/mine": 1}
    for broken in ("{", "[]", '{"contaminated": null}', '{"contaminated": {"samples": 1}}'):
        (tmp_path / "state/filter.json").write_text(broken)
        assert read_leaked(tmp_path, None) is None
    many = Leaked(9, {f"set{n}": n for n in range(9)})
    assert many.words.endswith("(set8 8, set7 7, set6 6, set5 5, set4 4, set3 3, 2 more)")


def test_strange_lines_and_names_are_harmless(tmp_path: Path) -> None:
    paired(tmp_path, MINE, OTHER)
    nasty = result("<script>x</script>", 0.5, "c" * 64, dataset='<script>x</script> "quoted"', notes=None)
    good = [json.dumps(result("a", 0.5, "c" * 64)), json.dumps(nasty)]
    bad = ['{"key": "cut', "[1]", '{"key": "x", "metrics": 3, "checkpoint": "c"}', '{"key": 1, "metrics": {}}']
    odd = json.dumps(result("b", None, "c" * 64)).replace("null", "NaN")
    (tmp_path / "eval_results.jsonl").write_text("\n".join([*bad, *good, odd]))
    with open(tmp_path / "train" / "log.jsonl", "a") as file:
        file.write('{"samples_seen": 900, "loss": NaN, "logit_scale": 1}\n[]\n{"samples_seen": 1')
    report, page = reported(tmp_path)
    assert [row["key"] for row in report["scores"]["sets"]][:3] == ["a", "<script>x</script>", "b"]
    assert report["scores"]["sets"][2]["score"] is None
    assert len(report["training"]["run"]["curve"]) == 8
    assert not page.all("script")
    assert "<script>x</script>" in page.text


@pytest.mark.parametrize("lines", [0, 1, CURVE_POINTS, CURVE_POINTS + 1, 10_007])
def test_curves_are_bounded_and_keep_the_course(tmp_path: Path, lines: int) -> None:
    trained(tmp_path, "c" * 64, [])
    log = [{"samples_seen": n, "loss": 2.0 * n, "logit_scale": 1.0} for n in range(lines)]
    (tmp_path / "train" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    report, _ = reported(tmp_path)
    curve = report["training"]["run"]["curve"]
    assert len(curve) == lines if lines <= CURVE_POINTS else CURVE_POINTS // 2 <= len(curve) <= CURVE_POINTS
    assert [p["loss"] for p in curve] == pytest.approx([2 * p["samples_seen"] for p in curve], abs=1e-4)
    assert [p["loss"] for p in curve] == sorted(p["loss"] for p in curve)


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0] or ticks(0, 1) == [0, 0.5, 1.0]
    assert ticks(0, 76_800) == [0, 20_000, 40_000, 60_000]
    assert ticks(1, 1) == ticks(2, 1) == ticks(0, float("inf")) == []
    for low, high in ((-0.3, 0.61), (13.9, 18.7), (1e-9, 3e-9), (-5e6, 7e7)):
        found = ticks(low, high)
        assert 2 <= len(found) <= 6
        assert all(low <= x <= high for x in found)


def test_plots_of_nothing_and_of_anything() -> None:
    drawn = environment().get_template("charts.html.j2").module
    assert curves("t", [("mine", [(0, 1)])], str) is None
    assert curves("t", [], str) is None
    assert bars("t", [0, 1], [("kept", [0])], stacked=True) is None
    assert drawn.draw(None) == ""
    flat = str(drawn.draw(curves('<b>"t"</b>', [("mine", [(0, 1), (1, 1)])], lambda x: "<i>")))
    assert "<b>" not in flat
    assert "<i>" not in flat
    assert "nan" not in flat
    layers = [("a", [1, 0]), ("b", [1, 2])]
    text = str(drawn.draw(bars("t", [0, 1, 2], layers, stacked=True, line=1.0, line_words="<u>")))
    assert text.count("<rect") == 3
    assert "&lt;u&gt;" in text
    assert "threshold" in text
    assert "threshold" not in str(drawn.draw(bars("t", [0, 1], [("a", [1])], stacked=False, line=9.0)))
    assert str(drawn.dumbbell(None, None, None)).count("circle") == 0
    assert 'cx="100.000%"' in str(drawn.dumbbell(1.7, -1.0, 0.2))


def test_words_of_numbers() -> None:
    assert [share(v) for v in (0.5461, 0.0, 1.0, None)] == ["54.6%", "0.0%", "100.0%", "\u2013"]
    assert [points(v) for v in (0.1032, -0.02, 0.0004, -0.0004, None)] == ["+10.3", "\u22122.0", "0.0", "0.0", "\u2013"]
    assert [decimal(v) for v in (18.6252, None)] == ["18.63", "\u2013"]
    assert [rounded(v) for v in (1234.5, None)] == ["1,234", "\u2013"]


def test_closing_lines_say_why_samples_are_not_kept() -> None:
    from dcfast.run.workflow import _closing_lines

    chosen = FilterSummary(
        filter="basic_filter",
        fates={"kept": 348, "dropped": 60, "quarantined": 0, "missing": 4, "unlisted": 0},
        subset=347,
        thresholds=None,
        models={},
        metadata_rows=411,
        subset_metadata=347,
        reasons={"basic_filter: words": 30, "basic_filter: size": 20, **{f"rule {n}": n for n in (1, 2, 3, 4)}},
        repeated_in_pool=1,
    )
    assert _closing_lines(Path("o"), {"filter": chosen}) == [
        "347 of 411 metadata rows pass the filter (subset_metadata.npy)",
        "fates: 348 kept, 60 dropped, 0 quarantined, 4 missing, 0 unlisted",
        "samples that have the uid of one before them: 1; all samples of a uid are kept where a metadata row of it "
        "passes, so that more samples may be kept than rows pass",
        "not kept, the commonest reasons: basic_filter: words (30); basic_filter: size (20); metadata rows without a "
        "sample (4); rule 4 (4); rule 3 (3)",
        "run directory: o",
    ]
