"""Samples that stand in for others: counted, said, and bounded, at the end of a training and across stops too."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from dcfast.errors import SubsetError
from dcfast.train import TrainSource, train
from dcfast.train.replaced import allowed, replacement_reasons
from rank_processes import log_lines, started
from train_builder import build_pool, small

LONG = {"samples_seen": 8 * 80, "checkpoints": 2}


def test_too_many_replaced_samples_end_a_training(tmp_path: Path) -> None:
    broken = {n: {"jpg": b"no picture"} if n % 2 else {"txt": None} for n in range(0, 60, 7)}
    source = TrainSource(shards=str(build_pool(tmp_path / "pool", 60, broken=broken)))
    options = {"overrides": {**LONG, "samples_seen": 8 * 32}, "block": 8, "window": 8}
    with pytest.raises(SubsetError, match=r"of the last \d+ samples \d+ \(\d+\.\d%\) could not be used") as info:
        train(small(tmp_path / "strict", source, **options))
    assert re.search(r"Reasons: [a-z (]+\S+.* \(\d+\)\. See replaced-\*\.jsonl; .*allow more$", str(info.value))
    summary = train(small(tmp_path / "lax", source, **options, max_replaced=0.5))
    last = log_lines(tmp_path / "lax")[-1]
    assert last["replaced"] == summary.replaced > 0
    assert last["samples_seen"] == summary.samples_seen == 8 * 32


def test_the_end_of_a_training_is_held_to_the_bound(tmp_path: Path) -> None:
    broken = {n: {"jpg": b"no picture"} for n in range(60) if n % 10}
    source = TrainSource(shards=str(build_pool(tmp_path / "pool", 60, broken=broken)))
    options = {"overrides": {"samples_seen": 64}, "block": 8, "window": 8}
    assert train(small(tmp_path / "short", source)).replaced > 3  # less than a window: counted and said
    lax = train(small(tmp_path / "lax", source, **options, max_replaced=1.0))
    for _ in range(2):  # the last checkpoint is there the second time
        with pytest.raises(SubsetError, match=rf"step 8: of the last 64 samples {lax.replaced} \("):
            train(small(tmp_path / "strict", source, **options))
    assert not (tmp_path / "strict" / "train" / "summary.json").exists()
    assert train(small(tmp_path / "strict", source, **options, max_replaced=1.0)) == lax


@pytest.mark.xdist_group("ranks")
def test_replaced_samples_are_said_once_by_all_ranks(tmp_path: Path) -> None:
    broken = {n: {"jpg": b"no picture"} for n in range(60) if n % 10}
    source = TrainSource(shards=str(build_pool(tmp_path / "pool", 60, broken=broken)))
    strict = small(tmp_path / "out", source, block=8, window=8)
    with started(tmp_path / "strict", strict, strict) as ranks:
        assert ranks.statuses() == [1, 1]
        assert re.fullmatch(r"error: step 8: of the last 64 samples \d+ .* not a picture.*\n", ranks.said(0))
        assert ranks.said(1) == ""
    lax = replace(strict, max_replaced=1.0)
    with started(tmp_path / "lax", lax, lax) as ranks:
        assert ranks.statuses() == [0, 0]
        resumed, note, line = ranks.said(0).splitlines()
        assert ranks.said(1) == ""
    assert resumed == "  train: goes on from epoch_2.pt, step 8 of 8"
    count = sum(1 for _ in replacement_reasons(tmp_path / "out" / "train", 0, 8))
    assert note == (
        f"  train: {count} of 64 samples could not be used and were replaced by others (train/replaced-*.jsonl)"
    )
    assert f"; {count} samples replaced; train/checkpoints/epoch_2.pt" in line


def test_windows_go_on_where_a_training_was_stopped(tmp_path: Path) -> None:
    """Stopped after every few steps, it ends at the step and with the counts of one that never was."""
    broken = {n: {"jpg": b"no picture"} if n % 2 else {"txt": None} for n in range(0, 60, 7)}
    source = TrainSource(shards=str(build_pool(tmp_path / "pool", 60, broken=broken)))
    options = {"overrides": LONG, "block": 8, "window": 16, "save_every_steps": 3}  # a window of 16 steps
    ends = []
    for out, every in (("whole", 80), ("often", 7)):
        left = every

        def stop(step: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise InterruptedError

        while len(ends) < 1 + (out == "often"):
            left = every
            try:
                train(small(tmp_path / out, source, **options), on_step=stop)
            except InterruptedError:
                continue
            except SubsetError as error:
                ends.append(str(error))
    assert ends[0] == ends[1]
    assert ends[0].startswith("step 16: of the last 128 samples ")


def test_none_may_be_replaced_where_none_is_allowed(tmp_path: Path) -> None:
    source = TrainSource(shards=str(build_pool(tmp_path / "pool", 60, broken={20: {"jpg": b"no picture"}})))
    assert 0 < train(small(tmp_path / "few", source)).replaced <= 3
    with pytest.raises(SubsetError, match=r"more than max_replaced allows \(0\.0%; 0 of so many\)"):
        train(small(tmp_path / "none", source, max_replaced=0.0))


@pytest.mark.parametrize(
    ("share", "seen", "most"),
    [
        (0.01, 4096, 40),
        (0.01, 80, 3),  # 0.8 and three times 0.89
        (0.01, 400, 9),  # 4 and three times 1.99
        (0.01, 4000, 40),  # no more than of a whole window
        (0.01, 2 * 4096 + 80, 85),
        (0.0, 80, 0),
        (1.0, 80, 80),
        (0.5, 4096, 2048),
        (0.01, 0, 0),
    ],
)
def test_how_many_may_be_replaced(share: float, seen: int, most: int) -> None:
    assert allowed(share, seen, 4096) == most
