"""Iteration over rows or uids of a pool in any order, with batches read ahead in background threads."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar, overload

import numpy as np
import numpy.typing as npt

from dcfast._core import reshard as core_reshard
from dcfast.access.batch import MemberBatch, PathLike
from dcfast.access.reader import OLD_MISSING, MemberDict
from dcfast.index.pool_index import MissingUids, check_missing
from dcfast.process.read_ahead import read_ahead as run_ahead
from dcfast.process.renamed import Renamed, takes_old_names
from dcfast.storage.pickled import reduced
from dcfast.uids.sets import load_subset, uid_format

if TYPE_CHECKING:
    from dcfast.access.reader import Extensions, Many, MissingMembers, PoolReader


# uids or rows looked up together
ROWS_AT_ONCE = 4096
# larger batches would not be read faster, and wait longer for their first sample
MAX_BATCH_BYTES = 8 << 20

OLD_EXT = Renamed("exts", "ext")
Order = Literal["given", "shuffled"]
RowIds = npt.NDArray[np.uint64]


B = TypeVar("B", bound=bytes | memoryview)


class Sample(NamedTuple, Generic[B]):
    """One sample: its key in its shard, its uid as text, and its members by extension, as memoryviews or bytes.

    A pickle, or a deep copy, has the members' bytes, and nothing of the batch that they were read in.
    Example: ``key, uid, members = next(iter(iterate_uids(reader, uids)))``
    """

    key: str
    uid: str
    members: dict[str, B]

    def __reduce__(self) -> tuple[Callable[..., Sample[Any]], tuple[Any, ...]]:
        views = any(isinstance(data, memoryview) for data in self.members.values())
        members = {ext: bytes(data) for ext, data in self.members.items()}
        return reduced("Sample", _sample_of, self.key, self.uid, members, views)


def _sample_of(key: str, uid: str, members: dict[str, bytes], views: bool) -> Sample[Any]:
    return Sample(key, uid, {ext: memoryview(data) if views else data for ext, data in members.items()})


@takes_old_names(OLD_MISSING, OLD_EXT, Renamed("missing_uids", "missing", {"error": "raise", "skip": "skip"}))
def iterate_uids(
    pool: PoolReader,
    uids: npt.NDArray[np.void] | PathLike,
    ext: Extensions = None,
    *,
    order: Order = "given",
    seed: int = 0,
    part: tuple[int, int] = (0, 1),
    missing: MissingUids = "skip",
    missing_members: MissingMembers = "raise",
    read_ahead: int = 4,
    memory_bytes: int = 256 << 20,
) -> Generator[Sample[memoryview], None, None]:
    """Yields the samples of a uid list or subset file, in its order or shuffled, read ahead in the background.

    This trains from a uid list without resharding: the samples are those that ``reshard`` would write. A uid that
    stands m times is yielded m times, and one that several pool rows have yields each row (in pool order).

    Args:
        uids: (n,) "u8,u8" in any order, or a subset file (mapped, so it may be larger than memory).
        ext: one extension or several, or None for all members.
        order: 'given', or 'shuffled': a keyed permutation of the n places, computed as it goes, the same for the same
            seed on any machine (``csrc/core/reshard/permutation.hpp``). Give each epoch its own seed.
        part: (i, m): only every m-th place of the order from i on, for worker i of m. Together they are the whole.
        missing: uids that no whole sample of the pool has: 'skip' (a rotten link is no fault), or 'raise'.
        missing_members: samples without an asked extension: 'raise', or 'none': their dict lacks it.
        read_ahead: batches read or waiting beside the one in use; that many threads read.
        memory_bytes: bound on the payload bytes of all these batches together. A sample larger than
            memory_bytes / (read_ahead + 1) makes a batch of its own, and one larger than memory_bytes is read alone.
    Yields:
        Sample. Its views stay valid as long as they are held; what the caller holds is beyond the bound.
    Raises:
        PoolError: missing uids or members, where they are errors; what ``read_members`` raises. Samples before the
        failing batch are yielded first.
    Memory: memory_bytes and about 1 KiB for each of 4096 places.
    Example: ``[sample.key for sample in iterate_uids(open_pool("index", "pool"), "subset.npy", ext="txt")]``
    """
    if order not in ("given", "shuffled"):
        raise ValueError(f"order must be 'given' or 'shuffled'; got {order!r}")
    if not 0 <= part[0] < part[1]:
        raise ValueError(f"part must be (i, m) with 0 <= i < m; got {part}")
    check_missing(missing)
    check_seed(seed)
    if not isinstance(uids, np.ndarray):
        uids = load_subset(uids, check=False)  # any order will do
    if uids.dtype != np.dtype("u8,u8") or uids.ndim != 1:
        raise TypeError(f'uids must be one-dimensional of dtype "u8,u8"; got {uids.dtype} of shape {uids.shape}')
    blocks = _uid_blocks(pool, uids, order, seed, part, missing)
    return samples_of(pool, read_blocks(pool, blocks, ext, missing_members, read_ahead, memory_bytes))


@overload
def iterate_rows(  # type: ignore[overload-overlap]  # a str is a sequence, too
    pool: PoolReader, rows: RowIds, ext: str, *, missing_members: Literal["raise"] = "raise",
    read_ahead: int = 4, memory_bytes: int = 256 << 20,
) -> Generator[MemberBatch[memoryview], None, None]: ...  # fmt: skip
@overload
def iterate_rows(  # type: ignore[overload-overlap]  # a str is a sequence, too
    pool: PoolReader, rows: RowIds, ext: str, *, missing_members: MissingMembers,
    read_ahead: int = 4, memory_bytes: int = 256 << 20,
) -> Generator[MemberBatch[memoryview | None], None, None]: ...  # fmt: skip
@overload
def iterate_rows(
    pool: PoolReader, rows: RowIds, ext: Many = None, *, missing_members: MissingMembers = "raise",
    read_ahead: int = 4, memory_bytes: int = 256 << 20,
) -> Generator[MemberBatch[MemberDict], None, None]: ...  # fmt: skip
@takes_old_names(OLD_MISSING, OLD_EXT)
def iterate_rows(
    pool: PoolReader,
    rows: RowIds,
    ext: Extensions = None,
    *,
    missing_members: MissingMembers = "raise",
    read_ahead: int = 4,
    memory_bytes: int = 256 << 20,
) -> Generator[MemberBatch[Any], None, None]:
    """Yields the members of rows (row ids, as array or memmap) in the order given, a batch at a time, read ahead.

    Arguments, memory and errors as ``iterate_uids``.
    Example: ``[bytes(text) for batch in iterate_rows(reader, reader.row_ids([4, 0]), "txt") for text in batch]``
    """
    blocks = (
        np.ascontiguousarray(rows[first : first + ROWS_AT_ONCE], np.uint64)
        for first in range(0, len(rows), ROWS_AT_ONCE)
    )
    return read_blocks(pool, blocks, ext, missing_members, read_ahead, memory_bytes)


def check_seed(seed: int) -> None:
    """ValueError where a seed is not one of the keyed permutation's."""
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must be from 0 to 2^64 - 1; got {seed}")


