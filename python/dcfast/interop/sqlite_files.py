"""SQLite files of other tools: written whole or not at all, and read as what a stranger may have made.

A database can hold more than rows: views, triggers, virtual tables and computed columns run what their author wrote.
The reader takes plain columns of plain tables; an authorizer refuses every other action, functions among them.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from urllib.parse import quote

from dcfast.errors import CorruptDataError
from dcfast.interop.shards import LARGEST, PathLike
from dcfast.storage.atomic import atomic_path
from dcfast.storage.inputs import open_input
from dcfast.storage.whole import full_disk

MOST_DATABASE_BYTES = 1 << 30
"""Of a database that is read: some ten million members."""
MOST_TEXT_BYTES = 4 << 20
"""Of a row of one. Names in a tar have at most 1 MiB."""
_MAGIC = b"SQLite format 3\0"
_LEAST_ROW_BYTES = 4
# SQLite's own messages repeat a damaged schema, which need not be UTF-8
_UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
Value = bytes | int | float | None


@contextmanager
def written_database(path: PathLike) -> Iterator[sqlite3.Connection]:
    """A new database in one transaction, which appears as ``path`` where the block ends without error.

    Raises OSError: it cannot be written; ENOSPC: a full disk. Names the file.
    """
    with atomic_path(path) as temporary:
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            # the file is thrown away on error: no journal, and one sync at the end, by atomic_path
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise full_disk(errno.ENOSPC, path) from error
            raise OSError(
                errno.EIO,
                f"could not be written: {error}; look at the disk's space, quotas and limits of file sizes",
                os.fspath(path),
            ) from error
        finally:
            connection.close()


class Database:
    """A database of a stranger, to be opened by ``open_database``."""

    def __init__(self, connection: sqlite3.Connection, path: str, what: str, size: int) -> None:
        self._connection, self._size = connection, size
        self.path: str = path
        self.what: str = what

    def corrupt_database(self, text: str) -> CorruptDataError:
        """An error that names the file; the text says what was expected, and what to do."""
        return CorruptDataError(f"{self.what} {self.path}: {text}", path=self.path)

    def tables(self) -> dict[str, bool]:
        """Names of the tables and views, and whether each is a plain table."""
        query = "SELECT name, type, rootpage FROM sqlite_master"
        found = self._run(query, "sqlite_master")
        kinds = {b"table", b"view"}
        return {_text(name): kind == b"table" and page != 0 for name, kind, page in found if kind in kinds}

    def columns(self, table: str) -> list[str]:
        """Of a plain table. Raises CorruptDataError: there is none of this name, or one with computed columns."""
        if not self.tables().get(table):
            raise self.corrupt_database(
                f"expected a plain table {table!r}; got none; is it a file of this tool? make it again"
            )
        self._connection.set_authorizer(None)
        info = self._guarded(f'PRAGMA table_xinfo("{table}")')
        names = [_text(row[1]) for row in info]
        if any(row[6] for row in info):
            raise self.corrupt_database(f"expected plain columns in {table!r}; got computed ones; make it again")
        return names

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[tuple[Value, ...]]:
        """The rows of a plain table in the file's order: texts as bytes. Memory: of a row.

        Raises CorruptDataError: no such table or columns, a damaged file, more in the rows than its bytes can hold.
        """
        absent = [name for name in columns if name not in self.columns(table)]
        if absent:
            raise self.corrupt_database(f"expected a column {absent[0]!r} in {table!r}; got none; make it again")
        chosen = ", ".join(f'"{name}"' for name in columns)
        return self._run(f'SELECT {chosen} FROM "{table}" NOT INDEXED', table)  # noqa: S608 (names of ours)

    def _run(self, query: str, table: str) -> Iterator[tuple[Value, ...]]:
        def authorizer(action: int, name: str | None, _: str | None, __: str | None, inner: str | None) -> int:
            plain = action == sqlite3.SQLITE_READ and name == table and inner is None
            return sqlite3.SQLITE_OK if plain or action == sqlite3.SQLITE_SELECT else sqlite3.SQLITE_DENY

        self._connection.set_authorizer(authorizer)
        held = 0
        try:
            for row in self._connection.execute(query):
                held += _LEAST_ROW_BYTES + sum(len(value) for value in row if isinstance(value, bytes))
                if held > self._size:  # rows, or pages, that lead to one page many times
                    raise self.corrupt_database(
                        f"expected no more in the rows of {table!r} than its bytes can hold; make it again"
                    )
                yield row
        except _UNREADABLE as error:
            raise self.corrupt_database(f"it cannot be read: {error}; make it again") from error

    def _guarded(self, query: str) -> list[tuple[Value, ...]]:
        try:
            return self._connection.execute(query).fetchall()
        except _UNREADABLE as error:
            raise self.corrupt_database(f"it cannot be read: {error}; make it again") from error


@contextmanager
def open_database(path: PathLike, what: str) -> Iterator[Database]:
    """Opens a database for reading: nothing is written, no lock taken, no extension loaded.

    Args:
        what: the file is, for messages.
    Raises:
        CorruptDataError: no SQLite file, too large, or one that was not written to its end.
        OSError: as ``open_input``.
    """
    where = os.fspath(path)
    with open_input(path) as file:
        header, size = file.read(100), os.fstat(file.fileno()).st_size
    if not header.startswith(_MAGIC):
        raise CorruptDataError(f"{what} {where}: expected an SQLite file; got another; make it again", path=where)
    if size > MOST_DATABASE_BYTES:
        raise CorruptDataError(
            f"{what} {where} is too large: expected at most {MOST_DATABASE_BYTES:,} bytes", path=where
        )
    if size < (expected := _bytes_by_header(header)):
        got = f"expected {expected:,} bytes by its header; got {size:,}"
        raise CorruptDataError(f"{what} {where}: {got}; cut off? make it again", path=where, offset=size)
    for suffix in ("-journal", "-wal"):
        journal = os.path.realpath(where) + suffix  # SQLite's are beside what a link leads to
        if os.path.exists(journal) and os.path.getsize(journal):
            # what the file lacks stands there, and only who writes to both may bring them together
            beside = f"{journal} beside it says"
            raise CorruptDataError(f"{what}: {beside} that it was not written to its end; make it again", path=where)
    uri = f"file:{quote(os.fsencode(os.path.abspath(where)))}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        connection.text_factory = bytes
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_TEXT_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        database = Database(connection, where, what, size)
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "query_only = ON", "mmap_size = 0"):
            database._guarded(f"PRAGMA {pragma}")
        yield database


def _bytes_by_header(header: bytes) -> int:
    """How large a database is by its header (https://sqlite.org/fileformat.html); SQLite looks at what it reads."""
    page = int.from_bytes(header[16:18])
    return max(100, (65536 if page == 1 else page) * int.from_bytes(header[28:32]))


def is_place(offset: Value, size: Value) -> bool:
    """Whether these are the place of a member's data in a tar: blocks of 512, below 2^63."""
    whole = isinstance(offset, int) and isinstance(size, int)
    return whole and offset >= 512 and offset % 512 == 0 and 0 <= size <= LARGEST - offset  # type: ignore[operator]


def text_of(value: Value) -> str | None:
    """A text of a database; bytes that are not UTF-8 are backslash-escaped. None of anything else."""
    return _text(value) if isinstance(value, bytes) else None


def _text(value: Value) -> str:
    assert isinstance(value, bytes)
    return value.decode("utf-8", "backslashreplace")
