"""Samples of a run found by uid, or by shard and key: by binary search in its files, never by reading all of them.

Of n samples in the shards and m metadata rows, a uid costs two searches in mapped files of 24 n and 24 m bytes, the
header of one segment, and the columns ``fate`` and ``reason`` of the row groups that hold its rows (a million rows each
at most). At 12.8 billion samples that is some 70 pages of 4 KiB, and the megabyte or two of those columns.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.errors import RunError
from dcfast.index.pool_index import PoolIndex
from dcfast.index.rows import valid_uid_mask
from dcfast.index.segments import Segment
from dcfast.rundir.layout import CODE_SHIFT, OUTCOMES, segment_path
from dcfast.rundir.run_dir import group_segments
from dcfast.rundir.tables import part_path
from dcfast.storage.parquet import BATCH_ROWS, ParquetFile
from dcfast.uids.sets import load_subset, open_records, uid_format, uid_lookup, uid_multiplicity

OPEN_SEGMENTS = 64
"""Segments that are kept mapped."""
_ROW_MASK = np.uint64((1 << CODE_SHIFT) - 1)


class Place(NamedTuple):
    """Where a sample lies: its shard, its row there, its segment's number, and its row in the segment."""

    shard: str
    row: int
    segment: int
    sample: int


class Fate(NamedTuple):
    """What became of a sample; None where the filter stage has not run."""

    fate: str | None
    reason: str | None


class Verdict(NamedTuple):
    """What the filter said of the metadata rows of a uid.

    Attributes:
        code: 0 passes, else the reason's number in the compiled filter; of several rows the one that counts.
        row: of the piece's metadata.   rows: metadata rows with this uid.
    """

    code: int
    row: int
    rows: int


class SampleLookup:
    """A run directory asked for single samples. RunError where its index is not whole."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.segment: Callable[[int], Segment] = lru_cache(OPEN_SEGMENTS)(self._open_segment)

    def _open_segment(self, number: int) -> Segment:
        # verified when the run's stages read it: here a few samples are looked at
        return Segment.open(self.out / segment_path(number), verify=False)

    @cached_property
    def index(self) -> PoolIndex:
        if not (self.out / "index" / "index.json").exists():
            raise RunError(f"{self.out}: stage index has not been run yet; run it first (dcfast run --to filter)")
        return PoolIndex.open(self.out)

    @property
    def num_segments(self) -> int:
        return len(self.index.segment_first_shard) - 1

    def find(self, uids: npt.NDArray[np.void]) -> list[list[Place]]:
        """The places of each of some uids, "u8,u8", in the order of the pool; none where the shards have none."""
        found = self.index.find(uids, threads=1)
        places = iter([self._place(*ids) for ids in zip(found.shard.tolist(), found.row.tolist(), strict=True)])
        return [[next(places) for _ in range(count)] for count in found.counts.tolist()]

    def _place(self, ordinal: int, row: int) -> Place:
        number = bisect_right(self.index.segment_first_shard, ordinal) - 1
        segment, local = self.segment(number), ordinal - self.index.segment_first_shard[number]
        return Place(segment.shard_names[local], row, number, int(segment.shard_sample_begin[local]) + row)

    def shard(self, name: str) -> tuple[Segment, int, range]:
        """A shard's segment, its number, and its samples there. LookupError: the pool has no shard of this name.

        The shards of the segments are in sorted order, so a name is found by bisection over the segments.
        """
        after = bisect_right(range(self.num_segments), name, key=lambda number: self.segment(number).shard_names[0])
        number = max(after - 1, 0)
        segment = self.segment(number)
        if name not in segment.shard_names:
            raise LookupError(f"the pool has no shard {name!r}")
        place = segment.shard_names.index(name)
        begin, end = segment.shard_sample_begin[place : place + 2].tolist()
        return segment, number, range(begin, end)

    def uid_of(self, place: Place) -> str | None:
        """32 hex digits; None where the sample has no uid."""
        segment, one = self.segment(place.segment), slice(place.sample, place.sample + 1)
        has_uid = (valid_uid_mask(segment)[one]).all()
        return uid_format(np.ascontiguousarray(segment.uid[one]), as_list=True)[0] if has_uid else None

    def key_of(self, place: Place) -> str:
        return self.segment(place.segment).key(place.sample)

    @cached_property
    def _groups(self) -> dict[int, tuple[int, list[int]]]:
        """Segment -> (number of the part of the tables, its segments)."""
        first = self.index.segment_first_shard
        groups = group_segments([end - begin for begin, end in pairwise(first)])
        return {number: (part, group) for part, group in enumerate(groups) for number in group}

    def fates(self, places: Sequence[Place]) -> list[Fate]:
        """What became of each of some samples. Cost: each row group that holds one of them is decoded once, two columns
        of it."""
        wanted: dict[int, dict[int, list[int]]] = {}  # part -> row -> which of the places
        for i, place in enumerate(places):
            part, group = self._groups[place.segment]
            before = sum(self.segment(number).num_samples for number in group if number < place.segment)
            wanted.setdefault(part, {}).setdefault(before + place.sample, []).append(i)
        fates = [Fate(None, None)] * len(places)
        for part, rows in wanted.items():
            path = self.out / part_path("fates", part)
            if not path.exists():
                continue
            for row, fate in _rows_at(path, sorted(rows)):
                for i in rows[row]:
                    fates[i] = fate
        return fates

    def verdicts(self, uids: npt.NDArray[np.void]) -> list[Verdict | None]:
        """What the filter said of each of some uids; None where no metadata row has it, or the stage has not run."""
        if not (self.out / OUTCOMES).exists():
            return [None] * len(uids)
        records = open_records(self.out / OUTCOMES)
        first, count = uid_lookup(records, uids, threads=1)
        verdicts: list[Verdict | None] = []
        for at, rows in zip(first.tolist(), count.tolist(), strict=True):
            payload = records["f2"][at] if rows else np.uint64(0)
            code, row = int(payload >> np.uint64(CODE_SHIFT)), int(payload & _ROW_MASK)
            verdicts.append(Verdict(code, row, rows) if rows else None)
        return verdicts

    def count_in(self, name: str, uids: npt.NDArray[np.void]) -> npt.NDArray[np.int64] | None:
        """(n,) how often uids stand in a sorted uid file of the run; None where there is none."""
        if not (self.out / name).exists():
            return None
        return uid_multiplicity(uids, load_subset(self.out / name, check=False), check=False, threads=1)


def _rows_at(path: Path, rows: list[int]) -> Iterator[tuple[int, Fate]]:
    """The fates of some rows of a part of ``fates.parquet``, in their order."""
    left = list(reversed(rows))
    with ParquetFile(path) as file:
        begin = 0
        for group, size in enumerate(file.group_rows):
            if left and left[-1] < begin + size:
                at = begin
                for batch in file.batches(["fate", "reason"], BATCH_ROWS, [group]):
                    while left and left[-1] < at + batch.num_rows:
                        row = left.pop()
                        yield row, Fate(*(batch.column(name)[row - at].as_py() for name in ("fate", "reason")))
                    at += batch.num_rows
                    if not left or left[-1] >= begin + size:
                        break
            begin += size
