"""The growth figure's script runs from start to end, and a wrong answer is not timed."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.bench

growth = pytest.importorskip("bench.growth", reason="bench is part of the checkout, not of the package")


def test_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    cache = tmp_path / "cache"
    cache.mkdir()
    options = ["--quick", "--results", str(tmp_path), "--plot", str(tmp_path / "a.svg"), "--cache", str(cache)]
    assert growth.main(options) == 0
    rows = [json.loads(line) for line in (tmp_path / "growth.jsonl").read_text().splitlines()]
    assert [(row["op"], row["samples"]) for row in rows] == [
        (op, size) for size in growth.QUICK_SIZES for op in ("pool_index_build", "pool_index_lookup")
    ]
    assert all(row["checked"] and row["median_s"] > 0 and row["peak_bytes"] > 1 << 20 for row in rows)
    assert [row["file_bytes"] for row in rows[::2]] == [192 + 24 * n for n in growth.QUICK_SIZES]
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(last) == 4
    assert ET.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    assert not list(cache.iterdir())


def test_wrong_answer_is_not_timed(tmp_path: Path) -> None:
    growth.build(tmp_path, 500)
    assert len(growth.look_up(tmp_path, 500, 3000)["seconds"]) == 5
    records = np.load(tmp_path / "pool.npy")
    records["f2"][250] += 1
    np.save(tmp_path / "pool.npy", records)
    with pytest.raises(growth.harness.WrongAnswerError, match="row ids differs"):
        growth.look_up(tmp_path, 500, 3000)
    with pytest.raises(growth.harness.WrongAnswerError):
        growth.look_up(tmp_path, 501, 3000)


def test_made_pools_are_cut_as_real_ones() -> None:
    from dcfast.index.pool import MAX_SEGMENTS, group_files

    for samples in (1, 9_999, 10_000, 10_001, 12_345_678, 100_000_000):
        shards = [f"{k:08d}.tar" for k in range(-(-samples // growth.SAMPLES_A_SHARD))]
        expected = [(first, len(names)) for first, names in group_files(shards, MAX_SEGMENTS)]
        assert growth.layout_of(samples) == expected
    uids = growth.uids_of(np.arange(300_000, dtype=np.uint64))
    assert len(np.unique(uids["f0"])) == 297_000
