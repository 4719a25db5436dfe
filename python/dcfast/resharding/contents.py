"""What one output shard is to hold, or holds, in NumPy columns: for those that change or check it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dcfast.errors import CorruptDataError
from dcfast.index.build import index_tars
from dcfast.interop.wds2idx import index_text

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class ShardContents:
    """What one output shard holds: its samples and, in the order they are written, its m members; as the core makes it.

    Attributes:
        uid, copy: (s,) "u8,u8" and u64; the keys are ``UID-COPY``.
        member_sample: (m,) u32 sample of each member.
        sources, source_size, source_mtime_ns: the input shards; source: (m,) u32 index into them.
        offset, size: (m,) u64 payload in the source.
        names, name_begin: member names one after the other (u8), and (m + 1,) u64 where each begins.
    """

    uid: NDArray[np.void]
    copy: NDArray[np.uint64]
    member_sample: NDArray[np.uint32]
    sources: list[str]
    source_size: NDArray[np.uint64]
    source_mtime_ns: NDArray[np.int64]
    source: NDArray[np.uint32]
    offset: NDArray[np.uint64]
    size: NDArray[np.uint64]
    names: NDArray[np.uint8]
    name_begin: NDArray[np.uint64]

    def name(self, member: int) -> str:
        return bytes(self.names[int(self.name_begin[member]) : int(self.name_begin[member + 1])]).decode(
            "utf-8", "surrogateescape"
        )

    def member_names(self) -> list[bytes]:
        """The names of all members, in order."""
        text, begin = self.names.tobytes(), self.name_begin.tolist()
        return [text[begin[i] : begin[i + 1]] for i in range(len(self.size))]

    def idx_text(self) -> bytes:
        """The index file for DALI (``dcfast.interop.wds2idx``). Raises ValueError: a name with white space."""
        return index_text(self.member_names(), self.size, self.member_sample, len(self.uid))


def list_members(
    path: str | os.PathLike[str],
) -> tuple[pa.LargeBinaryArray, NDArray[np.uint64], NDArray[np.uint64]]:
    """Names, payload offsets and sizes of the members of a tar; all must be regular files.

    Raises CorruptDataError where the tar is damaged or holds anything else.
    """
    import pyarrow as pa

    index = index_tars([path], threads=1)
    for loss in index.segment.losses:
        if loss.archive:
            raise CorruptDataError(loss.message, path=os.fspath(path), offset=loss.offset)
    if len(others := index.others()):
        name = others.column("name")[0].as_py()
        raise CorruptDataError(f"member {name!r} belongs to no sample", path=os.fspath(path))
    table = index.members()
    names = table.column("name").cast(pa.large_binary()).combine_chunks()
    return names, table.column("offset").to_numpy(), table.column("size").to_numpy()
