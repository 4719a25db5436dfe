"""Writing the world's files: whole or absent, and with fixed times, so that two renderings are the same bytes."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

from dcfast.storage.atomic import atomic_path

if TYPE_CHECKING:
    import pyarrow as pa


Boxes = list[list[float]]
MTIME = 1_700_000_000  # seconds; what indexes and fingerprints are made from must not change between renderings


def mtime_of(spec: object) -> int:
    """A fixed time for the files of a world that is another one for another spec: a change must show in it."""
    return MTIME + zlib.crc32(str(spec).encode()) % 10_000_000


def _fix_time(path: Path, mtime: int = MTIME) -> None:
    os.utime(path, (mtime, mtime))


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], mtime: int | None = MTIME) -> int:
    """Writes (name, data) members as a ustar archive with zero times and owners; returns the archive's bytes.

    Members are written as they come: one of them is in memory at a time. ``mtime`` is the archive's own; None: the time
    of writing, by which it is told from one that was there before (sizes are multiples of 10,240).
    """
    with atomic_path(path) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, data in members:
                header = tarfile.TarInfo(name)
                header.size, header.mode = len(data), 0o444
                archive.addfile(header, io.BytesIO(data))
        if mtime is not None:
            _fix_time(temporary, mtime)
        return temporary.stat().st_size


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode())
        _fix_time(temporary)


def table_of(kind: type, rows: Sequence[object]) -> pa.Table:
    """A table of instances of a dataclass: a column for each field."""
    import pyarrow as pa

    texts, numbers, boxes = pa.string(), pa.int64(), pa.list_(pa.list_(pa.float64()))
    types = {str: texts, str | None: texts, int: numbers, int | None: numbers, bool: pa.bool_(), Boxes: boxes}
    schema = pa.schema([(name, types[hint]) for name, hint in get_type_hints(kind).items()])
    return pa.Table.from_pylist([vars(row) for row in rows], schema=schema)


def write_parquet(path: Path, table: pa.Table, mtime: int = MTIME) -> None:
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
        _fix_time(temporary, mtime)
