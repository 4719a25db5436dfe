"""
Sorted arrays of uids and of uid records.
"""

from __future__ import annotations

import collections.abc
import typing

import dcfast._core.reshard
import numpy
import numpy.typing

__all__: list[str] = [
    "record_first_unsorted",
    "record_lookup",
    "record_sort",
    "uid_difference",
    "uid_first_unsorted",
    "uid_format",
    "uid_intersect",
    "uid_isin",
    "uid_lookup",
    "uid_merge_runs",
    "uid_parse_column",
    "uid_parse_fixed",
    "uid_parse_list",
    "uid_sort",
    "uid_union",
]

def record_first_unsorted(values: numpy.typing.NDArray[numpy.void], threads: typing.SupportsIndex) -> int:
    """
    The first index below its predecessor, or the length.
    """

def record_lookup(
    hay: numpy.typing.NDArray[numpy.void], queries: numpy.typing.NDArray[numpy.void], threads: typing.SupportsIndex
) -> tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.int64]]:
    """
    (first, count) of each query.
    """

def record_sort(
    records: numpy.typing.NDArray[numpy.void], threads: typing.SupportsIndex
) -> numpy.typing.NDArray[numpy.void]:
    """
    A sorted copy.
    """

def uid_difference(
    a: numpy.typing.NDArray[numpy.void], b: numpy.typing.NDArray[numpy.void], threads: typing.SupportsIndex
) -> numpy.typing.NDArray[numpy.void]:
    """
    Sorted distinct uids of a that are not in b.
    """

def uid_first_unsorted(values: numpy.typing.NDArray[numpy.void], threads: typing.SupportsIndex) -> int:
    """
    The first index below its predecessor, or the length.
    """

def uid_format(
    uids: numpy.typing.NDArray[numpy.void], threads: typing.SupportsIndex
) -> numpy.typing.NDArray[numpy.uint8]:
    """
    32 bytes of lower-case hex a uid.
    """

def uid_intersect(
    a: numpy.typing.NDArray[numpy.void], b: numpy.typing.NDArray[numpy.void], threads: typing.SupportsIndex
) -> numpy.typing.NDArray[numpy.void]:
    """
    Sorted distinct uids in both.
    """

def uid_isin(
    hay: numpy.typing.NDArray[numpy.void], queries: numpy.typing.NDArray[numpy.void], threads: typing.SupportsIndex
) -> numpy.typing.NDArray[numpy.bool_]:
    """
    Membership in a sorted array.
    """

def uid_lookup(
    hay: numpy.typing.NDArray[numpy.void], queries: numpy.typing.NDArray[numpy.void], threads: typing.SupportsIndex
) -> tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.int64]]:
    """
    (first, count) of each query.
    """

def uid_merge_runs(
    run_paths: collections.abc.Sequence[bytes],
    out_path: bytes,
    unique: bool,
    memory_bytes: typing.SupportsIndex,
    max_open_files: typing.SupportsIndex,
) -> tuple[int, int, int]:
    """
    Merges sorted .npy runs: (rows read, rows written, passes).
    """

def uid_parse_column(
    form: str,
    texts: collections.abc.Sequence[
        tuple[
            typing.SupportsIndex,
            typing.SupportsIndex,
            collections.abc.Sequence[bytes | dcfast._core.reshard.UidFile | numpy.typing.NDArray[numpy.uint8] | None],
        ]
    ],
    rows: collections.abc.Sequence[
        tuple[
            typing.SupportsIndex,
            typing.SupportsIndex,
            collections.abc.Sequence[bytes | dcfast._core.reshard.UidFile | numpy.typing.NDArray[numpy.uint8] | None],
        ]
    ],
    row_bytes: typing.SupportsIndex,
    signed_rows: bool,
    threads: typing.SupportsIndex,
) -> tuple[numpy.typing.NDArray[numpy.void], numpy.typing.NDArray[numpy.bool_], int]:
    """
    Uids of the pieces of a column, (size, offset, buffers) each, or of dictionary rows: (uids, valid, number valid).
    """

def uid_parse_fixed(
    text: numpy.typing.NDArray[numpy.uint8],
    width: typing.SupportsIndex,
    count: typing.SupportsIndex,
    threads: typing.SupportsIndex,
) -> tuple[numpy.typing.NDArray[numpy.void], numpy.typing.NDArray[numpy.bool_], int]:
    """
    Uids from texts of one width: (uids, valid, number valid).
    """

def uid_parse_list(
    texts: list[str | bytes | None], threads: typing.SupportsIndex
) -> tuple[numpy.typing.NDArray[numpy.void], numpy.typing.NDArray[numpy.bool_], int]:
    """
    Uids from a list of str, bytes, UUID or None: (uids, valid, number valid).
    """

def uid_sort(
    uids: numpy.typing.NDArray[numpy.void], unique: bool, threads: typing.SupportsIndex
) -> numpy.typing.NDArray[numpy.void]:
    """
    A sorted copy.
    """

def uid_union(
    a: numpy.typing.NDArray[numpy.void], b: numpy.typing.NDArray[numpy.void], threads: typing.SupportsIndex
) -> numpy.typing.NDArray[numpy.void]:
    """
    Sorted distinct uids of both.
    """
