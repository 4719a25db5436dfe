"""
Index segments of tars.
"""

from __future__ import annotations

import collections.abc
import typing

import dcfast.storage.remote
import numpy
import numpy.typing

__all__: list[str] = ["SegmentStats", "TarSegment", "image_exts", "write_segment"]

class SegmentStats:
    """
    What write_segment did.
    """

    @property
    def flag_counts(self) -> list[int]:
        """
        Samples with bit i of their flags.
        """

    @property
    def num_members(self) -> int: ...
    @property
    def num_samples(self) -> int: ...
    @property
    def num_shards(self) -> int: ...
    @property
    def num_strays(self) -> int: ...
    @property
    def reports(self) -> list[tuple[int, int, bool, str]]:
        """
        (shard, offset, whether it is damage, message) of each.
        """

    @property
    def tar_bytes(self) -> int: ...

class TarSegment:
    """
    A mapped segment; its columns are read-only views of the map.
    """

    def __init__(self, path: bytes | str, verify: bool) -> None: ...
    def exts(self) -> list[bytes]: ...
    def image_members(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        Index of each sample's image among the members, or -1.
        """

    def keys(
        self, first: typing.SupportsIndex, last: typing.SupportsIndex
    ) -> tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.uint8]]:
        """
        (begin, text) of the samples' keys.
        """

    def losses(self) -> list[tuple[int, int, bool, str]]:
        """
        (shard, offset, whether a part of the archive was not read, message) of each report that may hide samples.
        """

    def member_table(
        self, first_shard: typing.SupportsIndex, last_shard: typing.SupportsIndex
    ) -> tuple[
        numpy.typing.NDArray[numpy.int64],
        numpy.typing.NDArray[numpy.int64],
        numpy.typing.NDArray[numpy.uint8],
        numpy.typing.NDArray[numpy.uint64],
        numpy.typing.NDArray[numpy.uint64],
    ]:
        """
        (shard, begin of name, names, offset, size) of the regular members.
        """

    def reports(self) -> list[tuple[int, int, bool, str]]:
        """
        (shard, offset, whether it is damage, message) of each.
        """

    def shard_names(self) -> list[bytes]: ...
    def stray_names(self) -> tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.uint8]]:
        """
        (begin, text) of the strays' names.
        """

    def uid_hex(self) -> numpy.typing.NDArray[numpy.uint8]:
        """
        32 hexadecimal digits a sample, end to end.
        """

    def unpack(
        self, first: typing.SupportsIndex, last: typing.SupportsIndex
    ) -> tuple[
        numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[numpy.uint32]
    ]:
        """
        (offset, size, extension) of the samples' members.
        """

    def wds2idx(self, shard: typing.SupportsIndex) -> bytes:
        """
        DALI's index of a shard.
        """

    @property
    def base(self) -> numpy.typing.NDArray[numpy.uint64]: ...
    @property
    def flags(self) -> numpy.typing.NDArray[numpy.uint16]: ...
    @property
    def height(self) -> numpy.typing.NDArray[numpy.uint32]: ...
    @property
    def member_begin(self) -> numpy.typing.NDArray[numpy.uint32]: ...
    @property
    def num_exts(self) -> int: ...
    @property
    def num_members(self) -> int: ...
    @property
    def num_samples(self) -> int: ...
    @property
    def num_shards(self) -> int: ...
    @property
    def num_strays(self) -> int: ...
    @property
    def sample_begin(self) -> numpy.typing.NDArray[numpy.uint64]: ...
    @property
    def shard_mtime_ns(self) -> numpy.typing.NDArray[numpy.int64]: ...
    @property
    def shard_size(self) -> numpy.typing.NDArray[numpy.uint64]: ...
    @property
    def stray_begin(self) -> numpy.typing.NDArray[numpy.uint64]: ...
    @property
    def stray_kind(self) -> numpy.typing.NDArray[numpy.uint8]: ...
    @property
    def stray_offset(self) -> numpy.typing.NDArray[numpy.uint64]: ...
    @property
    def stray_size(self) -> numpy.typing.NDArray[numpy.uint64]: ...
    @property
    def uid(self) -> numpy.typing.NDArray[numpy.void]: ...
    @property
    def width(self) -> numpy.typing.NDArray[numpy.uint32]: ...

def image_exts() -> list[str]:
    """
    The last dotted parts, in lower case, of the extensions that images have.
    """

def write_segment(
    shards: collections.abc.Sequence[
        tuple[bytes | tuple[TarSegment, int] | dcfast.storage.remote.RangeSource, bytes | str]
    ],
    out_path: bytes | str,
    read_uid: bool,
    read_image_size: bool,
    threads: typing.SupportsIndex,
    window_bytes: typing.SupportsIndex,
    uid_from: str = "json",
) -> SegmentStats:
    """
    Indexes (source, name) of each shard. A source is a path, a shard of another segment, or ranges.
    """
