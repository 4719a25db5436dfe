"""Reading parquet: the one place that opens such files. What is wrong with a file is said with its name.

Arrow's own errors name no file, and are of several classes. Here a file that is not parquet, or is cut off, is an error
when it is opened; one whose footer is whole and a page of which is not, when the page is read. Memory of all that reads
batches: one batch, at most ``MAX_BATCH_BYTES`` decoded, and a page a column (``dcfast.storage.parquet_pages``). What a
file decodes to is bounded by what it takes: docs/limits.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from dcfast.errors import CorruptDataError, DcfastError, PoolError
from dcfast.storage.atomic import atomic_path
from dcfast.storage.inputs import StrPath, open_input
from dcfast.storage.parquet_pages import batch_rows, footer_bytes, read_groups

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 65_536
"""Rows read at a time where nothing else is asked."""
MAX_ROWS_UNASKED = 1 << 20
"""A file of more rows has a byte for each at least: a uid does not compress to less."""
MAX_DECODED_BYTES, MAX_DECODED_RATIO = 1 << 30, 100
"""A file decodes to at most this many bytes, or this many times its own."""


class Kind(NamedTuple):
    """What a file is to those who read the message: a name for it, what to do, the class of "no parquet at all"."""

    name: str
    remedy: str
    not_parquet: type[DcfastError]

    def damage(self, path: str, error: Exception) -> CorruptDataError:
        return CorruptDataError(f"{self.name} {path} is damaged ({_one_line(error)}); {self.remedy}", path=path)

    def refusal(self, path: str, error: Exception) -> DcfastError:
        if isinstance(error, UnicodeEncodeError):
            return self.not_parquet(
                f"{self.name} {path}: its path is no UTF-8, and Arrow opens no other; rename the file, or its folder"
            )
        if isinstance(error, UnicodeDecodeError):
            return self.not_parquet(
                f"{self.name} {path}: the name of a column is no UTF-8, or the file is damaged; write it anew, with "
                "names in UTF-8"
            )
        words = f"{self.name} {path} cannot be read as parquet ({_one_line(error)}); {self.remedy}"
        return CorruptDataError(words, path=path) if self.not_parquet is CorruptDataError else self.not_parquet(words)


TABLE = Kind("table", "remove it, and run the stage that wrote it again", CorruptDataError)
"""What dcfast wrote itself."""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class ParquetFile:
    """An open parquet file; closed at the end of a ``with``.

    Attributes:
        schema: the Arrow schema; names in it may repeat.   metadata: key -> value of the footer.
        num_rows: in all.   group_rows: of each row group.
    """

    def __init__(self, path: StrPath, kind: Kind = TABLE) -> None:
        """Opens a file and reads its footer. OSError; CorruptDataError, or what ``kind`` says: no parquet."""
        import pyarrow.parquet as pq

        self.path: str = os.fspath(path)
        self.kind = kind
        with open_input(self.path) as file:  # Arrow would wait for whoever writes to a named pipe
            self._size = os.fstat(file.fileno()).st_size
            with _named(self.path, kind.refusal):
                footer_bytes(file.fileno(), self._size)
                # pre_buffer, which pyarrow 26 has on, holds what was read of the file until its end
                self._file = pq.ParquetFile(self.path, page_checksum_verification=True, pre_buffer=False)
                self.schema: pa.Schema = self._file.schema_arrow
                self._groups = read_groups(file.fileno(), self._size, len(self._file.schema))
        self.num_rows: int = int(self._file.metadata.num_rows)
        self.metadata: dict[bytes, bytes] = dict(self._file.metadata.metadata or {})
        if self.num_rows > max(MAX_ROWS_UNASKED, self._size):
            self._file.close()
            raise self._too_large(f"{self.num_rows:,} rows")
        self.group_rows: list[int] = [group.rows for group in self._groups]

    def __enter__(self) -> ParquetFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = BATCH_ROWS, groups: Sequence[int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The record batches in order, of at most ``rows`` rows each; fewer at the end of a page or row group, and
        where values are large (``MAX_BATCH_BYTES``).

        Args:
            columns: by name, in the order of the file; those that the file lacks are left out. None: all, by position.
            groups: row groups; None: all.
        Raises:
            PoolError: the file has more than one column of a name that was asked for.   CorruptDataError: a damaged
            page, or more than is read (docs/limits.md).   OSError: reading failed.
        """
        columns = self._single(columns)
        chosen = list(range(len(self.group_rows)) if groups is None else groups)
        if not chosen:  # pyarrow 18 and 19 look for the last of them
            return
        fitting = self._fitting_rows(columns, rows, chosen)
        batches = iter(self._file.iter_batches(batch_size=fitting, columns=columns, row_groups=chosen))
        decoded = 0
        while True:
            with _named(self.path, self.kind.damage):
                batch = next(batches, None)
            if batch is None:
                return
            decoded += sum(map(_byte_count, batch.columns))
            if decoded > max(MAX_DECODED_BYTES, MAX_DECODED_RATIO * self._size):
                raise self._too_large(f"{decoded:,} bytes and more")
            yield self._renamed(batch)

    def _fitting_rows(self, columns: Sequence[str] | None, rows: int, groups: Sequence[int]) -> int:
        """How many of ``rows`` rows of some row groups are decoded at a time."""
        leaves = {number: self._file.schema.column(number) for number in range(len(self._file.schema))}
        if columns is not None:
            parts = tuple(f"{name}." for name in columns)
            leaves = {number: leaf for number, leaf in leaves.items() if f"{leaf.path}.".startswith(parts)}
        try:
            with open_input(self.path) as file:
                return batch_rows(file.fileno(), leaves, [self._groups[group] for group in groups], rows)
        except ValueError as error:
            raise self.kind.damage(self.path, error) from error

    def _too_large(self, what: str) -> CorruptDataError:
        return CorruptDataError(
            f"{self.kind.name} {self.path} decodes to {what}, though it has {self._size:,} bytes; no pool's own file "
            f"does: {self.kind.remedy}",
            path=self.path,
        )

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The whole table, or some columns of it. Arguments and errors as ``batches``. Memory: what is read."""
        columns = self._single(columns)
        with _named(self.path, self.kind.damage):
            return self._renamed(self._file.read(columns=columns))

    def _renamed(self, table: pa.Table) -> pa.Table:
        """A table, or a batch of one, with the names that its reader knows: of most files those that it has."""
        return table

    def _single(self, columns: Sequence[str] | None) -> list[str] | None:
        """The file's names of columns; PoolError where it has one twice."""
        for name in columns or ():
            count = len(self.schema.get_all_field_indices(name))
            if count > 1:
                raise PoolError(f"{self.kind.name} {self.path} has {count} columns {name!r}; keep one of them")
        return None if columns is None else list(columns)


