"""Paths that a command line or a caller names: never empty, the same from everywhere, and for outputs directories that
can be made.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dcfast.storage.inputs import StrPath
from dcfast.storage.lock import is_without_locks, take_lock

LOCK_NAME = ".lock"
"""The lock file that a command keeps in a directory it writes."""


def path_argument(text: str) -> str:
    """The ``type`` of an argparse argument that is a path, ``~`` expanded: ``--pool=~/data`` is not the shell's.

    An empty one would be the working directory by chance.
    """
    if not text:
        raise argparse.ArgumentTypeError("expected a path; got an empty text")
    return os.path.expanduser(text)


def make_directory(path: StrPath, argument: str) -> Path:
    """Makes an output directory where it is missing, with those above it; ``argument``: as what it was given.

    OSError: it is a file, lies below one, or cannot be made; the same class as the system's error.
    """
    directory = Path(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        is_file = isinstance(error, (FileExistsError, NotADirectoryError))
        why = "it is a file, or lies below one" if is_file else f"it cannot be made: {error.strerror}"
        words = f"{argument} must be a directory that is there or can be made; {why}. Choose another place"
        raise type(error)(error.errno, words, os.fspath(path)) from None
    return directory


@contextmanager
def not_left_empty(path: StrPath) -> Iterator[None]:
    """For the time of a command that writes into a directory, which it makes where it is missing.

    Where the command fails, what was made meanwhile and holds nothing goes again: the directory, with those above it
    and empty ones below, and a lock file that stands alone.
    """
    directory = Path(path)
    fresh = [place for place in (directory, *directory.parents) if not os.path.lexists(place)]
    had_lock = os.path.lexists(directory / LOCK_NAME)
    try:
        yield
    except BaseException:
        _remove_empty(directory, fresh, had_lock)
        raise


def _remove_empty(directory: Path, fresh: list[Path], had_lock: bool) -> None:
    with suppress(OSError):  # one that is not empty stays, and all above it
        if directory.is_dir() and (fresh or not had_lock):
            made = not os.path.lexists(directory / LOCK_NAME)
            lock = -1
            try:
                lock = take_lock(directory / LOCK_NAME, follow=False)
            except OSError as error:
                # whoever has it by now is at work here: all stays. Where there are no locks, nobody is
                if not is_without_locks(error):
                    raise
            try:
                for parent, folders, _ in os.walk(directory, topdown=False) if fresh else ():
                    for name in folders:
                        with suppress(OSError):
                            os.rmdir(os.path.join(parent, name))
                if made or (not had_lock and os.listdir(directory) == [LOCK_NAME]):
                    os.unlink(directory / LOCK_NAME)
            finally:
                if lock >= 0:
                    os.close(lock)
        for place in fresh:
            os.rmdir(place)


def real(path: StrPath) -> str:
    """The one absolute path of a place, however it is written: ``~``, ``..``, links and a slash at the end resolved."""
    return os.path.realpath(os.path.expanduser(os.fspath(path)))


def absolute(path: StrPath) -> str:
    """An absolute path as text, symlinks kept as the user wrote them."""
    return os.path.abspath(os.fspath(path))
