"""Filters by CLIP score through the whole workflow: thresholds found by passes over files equal NumPy's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from pool_builder import plain_pool, uid_of


def scored_pool(root: Path, count: int, scores: np.ndarray) -> Path:
    per_shard = -(-count // 3)
    given = iter(range(count))

    def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        mine = [scores[next(given)] for _ in rows]
        return {
            "clip_l14_similarity_score": [None if np.isnan(s) else float(s) for s in mine],
            "clip_b32_similarity_score": [float(i) for i in range(len(rows))],
        }

    builder = plain_pool(root, count, 3)
    assert all(len(s) <= per_shard for s in builder.shards)
    return builder.write(columns)


def kept(out: Path) -> set[str]:
    return {r["uid"] for r in pq.read_table(out / "fates.parquet").to_pylist() if r["fate"] == "kept"}


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.999, 1.0])
def test_fraction_is_datacomps_threshold(tmp_path: Path, fraction: float) -> None:
    count = 60
    rng = np.random.default_rng(7)
    scores = np.round(rng.normal(0.2, 0.1, count), 2)  # ties on purpose
    scores[[5, 17]] = np.nan
    pool = scored_pool(tmp_path / "pool", count, scores)
    text = f"clip_score(l14, fraction={fraction})"
    summary = run(tmp_path / "run", Settings(pool=str(pool), filter=text), last="filter", workers=2)["filter"]

    place = int(count * fraction)
    threshold = -np.sort(-scores)[place] if place < count else -np.inf  # NaN sorts last, as in the reference
    assert kept(tmp_path / "run") == {uid_of(i) for i in range(count) if scores[i] >= threshold}
    assert summary.filter == text
    dropped = summary.reasons.get(text, 0)
    assert dropped == count - summary.fates["kept"]


def test_default_filter_uses_the_score_where_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    scores = rng.normal(0.2, 0.1, 30)
    pool = scored_pool(tmp_path / "pool", 30, scores)
    summary = run(tmp_path / "run", Settings(pool=str(pool)), last="filter")["filter"]
    assert summary.filter == "basic_filter & clip_score(l14, fraction=0.3)"
    assert any("contaminated" in note for note in summary.notes)
    best = np.argsort(-scores)[: int(30 * 0.3) + 1]  # the value AT that index is kept too
    assert kept(tmp_path / "run") == {uid_of(int(i)) for i in best}


def test_score_of_the_pool_decides_not_of_the_downloaded(tmp_path: Path) -> None:
    # a rotted link counts for the threshold, as DataComp's uses all metadata rows
    scores = np.linspace(0, 1, 30)
    pool = scored_pool(tmp_path / "pool", 30, scores)
    table = pq.read_table(pool / "metadata/00000000.parquet")
    high = table.slice(0, 5).to_pylist()
    for i, row in enumerate(high):
        row |= {"uid": uid_of(9000 + i), "clip_l14_similarity_score": 5.0 + i}
    import pyarrow as pa

    pq.write_table(
        pa.concat_tables([table, pa.Table.from_pylist(high, schema=table.schema)]), pool / "metadata/00000000.parquet"
    )
    summary = run(tmp_path / "run", Settings(pool=str(pool), filter="clip_score(l14, fraction=0.2)"), last="filter")
    assert kept(tmp_path / "run") == {uid_of(i) for i in (29, 28, 27)}  # index 7 of 35: five rotted, three whole
    assert summary["filter"].fates["missing"] == 5
    assert json.loads((tmp_path / "run/state/filter.json").read_text())["thresholds"]


def test_arithmetic_of_filters_and_reasons(tmp_path: Path) -> None:
    scores = np.linspace(0, 1, 30)
    pool = scored_pool(tmp_path / "pool", 30, scores)
    text = "clip_score(l14, threshold=0.5) & ~clip_score(b32, threshold=8)"
    summary = run(tmp_path / "run", Settings(pool=str(pool), filter=text), last="filter")["filter"]
    expected = {uid_of(i) for i in range(30) if scores[i] >= 0.5 and i % 10 < 8}
    assert kept(tmp_path / "run") == expected
    assert set(summary.reasons) == {"clip_score(l14, threshold=0.5)", "~clip_score(b32, threshold=8.0)"}
