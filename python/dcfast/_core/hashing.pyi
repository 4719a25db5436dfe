"""
XXH3 of buffers, files and ranges.
"""

from __future__ import annotations

import typing

import numpy
import numpy.typing
import typing_extensions

__all__: list[str] = ["hash_buffer_ranges", "hash_file", "hash_ranges", "xxh3_64", "xxh3_128"]

def hash_buffer_ranges(
    data: typing_extensions.Buffer,
    offsets: numpy.typing.NDArray[numpy.uint64],
    sizes: numpy.typing.NDArray[numpy.uint64],
    threads: typing.SupportsIndex,
) -> numpy.typing.NDArray[numpy.void]:
    """
    XXH3-128 of ranges of a bytes-like object.
    """

def hash_file(path: bytes) -> tuple[int, int]:
    """
    XXH3-128 of a file: (high, low).
    """

def hash_ranges(
    path: bytes,
    offsets: numpy.typing.NDArray[numpy.uint64],
    sizes: numpy.typing.NDArray[numpy.uint64],
    threads: typing.SupportsIndex,
) -> numpy.typing.NDArray[numpy.void]:
    """
    XXH3-128 of ranges of a file.
    """

def xxh3_128(data: typing_extensions.Buffer) -> tuple[int, int]:
    """
    XXH3-128 of a bytes-like object: (high, low).
    """

def xxh3_64(data: typing_extensions.Buffer) -> int:
    """
    XXH3-64 of a bytes-like object.
    """
