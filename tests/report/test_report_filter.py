"""The filter in the report: rules asked one by one against the filter's own verdicts, CLIP scores, rules and truth."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.report.facts.collect import collect
from dcfast.report.facts.filter_parts import (
    Combination,
    RuleDrops,
    clip_scores,
    overlap,
    rules_against_truth,
    uids_of,
)
from dcfast.report.facts.metadata_rows import MAX_FILES, MAX_ROWS, Examined, examine, stretches
from dcfast.report.page.page import Pictures, render
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.rundir.tables import read_table
from dcfast.storage.records import replaced
from pool_builder import PoolBuilder, Sample, uid_of
from report_builder import fates, run_of
from strict_page import Page

L14 = "clip_l14_similarity_score"
EXPRESSION = "clip_score(l14, fraction=0.5) & basic_filter & (clip_score(b32, threshold=0.1) | ~random(0.5, seed=1))"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose metadata has CLIP scores, some of them absent."""
    root = tmp_path_factory.mktemp("filter report")
    shards = [[Sample(40 * s + i, width=100 if i % 5 == 0 else 640) for i in range(20)] for s in range(3)]
    shards[1][3] = Sample(43, caption="two words")

    def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        scores = [int(row["uid"][:4], 16) / 65_536 for row in rows]
        return {L14: [None if s > 0.95 else s for s in scores], "clip_b32_similarity_score": [1 - s for s in scores]}

    PoolBuilder(root / "pool", shards, missing=[9001]).write(columns)
    run(root / "out", Settings(pool=str(root / "pool"), filter=EXPRESSION, train=False))
    return root / "out"


def test_rules_one_by_one_are_the_filter(whole: Path) -> None:
    report = json.loads((whole / "report.json").read_bytes())
    chosen = json.loads((whole / "state" / "filter.json").read_bytes())
    assert report["look_problem"] is None
    found = report["overlap"]
    assert found["rows"] == found["of"] == chosen["metadata_rows"] == 61
    assert found["dropped"] == 61 - chosen["metadata_outcomes"]["kept"]
    assert found["dropped"] == sum(row["rows"] for row in found["combinations"]) + found["other_combinations"]
    first: dict[str, int] = {}
    for row in found["combinations"]:
        name = found["rules"][min(row["rules"])]["rule"]
        first[name] = first.get(name, 0) + row["rows"]
    assert found["other_combinations"] == 0
    # the first rule in written order that drops a row is the reason that the filter gave
    assert first == {k: v for k, v in chosen["metadata_outcomes"].items() if k != "kept" and v}
    for place, rule in enumerate(found["rules"]):
        assert rule["drops"] == sum(row["rows"] for row in found["combinations"] if place in row["rules"])
        assert rule["alone"] == sum(row["rows"] for row in found["combinations"] if row["rules"] == [place])


