"""The metadata of a pool: parquet files with uids, read through ``dcfast.storage.parquet``.

Which types a column may have stands in ``COLUMN_TYPES``, for uids, links, texts and scores alike. Metadata without uids
gets them by a rule (docs/formats.md, "Uids of pools without uids"): the file then reads as if it had a column ``uid``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.errors import PoolError
from dcfast.index.pool import import_command
from dcfast.process.shared_options import UID_FROM
from dcfast.storage.arrow import text_buffers
from dcfast.storage.hashing import hash_members
from dcfast.storage.parquet import BATCH_ROWS, Kind, ParquetFile
from dcfast.uids.sets import uid_format, uid_parse

if TYPE_CHECKING:
    import pyarrow as pa

ALIASES: dict[str, tuple[str, ...]] = {"text": ("caption", "TEXT"), "url": ("URL",)}
"""Other names of DataComp's columns (img2dataset's, LAION's): the first that a file has, where it lacks the column."""

METADATA = Kind("metadata", "download it again", PoolError)

UID_SOURCES = UID_FROM.choices
"""Where uids come from: the samples' json and the column ``uid``; hashes of urls; hashes of shard name and key."""

_STRINGS = ("is_string", "is_large_string", "is_string_view")
_BYTES = ("is_binary", "is_large_binary", "is_binary_view", "is_fixed_size_binary")
_NUMBERS = ("is_integer", "is_floating")
COLUMN_TYPES: dict[str, tuple[str, tuple[str, ...]]] = {
    # what a column is for: the words of a message, and pyarrow.types' tests; dictionaries of these are taken alike
    "uid": ("strings of 32 hex digits", _STRINGS + _BYTES),
    "hashed": ("strings", _STRINGS + _BYTES),
    "text": ("strings", _STRINGS + _BYTES),
    "number": ("numbers", _NUMBERS),
}


def column_matches(use: str, kind: pa.DataType) -> bool:
    """Whether a column of this Arrow type can be used as ``COLUMN_TYPES`` says; a dictionary as its values."""
    import pyarrow as pa

    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if use == "uid" and pa.types.is_fixed_size_binary(value):
        return bool(value.byte_width == 32)  # digits; raw uids of 16 bytes are not read
    return any(getattr(pa.types, name)(value) for name in COLUMN_TYPES[use][1])


class _MetadataFile(ParquetFile):
    """Metadata with the columns of ``ALIASES`` under DataComp's names."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, METADATA)
        names: list[str] = self.schema.names
        self._own: dict[str, str] = {}  # DataComp's name -> the file's
        for name, others in ALIASES.items():
            given = next((other for other in others if names.count(other) == 1), None)
            if given is not None and name not in names:
                self._own[name] = given
        self._names = {own: name for name, own in self._own.items()}
        if self._own:
            self.schema = self._renamed(self.schema.empty_table()).schema

    def _single(self, columns: Sequence[str] | None) -> list[str] | None:
        single = super()._single(columns)
        return None if single is None else [self._own.get(name, name) for name in single]

    def _renamed(self, table: pa.Table) -> pa.Table:
        if not self._own:
            return table
        renamed = table.rename_columns([self._names.get(name, name) for name in table.schema.names])
        return renamed.replace_schema_metadata(table.schema.metadata)


class _HashedFile(_MetadataFile):
    """Metadata whose uids are hashes of another column: in place of any column ``uid`` one stands behind the others."""

    def __init__(self, path: str | os.PathLike[str], source: str) -> None:
        import pyarrow as pa

        super().__init__(path)
        self._source = source
        self._prefix = f"{Path(self.path).stem}.tar/" if source == "key" else ""
        try:
            _check_column(self, source, "hashed", _needed(self, source))
        except PoolError:
            self._file.close()
            raise
        fields = [field for field in self.schema if field.name != "uid"]
        self.schema = pa.schema([*fields, pa.field("uid", pa.string())], self.schema.metadata)

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = BATCH_ROWS, groups: Sequence[int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """As of any metadata, with the column ``uid`` made of the source."""
        import pyarrow as pa

        if columns is not None and "uid" not in columns:
            yield from super().batches(columns, rows, groups)
            return
        read = None if columns is None else [*dict.fromkeys([c for c in columns if c != "uid"] + [self._source])]
        for batch in super().batches(read, rows, groups):
            uids = self._uids(batch.column(batch.schema.get_field_index(self._source)))
            names = batch.schema.names
            hidden = {"uid"} if columns is None else {"uid", self._source} - set(columns)
            kept = [i for i, name in enumerate(names) if name not in hidden]
            fields = [batch.schema.field(i) for i in kept]
            schema = pa.schema([*fields, pa.field("uid", pa.string())], batch.schema.metadata)
            yield pa.record_batch([*(batch.column(i) for i in kept), uids], schema=schema)

    def _uids(self, column: pa.Array) -> pa.Array:
        """(n,) Arrow strings: XXH3-128 of the prefix and each value, null for no value and an empty one."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        values = column.cast(pa.large_binary())
        given = np.asarray(pc.fill_null(pc.greater(pc.binary_length(values), 0), False))
        if self._prefix:
            prefix = pa.scalar(os.fsencode(self._prefix), pa.large_binary())
            values = pc.binary_join_element_wise(prefix, values, pa.scalar(b"", pa.large_binary()))
        if not given.any():
            return pa.nulls(len(column), pa.string())
        text, begin = text_buffers(values)
        size = np.where(given, np.diff(begin), 0)
        uids = hash_members(text.data, np.where(given, begin[:-1], 0), size, threads=1)
        texts = pa.array(uid_format(uids, threads=1), pa.string())
        return pc.if_else(pa.array(given), texts, pa.scalar(None, pa.string()))


