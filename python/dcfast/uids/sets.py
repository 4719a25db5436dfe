"""Uids as NumPy arrays: text to numbers and back, sort, membership, look-up, set operations, subset files.

A uid is 128 bits, two unsigned 64-bit halves, high half first (dtype ``"u8,u8"``, DataComp's). All operations
run in the compiled core with the GIL released and give the same result for any number of threads;
``threads=None`` means one per core.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dcfast._core import uids as core_uids
from dcfast.process.compute import thread_count
from dcfast.uids.files import (
    RECORD_DTYPE,
    RECORDS,
    UID_DTYPE,
    UIDS,
    MergeReport,
    UidArray,
    load_subset,
    merge_runs,
    open_records,
    save_records,
    save_subset,
)
from dcfast.uids.text import checked_array, checked_uids, uid_format, uid_parse, uid_to_arrow

__all__ = [
    "RECORD_DTYPE",
    "UID_DTYPE",
    "MergeReport",
    "load_subset",
    "merge_runs",
    "open_records",
    "record_sort",
    "save_records",
    "save_subset",
    "uid_difference",
    "uid_format",
    "uid_intersect",
    "uid_isin",
    "uid_lookup",
    "uid_multiplicity",
    "uid_parse",
    "uid_sort",
    "uid_to_arrow",
    "uid_union",
    "uid_unique",
]

BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]


def uid_sort(uids: UidArray, *, threads: int | None = None) -> UidArray:
    """A sorted copy, by high then low half; repeats are kept.

    Args:
        uids: (n,) ``"u8,u8"``.

    Raises:
        TypeError, ValueError: uids is not a one-dimensional ``"u8,u8"`` array.

    Memory: the copy, and one bucket a thread (n / 4096 for uids that are hashes). Cost: O(n) for hashes.
    Example: ``uid_sort(uids[::-1])``
    """
    return core_uids.uid_sort(checked_uids(uids, "uids"), False, thread_count(threads))


def uid_unique(uids: UidArray, *, threads: int | None = None) -> UidArray:
    """The distinct uids, sorted. Input in any order; otherwise as :func:`uid_sort`.

    Example: ``uid_unique(np.concatenate([uids, uids]))``
    """
    return core_uids.uid_sort(checked_uids(uids, "uids"), True, thread_count(threads))


def record_sort(records: UidArray, *, threads: int | None = None) -> UidArray:
    """A copy of uid records (``RECORD_DTYPE``) sorted by uid, then payload; otherwise as :func:`uid_sort`."""
    view = checked_array(records, "records")
    if view.dtype != RECORD_DTYPE:
        raise TypeError(f'records must have dtype "u8,u8,u8" (high half, low half, payload); got {view.dtype}')
    return core_uids.record_sort(view, thread_count(threads))


def uid_isin(uids: UidArray, sorted_uids: UidArray, *, check: bool = True, threads: int | None = None) -> BoolArray:
    """Which uids stand in a sorted array.

    Args:
        uids: (m,) ``"u8,u8"`` in any order.
        sorted_uids: (n,) ``"u8,u8"``, sorted, repeats allowed; may be memory-mapped.
        check: make sure that sorted_uids is sorted, which reads all of it.

    Returns:
        (m,) bool.

    Raises:
        ValueError: sorted_uids is not sorted, or an array is not one-dimensional.
        TypeError: an array is not ``"u8,u8"``.

    Memory: m bytes and at most 72 MiB. Cost: O(m) for hashes beside the check, O(m log n) at worst.
    Example: ``uids[uid_isin(uids, load_subset("subset.npy"))]``
    """
    count = thread_count(threads)
    return core_uids.uid_isin(_sorted(sorted_uids, "sorted_uids", check, count), checked_uids(uids, "uids"), count)


def uid_lookup(
    sorted_uids_or_records: UidArray, uids: UidArray, *, check: bool = False, threads: int | None = None
) -> tuple[Int64Array, Int64Array]:
    """Where uids stand in a sorted array of uids or of uid records.

    Args:
        sorted_uids_or_records: (n,) ``UID_DTYPE`` or ``RECORD_DTYPE``, sorted; may be memory-mapped.
        uids: (m,) ``"u8,u8"`` in any order.
        check: make sure that the array is sorted, which reads all of it. Off, because files of records were
            checked when they were merged; an unsorted array gives wrong answers.

    Returns:
        (m,) int64 first position, and (m,) int64 count from there on: the rows of ``uids[i]`` are
        ``array[first[i] : first[i] + count[i]]``. Where count is 0, first is where it would be inserted.

    Raises:
        ValueError, TypeError: as :func:`uid_isin`.

    Memory: 16 bytes a query and at most 72 MiB. Cost: as :func:`uid_isin`.
    """
    hay, count = checked_array(sorted_uids_or_records, "sorted_uids_or_records"), thread_count(threads)
    if hay.dtype == RECORD_DTYPE:
        if check:
            RECORDS.check_sorted(hay, "sorted_uids_or_records", count)
        return core_uids.record_lookup(hay, checked_uids(uids, "uids"), count)
    return core_uids.uid_lookup(_sorted(hay, "sorted_uids_or_records", check, count), checked_uids(uids, "uids"), count)


def uid_multiplicity(
    uids: UidArray, sorted_uids: UidArray, *, check: bool = True, threads: int | None = None
) -> Int64Array:
    """How often each uid stands in a sorted array: (m,) int64, 0 where absent. Otherwise as :func:`uid_isin`."""
    return uid_lookup(_sorted(sorted_uids, "sorted_uids", check, thread_count(threads)), uids, threads=threads)[1]


def uid_union(a: UidArray, b: UidArray, *, check: bool = True, threads: int | None = None) -> UidArray:
    """Uids in ``a`` or in ``b``.

    Args:
        a, b: (n,), (m,) ``"u8,u8"``, sorted, repeats allowed; may be memory-mapped.
        check: make sure that both are sorted.

    Returns:
        ``"u8,u8"``, sorted, without repeats.

    Raises:
        ValueError: a or b is not sorted or not one-dimensional.   TypeError: not ``"u8,u8"``.

    Memory: n + m uids, given back to the size of the result. Cost: O(n + m).
    Example: ``uid_union(uids, load_subset("subset.npy"))``
    """
    count = thread_count(threads)
    return core_uids.uid_union(_sorted(a, "a", check, count), _sorted(b, "b", check, count), count)


def uid_intersect(a: UidArray, b: UidArray, *, check: bool = True, threads: int | None = None) -> UidArray:
    """Uids in both ``a`` and ``b``; otherwise as :func:`uid_union`.

    Memory: min(n, m) uids. Cost: O(n + m), or O(min(n, m)) beside the check where one is 32 times longer.
    Example: ``uid_intersect(uids, load_subset("subset.npy"))``
    """
    count = thread_count(threads)
    return core_uids.uid_intersect(_sorted(a, "a", check, count), _sorted(b, "b", check, count), count)


def uid_difference(a: UidArray, b: UidArray, *, check: bool = True, threads: int | None = None) -> UidArray:
    """Uids in ``a`` and not in ``b``; otherwise as :func:`uid_union`.

    Memory: n uids. Cost: O(n + m), or O(n) beside the check where ``b`` is 32 times longer.
    Example: ``len(uid_difference(uids, load_subset("subset.npy"))) == 0``
    """
    count = thread_count(threads)
    return core_uids.uid_difference(_sorted(a, "a", check, count), _sorted(b, "b", check, count), count)


def _sorted(array: UidArray, name: str, check: bool, threads: int) -> UidArray:
    view = checked_uids(array, name)
    if check:
        UIDS.check_sorted(view, name, threads)
    return view
