"""One lock between processes: flock on a file or a folder, which the kernel lets go of however its holder dies."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dcfast.errors import RunError
from dcfast.storage.inputs import StrPath

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def take_lock(path: StrPath, *, mode: int = 0o644, follow: bool = True, folder: bool = False) -> int:
    """Locks a file, which is made with ``mode`` where it is missing, or a ``folder`` that is there; never waits.

    Args:
        follow: open what a symbolic link leads to.
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
            with suppress(FileNotFoundError):  # removed meanwhile
                if os.path.samestat(os.fstat(lock), os.stat(path)):
                    return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


@contextmanager
def locked(path: StrPath, busy: str, *, folder: bool = False) -> Iterator[None]:
    """Holds a lock for the time of a block.

    Args:
        path: the lock file, no link; with ``folder`` a folder that is there, in which no file is to appear. On a file
            system without locks on folders, as NFS, nothing is held then.
    Raises:
        RunError: ``busy`` where another process holds it; the file system has no locks; a link stands there.
        OSError: it cannot be made.
    """
    lock = None
    try:
        lock = take_lock(path, follow=folder, folder=folder)
    except BlockingIOError:
        raise RunError(busy) from None
    except OSError as error:
        if not folder:
            raise _explained(error, path) from error
    try:
        yield
    finally:
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_UN)  # a program that is being started may have the descriptor a moment longer
            os.close(lock)


def is_without_locks(error: OSError) -> bool:
    """Whether an error of ``take_lock`` says that the file system has no locks."""
    return error.errno in _NO_LOCKS


def _explained(error: OSError, path: StrPath) -> Exception:
    if is_without_locks(error):
        return RunError(
            f"{os.fspath(path)} cannot be locked ({error.strerror}): its file system has no locks, and two processes "
            "could write there at once; choose a directory on another, or have this one mounted with flock"
        )
    if error.errno == errno.ELOOP:
        return RunError(f"{os.fspath(path)} is a link, which may lead to a file of somebody's; remove it")
    return error
