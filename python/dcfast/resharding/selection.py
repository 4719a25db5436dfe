"""The planner's parts for arrays, and the records of a plan; the planner is ``csrc/core/reshard/reshard_plan.hpp``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcfast._core import reshard as core_reshard
from dcfast.uids.files import borrowable

__all__ = ["CUT_DTYPE", "REPEAT_DTYPE", "first_copies", "plan_cuts", "repeated_uids", "select_rows"]

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


def select_rows(
    uids: NDArray[Any], valid: NDArray[np.bool_] | None, subset: NDArray[Any]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The rows whose uid stands in the subset, and how often it does.

    Args:
        uids: (n,) "u8,u8", in any order.
        valid: (n,) bool, rows that may be taken; None for all.
        subset: (s,) "u8,u8", sorted, repeats allowed, may be memory-mapped.
    Returns:
        rows (k,) u64, rising, and multiplicity (k,) u64, at least 1.
    Memory: O(n).   Cost: O(n) look-ups in the subset.
    """
    candidates = np.arange(len(uids), dtype=np.uint64) if valid is None else np.flatnonzero(valid).astype(np.uint64)
    rows, multiplicity = core_reshard.select_rows(_uids(uids[candidates]), candidates, _uids(subset))
    return rows, multiplicity


def plan_cuts(
    chunks: Iterable[tuple[int, NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]],
    shard_size: int = 10_000,
    max_bytes: int = 3_000_000_000,
) -> NDArray[Any]:
    """Cuts the canonical order into output shards as the reference does.

    A new shard begins before the sample at which the open one already has ``shard_size`` samples or
    ``max_bytes`` payload bytes (so a shard may be larger than max_bytes by one sample).

    Args:
        chunks: (segment, rows, multiplicity, payload bytes, members, tar bytes) of the selected rows of one segment
            after the other; the last three are of one copy.
    Returns:
        (K,) CUT_DTYPE.
    Memory: one chunk and the result.   Cost: O(rows + K), however often a row is written.
    """
    if shard_size < 1 or max_bytes < 1:
        raise ValueError(f"plan_cuts: shard_size and max_bytes must be at least 1; got {shard_size} and {max_bytes}")
    cutter = core_reshard.ShardCutter(shard_size, max_bytes)
    for segment, *columns in chunks:
        cutter.add(segment, *(np.ascontiguousarray(column, np.uint64) for column in columns))
    return np.frombuffer(cutter.finish(), CUT_DTYPE)


def repeated_uids(records: NDArray[Any]) -> NDArray[Any]:
    """The uids that stand more than once in a pool index, sorted and without repeats.

    Args:
        records: (n,) records f0, f1, f2 sorted by uid (``pool.npy``), may be memory-mapped.
    Memory: the result.   Cost: one pass.
    """
    if records.dtype != np.dtype("u8,u8,u8"):
        raise TypeError(f'pool_records must have dtype "u8,u8,u8"; got {records.dtype}')
    found: NDArray[Any] = core_reshard.repeated_uids(borrowable(records))
    return found


def first_copies(uids: NDArray[Any], ids: NDArray[np.uint64], multiplicity: NDArray[Any]) -> NDArray[Any]:
    """Where the copies of each occurrence of a uid begin to count, so that no two keys are equal.

    Args:
        uids, ids, multiplicity: (k,) "u8,u8", pool row ids, copies of each row; any order.
    Returns:
        (r,) REPEAT_DTYPE sorted by row_id: the rows that are not their uid's first, in canonical order.
    Memory, cost: O(k), O(k log k).
    """
    numbers = (np.ascontiguousarray(column, np.uint64) for column in (ids, multiplicity))
    return np.frombuffer(core_reshard.first_copies(_uids(uids), *numbers), REPEAT_DTYPE)


def _uids(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype != np.dtype("u8,u8"):
        raise TypeError(f'uids must have dtype "u8,u8"; got {array.dtype}')
    return np.ascontiguousarray(array)
