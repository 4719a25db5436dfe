"""Metadata whose uids or scores are not what they should be: counted, named, and the run goes on where it can."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.errors import PoolError
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.uids.sets import uid_parse
from pool_builder import plain_pool, uid_of

L14, B32 = "clip_l14_similarity_score", "clip_b32_similarity_score"


def go(pool: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return run(out, Settings(**{"pool": str(pool), "filter": "no_filter", "train": False, **changes}))


def set_column(path: Path, name: str, values: Any) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, values), path)


def test_a_uid_of_bytes_that_are_no_text_costs_its_row(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool", 6, 1).write()
    raw = pa.array([b"\xff" * 32, *(uid_of(i).encode() for i in range(1, 6))], pa.binary())
    set_column(pool / "metadata/00000000.parquet", "uid", raw.view(pa.string()))
    done = go(pool, tmp_path / "run")["filter"]
    assert (done.malformed_uids, done.fates["kept"], done.fates["unlisted"]) == (1, 5, 1)
    (reason,) = pq.read_table(tmp_path / "run/quarantine.parquet")["reason"].to_pylist()
    assert reason.startswith(r"uid '\\xff\\xff")
    assert reason.endswith("of metadata 00000000.parquet, row 0, is not 32 hex digits")


def test_some_malformed_uids_are_counted_and_named_in_a_note(tmp_path: Path) -> None:
    odd = {1: uid_of(1)[:-1] + "x"}
    pool = plain_pool(tmp_path / "pool").write(
        lambda rows: {
            "uid": [odd.get(i, r["uid"]) if rows[0]["uid"] == uid_of(0) else r["uid"] for i, r in enumerate(rows)]
        }
    )
    done = go(pool, tmp_path / "run")["filter"]
    assert (done.fates["kept"], done.fates["unlisted"], done.malformed_uids) == (11, 1, 1)
    (note,) = done.notes
    assert note.startswith("1 of 12 metadata rows have no uid that can be read (the first: uid ")
    assert f"{odd[1]!r} of metadata 00000000.parquet, row 1, is not 32 hex digits)" in note


def test_uids_may_be_written_as_uuids(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write(lambda rows: {"uid": [str(uuid.UUID(r["uid"])) for r in rows]})
    done = go(pool, tmp_path / "run")["filter"]
    assert (done.fates["kept"], done.malformed_uids, done.notes) == (12, 0, [])


@pytest.mark.parametrize("spoil", [lambda uid: uid[:-1] + "x", lambda uid: uid + "0", lambda _: None])
def test_metadata_without_any_uid_ends_the_run_behind_the_index(tmp_path: Path, spoil: Any) -> None:
    def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        return {"uid": pa.array([spoil(r["uid"]) for r in rows], pa.string())}  # type: ignore[dict-item]

    pool = plain_pool(tmp_path / "pool").write(columns)
    with pytest.raises(PoolError, match="none of the 12 metadata rows has a uid of 32 hex digits") as caught:
        go(pool, tmp_path / "run")
    assert f"{spoil(uid_of(0))!r} in {pool / 'metadata/00000000.parquet'}" in str(caught.value)
    assert not (tmp_path / "run/state/index.json").exists()
    assert (tmp_path / "run/index/pool.npy").exists()


def test_scores_that_are_not_finite_are_counted_in_the_report(tmp_path: Path) -> None:
    inf = float("inf")

    def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        n = len(rows)
        return {L14: [inf, -inf, None, 1e300, *(i / n for i in range(4, n))], B32: [inf] * n}

    pool = plain_pool(tmp_path / "pool", 12, 1).write(columns)
    go(pool, tmp_path / "run", filter="clip_score(l14, fraction=0.5)")
    clip = json.loads((tmp_path / "run/report.json").read_bytes())["clip_scores"]
    assert (clip["column"], clip["rows"], clip["without"], clip["infinite"]) == (L14, 8, 1, 3)
    assert sum(clip["kept"]) + sum(clip["not_kept"]) == 8
    assert "of 3 it is no finite number" in (tmp_path / "run/report.html").read_text("utf-8")
    go(pool, tmp_path / "other", filter="clip_score(b32, fraction=0.5)")
    assert json.loads((tmp_path / "other/report.json").read_bytes())["clip_scores"]["column"] == L14


def test_uids_of_bytes_that_are_no_text_are_shown_where_they_are_refused() -> None:
    with pytest.raises(ValueError, match=r"texts\[0\] is not a uid.*got b'.xff"):
        uid_parse(pa.array([b"\xff" * 32], pa.binary()).view(pa.string()))


@pytest.mark.parametrize(
    ("rule", "words"),
    [("json", r"a column uid \(or url or key: --uid-from\)"), ("url", "a column url; "), ("key", "a column key; ")],
)
def test_the_column_that_is_missing_is_that_of_the_rule(tmp_path: Path, rule: str, words: str) -> None:
    pool = plain_pool(tmp_path / "pool", 2, 1).write()
    shutil.rmtree(pool / "metadata")
    with pytest.raises(PoolError, match=f"at least {words}"):
        go(pool, tmp_path / "run", uid_from=rule)
    assert not (tmp_path / "run").exists()
