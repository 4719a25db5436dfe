"""Files that are either whole or absent (``whole``), as paths, bytes, lines and JSON.

Temporary files are called ``.tmp-PID-RANDOM-NAME``, so that two processes that write the same file never share one.
A killed process may leave its temporary file; ``remove_leftovers`` clears them.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dcfast.process.read_ahead import read_ahead
from dcfast.storage.inputs import StrPath, open_input
from dcfast.storage.listing import is_temporary_name
from dcfast.storage.whole import FULL, fsync, full_disk, whole_file


class _Block(threading.local):
    """``open``: of the ``synced_together`` that a thread is in, the directory and the files renamed below it."""

    open: tuple[Path, dict[Path, None]] | None = None


_SYNCED_AT_ONCE = 4
_block = _Block()


@contextmanager
def synced_together(directory: StrPath) -> Iterator[None]:
    """What is written to a directory, or below it, within the block is made durable at the end of the block, at once.

    Disks take one sync of many files in about the time of one file. Before the end of the block, and where it ends by
    an error, a crash of the machine may leave such a file empty: whoever uses this tells finished work by another file,
    which is written after the block. What is written elsewhere, or by another thread, is synced as always.
    """
    renamed: dict[Path, None] = {}
    outer, _block.open = _block.open, (Path(directory), renamed)
    try:
        yield
        paths = [path for path in renamed if path.is_file()]
    finally:
        _block.open = outer
    for _ in read_ahead(fsync, paths, threads=_SYNCED_AT_ONCE, ahead=2 * _SYNCED_AT_ONCE):
        pass


@contextmanager
def atomic_path(path: StrPath, *, sync: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path`` to write a file to; renamed to ``path`` when the block ends without error.

    The parent directory is made where missing. On error the temporary file is removed and the old ``path``, if
    any, stays as it was. Without ``sync`` the file is whole or absent after a crash of the program, but may be lost
    in one of the machine; ``synced_together`` puts the sync off.

    Raises:
        IsADirectoryError: ``path`` is a directory; said before any work, and nothing in it is touched.
        OSError (ENOSPC, EDQUOT, EFBIG): a full disk; names ``path``, whatever the library that wrote to it says.
    """
    final, block = Path(path), _block.open
    if sync and block is not None and block[0] in final.parents:
        block[1][final] = None
        sync = False  # it is left to the end of the block
    with whole_file(os.fspath(final), sync=sync) as temporary:
        yield Path(temporary)


def copy_file(source: StrPath, target: StrPath) -> None:
    """A copy of a regular file, with its times, that is whole or absent. OSError: as ``open_input``; a full disk."""
    with open_input(source) as file, atomic_path(target) as temporary:
        with open(temporary, "xb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
        shutil.copystat(source, temporary)


def link_or_copy(source: StrPath, target: StrPath) -> bool:
    """The same file under another name: a hard link, or where the file system has none a copy with its times.

    Returns:
        whether it is a link.
    """
    try:
        os.link(source, target)
        return True
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
            raise
    copy_file(source, target)
    return False


def remove_leftovers(directory: StrPath, *, below: bool = True) -> int:
    """Removes the temporary files that killed processes of dcfast left in a directory, and ``below`` it; how many.

    Nothing is removed by another name than those that ``atomic_path`` gives. Links are never followed.
    Call it only where no other process writes (a run holds its lock).
    """
    removed = 0
    for parent, folders, names in os.walk(directory):
        for name in filter(is_temporary_name, names):
            Path(parent, name).unlink(missing_ok=True)
            removed += 1
        for name in [*filter(is_temporary_name, folders)]:
            shutil.rmtree(Path(parent, name), ignore_errors=True)
            folders.remove(name)
            removed += 1
        if not below:
            break
    return removed


def write_bytes(path: StrPath, data: bytes, *, sync: bool = True) -> None:
    """Writes a whole file atomically."""
    with atomic_path(path, sync=sync) as temporary:
        temporary.write_bytes(data)


def unfollowed(path: str, flags: int) -> int:
    """The ``opener`` of a file that is written in its place: a link is an error (ELOOP)."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def append_lines(path: StrPath, lines: Iterable[str]) -> None:
    """Appends ASCII lines, each with its end. A killed process may leave the last one half written.

    OSError: it cannot be written; ELOOP: it is a link, which may lead to a file of somebody's.
    """
    try:
        with open(path, "a", encoding="ascii", opener=unfollowed) as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        if error.errno in FULL:
            raise full_disk(error.errno, path) from error
        raise


def write_json(path: StrPath, value: object, *, sync: bool = True) -> None:
    """Writes JSON with sorted keys, so that equal values are equal bytes."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode("utf-8", "surrogatepass"), sync=sync)
