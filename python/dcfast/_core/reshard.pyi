"""
Shards of selected samples, and the keyed permutation.
"""

from __future__ import annotations

import collections.abc
import typing

import dcfast._core.index
import dcfast.resharding.records
import numpy
import numpy.typing

__all__: list[str] = [
    "PlannedShards",
    "ReshardPlan",
    "UidFile",
    "permuted",
    "plan_reshard",
    "repeated_uids",
    "tar_member_header",
    "write_shard",
]

class UidFile:
    def __init__(self, path: bytes | str, check: bool) -> None: ...
    def __len__(self) -> int: ...
    def view(self) -> memoryview: ...

class ReshardPlan:
    @property
    def chosen_shards(self) -> int: ...
    @property
    def counts(self) -> dcfast.resharding.records.ReshardReport: ...
    @property
    def cuts(self) -> bytes: ...
    @property
    def damage(self) -> list[tuple[bytes, int, bool, str]]: ...
    @property
    def inputs(self) -> tuple[int, int]: ...
    @property
    def numbers(self) -> tuple[int, int]: ...
    @property
    def repeats(self) -> bytes: ...
    @property
    def segment_first(self) -> list[int]: ...

class PlannedShards:
    def __init__(
        self,
        segments: collections.abc.Sequence[bytes | dcfast._core.index.TarSegment],
        subset: bytes | UidFile | numpy.typing.NDArray[numpy.void] | None,
        *,
        cuts: bytes | UidFile | numpy.typing.NDArray[numpy.void] | None,
        repeats: bytes | UidFile | numpy.typing.NDArray[numpy.void] | None,
        exclude: bytes | UidFile | numpy.typing.NDArray[numpy.uint64] | None,
        rows: bytes | UidFile | numpy.typing.NDArray[numpy.uint64] | None,
        shuffle_seed: typing.SupportsIndex | None,
        segment_first: collections.abc.Sequence[typing.SupportsIndex],
        shards_dir: bytes | str,
        first_shard: typing.SupportsIndex,
        num_shards: typing.SupportsIndex | None,
        keep: typing.SupportsIndex,
        rows_at_once: typing.SupportsIndex,
    ) -> None: ...
    def contents(
        self, k: typing.SupportsIndex, *, check: bool = False
    ) -> tuple[
        numpy.typing.NDArray[numpy.void],
        numpy.typing.NDArray[numpy.uint64],
        numpy.typing.NDArray[numpy.uint32],
        list[str],
        numpy.typing.NDArray[numpy.uint64],
        numpy.typing.NDArray[numpy.int64],
        numpy.typing.NDArray[numpy.uint32],
        numpy.typing.NDArray[numpy.uint64],
        numpy.typing.NDArray[numpy.uint64],
        numpy.typing.NDArray[numpy.uint8],
        numpy.typing.NDArray[numpy.uint64],
    ]: ...
    def row_ids(self, k: typing.SupportsIndex) -> numpy.typing.NDArray[numpy.uint64]: ...
    def write(
        self, k: typing.SupportsIndex, out_path: bytes | str, *, threads: typing.SupportsIndex, check_mtime: bool
    ) -> tuple[int, int, int, int]: ...

def permuted(
    n: typing.SupportsIndex,
    seed: typing.SupportsIndex,
    first: typing.SupportsIndex,
    count: typing.SupportsIndex,
    stride: typing.SupportsIndex = 1,
) -> numpy.typing.NDArray[numpy.uint64]: ...
def plan_reshard(
    segments: collections.abc.Sequence[bytes | dcfast._core.index.TarSegment],
    subset: bytes | UidFile | numpy.typing.NDArray[numpy.void] | None,
    *,
    shard_size: typing.SupportsIndex,
    max_bytes: typing.SupportsIndex,
    first_shard: typing.SupportsIndex,
    num_shards: typing.SupportsIndex | None,
    exclude: bytes | UidFile | numpy.typing.NDArray[numpy.uint64] | None,
    repeated: bytes | UidFile | numpy.typing.NDArray[numpy.void] | None,
    shuffled: collections.abc.Callable[[memoryview], int] | None,
    rows_at_once: typing.SupportsIndex,
    threads: typing.SupportsIndex = 0,
) -> ReshardPlan: ...
def repeated_uids(
    records: bytes | UidFile | numpy.typing.NDArray[numpy.void] | None,
) -> numpy.typing.NDArray[numpy.void]: ...
def tar_member_header(name: bytes | str, size: typing.SupportsIndex) -> bytes: ...
def write_shard(
    out_path: bytes | str,
    sources: collections.abc.Sequence[bytes | str],
    source_size: numpy.typing.NDArray[numpy.uint64],
    source_mtime_ns: numpy.typing.NDArray[numpy.int64],
    source: numpy.typing.NDArray[numpy.uint32],
    offset: numpy.typing.NDArray[numpy.uint64],
    size: numpy.typing.NDArray[numpy.uint64],
    names: numpy.typing.NDArray[numpy.uint8],
    name_begin: numpy.typing.NDArray[numpy.uint64],
    *,
    window_bytes: typing.SupportsIndex = 524288,
    max_open_sources: typing.SupportsIndex = 64,
    threads: typing.SupportsIndex = 1,
) -> int: ...
