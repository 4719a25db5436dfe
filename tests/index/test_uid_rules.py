"""Pools without uids: refused after the index, or given uids by a public rule that index and metadata share."""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import dcfast
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast import resharding
from dcfast.errors import CorruptDataError, PoolError, RunError
from dcfast.index import refresh_index
from dcfast.index.build import index_tars
from dcfast.index.metadata import metadata_schema, open_metadata, parse_uids
from dcfast.index.pool import Pool
from dcfast.process.exit_codes import LOST
from dcfast.run.workflow import main, run
from dcfast.rundir.settings import Settings
from dcfast.storage.hashing import hash_bytes
from dcfast.uids.sets import load_subset, uid_format
from piece_functions import first_piece
from pool_builder import picture

COUNT = 9
URLS = [f"https://example.invalid/é/{i}.jpg?a=1&b=\u2028" for i in range(COUNT)]
KEYS = [f"{i // 5:05d}{i % 5:04d}" for i in range(COUNT)]


def rule(uid_from: str, i: int) -> str:
    """The published rule, by another way than the index takes."""
    text = URLS[i] if uid_from == "url" else f"{i // 5:05d}.tar/{KEYS[i]}"
    return hash_bytes(text.encode())


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """What img2dataset leaves: tars, a table and a json of counts for each, in one folder. No uids."""
    root = tmp_path / "flat"
    root.mkdir()
    for shard in range(2):
        numbers = range(5 * shard, min(5 * shard + 5, COUNT))
        with tarfile.open(root / f"{shard:05d}.tar", "w") as tar:
            for i in numbers:
                record = {"url": URLS[i], "key": KEYS[i], "caption": "some words here", "status": "success"}
                text = json.dumps(record, ensure_ascii=bool(i % 2))  # with escapes or without
                for ext, data in (("jpg", picture(i)), ("json", text.encode()), ("txt", b"some words here")):
                    info = tarfile.TarInfo(f"{KEYS[i]}.{ext}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        rows = [*numbers, None]  # one that could not be downloaded
        urls = [f"https://example.invalid/gone/{shard}" if i is None else URLS[i] for i in rows]
        keys = [f"{shard:05d}9999" if i is None else KEYS[i] for i in rows]
        table = {"url": urls, "caption": ["some words here"] * len(rows), "key": keys}
        pq.write_table(pa.table(table), root / f"{shard:05d}.parquet")
        (root / f"{shard:05d}_stats.json").write_text("{}")
    return root


@pytest.mark.parametrize("uid_from", ["url", "key"])
def test_a_run_from_the_pool_to_new_shards(flat: Path, tmp_path: Path, uid_from: str) -> None:
    settings = Settings(pool=str(flat), filter="no_filter", train=False, uid_from=uid_from)
    done = run(tmp_path / "run", settings)
    assert done["filter"].fates == {"kept": COUNT, "dropped": 0, "quarantined": 0, "missing": 2, "unlisted": 0}
    assert (done["verify"].ok, done["filter"].malformed_uids, done["index"].notes) == (True, 0, [])
    expected = sorted(rule(uid_from, i) for i in range(COUNT))
    assert uid_format(load_subset(tmp_path / "run/subset.npy"), as_list=True) == expected
    # the subset means the same to the resharder and to an index of its own
    report = resharding.reshard(flat, tmp_path / "out", tmp_path / "run/subset.npy", uid_from=uid_from)
    assert (report["output_count"], report["missing_count"]) == (COUNT, 0)
    assert (tmp_path / "out/00000000.tar").read_bytes() == (tmp_path / "run/shards/00000000.tar").read_bytes()
    assert json.loads((tmp_path / "run/report.json").read_text())["overlap"] is not None


def test_without_a_rule_the_run_ends_behind_the_index(flat: Path, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(PoolError, match=r"00000\.parquet has no column uid .*--uid-from url or key"):
        run(tmp_path / "a", Settings(pool=str(flat), filter="no_filter", train=False))
    for path in flat.glob("*.parquet"):  # metadata with uids of its own
        table = pq.read_table(path)
        pq.write_table(table.append_column("uid", pa.array([f"{i:032x}" for i in range(len(table))])), path)
    arguments = ["--pool", str(flat), "--filter", "no_filter", "--no-train", "--quiet"]
    assert main([*arguments, "--out", str(tmp_path / "b")]) == 1
    said = capsys.readouterr().err
    assert f"none of its {COUNT} samples has a uid ({COUNT} have json without uid)" in said
    assert "--uid-from url or key" in said
    assert not (tmp_path / "b/state/index.json").exists()
    assert not (tmp_path / "b/state/filter.json").exists()


def test_samples_without_json_have_keys_alone(flat: Path, tmp_path: Path) -> None:
    for path in flat.glob("*.tar"):
        with tarfile.open(path) as tar:
            members = [(m, tar.extractfile(m).read()) for m in tar if not m.name.endswith("json")]  # type: ignore[union-attr]
        with tarfile.open(path, "w") as tar:
            for member, data in members:
                tar.addfile(member, io.BytesIO(data))
    settings = Settings(pool=str(flat), filter="no_filter", train=False, uid_from="url")
    with pytest.raises(PoolError, match=rf"\({COUNT} have no json\).*--uid-from key"):
        run(tmp_path / "a", settings)
    done = run(tmp_path / "b", Settings(pool=str(flat), filter="no_filter", train=False, uid_from="key"))
    assert done["filter"].fates["kept"] == COUNT


def test_some_without_uid_are_a_note(flat: Path, tmp_path: Path) -> None:
    members = [
        ("x.jpg", picture(0)),
        ("x.txt", b"w"),
        ("x.json", b'{"url": ""}'),
        ("y.jpg", picture(1)),
        ("y.json", b"["),
    ]
    with tarfile.open(flat / "00002.tar", "w") as tar:
        for name, data in [*members, ("z.jpg", picture(2)), ("z.json", b'{"url": 5}')]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    done = run(tmp_path / "a", Settings(pool=str(flat), filter="no_filter", train=False, uid_from="url"), last="filter")
    (note,) = done["index"].notes
    assert note.startswith(f"3 of {COUNT + 3} samples have no uid (1 have json without url, 1 have json that cannot be")
    assert "1 have a url that is none" in note
    assert done["filter"].reasons == {"json cannot be read": 1, "json without url": 1, "url is no text": 1}


def test_the_same_uids_of_every_type(tmp_path: Path) -> None:
    values = ["a", "", None, "é" * 100, "a"]
    expected = [None if not v else hash_bytes(v.encode()) for v in values]
    text = pa.array(values)
    kinds = [text, text.cast(pa.large_string()), text.cast(pa.binary()), text.dictionary_encode()]
    for column in kinds:
        path = tmp_path / "00007.parquet"
        pq.write_table(
            pa.table({"uid": ["old"] * 5, "url": column, "key": column, "n": range(5)}), path, row_group_size=2
        )
        for uid_from, prefix in (("url", ""), ("key", "00007.tar/")):
            wanted = (
                expected
                if not prefix
                else [v and hash_bytes((prefix + v).encode()) for v in [x or None for x in values]]
            )
            with open_metadata(path, uid_from) as file:
                assert file.schema.names == ["url", "key", "n", "uid"]
                whole = list(file.batches())
                assert [u for b in whole for u in b["uid"].to_pylist()] == wanted
                assert [x for b in whole for x in b["n"].to_pylist()] == [0, 1, 2, 3, 4]
                some = list(file.batches(["n", "uid"]))
                assert {tuple(b.schema.names) for b in some} == {("n", "uid")}
                valid = [v for b in some for v in parse_uids(b)[1].tolist()]
                assert valid == [v is not None for v in wanted]
                assert next(file.batches(["n"])).schema.names == ["n"]
    pq.write_table(pa.table({"uid": ["x"], "url": [5]}), path)
    with pytest.raises(PoolError, match=r"00007\.parquet has a column url of type int64 .*--uid-from url needs it"):
        metadata_schema(path, "url")
    with pytest.raises(PoolError, match=r"00007\.parquet has no column key"):
        metadata_schema(path, "key")


def test_a_metadata_row_without_url_is_quarantined(flat: Path, tmp_path: Path) -> None:
    path = flat / "00001.parquet"
    table = pq.read_table(path)
    urls = ["", *table["url"].to_pylist()[1:]]
    pq.write_table(table.set_column(0, "url", pa.array(urls)), path)
    settings = Settings(pool=str(flat), filter="no_filter", train=False, uid_from="url")
    done = run(tmp_path / "run", settings, last="filter")
    assert (done["filter"].malformed_uids, done["filter"].fates["unlisted"]) == (1, 1)
    reasons = pq.read_table(tmp_path / "run/quarantine.parquet")["reason"].to_pylist()
    assert reasons == ["metadata 00001.parquet, row 0, has no url"]


def test_rows_that_repeat_a_url_are_told(flat: Path, tmp_path: Path) -> None:
    """Their samples are kept where one of them passes, for they have one uid; said once."""
    path = flat / "00000.parquet"
    rows = pq.ParquetFile(path).read().to_pylist()
    again = [{**rows[0], "caption": "x"}, {**rows[1], "caption": "x"}, {**rows[1], "caption": "x"}]
    pq.write_table(pa.Table.from_pylist(rows + again), path)
    for uid_from, expected in (("url", 1), ("key", 0)):
        settings = Settings(pool=str(flat), filter="no_filter", train=False, uid_from=uid_from)
        done = run(tmp_path / uid_from, settings, last="filter")
        notes = [note for note in done["filter"].notes if "repeat a url" in note]
        assert len(notes) == expected
        assert all(note.startswith("3 metadata rows and 0 samples repeat a url that stood before") for note in notes)


def test_a_refresh_of_other_uids_is_refused(flat: Path, tmp_path: Path) -> None:
    index = tmp_path / "ix"
    for _ in range(2):
        assert refresh_index(index, flat, uid_from="key")["rows"] == COUNT
    before = {path.name: path.read_bytes() for path in index.iterdir()}
    for other in ("json", "url"):
        with pytest.raises(RunError, match=f"come from key .* but --uid-from is {other}; give --uid-from key"):
            refresh_index(index, flat, uid_from=other)
    assert {path.name: path.read_bytes() for path in index.iterdir()} == before
    assert refresh_index(tmp_path / "json", flat)["rows"] == 0
    with pytest.raises(RunError, match=r"come from json .* but --uid-from is url"):
        refresh_index(tmp_path / "json", flat, uid_from="url")
    # killed while files were exchanged: what is there is of two kinds, and nothing of it is taken over
    (index / ".uids.json").write_text(json.dumps({"uid_from": "mixed"}))
    (index / "index.json").unlink()
    assert len(refresh_index(index, flat, uid_from="json")["indexed"]) == 2
    assert not (index / ".uids.json").exists()
    with pytest.raises(ValueError, match="uid_from must be one of json, url, key"):
        refresh_index(index, flat, uid_from="name")


def test_a_refresh_of_a_runs_index_goes_by_its_rule(flat: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out, Settings(pool=str(flat), filter="no_filter", train=False, uid_from="url"), last="index")
    layout = json.loads((out / "index/index.json").read_bytes())
    assert layout["uid_from"] == "url"
    before = (out / "index/pool.npy").read_bytes()
    del layout["uid_from"]
    for place in (out, out / "index"):
        with pytest.raises(RunError, match=r"come from url .* but --uid-from is json"):
            refresh_index(place, flat)
        (out / "index/index.json").write_text(json.dumps(layout))  # as older runs have it: the settings tell
    assert refresh_index(out, flat, uid_from="url")["rows"] == COUNT
    assert (out / "index/pool.npy").read_bytes() == before


def test_pieces_of_older_code_are_made_anew(flat: Path, tmp_path: Path) -> None:
    from dcfast.engine.piece import PieceFunction, piece_key
    from dcfast.rundir.run_dir import Run
    from dcfast.stages import index

    given = Run(tmp_path, Settings(pool=str(flat), uid_from="url"))
    piece = first_piece(index.steps, given)
    assert piece.function.version > 1
    older = PieceFunction(index.build_segment.function, 1, True)
    assert piece_key(tmp_path, piece) != piece_key(tmp_path, replace(piece, function=older))


@pytest.mark.parametrize(
    ("uid_from", "why"),
    [
        ("key", r"makes them of SHARD\.tar/KEY, .*\(00000\.parquet of 00000\.tar\)"),
        ("url", "may be another pool's; compare its column url"),
        ("none", "no row has a url to make a uid of"),
    ],
)
def test_metadata_of_no_sample_is_a_warning(flat: Path, tmp_path: Path, uid_from: str, why: str, capsys: Any) -> None:
    for path in flat.glob("*.parquet"):
        table = pq.read_table(path)
        if uid_from == "key":
            path.unlink()  # the same rows under a name that is no shard's
            path = path.with_name(f"part-{path.name}")
        else:
            urls = pa.array([f"other {i}" if uid_from == "url" else "" for i in range(len(table))])
            table = table.set_column(0, "url", urls)
        pq.write_table(table, path)
    options = ["--filter", "no_filter", "--no-train", "--quiet", "--to", "filter", "--out", str(tmp_path / "run")]
    rule = uid_from.replace("none", "url")
    assert main(["--pool", str(flat), "--uid-from", rule, *options]) == LOST
    told, said = capsys.readouterr()
    assert "none of the" not in told
    assert f"warning: none of the {COUNT + 2} metadata rows is of one of the {COUNT} samples, so none is kept: " in said
    assert re.search(why, said)


def test_other_uses_of_the_option(flat: Path, tmp_path: Path, capsys: Any) -> None:
    assert index_tars(flat).samples()["uid"].null_count == COUNT
    report = resharding.reshard(flat, tmp_path / "o", load_empty(tmp_path))
    assert any("has a uid" in note for note in report["notes"])
    with pytest.raises(ValueError, match="uid_from is for a given pool"):
        run(tmp_path / "w", Settings(uid_from="url"))
    with pytest.raises(ValueError, match="uid_from must be one of json, url, key; got 'urls'; did you mean 'url'"):
        run(tmp_path / "w", Settings(pool=str(flat), uid_from="urls"))
    assert main(["--pool", str(flat), "--uid-from", "urls", "--no-train", "--out", str(tmp_path / "w")]) == 2
    assert "--uid-from must be one of" in capsys.readouterr().err


def load_empty(folder: Path) -> Any:
    dcfast.save_subset(folder / "none.npy", dcfast.uid_parse([])[0])
    return load_subset(folder / "none.npy")


def test_the_documented_example(repo_root: Path) -> None:
    text = (repo_root / "docs/formats.md").read_text("utf-8")
    for example in ("https://example.com/a.jpg", "00012.tar/000120007"):
        assert f"`{hash_bytes(example.encode())}`" in text


def test_metadata_that_is_passed_over_is_named(flat: Path) -> None:
    assert Pool.open(flat).notes == []
    for name in ("a.PARQUET", "b.parq", "c.parquet.part", "sub/d.parquet", "other/e.txt"):
        path = flat / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (note,) = Pool.open(flat).notes
    assert note.startswith(f"{flat}: passed over: a.PARQUET (the name must end in .parquet, in lower case), b.parq (")
    assert "c.parquet.part (unfinished or compressed" in note
    assert note.endswith("sub (a directory, with d.parquet in it: metadata must lie side by side)")


@pytest.mark.parametrize("value", [5, None, ["url"]])
def test_a_rule_that_was_altered_is_said(value: object, tmp_path: Path) -> None:
    from dcfast.index.pool_index import uid_rule
    from dcfast.index.refresh import _refuse_other_uids

    (tmp_path / "index.json").write_text(json.dumps({"shards": 1, "segments": [[0, 1]], "uid_from": value}))
    for read in (uid_rule, lambda folder: _refuse_other_uids(folder, "json")):
        with pytest.raises(CorruptDataError, match=r"index\.json: uid_from: expected text; got "):
            read(tmp_path)
