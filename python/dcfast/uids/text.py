"""Uids from the forms that people's tables have, and back: lists, NumPy, and Arrow's columns, whoever made them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Protocol, cast, overload

import numpy as np
import numpy.typing as npt

from dcfast._core import uids as core_uids
from dcfast.process.compute import thread_count
from dcfast.storage.arrow import arrow_column, text_buffers, view_buffers
from dcfast.uids.files import RECORD_DTYPE, UID_DTYPE, UidArray, borrowable

if TYPE_CHECKING:
    import uuid

    import pyarrow as pa

    Texts = Iterable[str | bytes | uuid.UUID | None]

BoolArray = npt.NDArray[np.bool_]
Parsed = tuple[UidArray, BoolArray, int]
"""uids, which of them are valid, how many are."""
Into = tuple[UidArray, BoolArray]
"""Where uids are written, and which of them are valid."""

UID_BYTES = 16
_MOST_TEXTS_OF_INT32 = (2**31 - 1) // 32
_MOST_ENTRIES = 2**31


class ArrowStreamable(Protocol):
    """A column that Arrow's C interface hands over: a series of polars or pandas, a column of any Arrow library."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


class ArrowArray(Protocol):
    """The same in one piece."""

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]: ...


def uid_parse(
    texts: Texts | ArrowStreamable | ArrowArray | npt.NDArray[np.generic],
    *,
    errors: Literal["raise", "mask"] = "raise",
    threads: int | None = None,
) -> tuple[UidArray, BoolArray]:
    """Uids from any form they are kept in, row by row.

    A text is 32 hexadecimal digits, lower or upper case, of which zeros may be missing on the left; or a dashed UUID
    (8-4-4-4-12 digits). Bytes are the 16 of ``fixed_size_binary(16)`` and ``arrow.uuid``, in the order of the digits.

    Args:
        texts: a sequence of str, bytes (of text), ``uuid.UUID`` or None; a NumPy array of dtype ``S``, ``U`` or object;
            an Arrow column, from pyarrow or by its C interface (series of polars and pandas): string, binary (of
            text), their large and view types, ``fixed_size_binary(16)``, ``arrow.uuid``, dictionaries of these. What
            stands for no value (null, None, NaN, pandas' NA and NaT) is not a uid.
        errors: ``"raise"``, or ``"mask"`` to mark what is not a uid as invalid and go on.
        threads: for Arrow's texts and ``S`` arrays; the rest is read by one.

    Returns:
        (n,) ``"u8,u8"`` uids, zero where not valid, and the (n,) bool mask of the valid ones.

    Raises:
        ValueError: ``errors="raise"`` and a row is not a uid; names the first index and its value.
        TypeError: texts is of another type, or holds other things than uids.

    Memory: 17 bytes a uid for the result; no input is copied but views with nulls (16 bytes a row), bytes in a
        dictionary (16 a row), rows of a dictionary that are null or not int32 (4 or 8 a row), and pandas'
        ``string[python]``.

    Cost: O(n), near memory speed for Arrow and ``S``. Source: docs/formats.md, DataComp's README "uid".
    Example: ``uids, valid = uid_parse(frame["uid"], errors="mask")``, of any library's frame.
    """
    count = thread_count(threads)
    if errors not in ("raise", "mask"):
        raise ValueError(f'errors must be "raise" or "mask"; got {errors!r}')
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"texts must be a sequence of texts; got one {type(texts).__name__}: pass [text]")
    rows: pa.Array | pa.ChunkedArray | npt.NDArray[np.generic] | list[str | bytes | uuid.UUID | None]
    # a series of Python's objects has them already
    is_objects = getattr(texts, "dtype", None) == np.dtype(object)
    if isinstance(texts, np.ndarray) or is_objects:
        rows = np.asarray(texts)
        if np.ma.isMaskedArray(texts):
            rows = rows.astype(object)
            np.putmask(rows, np.ma.getmaskarray(texts), np.array(None, object))
        uids, valid, num_valid = _parse_numpy(rows, count)
    elif isinstance(texts, list) or (column := arrow_column(texts)) is None:
        rows = texts if type(texts) is list else list(cast("Texts", texts))
        uids, valid, num_valid = _parse_list(rows)
    else:
        rows = column
        uids, valid, num_valid = _parse_column(rows, type(texts).__name__, count)
    if errors == "raise" and num_valid != len(valid):
        first = int(np.argmin(valid))
        raise ValueError(
            f"texts[{first}] is not a uid: expected 32 hexadecimal digits or a dashed UUID; got {_shown(rows[first])} "
            f'({len(valid) - num_valid} of {len(valid)} are not; pass errors="mask" to go on without them)'
        )
    return uids, valid


