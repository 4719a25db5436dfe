"""Uids as NumPy arrays: text to numbers and back, sort, membership, look-up, set operations, subset files.

A uid is 128 bits, two unsigned 64-bit halves, high half first (dtype ``"u8,u8"``, DataComp's). All operations
run in the compiled core with the GIL released and give the same result for any number of threads;
``threads=None`` means one per core.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
import numpy.typing as npt

from dcfast._core import uids as core_uids
from dcfast.process.compute import thread_count
from dcfast.storage.arrow import text_buffers
from dcfast.uids.files import (
    RECORD_DTYPE,
    RECORDS,
    UID_DTYPE,
    UIDS,
    MergeReport,
    UidArray,
    borrowable,
    load_subset,
    merge_runs,
    open_records,
    save_records,
    save_subset,
)

if TYPE_CHECKING:
    import pyarrow as pa

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
    "uid_union",
    "uid_unique",
]

BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]

_MOST_TEXTS_OF_INT32 = (2**31 - 1) // 32


def uid_parse(
    texts: Iterable[str | bytes | None] | pa.Array | pa.ChunkedArray | npt.NDArray[np.generic],
    *,
    errors: Literal["raise", "mask"] = "raise",
    threads: int | None = None,
) -> tuple[UidArray, BoolArray]:
    """Uids from their text form: 32 hexadecimal digits, lower or upper case; zeros may be missing on the left.

    Args:
        texts: a sequence of str, bytes or None; a pyarrow array or chunked array of strings or binaries
            (nulls allowed); a NumPy array of dtype ``S``, ``U`` or object; a polars or pandas series. What stands
            for no value (None, NaN, pandas' NA and NaT) is not a uid.
        errors: ``"raise"``, or ``"mask"`` to mark what is not a uid as invalid and go on.
        threads: for Arrow and ``S`` arrays; strings of a list are read by one.

    Returns:
        (n,) ``"u8,u8"`` uids, zero where not valid, and the (n,) bool mask of the valid ones.

    Raises:
        ValueError: ``errors="raise"`` and a text is not a uid; names the first index and its value.
        TypeError: texts is of another type, or holds other things than text.

    Memory: 17 bytes a text for the result; nothing is copied of Arrow and ``S`` input.
    Cost: O(n), near memory speed for Arrow and ``S``. Source: docs/formats.md, DataComp's README "uid".
    """
    count = thread_count(threads)
    if errors not in ("raise", "mask"):
        raise ValueError(f'errors must be "raise" or "mask"; got {errors!r}')
    if not isinstance(texts, np.ndarray) and hasattr(texts, "to_arrow"):
        texts = texts.to_arrow()
    if type(texts).__module__.split(".")[0] == "pyarrow":
        uids, valid, num_valid = _parse_arrow(texts, count)
    elif isinstance(texts, np.ndarray):
        if texts.ndim != 1:
            raise ValueError(f"texts must be one-dimensional; got shape {texts.shape}")
        if texts.dtype.kind == "S":
            flat = np.ascontiguousarray(texts)
            width = flat.dtype.itemsize
            # "S0" cannot be viewed as bytes; it holds empty texts alone
            raw = flat.view(np.uint8) if width and len(flat) else np.empty(0, np.uint8)
            uids, valid, num_valid = core_uids.uid_parse_fixed(raw, width, len(flat), count)
        elif texts.dtype.kind in "UOT":
            uids, valid, num_valid = _parse_list(texts.tolist())
        else:
            raise TypeError(f"texts must hold text; got dtype {texts.dtype}")
    elif isinstance(texts, (str, bytes)):
        raise TypeError(f"texts must be a sequence of texts; got one {type(texts).__name__}: pass [text]")
    else:
        texts = texts if type(texts) is list else list(texts)
        uids, valid, num_valid = _parse_list(texts)
    if errors == "raise" and num_valid != len(valid):
        first = int(np.argmin(valid))
        value = next(islice(texts, first, None))
        if hasattr(value, "as_py"):
            try:
                value = value.as_py()
            except UnicodeDecodeError:  # of a column of text, which nobody checks
                value = value.as_buffer().to_pybytes()
        raise ValueError(
            f"texts[{first}] is not a uid: expected 32 hexadecimal digits; got {_shortened(value)} "
            f'({len(valid) - num_valid} of {len(valid)} are not; pass errors="mask" to go on without them)'
        )
    return uids, valid


def _parse_list(texts: list[str | bytes | None]) -> tuple[UidArray, BoolArray, int]:
    try:
        return core_uids.uid_parse_list(texts)
    except TypeError:  # looked at only then: a list of texts is read as fast as without missing values
        return core_uids.uid_parse_list([None if _is_missing(text) else text for text in texts])


def _is_missing(value: object) -> bool:
    """Whether it stands for no value: a NaN, or pandas' NA and NaT. (None the core knows.)"""
    if isinstance(value, float | np.floating):
        return bool(value != value)
    kind = type(value)
    return kind.__module__.partition(".")[0] == "pandas" and kind.__name__ in ("NAType", "NaTType")


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _parse_arrow(texts: pa.Array | pa.ChunkedArray, threads: int) -> tuple[UidArray, BoolArray, int]:
    import pyarrow as pa

    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    if not all(isinstance(chunk, pa.Array) for chunk in chunks):
        raise TypeError(f"texts must be a pyarrow array or chunked array; got {type(texts).__name__}")
    if not _is_text(texts.type):
        raise TypeError(f"texts must hold strings; got a pyarrow array of {texts.type}")
    parts = [_parse_chunk(chunk, threads) for chunk in chunks]
    if len(parts) == 1:
        return parts[0]
    uids = np.concatenate([np.empty(0, UID_DTYPE), *(part[0] for part in parts)])
    valid = np.concatenate([np.empty(0, bool), *(part[1] for part in parts)])
    return uids, valid, sum(part[2] for part in parts)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    names = ("null", "string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return any(getattr(pa.types, f"is_{name}")(kind) for name in names)


def _parse_chunk(chunk: pa.Array, threads: int) -> tuple[UidArray, BoolArray, int]:
    import pyarrow as pa

    if pa.types.is_dictionary(chunk.type):
        chunk = chunk.dictionary_decode()
    if pa.types.is_null(chunk.type) or len(chunk) == 0:
        return np.zeros(len(chunk), UID_DTYPE), np.zeros(len(chunk), bool), 0
    data, offsets = text_buffers(chunk)
    parse = core_uids.uid_parse_offsets64 if offsets.dtype == np.int64 else core_uids.uid_parse_offsets32
    uids, valid, num_valid = parse(data, offsets, threads)
    if chunk.null_count:
        # the text of a null may be anything
        null = ~chunk.is_valid().to_numpy(zero_copy_only=False)
        uids[null] = 0
        valid[null] = False
        num_valid = int(np.count_nonzero(valid))
    return uids, valid, num_valid


@overload
def uid_format(uids: UidArray, *, as_list: Literal[False] = False, threads: int | None = None) -> pa.Array: ...
@overload
def uid_format(uids: UidArray, *, as_list: Literal[True], threads: int | None = None) -> list[str]: ...
@overload
def uid_format(uids: UidArray, *, as_list: bool, threads: int | None = None) -> pa.Array | list[str]: ...
def uid_format(uids: UidArray, *, as_list: bool = False, threads: int | None = None) -> pa.Array | list[str]:
    """The text form of uids: 32 lower-case hexadecimal digits each.

    Args:
        uids: (n,) ``"u8,u8"``.
        as_list: return a list of str rather than a pyarrow array.

    Returns:
        A pyarrow ``string`` array, or ``large_string`` from 67,108,864 uids on; or a list.

    Raises:
        TypeError, ValueError: uids is not a one-dimensional ``"u8,u8"`` array.

    Memory: 36 bytes a uid (40 for large_string); a list takes 81 bytes a uid beside.
    """
    view = _uids(uids, "uids")
    text = core_uids.uid_format(view, thread_count(threads))
    if as_list:
        whole = text.tobytes().decode("ascii")
        return [whole[i : i + 32] for i in range(0, len(whole), 32)]
    import pyarrow as pa

    wide = len(view) > _MOST_TEXTS_OF_INT32
    offsets = np.arange(len(view) + 1, dtype=np.int64 if wide else np.int32) * 32
    kind = pa.LargeStringArray if wide else pa.StringArray
    return kind.from_buffers(len(view), pa.py_buffer(offsets), pa.py_buffer(text))


def uid_sort(uids: UidArray, *, threads: int | None = None) -> UidArray:
    """A sorted copy, by high then low half; repeats are kept.

    Args:
        uids: (n,) ``"u8,u8"``.

    Raises:
        TypeError, ValueError: uids is not a one-dimensional ``"u8,u8"`` array.

    Memory: the copy, and one bucket a thread (n / 4096 for uids that are hashes). Cost: O(n) for hashes.
    """
    return core_uids.uid_sort(_uids(uids, "uids"), False, thread_count(threads))


def uid_unique(uids: UidArray, *, threads: int | None = None) -> UidArray:
    """The distinct uids, sorted. Input in any order; otherwise as :func:`uid_sort`."""
    return core_uids.uid_sort(_uids(uids, "uids"), True, thread_count(threads))


def record_sort(records: UidArray, *, threads: int | None = None) -> UidArray:
    """A copy of uid records (``RECORD_DTYPE``) sorted by uid, then payload; otherwise as :func:`uid_sort`."""
    view = _aligned(records, "records")
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
    """
    count = thread_count(threads)
    return core_uids.uid_isin(_sorted(sorted_uids, "sorted_uids", check, count), _uids(uids, "uids"), count)


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
    hay, count = _aligned(sorted_uids_or_records, "sorted_uids_or_records"), thread_count(threads)
    if hay.dtype == RECORD_DTYPE:
        if check:
            RECORDS.check_sorted(hay, "sorted_uids_or_records", count)
        return core_uids.record_lookup(hay, _uids(uids, "uids"), count)
    return core_uids.uid_lookup(_sorted(hay, "sorted_uids_or_records", check, count), _uids(uids, "uids"), count)


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
    """
    count = thread_count(threads)
    return core_uids.uid_union(_sorted(a, "a", check, count), _sorted(b, "b", check, count), count)


def uid_intersect(a: UidArray, b: UidArray, *, check: bool = True, threads: int | None = None) -> UidArray:
    """Uids in both ``a`` and ``b``; otherwise as :func:`uid_union`.

    Memory: min(n, m) uids. Cost: O(n + m), or O(min(n, m)) beside the check where one is 32 times longer.
    """
    count = thread_count(threads)
    return core_uids.uid_intersect(_sorted(a, "a", check, count), _sorted(b, "b", check, count), count)


def uid_difference(a: UidArray, b: UidArray, *, check: bool = True, threads: int | None = None) -> UidArray:
    """Uids in ``a`` and not in ``b``; otherwise as :func:`uid_union`.

    Memory: n uids. Cost: O(n + m), or O(n) beside the check where ``b`` is 32 times longer.
    """
    count = thread_count(threads)
    return core_uids.uid_difference(_sorted(a, "a", check, count), _sorted(b, "b", check, count), count)


def _aligned(array: UidArray, name: str) -> UidArray:
    """The array itself where the core can borrow it, else a contiguous, aligned copy."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f'{name} must be a NumPy array of dtype "u8,u8"; got {type(array).__name__}')
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional; got shape {array.shape}")
    return borrowable(array)


def _uids(array: UidArray, name: str) -> UidArray:
    view = _aligned(array, name)
    if view.dtype != UID_DTYPE:
        hint = "; pass its uids: array[['f0', 'f1']].astype('u8,u8')" if view.dtype == RECORD_DTYPE else ""
        raise TypeError(f'{name} must have dtype "u8,u8" (high half, low half); got {view.dtype}{hint}')
    return view


def _sorted(array: UidArray, name: str, check: bool, threads: int) -> UidArray:
    view = _uids(array, name)
    if check:
        UIDS.check_sorted(view, name, threads)
    return view