def samples_of(
    pool: PoolReader, batches: Generator[MemberBatch[Any], None, None]
) -> Generator[Sample[memoryview], None, None]:
    """The samples of batches, one after the other."""
    with closing(batches):
        for batch in batches:
            texts = uid_format(pool.uids(batch.rows), as_list=True, threads=1)
            for i, (key, text) in enumerate(zip(pool.keys(batch.rows), texts, strict=True)):
                yield Sample(key, text, batch.sample(i))


def _uid_blocks(
    pool: PoolReader, uids: npt.NDArray[np.void], order: Order, seed: int, part: tuple[int, int], missing: MissingUids
) -> Iterator[RowIds]:
    """Row ids of the uids in the order asked, some at a time."""
    first, stride = part
    count = max(0, -(-(len(uids) - first) // stride))
    for begin in range(0, count, ROWS_AT_ONCE):
        size = min(ROWS_AT_ONCE, count - begin)
        start = first + begin * stride
        if order == "shuffled":
            block = uids[core_reshard.permuted(len(uids), seed, start, size, stride)]
        else:
            block = uids[start : start + (size - 1) * stride + 1 : stride]
        yield pool.find(np.ascontiguousarray(block), missing=missing)[0]


def read_blocks(
    pool: PoolReader,
    blocks: Iterable[RowIds],
    exts: Extensions,
    missing: MissingMembers,
    ahead: int,
    memory_bytes: int,
    *,
    most: int = MAX_BATCH_BYTES,
    threads: int = 1,
) -> Generator[MemberBatch[Any], None, None]:
    """The members of blocks of rows, in batches that lie in one block each, read ahead.

    Args:
        ahead, memory_bytes: as ``read_ahead`` and ``memory_bytes`` of ``iterate_uids``.
        most: payload bytes of a batch; one of rows in a random order has longer runs the larger it is.
        threads: that read a batch; ``ahead`` batches are read at the same time.
    """
    if ahead < 0 or memory_bytes < 1:
        raise ValueError(f"read_ahead must be at least 0 and memory_bytes 1; got {ahead} and {memory_bytes}")
    limit = max(1, min(most, memory_bytes // (ahead + 1)))
    single = isinstance(exts, str)
    planned = (part for rows in blocks for part in pool.locate(rows, exts, missing_members=missing).batches(limit))
    return run_ahead(
        lambda members: pool.read_located(members, single=single, threads=threads),
        planned,
        threads=ahead,
        ahead=ahead,
        size=lambda members: members.num_bytes,
        memory_bytes=memory_bytes,
        name="dcfast-read",
    )
