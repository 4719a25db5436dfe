"""Evaluation sets in the caches of Hugging Face's hub, as DataComp's download leaves them: found, read, and bounded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.errors import CorruptDataError, EvalsetError
from dcfast.evaluate import EvalTask, evaluate_model, find_tasks
from dcfast.evaluate.embed import Embedder
from dcfast.evaluate.evalset import evalset_files, open_evalset, set_fingerprint
from dcfast.evaluate.score import score_evalset
from dcfast.storage.arrow import ArrowStream
from evalset_builder import NAMES, colour_clip, labelled, picture, write_set
from hub_builder import (
    LAYOUTS,
    PAIRS,
    RIDDLES,
    embedded,
    moved,
    pairs,
    riddles,
    set_file,
    write_cache,
    write_source,
    write_stream,
)

KEYS = [f"retrieval/{PAIRS}", "misc/winogavil"]


def _scores(home: Path, out: Path) -> dict[str, Any]:
    summary = evaluate_model(colour_clip(), home, out, batch_size=3)
    assert summary.failed == {}
    return {line.key: line.metrics for line in summary.tasks}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The scores of the same rows in shards."""
    home = tmp_path_factory.mktemp("plain")
    rows = [
        {f"{name}.png": picture(name), f"{name}.txt": "\n".join(row["caption"]).encode()}
        for name, row in zip(NAMES, pairs(), strict=True)
    ]
    write_set(home, f"retrieval-{PAIRS}", rows)
    write_set(home, "misc-winogavil", [{f"{n}.png": picture(n)} for n in NAMES], riddles=json.dumps(riddles()))
    return _scores(home, home / "out")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_scores_as_shards_do(layout: str, tmp_path: Path, plain: dict[str, Any]) -> None:
    home = write_cache(tmp_path / "sets", layout)
    assert [task.key for task, _ in find_tasks(home)] == KEYS
    assert _scores(home, tmp_path / "out") == plain
    assert (plain[KEYS[0]]["text_retrieval_recall@1"], len(plain[KEYS[1]])) == (1.0, 8)
    assert 0 < plain[KEYS[1]]["avg_jaccard_score"] < 1


@pytest.mark.parametrize("how", ["script", "parquet"])
def test_caches_of_the_library_itself(how: str, tmp_path: Path, plain: dict[str, Any]) -> None:
    pytest.importorskip("datasets")
    source, home = write_source(tmp_path / "source"), tmp_path / "sets"
    words = [sys.executable, Path(__file__).parents[1] / "helpers/hub_library.py", home / "hf_cache", source, how]
    subprocess.run(words, env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}, check=True)
    shutil.rmtree(source)
    assert _scores(moved(home, tmp_path / "elsewhere"), tmp_path / "out") == plain


@pytest.mark.parametrize("root", ["/data/of/another/machine", "relative/place"])
def test_a_cache_of_paths_may_be_moved(root: str, tmp_path: Path, plain: dict[str, Any]) -> None:
    home = moved(write_cache(tmp_path / "sets", "script", root=root), tmp_path / "moved")
    assert _scores(home, tmp_path / "out") == plain


def test_directories_come_first_and_parquet_may_lie_in_them(tmp_path: Path, plain: dict[str, Any]) -> None:
    home = write_cache(tmp_path / "sets", "today")
    folder = home / "wds_misc-winogavil_test"
    (folder / "test").mkdir(parents=True)
    source = write_source(tmp_path / "source")
    shutil.copy(source / f"{RIDDLES}.parquet", folder / "test" / "0000.parquet")
    found = {task.key: place for task, place in find_tasks(home)}
    assert found["misc/winogavil"] == folder
    assert _scores(home, tmp_path / "out") == plain


def test_the_newest_of_several_is_taken_and_halves_are_not(tmp_path: Path) -> None:
    home = write_cache(tmp_path, "today", (PAIRS,))
    file = set_file(home, "today", PAIRS)
    older = shutil.copytree(file.parent, file.parents[1] / ("0" * 40))
    os.utime(older / file.name, (1, 1))
    shutil.copytree(file.parent, file.parents[1] / f"{'9' * 40}.incomplete")
    assert [folder for _, folder in find_tasks(home)] == [file.parent]


def test_a_split_that_is_cut(tmp_path: Path) -> None:
    home = write_cache(tmp_path, "today", (PAIRS,))
    file = set_file(home, "today", PAIRS)
    table = pa.ipc.open_stream(file.read_bytes()).read_all()
    file.unlink()
    parts = [file.with_name(f"{PAIRS}-test-{number:05d}-of-00002.arrow") for number in range(2)]
    write_stream(parts[0], table.slice(0, 5))
    with pytest.raises(EvalsetError, match="part 1 of 2 is not there"):
        _open(home)
    write_stream(parts[1], table.slice(5))
    found = _open(home)
    assert [found.key(row) for row in range(8)] == [f"{name}.png" for name in NAMES]
    assert [path.rpartition("/")[2] for path in evalset_files(found.folder)] == [p.name for p in parts] + [
        "dataset_info.json"
    ]


