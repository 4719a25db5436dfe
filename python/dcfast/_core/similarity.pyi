"""
Hamming distances of perceptual hashes.
"""

from __future__ import annotations

import typing

import numpy
import numpy.typing

__all__: list[str] = ["CentroidSums", "exp_sums", "hamming_join", "hamming_self_join"]

class CentroidSums:
    def __init__(self, clusters: typing.SupportsIndex, width: typing.SupportsIndex) -> None: ...
    def add(
        self,
        points: numpy.typing.NDArray[numpy.float32],
        labels: numpy.typing.NDArray[numpy.int64],
        threads: typing.SupportsIndex,
    ) -> bool: ...
    def take(self) -> tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.int64]]: ...

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
