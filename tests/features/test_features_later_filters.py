"""The filters of a study that stand on scores of embeddings, in the built-in world: its own target, and the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dcfast.filters import compile_filter
from dcfast.report.facts import filter_parts
from dcfast.report.facts.metadata_rows import examine, metadata_files
from dcfast.report.facts.truth import truth_masks
from dcfast.run.workflow import run
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.stages import teacher
from dcfast.study.grid import LATER_FILTERS, STANDARD_FILTERS, Grid, parse_filters

WORLD = {"rows": 120, "rows_per_shard": 60, "eval_scale": 0.05, "teacher_pairs": 40}


@pytest.fixture(autouse=True)
def _short_training(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(
        teacher, "RECIPE", {"samples_seen": 32, "global_batch": 16, "checkpoints": 1, "warmup_steps": 1}
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_study_knows_them_by_name() -> None:
    assert parse_filters(list(LATER_FILTERS), world=True) == LATER_FILTERS
    assert not set(LATER_FILTERS) & set(STANDARD_FILTERS)


@pytest.mark.parametrize("label", LATER_FILTERS)
def test_each_compiles_as_a_cell_runs_it(label: str, tmp_path: Path) -> None:
    settings = Settings(world=WORLD, scale="small", samples_seen=8192)
    filters = parse_filters([label], world=True)
    cell = Grid(filters=filters, scales=("small",), seeds=(7,), settings=settings).cell(tmp_path, "small", 7, label)
    compiled = compile_filter(str(cell.settings.filter))
    assert compiled.scores
    assert ("total=8192, seed=7" in str(compiled)) == ("cap" in label)


@pytest.mark.long
def test_all_of_them_in_the_world(tmp_path: Path) -> None:
    text = " & ".join(text for text in LATER_FILTERS.values() if "{" not in text)  # the others draw, by seed and total
    settings = Settings(world=WORLD, filter=text, train=False, device="cpu")
    summary = run(tmp_path / "run", settings, last="filter")["filter"]
    made = Run(tmp_path / "run", settings)
    thresholds = {key: float(value) for key, value in summary.thresholds.items()}
    seen = examine(made, metadata_files(made), summary.filter, thresholds)
    masks = truth_masks(filter_parts.uids_of(seen), made.out)
    histograms = filter_parts.source_scores(seen, masks)
    assert [h.column.partition("(")[0] for h in histograms] == [
        *("s_cliploss", "within", "normsim", "vas", "semdedup", "density", "mix")
    ]
    for histogram in histograms:
        assert histogram.threshold is not None
        assert sum(histogram.kept) + sum(histogram.not_kept) == histogram.rows > 0
        assert isinstance(histogram.clean, list)
    judged = filter_parts.rules_against_truth(seen, masks)
    assert judged is not None
    by_rule = {rule.rule: rule for rule in judged.rules}
    for term in (str(h.column).removesuffix(")") for h in histograms):
        (rule,) = (rule for name, rule in by_rule.items() if name.startswith(term) and not name.endswith("no score"))
        assert rule.drops > 0
        assert rule.keep_precision is not None
        assert rule.keep_recall is not None
