"""What a parquet file may cost: batches are bounded by decoded bytes, whatever the footer says of them.

All paths read through ``ParquetFile.batches``; a module that opens parquet otherwise fails the first test.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast.errors import CorruptDataError
from dcfast.index.metadata import open_metadata
from dcfast.storage import parquet, parquet_pages
from dcfast.storage.parquet import ParquetFile

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

BATCH, PAGE = 1 << 20, 1 << 19
PATHS = {
    "index/metadata.py": "batches: open_metadata, for all that follows",
    "acquire/rows.py": "batches: the rows of a shard of a list",
    "acquire/retry.py": "batches: keys of rows that are fetched again, which the command wrote",
    "acquire/lists.py": "batches: a list that is written anew under other names of columns",
    "features/metadata.py": "batches: rows located, and written anew with scores",
    "report/facts/metadata_rows.py": "batches: some rows for the report",
    "resharding/boxes.py": "batches: boxes by uid",
    "train/caption_table.py": "batches: captions by uid",
    "stages/filter/centroids.py": "batches: captions of the rows that are clustered",
    "stages/filter/outcomes.py": "batches: the filter, its thresholds",
    "evaluate/hub_set.py": "batches: texts, then pictures, of sets of the hub",
    "stages/index.py": "batches: whether any uid is one",
    "importing/datasets.py": "batches: pictures and captions of a dataset that is imported",
    "importing/shards.py": "batches: uids of the parquet beside a shard that is imported",
    "importing/tables.py": "batches: files and captions of a table that is imported",
    "stages/filter/score_files.py": "batches: a score file, then uids of the metadata",
    "stages/filter/mixed.py": "batches: a column of the metadata as a score",
    "run/probes.py": "batches: the first rows of the metadata, to try the filter on",
    "report/facts/metadata_lookup.py": "batches: a row group up to a row",
    "inspection/facts.py": "batches: evidence that the run wrote",
    "rundir/lookup.py": "batches: row groups of fates that the run wrote",
    "report/facts/sampling.py": "batches: tables of the run itself",
    "decontamination/published.py": "batches: uids of the metadata beside published descriptors",
    "dedup/signature_file.py": "batches: a signature file, for all that compares",
    "evaluate/sign_sets.py": "batches: parts that the command wrote",
    "stages/dedup/embeddings.py": "batches: uids of the metadata beside embeddings",
    "stages/dedup/nodes.py": "batches: scores of the metadata, for keeping the best",
    "report/facts/truth.py": "whole: the built-in world's",
    "rundir/tables.py": "whole: parts that the run wrote",
    "stages/filter/fates.py": "whole: parts that the run wrote",
    "stages/filter/leaked.py": "whole: parts that the run wrote",
    "stages/verify.py": "whole: parts that the run wrote",
}
"""Who reads rows, and how."""


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds, as small as the files of these tests."""
    monkeypatch.setattr(parquet_pages, "MAX_BATCH_BYTES", BATCH)
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", PAGE)
    monkeypatch.setattr(parquet_pages, "MAX_LIST_BYTES", BATCH)
    monkeypatch.setattr(parquet, "MAX_DECODED_BYTES", 16 * BATCH)


def uids(count: int) -> Any:
    return pa.array([f"{i:032x}" for i in range(count)])


def repeated(count: int, size: int) -> Any:
    """One text, many times: its dictionary has it once."""
    return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), ["a" * size])


def lists(rows: int, values: int) -> Any:
    return pa.array([[[0.5] * 4] * values] * rows, pa.list_(pa.list_(pa.float64())))


