"""Members of written shards: listed by the indexer, hashed by byte ranges."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcfast.errors import CorruptDataError
from dcfast.index.build import index_tars
from dcfast.storage.hashing import hash_members

__all__ = ["hash_ranges", "list_members"]


def list_members(path: str | Path) -> tuple[Any, NDArray[np.uint64], NDArray[np.uint64]]:
    """Names (pyarrow large_binary), payload offsets and sizes of the members of a tar; all must be regular files.

    Raises CorruptDataError where the tar is damaged or holds anything else.
    """
    import pyarrow as pa

    index = index_tars([path], threads=1)
    for loss in index.segment.losses:
        if loss.archive:
            raise CorruptDataError(loss.message, path=os.fspath(path), offset=loss.offset)
    if len(others := index.others()):
        name = others.column("name")[0].as_py()
        raise CorruptDataError(f"member {name!r} belongs to no sample", path=os.fspath(path))
    table = index.members()
    names = table.column("name").cast(pa.large_binary()).combine_chunks()
    offset, size = (table.column(name).to_numpy().astype(np.uint64) for name in ("offset", "size"))
    return names, offset, size


def hash_ranges(path: str | Path, offset: NDArray[Any], size: NDArray[Any]) -> NDArray[Any]:
    hashes: NDArray[Any] = hash_members(path, offset, size)
    return hashes
