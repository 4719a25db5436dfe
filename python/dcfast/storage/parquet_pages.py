"""What the pages of a parquet file would take, by their own headers, before Arrow decodes any.

The footer is read here, too: where it describes a column wrongly, pyarrow ends the process as it is asked about it.

The footer's sizes are whatever the writer said; a dictionary, run lengths and shared prefixes make gigabytes of some
bytes. The headers of pages hold what decoding obeys: how many values, how many bytes, in which encoding. From them
follows how many rows may be read at a time. Cost: a read of some bytes a page, and of small dictionaries.
Format: parquet-format, parquet.thrift (PageHeader), Thrift's compact protocol.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Value = int | list["Value"] | dict[int, "Value"] | None
"""Of a field of Thrift: numbers, structs and lists of these; others are passed over, as None."""
Fields = dict[int, Value]
"""A struct: its fields by their numbers."""

MAX_BATCH_BYTES = 128 << 20
"""Decoded bytes of a batch: it has fewer rows where a value may be large."""
MAX_PAGE_BYTES = 256 << 20
"""Decoded bytes of a page, where they are more than MAX_RATIO times those stored."""
MAX_LIST_BYTES = 512 << 20
"""Of the lists of a row group, in the same way."""
MAX_RATIO = 8

_DATA, _INDEX, _DICTIONARY, _DATA_V2 = range(4)
_DICTIONARY_ENCODINGS, _PREFIXES = (2, 8), 7
MAX_FOOTER_BYTES = 32 << 20
_TAIL = 8  # bytes behind a footer: its length, and PAR1

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_OVERHEAD = 8  # bytes a value beside its own: levels, offsets
_WALKED_DICTIONARY = 2 << 20  # bytes of one that is looked at value by value however few are stored
_HEADER, _MAX_HEADER = 512, 16 << 20
_TRUTHS, _NUMBERS, _BINARY, _LIST, _STRUCT = (1, 2), (4, 5, 6), 8, 9, 12  # of Thrift
_WIDE = {3: 1, 7: 8}  # a byte, a double
_DEPTH = 8
_CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
_PADDING = 100  # by which Arrow reads on in files of an old writer


class Page(NamedTuple):
    """Values of a data page, decoded bytes of the largest, and of all, at most; ``plain``: as many as are stored."""

    values: int
    largest: int
    total: int
    plain: bool


def _cost(pages: list[Page], rows: int, plain: bool) -> int:
    """Decoded bytes of any ``rows`` rows of a flat column at most, by its pages that are plain, or by the others."""
    costs = [min(p.total, rows * p.largest) if p.plain == plain else 0 for p in pages]
    before = [0, *accumulate(costs)]
    values = [0, *accumulate(p.values for p in pages)]
    most = first = 0
    for last in range(len(costs)):
        # rows touch all of first .. last only where those between them hold fewer
        while first < last and values[last] - values[first + 1] >= rows:
            first += 1
        most = max(most, before[last + 1] - before[first])
    return most


class _Thrift:
    """Values of Thrift's compact protocol; IndexError where the bytes end, ValueError for what is odd.

    A footer has millions of them, most of one byte: those are read without a call.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def _number(self) -> int:
        data, at, value, shift = self.data, self.at, 0, 0
        while shift < 70:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                self.at = at
                return value
            shift += 7
        raise ValueError("a number of more than 64 bits")

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise IndexError

    def struct(self, depth: int = 0, taken: int = 0, take: Callable[[Value], None] | None = None) -> Fields:
        """The fields of a struct.

        Args:
            take: is given each item of the list in the field ``taken``, which is left empty: it takes no memory.
        """
        data, at, size, number = self.data, self.at, len(self.data), 0
        fields: Fields = {}
        while head := data[at]:
            at += 1
            kind = head & 15
            if head > 15:
                number += head >> 4
            else:
                self.at = at
                number = _signed(self._number())
                at = self.at
            if number in fields:
                raise ValueError("a header with a field twice")
            if kind <= 2:
                fields[number] = None if kind else self._value(kind, depth)
            elif kind in _NUMBERS:
                value = data[at]
                at += 1
                shift = 0
                while value >> shift > 127:  # its highest byte says that there are more
                    if shift == 63:
                        raise ValueError("a number of more than 64 bits")
                    shift += 7
                    value += (data[at] - 1) << shift  # less that bit of the one before
                    at += 1
                fields[number] = value >> 1 ^ -(value & 1)
            elif kind == _BINARY and (length := data[at]) < 128 and at + length < size:
                at += 1 + length
                fields[number] = None
            else:
                self.at = at
                is_taken = take is not None and kind == _LIST and number == taken
                fields[number] = self._list(depth + 1, take) if is_taken else self._value(kind, depth)
                at = self.at
        self.at = at + 1
        return fields

    def _value(self, kind: int, depth: int) -> Value:
        if kind in _NUMBERS:
            return _signed(self._number())
        if kind in _WIDE or kind == _BINARY:
            self._skip(_WIDE.get(kind) or self._number())
            return None
        if depth > _DEPTH:
            raise ValueError("a header of too many levels")
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind != _LIST:
            raise ValueError(f"a header with a field of kind {kind}")
        return self._list(depth + 1)

    def _list(self, depth: int, take: Callable[[Value], None] | None = None) -> Value:
        head = self.data[self.at]
        self.at += 1
        count, inner = head >> 4, head & 15
        if count == 15:
            count = self._number()
        if inner in _TRUTHS:
            self._skip(count)
            return None
        if take is None:
            return [self._value(inner, depth) for _ in range(count)]
        for _ in range(count):
            take(self._value(inner, depth))
        return []


