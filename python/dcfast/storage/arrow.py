"""Arrow's columns of text as the core takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["text_buffers"]


def text_buffers(column: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.signedinteger]]:
    """The bytes of a column of strings or binaries, and the (n + 1,) int32 or int64 offsets of its texts in them.

    Views where the type has offsets, else (views, fixed sizes) of a copy. A null is whatever its offsets say.
    """
    import pyarrow as pa

    kind = column.type
    wide = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    if not wide and not (pa.types.is_string(kind) or pa.types.is_binary(kind)):
        column, wide = column.cast(pa.large_binary()), True
    dtype: type[np.signedinteger] = np.int64 if wide else np.int32
    _, offsets, data = column.buffers()
    begins = np.zeros(1, dtype)  # of an empty column there may be no offsets
    if len(column):
        begins = np.frombuffer(offsets, dtype)[column.offset : column.offset + len(column) + 1]
    return np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8), begins