def _parse_numpy(texts: npt.NDArray[np.generic], threads: int) -> Parsed:
    if texts.ndim != 1:
        raise ValueError(f"texts must be one-dimensional; got shape {texts.shape}")
    if texts.dtype.kind == "S":
        flat = np.ascontiguousarray(texts)
        width = flat.dtype.itemsize
        # "S0" cannot be viewed as bytes; it holds empty texts alone
        raw = flat.view(np.uint8) if width and len(flat) else np.empty(0, np.uint8)
        return core_uids.uid_parse_fixed(raw, width, len(flat), threads)
    if texts.dtype.kind in "UOT":
        return _parse_list(texts.tolist())
    raise TypeError(f"texts must hold text; got dtype {texts.dtype}")


def _parse_list(texts: list[str | bytes | uuid.UUID | None]) -> Parsed:
    try:
        return core_uids.uid_parse_list(texts)  # type: ignore[arg-type]  # it says what is none of its types
    except TypeError:  # looked at only then: a list of texts is read as fast as without missing values
        given = [None if _is_missing(text) else text for text in texts]
        return core_uids.uid_parse_list(given)  # type: ignore[arg-type]


def _is_missing(value: object) -> bool:
    """Whether it stands for no value: a NaN, or pandas' NA and NaT. (None the core knows.)"""
    if isinstance(value, float | np.floating):
        return bool(value != value)
    kind = type(value)
    return kind.__module__.partition(".")[0] == "pandas" and kind.__name__ in ("NAType", "NaTType")


def _shown(value: object) -> str:
    if hasattr(value, "as_py"):
        try:
            value = value.as_py()
        except UnicodeDecodeError:  # of a column of text, which nobody checks
            value = value.as_buffer().to_pybytes()  # type: ignore[attr-defined]
    text = repr(value)
    text = text if len(text) <= 160 else f"{text[:157]}..."
    raw = isinstance(value, bytes) and len(value) == UID_BYTES
    return f"{text}: bytes of a uid are taken of fixed_size_binary(16), cast the column to it" if raw else text


def _parse_column(column: pa.Array | pa.ChunkedArray, given: str, threads: int) -> Parsed:
    import pyarrow as pa

    if not _has_uids(column.type):
        advice = ": pass one of its columns" if pa.types.is_struct(column.type) else ""
        raise TypeError(
            "texts must hold strings, fixed_size_binary(16) or arrow.uuid; "
            f"got {given} of {str(column.type)[:160]}{advice}"
        )
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    uids, valid, num_valid, at = np.empty(len(column), UID_DTYPE), np.empty(len(column), np.bool_), 0, 0
    for chunk in chunks:
        rows = slice(at, at + len(chunk))
        at, num_valid = rows.stop, num_valid + _parse_chunk(chunk, threads, (uids[rows], valid[rows]))
    return uids, valid, num_valid


