"""Which pool rows a reshard takes: validity, selection by subset, row ids, and the copies of repeated uids.

Everything here works on whole columns of one index segment; nothing holds more than a segment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcfast.errors import PoolError
from dcfast.index.rows import FLAG_CUT, FLAGS_WITHOUT_UID, SegmentLike, open_segment, uid_multiplicity

__all__ = [
    "REPEAT_DTYPE",
    "ROWS_AT_ONCE",
    "check_shard_range",
    "chosen_shards",
    "first_copies",
    "repeated_uids",
    "row_validity",
    "select_rows",
    "selected_rows",
    "shard_numbers",
]

UID_DTYPE = np.dtype("u8,u8")
# rows of a segment looked at together: bounds the memory of plan and workers for segments of any size
ROWS_AT_ONCE = 1 << 18
# a selected pool row whose uid has other selected rows before it: its copies count on from first_copy
REPEAT_DTYPE = np.dtype([("row_id", "<u8"), ("first_copy", "<u8")])


def select_rows(
    uids: NDArray[Any], valid: NDArray[np.bool_] | None, subset: NDArray[Any]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The rows whose uid stands in the subset, and how often it does.

    Args:
        uids: (n,) "u8,u8", in any order.
        valid: (n,) bool, rows that may be taken; None for all.
        subset: (s,) "u8,u8", sorted, repeats allowed, may be memory-mapped.
    Returns:
        rows (k,) u32, rising, and multiplicity (k,) u32, at least 1.
    Raises:
        ValueError: 2^32 rows or more, or a uid that stands 2^32 times or more.
    Memory: O(n).   Cost: O(n) look-ups in the subset.
    """
    if len(uids) >= 1 << 32:
        raise ValueError(f"select_rows: uids must have fewer than 2^32 rows; got {len(uids)}")
    candidates = np.arange(len(uids), dtype=np.uint32) if valid is None else np.flatnonzero(valid).astype(np.uint32)
    wanted = np.ascontiguousarray(uids if valid is None else uids[candidates])
    if len(subset) == 0 or len(candidates) == 0:
        return np.zeros(0, np.uint32), np.zeros(0, np.uint32)
    count = uid_multiplicity(wanted, subset)
    if int(count.max()) >= 1 << 32:
        raise ValueError("select_rows: a uid stands 2^32 times or more in the subset")
    hit = count > 0
    return candidates[hit], count[hit].astype(np.uint32)


def row_validity(segment: SegmentLike, first_ordinal: int, options: dict[str, Any], exclude: Any) -> NDArray[np.bool_]:
    """(n,) bool: rows that have a uid, are whole, lie in the asked input shards and are not excluded.

    ``first_ordinal`` is the ordinal of the segment's first shard in the pool.
    """
    valid: NDArray[np.bool_] = (np.asarray(segment.flags) & (FLAGS_WITHOUT_UID | FLAG_CUT)) == 0
    begin = np.asarray(segment.shard_sample_begin, np.int64)
    valid &= selected_rows(segment, first_ordinal, options)
    lo, hi = np.searchsorted(exclude, np.array([first_ordinal << 32, (first_ordinal + segment.num_shards) << 32], "u8"))
    out = np.asarray(exclude[lo:hi])
    shard = (out >> np.uint64(32)).astype(np.int64) - first_ordinal
    row = (out & np.uint64(0xFFFFFFFF)).astype(np.int64)
    beyond = row >= np.diff(begin)[shard]
    if beyond.any():
        at = int(np.flatnonzero(beyond)[0])
        raise ValueError(f"exclude: row {row[at]} is not in shard {segment.shard_names[shard[at]]}")
    valid[begin[shard] + row] = False
    return valid


def selected_rows(segment: SegmentLike, first_ordinal: int, options: dict[str, Any]) -> NDArray[np.bool_]:
    """(n,) bool: rows of the input shards that ``first_shard`` and ``num_shards`` name."""
    first, count = int(options["first_shard"]), options["num_shards"]
    if first == 0 and count is None:
        return np.ones(segment.num_samples, bool)
    begin = np.asarray(segment.shard_sample_begin).astype(np.int64)
    return np.repeat(_asked_shards(segment, first_ordinal, first, count), begin[1:] - begin[:-1])


def _asked_shards(segment: SegmentLike, first_ordinal: int, first: int, count: int | None) -> NDArray[np.bool_]:
    numbers = shard_numbers(segment, first_ordinal)
    return np.array([first <= n and (count is None or n < first + int(count)) for n in numbers], np.bool_)