def _signed(value: int) -> int:
    return value >> 1 ^ -(value & 1)


def _field(struct: Value, number: int) -> Value:
    """A field of a struct; None where it lacks it, or is no struct."""
    return struct.get(number) if isinstance(struct, dict) else None


def _number(struct: Value, field: int, name: str) -> int:
    value = _field(struct, field)
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"a header without a {name}")
    return value


def _header(fd: int, at: int, end: int) -> tuple[Fields, int]:
    """Fields of the page header at a place, and where the page's data begins."""
    size = _HEADER
    while True:
        size = min(size, end - at)
        reader = _Thrift(os.pread(fd, size, at))
        try:
            return reader.struct(), at + reader.at
        except IndexError:
            if size == end - at or size >= _MAX_HEADER:
                raise ValueError("a page header that does not end") from None
            size *= 8


class Column(NamedTuple):
    """Where a column of a row group lies, and what it holds, by the footer."""

    values: int
    stored: int
    data: int
    dictionary: int | None
    codec: int


class Group(NamedTuple):
    """A row group."""

    rows: int
    columns: list[Column]


def read_groups(fd: int, size: int, num_columns: int) -> list[Group]:
    """The row groups of a parquet file of ``size`` bytes, by its footer. ValueError: it makes no sense."""
    length = footer_bytes(fd, size)
    groups: list[Group] = []
    try:
        footer = _Thrift(os.pread(fd, length, size - _TAIL - length))
        is_listed = footer.struct(taken=4, take=lambda described: groups.append(_group(described))).get(4) == []
    except IndexError:
        is_listed = False
    if not is_listed:
        raise ValueError("a footer that describes no columns")
    if any(len(group.columns) != num_columns for group in groups):
        raise ValueError("a row group that lacks columns")
    return groups


def footer_bytes(fd: int, size: int) -> int:
    """The length of a footer, by the end of the file. ValueError: it is larger than is read."""
    length = int.from_bytes(os.pread(fd, 4, max(0, size - _TAIL)), "little")
    if length > MAX_FOOTER_BYTES and length < size:
        raise ValueError(f"a footer of {length:,} bytes is more than dcfast reads ({MAX_FOOTER_BYTES:,})")
    return length


def _group(described: Value) -> Group:
    columns = _field(described, 1)
    if not isinstance(columns, list):
        raise ValueError("a footer that describes no columns")
    return Group(_number(described, 3, "number of rows"), [*map(_column, columns)])


def _column(described: Value) -> Column:
    held = _field(described, 3)
    return Column(
        _number(held, 5, "number of values"),
        _number(held, 7, "size"),
        _number(held, 9, "place"),
        None if _field(held, 11) is None else _number(held, 11, "place of its dictionary"),
        _number(held, 4, "codec"),
    )


