"""Members of written shards, listed by the indexer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.errors import CorruptDataError
from dcfast.index.build import index_tars

if TYPE_CHECKING:
    import pyarrow as pa


def list_members(
    path: str | os.PathLike[str],
) -> tuple[pa.LargeBinaryArray, npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Names, payload offsets and sizes of the members of a tar; all must be regular files.

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
    return names, table.column("offset").to_numpy(), table.column("size").to_numpy()
