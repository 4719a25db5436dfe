"""The records of a plan, and the uids that a pool has more than once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dcfast._core import reshard as core_reshard
from dcfast.uids.files import RECORD_DTYPE, borrowable

__all__ = ["CUT_DTYPE", "REPEAT_DTYPE", "repeated_uids"]

# one output shard: where it begins (segment, row in the segment, copy of that row) and what it holds
CUT_DTYPE = np.dtype(
    [
        ("segment", "<u4"),
        ("reserved", "<u4"),
        ("row", "<u8"),
        ("copy", "<u8"),
        ("samples", "<u8"),
        ("members", "<u8"),
        ("payload_bytes", "<u8"),
        ("tar_bytes", "<u8"),
    ]
)
# a selected pool row whose uid has other selected rows before it: its copies count on from first_copy
REPEAT_DTYPE = np.dtype([("row_id", "<u8"), ("first_copy", "<u8")])


def repeated_uids(records: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """The uids that stand more than once in a pool index, sorted and without repeats.

    Args:
        records: (n,) records f0, f1, f2 sorted by uid (``pool.npy``), may be memory-mapped.
    Memory: the result.   Cost: one pass.
    """
    if records.dtype != RECORD_DTYPE:
        raise TypeError(f'pool_records must have dtype "u8,u8,u8"; got {records.dtype}')
    return core_reshard.repeated_uids(borrowable(records))
