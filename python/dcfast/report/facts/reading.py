"""Lines of JSON that a run wrote as it went on, of which a kill may have cut the last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from dcfast.storage.json_files import parse_json
from dcfast.storage.lines import iterate_lines
from dcfast.storage.records import Record, as_record

__all__ = ["read_rows"]

R = TypeVar("R", bound=Record)


def read_rows(path: Path, kind: type[R]) -> Iterator[R]:
    """The lines that are such records, one in memory at a time; none where there is no file. Others are passed over."""
    with suppress(OSError):
        for line in iterate_lines(path, errors="replace"):
            with suppress(ValueError):
                yield as_record(parse_json(line), kind, str(path))
