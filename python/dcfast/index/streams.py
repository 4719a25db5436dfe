"""Indexes as streams of Arrow batches, for Arrow's C interface: pyarrow and polars read them.

A batch is made when it is asked for: what of it is no view of the mapped file takes the memory of one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast._core import system as core_system
from dcfast.index.rows import split_row_ids
from dcfast.index.segments import WITHOUT_UID, Segment
from dcfast.uids.text import uid_to_arrow

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 1 << 18
"""Of a batch."""


def record_stream(records: npt.NDArray[np.void]) -> pa.RecordBatchReader:
    """Columns uid, shard, row of records of uid and row id. All are copies: records lie in rows of 24 bytes."""

    def columns(first: int, last: int) -> dict[str, pa.Array]:
        import pyarrow as pa

        part = records[first:last]
        shard, row = split_row_ids(part["f2"])
        uids = part[["f0", "f1"]].astype("u8,u8")
        return {"uid": uid_to_arrow(uids), "shard": pa.array(shard), "row": pa.array(row)}

    return _stream(len(records), columns)


def sample_stream(segment: Segment) -> pa.RecordBatchReader:
    """Columns shard, row, key, uid, width, height, flags of the samples. The last three are views of the segment."""
    begin = segment.shard_sample_begin.astype(np.int64)

    def columns(first: int, last: int) -> dict[str, pa.Array]:
        import pyarrow as pa

        samples = np.arange(first, last)
        shard = np.searchsorted(begin, samples, side="right") - 1
        flags = segment.flags[first:last]
        valid = np.packbits((flags & int(WITHOUT_UID)) == 0, bitorder="little")
        uid = uid_to_arrow(segment.uid[first:last])
        return {
            "shard": pa.array(shard.astype(np.uint32)),
            "row": pa.array((samples - begin[shard]).astype(np.uint32)),
            "key": segment.keys(first, last),
            "uid": pa.Array.from_buffers(uid.type, len(uid), [pa.py_buffer(valid), uid.buffers()[1]]),
            "width": pa.array(segment.width[first:last]),
            "height": pa.array(segment.height[first:last]),
            "flags": pa.array(flags),
        }

    return _stream(segment.num_samples, columns)


def _stream(rows: int, columns: Callable[[int, int], dict[str, pa.Array]]) -> pa.RecordBatchReader:
    import pyarrow as pa

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, rows, ROWS_AT_ONCE):
            batch = pa.record_batch(columns(first, min(first + ROWS_AT_ONCE, rows)))
            core_system.refuse_lost_maps()  # a file that was cut reads as zeros
            yield batch

    return pa.RecordBatchReader.from_batches(pa.record_batch(columns(0, 0)).schema, batches())
