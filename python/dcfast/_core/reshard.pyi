"""
Shards of selected samples, and the keyed permutation.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing

__all__: list[str] = ["PoolReshard", "permuted", "sample_member_names", "tar_member_header", "write_shard"]

class PoolReshard:
    def __init__(
        self,
        shards: collections.abc.Sequence[bytes | str],
        subset: bytes | str,
        *,
        shard_size: typing.SupportsIndex,
        max_bytes: typing.SupportsIndex,
        threads: typing.SupportsIndex,
    ) -> None: ...
    def samples(self, k: typing.SupportsIndex) -> int: ...
    def write(
        self, k: typing.SupportsIndex, out_path: bytes | str, *, threads: typing.SupportsIndex, check_mtime: bool
    ) -> int: ...
    @property
    def counts(self) -> dict[str, int]: ...
    @property
    def damage(self) -> list[tuple[int, int, str]]: ...

def permuted(
    n: typing.SupportsIndex,
    seed: typing.SupportsIndex,
    first: typing.SupportsIndex,
    count: typing.SupportsIndex,
    stride: typing.SupportsIndex = 1,
) -> numpy.typing.NDArray[numpy.uint64]: ...
def sample_member_names(
    uid: numpy.typing.NDArray[numpy.void],
    copy: numpy.typing.NDArray[numpy.uint64],
    member_sample: numpy.typing.NDArray[numpy.uint32],
    member_ext: numpy.typing.NDArray[numpy.uint16],
    exts: collections.abc.Sequence[bytes | str],
) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.uint64]]: ...
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
    hash_payloads: bool = False,
    window_bytes: typing.SupportsIndex = 524288,
    max_open_sources: typing.SupportsIndex = 64,
    threads: typing.SupportsIndex = 1,
) -> tuple[int, numpy.typing.NDArray[numpy.void]]: ...