def _has_uids(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _has_uids(kind.value_type)
    names = ("null", "string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return _is_bytes(kind) or _is_uuid(kind) or any(getattr(pa.types, f"is_{name}")(kind) for name in names)


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(kind == pa.binary(UID_BYTES))


def _is_uuid(kind: pa.DataType) -> bool:
    return getattr(kind, "extension_name", "") == "arrow.uuid"


def _is_view(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return kind in (pa.string_view(), pa.binary_view())


def _parse_chunk(chunk: pa.Array, threads: int, into: Into) -> int:
    import pyarrow as pa

    if not pa.types.is_dictionary(chunk.type):
        return _parse_rows(chunk, None, threads, into)
    entries = len(chunk.dictionary)
    rows = chunk.indices.fill_null(0).to_numpy()
    # of others the core looks at each
    if (rows.dtype != np.int32 or _is_bytes(chunk.dictionary.type) or _is_uuid(chunk.dictionary.type)) and entries:
        wrong = np.flatnonzero((rows < 0) | (rows >= min(entries, _MOST_ENTRIES)))
        for row in wrong[:1]:
            raise ValueError(
                f"texts has a dictionary of {entries} entries, and row {row} points outside, at {rows[row]}: repair it "
                f"(or cast the column to its texts, if it has more than {_MOST_ENTRIES} entries)"
            )
    num_valid = _parse_rows(chunk.dictionary, rows.astype(np.int32, copy=False), threads, into)
    return _without(into, _nulls(chunk.indices), num_valid)


def _nulls(column: pa.Array) -> BoolArray | None:
    return ~column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else None


def _without(into: Into, null: BoolArray | None, num_valid: int) -> int:
    if null is None:
        return num_valid
    uids, valid = into
    uids[null], valid[null] = 0, False
    return int(np.count_nonzero(valid))


def _parse_rows(texts: pa.Array, rows: npt.NDArray[np.int32] | None, threads: int, into: Into) -> int:
    """Each of the texts; or, of a dictionary, that of each row (directly: most uids of a table come once)."""
    import pyarrow as pa

    uids, valid = into
    if _is_uuid(texts.type):
        texts = texts.storage
    if pa.types.is_null(texts.type) or len(texts) == 0 or len(uids) == 0:
        uids[:], valid[:] = 0, False
        return 0
    null = _nulls(texts)
    if _is_bytes(texts.type):
        raw = np.frombuffer(texts.buffers()[1], "V16", len(texts), UID_BYTES * texts.offset)
        uids.view("<u8")[:] = (raw if rows is None else raw.take(rows)).view(">u8")
        valid[:], num_valid = True, len(uids)
    elif _is_view(texts.type):
        views, buffers = view_buffers(texts)
        if null is not None:  # what lies in the place of a null may be anything
            views = views.copy()
            views.reshape(-1, 4)[null] = 0
        num_valid = core_uids.uid_parse_views(views, buffers, rows, into, threads)[2]
    else:
        data, offsets = text_buffers(texts)
        parse = core_uids.uid_parse_offsets64 if offsets.dtype == np.int64 else core_uids.uid_parse_offsets32
        num_valid = parse(data, offsets, rows, into, threads)[2]
    return _without(into, null if null is None or rows is None else null[rows], num_valid)


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
    Cost: O(n), at the speed of memory; a list is made by Python.
    Example: ``uid_format(uids, as_list=True)[0]``
    """
    view = checked_uids(uids, "uids")
    text = core_uids.uid_format(view, thread_count(threads))
    if as_list:
        whole = text.tobytes().decode("ascii")
        return [whole[i : i + 32] for i in range(0, len(whole), 32)]
    import pyarrow as pa

    wide = len(view) > _MOST_TEXTS_OF_INT32
    offsets = np.arange(len(view) + 1, dtype=np.int64 if wide else np.int32) * 32
    kind = pa.LargeStringArray if wide else pa.StringArray
    return kind.from_buffers(len(view), pa.py_buffer(offsets), pa.py_buffer(text))


def uid_to_arrow(uids: UidArray, *, form: Literal["binary", "text"] = "binary", threads: int | None = None) -> pa.Array:
    """Uids as a column for Arrow, polars, pandas or parquet; :func:`uid_parse` reads it back.

    Args:
        uids: (n,) ``"u8,u8"``.
        form: ``"binary"``: 16 bytes a uid, in the order of its digits, which sort as uids do; ``"text"``: as
            :func:`uid_format`.
        threads: for text.

    Returns:
        A pyarrow ``fixed_size_binary(16)`` array; for text ``string`` or ``large_string``. None of it is null.

    Raises:
        TypeError, ValueError: uids is not a one-dimensional ``"u8,u8"`` array, or form is neither.

    Memory: a copy, 16 bytes a uid (36 or 40 for text): "u8,u8" has the bytes of each half the other way round.
    Cost: O(n), at the speed of memory.
    Example: ``pyarrow.table({"uid": uid_to_arrow(uids)})``; ``uid_to_arrow(uids).cast(pyarrow.uuid())`` is arrow.uuid.
    """
    if form not in ("binary", "text"):
        raise ValueError(f'form must be "binary" or "text"; got {form!r}')
    thread_count(threads)  # checked of bytes, too
    if form == "text":
        return uid_format(uids, threads=threads)
    import pyarrow as pa

    view = checked_uids(uids, "uids")
    data = view.view("<u8").astype(">u8")
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(UID_BYTES), len(view), [None, pa.py_buffer(data)])


def checked_array(array: UidArray, name: str) -> UidArray:
    """The array itself where the core can borrow it, else a contiguous, aligned copy."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f'{name} must be a NumPy array of dtype "u8,u8"; got {type(array).__name__}')
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional; got shape {array.shape}")
    return borrowable(array)


def checked_uids(array: UidArray, name: str) -> UidArray:
    """The same of an array of uids. TypeError, ValueError: it is none, or not one-dimensional."""
    view = checked_array(array, name)
    if view.dtype != UID_DTYPE:
        hint = "; pass its uids: array[['f0', 'f1']].astype('u8,u8')" if view.dtype == RECORD_DTYPE else ""
        raise TypeError(f'{name} must have dtype "u8,u8" (high half, low half); got {view.dtype}{hint}')
    return view