def chosen_shards(segments: Sequence[SegmentLike | str], options: dict[str, Any]) -> int:
    """How many input shards ``first_shard`` and ``num_shards`` name. Cost: a look at each segment's names."""
    first, count = int(options["first_shard"]), options["num_shards"]
    ordinal = total = 0
    for item in segments:
        segment = open_segment(item, verify=False)
        total += int(_asked_shards(segment, ordinal, first, count).sum())
        ordinal += segment.num_shards
    return total


def damage_of(segments: Sequence[SegmentLike | str], options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """shard, offset and message of each damage in the asked input shards: what lies behind it may be missing."""
    first, count = int(options["first_shard"]), options["num_shards"]
    ordinal = 0
    for item in segments:
        segment = open_segment(item, verify=False)
        asked = _asked_shards(segment, ordinal, first, count)
        for shard, offset, message in getattr(segment, "shard_damage", ()):
            if asked[shard]:
                yield {"shard": segment.shard_names[shard], "offset": offset, "message": message}
        ordinal += segment.num_shards


def shard_numbers(segment: SegmentLike, first_ordinal: int) -> list[int]:
    """What ``first_shard`` and ``num_shards`` count a segment's shards by."""
    stems = [os.path.basename(name).split(".", 1)[0] for name in segment.shard_names]
    # the reference counts shards by the number in their name; names without one count by position
    return [int(stem) if stem.isdecimal() else first_ordinal + i for i, stem in enumerate(stems)]


def check_shard_range(numbers: list[int], first_shard: int) -> None:
    """Raises PoolError where ``first_shard`` is beyond all the numbers of a pool's shards: nothing could be written."""
    if first_shard and first_shard > max(numbers, default=-1):
        between = f", numbered {min(numbers)} to {max(numbers)}" if numbers else ""
        held = f"{len(numbers)} input shard{'s' if len(numbers) != 1 else ''}{between}"
        raise PoolError(f"first_shard={first_shard} is beyond the pool: it has {held}; begin at one of these")


def repeated_uids(records: NDArray[Any], *, chunk: int = 1 << 22) -> NDArray[Any]:
    """The uids that stand more than once in a pool index, sorted and without repeats.

    Args:
        records: (n,) records f0, f1, f2 sorted by uid (``pool.npy``), may be memory-mapped.
        chunk: records looked at together.
    Memory: O(chunk) and the result.   Cost: one pass.
    """
    found: list[NDArray[Any]] = []
    for begin in range(0, len(records), chunk):
        part = records[begin : begin + chunk + 1]  # one more, for the pair across the border
        hi, lo = np.ascontiguousarray(part["f0"]), np.ascontiguousarray(part["f1"])
        at = np.flatnonzero((hi[1:] == hi[:-1]) & (lo[1:] == lo[:-1]))
        uids = np.empty(len(at), UID_DTYPE)
        uids["f0"], uids["f1"] = hi[at], lo[at]
        found.append(uids)
    return _distinct(np.concatenate(found)) if found else np.empty(0, UID_DTYPE)


def _distinct(uids: NDArray[Any]) -> NDArray[Any]:
    new = np.ones(len(uids), np.bool_)
    new[1:] = (uids["f0"][1:] != uids["f0"][:-1]) | (uids["f1"][1:] != uids["f1"][:-1])
    distinct: NDArray[Any] = uids[new]
    return distinct


def first_copies(uids: NDArray[Any], ids: NDArray[np.uint64], multiplicity: NDArray[Any]) -> NDArray[Any]:
    """Where the copies of each occurrence of a uid begin to count, so that no two keys are equal.

    Args:
        uids, ids, multiplicity: (k,) "u8,u8", pool row ids, copies of each row; any order.
    Returns:
        (r,) REPEAT_DTYPE sorted by row_id: the rows that are not their uid's first, in canonical order.
    Memory, cost: O(k), O(k log k).
    """
    order = np.lexsort((ids, uids["f1"], uids["f0"]))
    uids, ids = uids[order], ids[order]
    counts = multiplicity[order].astype(np.uint64)
    if len(ids) == 0:
        return np.empty(0, REPEAT_DTYPE)
    new = np.concatenate([[True], (uids["f0"][1:] != uids["f0"][:-1]) | (uids["f1"][1:] != uids["f1"][:-1])])
    before = np.cumsum(counts) - counts
    group = np.cumsum(new) - 1
    repeats = np.empty(int((~new).sum()), REPEAT_DTYPE)
    repeats["row_id"] = ids[~new]
    repeats["first_copy"] = (before - before[new][group])[~new]
    repeats.sort(order="row_id")
    return repeats
