"""Files that are whole or absent, as ``dcfast.storage.atomic`` writes them, without its imports.

A short reshard is over before ``json``, ``pathlib`` and ``shutil`` would have been imported.
"""

from __future__ import annotations

import os

from dcfast.storage.listing import temporary_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    T = TypeVar("T")


_EISDIR = 21


def plain_path(path: str | os.PathLike[str]) -> str:
    """The text of ``pathlib.Path(path)``: without ``.`` and empty parts.

    Raises:
        TypeError: a path of bytes, or none.
    """
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"a path must be text; got {type(text).__name__}: pass os.fsdecode(path)")
    root = "/" if text.startswith("/") else ""
    if text.startswith("//") and not text.startswith("///"):
        root = "//"
    return root + "/".join(part for part in text.split("/") if part not in ("", ".")) or "."


def write_file(path: str, write: Callable[[str], T], *, sync: bool) -> T:
    """A file that is whole or absent.

    Args:
        write: writes it to the path that it is given.
        sync: fsync the file and its directory.
    Returns:
        What the function returns.
    Raises:
        IsADirectoryError: path is a directory.   OSError: a full disk, which names path; others as they come.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(_EISDIR, "cannot be replaced by a file: is a directory", path)
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    temporary = os.path.join(folder, temporary_name(name))
    try:
        done = write(temporary)
        if sync:
            _fsync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise_full_disk(error, path, temporary)
        raise
    if sync:
        _fsync(folder or ".")
    return done


def write_bytes(path: str, content: bytes, *, sync: bool) -> None:
    """A file of these bytes, whole or absent; raises what ``write_file`` does."""

    def write(temporary: str) -> None:
        with open(temporary, "wb") as file:
            file.write(content)

    write_file(path, write, sync=sync)


def raise_full_disk(error: OSError, path: str, temporary: str) -> None:
    """Raises what is to be said of a disk that was full for a temporary file; returns where it is another error."""
    from dcfast.storage.atomic import FULL, full_disk

    if error.errno in FULL and error.filename in (None, temporary, os.fsencode(temporary)):
        raise full_disk(error.errno, path) from error


def _fsync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def flat_json(values: Mapping[str, str | int]) -> bytes:
    """As ``storage.atomic.write_json``, of text and whole numbers alone: importing json takes longer than all of it."""
    from _json import encode_basestring as quoted

    lines = [f" {quoted(key)}: {quoted(v) if isinstance(v, str) else int(v)}" for key, v in sorted(values.items())]
    text = "{\n" + ",\n".join(lines) + "\n}\n" if lines else "{}\n"
    return text.encode("utf-8", "surrogatepass")


def unnamed_file() -> int:
    """The descriptor of a file without a name, in the directory for temporary files: it ends with its last user.

    Raises:
        OSError: there is no such directory, or nothing can be made in it.
    """
    folders = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    folder = next((path for path in folders if path and os.path.isdir(path)), "/tmp")  # noqa: S108 (as tempfile)
    if not os.path.isdir(folder):
        import tempfile

        folder = tempfile.gettempdir()
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:  # some file systems have no such files: a name for a moment
        path = os.path.join(folder, f"dcfast-index-{os.getpid()}-{os.urandom(8).hex()}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.unlink(path)
        return fd
