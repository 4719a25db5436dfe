"""Captions from txt, json and parquet: by uid, drawn by weight in the canonical order, counted where they lack."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast import uid_parse
from dcfast.errors import CorruptDataError, PoolError, SubsetError
from dcfast.models.captions import MAX_CAPTION_BYTES
from dcfast.process.caption_places import parse_captions
from dcfast.train import TrainSource, caption_table
from dcfast.train.batch import BatchSpec
from dcfast.train.batches import BatchMaker
from dcfast.train.caption_table import CaptionTable, make_caption_table
from dcfast.train.captions import CaptionRule
from dcfast.train.source import OpenSource, prepare_source, source_weights
from pool_builder import PoolBuilder, Sample, uid_of
from train_builder import build_pool, caption, small

COUNT = 24


def info(number: int) -> dict[str, Any]:
    return {"uid": uid_of(number), "alt": f"alt {number}", "many": [f"a {number}", f"b {number}", 5, ""]}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("captions")
    broken = {n: {"info": info(n)} for n in range(COUNT)}
    broken[3]["txt"] = b""
    broken[4]["txt"] = b"x" * 100_000
    broken[5]["without"] = ("txt",)
    broken[6]["info"] = {"uid": uid_of(6)}
    return build_pool(root / "pool", COUNT, broken=broken)


def table_of(path: Path, rows: list[tuple[int, Any]], kind: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"uid": [uid_of(n) for n, _ in rows], "better": pa.array([text for _, text in rows], kind)}
    pq.write_table(pa.table(columns), path)
    return path


def captions_of(pool: Path, work: Path, words: list[str], weights: list[float] = [], seed: int = 0) -> Any:  # noqa: B006
    rule = CaptionRule(parse_captions(words, weights), seed)
    files = prepare_source(TrainSource(shards=str(pool)), work, 0, rule)
    return files, OpenSource(files)


def read(source: OpenSource, samples: Any = None) -> list[str | None]:
    rows = source.rows(np.arange(source.files.count))
    return texts_of(source, rows, samples)


def texts_of(source: OpenSource, rows: Any, samples: Any) -> list[str | None]:
    found = [raw.caption(i) for raw in source.read(rows, samples) for i in range(len(raw))]
    return [None if text is None else bytes(text).decode() for text in found]


def test_a_field_of_the_json(pool: Path, tmp_path: Path) -> None:
    _, source = captions_of(pool, tmp_path, ["json:alt"])
    assert read(source) == [None if n == 6 else f"alt {n}" for n in range(COUNT)]
    [raw] = source.read(source.rows(np.array([6])))
    assert raw.lacking == "no caption (json:alt)"
    _, source = captions_of(pool, tmp_path, ["json:many"])
    drawn = [read(source, np.full(COUNT, k)) for k in range(40)]
    assert {texts[7] for texts in drawn} == {"a 7", "b 7"}


@pytest.mark.parametrize("value", [b"{", b"[]", b'"text"', b'{"alt": 5}', b'{"alt": "a", "alt": "b"}', b"[" * 500, b""])
def test_json_of_strangers(tmp_path: Path, value: bytes) -> None:
    places = parse_captions(["json:alt"])
    assert CaptionRule(places).choose(None, memoryview(value), (), 0.5) is None
    assert CaptionRule(parse_captions(["json:alt", "txt"])).choose(memoryview(b"t"), memoryview(value), (), 0.5) == b"t"


def test_a_column_by_uid(pool: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = table_of(tmp_path / "captions.parquet", [(n, f"better {n}") for n in range(COUNT) if n not in (8, 9)])
    files, source = captions_of(pool, tmp_path / "work", [f"parquet:{path}:better"])
    assert read(source) == [None if n in (8, 9) else f"better {n}" for n in range(COUNT)]
    [note] = files.notes
    assert "2 of 24 samples have a uid that the captions lack: others are taken in their place" in note
    settings = small(tmp_path / "out", TrainSource(shards="any"), overrides={"global_batch": 12}, block=4, window=4)
    made = [BatchMaker(BatchSpec(settings, (files,), 64)).make(step) for step in range(6)]
    replaced = [record for batch in made for record in batch.replaced]
    assert {record.reason for record in replaced} == {"no caption (parquet:better)"}
    assert {record.uid for record in replaced} == {uid_of(8), uid_of(9)}


def test_a_table_is_made_once_and_anew_where_its_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_table, "_ROWS_A_RUN", 5)  # several runs, which are merged
    folder = tmp_path / "tables"
    table_of(folder / "a.parquet", [(n, f"a {n}") for n in range(20)])
    table_of(folder / "b.parquet", [(3, "b 3"), (4, None), (5, ""), (40, "b 40"), (41, "x" * 100_000)])
    place = str(tmp_path / "work/captions")
    about = make_caption_table(str(folder), "better", place)
    assert (about.rows, about.captions) == (25, 23)
    table = CaptionTable(place)
    uids = uid_parse([uid_of(n) for n in (3, 4, 5, 40, 41, 99, 3)])[0]
    found = [[*texts] for texts in table.find(uids)]
    assert found[:4] == [[b"a 3", b"b 3"], [b"a 4"], [b"a 5"], [b"b 40"]]
    assert [len(text) for text in found[4]] == [MAX_CAPTION_BYTES + 1]
    assert found[5:] == [[], [b"a 3", b"b 3"]]
    assert table.has(uids).tolist() == [True] * 5 + [False, True]
    monkeypatch.setattr(caption_table, "_captions", None)
    assert make_caption_table(str(folder), "better", place) == about
    monkeypatch.undo()
    table_of(folder / "b.parquet", [(3, "other 3")])
    assert make_caption_table(str(folder), "better", place).hash != about.hash
    (tmp_path / "work/captions-texts").write_bytes(b"")
    assert make_caption_table(str(folder), "better", place).captions == 21


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_types_of_columns(tmp_path: Path, kind: pa.DataType) -> None:
    is_list = pa.types.is_list(kind)
    path = table_of(tmp_path / "t.parquet", [(1, ["one", None, "uno"] if is_list else "one"), (2, None)], kind)
    make_caption_table(str(path), "better", str(tmp_path / "place"))
    found = CaptionTable(str(tmp_path / "place")).find(uid_parse([uid_of(1), uid_of(2)])[0])
    assert [[*texts] for texts in found] == [[b"one", b"uno"] if is_list else [b"one"], []]


def test_of_a_million_captions_of_one_uid_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table_of(tmp_path / "t.parquet", [(1, [str(n) for n in range(1_000_000)])])
    make_caption_table(str(path), "better", str(tmp_path / "place"))
    taken: list[int] = []
    text = CaptionTable.text
    monkeypatch.setattr(CaptionTable, "text", lambda self, record: taken.append(record) or text(self, record))
    [found] = CaptionTable(str(tmp_path / "place")).find(uid_parse([uid_of(1)])[0])
    rule = CaptionRule(parse_captions(["parquet:t:better"]))
    assert rule.choose(None, None, [found], 0.25) == b"250000"
    assert taken == [250_000]


def test_tables_that_are_none(tmp_path: Path) -> None:
    path = table_of(tmp_path / "t.parquet", [(1, 5)])
    for column, words in (("worse", "has no column worse"), ("better", "of type int64; expected strings")):
        with pytest.raises(PoolError, match=words):
            make_caption_table(str(path), column, str(tmp_path / "place"))
    (tmp_path / "u.parquet").write_bytes(b"PAR1 is none")
    with pytest.raises((PoolError, CorruptDataError), match=r"u\.parquet"):
        make_caption_table(str(tmp_path / "u.parquet"), "better", str(tmp_path / "place"))
    with pytest.raises(FileNotFoundError):
        make_caption_table(str(tmp_path / "none.parquet"), "better", str(tmp_path / "place"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PoolError, match=r"no \.parquet file in"):
        make_caption_table(str(tmp_path / "empty"), "better", str(tmp_path / "place"))


def test_one_of_several_is_drawn_by_weight_and_number(pool: Path, tmp_path: Path) -> None:
    _, source = captions_of(pool, tmp_path, ["txt", "json:alt"], [1, 3], seed=4)
    samples = np.arange(4000)
    texts = texts_of(source, np.repeat(source.rows(np.array([1])), 4000), samples)
    counts = Counter(texts)
    assert set(counts) == {caption(1), "alt 1"}
    assert 0.72 < counts["alt 1"] / 4000 < 0.78
    rows = np.repeat(source.rows(np.array([1])), 50)
    assert texts_of(source, rows, samples[70:120]) == texts[70:120]
    _, other = captions_of(pool, tmp_path, ["txt", "json:alt"], [1, 3], seed=5)
    assert read(other, samples[:COUNT]) != read(source, samples[:COUNT])
    for number in range(200):  # places that have none leave their share to the others
        drawn = read(source, np.full(COUNT, number))
        assert (drawn[3], drawn[5], drawn[6]) == ("alt 3", "alt 5", caption(6))


def test_empty_and_long_captions_are_counted(pool: Path, tmp_path: Path) -> None:
    files, source = captions_of(pool, tmp_path, [])
    assert [note.split(": ", 1)[1] for note in files.notes] == [
        "1 of 24 captions are empty, and trained on as they are",
        "1 of 24 captions are longer than 65,536 bytes, and cut there",
    ]
    texts = read(source)
    assert (texts[3], len(texts[4] or ""), texts[5]) == ("", MAX_CAPTION_BYTES + 1, None)


def test_a_pool_without_txt(tmp_path: Path) -> None:
    samples = [Sample(n, info=info(n), without=("txt",)) for n in range(8)]
    pool = PoolBuilder(tmp_path / "pool", [samples]).write()
    with pytest.raises(SubsetError, match=r"have no caption \(a member KEY\.txt\)"):
        captions_of(pool, tmp_path, [])
    _, source = captions_of(pool, tmp_path, ["json:alt"])
    assert read(source) == [f"alt {n}" for n in range(8)]


@pytest.mark.parametrize(
    ("words", "weights", "said"),
    [
        (["text"], [], "must be txt, json:FIELD or parquet:PATH:COLUMN; got 'text'"),
        (["json:"], [], "got 'json:'"),
        (["parquet:a"], [], "got 'parquet:a'"),
        (["parquet::b"], [], "got 'parquet::b'"),
        (["txt", "txt"], [], "must name each place once"),
        (["txt", "json:a"], [1.0], "must be 2 numbers, one a --caption-from; got 1"),
        (["txt"], [0.0], "must be positive numbers"),
        (["txt"], [float("nan")], "must be positive numbers"),
    ],
)
def test_what_makes_no_sense(words: list[str], weights: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=r"^--caption-(from|weights) ") as caught:
        small(Path("out"), TrainSource(shards="a"), caption_from=words, caption_weights=weights)
    assert said in str(caught.value)


def test_what_is_set_is_part_of_the_training_and_nothing_else(tmp_path: Path) -> None:
    import msgspec

    plain = msgspec.to_builtins(small(tmp_path, TrainSource(shards="a")).identity())
    assert {"captions", "caption_weights", "weights_by"} & set(plain) == set()  # as of before there was a choice
    for options in ({"caption_from": ["txt"]}, {"cache_dir": "c", "cache_size": 1.0}, {"copy_to": "s3://b"}):
        assert msgspec.to_builtins(small(tmp_path, TrainSource(shards="a"), **options).identity()) == plain
    changed = small(
        tmp_path, TrainSource(shards="a"), caption_from=["txt", "parquet:/a/b:c"], caption_weights=[1.0, 2.0]
    )
    assert changed.identity().captions == ["txt", "parquet:c"]
    assert changed.identity().caption_weights == [1.0, 2.0]
    assert "captions from txt, parquet:c" in changed.non_standard()
    assert small(tmp_path, TrainSource(shards="a"), weights_by="shard").identity().weights_by == "shard"


def test_weights_of_samples_and_of_shards(tmp_path: Path) -> None:
    """Two sources of 12 samples, in 1 shard and in 3: by samples alike, by shards 1 to 3."""
    pools = [build_pool(tmp_path / name, 12, shards=shards) for name, shards in (("one", 1), ("three", 3))]
    sources = [TrainSource(shards=str(pool)) for pool in pools]
    files = tuple(prepare_source(source, tmp_path / "work", k) for k, source in enumerate(sources))
    assert [of.shards for of in files] == [1, 3]
    for by, share in (("sample", 0.5), ("shard", 0.75)):
        settings = small(tmp_path, *sources, weights_by=by, block=1, window=1, seed=3)
        first, second = source_weights(settings, files)
        assert second / (first + second) == share
        maker = BatchMaker(BatchSpec(settings, files, 64))
        positions = maker.planned(0, np.arange(4000)).positions()
        assert abs((positions >= 12).mean() - share) < 0.03
    with pytest.raises(ValueError, match="weights of sources need resample=True"):
        small(tmp_path, *sources, weights_by="shard", resample=False)
