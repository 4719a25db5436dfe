"""The metadata of a pool: parquet files with a column ``uid``, read through ``dcfast.storage.parquet``."""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dcfast.errors import PoolError
from dcfast.storage.parquet import Kind, ParquetFile
from dcfast.uids.sets import uid_parse

__all__ = ["METADATA", "count_metadata_rows", "metadata_schema", "open_metadata", "parse_uids", "uid_column"]

METADATA = Kind("metadata", "download it again", PoolError)


def open_metadata(path: str | os.PathLike[str]) -> ParquetFile:
    """Opens a metadata file.

    Raises:
        PoolError: it is no parquet file, or cut off.   FileNotFoundError, OSError: it cannot be opened.
        CorruptDataError: later, where a page that is read is damaged.
    """
    return ParquetFile(path, METADATA)


def metadata_schema(path: str | os.PathLike[str]) -> Any:
    """The schema of a metadata file; PoolError where it is no parquet file or has no single column of uids."""
    with open_metadata(path) as file:
        found = file.schema.get_all_field_indices("uid")
        kinds = [file.schema.field(i).type for i in found]
        if len(kinds) == 1 and _holds_text(kinds[0]):
            return file.schema
    if not kinds:
        what = "no column uid"
    elif len(kinds) > 1:
        what = f"{len(kinds)} columns uid"
    else:
        what = f"a column uid of type {kinds[0]}"
    raise PoolError(
        f"metadata {file.path} has {what} ({', '.join(file.schema.names)}); expected uid as strings of 32 hex digits"
    )


def count_metadata_rows(path: str | os.PathLike[str]) -> int:
    """The rows of a metadata file, by its footer. Errors as ``open_metadata``."""
    with open_metadata(path) as file:
        return file.num_rows


def _holds_text(kind: Any) -> bool:
    """Whether a column of this type can be uids: strings or bytes, as they are or as a dictionary (categorical)."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    names = ("is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary", "is_binary_view")
    return any(getattr(pa.types, name)(kind) for name in names if hasattr(pa.types, name))


def uid_column(batch: Any) -> Any:
    """The column ``uid`` of a record batch that has one, a dictionary (categorical) decoded."""
    import pyarrow as pa

    column = batch.column(batch.schema.get_field_index("uid"))
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def parse_uids(
    batch: Any, *, errors: Literal["raise", "mask"] = "mask"
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """(n,) "u8,u8" uids of a batch's rows and (n,) bool, False for what is none; ``errors`` as ``uid_parse``."""
    uids, valid = uid_parse(uid_column(batch), errors=errors)
    return uids, np.asarray(valid)
