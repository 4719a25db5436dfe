"""Uids from the forms that people's tables have, and back: lists, NumPy, and Arrow's columns, whoever made them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Protocol, cast, overload

import numpy as np
import numpy.typing as npt

from dcfast._core import uids as core_uids
from dcfast.process.compute import thread_count
from dcfast.storage.arrow import arrow_column
from dcfast.uids.files import RECORD_DTYPE, UID_DTYPE, UidArray, borrowable

if TYPE_CHECKING:
    import uuid

    import pyarrow as pa

    Texts = Iterable[str | bytes | uuid.UUID | None]

BoolArray = npt.NDArray[np.bool_]
Parsed = tuple[UidArray, BoolArray, int]
"""uids, which of them are valid, how many are."""

UID_BYTES = 16
_MOST_TEXTS_OF_INT32 = (2**31 - 1) // 32


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
        threads: of Arrow's columns, ``S`` arrays and lists. They read objects while the caller's thread keeps the GIL,
            so that nobody changes these meanwhile.

    Returns:
        (n,) ``"u8,u8"`` uids, zero where not valid, and the (n,) bool mask of the valid ones.

    Raises:
        ValueError: ``errors="raise"`` and a row is not a uid; names the first index and its value.
        TypeError: texts is of another type, or holds other things than uids.

    Memory: 17 bytes a uid for the result; no input is copied but pandas' ``string[python]``. A dictionary's texts
    that rows take in another order than theirs: 17 more an entry while it runs.

    Cost: O(n), near memory speed for Arrow, in any number of chunks, and ``S``. Rows of a dictionary in random order
    cost a cache miss each. Source: docs/formats.md, DataComp's README "uid".
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
        uids, valid, num_valid = _parse_list(rows, count)
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
        return _parse_list(texts.tolist(), threads)
    raise TypeError(f"texts must hold text; got dtype {texts.dtype}")


def _parse_list(texts: list[str | bytes | uuid.UUID | None], threads: int) -> Parsed:
    try:
        return core_uids.uid_parse_list(texts, threads)  # type: ignore[arg-type]  # it says what is none of its types
    except TypeError:  # looked at only then: a list of texts is read as fast as without missing values
        given = [None if _is_missing(text) else text for text in texts]
        return core_uids.uid_parse_list(given, threads)  # type: ignore[arg-type]


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

    texts: list[pa.Array] = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    kind, rows, numbers = column.type, list[pa.Array](), np.dtype(np.int32)
    if pa.types.is_dictionary(kind):
        rows, numbers = [chunk.indices for chunk in texts], np.dtype(kind.index_type.to_pandas_dtype())
        texts, kind = [chunk.dictionary for chunk in texts], kind.value_type
    if pa.types.is_null(kind):
        return np.zeros(len(column), UID_DTYPE), np.zeros(len(column), np.bool_), 0
    form = _form(kind)
    if form is None:
        advice = ": pass one of its columns" if pa.types.is_struct(kind) else ""
        raise TypeError(
            "texts must hold strings, fixed_size_binary(16) or arrow.uuid; "
            f"got {given} of {str(column.type)[:160]}{advice}"
        )
    signed = numbers.kind == "i"
    return core_uids.uid_parse_column(form, _pieces(texts), _pieces(rows), numbers.itemsize, signed, threads)


def _pieces(chunks: list[pa.Array]) -> list[tuple[int, int, list[pa.Buffer | None]]]:
    """What the core reads them by, without a copy: rows, the first one's place in the buffers, and these."""
    return [(len(chunk), chunk.offset, chunk.buffers()) for chunk in chunks]


def _form(kind: pa.DataType) -> Literal["text32", "text64", "view", "bytes"] | None:
    """How a column of a type keeps its uids; None: it holds no uids."""
    import pyarrow as pa

    if kind == pa.binary(UID_BYTES) or getattr(kind, "extension_name", "") == "arrow.uuid":
        return "bytes"
    if kind in (pa.string(), pa.binary()):
        return "text32"
    if kind in (pa.large_string(), pa.large_binary()):
        return "text64"
    return "view" if kind in (pa.string_view(), pa.binary_view()) else None


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
