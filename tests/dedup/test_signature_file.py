"""Signature files: what is written comes back, and what was altered, cut or made otherwise is refused by name."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.dedup.records import ABSENT
from dcfast.dedup.signature_file import DescriptorInfo, SignatureFile, set_names, signature_writer
from dcfast.errors import CorruptDataError, PoolError
from hypothesis import given
from hypothesis import strategies as st
from signature_builder import ISC, records, rows_of, turned, unit, write_signatures

REMEDY = "make it again by dcfast evalsets sign"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = records(7)
    made["status"][2], made["status"][3], made["flat"][4] = 3, ABSENT, 1
    others = {"empty": rows_of(records(0), [unit(0)]), "two": rows_of(records(3, 9), [unit(3)])}
    sets = {"one": rows_of(made, [unit(7)]), **others}
    return write_signatures(tmp_path / "sets.sig", sets, [ISC])


def rewritten(path: Path, change: Any = None, **columns: Any) -> Path:
    """The file with another header, or with other columns under the same one."""
    table = pq.read_table(path)
    metadata = dict(pq.ParquetFile(path).metadata.metadata)
    if change is not None:
        header = json.loads(metadata[b"dcfast"])
        change(header)
        metadata[b"dcfast"] = json.dumps(header).encode()
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    pq.write_table(table.replace_schema_metadata({b"dcfast": metadata[b"dcfast"]}), path)
    return path


def test_what_is_written_comes_back(file: Path) -> None:
    with SignatureFile(file) as opened:
        header, rows = opened.header, opened.read()
    assert [(s.name, s.rows, s.pictures, s.unreadable, s.flat) for s in header.sets] == [
        ("one", 7, 6, 1, 1),
        ("empty", 0, 0, 0, 0),
        ("two", 3, 3, 0, 0),
    ]
    assert header.descriptors == [ISC]
    assert rows.set_id.tolist() == [0] * 7 + [2] * 3
    assert rows.key.to_pylist() == [f"k{i}" for i in range(7)] + [f"k{i}" for i in range(3)]
    assert np.array_equal(rows.records[7:], records(3, 9))
    assert np.array_equal(rows.descriptors[0][:7], unit(7))
    assert set_names([file]) == ["empty", "one", "two"]


def test_equal_sets_have_equal_bytes_and_fingerprints(file: Path, tmp_path: Path) -> None:
    with SignatureFile(file) as opened:
        prints = [one.fingerprint for one in opened.header.sets]
        same = [opened.read(), list(opened.batches(2))]
    assert len(set(prints)) == 3
    with signature_writer(tmp_path / "again.sig", [ISC]) as writer:
        again = writer.add_set("one", [batch for batch in same[1] if (batch.set_id == 0).all()][:3])
    assert again.rows == 6  # of seven: another fingerprint
    assert again.fingerprint != prints[0]


@given(cuts=st.lists(st.integers(0, 20), max_size=5), data=st.data())
def test_a_fingerprint_does_not_depend_on_batches(
    cuts: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = records(20, data.draw(st.integers(0, 5)))
    edges = [0, *sorted(cuts), 20]
    whole = rows_of(made)
    parts = [
        type(whole)(whole.set_id[a:b], whole.shard[a:b], whole.key[a:b], made[a:b], []) for a, b in pairwise(edges)
    ]
    folder = tmp_path_factory.mktemp("prints")
    with signature_writer(folder / "a") as one, signature_writer(folder / "b") as other:
        assert one.add_set("s", [whole]) == other.add_set("s", parts)


def test_other_versions_and_hashes_are_refused_by_name(file: Path) -> None:
    with pytest.raises(PoolError, match=rf"sets\.sig is of version 2 of .*; this release reads version 1.*{REMEDY}"):
        SignatureFile(rewritten(file, lambda header: header.update(version=2)))
    rewritten(file, lambda header: header.update(version=1, hashes={**header["hashes"], "phash": "dct, version 9"}))
    with pytest.raises(PoolError, match=r"has phash made by 'dct, version 9'; this release makes 'dct of 64 bits, "):
        SignatureFile(file)


def test_what_is_no_signature_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": ["a"]}), tmp_path / "plain.parquet")
    with pytest.raises(
        PoolError, match=r"plain\.parquet is parquet without the header of signatures; give one of dcfast"
    ):
        SignatureFile(tmp_path / "plain.parquet")
    (tmp_path / "text").write_text("no parquet at all")
    with pytest.raises(PoolError, match=rf"signature file .*text cannot be read as parquet .*{REMEDY}"):
        SignatureFile(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        SignatureFile(tmp_path / "nothing")


def test_a_file_cut_short_is_refused_at_every_length(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for size in [0, 3, 4, *range(12, len(whole), 257), len(whole) - 1]:
        (tmp_path / "cut.sig").write_bytes(whole[:size])
        with pytest.raises((PoolError, CorruptDataError), match=r"signature file .*cut\.sig"):
            SignatureFile(tmp_path / "cut.sig")


def test_a_flipped_byte_is_an_error_or_changes_nothing(file: Path, tmp_path: Path) -> None:
    whole = bytearray(file.read_bytes())
    with SignatureFile(file) as opened:
        header, before = opened.header, opened.read()
    noticed = 0
    for at in range(4, len(whole), 131):
        changed = bytearray(whole)
        changed[at] ^= 0x10
        (tmp_path / "flipped.sig").write_bytes(changed)
        try:
            with SignatureFile(tmp_path / "flipped.sig") as opened:
                same, rows = opened.header, opened.read()
        except (PoolError, CorruptDataError):
            noticed += 1
            continue
        if same.descriptors == header.descriptors and [s.name for s in same.sets] == [s.name for s in header.sets]:
            assert np.array_equal(rows.records, before.records)
    assert noticed > 10


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda h: h["sets"][0].update(rows=8), r"its header tells of 11 rows, and it has 10"),
        (lambda h: h["sets"][0].update(fingerprint="0" * 64), r"the rows of set one are not those of its fingerprint"),
        (lambda h: h["descriptors"][0].update(dim=255), r"its columns are set, shard"),
        (lambda h: h["descriptors"][0].update(dim=0), r"descriptors\[0\]\.dim: expected a whole number >= 1; got 0"),
        (lambda h: h["descriptors"][0].update(sha256="xyz"), r"descriptors\[0\]\.sha256"),
        (lambda h: h.pop("sets"), r"missing required field"),
        (lambda h: h["sets"].__setitem__(slice(1, None), []), r"its header tells of 7 rows"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(change: Any, problem: str, file: Path) -> None:
    rewritten(file, change)
    with pytest.raises(CorruptDataError, match=problem), SignatureFile(file) as opened:
        opened.read()


def test_rows_that_do_not_fit_are_refused(file: Path) -> None:
    before = file.read_bytes()
    for column, values, problem in [
        ("h0", [0] * 10, "not those of its fingerprint"),
        ("key", ["other"] * 10, "not those of its fingerprint"),
        ("set", [9] * 10, "a row is of set 9"),
        ("key", [None] * 10, "a value is null"),
        ("descriptor_0", [np.full(256, np.nan, "<f4").tobytes()] * 10, "descriptors of isc_ft_v107 that are no finite"),
    ]:
        file.write_bytes(before)
        rewritten(file, **{column: values})
        with pytest.raises(CorruptDataError, match=problem), SignatureFile(file) as opened:
            opened.read()


def test_writing_refuses_what_would_not_be_read(tmp_path: Path) -> None:
    with signature_writer(tmp_path / "a.sig", [ISC]) as writer:
        writer.add_set("one", [rows_of(records(2), [unit(2)])])
        with pytest.raises(ValueError, match="give each of at most 65,535 sets once"):
            writer.add_set("one", [])
        with pytest.raises(ValueError, match=r"descriptors of isc_ft_v107 have shape \(2, 8\); pass \(2, 256\)"):
            writer.add_set("two", [rows_of(records(2), [unit(2, 8)])])


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    bad = rows_of(records(2), [unit(2)])
    with pytest.raises(ValueError, match="zip"), signature_writer(tmp_path / "a.sig") as writer:
        writer.add_set("one", [rows_of(records(2)), bad])  # descriptors of a model that the file has not
    assert list(tmp_path.iterdir()) == []


def test_turned_vectors_have_their_score() -> None:
    vectors = unit(20)
    assert np.abs((turned(vectors, 0.6) * vectors).sum(axis=1) - 0.6).max() < 1e-6
    assert DescriptorInfo("a", "", 1) == DescriptorInfo("a", "", 1)
