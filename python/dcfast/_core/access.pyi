"""
Members of a pool's shards by range.
"""

from __future__ import annotations

import collections.abc
import typing

import dcfast._core.index
import numpy
import numpy.typing

__all__: list[str] = ["MemberReader", "sample_keys", "sample_members"]

class MemberReader:
    def __init__(
        self,
        roots: collections.abc.Sequence[bytes | str],
        names: collections.abc.Sequence[bytes | str],
        root: numpy.typing.NDArray[numpy.uint32],
        size: numpy.typing.NDArray[numpy.uint64],
        mtime_ns: numpy.typing.NDArray[numpy.int64],
        *,
        max_open: typing.SupportsIndex,
        follow_links: bool,
        check_mtime: bool,
    ) -> None: ...
    def close(self) -> None: ...
    def path(self, shard: typing.SupportsIndex) -> bytes: ...
    def read(
        self,
        shard: numpy.typing.NDArray[numpy.uint32],
        offset: numpy.typing.NDArray[numpy.uint64],
        size: numpy.typing.NDArray[numpy.uint64],
        *,
        threads: typing.SupportsIndex = 1,
        max_gap: typing.SupportsIndex = 8192,
    ) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.uint64]]: ...
    @property
    def num_open(self) -> int: ...

def sample_keys(segment: dcfast._core.index.TarSegment, samples: numpy.typing.NDArray[numpy.uint64]) -> list[str]: ...
def sample_members(
    segment: dcfast._core.index.TarSegment,
    samples: numpy.typing.NDArray[numpy.uint64],
    slot_of_ext: numpy.typing.NDArray[numpy.uint32],
    num_slots: typing.SupportsIndex,
) -> tuple[
    numpy.typing.NDArray[numpy.uint32],
    numpy.typing.NDArray[numpy.uint64],
    numpy.typing.NDArray[numpy.uint64],
    numpy.typing.NDArray[numpy.uint32],
]: ...