def open_metadata(path: str | os.PathLike[str], uid_from: str = "json") -> ParquetFile:
    """Opens a metadata file; with another ``uid_from`` it has the uids of that rule as its column ``uid``.

    Columns of ``ALIASES`` have DataComp's names.

    Raises:
        PoolError: it is no parquet file, or cut off; or it lacks the one column that the rule hashes.
        FileNotFoundError, OSError: it cannot be opened.
        CorruptDataError: later, where a page that is read is damaged.
    """
    return _MetadataFile(path) if uid_from == "json" else _HashedFile(path, uid_from)


def metadata_schema(path: str | os.PathLike[str], uid_from: str = "json") -> pa.Schema:
    """The schema of a metadata file; PoolError where it is no parquet file or has no single column of uids."""
    with open_metadata(path, uid_from) as file:
        check_uid_type(file)
        return file.schema


def check_uid_type(file: ParquetFile) -> None:
    """PoolError where metadata has no column ``uid``, several, or one of a type that holds no uids."""
    names = set(file.schema.names)
    rule = "--uid-from url or key, or " if names & {"url", "key"} else ""
    folder = Path(file.path).parent
    made = import_command(folder.parent if folder.name == "metadata" else folder)
    hint = "" if "uid" in names else f" (pools without uids: {rule}a pool with uids made by: {made})"
    _check_column(file, "uid", "uid", f"expected uid as {COLUMN_TYPES['uid'][0]}{hint}")


def _needed(file: ParquetFile, source: str) -> str:
    """What a rule of uids asks of a file, for the message where it lacks that."""
    names = set(file.schema.names)
    expected = f"--uid-from {source} needs it, as {COLUMN_TYPES['hashed'][0]}"
    if source in names:  # of another type
        return f"{expected} (the keys of the samples with their zeros: 000000017)" if source == "key" else expected
    others = [name for name in ("url", "key") if name in names]
    return expected + (f"; it has what --uid-from {others[0]} needs" if others else "")


def _check_column(file: ParquetFile, name: str, use: str, expected: str) -> None:
    kinds = [file.schema.field(i).type for i in file.schema.get_all_field_indices(name)]
    untyped = file.num_rows == 0  # of columns without rows writers do not know the type
    if len(kinds) == 1 and (untyped or column_matches(use, kinds[0])):
        return
    if not kinds:
        what = f"no column {name}"
    elif len(kinds) > 1:
        what = f"{len(kinds)} columns {name}"
    else:
        what = f"a column {name} of type {kinds[0]}"
    raise PoolError(f"metadata {file.path} has {what} ({', '.join(file.schema.names)}); {expected}. Write it so")


def count_metadata_rows(path: str | os.PathLike[str]) -> int:
    """The rows of a metadata file, by its footer. Errors as ``open_metadata``."""
    with open_metadata(path) as file:
        return file.num_rows


def uid_column(batch: pa.RecordBatch) -> pa.Array:
    """The column ``uid`` of a record batch that has one, a dictionary (categorical) decoded."""
    import pyarrow as pa

    column = batch.column(batch.schema.get_field_index("uid"))
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def shown_uid(batch: pa.RecordBatch, row: int) -> str | None:
    """A row's uid as it stands, whatever it is, for a message: text columns may hold bytes that are no UTF-8."""
    text = uid_column(batch)[row].as_buffer()
    return None if text is None else text.to_pybytes().decode("utf-8", "backslashreplace")


def parse_uids(batch: pa.RecordBatch) -> tuple[npt.NDArray[np.void], npt.NDArray[np.bool_]]:
    """(n,) "u8,u8" uids of a batch's rows and (n,) bool, False for what is none."""
    import pyarrow as pa

    column = uid_column(batch)
    if pa.types.is_fixed_size_binary(column.type):
        column = column.cast(pa.binary())
    return uid_parse(column, errors="mask")