def test_scores_of_the_gallery_and_the_histogram(whole: Path) -> None:
    report = json.loads((whole / "report.json").read_bytes())
    clip = report["clip_scores"]
    assert clip["column"] == L14
    given = {
        row["uid"]: row[L14]
        for path in sorted((whole.parent / "pool" / "metadata").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    }
    known = [score for score in given.values() if score is not None]
    assert (clip["rows"], clip["without"]) == (len(known), len(given) - len(known))
    assert sum(clip["kept"]) + sum(clip["not_kept"]) == len(known)
    kept = {r["uid"] for r in read_table(whole / "fates.parquet").to_pylist() if r["fate"] == "kept"}
    assert sum(clip["kept"]) == len(kept)
    assert clip["threshold"] == pytest.approx(sorted(known, reverse=True)[len(given) // 2], abs=0.05)
    assert min(given[uid] or 0 for uid in kept) >= clip["threshold"]
    assert "auroc" not in clip
    for rows in report["gallery"].values():
        assert rows
        for row in rows:
            score = given[row["uid"]]
            assert row["clip_score"] == (None if score is None else pytest.approx(score, abs=1e-4))
    page = Page((whole / "report.html").read_text("utf-8"))
    assert "CLIP score" in page.text
    assert "Which rules drop the same samples" in page.text
    assert page.all("rect")


@pytest.mark.parametrize("gone", ["metadata", "column", "broken"])
def test_a_filter_that_cannot_be_asked_again_is_said(whole: Path, tmp_path: Path, gone: str) -> None:
    from test_report import remade

    out = tmp_path / "out"
    shutil.copytree(whole, out)
    pool = tmp_path / "pool"
    shutil.copytree(whole.parent / "pool", pool)
    for path in sorted((pool / "metadata").glob("*.parquet")):
        if gone == "metadata":
            path.unlink()
        elif gone == "broken":
            path.write_bytes(b"PAR1 no more")
        else:
            pq.write_table(pq.read_table(path).drop_columns([L14]), path)
    settings = Settings(pool=str(pool), filter=EXPRESSION, train=False)
    report, page = remade(out, settings)
    assert report["overlap"] == report["clip_scores"] == {}
    assert report["fates"]["kept"] > 0
    expected = "The metadata is not where it was" if gone == "metadata" else "The filter cannot be asked again"
    assert expected in page.text


@pytest.mark.parametrize(("files", "rows"), [(1, 0), (1, 1), (3, 1_009), (2, 200_003), (MAX_FILES + 7, 2_000)])
def test_stretches_are_bounded_and_cover(tmp_path: Path, files: int, rows: int) -> None:
    paths = []
    for number in range(files):
        paths.append(tmp_path / f"{number:08d}.parquet")
        table = pa.table({"n": pa.array(range(rows), pa.int64())})
        pq.write_table(table, paths[-1], row_group_size=30_000)
    seen = [(path, begin, batch.column(0).to_pylist()) for path, begin, batch in stretches(paths, ["n", "absent"])]
    for _, begin, values in seen:
        assert values == list(range(begin, begin + len(values)))
    total = sum(len(values) for _, _, values in seen)
    assert total <= MAX_ROWS
    if files * rows <= MAX_ROWS:
        assert total == files * rows
    else:
        assert total > MAX_ROWS * 0.9
        assert len({path for path, _, _ in seen}) == min(files, MAX_FILES)


def examined(drops: list[list[int]], **scores: list[float]) -> Examined:
    mask = np.array(drops, bool).reshape(len(drops), -1)
    uids = np.zeros(len(drops), "u8,u8")
    uids["f1"] = np.arange(len(drops))
    columns = {name: np.array(values, np.float32) for name, values in scores.items()}
    return Examined(len(drops), uids, ~mask.any(axis=1), columns, [f"r{i}" for i in range(mask.shape[1])], mask)


def test_overlap_by_hand() -> None:
    found = overlap(examined([[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]]))
    assert found.rules == [RuleDrops("r0", 3, 1), RuleDrops("r1", 2, 0), RuleDrops("r2", 1, 1)]
    assert found.combinations[0] == Combination([0, 1], 2)
    assert found.dropped == 4
    assert overlap(examined([[0], [0]])).combinations == []
    many = overlap(examined([[int(b) for b in f"{n:05b}"] for n in range(32)]))
    assert len(many.combinations) == 12
    assert many.other_combinations == 31 - 12


@pytest.mark.parametrize("size", [2, 7, 60])
def test_auroc_counts_couples(size: int) -> None:
    rng = np.random.default_rng(size)
    scores = rng.integers(0, 6, size) / 8
    clean = rng.random(size) < 0.5
    clean[:2] = (True, False)
    truth = {"clean": clean, "mismatched": ~clean}
    found = clip_scores(examined([[0]] * size, **{L14: scores.tolist()}), "no_filter", {}, truth)
    assert found is not None
    wins = [float(a > b) + 0.5 * float(a == b) for a in scores[clean] for b in scores[~clean]]
    assert found.auroc == pytest.approx(sum(wins) / len(wins), abs=1e-6)
    assert sum(found.clean) + sum(found.mismatched) == size
    assert found.threshold is None


def test_auroc_needs_both_kinds_and_scores_may_be_equal_or_absent() -> None:
    truth = {"clean": np.ones(3, bool), "mismatched": np.zeros(3, bool)}
    seen = examined([[0]] * 3, **{L14: [0.5, 0.5, float("nan")]})
    found = clip_scores(seen, "clip_score(l14, threshold=0.25)", {}, truth)
    assert found is not None
    assert found.auroc is None
    assert found.threshold == 0.25
    assert sum(found.kept) == 2
    assert clip_scores(replace(seen, scores={}), "no_filter", {}, {}) is None
    other = clip_scores(seen, "clip_score(b32, threshold=0.25)", {}, {})
    assert other is not None
    assert other.threshold is None


def test_rules_against_the_truth_by_hand() -> None:
    drops = [[1, 0], [1, 1], [0, 1], [0, 0], [1, 1]]
    truth = {
        "clean": np.array([0, 1, 0, 1, 0], bool),
        "mismatched": np.array([1, 0, 0, 0, 1], bool),
        "judged": np.array([1, 1, 1, 1, 0], bool),  # the last is not in the shards
    }
    found = rules_against_truth(examined(drops), truth)
    assert found is not None
    assert (found.rows, found.clean) == (4, 2)
    first, second = found.rules
    assert (first.drops, first.drop_precision, first.drop_recall) == (2, 0.5, 0.5)
    assert (first.keep_precision, first.keep_recall) == (0.5, 0.5)
    assert first.kinds == {"mismatched": 1.0}
    assert second.kinds == {"mismatched": 0.0}
    whole = found.whole
    assert (whole.drops, whole.drop_precision, whole.drop_recall) == (3, round(2 / 3, 6), 1.0)
    assert (whole.keep_precision, whole.keep_recall) == (1.0, 0.5)
    nothing = rules_against_truth(examined([[0, 0]] * 5), truth)
    assert nothing is not None
    assert nothing.rules[0].drop_precision is None
    assert rules_against_truth(examined(drops), {}) is None


def test_truth_is_joined_by_uid(tmp_path: Path) -> None:
    from dcfast.report.facts.truth import truth_masks
    from dcfast.uids.sets import uid_parse

    (tmp_path / "world").mkdir()
    rows = [
        {"uid": uid_of(n), "clean": n % 2 == 0, "mismatched": n % 2 == 1, "leak": "exact" if n == 3 else ""}
        for n in range(6)
    ]
    pq.write_table(pa.Table.from_pylist(rows[::-1]), tmp_path / "world" / "truth.parquet")
    fate = ["kept", "dropped", "quarantined", "dropped", "kept"]
    pq.write_table(fates([(i, f, None) for i, f in enumerate(fate)]), tmp_path / "fates.parquet")
    uids, _ = uid_parse(pa.array([uid_of(n) for n in (3, 2, 5, 0, 99)]))
    names = uids_of(replace(examined([[0]] * 5), uids=uids))
    truth = truth_masks(names, tmp_path)
    assert truth["clean"].tolist() == [False, True, False, True, False]
    assert truth["leak"].tolist() == [True, False, False, False, False]
    assert truth["judged"].tolist() == [True, False, False, True, False]
    assert truth_masks(names, tmp_path / "elsewhere") == {}


def test_examine_of_empty_metadata_is_an_error(tmp_path: Path) -> None:
    from dcfast.uids.sets import save_subset

    save_subset(tmp_path / "subset.npy", np.zeros(0, "u8,u8"))
    pq.write_table(pa.table({"uid": pa.array([], pa.string())}), tmp_path / "m.parquet")
    with pytest.raises(ValueError, match="the metadata has no rows"):
        examine(run_of(tmp_path), [tmp_path / "m.parquet"], "no_filter", {})


def test_mistakes_are_those_of_the_truth(tmp_path: Path) -> None:
    from dcfast.report.facts.truth import mistakes

    assert mistakes(tmp_path) == {}
    (tmp_path / "world").mkdir()
    truth = [{"key": f"k{n}", "clean": n % 2 == 0, "mismatched": n % 4 == 1, "flat": n % 2 == 1} for n in range(40)]
    pq.write_table(pa.Table.from_pylist(truth), tmp_path / "world" / "truth.parquet")
    fate = [(n, "kept" if n < 20 else "dropped", None if n < 20 else "a rule") for n in range(40)]
    pq.write_table(fates(fate), tmp_path / "fates.parquet")
    found = mistakes(tmp_path)
    assert len(found["kept_faulty"]) == len(found["dropped_clean"]) == 6
    for row in found["kept_faulty"]:
        number = int(str(row.key)[1:])
        assert number < 20
        assert number % 2 == 1
        assert row.defects == (["caption of another picture"] if number % 4 == 1 else []) + ["flat picture"]
    assert {len(row.defects) for row in found["kept_faulty"]} == {1, 2}
    for row in found["dropped_clean"]:
        assert int(str(row.key)[1:]) >= 20
        assert int(str(row.key)[1:]) % 2 == 0
    assert mistakes(tmp_path) == found


def test_clean_and_mismatched_pairs_are_drawn_where_the_truth_is_known(tmp_path: Path) -> None:
    truth = {"clean": np.array([1, 0, 1], bool), "mismatched": np.array([0, 1, 0], bool)}
    clip = clip_scores(examined([[0]] * 3, **{L14: [0.5, 0.1, 0.3]}), "clip_score(l14, threshold=0.2)", {}, truth)
    report = replaced(collect(run_of(tmp_path)), clip_scores=clip)
    page = Page(render(report, Pictures({"kept": [], "dropped": []}, [])))
    drawn = [str(values.get("aria-label")) for values in page.all("svg") if values.get("role") == "img"]
    assert drawn == ["CLIP scores of kept and not kept rows", "CLIP scores of clean and mismatched pairs"]
    assert len([v for v in page.all("rect") if v.get("class") == "col faulty"]) == 1
    assert len([v for v in page.all("line") if v.get("class") == "threshold"]) == 2
    assert "scores above a mismatched one in 100.0% of all such couples" in page.text
