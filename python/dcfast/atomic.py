"""Files that are either whole or absent: temporary name, fsync, rename, fsync of the directory.

Temporary files start with ``.tmp-``; a killed process may leave one, and the next run of the same piece
overwrites or removes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["atomic_path", "fsync_dir", "write_bytes", "write_json"]

TEMPORARY_PREFIX = ".tmp-"


def fsync_dir(directory: str | os.PathLike[str]) -> None:
    """Makes the names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, sync: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; renamed to ``path`` when the block ends without error.

    The parent directory is made where missing. The temporary name is a function of the final name, so that a
    rerun after ``kill -9`` overwrites what the killed process left; two writers of one path at once are not
    supported. On error the temporary file is removed and the old ``path``, if any, stays as it was.
    Without ``sync`` the file is whole after a crash of the program, but may be lost in one of the machine.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(TEMPORARY_PREFIX + final.name)
    try:
        yield temporary
        if sync:
            _fsync_file(temporary)
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        fsync_dir(final.parent)


def _fsync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_bytes(path: str | os.PathLike[str], data: bytes, *, sync: bool = True) -> None:
    """Writes a whole file atomically."""
    with atomic_path(path, sync=sync) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | os.PathLike[str], value: Any, *, sync: bool = True) -> None:
    """Writes JSON with sorted keys, so that equal values are equal bytes."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode("utf-8", "surrogatepass"), sync=sync)