def _open(home: Path) -> Any:
    [(task, folder)] = find_tasks(home)
    return open_evalset(task, folder)


def test_a_picture_is_embedded_once_however_many_riddles_have_it(tmp_path: Path) -> None:
    for layout in LAYOUTS:
        clip = colour_clip()
        found = _open(write_cache(tmp_path / layout, layout, (RIDDLES,)))
        score_evalset(found, Embedder(clip, batch_size=3, threads=2))
        assert clip.model.pictures == len(NAMES)


def test_pictures_that_are_gone_cost_their_riddles(tmp_path: Path) -> None:
    home = write_cache(tmp_path / "sets", "script")
    (tmp_path / "sets/hf_cache/downloads/extracted" / ("e" * 64) / "images/blue.png").unlink()
    summary = evaluate_model(colour_clip(), home, tmp_path / "out")
    assert summary.tasks[0].unreadable == 1
    assert "blue.png: its file blue.png is not in hf_cache/downloads/extracted" in summary.notes[0]
    assert "riddles have a picture that cannot be decoded" in " ".join(summary.tasks[1].notes)
    before = [set_fingerprint(task, folder) for task, folder in find_tasks(home)]
    (tmp_path / "sets/hf_cache/downloads/extracted" / ("e" * 64) / "images/blue.png").write_bytes(picture("blue"))
    assert all(a != b for a, b in zip(before, [set_fingerprint(t, f) for t, f in find_tasks(home)], strict=True))
    assert evaluate_model(colour_clip(), home, tmp_path / "out").tasks[0].unreadable == 0


def test_no_path_leads_out_of_the_cache(tmp_path: Path) -> None:
    home = write_cache(tmp_path / "sets", "script", (PAIRS,))
    (tmp_path / "secret.png").write_bytes(picture("red"))
    inside = tmp_path / "sets/hf_cache/downloads/extracted"
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    for odd in (
        str(tmp_path / "secret.png"),
        f"/x/downloads/extracted/../../../../{tmp_path.name}/secret.png",
        "../secret.png",
        "/x/downloads/extracted/link.png",
        "/x/downloads/extracted/nul\0.png",
        "/x/downloads/extracted",
    ):
        rows = [{"image": {"bytes": None, "path": odd}, "caption": ["a"], "filename": "x"}]
        _rewrite(home, rows)
        found = _open(home)
        assert found.pictures.file.tolist() == [-1], odd
        assert len(evalset_files(found.folder)) == 2


def _rewrite(home: Path, rows: list[dict[str, Any]], layout: str = "script", name: str = PAIRS) -> Path:
    file = set_file(home, layout, name)
    table = pa.ipc.open_stream(file.read_bytes()).schema if file.suffix == ".arrow" else pq.read_schema(file)
    made = pa.Table.from_pylist(rows, table)
    if file.suffix == ".arrow":
        return write_stream(file, made)
    pq.write_table(made, file)
    return file


@pytest.mark.parametrize("layout", ["today", "hub"])
def test_odd_rows(layout: str, tmp_path: Path) -> None:
    home = write_cache(tmp_path, layout, (PAIRS,))
    image = embedded("red.png")
    rows = [
        {"image": image, "caption": ["a red thing", None, ""]},
        {"image": None, "caption": ["b"]},
        {"image": image, "caption": []},
        {"image": image, "caption": None},
        {"image": {"bytes": None, "path": None}, "caption": ["c"]},
        {"image": image, "caption": ["a" * 65_537]},
        {"image": {"bytes": b"no picture", "path": "odd.png"}, "caption": ["d"]},
    ]
    _rewrite(home, rows, layout)
    found = _open(home)
    assert found.captions == [["a red thing", ""], ["b"], ["c"], ["d"]]
    assert {why: len(keys) for why, keys in found.left_out.items()} == {
        **{"without a caption": 2, "with captions of more than 65,536 bytes": 1}
    }
    score = score_evalset(found, Embedder(colour_clip(), batch_size=2, threads=1))
    assert (score.scored, len(score.unreadable)) == (1, 3)
    assert any("not a picture of a known kind" in why for why in score.unreadable.values())


