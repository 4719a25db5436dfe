"""Tables of files and texts, as people write them: csv, tsv, jsonl, parquet. Row by row; what is odd is counted."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dcfast.errors import CorruptDataError, DcfastError, PoolError
from dcfast.importing.account import Account
from dcfast.importing.fields import FILES, captions_in, first_of, texts
from dcfast.importing.found import extension
from dcfast.index.segments import IMAGE_EXTS
from dcfast.storage.inputs import StrPath
from dcfast.storage.json_files import parse_json
from dcfast.storage.lines import MOST_LINE_BYTES, iterate_lines
from dcfast.storage.parquet import Kind, ParquetFile

_TABLE = Kind("table", "write it again", PoolError)
_DELIMITERS = (",", "\t", "|", ";")


class Row(NamedTuple):
    """A row: its number in the table from 1, the file that it names, the texts of the column asked for, all texts."""

    number: int
    file: str
    values: list[str]
    others: dict[str, str]


class Columns(NamedTuple):
    """The names by which columns are looked for: of files, and of what is asked for (captions, labels)."""

    files: Sequence[str]
    values: Sequence[str]


def columns_named(file: str, value: str, values: Sequence[str]) -> Columns:
    """Those that somebody names, where they do; else the usual ones."""
    return Columns((file,) if file else FILES, (value,) if value else values)


def read_rows(path: StrPath, columns: Columns, account: Account) -> Iterator[Row]:
    """The rows of a table.

    Raises:
        PoolError: it has no column of files, or none of what is asked for; says which it has.
        OSError: it cannot be read.
    A row that cannot be read is counted; behind one at which the reader stops, the rest is lost, and said.
    Memory: a row (16 MiB at most), or a batch of parquet.
    """
    kind = extension(os.fspath(path))
    reader = _parquet_rows if kind == "parquet" else _json_rows if kind in ("jsonl", "ndjson", "json") else _csv_rows
    return reader(path, columns, account)


def _missing(path: StrPath, names: Sequence[str], columns: Columns) -> PoolError:
    shown = ", ".join(names[:20]) or "none"
    return PoolError(
        f"{os.fspath(path)}: expected a column of files ({', '.join(columns.files[:4])}, ...) and one of "
        f"{', '.join(columns.values[:4])}, ...; got {shown}"
    )


def _csv_rows(path: StrPath, columns: Columns, account: Account) -> Iterator[Row]:
    lines = iterate_lines(path, errors="replace")
    head = next(lines, "").removeprefix("\ufeff")
    delimiter, names = _head(path, head, columns)
    file, value = first_of(columns.files, names), first_of(columns.values, names)
    headless = not (file and value)
    if headless:
        names = ["file", "value", *(f"column {n}" for n in range(3, len(names) + 1))]
        file, value = "file", "value"

    held = 0  # characters of the row at work: a quote that nobody closes makes one row of all that follows

    def fed() -> Iterator[str]:
        nonlocal held
        if headless:
            yield head + "\n"
        for line in lines:
            held += len(line)
            if held > MOST_LINE_BYTES:
                raise CorruptDataError(f"expected rows of at most {MOST_LINE_BYTES:,} bytes", path=path)
            yield line + "\n"

    rows = csv.reader(fed(), delimiter=delimiter)
    number = 0
    while True:
        number += 1
        held = 0
        try:
            cells = next(rows, None)
        except (csv.Error, DcfastError) as error:
            account.add(f"tables that cannot be read beyond a row ({error})", f"{os.path.basename(path)}, row {number}")
            return
        if cells is None:
            return
        fields = dict(zip(names, cells, strict=False))
        if any(cells):
            yield Row(number, fields.get(file, ""), captions_in(fields.get(value)), fields)


def _head(path: StrPath, line: str, columns: Columns) -> tuple[str, list[str]]:
    """The delimiter and the names of the columns; of a table without names, which begins with a picture, the cells."""
    widest: list[str] = []
    for delimiter in _DELIMITERS:
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
        except csv.Error:
            continue
        if first_of(columns.files, cells) and first_of(columns.values, cells):
            return delimiter, cells
        if len(cells) > 1 and extension(cells[0]) in IMAGE_EXTS:
            return delimiter, cells
        widest = max(widest, cells, key=len)
    raise _missing(path, widest, columns)


def _json_rows(path: StrPath, columns: Columns, account: Account) -> Iterator[Row]:
    seen: list[str] | None = None
    for number, line in _numbered_lines(path, account):
        if not line.strip():
            continue
        try:
            fields = parse_json(line, any_number=True)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            account.add("rows of tables that are no JSON object", f"{os.path.basename(path)}, line {number}")
            continue
        file, value = first_of(columns.files, list(fields)), first_of(columns.values, list(fields))
        if seen is None and not (file and value):
            raise _missing(path, list(fields), columns)
        seen = seen or list(fields)
        given = fields.get(value)
        values = captions_in(str(given)) if isinstance(given, int) else captions_in(given)
        name = fields.get(file)
        others = {key: text for key, text in fields.items() if isinstance(text, str)}
        yield Row(number, name if isinstance(name, str) else "", values, others)


def _numbered_lines(path: StrPath, account: Account) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        for number, line in enumerate(iterate_lines(path, errors="replace"), 1):
            yield number, line
    except CorruptDataError as error:  # a line that is too long
        account.add(
            f"tables that cannot be read beyond a row ({error})", f"{os.path.basename(path)}, line {number + 1}"
        )


def _parquet_rows(path: StrPath, columns: Columns, account: Account) -> Iterator[Row]:
    number = 0
    with ParquetFile(path, _TABLE) as table:
        names = list(dict.fromkeys(table.schema.names))
        file, value = first_of(columns.files, names), first_of(columns.values, names)
        if not (file and value):
            raise _missing(path, names, columns)
        others = [name for name in ("url", "URL", "uid") if name in names]
        try:
            for batch in table.batches(list(dict.fromkeys([file, value, *others]))):
                read = {name: texts(batch.column(name)) for name in batch.schema.names}
                numbers = batch.column(value)
                for row in range(len(batch)):
                    number += 1
                    name = read[file][row]
                    values = captions_in(read[value][row])
                    if not values and numbers[row].is_valid and isinstance(numbers[row].as_py(), int):
                        values = [str(numbers[row].as_py())]
                    of_row = {other: text for other in others if isinstance(text := read[other][row], str)}
                    yield Row(number, name if isinstance(name, str) else "", values, of_row)
        except DcfastError as error:
            account.add(
                f"tables that cannot be read beyond a row ({error})", f"{os.path.basename(path)}, row {number + 1}"
            )
