"""
Hamming distances of perceptual hashes.
"""

from __future__ import annotations

import typing

import numpy
import numpy.typing

__all__: list[str] = ["exp_sums", "hamming_join", "hamming_nearest"]

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
    max_distance: typing.SupportsIndex,
    max_pairs: typing.SupportsIndex,
    threads: typing.SupportsIndex,
) -> tuple[
    numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[numpy.uint8]
]: ...
def hamming_nearest(
    a: numpy.typing.NDArray[numpy.uint64], b: numpy.typing.NDArray[numpy.uint64], threads: typing.SupportsIndex
) -> tuple[numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[numpy.uint8]]: ...
