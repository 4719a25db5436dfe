"""Folders that are either whole or absent: made beside their place, and renamed into it.

A folder cannot be renamed over one that has files. The one that was there is set aside first, under a name that tells
whose it is: ``mend_folders`` puts it back where a kill came between the two renames.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dcfast.storage.listing import temporary_name
from dcfast.storage.whole import fsync

ASIDE = ".dcfast-aside-"
"""Begins the name of a folder, file or link while another takes its place."""


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that takes its place when the block ends without error.

    What was there is removed then. After an error, of the renames too, it stands where it was. Whoever calls this holds
    the lock of the parent, and has called ``mend_folders`` for it.
    Raises OSError: the folder cannot be made, or renamed.
    """
    staging = target.with_name(temporary_name(target.name))
    aside = target.with_name(f"{ASIDE}{target.name}")
    try:
        staging.mkdir()
        yield staging
        try:
            if os.path.lexists(target):
                os.replace(target, aside)
            os.replace(staging, target)
        except BaseException:
            if not os.path.lexists(target) and os.path.lexists(aside):
                os.replace(aside, target)
            raise
        fsync(target.parent)
        _remove(aside)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def mend_folders(parent: Path) -> None:
    """Puts back what a killed ``whole_folder`` had set aside in a directory, or removes it where the new one is in
    place. Call it only where no other process writes.   Raises OSError."""
    for aside in sorted(parent.glob(f"{ASIDE}*")):
        target = aside.with_name(aside.name.removeprefix(ASIDE))
        if os.path.lexists(target):
            _remove(aside)
        else:
            os.replace(aside, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
