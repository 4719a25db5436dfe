"""Row ids: made and taken apart in one place, and equal however they are asked for."""

from __future__ import annotations

import re
from pathlib import Path

import dcfast
import numpy as np
import pytest
from dcfast.index.rows import ROW_BITS, ROW_MASK, make_row_ids, row_ids, split_row_ids
from tar_reference import make_tar, sample_members


def test_there_and_back() -> None:
    shard = np.array([0, 0, 1, 7, 2**32 - 1], np.uint32)
    row = np.array([0, 2**32 - 1, 5, 0, 2**32 - 1], np.uint32)
    ids = make_row_ids(shard, row)
    assert ids.tolist() == [s << 32 | r for s, r in zip(shard.tolist(), row.tolist(), strict=True)]
    assert [part.tolist() for part in split_row_ids(ids)] == [shard.tolist(), row.tolist()]
    assert make_row_ids(shard.astype(np.int64)[:4], row.astype(np.int64)[:4]).tolist() == ids.tolist()[:4]
    assert [len(part) for part in split_row_ids(np.empty(0, np.uint64))] == [0, 0]
    assert (ROW_BITS, ROW_MASK) == (32, 0xFFFFFFFF)


def test_rows_of_a_segment_with_empty_shards(tmp_path: Path) -> None:
    counts = [3, 0, 0, 2, 1, 0]
    for k, count in enumerate(counts):
        make_tar(tmp_path / f"{k}.tar", [m for i in range(count) for m in sample_members(100 * k + i, 50)])
    segment = dcfast.index_tars(tmp_path).segment
    expected = [(10 + k) << 32 | row for k, count in enumerate(counts) for row in range(count)]
    assert row_ids(segment, 10).tolist() == expected
    some = np.array([5, 0, 3, 3])
    assert row_ids(segment, 10, some).tolist() == [expected[i] for i in some]
    assert row_ids(segment, 0, np.empty(0, np.int64)).tolist() == []
    assert dcfast.PoolReader(None, [segment]).row_ids(np.arange(6)).tolist() == row_ids(segment, 0).tolist()


REWRITTEN = {"resharding/plan.py", "resharding/contents.py"}
OTHER_PAIRS = {"decontamination/matching.py", "dedup/edges.py"}
"""They pack other numbers: a picture and its score, and the two ends of a pair."""


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        (r"(?:<<|>>) np\.uint64\((?:32|ROW_BITS)\)|np\.uint64\(0xFFFFFFFF\)", {"index/rows.py"}),
        (r":016x\}", {"storage/hashing.py"}),  # of hashes: uids are written by the core
    ],
)
def test_nobody_does_it_by_hand(pattern: str, places: set[str]) -> None:
    root = Path(dcfast.__file__).parent
    by_hand = (path for path in root.rglob("*.py") if re.search(pattern, path.read_text("utf-8")))
    assert {path.relative_to(root).as_posix() for path in by_hand} - REWRITTEN - OTHER_PAIRS == places