@pytest.mark.parametrize("layout", ["today", "hub"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cue": ""}, "row 0: expected a cue, candidates and associations among them"),
        ({"associations": []}, "row 0: expected a cue"),
        ({"associations": ["nobody"]}, "row 0: expected a cue"),
        ({"candidates": None}, "row 0: expected a cue"),
        ({"candidates": ["a", None], "associations": ["a"]}, "row 0: expected a cue"),
        ({"candidates": ["a", "b"], "associations": ["a"]}, "a row has not as many candidate_images as candidates"),
    ],
)
def test_odd_riddles(layout: str, change: dict[str, Any], words: str, tmp_path: Path) -> None:
    home = write_cache(tmp_path, layout, (RIDDLES,))
    row = riddles()[0]
    row["candidate_images"] = [embedded(f"{name}.png") for name in row["candidates"]]
    _rewrite(home, [{**row, **change}], layout, RIDDLES)
    with pytest.raises((EvalsetError, CorruptDataError), match=words):
        score_evalset(_open(home), Embedder(colour_clip(), batch_size=2, threads=1))


def test_a_riddle_may_have_a_picture_twice(tmp_path: Path) -> None:
    home = write_cache(tmp_path, "today", (RIDDLES,))
    names = ["red", "red", "blue", "green", "cyan"]
    images = [embedded(f"{name}.png") for name in names]
    row = {"cue": "red", "candidates": names, "associations": ["red"], "candidate_images": images}
    _rewrite(home, [row], "today", RIDDLES)
    assert score_evalset(_open(home), Embedder(colour_clip(), batch_size=2, threads=1)).metrics["jaccard_score_5"] == 1


@pytest.mark.parametrize("layout", ["today", "hub"])
def test_other_columns_are_named(layout: str, tmp_path: Path) -> None:
    home = write_cache(tmp_path, layout, (PAIRS,))
    file = set_file(home, layout, PAIRS)
    table = pa.table({"image": ["a.png"], "caption": [["a"]]})
    write_stream(file, table) if layout == "today" else pq.write_table(table, file)
    with pytest.raises(
        EvalsetError, match=r"expected one column image, pictures .a struct of bytes and path.; got str"
    ):
        _open(home)
    table = pa.table({"text": ["a"]})
    write_stream(file, table) if layout == "today" else pq.write_table(table, file)
    with pytest.raises(EvalsetError, match=r"expected one column image, .*; got columns text"):
        _open(home)


def test_rows_that_the_cache_counts_otherwise_are_noted(tmp_path: Path) -> None:
    home = write_cache(tmp_path, "today", (PAIRS,))
    (set_file(home, "today", PAIRS).parent / "dataset_info.json").write_text(
        '{"splits": {"test": {"num_examples": 9}}}'
    )
    assert _open(home).notes == ["dataset_info.json says 9 rows, but there are 8"]


def test_damaged_streams_are_named_and_never_more(tmp_path: Path) -> None:
    """Any byte changed or cut: another reading, or an error that names the file."""
    home = write_cache(tmp_path, "today", (RIDDLES,))
    [(task, folder)] = find_tasks(home)
    file = set_file(home, "today", RIDDLES)
    whole = file.read_bytes()
    rng = np.random.default_rng(5)
    refused = named = 0
    for turn in range(400):
        broken = bytearray(whole)
        if turn % 4 == 0:
            del broken[int(rng.integers(0, len(whole))) :]
        else:
            broken[int(rng.integers(0, len(whole)))] = int(rng.integers(0, 256))
        file.write_bytes(broken)
        try:
            open_evalset(task, folder)
        except (CorruptDataError, EvalsetError) as error:
            refused += folder.name in str(error)
            named += 1
    assert refused == named > 40
    file.write_bytes(b"")
    with pytest.raises(CorruptDataError, match="is no whole Arrow stream"):
        open_evalset(task, folder)


def test_streams_that_decode_to_more_than_they_take_are_refused(tmp_path: Path) -> None:
    schema = pa.schema({"a": pa.string()})
    batch = pa.record_batch([pa.array(["a" * 1_000_000])], schema)
    path = tmp_path / "x.arrow"
    for codec in ("zstd", "lz4"):
        with pa.RecordBatchStreamWriter(str(path), schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_batch(batch)
        assert path.stat().st_size < 100_000
        with pytest.raises(CorruptDataError, match="compressed"):
            list(ArrowStream(path).batches())
    words = pa.array(["x", "y", "x"]).dictionary_encode()
    write_stream(path, pa.table({"a": words}))
    with pytest.raises(CorruptDataError, match="dictionary"):
        list(ArrowStream(path).batches())


def test_a_set_of_another_kind_is_no_hub_set(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    folder = tmp_path / "wds_cifar10_test"
    folder.mkdir()
    shutil.copy(source / f"{PAIRS}.parquet", folder / "test.parquet")
    with pytest.raises(EvalsetError, match="a set of kind classification is read from test/"):
        open_evalset(EvalTask("cifar10", "C", folder.name, kind="classification"), folder)
    write_set(tmp_path / "b", "cifar10", labelled(3), NAMES)
    shutil.copy(source / f"{PAIRS}.parquet", tmp_path / "b/wds_cifar10_test/test.parquet")
    assert len(open_evalset(EvalTask("cifar10", "C", "wds_cifar10_test"), tmp_path / "b/wds_cifar10_test").labels) == 3
