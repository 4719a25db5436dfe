"""Result tables: one parquet file where they are small, a directory of parts where they are not.

Pieces write parts below ``state/parts/<table>/``. Up to MAX_SINGLE_ROWS rows the parts become one file
``<table>.parquet``; above, ``<table>.parquet`` is a directory of hard links to the parts: no row is copied and the
memory is that of one part.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dcfast.engine.piece import Nothing, Piece, piece
from dcfast.storage.atomic import atomic_path, fsync_dir
from dcfast.storage.listing import temporary_name
from dcfast.storage.parquet import read_schema
from dcfast.storage.parquet import read_table as read_file

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_SINGLE_ROWS = 2_000_000
_UNLIKE = ("key", "uid", "row")
"""Columns whose values differ from row to row: a dictionary of them is only work. Uids do not compress, either."""


def part_path(table: str, number: int, group: str = "a") -> str:
    """Parts sort by group, then number: group ``a`` comes first in the table."""
    return f"state/parts/{table}/{group}{number:05d}.parquet"


@contextmanager
def table_writer(place: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Arrow's writer of a table of some million rows, which are written in a third of the time that its defaults take.

    Args:
        schema: dictionaries in it are written as what they hold: whoever reads the file finds plain columns.
    """
    import pyarrow.parquet as pq

    with atomic_path(place) as temporary:
        alike = [name for name in schema.names if name not in _UNLIKE]
        packed = {name: "none" if name == "uid" else "snappy" for name in schema.names}
        options = {"use_dictionary": alike, "write_statistics": alike, "compression": packed, "store_schema": False}
        with pq.ParquetWriter(temporary, schema, **options) as writer:
            yield writer


@piece(native=True)
def combine(out: Path, table: str, parts: Sequence[str], rows: int) -> Nothing:
    """Piece: makes ``<table>.parquet`` of its parts, in their order."""
    final, files = out / f"{table}.parquet", [out / part for part in parts]
    if rows <= MAX_SINGLE_ROWS:
        schema = read_schema(files[0])
        if final.is_dir():  # it had more rows once
            shutil.rmtree(final)
        with table_writer(final, schema) as writer:
            # the quarantine of a whole pool: thousands of parts without a row
            for content in map(read_file, files if rows else ()):
                if content.num_rows:
                    writer.write_table(content)
        return Nothing()
    staging = out / temporary_name(table)
    staging.mkdir()
    for part in files:
        link_or_copy(part, staging / _linked(part))
    fsync_dir(staging)
    if final.is_dir():
        shutil.rmtree(final)
    else:
        final.unlink(missing_ok=True)
    os.replace(staging, final)
    fsync_dir(out)
    return Nothing()


def _linked(part: str | Path) -> str:
    return f"part-{Path(part).name}"


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a copy with its times (markers look at them) where the file system has none."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
            raise
        shutil.copy2(source, target)


def combine_parts(step: str, table: str, segments: int, rows: int, extra: tuple[str, ...] = ()) -> Piece[Nothing]:
    """The piece that makes a table of the parts of all segments and then of ``extra`` parts."""
    parts = (*(part_path(table, n) for n in range(segments)), *extra)
    single = (f"{table}.parquet",)
    outputs = single if rows <= MAX_SINGLE_ROWS else tuple(f"{table}.parquet/{_linked(part)}" for part in parts)
    combined = combine.piece(step, f"table-{table}", inputs=parts, outputs=outputs)
    return combined(table=table, parts=parts, rows=rows)


def table_parts(path: Path) -> list[Path]:
    """The files of a table in their order: its parts, or the one file; none where there is no such table."""
    if path.is_dir():
        return sorted(path.glob("part-*.parquet"))
    return [path] if path.exists() else []


def read_table(path: str | os.PathLike[str], columns: list[str] | None = None) -> pa.Table:
    """The whole table, of a file or of a directory of parts in their order. For small tables and tests."""
    import pyarrow as pa

    place = Path(path)
    files = table_parts(place) if place.is_dir() else [place]
    return pa.concat_tables([read_file(f, columns) for f in files])
