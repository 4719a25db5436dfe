"""One lock between processes: flock on a file or a folder, which the kernel lets go of however its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from dcfast.errors import RunError

__all__ = ["locked", "take_lock"]


def take_lock(path: str | os.PathLike[str], *, mode: int = 0o644, follow: bool = True, folder: bool = False) -> int:
    """Locks a file, which is made where it is missing; never waits.

    Args:
        mode: of a file that is made.
        follow: open what a symbolic link leads to.
        folder: lock a folder that is there.
    Returns:
        A descriptor: closing it lets the lock go. A process that is forked meanwhile holds it, too, until it ends; a
        program that is started does not.
    Raises:
        BlockingIOError: another process holds it, or another descriptor of this one.
        OSError: it cannot be opened, or its file system has no locks.
    What is removed while it is locked protects nothing from then on: who comes next makes another. What is removed
    between being opened and being locked here is opened again.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY if folder else os.O_RDWR | os.O_CREAT
    while True:
        lock = os.open(path, flags | (0 if follow else os.O_NOFOLLOW), mode)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, path):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


@contextmanager
def locked(path: str | os.PathLike[str], busy: str, *, folder: bool = False) -> Iterator[None]:
    """Holds a lock for the time of a block; RunError(``busy``) where another process holds it.

    Args:
        path: the lock file; with ``folder`` a folder that is there, in which no file is to appear. On a file system
            without locks on folders, as NFS, nothing is held then.
    """
    lock = None
    try:
        lock = take_lock(path, folder=folder)
    except BlockingIOError:
        raise RunError(busy) from None
    except OSError:
        if not folder:
            raise
    try:
        yield
    finally:
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_UN)  # a program that is being started may have the descriptor a moment longer
            os.close(lock)


def _is_at(lock: int, path: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except FileNotFoundError:
        return False
