"""JSON that a stranger wrote, by every reader of it: an error that names the file, or a value that counts as absent."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dcfast.engine.piece import read_marker
from dcfast.errors import CorruptDataError, DcfastError
from dcfast.evaluate import bundle, evalset, hub_set, import_set, place_set, results, scores, tasks
from dcfast.importing import pictures, samples, tables
from dcfast.importing.account import Account
from dcfast.importing.fields import CAPTIONS, captions_of
from dcfast.index import pool_index, refresh
from dcfast.interop.energon_files import read_energon
from dcfast.interop.ratarmount import read_ratarmount
from dcfast.interop.sizes import read_sizes
from dcfast.interop.wids import read_wids
from dcfast.report.facts.reading import read_rows
from dcfast.report.facts.training import CurvePoint
from dcfast.resharding import boxes, edit, output, resume
from dcfast.resharding.plan import ReshardPlan
from dcfast.run import dry_run
from dcfast.run.options import options_of, parser
from dcfast.rundir import claim, run_dir, summaries
from dcfast.rundir.settings import Settings
from dcfast.rundir.summary import Summary
from dcfast.status import facts
from dcfast.storage.config import read_config
from dcfast.storage.json_files import MOST_DEPTH, MOST_DIGITS, parse_json, read_json, read_json_lines
from dcfast.storage.records import read_record
from dcfast.train.captions import _of_json
from dcfast.train.evaluating import read_scores
from dcfast.train.replaced import replacement_reasons
from piece_functions import square

BAD: dict[str, bytes] = {
    "nested lists": b"[" * 100_000 + b"]" * 100_000,
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "nested and cut": b"[" * 100_000,
    "a long number": b'{"a": ' + b"9" * 100_000 + b"}",
    "a number longer than 64 bits": b'{"a": -' + b"1" * (MOST_DIGITS + 1) + b"}",
    "half of a character": b'{"a": "\\ud800"}',
    "half of a character in a key": b'{"\\udfff": 1}',
    "half of a character as bytes": b'{"a": "\xed\xa0\x80"}',
    "NaN": b'{"a": NaN}',
    "Infinity": b"[-Infinity]",
    "beyond a double": b'{"a": 1e999}',
    "a key twice": b'{"a": 1, "a": 2}',
    "not UTF-8": b'{"a": "\xff"}',
    "cut": b'{"a": 1',
    "empty": b"",
}

Reader = Callable[[Path, bytes], Any]


def at(name: str, read: Callable[[Path], Any]) -> Reader:
    """Writes the bytes to a file of that name below a folder, and reads it by a function of its path."""

    def write_and_read(folder: Path, data: bytes) -> Any:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return read(path)

    return write_and_read


def opened(path: Path) -> None:
    with run_dir.open_run(path.parent.parent, Settings(pool="p")):
        pass


def model_config(path: Path) -> None:
    clip = pytest.importorskip("dcfast.models.clip")
    pytest.importorskip("open_clip")
    clip.create_model(f"local-dir:{path.parent}", seed=0)


def train_settings(path: Path) -> Any:
    pytest.importorskip("torch")
    from dcfast.train.__main__ import _from_file

    return _from_file(str(path))


def kept_lines(path: Path) -> bytes | None:
    pytest.importorskip("torch")
    from dcfast.train.journal import drop_later_lines

    drop_later_lines(path, 1 << 40)
    return path.read_bytes() or None


def cell_result(path: Path) -> Any:
    from dcfast.study.cell import read_result
    from dcfast.study.grid import Cell

    folder = str(path.parent.parent)
    return read_result(Cell("tiny", 0, "f", Settings(pool="p"), folder, folder))


def row_of_a_table(path: Path) -> Any:
    """The second row; the first is a good one, which tells the columns."""
    path.write_bytes(b'{"file": "a.jpg", "text": "a"}\n' + path.read_bytes())
    first, *others = tables.read_rows(path, tables.columns_named("", "", CAPTIONS), Account())
    assert (first.file, first.values) == ("a.jpg", ["a"])
    return [row for row in others if row.file] or None


def last_times(path: Path) -> Any:
    run: Any = SimpleNamespace(out=path.parents[1])
    return dry_run._last_times(run) or None


def ratarmount_stats(path: Path) -> Any:
    """The text of the file as the tarstats in an index of ratarmount."""
    index = path.with_name("a.tar.index.sqlite")
    database = sqlite3.connect(index)
    database.executescript(
        "DROP TABLE IF EXISTS metadata; DROP TABLE IF EXISTS versions; CREATE TABLE metadata (key, value);"
        "CREATE TABLE versions (name, version); INSERT INTO versions VALUES ('index', '0.7.0')"
    )
    database.execute("INSERT INTO metadata VALUES ('tarstats', ?)", (path.read_bytes(),))
    database.commit()
    database.close()
    return read_ratarmount(index)


def bundle_of(path: Path) -> Any:
    """A bundle whose manifest is the text of the file, and has the right hash."""
    text = path.read_bytes()
    name = f"dcfast-evalsets-{hashlib.sha256(text).hexdigest()}.json"
    path.write_bytes(bundle._header(name, len(text)) + text + bundle._padding(len(text)) + bundle._END)
    with bundle.open_bundle(str(path)) as opened:
        return opened.manifest


PIECE = square.piece("a/b", "0")(value=1, output="o")

REFUSES: dict[str, Reader] = {
    "interop/energon_files.py": at(".nv-meta/.info.json", lambda path: read_energon(path.parents[1])),
    "interop/ratarmount.py": at("tarstats", ratarmount_stats),
    "interop/sizes.py": at("sizes.json", read_sizes),
    "interop/wids.py": at("a.json", read_wids),
    "rundir/claim.py": at("settings.json", claim.read_settings),
    "rundir/run_dir.py": at("out/state/settings.json", opened),
    "evaluate/evalset.py": at("riddles.json", lambda path: evalset._raw_riddles(path.parent)),
    "evaluate/bundle.py": at("b.tar", bundle_of),
    "evaluate/place_set.py": at("dcfast_set.json", lambda path: place_set.read_set_record(path.parent)),
    "evaluate/tasks.py": at("tasks.json", tasks.read_task_table),
    "evaluate/import_set.py": at("classes.json", lambda path: import_set._named_classes(["a"], False, str(path))),
    "index/pool_index.py": at("index.json", pool_index._read_layout),
    "resharding/boxes.py": at("map.json", boxes._files_of_map),
    "resharding/plan.py": at("plan.json", lambda path: ReshardPlan.load(path.parent)),
    "resharding/resume.py": at("meta.json", lambda path: resume._read(str(path), dict[str, str])),
    "resharding/output.py": at("00000000_stats.json", lambda path: output._read_stats(str(path.parent), 1)),
    "train/__main__.py": at("settings.json", train_settings),
    "models/folder.py": at("open_clip_config.json", model_config),
    "storage/json_files.py": at("log.jsonl", read_json_lines),
    "storage/config.py": at("manifest.json", read_config),
    "storage/records.py": at("record.json", lambda path: read_record(path, dict[str, int])),
}
"""Reader -> what raises an error that names the file."""

PASSES: dict[str, Reader] = {
    "rundir/summaries.py, compared": at("a.json", lambda path: summaries.equals_json(path, {"a": 1}) or None),
    "evaluate/scores.py": at("state/filter.json", lambda path: scores.read_leaked(path.parent.parent, None)),
    "evaluate/hub_set.py": at("dataset_info.json", lambda path: hub_set._damage(path.parent, 1) or None),
    "engine/piece.py": at("state/a/b/0.json", lambda path: read_marker(path.parents[3], PIECE)),
    "index/refresh.py": at("index.json", lambda path: refresh._refuse_other_uids(path.parent, "json")),
    "index/pool_index.py, its rule": at("index.json", lambda path: pool_index.uid_rule(path.parent)),
    "rundir/summaries.py, where it may be absent": at("a.json", lambda path: summaries.find_summary(path, Summary)),
    "report/facts/reading.py": at("log.jsonl", lambda path: list(read_rows(path, CurvePoint)) or None),
    "train/journal.py": at("log.jsonl", kept_lines),
    "train/captions.py": at("a.json", lambda path: _of_json(memoryview(path.read_bytes()), "a") or None),
    "train/evaluating.py": at("eval_results.jsonl", lambda path: read_scores(path) or None),
    "train/replaced.py": at("replaced-0.jsonl", lambda path: replacement_reasons(path.parent, 0, 9) or None),
    "importing/pictures.py": at("a.json", lambda path: pictures._beside(str(path.parent), "a.jpg", "", "")[0] or None),
    "importing/samples.py": at("a.json", lambda path: captions_of(samples._parsed(path.read_bytes()) or {}) or None),
    "importing/tables.py": at("a.jsonl", row_of_a_table),
    "run/dry_run.py": at("state/timings.jsonl", last_times),
    "status/facts.py": at("timings.jsonl", lambda path: facts._times(path) or None),
    "study/cell.py": at("state/result.json", cell_result),
}
"""Reader -> what counts bad JSON as absent: what it stands for is made again, or not shown."""

ELSEWHERE = {
    "evaluate/results.py": "test_results_name_the_line",
    "resharding/edit.py": "test_a_sample_keeps_its_numbers",
    "rundir/settings.py": "test_a_command_line",
    "train/settings.py": "a word of a command line: what is no JSON is text",
    "run/acquisition.py": "a word of a command line: what is no JSON is text",
    "hub/transfer.py": "an answer of a hub; tests/hub/test_hub_faults.py",
    "train/meeting.py": "what rank 0 says to the others; tests/train/test_train_ranks.py",
    "run/training_plan.py": "what the training itself wrote, and what is odd in it is another training",
    "dedup/signature_file.py": "the header of a signature file; tests/dedup/test_signature_file.py",
    "resharding/verify.py": "a mismatch of the output, by read_json; tests/resharding",
}


def test_every_reader_has_a_row(repo_root: Path) -> None:
    package = repo_root / "python/dcfast"
    found, others = set(), set()
    for path in package.rglob("*.py"):
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(package))
        if re.search(r"\b(read_json|parse_json|read_json_lines)\(", text):
            found.add(name)
        if re.search(r"json\.(JSONDecoder|loads?)\((?!json\.dumps)", text):
            others.add(name)
    assert others == {"storage/json_files.py"}
    rows = {*REFUSES, *(name.partition(",")[0] for name in PASSES), *ELSEWHERE}
    assert found - rows - {"train/session.py"} == set(), "train/session.py reads what the training itself wrote"


NO_LINES = ("storage/json_files.py", "empty")
"""A file without lines has no values, and is right."""


@pytest.mark.parametrize(("reader", "bad"), sorted({*product(REFUSES, BAD)} - {NO_LINES}))
def test_an_error_names_the_file(reader: str, bad: str, tmp_path: Path) -> None:
    with pytest.raises((DcfastError, ValueError)) as caught:
        REFUSES[reader](tmp_path, BAD[bad])
    assert not isinstance(caught.value, RecursionError)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 1000 + len(str(tmp_path))


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("reader", PASSES)
def test_or_it_counts_as_absent(reader: str, bad: str, tmp_path: Path) -> None:
    assert PASSES[reader](tmp_path, BAD[bad]) is None


@pytest.mark.parametrize("bad", [name for name in BAD if name not in ("NaN", "Infinity", "beyond a double", "empty")])
def test_results_name_the_line(bad: str, tmp_path: Path) -> None:
    path = tmp_path / "eval_results.jsonl"
    path.write_bytes(b'{"key": "a", "metrics": {}, "checkpoint": "c"}\n' + BAD[bad])
    assert (results.load_results(path).damaged, len(results.load_results(path).results)) == ([2], 1)
    with pytest.raises(DcfastError, match=r"eval_results\.jsonl, line 2"):
        scores.read_scores(tmp_path)


@pytest.mark.parametrize(
    "bad", ["nested lists", "nested objects", "nested and cut", "a long number", "not UTF-8", "cut"]
)
def test_a_sample_keeps_its_numbers(bad: str) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        edit._with_boxes(BAD[bad], np.zeros((1, 4)))
    with pytest.raises(ValueError, match="it has 8,388,610 bytes, expected at most 8,388,608"):
        edit._with_boxes(b"[]" + b" " * (8 << 20), np.zeros((1, 4)))
    odd = b'{"a": NaN, "b": 123456789012345678901234567890, "c": "\\ud800", "a": 2}'  # as pandas and others write them
    assert b"123456789012345678901234567890" in edit._with_boxes(odd, np.zeros((1, 4)))


def test_a_command_line() -> None:
    for text in ("[" * 100_000, "9" * 100_000, "NaN", "1e999"):
        with pytest.raises(ValueError, match="--world takes NAME=NUMBER"):
            options_of(parser().parse_args(["--world", f"rows={text}"]))


def test_the_bounds_themselves(tmp_path: Path) -> None:
    deep = b"[" * MOST_DEPTH + b"]" * MOST_DEPTH
    assert parse_json(deep) is not None
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(b"[" + deep + b"]")
    brackets = '["' + "[" * 1000 + '\\"' + '{", "]"]'
    assert parse_json(brackets) == ["[" * 1000 + '"{', "]"]  # within a text they are none
    assert parse_json(b"18446744073709551615") == (1 << 64) - 1
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600"
    assert parse_json(b'\xef\xbb\xbf{"a": "\\udc80"}', names=True) == {"a": "\udc80"}
    with pytest.raises(ValueError, match="half of a character"):
        parse_json(b'"\\ud800"', names=True)
    (tmp_path / "a.json").write_bytes(b"[1]" + b" " * 100)
    assert read_json(tmp_path / "a.json", most=103) == [1]
    with pytest.raises(CorruptDataError, match=r"a\.json is too large: expected at most 102 bytes"):
        read_json(tmp_path / "a.json", most=102)


@pytest.mark.parametrize("text", ["[" * 101 + '"' + '\\"' * 300_000, "[" * 101 + '"' * 300_001, '"' + "[{" * 300_000])
def test_no_text_takes_long(text: str) -> None:
    import time

    began = time.process_time()
    with pytest.raises(ValueError, match="not json"):
        parse_json(text)
    assert time.process_time() - began < 2
