"""A bounded look into result tables that may be far larger than memory.

Tables are a parquet file or a directory of parts (``dcfast.rundir.tables``). Nothing here reads more than a fixed
number of rows at a time; ``spread`` reads a fixed number in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dcfast.rundir.tables import table_parts
from dcfast.storage.parquet import BATCH_ROWS, ParquetFile, count_rows, read_schema

__all__ = ["SPREAD_PLACES", "SPREAD_ROWS", "columns_of", "head", "num_rows", "spread", "stream"]

SPREAD_PLACES = 16
"""Places of a table that ``spread`` looks at."""
SPREAD_ROWS = 4096
"""Rows it reads at each."""
SPREAD_WINDOW = 262_144
"""Rows of a row group that it goes through at most to get to its places."""


def columns_of(path: Path) -> list[str]:
    """The column names of a table; empty where there is none."""
    parts = table_parts(path)
    return list(read_schema(parts[0]).names) if parts else []


def num_rows(path: Path) -> int:
    """Rows of a table, from the footers of its parts; 0 where there is none."""
    return sum(count_rows(part) for part in table_parts(path))


def head(path: Path, rows: int) -> list[dict[str, Any]]:
    """The first rows of a table, as dictionaries."""
    found: list[dict[str, Any]] = []
    for batch in stream(path, None, batch_rows=max(rows, 1)):
        found += batch.slice(0, rows - len(found)).to_pylist()
        if len(found) >= rows:
            break
    return found


def stream(path: Path, columns: list[str] | None, batch_rows: int = BATCH_ROWS) -> Iterator[Any]:
    """The record batches of a table in order, one in memory at a time."""
    for part in table_parts(path):
        with ParquetFile(part) as file:
            yield from file.batches(columns, batch_rows)


def _row_groups(path: Path) -> Iterator[tuple[Path, int, int]]:
    for part in table_parts(path):
        with ParquetFile(part) as file:
            sizes = file.group_rows
        yield from ((part, group, rows) for group, rows in enumerate(sizes) if rows)


def spread(path: Path, columns: list[str] | None = None) -> Iterator[Any]:
    """Up to SPREAD_PLACES stretches of up to SPREAD_ROWS rows, evenly over the table; all of a small table.

    Which rows they are depends on the table alone. Cost: the footers of all parts, and the pages of the stretches.
    """
    groups = list(_row_groups(path))
    # a place is (row group, where it begins), so that a table of one row group is looked at in many places too
    each = -(-SPREAD_PLACES // max(len(groups), 1))
    places = []
    for part, group, rows in groups:
        window = min(rows, SPREAD_WINDOW)
        places += [(part, group, begin) for begin in range(0, window, max(SPREAD_ROWS, -(-window // each)))]
    if len(places) > SPREAD_PLACES:
        places = [places[i * len(places) // SPREAD_PLACES] for i in range(SPREAD_PLACES)]
    by_group: dict[tuple[Path, int], set[int]] = {}
    for part, group, begin in places:
        by_group.setdefault((part, group), set()).add(begin)
    for (part, group), begins in by_group.items():
        with ParquetFile(part) as file:
            at = 0
            last = max(begins)
            for batch in file.batches(columns, SPREAD_ROWS, [group]):
                # batches may be shorter than asked at the end of a page: take what begins at or after a place
                for begin in sorted(begins):
                    if at <= begin < at + batch.num_rows:
                        yield batch.slice(begin - at)
                at += batch.num_rows
                if at > last:
                    break
