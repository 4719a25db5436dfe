"""Reading parquet: the one place that opens such files. What is wrong with a file is said with its name.

Arrow's own errors name no file, and are of several classes. Here a file that is not parquet, or is cut off, is an error
when it is opened; one whose footer is whole and a page of which is not, when the page is read. Memory of all that reads
batches: one batch, and the pages of its row group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from dcfast.errors import CorruptDataError, DcfastError, PoolError
from dcfast.storage.inputs import check_input

__all__ = ["BATCH_ROWS", "TABLE", "Kind", "ParquetFile", "count_rows", "read_schema", "read_table"]

StrPath = str | os.PathLike[str]

BATCH_ROWS = 65_536
"""Rows read at a time where nothing else is asked."""


class Kind(NamedTuple):
    """What a file is to those who read the message: a name for it, what to do, the class of "no parquet at all"."""

    name: str
    remedy: str
    not_parquet: type[DcfastError]

    def damage(self, path: str, error: Exception) -> CorruptDataError:
        return CorruptDataError(f"{self.name} {path} is damaged ({_one_line(error)}); {self.remedy}", path=path)

    def refusal(self, path: str, error: Exception) -> DcfastError:
        words = f"{self.name} {path} cannot be read as parquet ({_one_line(error)}); {self.remedy}"
        return CorruptDataError(words, path=path) if self.not_parquet is CorruptDataError else self.not_parquet(words)


TABLE = Kind("table", "remove it, and run the stage that wrote it again", CorruptDataError)
"""What dcfast wrote itself."""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class ParquetFile:
    """An open parquet file; closed at the end of a ``with``.

    Attributes:
        schema: the Arrow schema; names in it may repeat.
        num_rows: in all.   group_rows: of each row group.
    """

    def __init__(self, path: StrPath, kind: Kind = TABLE) -> None:
        """Opens a file and reads its footer.

        Raises:
            FileNotFoundError, OSError: it cannot be opened.   CorruptDataError, or what ``kind`` says: no parquet.
        """
        import pyarrow.parquet as pq

        self.path = os.fspath(path)
        self.kind = kind
        check_input(self.path)  # Arrow waits for whoever writes to a named pipe
        with _named(self.path, kind.refusal):
            self._file = pq.ParquetFile(self.path, page_checksum_verification=True)
            self.schema: Any = self._file.schema_arrow
        footer = self._file.metadata
        self.num_rows = int(footer.num_rows)
        self.group_rows = [int(footer.row_group(g).num_rows) for g in range(footer.num_row_groups)]

    def __enter__(self) -> ParquetFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = BATCH_ROWS, groups: Sequence[int] | None = None
    ) -> Iterator[Any]:
        """The record batches in order, of at most ``rows`` rows each; fewer at the end of a page or row group.

        Args:
            columns: by name, in the order of the file; those that the file lacks are left out. None: all, by position.
            groups: row groups; None: all.
        Raises:
            PoolError: the file has more than one column of a name that was asked for.   CorruptDataError: a damaged
            page.   OSError: reading failed.
        """
        self._check_single(columns)
        at = iter(self._file.iter_batches(batch_size=rows, columns=_listed(columns), row_groups=_listed(groups)))
        while True:
            with _named(self.path, self.kind.damage):
                batch = next(at, None)
            if batch is None:
                return
            yield batch

    def read(self, columns: Sequence[str] | None = None) -> Any:
        """The whole table, or some columns of it. Arguments and errors as ``batches``. Memory: what is read."""
        self._check_single(columns)
        with _named(self.path, self.kind.damage):
            return self._file.read(columns=_listed(columns))

    def _check_single(self, columns: Sequence[str] | None) -> None:
        for name in columns or ():
            count = len(self.schema.get_all_field_indices(name))
            if count > 1:
                raise PoolError(f"{self.kind.name} {self.path} has {count} columns {name!r}; keep one of them")


def _listed(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)


@contextmanager
def _named(path: str, worded: Any) -> Iterator[None]:
    """Arrow's errors as one that names the file; what the system says of it (it has an errno) stays as it is."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise worded(path, error) from error


def read_schema(path: StrPath, kind: Kind = TABLE) -> Any:
    """The Arrow schema of a file. Errors as ``ParquetFile``. Cost: the footer."""
    with ParquetFile(path, kind) as file:
        return file.schema


def count_rows(path: StrPath, kind: Kind = TABLE) -> int:
    """The rows of a file. Errors as ``ParquetFile``. Cost: the footer."""
    with ParquetFile(path, kind) as file:
        return file.num_rows


def read_table(path: StrPath, columns: Sequence[str] | None = None, kind: Kind = TABLE) -> Any:
    """A whole file as a table, for small ones. Errors as ``ParquetFile`` and its ``read``."""
    with ParquetFile(path, kind) as file:
        return file.read(columns)
