"""
Hamming distances of perceptual hashes.
"""

from __future__ import annotations

import typing

import numpy
import numpy.typing

__all__: list[str] = [
    "CentroidSums",
    "PackedDatabase",
    "SearchTask",
    "any_above",
    "bad_row",
    "clip_of_dots",
    "exp_sums",
    "group_join",
    "hamming_join",
    "hamming_self_join",
    "join",
    "select_kernels",
    "siglip_of_dots",
    "siglip_of_dots32",
    "topk",
]

class CentroidSums:
    def __init__(self, clusters: typing.SupportsIndex, width: typing.SupportsIndex) -> None: ...
    def add(
        self,
        points: numpy.typing.NDArray[numpy.float32],
        labels: numpy.typing.NDArray[numpy.int64],
        threads: typing.SupportsIndex,
    ) -> bool: ...
    def take(self) -> tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.int64]]: ...

class PackedDatabase:
    def __init__(self, rows: numpy.typing.NDArray[numpy.generic], kind: str, threads: typing.SupportsIndex) -> None: ...
    def bad_row(self, zeros: bool) -> tuple[int, bool] | None: ...
    @property
    def bytes(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def is_coarse(self) -> bool: ...

class SearchTask:
    def __init__(
        self,
        metric: str,
        magnitudes: bool,
        exclude_self: bool,
        query_base: typing.SupportsIndex,
        database_base: typing.SupportsIndex,
        threads: typing.SupportsIndex,
    ) -> None: ...

def any_above(
    database: PackedDatabase,
    queries: numpy.typing.NDArray[numpy.generic],
    kind: str,
    task: SearchTask,
    threshold: typing.SupportsFloat | typing.SupportsIndex,
    out: numpy.typing.NDArray[numpy.uint8],
) -> None: ...
def bad_row(
    rows: numpy.typing.NDArray[numpy.generic], kind: str, zeros: bool, threads: typing.SupportsIndex
) -> tuple[int, bool] | None: ...
def clip_of_dots(
    dots: numpy.typing.NDArray[numpy.float64],
    rows: typing.SupportsIndex,
    scale: typing.SupportsFloat | typing.SupportsIndex,
    gradient: bool,
) -> tuple[float, float, float, numpy.typing.NDArray[numpy.float64]] | None: ...
def exp_sums(
    x: numpy.typing.NDArray[numpy.float32],
    y: numpy.typing.NDArray[numpy.float32],
    rows: typing.SupportsIndex,
    scale: typing.SupportsFloat | typing.SupportsIndex,
    threads: typing.SupportsIndex,
) -> tuple[
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.float64],
    float,
    float,
]: ...
def group_join(
    rows: numpy.typing.NDArray[numpy.generic],
    kind: str,
    offsets: numpy.typing.NDArray[numpy.uint64],
    metric: str,
    threshold: typing.SupportsFloat | typing.SupportsIndex,
    max_pairs: typing.SupportsIndex,
    threads: typing.SupportsIndex,
) -> tuple[
    numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.float32], int, bool
]: ...
def hamming_join(
    a: numpy.typing.NDArray[numpy.uint64],
    b: numpy.typing.NDArray[numpy.uint64],
    words: typing.SupportsIndex,
    max_distance: typing.SupportsIndex,
    max_pairs: typing.SupportsIndex,
    threads: typing.SupportsIndex,
) -> (
    tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.uint16]]
    | None
): ...
def hamming_self_join(
    a: numpy.typing.NDArray[numpy.uint64],
    words: typing.SupportsIndex,
    max_distance: typing.SupportsIndex,
    max_pairs: typing.SupportsIndex,
    threads: typing.SupportsIndex,
) -> (
    tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.uint16]]
    | None
): ...
def join(
    database: PackedDatabase,
    queries: numpy.typing.NDArray[numpy.generic],
    kind: str,
    task: SearchTask,
    threshold: typing.SupportsFloat | typing.SupportsIndex,
    upper: bool,
    max_pairs: typing.SupportsIndex,
) -> tuple[
    numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.float32], int, bool
]: ...
def select_kernels() -> str: ...
def siglip_of_dots(
    dots: numpy.typing.NDArray[numpy.float64],
    rows: typing.SupportsIndex,
    scale: typing.SupportsFloat | typing.SupportsIndex,
    bias: typing.SupportsFloat | typing.SupportsIndex,
    gradient: bool,
) -> tuple[float, float, float, numpy.typing.NDArray[numpy.float64]] | None: ...
def siglip_of_dots32(
    dots: numpy.typing.NDArray[numpy.float32],
    rows: typing.SupportsIndex,
    scale: typing.SupportsFloat | typing.SupportsIndex,
    bias: typing.SupportsFloat | typing.SupportsIndex,
    gradient: bool,
) -> tuple[float, float, float, numpy.typing.NDArray[numpy.float32]] | None: ...
def topk(
    database: PackedDatabase,
    queries: numpy.typing.NDArray[numpy.generic],
    kind: str,
    task: SearchTask,
    k: typing.SupportsIndex,
    scores: numpy.typing.NDArray[numpy.float32],
    indices: numpy.typing.NDArray[numpy.int64],
) -> None: ...
