"""Files that somebody names: regular ones of a bounded size, opened without waiting for anybody.

The opening of a named pipe waits for a writer, perhaps for ever; a device gives bytes without end. So what is no
regular file is refused by its name, by the one function that all readers of such files go through.
"""

from __future__ import annotations

import errno
import os
import stat

from dcfast.errors import CorruptDataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from io import BufferedReader

StrPath = str | os.PathLike[str]
_KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def check_input(path: StrPath) -> os.stat_result:
    """What the system says of a regular file; for libraries that open a path by themselves.

    Raises:
        FileNotFoundError, PermissionError, OSError: as the system says.   IsADirectoryError: it is a directory.
        OSError: it is a named pipe, a socket or a device.
    """
    try:
        status = os.stat(path)
    except ValueError:  # a NUL, which no name has
        raise OSError(errno.EINVAL, "is no name of a file; name one without NUL", os.fspath(path)) from None
    _refuse_other(status, path)
    return status


def open_input(path: StrPath) -> BufferedReader:
    """Opens a regular file for reading; errors as ``check_input``. Never waits."""
    check_input(path)  # first: the opening of a device may do something
    file = open(path, "rb", opener=_open)  # noqa: SIM115 (whoever calls it closes it)
    try:
        _refuse_other(os.fstat(file.fileno()), path)
    except BaseException:
        file.close()
        raise
    return file


def read_input(path: StrPath, most: int) -> bytes:
    """The bytes of a regular file, ``most`` at most, also of one that grows meanwhile.

    Raises:
        CorruptDataError: there are more.   OSError: as ``open_input``.
    """
    with open_input(path) as file:
        data = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
        while len(data) <= most and (more := file.read(most + 1 - len(data))):
            data += more
    if len(data) > most:
        raise CorruptDataError(f"{path} is too large: expected at most {most:,} bytes", path=path)
    return data


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)  # files do not mind


def _refuse_other(status: os.stat_result, path: StrPath) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory; expected a file", os.fspath(path))
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
    raise OSError(errno.EINVAL, f"is {kind}; expected a regular file: write what it gives to one", os.fspath(path))
