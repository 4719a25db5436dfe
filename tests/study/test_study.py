"""Studies: the grid, what the scores say, the files, and one small study from start to end."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import statistics as reference
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dcfast.errors import FilterError, RunError
from dcfast.rundir.settings import Settings
from dcfast.storage.records import as_record, plain, replaced
from dcfast.study import Grid, main, run_study
from dcfast.study.grid import STANDARD_FILTERS, Cell, parse_filters, parse_seeds, scaled
from dcfast.study.output import markdown, write_results
from dcfast.study.records import AboveChance, CellId, CellResult, Compared, Failure, Spread, Study
from dcfast.study.statistics import (
    above_chance,
    choose_and_confirm,
    comparable,
    rank_correlation,
    spread,
    summarise,
)
from dcfast.study.study import collect

SMALL = {"rows": 90, "rows_per_shard": 45, "eval_scale": 0.05, "teacher_pairs": 20}


# --- the grid ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("1", (0,)), ("6", (0, 1, 2, 3, 4, 5)), ("3-5", (3, 4, 5)), ("0,2-4", (0, 2, 3, 4)), ("7,1", (7, 1))],
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


def test_other_options_take_a_number_as_a_seed() -> None:
    assert parse_seeds("4", "--choose") == (4,)


@pytest.mark.parametrize("text", ["", "a", "1-", "-3", "0,0", "5-3", "0", "1.5"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="--seeds"):
        parse_seeds(text)


def test_standard_filters_are_datacomps_seven_chance_and_the_truth() -> None:
    assert list(parse_filters(None, world=True)) == list(STANDARD_FILTERS)
    assert len(STANDARD_FILTERS) == 9
    assert "oracle" not in parse_filters(None, world=False)


def test_filters_by_name_by_label_and_as_they_are() -> None:
    given = ["clip_score", "mine: basic_filter & ~contaminated", "clip_score(b32, threshold=0.2)"]
    assert parse_filters(given, world=True) == {
        "clip_score": "clip_score(l14, fraction=0.3)",
        "mine": "basic_filter & ~contaminated",
        "clip_score(b32, threshold=0.2)": "clip_score(b32, threshold=0.2)",
    }
    assert parse_filters(["a: no_filter | oracle"], True, "~contaminated") == {
        "a": "(no_filter | oracle) & (~contaminated)"
    }


def test_filters_that_cannot_be_used() -> None:
    with pytest.raises(FilterError, match="did you mean 'basic_filter'"):
        parse_filters(["basic_fitler"], world=True)
    for twice in (["no_filter", "no_filter"], ["a: no_filter", "a: oracle"], ["a.b: no_filter", "a.b.: oracle"]):
        with pytest.raises(ValueError, match="given twice"):
            parse_filters(twice, world=True)
    with pytest.raises(ValueError, match="a name that the study uses"):
        parse_filters(["base: no_filter"], world=True)


def test_scales_and_parts_of_them() -> None:
    from dcfast.scales import scale
    from dcfast.world import WorldSpec

    seen, rows = scale("tiny").samples_seen, WorldSpec().rows
    assert scaled(Settings(), "tiny") == Settings()
    assert scaled(Settings(), "tiny/4") == Settings(samples_seen=seen // 4, world={"rows": rows // 4})
    assert scaled(Settings(world={"rows": 100}, samples_seen=64), "tiny/4") == Settings(
        samples_seen=16, world={"rows": 25}
    )
    assert scaled(Settings(pool="/p"), "small/10") == Settings(pool="/p", scale="small", samples_seen=1_280_000)
    for wrong in ("tny", "tiny/1", "tiny/0", "tiny/", "/4", "tiny/x"):
        with pytest.raises(ValueError, match=r"scale|tiny"):
            scaled(Settings(), wrong)


def test_cells_share_a_base_run_a_seed(tmp_path: Path) -> None:
    grid = Grid({"no_filter": "no_filter", "r": "random(0.3, seed={seed})"}, ("tiny", "tiny/4"), (0, 3), Settings())
    cells = grid.cells(tmp_path)
    assert len(cells) == 8
    assert [cell.seed for cell in cells] == [0] * 4 + [3] * 4
    assert len({cell.directory for cell in cells}) == 8
    assert len({cell.base for cell in cells}) == 4
    drawn = next(cell for cell in cells if cell.label == "r" and cell.seed == 3)
    assert drawn.settings.filter == "random(0.3, seed=3)"
    assert drawn.settings.compare == "none"
    for cell in cells:
        base = grid.base(tmp_path, cell.scale, cell.seed)
        assert base.directory == cell.base
        assert replace(cell.settings, filter="no_filter") == base.settings
        assert as_record(json.loads(json.dumps(plain(cell))), Cell, "cell.json") == cell


def test_given_pool_has_one_base_run(tmp_path: Path) -> None:
    grid = Grid({"a": "no_filter"}, ("tiny",), (2, 3), Settings(pool="/p", evalsets="/e"))
    assert {cell.base for cell in grid.cells(tmp_path)} == {str(tmp_path / "tiny/base")}
    assert [cell.settings.seed for cell in grid.cells(tmp_path)] == [2, 3]
    assert grid.base(tmp_path, "tiny", 3).settings.seed == 2


# --- statistics -------------------------------------------------------------------------------------


def test_mean_and_spread_are_those_of_the_standard_library() -> None:
    values = [0.31, 0.29, 0.37, 0.3]
    assert spread(values).mean == pytest.approx(reference.mean(values), abs=1e-15)
    assert spread(values).deviation == pytest.approx(reference.stdev(values), abs=1e-15)
    assert spread([]) == Spread(None, None)
    assert spread([0.5]) == Spread(0.5, None)


def test_rank_correlation_is_scipys() -> None:
    from scipy.stats import spearmanr

    draw = random.Random(1)
    for n in (2, 3, 7, 20):
        a = [draw.randrange(5) / 4 for _ in range(n)]
        b = [draw.randrange(5) / 4 for _ in range(n)]
        if len(set(a)) > 1 and len(set(b)) > 1:
            assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert rank_correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([], []) is None
    assert rank_correlation([1], [1]) is None
    assert rank_correlation([1, 1], [1, 2]) is None
    with pytest.raises(ValueError, match="one length; got 1 and 2"):
        rank_correlation([1], [1, 2])


def result(score: float | None, kept: int = 30, **tasks: float) -> CellResult:
    return CellResult(
        filter="x",
        notes=[],
        kept=kept,
        rows=100,
        samples_seen=64,
        tasks=tasks or {"a": score or 0.0},
        chance=dict.fromkeys(tasks or {"a": 0.0}, 0.25),
        unscored=[],
        score=score,
    )


def results_of(scores: dict[str, list[float]], scale: str = "tiny") -> dict[CellId, CellResult]:
    return {(scale, seed, label): result(v) for label, values in scores.items() for seed, v in enumerate(values)}


def test_best_is_chosen_on_some_seeds_and_judged_on_others() -> None:
    scores = {
        "no_filter": [0.20, 0.22, 0.21, 0.20, 0.22, 0.21],
        "lucky": [0.50, 0.51, 0.49, 0.21, 0.20, 0.22],  # best where it is chosen, nothing where it is confirmed
        "good": [0.40, 0.41, 0.39, 0.40, 0.42, 0.41],
        "oracle": [0.90] * 6,
        "random": [0.19, 0.2, 0.21, 0.19, 0.2, 0.21],
    }
    found = choose_and_confirm(results_of(scores), "tiny", list(scores), [0, 1, 2], [3, 4, 5])
    assert found.best == "lucky", "what is compared with is no candidate"
    assert found.confirmed.clear is False
    bar = 2 * math.sqrt(reference.variance(scores["lucky"][3:]) + reference.variance(scores["no_filter"][3:]))
    assert found.confirmed.bar == pytest.approx(bar)
    assert found.confirmed.difference == pytest.approx(0.0, abs=1e-12)
    assert found.random.difference == pytest.approx(-0.01)
    del scores["lucky"]
    found = choose_and_confirm(results_of(scores), "tiny", list(scores), [0, 1, 2], [3, 4, 5])
    assert found.best == "good"
    assert found.confirmed.clear is True
    assert found.confirmed.seeds_won == 3


def test_what_is_not_finished_is_neither_chosen_nor_confirmed() -> None:
    scores = {"no_filter": [0.2, 0.2, 0.2, 0.2], "a": [0.9], "b": [0.3, 0.3, 0.3]}
    labels = list(scores)
    found = choose_and_confirm(results_of(scores), "tiny", labels, [0, 1], [2, 3])
    assert found.best == "b", "a is not finished on all seeds that choose"
    assert found.confirmed is None
    assert "not finished on all seeds that confirm" in found.note
    found = choose_and_confirm(results_of({"no_filter": [0.2]}), "tiny", ["no_filter"], [0], [])
    assert found.best is None
    assert "no candidate" in found.note
    one = choose_and_confirm(results_of(scores), "tiny", ["no_filter", "b"], [0], [1])
    assert one.confirmed.clear is None, "one seed has no spread"


def test_summary_of_a_filter() -> None:
    results = {("tiny", 0, "f"): result(0.5, 20, a=0.4, b=0.6), ("tiny", 1, "f"): result(0.7, 40, a=0.6, b=0.8)}
    row = summarise({**results, ("tiny", 0, "g"): result(0.1), ("small", 0, "f"): result(0.1)}, "tiny", "f")
    assert row.mean == pytest.approx(0.6)
    assert row.deviation == pytest.approx(math.sqrt(0.02))
    assert row.kept == pytest.approx(0.3)
    assert row.tasks["a"].mean == pytest.approx(0.5)
    assert row.scores == {"0": 0.5, "1": 0.7}


def test_cells_of_equal_tasks_keep_their_scores() -> None:
    results = {("tiny", 0, "f"): result(0.123, a=0.4, b=0.6), ("tiny", 0, "g"): result(None, a=0.1, b=0.2)}
    assert comparable(results) == (results, Compared(["a", "b"], 2, {}))
    assert comparable({}) == ({}, Compared([], 0, {}))


def test_cells_of_other_tasks_are_compared_over_those_that_all_have() -> None:
    labels = {"no_filter": "no_filter", "clip_score": "clip_score(l14, fraction=0.3)"}
    grid = Grid(labels, ("tiny",), (0, 1), Settings())
    # on all of its sets clip_score would be far ahead: only because an easy set has no score elsewhere
    results = {
        ("tiny", 0, "no_filter"): result(0.50, a=0.4, b=0.6),
        ("tiny", 1, "no_filter"): result(0.50, a=0.4, b=0.6),
        ("tiny", 0, "clip_score"): result(0.60, a=0.3, b=0.5, easy=1.0),
        ("tiny", 1, "clip_score"): result(0.75, b=0.5, easy=1.0),
    }
    study = collect(grid, results, (0,), (1,))
    lacking = {"a": [("tiny", 1, "clip_score")], "easy": [("tiny", 0, "no_filter"), ("tiny", 1, "no_filter")]}
    assert study.tasks == Compared(["b"], 4, lacking)
    means = {row.filter: row.mean for row in study.table}
    assert means == {"no_filter": 0.6, "clip_score": 0.5}
    assert [(c.label, c.score, c.score_of_all) for c in study.cells] == [
        ("no_filter", 0.6, 0.50),
        ("clip_score", 0.5, 0.60),
        ("no_filter", 0.6, 0.50),
        ("clip_score", 0.5, 0.75),
    ]
    assert study.verdicts[0].chosen_by == {"clip_score": 0.5}
    page = markdown(study)
    assert "compared over the 1 that all 4 cells have" in page
    assert "- a: not in tiny, seed 1, clip_score\n" in page
    assert "| clip_score | 30.0% | 2 | 0.5000 ± 0.0000 | -0.1000 |" in page
    assert results[("tiny", 0, "clip_score")].score == 0.60, "what the cells recorded is left alone"


def test_cells_without_a_common_task_are_not_compared(tmp_path: Path) -> None:
    grid = Grid({"no_filter": "no_filter", "f": "basic_filter"}, ("tiny",), (0,), Settings())
    results = {("tiny", 0, "no_filter"): result(0.5, a=0.5), ("tiny", 0, "f"): result(0.9, b=0.9)}
    study = collect(grid, results, (0,), ())
    assert [row.mean for row in study.table] == [None, None]
    assert study.verdicts[0].best is None
    assert "No evaluation set has a score in all 2 cells: nothing can be compared" in markdown(study)
    write_results(tmp_path, study, plots=True)
    # a cell without any score takes no other cell's sets away
    alone = {**results, ("tiny", 0, "f"): replaced(result(None), tasks={})}
    assert comparable(alone)[1] == Compared(["a"], 1, {})


def test_above_chance_counts_tasks() -> None:
    results = {
        ("tiny", 0, "no_filter"): result(0.5, a=0.30, b=0.24, c=0.9),
        ("tiny", 1, "no_filter"): result(0.5, a=0.22, b=0.25, c=0.8),
    }
    found = above_chance(results, "tiny")
    assert found == AboveChance(3, 2, 1, ["b"])
    assert above_chance(results, "small") is None


# --- the files --------------------------------------------------------------------------------------


@pytest.fixture
def study() -> Study:
    labels = {"no_filter": "no_filter", "clip_score": "clip_score(l14, fraction=0.3)", 'odd, "label"': "oracle"}
    grid = Grid(labels, ("tiny/4", "tiny"), (0, 1, 2, 3), Settings())
    draw = random.Random(0)
    results = {
        (scale, seed, label): result(0.2 + 0.1 * i + 0.02 * draw.random())
        for scale in grid.scales
        for seed in grid.seeds
        for i, label in enumerate(labels)
    }
    return collect(grid, results, (0, 1), (2, 3), [Failure("tiny, seed 9, x", "it broke")])


def test_files_of_a_study(study: Study, tmp_path: Path) -> None:
    write_results(tmp_path, study, plots=True)
    assert json.loads((tmp_path / "study.json").read_text()) == json.loads(json.dumps(plain(study)))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "study.csv").read_text())))
    assert len(rows) == 24
    assert {row["filter"] for row in rows} == {"no_filter", "clip_score", 'odd, "label"'}
    assert float(rows[0]["score"]) == study.cells[0].score
    for name in ("study.png", "study-scales.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    for name in ("study.svg", "study-scales.svg"):
        assert b"clip_score" in (tmp_path / name).read_bytes()


def test_equal_studies_are_equal_bytes(study: Study, tmp_path: Path) -> None:
    from dcfast.study.plot import draw

    one = replaced(study, verdicts=study.verdicts[:1], rank_correlation=[])
    assert draw(one) == draw(one)
    for name in ("a", "b"):
        write_results(tmp_path / name, study, plots=False)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_filters_are_compared_on_equal_seeds() -> None:
    labels = {"no_filter": "no_filter", "clip_score": "clip_score(l14, fraction=0.3)"}
    grid = Grid(labels, ("tiny",), (0, 1, 2), Settings())
    results = {("tiny", seed, "no_filter"): result(score) for seed, score in enumerate((0.4, 0.4, 0.1))}
    results |= {("tiny", seed, "clip_score"): result(score) for seed, score in enumerate((0.5, 0.6))}
    page = markdown(collect(grid, results, (), ()))
    assert "| clip_score | 30.0% | 2 of 3 | 0.5500 ± 0.0707 | +0.1500 |" in page, "the third seed is no_filter's alone"


def test_missing_cells_are_named() -> None:
    labels = {name: name for name in ("no_filter", "best", "other", "broken")}
    seeds = tuple(range(6))
    grid = Grid(labels, ("tiny",), seeds, Settings())
    ran = {"no_filter": seeds, "best": seeds, "other": seeds[:3], "broken": (0, 2)}
    scores = {"no_filter": 0.3, "best": 0.5, "other": 0.4, "broken": 0.1}
    results = {("tiny", seed, name): result(scores[name] + seed / 100) for name in ran for seed in ran[name]}
    study = collect(grid, results, seeds[:3], seeds[3:])
    assert {row.filter: row.missing for row in study.table} == {
        "no_filter": [], "best": [], "other": [3, 4, 5], "broken": [1, 3, 4, 5],
    }  # fmt: skip
    page = markdown(study)
    assert "compare by its last column. Missing are the seeds of other: 3-5; broken: 1, 3-5." in page
    assert "On the seeds that confirm (3-5) the best filter and what it is compared with are run alone;" in page
    whole = {cell: value for cell, value in results.items() if cell[2] in ("no_filter", "best")}
    page = markdown(collect(replace(grid, filters={n: n for n in ("no_filter", "best")}), whole, seeds[:3], seeds[3:]))
    assert "Missing" not in page
    assert "confirm-all" not in page


def test_what_a_seed_draws_is_said_of_a_pool_and_of_the_world() -> None:
    labels = {"no_filter": "no_filter"}
    results = {("tiny", 0, "no_filter"): result(0.5)}
    of_world = markdown(collect(Grid(labels, ("tiny",), (0,), Settings()), results, (0,), ()))
    assert "Each seed draws another world, another teacher and another training." in of_world
    of_pool = markdown(collect(Grid(labels, ("tiny",), (0,), Settings(pool="/pool")), results, (0,), ()))
    assert "another world" not in of_pool
    assert "All seeds share one pool and its scores: a seed draws the training" in of_pool


def test_filters_that_kept_copies_of_evaluation_pictures_are_named() -> None:
    labels = {"no_filter": "no_filter", "clean": "~contaminated", "old": "basic_filter"}
    grid = Grid(labels, ("tiny",), (0, 1), Settings())
    results = {
        **{("tiny", seed, "no_filter"): replaced(result(0.5), contaminated=270 + seed) for seed in (0, 1)},
        **{("tiny", seed, "clean"): replaced(result(0.4), contaminated=0) for seed in (0, 1)},
        ("tiny", 0, "old"): result(0.3),  # of a version that did not count them
    }
    study = collect(grid, results, (0,), (1,))
    assert [row.contaminated for row in study.table] == [270.5, 0.0, None]
    page = markdown(study)
    assert "(samples, mean over seeds): no_filter 270. With --and '~contaminated'" in page
    assert "Not checked for copies of evaluation pictures: old." in page


def test_page_says_what_was_found(study: Study) -> None:
    page = markdown(study)
    assert "Best on the seeds that choose (0, 1): odd" in page
    assert "clearly better than no_filter" in page
    assert "tiny, seed 9, x: it broke" in page
    assert "| tiny/4, tiny | 3 | 1.000 |" in page
    assert "no_filter is above chance on 0 of 1" in page


def test_only_the_best_filter_is_run_on_the_seeds_that_confirm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"no_filter": 0.2, "basic_filter": 0.3, "clip_score": 0.5, "random": 0.1, "oracle": 0.6}
    filters = dict.fromkeys(scores, "no_filter")
    ran: list[tuple[int, str]] = []

    def execute(cells: list[Cell], *_: Any, finished: Any, **__: Any) -> list[Any]:
        for cell in cells:
            ran.append((cell.seed, str(cell.label)))
            finished(cell, result(scores[str(cell.label)] + cell.seed / 100), 1.0)
        return []

    monkeypatch.setattr("dcfast.study.study.execute", execute)
    monkeypatch.setattr("dcfast.study.study.write_results", lambda *_, **__: None)
    grid = Grid(filters, ("tiny",), (0, 1, 2, 3), Settings())
    said: list[str] = []
    found = run_study(tmp_path / "a", grid, choose=(0, 1), confirm=(2, 3), say=said.append)
    compared = {"no_filter", "random", "oracle", "clip_score"}
    assert set(ran) == {(s, n) for s in (0, 1) for n in scores} | {(s, n) for s in (2, 3) for n in compared}
    assert found.verdicts[0].best == "clip_score"
    assert found.verdicts[0].confirmed.clear is True
    assert "18 of 18 cells" in said[-1]
    ran.clear()
    run_study(tmp_path / "b", grid, choose=(0, 1), confirm=(2, 3), confirm_all=True)
    assert set(ran) == {(s, n) for s in range(4) for n in scores}


# --- the command ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--filters", "basic_fitler"], "did you mean 'basic_filter'"),
        (["--scales", "tny"], "did you mean 'tiny'"),
        (["--scales", "small"], "scale small needs a pool"),
        (["--scales", "tiny", "tiny"], "names one twice"),
        (["--seeds", "x"], "--seeds takes a number"),
        (["--seeds", "2", "--choose", "0", "--confirm", "2"], "--confirm names seeds that the study does not run: 2"),
        (["--seeds", "2", "--choose", "0-1", "--confirm", "1"], "cannot confirm; both have 1"),
        (["--jobs", "0"], "jobs must be at least 1"),
        (["--loss", "dcfsat"], "did you mean 'dcfast'"),
        (["--pool", "/p"], "it needs --evalsets"),
        (["--world", "rows=many"], "--world takes NAME=NUMBER"),
        (["--features", "l14"], "--features takes PREFIX=MODEL"),
    ],
)
def test_command_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["--out", str(tmp_path / "study"), "--quiet", *words]) == (1 if words[0] == "--filters" else 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_dry_run_lists_the_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "study"), "--seeds", "2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "tiny, seed 1, random: random(0.3, seed=1)" in said
    assert "at most 18 trainings and 2 base runs" in said
    assert not (tmp_path / "study").exists()


def test_a_recipe_changed_on_purpose(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--out", str(tmp_path / "study"), "--seeds", "2", "--dry-run"]
    assert main([*words, "--set", "learning_rate=2e-3"]) == 0
    assert main([*words, "--set", "learning_rate=fast"]) == 2
    assert "learning_rate must be a number; got 'fast'" in capsys.readouterr().err
    assert "changed on purpose" not in markdown(study)
    changed = replaced(study, settings=replace(study.settings, overrides={"learning_rate": 2e-3}))
    assert "The recipe was changed on purpose (learning_rate 0.002): these are no scores of" in markdown(changed)


def test_two_studies_in_one_directory(tmp_path: Path) -> None:
    import fcntl

    grid = Grid({"no_filter": "no_filter"}, ("tiny",), (0,), Settings())
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another study is running there"):
            run_study(tmp_path, grid)
