"""The report against the truth of the built-in world."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from dcfast.report.facts.collect import collect
from dcfast.report.facts.truth import Judgement, WorldTruth, compare_with_truth
from dcfast.report.page.images import EvalsetPreviews, PoolPreviews
from dcfast.report.page.page import look_up, render
from report_builder import evidence, fates, run_of


def test_truth_gives_precision_and_recall(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    kinds = [("exact", True), ("near", True), ("near", False), ("", True), ("", False), ("exact", False)]
    names = [f"k{i}" for i in range(len(kinds))]
    pq.write_table(
        pa.table(
            {
                "key": [*names, "gone"],
                "clean": [False, False, False, True, True, False, True],
                "mismatched": [False, True, False, False, False, False, False],
                "leak": [*(kind for kind, _ in kinds), "near"],
            }
        ),
        tmp_path / "world" / "truth.parquet",
    )
    fate = ["dropped", "dropped", "kept", "kept", "dropped", "quarantined"]
    pq.write_table(fates([(i, f, None) for i, f in enumerate(fate)]), tmp_path / "fates.parquet")
    hits = [(i, "set", "perceptual", 1) for i, (_, hit) in enumerate(kinds) if hit]
    pq.write_table(evidence(hits), tmp_path / "contamination.parquet")
    found = compare_with_truth(tmp_path)
    assert found is not None
    assert found.samples == 6
    right = found.contamination
    assert right is not None
    assert (right.found, right.true, right.correct) == (3, 3, 2)
    assert (right.precision, right.recall) == (round(2 / 3, 6), round(2 / 3, 6))
    assert right.kinds["exact"].recall == 1.0
    assert right.kinds["near"].recall == 0.5
    assert right.quarantined_unfound == 1
    assert found.filter == Judgement(2, 2, 1, 0.5, 0.5)
    by_kind = {row.kind: row for row in found.kinds}
    assert by_kind["mismatched"].dropped == 1
    assert by_kind["leak"].samples == 4
    report = collect(run_of(tmp_path, pool=None))
    assert report.world == found
    page = render(report, look_up(report, PoolPreviews(tmp_path, tmp_path), EvalsetPreviews(tmp_path, [])))
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert "Against the truth" in text
    assert "66.7%" in text


def test_truth_of_other_columns_is_passed_over(tmp_path: Path) -> None:
    assert compare_with_truth(tmp_path) is None
    (tmp_path / "world").mkdir()
    pq.write_table(pa.table({"uid": ["a"]}), tmp_path / "world" / "truth.parquet")
    pq.write_table(fates([(0, "kept", None)]), tmp_path / "fates.parquet")
    assert compare_with_truth(tmp_path) is None
    pq.write_table(pa.table({"key": ["k0"]}), tmp_path / "world" / "truth.parquet")
    assert compare_with_truth(tmp_path) == WorldTruth(1, [])
