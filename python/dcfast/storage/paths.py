"""Paths that a command line or a caller names: never empty, the same from everywhere, and for outputs directories that
can be made.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dcfast.errors import printable
from dcfast.storage.inputs import StrPath
from dcfast.storage.lock import is_without_locks, take_lock

_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*://")
_PLAIN_FILE = re.compile(r"file:///[^?#%;&$`\\]*")
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

    Raises:
        ValueError: it is a URL, of which the system would make a directory ``s3:``.
        OSError: it is a file, lies below one, or cannot be made; the same class as the system's error.
    """
    refuse_url(path, argument)
    directory = Path(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_directory(error, path, argument) from None
    return directory


def check_writable(path: StrPath, argument: str) -> None:
    """What ``make_directory`` would raise, by a look alone; PermissionError of one that cannot be written."""
    refuse_url(path, argument)
    place = Path(path)
    try:
        while not os.path.lexists(place):
            with suppress(FileNotFoundError):
                place.stat()  # whatever else is wrong with a name: too long, below a file, not to be looked at
            place = place.parent
    except OSError as error:
        raise _no_directory(error, path, argument) from None
    if not place.is_dir():
        kind, number = (FileExistsError, errno.EEXIST) if place == Path(path) else (NotADirectoryError, errno.ENOTDIR)
        raise _no_directory(kind(number, os.strerror(number)), path, argument)
    if not os.access(place, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(place).f_flag & os.ST_RDONLY else errno.EACCES
        raise _no_directory(OSError(number, os.strerror(number)), path, argument)


def _no_directory(error: OSError, path: StrPath, argument: str) -> OSError:
    """An error of the system, in words that name the argument."""
    is_file = isinstance(error, (FileExistsError, NotADirectoryError))
    verb = "written" if os.path.isdir(path) else "made"
    why = "it is a file, or lies below one" if is_file else f"it cannot be {verb}: {error.strerror}"
    words = f"{argument} must be a directory that is there or can be made; {why}. Choose another place"
    return type(error)(error.errno, words, os.fspath(path))


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


def is_url(path: StrPath) -> bool:
    """Whether a path is a URL, or a chain of them (``simplecache::s3://...``), rather than a local path."""
    return isinstance(path, str) and _URL.match(path) is not None


def refuse_url(path: StrPath, argument: str) -> None:
    """ValueError where a directory that is written to is a URL; ``argument``: as what it was given."""
    if is_url(path):
        raise ValueError(
            f"{argument} must be a directory of this machine; got the URL {printable(os.fspath(path))}. Choose a disk, "
            "and copy from there (training does it by --copy-to)"
        )


def check_source(path: StrPath, argument: str) -> None:
    """ValueError where what data is to be read from names a program, as webdataset's ``pipe:`` does, or is no plain
    place: dcfast starts no program that stands in a path or URL, nor does a shell see it.
    """
    text = os.fspath(path)
    place = "give a directory or a URL (s3://, gs://, hf://, https://), or write what the program gives to a file"
    if text.lower().startswith("pipe:"):
        raise ValueError(f"{argument} {text!r} names a program (pipe:), and none is started: {place}")
    if "|" in text and not os.path.lexists(text):
        raise ValueError(f"{argument} {text!r} is no place but a pipe to a program (|), and none is started: {place}")
    if not text.isprintable() and is_url(text):
        raise ValueError(f"{argument} {text!r} is a URL with characters that cannot be printed: {place}")
    if text.lower().startswith("file:") and (_PLAIN_FILE.fullmatch(text) is None or "/../" in f"{text}/"):
        raise ValueError(f"{argument} {text!r} is no plain path: give the path itself, without file://")


def real(path: StrPath) -> str:
    """The one absolute path of a place, however it is written: ``~``, ``..``, links and a slash at the end resolved; a
    URL as it is.
    """
    return os.fspath(path) if is_url(path) else os.path.realpath(os.path.expanduser(os.fspath(path)))


def absolute(path: StrPath) -> str:
    """An absolute path as text, symlinks kept as the user wrote them; a URL is one."""
    return os.fspath(path) if is_url(path) else os.path.abspath(os.fspath(path))