PLAIN = {"use_dictionary": False, "write_statistics": False, "write_batch_size": 1}
PREFIXES = {**PLAIN, "column_encoding": {"text": "DELTA_BYTE_ARRAY", "uid": "PLAIN"}}
Made = tuple[dict[str, Any], dict[str, Any]]
WITHIN: dict[str, Made] = {
    "a text of 100 kB, 100 times": ({"text": repeated(100, 100_000)}, {}),
    "the same, in pages of version 2": ({"text": repeated(100, 100_000)}, {"data_page_version": "2.0"}),
    "the same, as a dictionary of Arrow": ({"text": repeated(100, 100_000)}, {"store_schema": True}),
    "short texts behind it": ({"text": pa.array(["a" * 400_000] + ["b"] * 3000 + ["a" * 400_000] * 9)}, {}),
    "texts of 100 kB, stored once each": (
        {"text": pa.array(["a" * 100_000] * 100)},
        {**PLAIN, "data_page_size": 200_000},
    ),
    "prefixes of 100 kB": ({"text": pa.array(["a" * 100_000] * 100)}, PREFIXES),
    "bytes of fixed width": ({"text": pa.array([b"a" * 100_000] * 100, pa.binary(100_000))}, {}),
    "one number, many times": ({"number": pa.array(np.zeros(12_000))}, {}),
    "lists": ({"face_bboxes": lists(1000, 2)}, {}),
    "texts in a struct": ({"texts": pa.StructArray.from_arrays([repeated(50, 100_000)], ["text"])}, {}),
}
BEYOND: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a text of 1 MB": ({"text": pa.array(["a" * 1_000_000])}, PLAIN, "a page of 1,000,0.. bytes from"),
    "a dictionary of 1 MB": ({"text": repeated(9, 1_000_000)}, {}, "a page of 1,000,004 bytes from"),
    "texts of 20 MB in all": ({"text": repeated(200, 100_000)}, {}, "decodes to .* bytes and more"),
    "a list of 40,000 boxes": ({"face_bboxes": lists(1, 40_000)}, {}, "column face_bboxes.* has lists of"),
    "lists in one text": (
        {"face_bboxes": pa.array([[{"a": "a" * 1000}] * 2000])},
        {},
        "column face_bboxes.* has lists of",
    ),
}


def write(path: Path, columns: dict[str, Any], options: dict[str, Any]) -> Path:
    table = pa.table({"uid": uids(len(next(iter(columns.values())))), **columns})
    pq.write_table(table, path, **{"compression": "zstd", "store_schema": False, **options})
    return path


def test_one_place_opens_parquet_and_who_reads_is_known(repo_root: Path) -> None:
    package = repo_root / "python/dcfast"
    opens = re.compile(r"\bpq\.(ParquetFile|read_\w+|ParquetDataset)\(|pyarrow\.dataset|read_parquet|iter_batches")
    reads = re.compile(r"(?:file|table|super\(\))\.batches\(|\bread_table\(|\bread_file\(")
    sources = {p.relative_to(package).as_posix(): p.read_text() for p in package.rglob("*.py")}
    assert {name for name, text in sources.items() if opens.search(text)} == {"storage/parquet.py"}
    found = {name: reads.findall(text) for name, text in sources.items() if name != "storage/parquet.py"}
    assert {name for name, hits in found.items() if hits} == set(PATHS)
    for name, how in PATHS.items():
        assert any("batches(" in hit for hit in found[name]) == how.startswith("batches"), name


@pytest.mark.usefixtures("low")
@pytest.mark.parametrize("uid_from", ["json", "key"])
@pytest.mark.parametrize("name", WITHIN)
def test_batches_are_bounded_and_hold_all(name: str, uid_from: str, tmp_path: Path) -> None:
    columns, options = WITHIN[name]
    rows = len(next(iter(columns.values())))
    path = write(tmp_path / "x.parquet", {**columns, "key": uids(rows)}, options)
    with open_metadata(path, uid_from) as file:
        batches = list(file.batches())
    assert max(batch.nbytes for batch in batches) <= 1.2 * BATCH  # of which the uids of the rule are not counted
    read = pa.Table.from_batches(batches)
    expected = pq.read_table(path)
    assert all(read[column].to_pylist() == expected[column].to_pylist() for column in columns)
    if "100 kB" in name:
        assert len(batches) > 8


def test_what_was_read_is_let_go(tmp_path: Path) -> None:
    """A file of many row groups takes no more memory at its end than at its beginning."""
    drawn = np.random.default_rng(0)
    schema = pa.schema({"image": pa.binary()})
    with pq.ParquetWriter(tmp_path / "x.parquet", schema, compression="none", use_dictionary=False) as writer:
        for _ in range(30):
            writer.write_table(pa.table({"image": [drawn.bytes(100_000) for _ in range(10)]}, schema))
    before = pa.total_allocated_bytes()
    with ParquetFile(tmp_path / "x.parquet") as file:
        held = [pa.total_allocated_bytes() - before for _ in file.batches(rows=10)]
    assert len(held) == 30
    assert max(held) < 8 << 20


@pytest.mark.usefixtures("low")
@pytest.mark.parametrize("name", BEYOND)
def test_what_is_beyond_is_named(name: str, tmp_path: Path) -> None:
    columns, options, words = BEYOND[name]
    path = write(tmp_path / "x.parquet", columns, options)
    with open_metadata(path) as file, pytest.raises(CorruptDataError, match=words) as refused:
        list(file.batches())
    assert str(path) in str(refused.value)
    with open_metadata(path) as file:  # the other columns are read
        assert sum(batch.num_rows for batch in file.batches(["uid"])) == file.num_rows


