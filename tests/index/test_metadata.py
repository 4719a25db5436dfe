"""The one reader of parquet: what is damaged is named, repeated and categorical columns are read; nobody else opens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dcfast
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.errors import CorruptDataError, PoolError
from dcfast.filters.rules import valid_text
from dcfast.index.metadata import column_matches, count_metadata_rows, metadata_schema, open_metadata, parse_uids
from dcfast.resharding.boxes import make_box_table
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.rundir.tables import read_table
from dcfast.storage import parquet
from dcfast.storage.hashing import hash_bytes
from pool_builder import plain_pool, uid_of
from reshard_reference import subset_of

UIDS = [uid_of(i) for i in range(1_000)]


def written(path: Path, columns: dict[str, Any] | pa.Table, **options: Any) -> Path:
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def damaged(path: Path, column: str, codec: str = "zstd") -> Path:
    """The file with some bytes of a column's pages altered: where zstd would not notice them, a page's header."""
    written(path, pq.ParquetFile(path).read(), compression=codec)
    group = pq.read_metadata(path).row_group(0)
    chunk = next(group.column(k) for k in range(group.num_columns) if group.column(k).path_in_schema.startswith(column))
    data = bytearray(path.read_bytes())
    middle = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size // 2
    middle -= chunk.total_compressed_size // 2 if codec == "zstd" else 0
    data[middle : middle + 40] = bytes(b ^ 0x5A for b in data[middle : middle + 40])
    path.write_bytes(data)
    return path


def test_no_other_module_opens_parquet() -> None:
    root = Path(dcfast.__file__).parent
    opens = re.compile(r"\b(?:pq|parquet)\.(?:ParquetFile|ParquetDataset|read_\w+)\(|pyarrow\.dataset|\bread_parquet\(")
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if opens.search(path.read_text("utf-8"))}
    assert found == {"storage/parquet.py"}


@pytest.mark.parametrize("what", ["empty", "text", "cut", "footer"])
def test_what_is_no_parquet(tmp_path: Path, what: str) -> None:
    path = written(tmp_path / "m.parquet", {"uid": UIDS})
    data = bytearray(path.read_bytes())
    if what == "footer":
        data[-60:-20] = bytes(40)
    path.write_bytes({"empty": b"", "text": b"uid,text\n", "cut": data[: len(data) // 2], "footer": bytes(data)}[what])
    for ask in (open_metadata, metadata_schema, count_metadata_rows):
        with pytest.raises(
            PoolError, match=r"m\.parquet cannot be read as parquet \(.+\); download it again"
        ) as caught:
            ask(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(CorruptDataError, match=r"table .*m\.parquet cannot be read as parquet.*run the stage") as found:
        parquet.read_table(path)
    assert found.value.path == str(path)
    for absent in (open_metadata, parquet.read_schema, parquet.count_rows):
        with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
            absent(tmp_path / "none.parquet")


@pytest.mark.parametrize("codec", ["snappy", "zstd", "none"])
def test_a_damaged_page_is_named_and_the_other_columns_are_read(tmp_path: Path, codec: str) -> None:
    path = damaged(written(tmp_path / "m.parquet", {"uid": UIDS, "text": [f"a {u} b" for u in UIDS]}), "text", codec)
    assert metadata_schema(path).names == ["uid", "text"]
    with open_metadata(path) as file:
        assert sum(len(batch) for batch in file.batches(["uid"], 100)) == count_metadata_rows(path) == 1_000
        with pytest.raises(CorruptDataError, match=r"metadata .*m\.parquet is damaged \(.+\); download it again"):
            list(file.batches())
        with pytest.raises(CorruptDataError, match=r"m\.parquet is damaged"):
            file.read(["text"])


def test_page_checksums_are_checked_where_there_are_any(tmp_path: Path) -> None:
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    path = written(tmp_path / "m.parquet", {"uid": UIDS}, **options)
    data = path.read_bytes()
    path.write_bytes(data.replace(UIDS[500].encode(), UIDS[501].encode(), 1))
    with open_metadata(path) as file, pytest.raises(CorruptDataError, match=r"checksum|CRC"):
        list(file.batches(["uid"]))


def test_batches_are_bounded_and_by_row_group(tmp_path: Path) -> None:
    path = written(tmp_path / "m.parquet", {"n": list(range(1_000)), "uid": UIDS}, row_group_size=300)
    with open_metadata(path) as file:
        assert (file.num_rows, file.group_rows) == (1_000, [300, 300, 300, 100])
        batches = list(file.batches(["n", "absent"], 128))
        assert max(len(batch) for batch in batches) <= 128
        assert [n for batch in batches for n in batch.column("n").to_pylist()] == list(range(1_000))
        assert [n for b in file.batches(["n"], groups=[1, 3]) for n in b["n"].to_pylist()][:301:300] == [300, 900]


def test_names_of_directories_are_no_columns(tmp_path: Path) -> None:
    folder = tmp_path / "lr=0.1"
    folder.mkdir()
    assert read_table(written(folder / "t.parquet", {"a": [1]})).column_names == ["a"]


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    twice = pa.table([UIDS, UIDS[::-1], UIDS], names=["uid", "x", "x"])
    path = written(tmp_path / "m.parquet", twice)
    assert metadata_schema(path).names == ["uid", "x", "x"]
    with open_metadata(path) as file:
        assert [column.to_pylist() for column in next(file.batches())] == [UIDS, UIDS[::-1], UIDS]
        assert next(file.batches(["uid"])).num_columns == 1
        for ask in (lambda: next(file.batches(["uid", "x"])), lambda: file.read(["x"])):
            with pytest.raises(PoolError, match=r"m\.parquet has 2 columns 'x'; keep one of them"):
                ask()
    written(path, pa.table([UIDS, UIDS], names=["uid", "uid"]))
    with pytest.raises(PoolError, match=r"m\.parquet has 2 columns uid \(uid, uid\); expected"):
        metadata_schema(path)


KINDS = [
    *(pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view(), pa.binary(32)),
    *(pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.large_string())),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_uids_of_every_kind_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    texts = [*UIDS[:100], None, "not a uid".ljust(32, "x")]
    plain = pa.array(texts, pa.string())
    column = plain.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else plain.cast(kind)
    try:
        path = written(tmp_path / "m.parquet", {"uid": column})
    except pa.ArrowNotImplementedError:  # before pyarrow 21
        pytest.skip(f"this pyarrow writes no {kind}")
    assert metadata_schema(path).names == ["uid"]
    with open_metadata(path) as file:
        uids, valid = parse_uids(next(file.batches(["uid"])))
    assert dcfast.uid_format(uids[valid], as_list=True) == UIDS[:100]
    assert np.flatnonzero(~valid).tolist() == [100, 101]


@pytest.mark.parametrize("kind", [pa.int64(), pa.null(), pa.list_(pa.string()), pa.binary(16)], ids=str)
def test_uids_that_are_no_text(tmp_path: Path, kind: pa.DataType) -> None:
    assert metadata_schema(written(tmp_path / "none.parquet", {"uid": pa.nulls(0, kind)})).names == ["uid"]
    path = written(tmp_path / "m.parquet", {"uid": pa.nulls(3, kind)})
    with pytest.raises(PoolError, match=r"m\.parquet has a column uid of type .*; expected uid as strings"):
        metadata_schema(path)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int8(), pa.binary())], ids=str)
def test_texts_may_be_bytes(kind: pa.DataType) -> None:
    texts = ["a dog, that is to say a hound, in the park", None, "é", "three little words"] * 3
    plain = pa.array(texts)
    column = plain.cast(pa.binary())
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    assert column_matches("text", column.type)
    assert valid_text(column).to_pylist() == texts
    assert valid_text(pa.array([b"\xff a", b"b"])).to_pylist() == ["\ufffd a", "b"]
    for other in (pa.int32(), pa.list_(pa.string()), pa.bool_()):
        assert not column_matches("text", other)
    assert [column_matches("number", k) for k in (pa.int8(), pa.float16(), pa.string(), pa.bool_())] == [
        True,
        True,
        False,
        False,
    ]


def test_every_file_is_looked_at_before_any_work(tmp_path: Path) -> None:
    """Whichever file it is, and before the first shard is read."""
    pool = plain_pool(tmp_path / "pool").write()
    last = sorted((pool / "metadata").iterdir())[-1]
    table = pq.read_table(last)
    broken = [
        (
            "basic_filter",
            table.set_column(1, "text", pa.array(range(len(table)))),
            "needs strings in the column 'text'",
        ),
        ("no_filter", table.drop_columns(["uid"]), "has no column uid"),
        ("no_filter", table.append_column("uid", table["uid"]), "has 2 columns uid"),
        ("basic_filter", table.append_column("text", table["text"]), "found more than once the column 'text'"),
    ]
    for number, (text, changed, message) in enumerate(broken):
        pq.write_table(changed, last)
        for stage in ("index", "filter"):
            if stage == "index" and text != "no_filter":
                continue
            out = tmp_path / f"run-{number}-{stage}"
            with pytest.raises(PoolError, match=message) as caught:
                run(out, Settings(pool=str(pool), filter=text, train=False), last=stage)
            assert last.name in str(caught.value)
            assert not (out / "index").exists()


def test_a_run_on_categorical_uids_equals_one_on_strings(tmp_path: Path) -> None:
    found = []
    for name in ("plain", "categorical"):
        pool = plain_pool(tmp_path / name).write()
        if name == "categorical":
            for path in (pool / "metadata").iterdir():
                table = pq.ParquetFile(path).read()
                place = table.column_names.index("uid")
                written(path, table.set_column(place, "uid", table["uid"].dictionary_encode()))
        settings = Settings(pool=str(pool), filter="no_filter", train=False)
        run(tmp_path / f"run-{name}", settings, last="filter")
        found.append((tmp_path / f"run-{name}" / "subset.npy").read_bytes())
    assert found[0] == found[1]


def test_damage_in_a_run_and_in_boxes_names_the_file(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    path = damaged(pool / "metadata" / "00000001.parquet", "uid")
    settings = Settings(pool=str(pool), filter="no_filter", train=False)
    with pytest.raises(CorruptDataError, match=r"metadata .*00000001\.parquet is damaged"):
        run(tmp_path / "run", settings, last="filter")
    boxes = {"uid": UIDS, "face_bboxes": [[[0.1, 0.2, 0.3, i / 1000]] for i in range(1_000)]}
    path = damaged(written(tmp_path / "boxes.parquet", boxes), "face_bboxes")
    with pytest.raises(CorruptDataError, match=r"boxes\.parquet is damaged"):
        make_box_table(path, subset_of(UIDS), tmp_path / "t")


@pytest.mark.parametrize(("text", "url"), [("caption", "url"), ("TEXT", "URL"), ("text", "URL")])
def test_names_of_other_tools_stand_for_datacomps(tmp_path: Path, text: str, url: str) -> None:
    columns = {"n": [1, 2], text: ["a", "b"], url: ["u", "v"], "uid": UIDS[:2]}
    path = written(tmp_path / "m.parquet", columns)
    with open_metadata(path) as file:
        assert file.schema.names == ["n", "text", "url", "uid"]
        assert [batch.to_pydict() for batch in file.batches(["url", "text"])] == [
            {"text": ["a", "b"], "url": ["u", "v"]}
        ]
        assert file.read().column_names == ["n", "text", "url", "uid"]
        assert file.read(["text"]).to_pydict() == {"text": ["a", "b"]}
    with open_metadata(path, "url") as file:
        (batch,) = file.batches(["uid", "text"])
    assert batch.column("uid").to_pylist() == [hash_bytes(b"u"), hash_bytes(b"v")]


def test_other_names_count_where_datacomps_is_absent(tmp_path: Path) -> None:
    path = written(tmp_path / "m.parquet", {"uid": UIDS[:1], "text": ["a"], "caption": ["b"], "TEXT": ["c"]})
    with open_metadata(path) as file:
        assert file.schema.names == ["uid", "text", "caption", "TEXT"]
        assert file.read(["text", "caption"]).to_pydict() == {"text": ["a"], "caption": ["b"]}
    path = written(tmp_path / "m.parquet", {"uid": UIDS[:1], "TEXT": ["c"], "caption": ["b"]})
    with open_metadata(path) as file:
        assert file.schema.names == ["uid", "TEXT", "text"]  # one of them: img2dataset's before LAION's
        assert file.read(["text"]).to_pydict() == {"text": ["b"]}


def test_a_run_on_metadata_of_other_names(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool", 4, 1).write()
    path = pool / "metadata/00000000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.rename_columns(["TEXT" if name == "text" else name for name in table.column_names]), path)
    done = run(tmp_path / "run", Settings(pool=str(pool), filter="basic_filter", train=False))
    assert done["filter"].fates["kept"] == 4


@pytest.mark.parametrize(
    ("columns", "rule", "message"),
    [
        ({"key": [17]}, "key", r"a column key of type int64 .*as strings \(the keys of the samples with their zeros"),
        (
            {"URL": ["u"]},
            "key",
            r"no column key .*--uid-from key needs it, as strings; it has what --uid-from url needs",
        ),
        ({"key": ["a"]}, "url", r"no column url .*; it has what --uid-from key needs"),
        ({"URL": ["u"]}, "json", r"no column uid .*pools without uids: --uid-from url or key"),
    ],
)
def test_what_a_rule_needs_is_said(tmp_path: Path, columns: dict[str, Any], rule: str, message: str) -> None:
    with pytest.raises(PoolError, match=message):
        metadata_schema(written(tmp_path / "m.parquet", columns), rule)
