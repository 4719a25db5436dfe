"""A run that kept nothing, or lost over half before the filter, says so once, and has a status of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dcfast.errors import NothingKeptError
from dcfast.process.command import status_of
from dcfast.process.exit_codes import DONE, LOST
from dcfast.run.workflow import main
from dcfast.rundir.summaries import FilterSummary
from dcfast.stages.filter.fates import STRUCTURE, URL_REASONS
from dcfast.stages.filter.losses import advice_on, loss_warning
from dcfast.storage.records import replaced
from pool_builder import PoolBuilder, Sample


@pytest.mark.parametrize(
    ("samples", "missing", "chosen", "status", "said"),
    [
        ([Sample(n) for n in range(4)], 4, "no_filter", DONE, ""),
        (
            [Sample(n, caption="two words") for n in range(3)],
            0,
            "basic_filter",
            LOST,
            r"warning: nothing was kept of 3 samples and metadata rows; the commonest reason: .* \(3\)\. What to do: "
            "the filter dropped them: try another --filter, or no_filter",
        ),
        (
            [Sample(0), *(Sample(n, without=("txt",)) for n in (1, 2))],
            0,
            "no_filter",
            LOST,
            r"warning: 2 of 3 samples and metadata rows were lost before the filter; the commonest reason: no caption "
            r"\(2\)\. What to do: a caption must be KEY\.txt",
        ),
        (
            [Sample(0)],
            2,
            "no_filter",
            LOST,
            r"2 of 3 samples .*: metadata rows without a sample \(2\)\. What to do: either the pictures could not",
        ),
    ],
)
def test_the_warning(
    samples: list[Sample],
    missing: int,
    chosen: str,
    status: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pool = PoolBuilder(tmp_path / "pool", [samples], missing=list(range(90, 90 + missing))).write()
    words = ["--pool", str(pool), "--out", str(tmp_path / "run"), "--filter", chosen, "--no-train", "--quiet"]
    assert main([*words, "--to", "filter", "--workers", "1"]) == status
    warnings = [line for line in capsys.readouterr().err.split("\n") if line.startswith("warning")]
    assert len(warnings) == bool(said)
    assert not said or re.search(said, warnings[0])


def test_a_training_on_nothing_has_the_same_status() -> None:
    """``test_nothing_to_train_on`` has the error."""
    assert status_of(NothingKeptError("nothing to train on")) == LOST


def test_metadata_alone() -> None:
    summary = FilterSummary("x", {}, None, None, {}, metadata_rows=5, metadata_outcomes={"words": 5}, subset_metadata=0)
    said = "nothing was kept of 5 samples and metadata rows; the commonest reason: words (5). What to do: the filter"
    assert loss_warning(summary).startswith(said)
    assert loss_warning(replaced(summary, subset_metadata=1)) == ""
    assert loss_warning(replaced(summary, metadata_rows=0, metadata_outcomes={})).endswith(": the pool is empty")


def test_every_reason_of_the_quarantine_has_its_advice() -> None:
    of_filter = advice_on("anything of a filter")
    for reason in [*(reason for _, reason in STRUCTURE), *URL_REASONS.values(), "no metadata row has this uid"]:
        assert advice_on(reason) != of_filter, reason
