"""Paths, JSON and bytes written without ``pathlib`` and ``json``: a short reshard is over before their import."""

from __future__ import annotations

import os

from dcfast.storage.whole import whole_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


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


def write_bytes(path: str, content: bytes, *, sync: bool) -> None:
    """A file of these bytes, whole or absent; raises what ``whole_file`` does."""
    with whole_file(path, sync=sync) as temporary, open(temporary, "wb") as file:
        file.write(content)


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