def _byte_count(column: pa.Array) -> int:
    if str(column.type) in ("string_view", "binary_view"):  # pyarrow 21 and 22 do not count the bytes of these
        column = column.cast("large_binary")
    return int(column.nbytes)


@contextmanager
def _named(path: str, worded: Callable[[str, Exception], DcfastError]) -> Iterator[None]:
    """Arrow's errors as one that names the file; what the system says of it (it has an errno) stays as it is.

    Arrow promises no classes: of damaged files come RuntimeError, UnicodeDecodeError, OverflowError and others, too.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise worded(path, error) from error


def read_schema(path: StrPath, kind: Kind = TABLE) -> pa.Schema:
    """The Arrow schema of a file. Errors as ``ParquetFile``. Cost: the footer."""
    with ParquetFile(path, kind) as file:
        return file.schema


def count_rows(path: StrPath, kind: Kind = TABLE) -> int:
    """The rows of a file. Errors as ``ParquetFile``. Cost: the footer."""
    with ParquetFile(path, kind) as file:
        return file.num_rows


def read_table(path: StrPath, columns: Sequence[str] | None = None, kind: Kind = TABLE) -> pa.Table:
    """A whole file as a table, for small ones. Errors as ``ParquetFile`` and its ``read``."""
    with ParquetFile(path, kind) as file:
        return file.read(columns)


def write_table(table: pa.Table, path: StrPath) -> None:
    """Writes a table as a file that is whole or not there."""
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
