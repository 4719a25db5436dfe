"""A filter: ``short_caption`` or ``short_caption(most=20)``."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from dcfast.filters import filter_function


@filter_function("text")
def short_caption(batch: pa.RecordBatch, most: int = 40) -> pa.BooleanArray:
    """Captions of at most so many characters; a null caption is none."""
    return pc.less_equal(pc.utf8_length(batch.column("text")), most)
