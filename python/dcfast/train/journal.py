"""Lines that a training appends as it goes: its log, the samples that were replaced, what DALI refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dcfast.storage.atomic import append_lines, write_bytes
from dcfast.storage.inputs import read_input
from dcfast.storage.json_files import parse_json
from dcfast.storage.lines import MOST_TEXT_BYTES, split_lines
from dcfast.storage.records import Record, as_record, plain

__all__ = ["append_records", "drop_later_lines"]


class _OfStep(Record):
    step: int


def append_records(path: Path, records: Sequence[Record]) -> None:
    """Appends a line of JSON for each; without any there is no file."""
    if records:
        append_lines(path, (json.dumps(plain(record)) for record in records))


def drop_later_lines(path: Path, last: int) -> None:
    """Drops the lines of steps after ``last``, and those that a killed process left half written."""
    if not path.exists():
        return
    kept, before = [], read_input(path, MOST_TEXT_BYTES)
    for line in split_lines(before):
        with suppress(ValueError):
            if as_record(parse_json(line), _OfStep, str(path)).step <= last:
                kept.append(line + b"\n")
    after = b"".join(kept)
    if after != before:
        write_bytes(path, after)
