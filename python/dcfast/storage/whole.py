"""Files that are either whole or absent: temporary name, fsync, rename, fsync of the directory.

On top of this is ``atomic``; a short reshard is over before what that imports (``json``, ``pathlib``) would have been.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager

from dcfast.storage.listing import temporary_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dcfast.storage.inputs import StrPath

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def full_disk(number: int, path: StrPath) -> OSError:
    """The error of a write for which there is no space: the system's words, what to do, and the file."""
    words = f"{os.strerror(number)}; free some space, and run the same command again to resume. It could not be written"
    return OSError(number, words, os.fspath(path))


def raise_full_disk(error: OSError, path: str, temporary: str) -> None:
    """Raises what is to be said of a disk that was full for a temporary file; returns where it is another error."""
    if error.errno in FULL and error.filename in (None, temporary, os.fsencode(temporary)):
        raise full_disk(error.errno, path) from error


def fsync(path: StrPath) -> None:
    """Makes a file durable, or the names in a directory."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def whole_file(path: str, *, sync: bool) -> Iterator[str]:
    """See ``dcfast.storage.atomic.atomic_path``; the sync is never put off."""
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "cannot be replaced by a file: is a directory; move it away", path)
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    temporary = os.path.join(folder, temporary_name(name))
    try:
        yield temporary
        if sync:
            fsync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise_full_disk(error, path, temporary)
        raise
    if sync:
        fsync(folder or ".")