def _longest(fd: int, at: int, stored: int, size: int, codec: int) -> int:
    """Bytes of the longest value of a dictionary of byte arrays; where that is expensive to tell, of all."""
    import numpy as np
    import pyarrow as pa

    if size > max(_WALKED_DICTIONARY, MAX_RATIO * stored) or not (codec == 0 or codec in _CODECS):
        return size
    try:
        page = os.pread(fd, stored, at)
        data = page if codec == 0 else pa.Codec(_CODECS[codec]).decompress(page, size).to_pybytes()
    except (pa.ArrowException, ValueError, OSError):  # damage that Arrow will name
        return size
    # of one length, as uids are: no walk
    stride = 4 + int.from_bytes(data[:4], "little")
    if len(data) % stride == 0:
        lengths = np.ndarray((len(data) // stride,), "<u4", data, strides=(stride,))
        if (lengths == stride - 4).all():
            return stride - 4
    longest = place = 0
    last, length_at = len(data) - 4, struct.Struct("<I").unpack_from
    while place <= last:
        (length,) = length_at(data, place)
        if length > longest:
            longest = length
        place += 4 + length
    return longest


def _pages(fd: int, column: Column, leaf: pq.ColumnSchema, batch: int) -> list[Page]:
    """The data pages of a column chunk. ValueError: more than are read, or headers that make no sense."""
    begin = min(column.data, column.dictionary or column.data)
    file_end = os.fstat(fd).st_size
    end = min(begin + column.stored + _PADDING, file_end)
    width = leaf.length if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS.get(leaf.physical_type, 0)
    pages: list[Page] = []
    at, seen, longest = begin, 0, 0
    while at < end and seen < column.values:
        fields, at = _header(fd, at, file_end)
        kind, size, stored = (_number(fields, field, "size") for field in (1, 2, 3))
        if size > max(MAX_PAGE_BYTES, MAX_RATIO * min(stored, file_end - at)):
            raise ValueError(f"a page of {size:,} bytes from {stored:,} is more than dcfast reads ({MAX_PAGE_BYTES:,})")
        if kind == _DICTIONARY:
            is_large = not width and batch * size > MAX_BATCH_BYTES
            longest = _longest(fd, at, stored, size, column.codec) if is_large else width or size
        elif kind in (_DATA, _DATA_V2):
            inner = _field(fields, 8 if kind == _DATA_V2 else 5)
            values = _number(inner, 1, "number of values")
            encoding = _number(inner, 4 if kind == _DATA_V2 else 2, "encoding")
            seen += values
            plain = not width and encoding not in (*_DICTIONARY_ENCODINGS, _PREFIXES)
            largest = (width or (longest if encoding in _DICTIONARY_ENCODINGS else size)) + _OVERHEAD
            pages.append(Page(values, largest, size + values * _OVERHEAD if plain else values * largest, plain))
        at += stored
    return pages


def batch_rows(fd: int, leaves: Mapping[int, pq.ColumnSchema], groups: Sequence[Group], rows: int) -> int:
    """How many rows of some row groups may be decoded at a time: ``rows``, or fewer where they may be large.

    Args:
        fd: of the file.   leaves: of its columns those that are read, by their numbers.
    Raises:
        ValueError: a page or the lists of a group are larger than is read, or a header makes no sense.
    """
    flat: dict[int, list[Page]] = {}
    for group in groups:
        for number, leaf in leaves.items():
            column = group.columns[number]
            pages = _pages(fd, column, leaf, rows)
            if leaf.max_repetition_level == 0:
                flat.setdefault(number, []).extend(pages)
                continue
            # where rows begin the headers do not tell: all of the lists may be in one
            total, stored = sum(page.total for page in pages), min(column.stored, os.fstat(fd).st_size)
            if total > max(MAX_LIST_BYTES, MAX_RATIO * stored):
                raise ValueError(
                    f"column {leaf.path} has lists of {total:,} bytes in a row group, from {stored:,}, "
                    f"which is more than dcfast reads ({MAX_LIST_BYTES:,})"
                )
            if total > MAX_BATCH_BYTES:
                rows = max(1, min(rows, group.rows * MAX_BATCH_BYTES // total))
    # a page is held whole: fewer rows than it has save nothing
    floor = max(MAX_BATCH_BYTES, 2 * sum(_cost(pages, 1, plain=True) for pages in flat.values()))
    while rows > 1 and (
        sum(_cost(pages, rows, plain=False) for pages in flat.values()) > MAX_BATCH_BYTES
        or sum(_cost(pages, rows, plain=True) for pages in flat.values()) > floor
    ):
        rows //= 2
    return rows
