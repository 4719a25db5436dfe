"""The bar on real data: every duplicate of the real pool is found, and nothing else but among the odd pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dcfast.dedup.duplicates import DUPLICATE_TABLE, DUPLICATES
from dcfast.run.dedup_command import DedupOptions, dedup_pool
from dcfast.storage.parquet import read_table
from dcfast.uids.sets import load_subset, uid_format

pytestmark = pytest.mark.real_data


def kinds_of(real_data: Path) -> dict[str, str]:
    lines = (real_data / "pool_truth.tsv").read_text().splitlines()[1:]
    return {uid: kind.split(":")[0] for uid, kind in (line.split("\t") for line in lines)}


@pytest.mark.parametrize(
    ("methods", "keep"),
    [
        (["content", "perceptual256", "perceptual"], "largest"),
        (["perceptual256"], "first"),
        *(
            pytest.param(methods, keep, marks=pytest.mark.long)
            for methods in (["content", "perceptual256"], ["perceptual256"], ["perceptual"])
            for keep in ("largest", "first")
        ),
    ],
)
def test_all_duplicates_and_no_false_group(methods: list[str], keep: str, real_data: Path, tmp_path: Path) -> None:
    truth, out = kinds_of(real_data), tmp_path / "out"
    options = DedupOptions(pool=str(real_data / "pool"), out=str(out), methods=methods, keep=keep, workers=2)
    summary = dedup_pool(options)
    rows = read_table(out / DUPLICATE_TABLE).to_pylist()
    ours = [row for row in rows if "odd" not in (truth[row["uid"]], truth[row["kept_uid"]])]
    # a duplicate and the photo that it is one of: one of the two goes, whichever is first
    pairs = [{row["uid"], row["kept_uid"]} for row in ours]
    duplicates = {uid for uid, kind in truth.items() if kind == "duplicate"}
    assert len(duplicates) == len(pairs) == 60
    assert set().union(*pairs) >= duplicates
    assert all(sorted(truth[uid] for uid in pair) == ["duplicate", "match"] for pair in pairs)
    assert sorted(uid_format(np.asarray(load_subset(out / DUPLICATES)), as_list=True)) == sorted(r["uid"] for r in rows)
    assert summary.duplicates == len(rows)
    assert summary.samples == 1952
    assert summary.readable == 1940


def test_the_pool_against_itself_elsewhere(real_data: Path, tmp_path: Path) -> None:
    """An older pool with the same samples: what it has is dropped, whose picture can be read."""
    older = tmp_path / "older"
    for name in ("shards", "metadata"):
        (older / name).mkdir(parents=True)
        for file in sorted((real_data / "pool" / name).glob("0000000[01]*")):
            (older / name / file.name).symlink_to(file)
    options = DedupOptions(pool=str(real_data / "pool"), against=[str(older)], out=str(tmp_path / "out"), workers=2)
    summary = dedup_pool(options)
    table = read_table(tmp_path / "out" / DUPLICATE_TABLE)
    same = sum(a == b for a, b in zip(table["uid"].to_pylist(), table["kept_uid"].to_pylist(), strict=True))
    assert same >= 580  # two shards of 300, less what cannot be read, and copies whose kept one is another
    assert summary.of_older >= 600 - 12
