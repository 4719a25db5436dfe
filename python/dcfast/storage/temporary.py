"""Temporary folders that do not pile up: what a killed process left is removed by the next that needs such a folder.

For data that can be large (an index made for one reshard, boxes, sorted runs). A folder is held by a lock on itself,
which the kernel lets go of when its process dies, however it dies; a folder whose lock is free is a leftover. Only
names as they are made here are looked at, of this machine: some shared file systems keep locks for each machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dcfast.errors import RunError
from dcfast.storage.inputs import StrPath
from dcfast.storage.lock import take_lock

_FRESH = "new-"
"""Between the prefix and the rest of a name while its folder has no lock yet: not a leftover."""


@contextmanager
def temporary_folder(prefix: str, parent: StrPath | None = None) -> Iterator[Path]:
    """A folder of this process for the time of a block; leftovers of the same prefix are removed first.

    Args:
        prefix: of its name, one for each purpose: ``dcfast-index-``.
        parent: where it lies; None is the directory for temporary files (``TMPDIR``).
    Cost: one listing of the parent. On a file system without locks nothing is held, and nothing removed.
    """
    base = Path(tempfile.gettempdir() if parent is None else parent)
    _remove_leftovers(base, prefix)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{_FRESH}", dir=base))
    lock = -1
    try:
        with suppress(OSError):  # without a lock it keeps its fresh name, which nobody takes for a leftover
            lock = take_lock(folder, folder=True)
        if lock >= 0:
            held = base / f"{prefix}{_machine()}-{os.urandom(8).hex()}"
            os.rename(folder, held)
            folder = held
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def own_folder() -> Path:
    """The folder of this user in the directory for temporary files: what processes of one machine share.

    Anybody may make any name there first. So it is a folder that this user alone may look into: the first of a few
    names that is this user's, or can be made.

    Raises:
        RunError: other users have them all.   OSError: none can be made.
    """
    base = Path(tempfile.gettempdir())
    names = [f"dcfast-{os.geteuid()}{suffix}" for suffix in ("", *(f"-{n}" for n in range(1, 16)))]
    for name in names:
        with suppress(FileExistsError):
            os.mkdir(base / name, 0o700)
        status = os.lstat(base / name)
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077:
            return base / name
    raise RunError(f"{base}: other users made {names[0]} and {len(names) - 1} more names of this kind; set TMPDIR")


def _machine() -> str:
    return hashlib.sha256(os.fsencode(os.uname().nodename)).hexdigest()[:8]


def _remove_leftovers(base: Path, prefix: str) -> None:
    # somebody may have named a folder of data so: no other name than one of ours is touched
    ours = re.compile(rf"{re.escape(prefix)}{_machine()}-[0-9a-f]{{16}}")
    try:
        with os.scandir(base) as entries:
            names = [entry.name for entry in entries if ours.fullmatch(entry.name)]
    except OSError:
        return  # making the folder says what is wrong
    for name in names:
        try:
            lock = take_lock(base / name, follow=False, folder=True)
        except OSError:
            continue  # its process lives; or it is a link, a file, another user's, or gone by now
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                shutil.rmtree(base / name, ignore_errors=True)
        finally:
            os.close(lock)
