"""``Selection``: some samples of a pool, as a dataset has them: it travels by paths, and opens in each process anew."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from dcfast.access.batch import PathLike
from dcfast.access.iterate import MAX_BATCH_BYTES, RowIds, Sample, read_blocks, samples_of
from dcfast.access.pools import open_pool
from dcfast.access.reader import REMOTE_TWICE, Extensions, MissingMembers, PoolReader
from dcfast.errors import PoolError
from dcfast.index.pool_index import MissingUids, check_missing
from dcfast.index.rows import FLAG_CUT
from dcfast.storage.http import RemoteOptions
from dcfast.storage.paths import absolute
from dcfast.uids.sets import load_subset

Uids = npt.NDArray[np.void] | PathLike

READ_THREADS = 4
"""That read the members asked for together; they wait for disks, not for cores."""
_READ_TOGETHER = 256 << 20  # bytes of members


class SelectionOptions(TypedDict, total=False):
    """See ``dcfast.PoolDataset``."""

    uids: Uids | None
    extensions: Extensions
    missing: MissingUids
    missing_members: MissingMembers
    remote: RemoteOptions | None


class Selection:
    """The samples of a pool, or those of a uid list; see ``dcfast.PoolDataset`` for the arguments.

    Attributes:
        count: samples.   fingerprint: of the index and the rows; another process must find the same.

    Memory: the rows of the uids, 8 bytes each, in each process; none without uids.
    """

    def __init__(
        self,
        index: PathLike | PoolReader,
        shards_dir: PathLike | None,
        *,
        uids: Uids | None = None,
        extensions: Extensions = None,
        missing: MissingUids = "raise",
        missing_members: MissingMembers = "raise",
        remote: RemoteOptions | None = None,
        in_pool_order: bool,
    ) -> None:
        check_missing(missing)
        if isinstance(index, PoolReader) and shards_dir is not None:
            raise ValueError(f"shards_dir must be None beside an open PoolReader; got {os.fspath(shards_dir)!r}")
        if isinstance(index, PoolReader) and remote is not None:
            raise ValueError(REMOTE_TWICE)
        self._given = index if isinstance(index, PoolReader) else absolute(index)
        self._shards_dir = None if shards_dir is None else absolute(shards_dir)
        self._uids = uids if uids is None or isinstance(uids, np.ndarray) else absolute(uids)
        self._extensions, self._missing, self._missing_members = extensions, missing, missing_members
        self._in_pool_order, self._remote = in_pool_order, remote
        self.count: int = 0
        self.fingerprint: str = ""
        self._begin()
        self.reader.locate([], extensions, missing_members=missing_members)  # checks the two

    def _begin(self) -> None:
        self._rows: RowIds | None = None
        self._reader: PoolReader | None = None
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name not in ("_rows", "_reader", "_pid")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._begin()

    @property
    def reader(self) -> PoolReader:
        """The pool as this process has it open. A forked one opens it anew: the locks of a copy may be held."""
        if self._reader is None or self._pid != os.getpid():
            if isinstance(self._given, PoolReader):
                self._reader = self._given if self._pid == os.getpid() else copy.copy(self._given)
            else:
                self._reader = open_pool(
                    self._given, self._shards_dir, verify=not self.fingerprint, remote=self._remote
                )
            self._pid = os.getpid()
            self._select(self._reader)
        return self._reader

    def _select(self, reader: PoolReader) -> None:
        if self._rows is None:
            self._rows = self._find(reader)
        count = reader.num_samples if self._rows is None else len(self._rows)
        digest = hashlib.sha256(f"{reader.num_samples} {count}".encode())
        for segment in reader.segments:
            if os.path.exists(segment.path):  # index_tars keeps none
                digest.update(segment.content_digest().encode())
        if self._rows is not None:
            digest.update(self._rows.tobytes())
        fingerprint = digest.hexdigest()[:16]
        if self.fingerprint and fingerprint != self.fingerprint:
            self._reader = None
            raise PoolError(
                f"dataset of {self!r}: the index or the uids have changed since it was made: expected {self.count} "
                f"samples (fingerprint {self.fingerprint}), got {count} ({fingerprint}); make the dataset anew"
            )
        self.count, self.fingerprint = count, fingerprint

    def _find(self, reader: PoolReader) -> RowIds | None:
        """Row ids; None where they are all."""
        if self._uids is None:
            if not any(segment.shard_damage for segment in reader.segments):
                return None
            # what a damaged shard still has of a sample may be half of it: left out as ``PoolReader.find`` does
            whole = [(np.asarray(segment.flags) & FLAG_CUT) == 0 for segment in reader.segments]
            return reader.row_ids(np.flatnonzero(np.concatenate(whole)))
        uids = self._uids if isinstance(self._uids, np.ndarray) else load_subset(self._uids, check=False)
        if uids.dtype != np.dtype("u8,u8") or uids.ndim != 1:
            raise TypeError(f'uids must be one-dimensional of dtype "u8,u8"; got {uids.dtype} of shape {uids.shape}')
        rows, _ = reader.find(uids, missing=self._missing)
        if self._in_pool_order:
            rows.sort()
        return rows

    def __repr__(self) -> str:
        return f"{self._given}" if self._uids is None else f"{self._given}, uids"

    def rows(self, samples: npt.NDArray[np.int64]) -> RowIds:
        """(n,) row ids of samples by their number. IndexError: there is none of a number."""
        reader = self.reader
        if len(samples) and not (int(samples.min()) >= 0 and int(samples.max()) < self.count):
            wrong = samples[(samples < 0) | (samples >= self.count)][0]
            raise IndexError(f"sample {wrong} is out of range: the dataset has {self.count}")
        return reader.row_ids(samples) if self._rows is None else self._rows[samples]

    def read(self, rows: RowIds, threads: int = READ_THREADS) -> Generator[Sample[bytes], None, None]:
        """The samples of some rows, in order; read as far as memory allows, neighbours together."""
        reader = self.reader
        parts = reader.locate(rows, self._extensions, missing_members=self._missing_members).batches(_READ_TOGETHER)
        return _copied(samples_of(reader, (reader.read_located(part, threads=threads) for part in parts)))

    def read_ahead(
        self, blocks: Iterable[RowIds], *, ahead: int, memory_bytes: int, most: int = MAX_BATCH_BYTES, threads: int = 1
    ) -> Generator[Sample[bytes], None, None]:
        """The samples of blocks of rows, in order, ahead of the caller: see ``read_blocks``."""
        reader, missing = self.reader, self._missing_members
        batches = read_blocks(
            reader, blocks, self._extensions, missing, ahead, memory_bytes, most=most, threads=threads
        )
        return _copied(samples_of(reader, batches))


def _copied(samples: Generator[Sample[memoryview], None, None]) -> Generator[Sample[bytes], None, None]:
    """The same with bytes of their own: views could not be sent to another process, and keep their batch alive."""
    with closing(samples):
        for key, uid, members in samples:
            yield Sample(key, uid, {ext: bytes(view) for ext, view in members.items()})
