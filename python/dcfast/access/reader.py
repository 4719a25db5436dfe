"""PoolReader: an indexed pool opened for reading any of its members."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, overload

import numpy as np
import numpy.typing as npt

from dcfast._core import access as core_access
from dcfast.access.batch import MemberBatch, Members, PathLike
from dcfast.errors import CorruptDataError, PoolError
from dcfast.index.pool_index import MissingUids, refuse_missing
from dcfast.index.rows import FLAG_CUT, row_ids, sample_records, split_row_ids, valid_uid_mask
from dcfast.index.segments import Segment
from dcfast.process.arguments import unsigned_array
from dcfast.process.compute import thread_count
from dcfast.process.renamed import Renamed, takes_old_names
from dcfast.storage.http import RemoteOptions, remote_options
from dcfast.storage.members import Piece, RemoteMembers, check_remote_name
from dcfast.storage.paths import absolute, is_url
from dcfast.storage.pickled import reduced
from dcfast.uids.sets import RECORD_DTYPE, open_records, record_sort, uid_lookup

Extensions = str | Sequence[str] | None
Numbering = Literal["row_id", "sample"]
MissingMembers = Literal["raise", "none"]
Many = Sequence[str] | None
"""Extensions of which a sample is a dict."""
MemberDict = dict[str, memoryview]
OLD_MISSING = Renamed("missing", "missing_members", {"error": "raise", "none": "none"})

REMOTE_TWICE = "remote must be None beside an open PoolReader, which has its own: pass it to open_pool"
NO_EXT = 0xFFFFFFFF


class ReaderOptions(TypedDict, total=False):
    """See ``PoolReader``."""

    max_open: int
    follow_links: bool
    check_mtime: bool
    verify: bool
    remote: RemoteOptions | None


class PoolReader:
    """The shards of an indexed pool, opened for reading any of their members. Safe for many threads.

    A row id is ``shard ordinal << 32 | row in the shard``; ordinals count over the segments as they are given.

    Args:
        shards_dir: directory that the segments' shard names are relative to, or one for each segment; None where
            the names open as they are (an index made by ``index_tars``). A directory, or a name, may be an fsspec URL:
            members of such shards are read by ranges.
        segments: index segments in pool order, as paths or ``Segment`` objects.
        pool_records: the pool index (sorted records of uid and row id) as array or ``pool.npy``. Without it, it is
            built in memory when uids are first looked up: 24 bytes a sample, twice while it is sorted.
        max_open: shards kept open; the least recently used are closed.
        follow_links: allow shards that are symbolic links to places outside of their directory.
        check_mtime: refuse a shard whose modification time is not the indexed one (its size always counts).
        verify: check the segments' checksums, which reads them once.
        remote: how URLs are read: credentials, retries, limits of time.

    Raises:
        CorruptDataError: a damaged segment; in reading, a shard that is not what was indexed (compared when it is
            opened and after each read), or that lies outside of its pool: symbolic links, absolute names, "..".

    Memory: the shards' names and 100 bytes a shard; segments and records are mapped. A file that is replaced while it
    is open is still read as it was; one that is written to in place raises, and so does what is replaced behind a URL.
    Of URLs: up to ``remote.requests`` requests at the same time, of 1 MiB at most, which is the memory beside the
    result; a look-up for each shard, a request for each stretch of neighbouring members (``storage.members.stretches``:
    at most 5% more is read than was asked for, but of members under 4 KiB), and where the answers tell neither ETag
    nor time, another look-up for each read.
    Example: ``reader = PoolReader(None, [segment])``, ``reader.read(reader.find(uids)[0], "jpg")``
    """

    def __init__(
        self,
        shards_dir: PathLike | Sequence[PathLike | None] | None,
        segments: Sequence[PathLike | Segment],
        pool_records: PathLike | npt.NDArray[np.void] | None = None,
        *,
        max_open: int = 256,
        follow_links: bool = False,
        check_mtime: bool = True,
        verify: bool = True,
        remote: RemoteOptions | None = None,
    ) -> None:
        if isinstance(segments, (str, os.PathLike)):
            raise TypeError("PoolReader: segments must be a sequence; pass [path]")
        if max_open < 1:
            raise ValueError(f"max_open must be at least 1; got {max_open}")
        of_urls = remote_options(remote)
        self._options = ReaderOptions(
            max_open=max_open, follow_links=follow_links, check_mtime=check_mtime, verify=False, remote=remote
        )
        self.segments: list[Segment] = [
            s if isinstance(s, Segment) else Segment.open(s, verify=verify) for s in segments
        ]
        roots = _roots(shards_dir, len(self.segments))
        self._arguments = (roots, pool_records)
        self._records = pool_records
        shards = np.array([s.num_shards for s in self.segments], np.int64)
        samples = np.array([s.num_samples for s in self.segments], np.int64)
        self.segment_first_shard: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(shards)])
        self.segment_first_sample: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(samples)])
        self.num_shards: int = int(self.segment_first_shard[-1])
        self.num_samples: int = int(self.segment_first_sample[-1])
        self.exts: list[str] = sorted({ext for s in self.segments for ext in s.exts_lower})
        number = {ext: i for i, ext in enumerate(self.exts)}
        # extension numbers of each segment -> those of the pool
        self._ext_maps = [np.array([number[e] for e in s.exts_lower], np.int32) for s in self.segments]
        distinct = sorted({"" if r is None else os.fspath(r) for r in roots})
        root_of = [distinct.index("" if r is None else os.fspath(r)) for r in roots]
        sizes = np.concatenate([np.empty(0, np.uint64), *(s.shard_sizes for s in self.segments)])
        mtimes_ns = np.concatenate([np.empty(0, np.int64), *(s.shard_mtimes_ns for s in self.segments)])
        self._remote = None
        if any(_has_urls(root, segment) for root, segment in zip(roots, self.segments, strict=True)):
            self._remote = RemoteMembers(
                self.shard_path, sizes, mtimes_ns, of_urls, max_open=max_open, check_mtime=check_mtime
            )
        self._reader = core_access.MemberReader(
            [os.fsencode(r) for r in distinct],
            [os.fsencode(name) for s in self.segments for name in s.shard_names],
            np.repeat(np.array(root_of, np.uint32), shards),
            sizes,
            mtimes_ns,
            max_open=max_open,
            follow_links=follow_links,
            check_mtime=check_mtime,
        )

    def __repr__(self) -> str:
        return f"<PoolReader: {self.num_shards} shards, {self.num_samples} samples>"

    def __reduce__(self) -> tuple[Callable[..., PoolReader], tuple[Any, ...]]:
        # a worker process, which may stand in another folder, opens the files anew
        roots, records = self._arguments
        found = {root: None if root is None else absolute(root) for root in roots}  # each text once
        places = [found[root] for root in roots]
        if isinstance(records, (str, os.PathLike)):
            records = absolute(records)
        return reduced("PoolReader", _opened_again, places, self.segments, records, self._options)

    def close(self) -> None:
        """Closes the shards that are open; they are opened again where needed."""
        self._reader.close()
        if self._remote is not None:
            self._remote.close()

    def __enter__(self) -> PoolReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def records(self) -> npt.NDArray[np.void]:
        """The pool index: sorted records of uid and row id, mapped or built."""
        if self._records is None:
            parts = [np.empty(0, RECORD_DTYPE)]
            for segment, first in zip(self.segments, self.segment_first_shard, strict=False):
                parts.append(sample_records(segment, int(first), np.flatnonzero(valid_uid_mask(segment))))
            self._records = record_sort(np.concatenate(parts))
        elif not isinstance(self._records, np.ndarray):
            self._records = open_records(self._records)
        return self._records

    def row_ids(self, samples: npt.ArrayLike) -> npt.NDArray[np.uint64]:
        """Row ids of samples numbered from 0 over the whole pool. Raises IndexError out of range."""
        number, sample = self._by_sample(unsigned_array(samples, "samples", negative=IndexError))
        ids = np.empty(len(number), np.uint64)
        for part, segment, n in self._groups(number):
            ids[part] = row_ids(segment, int(self.segment_first_shard[n]), sample[part])
        return ids

    def find(
        self, uids: npt.NDArray[np.void], *, missing: MissingUids = "skip"
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """The rows that have each of some uids.

        Args:
            uids: (n,) "u8,u8" in any order, repeats allowed.
            missing: uids that no whole sample of the pool has: 'skip', or 'raise': a PoolError that names the first.
        Returns:
            (r,) row ids, those of one uid rising, uid after uid as asked; and (n,) how many each has: 0 where the
            pool has none. Rows in which their shard is cut off are left out, as the resharder leaves them out.
        Cost: about 0.3 us a uid.
        """
        records = self.records
        first, count = uid_lookup(records, np.ascontiguousarray(uids), check=False, threads=1)
        owner = np.repeat(np.arange(len(uids)), count)
        at = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(len(owner))
        rows = np.ascontiguousarray(records["f2"][at])
        number, sample = self._by_row(rows)
        whole = np.ones(len(rows), bool)
        for part, segment, _ in self._groups(number):
            whole[part] = (np.asarray(segment.flags)[sample[part]] & FLAG_CUT) == 0
            # records of another index would give other samples than were asked for
            of_row, of_record = segment.uid[sample[part]], records[at[part]]
            if not all(np.array_equal(of_row[half], of_record[half]) for half in ("f0", "f1")):
                raise CorruptDataError(
                    f"PoolReader: the pool index (pool.npy) is not of the segment {segment.path}: it has other uids "
                    "for its rows; make it whole with refresh_index, or the run again",
                    path=os.fspath(segment.path),
                )
        counts = np.bincount(owner[whole], minlength=len(uids))
        refuse_missing(uids, counts, missing)
        return rows[whole], counts

    def uids(self, rows: npt.ArrayLike) -> npt.NDArray[np.void]:
        """(n,) "u8,u8" uids of row ids; zero for samples without one."""
        number, sample = self._by_row(unsigned_array(rows, "rows", negative=IndexError))
        uids = np.zeros(len(number), "u8,u8")
        for part, segment, _ in self._groups(number):
            uids[part] = np.asarray(segment.uid)[sample[part]]
        return uids

    def picture_sizes(self, rows: npt.ArrayLike) -> npt.NDArray[np.uint32]:
        """(n, 2) width and height of each row's first picture by its header, pixels; 0 where unknown."""
        number, sample = self._by_row(unsigned_array(rows, "rows", negative=IndexError))
        sizes = np.zeros((len(number), 2), np.uint32)
        for part, segment, _ in self._groups(number):
            sizes[part, 0] = np.asarray(segment.width)[sample[part]]
            sizes[part, 1] = np.asarray(segment.height)[sample[part]]
        return sizes

    def keys(self, rows: npt.ArrayLike) -> list[str]:
        """The samples' keys in their shards, of row ids. Not UTF-8: backslash-escaped."""
        number, sample = self._by_row(unsigned_array(rows, "rows", negative=IndexError))
        keys = [""] * len(number)
        for part, segment, _ in self._groups(number):
            of_part = core_access.sample_keys(segment._core, sample[part].astype(np.uint64))
            for i, key in zip(part.tolist(), of_part, strict=True):
                keys[i] = key
        return keys

    @takes_old_names(OLD_MISSING)
    def locate(
        self,
        rows: npt.ArrayLike,
        ext: Extensions = None,
        *,
        numbering: Numbering = "row_id",
        missing_members: MissingMembers = "raise",
    ) -> Members:
        """Where the members of some samples lie: what ``read`` reads, without reading.

        Arguments and errors as ``read``. Cost: about 0.2 us a member, from the mapped index.
        """
        numbers = unsigned_array(rows, "rows", negative=IndexError)
        exts = None if ext is None else _extensions(ext)
        if missing_members not in ("raise", "none"):
            raise ValueError(f"missing_members must be 'raise' or 'none'; got {missing_members!r}: use one of these")
        if numbering not in ("row_id", "sample"):
            raise ValueError(f"numbering must be 'row_id' or 'sample'; got {numbering!r}")
        members = self._look_up(numbers, numbering, exts)
        if exts is not None and missing_members == "raise" and (members.ext < 0).any():
            at = int(np.flatnonzero(members.ext < 0)[0])
            (shard,), (row,) = split_row_ids(members.rows[at // len(exts)][None])
            raise PoolError(
                f"sample {row} of shard {self.shard_path(int(shard))} has no member {exts[at % len(exts)]!r}; "
                "pass missing_members='none' to get None for it"
            )
        return members

    @overload
    def read(  # type: ignore[overload-overlap]  # a str is a sequence, too
        self, rows: npt.ArrayLike, ext: str, *, numbering: Numbering = "row_id",
        missing_members: Literal["raise"] = "raise", memory_bytes: int = 1 << 30, threads: int | None = None,
    ) -> MemberBatch[memoryview]: ...  # fmt: skip
    @overload
    def read(  # type: ignore[overload-overlap]  # a str is a sequence, too
        self, rows: npt.ArrayLike, ext: str, *, numbering: Numbering = "row_id",
        missing_members: MissingMembers, memory_bytes: int = 1 << 30, threads: int | None = None,
    ) -> MemberBatch[memoryview | None]: ...  # fmt: skip
    @overload
    def read(
        self, rows: npt.ArrayLike, ext: Many = None, *, numbering: Numbering = "row_id",
        missing_members: MissingMembers = "raise", memory_bytes: int = 1 << 30, threads: int | None = None,
    ) -> MemberBatch[MemberDict]: ...  # fmt: skip
    @takes_old_names(OLD_MISSING)
    def read(
        self,
        rows: npt.ArrayLike,
        ext: Extensions = None,
        *,
        numbering: Numbering = "row_id",
        missing_members: MissingMembers = "raise",
        memory_bytes: int = 1 << 30,
        threads: int | None = None,
    ) -> MemberBatch[Any]:
        """Members of samples, in the order asked. See ``read_members``."""
        members = self.locate(rows, ext, numbering=numbering, missing_members=missing_members)
        self.check_size(members, memory_bytes)
        return self.read_located(members, single=isinstance(ext, str), threads=threads)

    @staticmethod
    def check_size(members: Members, memory_bytes: int) -> None:
        """ValueError where several samples have more than so many bytes."""
        total = members.num_bytes
        if total > memory_bytes and len(members) > 1:
            raise ValueError(
                f"the members asked for have {total} bytes, more than memory_bytes={memory_bytes}; "
                "read fewer samples at a time, or go over them with iterate_rows"
            )

    def read_located(self, members: Members, *, single: bool = False, threads: int | None = None) -> MemberBatch[Any]:
        """Reads what ``locate`` found, in one batch whatever its size."""
        count = thread_count(threads)
        try:
            if self._remote is None:
                data, offsets = self._reader.read(members.shard, members.offset, members.size, threads=count)
            else:
                data, offsets = self._read_of_urls(self._remote, members, count)
        except FileNotFoundError as error:
            if not is_url(error.filename) and "://" in str(error.filename):
                raise PoolError(
                    f"{error.filename}: the shard's name in the index is a URL, and shards_dir a directory of files; "
                    "pass shards_dir=None to read it from there"
                ) from error
            raise
        return MemberBatch(members, data, offsets, single)

    def _read_of_urls(
        self, remote: RemoteMembers, members: Members, threads: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
        """As the core's reader, of shards of which some lie behind URLs."""
        offsets = np.concatenate([np.zeros(1, np.uint64), np.cumsum(members.size, dtype=np.uint64)])
        far = {shard for shard in np.unique(members.shard).tolist() if is_url(self.shard_path(shard))}
        is_far = np.isin(members.shard, list(far))
        columns = (members.shard[is_far], members.offset[is_far], members.size[is_far], offsets[:-1][is_far])
        data = np.empty(int(offsets[-1]), np.uint8)
        remote.read_into(data, list(map(Piece, *(column.tolist() for column in columns))))
        near = (members.shard[~is_far], members.offset[~is_far], members.size[~is_far])
        of_files, begin = self._reader.read(*near, threads=threads)
        for k, place in enumerate(offsets[:-1][~is_far].tolist()):
            part = of_files[int(begin[k]) : int(begin[k + 1])]
            data[place : place + len(part)] = part
        data.flags.writeable = False
        return data, offsets

    def shard_path(self, shard: int) -> str:
        """Where the shard with an ordinal is."""
        return os.fsdecode(self._reader.path(shard))

    def _groups(self, number: npt.NDArray[np.int64]) -> list[tuple[npt.NDArray[np.int64], Segment, int]]:
        """(places, segment, its number) of the segments that stand in ``number``."""
        if len(number) == 0:
            return []
        if (number == number[0]).all():
            return [(np.arange(len(number)), self.segments[number[0]], int(number[0]))]
        order = np.argsort(number, kind="stable")
        cuts = np.flatnonzero(np.diff(number[order])) + 1
        return [(part, self.segments[number[part[0]]], int(number[part[0]])) for part in np.split(order, cuts)]

    def _by_sample(self, samples: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        if len(samples) and int(samples.max()) >= self.num_samples:
            raise IndexError(f"sample {int(samples.max())} is out of range: the pool has {self.num_samples}")
        places = samples.astype(np.int64)
        number = np.searchsorted(self.segment_first_sample, places, side="right") - 1
        return number, places - self.segment_first_sample[number]

    def _by_row(self, rows: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        shard, row = (part.astype(np.int64) for part in split_row_ids(rows))
        if len(shard) and int(shard.max()) >= self.num_shards:
            raise IndexError(f"row id {int(rows.max())} names shard {int(shard.max())}: the pool has {self.num_shards}")
        number = np.searchsorted(self.segment_first_shard, shard, side="right") - 1
        sample = np.empty(len(rows), np.int64)
        for part, segment, n in self._groups(number):
            begin = np.asarray(segment.shard_sample_begin).astype(np.int64)
            local = shard[part] - self.segment_first_shard[n]
            sample[part] = begin[local] + row[part]
            beyond = row[part] >= begin[local + 1] - begin[local]
            if beyond.any():
                at = int(np.flatnonzero(beyond)[0])
                held = int(begin[local[at] + 1] - begin[local[at]])
                path = self.shard_path(int(shard[part][at]))
                raise IndexError(f"row {row[part][at]} is out of range: shard {path} has {held} samples")
        return number, sample

    def _look_up(self, numbers: npt.NDArray[np.uint64], numbering: Numbering, exts: list[str] | None) -> Members:
        segment_number, sample = self._by_row(numbers) if numbering == "row_id" else self._by_sample(numbers)
        ids = numbers if numbering == "row_id" else self.row_ids(numbers)
        lookups = []
        count = np.full(len(sample), len(exts or ()), np.int64)
        for part, segment, number in self._groups(segment_number):
            # where each extension of the segment stands among those asked for
            slots = np.array([exts.index(e) if e in exts else NO_EXT for e in segment.exts_lower if exts], np.uint32)
            if exts is not None and not len(slots):  # a segment without any member
                absent = len(part) * len(exts)
                zeros = np.zeros(absent, np.uint64)
                lookups.append((part, number, zeros, zeros, np.full(absent, NO_EXT, np.uint32)))
                continue
            sample_counts, offsets, sizes, ext = core_access.sample_members(
                segment._core, sample[part].astype(np.uint64), slots, len(exts or ())
            )
            if exts is None:
                count[part] = sample_counts
            lookups.append((part, number, offsets, sizes, ext))
        begin = np.concatenate([[0], np.cumsum(count)])
        total = int(begin[-1])
        shard, offset, size = np.zeros(total, np.uint32), np.zeros(total, np.uint64), np.zeros(total, np.uint64)
        pool_ext = np.full(total, -1, np.int32)
        ordinal, _ = split_row_ids(ids)
        for part, number, offsets, sizes, ext in lookups:
            counts = count[part]
            inside = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
            at = np.repeat(begin[:-1][part], counts) + inside
            shard[at], offset[at], size[at] = np.repeat(ordinal[part], counts), offsets, sizes
            present = ext != NO_EXT
            pool_ext[at[present]] = self._ext_maps[number][ext[present]]
        return Members(ids, begin, shard, offset, size, pool_ext, self.exts)


def _roots(shards_dir: PathLike | Sequence[PathLike | None] | None, segments: int) -> Sequence[PathLike | None]:
    """The directory of each segment's shards."""
    if shards_dir is None or isinstance(shards_dir, (str, os.PathLike)):
        return [shards_dir] * segments
    if len(shards_dir) != segments:
        raise ValueError(f"shards_dir: expected {segments} directories, one a segment; got {len(shards_dir)}")
    return shards_dir


def _has_urls(root: PathLike | None, segment: Segment) -> bool:
    """Whether shards of a segment lie behind URLs."""
    if root is None or not os.fspath(root):
        return any(map(is_url, segment.shard_names))
    if not is_url(root):
        return False
    for name in segment.shard_names:
        check_remote_name(os.fspath(root).rstrip("/"), name)
    return True


def _opened_again(
    roots: list[str | None],
    segments: list[Segment],
    records: PathLike | npt.NDArray[np.void] | None,
    options: ReaderOptions,
) -> PoolReader:
    return PoolReader(roots, segments, records, **options)


def _extensions(ext: str | Sequence[str]) -> list[str]:
    exts = [ext] if isinstance(ext, str) else list(ext)
    if not all(isinstance(e, str) for e in exts):
        raise TypeError(f"ext must be a str, a sequence of them, or None; got {ext!r}")
    lowered = ["".join(c.lower() if c.isascii() else c for c in e.removeprefix(".")) for e in exts]
    if not lowered or len(set(lowered)) != len(lowered):
        raise ValueError(f"ext must name at least one extension, and each once; got {ext!r}")
    return lowered
