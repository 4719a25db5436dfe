"""A bounded look into result tables that may be far larger than memory.

Tables are a parquet file or a directory of parts (``dcfast.rundir.tables``). Nothing here reads more than a fixed
number of rows at a time; ``spread`` reads a fixed number in all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dcfast.rundir.tables import table_parts
from dcfast.storage.parquet import BATCH_ROWS, ParquetFile, count_rows, read_schema
from dcfast.storage.records import Record, as_record

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SPREAD_PLACES", "SPREAD_ROWS", "columns_of", "evenly", "head", "num_rows", "rows_of", "spread", "stream"]

SPREAD_PLACES = 16
"""Places of a table that ``spread`` looks at."""
SPREAD_ROWS = 4096
"""Rows it reads at each."""
SPREAD_WINDOW = 262_144
"""Rows of a row group that it goes through at most to get to its places."""
R = TypeVar("R", bound=Record)
T = TypeVar("T")


def evenly(items: list[T], most: int) -> list[T]:
    """All of a few items, else so many from all over."""
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else items


def columns_of(path: Path) -> set[str]:
    """The column names of a table; empty where there is none."""
    parts = table_parts(path)
    return set(read_schema(parts[0]).names) if parts else set()


def num_rows(path: Path) -> int:
    """Rows of a table, from the footers of its parts; 0 where there is none."""
    return sum(count_rows(part) for part in table_parts(path))


def rows_of(batch: pa.RecordBatch | pa.Table, kind: type[R], path: Path) -> list[R]:
    """The rows as records. CorruptDataError: a column is of another type; names table and column."""
    return [as_record(row, kind, str(path)) for row in batch.to_pylist()]


def head(path: Path, kind: type[R], rows: int) -> list[R]:
    """The first rows of a table."""
    batches = stream(path, None, batch_rows=max(rows, 1))
    return list(islice((row for batch in batches for row in rows_of(batch.slice(0, rows), kind, path)), rows))


def stream(path: Path, columns: Sequence[str] | None, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """The record batches of a table in order, one in memory at a time."""
    for part in table_parts(path):
        with ParquetFile(part) as file:
            yield from file.batches(columns, batch_rows)


def spread(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Up to SPREAD_PLACES stretches of up to SPREAD_ROWS rows, evenly over the table; all of a small table.

    Which rows they are depends on the table alone. Cost: the footers of all parts, and the pages of the stretches.
    """
    groups: list[tuple[Path, int, int]] = []  # part, row group, rows
    for part in table_parts(path):
        with ParquetFile(part) as file:
            groups += [(part, group, rows) for group, rows in enumerate(file.group_rows) if rows]
    # a place is (row group, where it begins), so that a table of one row group is looked at in many places too
    each = -(-SPREAD_PLACES // max(len(groups), 1))
    places = []
    for part, group, rows in groups:
        window = min(rows, SPREAD_WINDOW)
        places += [(part, group, begin) for begin in range(0, window, max(SPREAD_ROWS, -(-window // each)))]
    by_group: dict[tuple[Path, int], set[int]] = {}
    for part, group, begin in evenly(places, SPREAD_PLACES):
        by_group.setdefault((part, group), set()).add(begin)
    for (part, group), begins in by_group.items():
        with ParquetFile(part) as file:
            at = 0
            for batch in file.batches(columns, SPREAD_ROWS, [group]):
                # batches may be shorter than asked at the end of a page: take what begins at or after a place
                for begin in sorted(begins):
                    if at <= begin < at + batch.num_rows:
                        yield batch.slice(begin - at)
                at += batch.num_rows
                if at > max(begins):
                    break
