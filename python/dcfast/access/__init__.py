"""Random access: members of any samples of an indexed pool, in any order, without resharding.

``read_members`` reads some; ``PoolReader`` is a pool opened for many reads; ``iterate_uids`` and its kin read a
uid list or subset file in any order, ahead of the caller. ``dcfast.access.datasets`` has them as datasets of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, overload

import numpy.typing as npt

from dcfast.access.batch import MemberBatch, PathLike
from dcfast.access.iterate import Sample, iterate_rows, iterate_uids
from dcfast.access.pools import open_pool
from dcfast.access.reader import (
    OLD_MISSING,
    REMOTE_TWICE,
    Extensions,
    Many,
    MemberDict,
    MissingMembers,
    Numbering,
    PoolReader,
)
from dcfast.index.build import TarIndex
from dcfast.index.segments import Segment
from dcfast.process.renamed import takes_old_names
from dcfast.storage.http import RemoteOptions

__all__ = ["MemberBatch", "PoolReader", "Sample", "iterate_rows", "iterate_uids", "open_pool", "read_members"]


Indexed: TypeAlias = TarIndex | Segment | Sequence[Segment] | PoolReader


@overload
def read_members(  # type: ignore[overload-overlap]  # a str is a sequence, too
    index: Indexed, rows: npt.ArrayLike, ext: str, *, shards_dir: PathLike | None = None,
    remote: RemoteOptions | None = None,
    numbering: Numbering = "row_id", missing_members: Literal["raise"] = "raise",
    memory_bytes: int = 1 << 30, threads: int | None = None,
) -> MemberBatch[memoryview]: ...  # fmt: skip
@overload
def read_members(  # type: ignore[overload-overlap]  # a str is a sequence, too
    index: Indexed, rows: npt.ArrayLike, ext: str, *, shards_dir: PathLike | None = None,
    remote: RemoteOptions | None = None,
    numbering: Numbering = "row_id", missing_members: MissingMembers,
    memory_bytes: int = 1 << 30, threads: int | None = None,
) -> MemberBatch[memoryview | None]: ...  # fmt: skip
@overload
def read_members(
    index: Indexed, rows: npt.ArrayLike, ext: Many = None, *, shards_dir: PathLike | None = None,
    remote: RemoteOptions | None = None,
    numbering: Numbering = "row_id", missing_members: MissingMembers = "raise",
    memory_bytes: int = 1 << 30, threads: int | None = None,
) -> MemberBatch[MemberDict]: ...  # fmt: skip
@takes_old_names(OLD_MISSING)
def read_members(
    index: Indexed,
    rows: npt.ArrayLike,
    ext: Extensions = None,
    *,
    shards_dir: PathLike | None = None,
    remote: RemoteOptions | None = None,
    numbering: Numbering = "row_id",
    missing_members: MissingMembers = "raise",
    memory_bytes: int = 1 << 30,
    threads: int | None = None,
) -> MemberBatch[Any]:
    """Reads members of samples, in the order asked, into one buffer.

    Args:
        index: what ``index_tars`` returned, one or more segments, or a PoolReader (which keeps shards open).
        rows: (n,) integers in any order, repeats allowed: row ids (shard ordinal << 32 | row in the shard), or with
            ``numbering="sample"`` samples counted from 0 over the whole index.
        ext: one extension ('jpg'), a sequence of them, or None for all members; ASCII letters of any case.
        shards_dir: directory, or fsspec URL of one, that the segments' shard names are relative to; None where they
            open as they are.
        remote: how URLs are read: credentials, headers, retries, limits of time; None beside a PoolReader, which has
            its own.
        missing_members: 'raise', or 'none': a sample without an asked member has None for it.
        memory_bytes: refuse to read more than this (a single member is always read).
        threads: neighbouring members read at the same time; None means one per core. Of URLs as many as remote says.
    Returns:
        MemberBatch: memoryviews into the buffer, made without copies.
    Raises:
        IndexError: no such row.   PoolError: a member is missing.   CorruptDataError: a shard is not the indexed one,
        ends early, or lies outside of the pool; with path and offset.   OSError: reading failed.
        ValueError: more than memory_bytes; remote beside a PoolReader.
    Memory: the members asked for, and 100 bytes for each.   Cost: one system call for each stretch of neighbouring
    members (gaps up to 8 KiB are read over).   GIL: released.
    Example: ``read_members(index_tars("pool"), [4, 0], "jpg", numbering="sample")[1]``
    """
    if not isinstance(index, PoolReader):
        if isinstance(index, TarIndex):
            index = index.segment
        index = PoolReader(shards_dir, [index] if isinstance(index, Segment) else index, verify=False, remote=remote)
    elif remote is not None:
        raise ValueError(REMOTE_TWICE)
    members = index.locate(rows, ext, numbering=numbering, missing_members=missing_members)
    index.check_size(members, memory_bytes)
    return index.read_located(members, single=isinstance(ext, str), threads=threads)