@pytest.mark.usefixtures("low")
def test_every_path_stays_within(tmp_path: Path) -> None:
    """All that read rows of metadata, over a file that is beyond."""
    from dcfast.evaluate import hub_set
    from dcfast.features.metadata import Located, _locate_file, _write_parquet
    from dcfast.filters import compile_filter
    from dcfast.report.facts.metadata_rows import stretches
    from dcfast.resharding.boxes import make_box_table
    from dcfast.stages.filter.outcomes import _batches
    from dcfast.train.caption_table import make_caption_table

    wide = write(tmp_path / "wide.parquet", {"face_bboxes": lists(1, 40_000)}, {})
    nowhere = Located(np.full(1, -1, np.int32), np.zeros(1, np.int64))
    no_columns: Any = None
    calls: dict[str, Callable[[], Any]] = {
        "boxes": lambda: make_box_table(tmp_path, np.empty(0, "u8,u8"), tmp_path / "boxes"),
        "captions": lambda: make_caption_table(str(texts), "text", str(tmp_path / "captions")),
        "report": lambda: list(stretches([wide], ["uid", "face_bboxes"])),
        "evaluation set": lambda: list(hub_set._batches(wide, ("face_bboxes",))),
        "filter": lambda: list(_batches(compile_filter("no_filter"), str(wide), ["uid", "face_bboxes"], "json")),
        "features": lambda: _write_parquet(wide, tmp_path / "made", no_columns, nowhere, []),
        "features, by key": lambda: _locate_file(no_columns, None, keyed, "key"),
    }
    (tmp_path / "other").mkdir()
    keyed = write(tmp_path / "other/keyed.parquet", {"key": repeated(9, 1_000_000)}, {})
    texts = write(tmp_path / "other/texts.parquet", {"text": repeated(9, 1_000_000)}, {})
    for call in calls.values():
        with pytest.raises(
            CorruptDataError, match=r"(wide\.parquet.* has lists of|(keyed|texts)\.parquet is damaged .a page of)"
        ):
            call()
    assert not (tmp_path / "made").exists()


def test_rows_that_no_byte_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"uid": pa.nulls(100_000, pa.string())}), path)
    with ParquetFile(path) as file:
        assert file.num_rows == 100_000
    monkeypatch.setattr(parquet, "MAX_ROWS_UNASKED", 50_000)
    with pytest.raises(CorruptDataError, match=r"x\.parquet decodes to 100,000 rows, though it has"):
        ParquetFile(path)


def test_ordinary_files_are_read_in_whole_batches(tmp_path: Path) -> None:
    """The bounds are far from what pools hold: as many rows at a time as without them."""
    rng = np.random.default_rng(0)
    words = np.array(["a", "photo", "of", "the", "house", "%20"])
    texts = [" ".join(words[row]) for row in rng.integers(0, 6, (150_000, 12))]
    columns = {"text": pa.array(texts), "score": pa.array(rng.random(150_000)), "face_bboxes": lists(150_000, 1)}
    path = write(tmp_path / "x.parquet", columns, {"row_group_size": 40_000})
    with open_metadata(path) as file:
        assert [batch.num_rows for batch in file.batches(["uid", "text", "score"])] == [
            batch.num_rows for batch in pq.ParquetFile(path).iter_batches(65_536, columns=["uid", "text", "score"])
        ]
        assert [batch.num_rows for batch in file.batches()] == [
            batch.num_rows for batch in pq.ParquetFile(path).iter_batches(65_536)
        ]


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "zstd", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_rows_cost_no_more_than_was_reckoned(
    codec: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of texts of many lengths: batches that were reckoned to fit do, and are not far too small."""
    monkeypatch.setattr(parquet_pages, "MAX_BATCH_BYTES", 1 << 18)
    rng = np.random.default_rng(1)
    texts = ["x" * int(n) for n in rng.pareto(1.0, 20_000) * 10]
    shared = {"compression": codec, "data_page_version": version, "data_page_size": 8192}
    path = write(tmp_path / "x.parquet", {"text": pa.array(texts)}, {**shared, "dictionary_pagesize_limit": 30_000})
    with open_metadata(path) as file:
        sizes = [batch.nbytes for batch in file.batches(["text"])]
    assert max(sizes) <= 1 << 18
    assert len(sizes) < 20_000


def test_headers_that_make_no_sense_are_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"text": pa.array(["a" * 50] * 100)}, {})
    whole = path.read_bytes()
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    begin = column.dictionary_page_offset
    rng = np.random.default_rng(2)
    for _ in range(300):
        broken = bytearray(whole)
        broken[begin + rng.integers(0, 40)] = rng.integers(0, 256)
        path.write_bytes(broken)
        with contextlib.suppress(CorruptDataError), open_metadata(path) as file:
            list(file.batches())
