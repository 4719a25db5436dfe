"""Indexes by Arrow's C interface: the rows that tables and look-ups have, in batches."""

from __future__ import annotations

from pathlib import Path

import dcfast
import numpy as np
import pyarrow as pa
import pytest
from dcfast.index import streams
from dcfast.uids import uid_format, uid_parse
from tar_reference import make_tar, sample_members


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    folder = tmp_path / "pool"
    folder.mkdir()
    for k in range(3):
        members = [m for n in range(10 * k, 10 * k + 3 + k) for m in sample_members(n, 50)]
        make_tar(folder / f"{k:08d}.tar", [*members, (f"{k}-without.txt", b"no uid")])
    return folder


@pytest.mark.parametrize("rows_at_once", [1, 4, 1 << 18])
def test_a_tar_index_streams_its_samples(pool: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int) -> None:
    monkeypatch.setattr(streams, "ROWS_AT_ONCE", rows_at_once)
    index = dcfast.index_tars(pool)
    table, expected = pa.table(index), index.samples()
    table.validate(full=True)
    assert len(table) == len(expected) == 15
    assert [len(batch) for batch in table.to_batches()][:2] == {1: [1, 1], 4: [4, 4]}.get(rows_at_once, [15])
    names = [index.segment.shard_names[shard] for shard in table["shard"].to_pylist()]
    assert names == expected["shard"].to_pylist()
    for name in ("row", "key", "width", "height", "flags"):
        assert table[name].to_pylist() == expected[name].to_pylist(), name
    uids, valid = uid_parse(table["uid"], errors="mask")
    assert table["uid"].type == pa.binary(16)
    assert valid.tolist() == expected["uid"].is_valid().to_pylist()
    assert np.count_nonzero(~valid) == 3
    assert uid_format(uids[valid], as_list=True) == [uid for uid in expected["uid"].to_pylist() if uid]


@pytest.mark.parametrize("rows_at_once", [1, 5, 1 << 18])
def test_a_pool_index_streams_its_rows(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr(streams, "ROWS_AT_ONCE", rows_at_once)
    dcfast.refresh_index(tmp_path / "index", pool)
    index = dcfast.PoolIndex.open(tmp_path / "index")
    table = pa.table(index)
    table.validate(full=True)
    assert table.schema == pa.schema({"uid": pa.binary(16), "shard": pa.uint32(), "row": pa.uint32()})
    assert len(table) == len(index) == 12
    found = index.find(uid_parse(table["uid"])[0], missing="raise")
    assert table["shard"].to_pylist() == found.shard.tolist()
    assert table["row"].to_pylist() == found.row.tolist()
    assert table["uid"].to_pylist() == sorted(table["uid"].to_pylist())


def test_what_is_no_copy_is_a_view_of_the_segment(pool: Path) -> None:
    index = dcfast.index_tars(pool)
    [batch] = pa.RecordBatchReader.from_stream(index)
    for name in ("width", "height", "flags"):
        assert batch.column(name).buffers()[1].address == getattr(index.segment, name).ctypes.data, name
    del index  # the batch keeps the map
    assert batch["key"].to_pylist() == pa.table(dcfast.index_tars(pool))["key"].to_pylist()


def test_an_empty_index_streams_its_columns(tmp_path: Path) -> None:
    make_tar(tmp_path / "0.tar", [])
    table = pa.table(dcfast.index_tars(tmp_path / "0.tar"))
    assert len(table) == 0
    assert table.column_names == ["shard", "row", "key", "uid", "width", "height", "flags"]
    empty = pa.table(dcfast.PoolIndex(tmp_path, np.empty(0, "u8,u8,u8"), [0, 1]))
    assert empty.column_names == ["uid", "shard", "row"]


def test_polars_reads_them_and_looks_up(tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pl = pytest.importorskip("polars")
    monkeypatch.setattr(streams, "ROWS_AT_ONCE", 4)
    dcfast.refresh_index(tmp_path / "index", pool)
    index = dcfast.PoolIndex.open(tmp_path / "index")
    frame = pl.DataFrame(dcfast.index_tars(pool)).join(pl.DataFrame(index), on="uid", how="inner")
    assert len(frame) == 12
    assert (frame["shard"] == frame["shard_right"]).all()
    assert (frame["row"] == frame["row_right"]).all()
    uids, _ = uid_parse(frame["uid"].to_arrow().cast(pa.binary(16)))
    assert index.contains(uids).all()
