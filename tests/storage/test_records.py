"""Records: what JSON holds is held against their types, and what is wrong is said by file and field."""

from __future__ import annotations

import importlib
from pathlib import Path

import dcfast
import msgspec
import pytest
from dcfast.errors import CorruptDataError
from dcfast.rundir.summaries import Decimal
from dcfast.storage.atomic import write_json
from dcfast.storage.records import Count, Record, as_record, plain, read_record


class Part(Record):
    share: float = 0.0


class Row(Record):
    count: Count
    score: float | None = None
    name: str = ""
    parts: list[Part] = []
    pair: tuple[int, str] | None = None
    counts: dict[str, Count] = {}


def test_a_record_is_written_and_read(tmp_path: Path) -> None:
    row = Row(count=3, score=0.5, name="n\udc80", parts=[Part(share=1)], pair=(1, "x"), counts={"a": 2})
    write_json(tmp_path / "a.json", plain(row))
    assert read_record(tmp_path / "a.json", Row) == row
    assert as_record({"count": 1, "later": [1]}, Row, "a.json") == Row(count=1)  # of a later release
    assert as_record([{"count": 1}], list[Row], "a.json") == [Row(count=1)]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, "object missing required field count"),
        ([], "expected an object; got []"),
        ({"count": -1}, "count: expected a whole number >= 0; got -1"),
        ({"count": 1 << 63}, "count: expected a whole number <= 9223372036854775807; got 9223372036854775808"),
        ({"count": True}, "count: expected a whole number; got true"),
        ({"count": 1, "score": "high"}, "score: expected a number or null; got 'high'"),
        ({"count": 1, "parts": [{"share": "all"}]}, "parts[0].share: expected a number; got 'all'"),
        ({"count": 1, "pair": [1]}, "pair: expected a list of length 2; got [1]"),
        ({"count": 1, "counts": {"a": "x"}}, "counts[...]: expected a whole number; got {'a': 'x'}"),
        ({"count": 1, "name": 5}, "name: expected text; got 5"),
    ],
)
def test_another_type_is_said_by_file_and_field(value: object, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_json(path, value)
    with pytest.raises(CorruptDataError) as caught:
        read_record(path, Row, advice="remove it")
    assert str(caught.value).startswith(f"{path}: {problem}")
    assert str(caught.value).endswith("; remove it")


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(CorruptDataError, match=r"^a\.json: "):
        as_record({"count": 1, "\udc80": 2}, Row, "a.json")


def test_what_is_left_out_of_files_is_none_or_empty() -> None:
    """msgspec leaves a field out where its value IS the default, which equal texts and numbers need not be."""
    package = Path(dcfast.__file__).parent
    for path in package.rglob("*.py"):
        if path.stem not in ("__init__", "__main__"):
            importlib.import_module(".".join(("dcfast", *path.relative_to(package).with_suffix("").parts)))
    waiting, omitting = [Record], 0
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        for field in msgspec.structs.fields(kind) if kind.__struct_config__.omit_defaults else ():
            omitting += 1
            assert field.default in (None, msgspec.NODEFAULT, msgspec.UNSET), (kind, field.name)
    assert omitting


@pytest.mark.parametrize("text", ["0.5", "-1e-05", ".5", "3.", "inf", "-inf", "nan", "1E+3"])
def test_numbers_as_text(text: str) -> None:
    assert as_record(text, Decimal, "a.json") == text


@pytest.mark.parametrize("text", ["e", "--", ".", "", "1_0", "0.5\n", "0x1", "1e"])
def test_other_texts_are_no_numbers(text: str) -> None:
    with pytest.raises(CorruptDataError, match=r"^a\.json: expected a number as text; got "):
        as_record(text, Decimal, "a.json")
