"""Searches on the CPU: which blocks of the two sides meet in which order; the core does the rest.

Rows become integer codes of 8 bits, of 16 where these are too coarse; their products, compared with a threshold as they
come, tell which pairs can matter, and those are scored exactly (csrc/core/similarity).

Memory: a ``Database`` (see there) or, of one that is not kept, a block of 256 MiB of rows and its codes; a block of
queries of 64 MiB (256 MiB where the queries are in the outer loop); 33 MB a thread, or 256 bytes times k where that is
more; and the result, of pairs twice while they are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from dcfast._core import similarity as core_similarity
from dcfast.similarity import database as databases
from dcfast.similarity.database import Database
from dcfast.similarity.operands import Metric, Progress, Rows, refuse_row

QUERY_BYTES = 64 << 20
PairArrays: TypeAlias = "tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]"


class _Meeting(NamedTuple):
    """A block of queries and one of the database, and the indices of their first rows."""

    queries: npt.NDArray[np.generic]
    begin: int
    block: core_similarity.PackedDatabase
    base: int

    @property
    def scores(self) -> int:
        return len(self.queries) * self.block.count


@dataclass(frozen=True)
class Search:
    """Both sides of a search.

    Attributes:
        skips: invalid rows match nothing, instead of being an error.
        progress: called with (scores done, scores in all).
    """

    queries: Rows
    database: Database
    skips: bool
    threads: int
    progress: Progress | None

    def meetings(self) -> Iterator[_Meeting]:
        """Each block of queries with each block of the database, the latter in rising order for any query.

        Raises:
            ValueError: an invalid row.
        """
        done, total = 0, self.queries.count * self.database.rows.count
        for meeting in self._outer_queries() if self._queries_lead() else self._outer_database():
            yield meeting
            done += meeting.scores
            if self.progress is not None:
                self.progress(done, total)

    def _queries_lead(self) -> bool:
        """Whether queries are in the outer loop: what is in the inner one is read again for each block of the outer."""
        if self.database.is_kept:
            return True
        queries, database = (rows.count * rows.row_bytes for rows in (self.queries, self.database.rows))
        blocks = databases.BLOCK_BYTES
        return queries + database * -(-queries // blocks) < database + queries * -(-database // blocks)

    def _outer_queries(self) -> Iterator[_Meeting]:
        size = QUERY_BYTES if self.database.is_kept else databases.BLOCK_BYTES
        for begin, queries in self._query_blocks(size, check=True):
            for base, block in self.database.packed(self.threads, skips=self.skips):
                yield _Meeting(queries, begin, block, base)

    def _outer_database(self) -> Iterator[_Meeting]:
        for base, block in self.database.packed(self.threads, skips=self.skips):
            for begin, queries in self._query_blocks(QUERY_BYTES, check=base == 0):
                yield _Meeting(queries, begin, block, base)

    def _query_blocks(self, size: int, *, check: bool) -> Iterator[tuple[int, npt.NDArray[np.generic]]]:
        rows = self.queries
        step = max(1, size // rows.row_bytes)
        for begin in range(0, rows.count, step):
            queries = rows.read(begin, min(rows.count, begin + step))
            if check and not self.skips:
                refuse_bad_row(queries, rows, begin, self.database.metric, self.threads)
            yield begin, queries

    def task(self, meeting: _Meeting, *, exclude_self: bool, magnitudes: bool = False) -> core_similarity.SearchTask:
        metric = self.database.metric
        return core_similarity.SearchTask(metric, magnitudes, exclude_self, meeting.begin, meeting.base, self.threads)


def refuse_bad_row(queries: npt.NDArray[np.generic], rows: Rows, begin: int, metric: Metric, threads: int) -> None:
    bad = core_similarity.bad_row(queries, rows.kind, metric == "cos", threads)
    if bad is not None:
        refuse_row(rows.name, begin + bad[0], finite=bad[1])


def topk(
    search: Search, k: int, exclude_self: bool, *, magnitudes: bool = False
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """(scores, indices), (n, k); magnitudes: of scores without their sign ("ip", "cos")."""
    kind, n = search.queries.kind, search.queries.count
    scores = np.full((n, k), np.inf if search.database.metric == "l2" else -np.inf, np.float32)
    indices = np.full((n, k), -1, np.int64)
    for meeting in search.meetings():
        rows = slice(meeting.begin, meeting.begin + len(meeting.queries))
        task = search.task(meeting, exclude_self=exclude_self, magnitudes=magnitudes)
        core_similarity.topk(meeting.block, meeting.queries, kind, task, k, scores[rows], indices[rows])
    return scores, indices


def _room(max_pairs: int, count: int) -> int:
    return min(max(0, max_pairs - count), 2**64 - 1)


def _refuse_pairs(max_pairs: int, threshold: float, count: int, where: str) -> NoReturn:
    raise ValueError(
        f"more than max_pairs={max_pairs} pairs reach the threshold {threshold:.9g} (at least {count} {where}): use a "
        "stricter threshold, raise max_pairs, or join parts one after the other"
    )


def join(search: Search, threshold: float, exclude_self: bool, max_pairs: int) -> PairArrays:
    """(ia, ib, scores), sorted by ia, then ib; ValueError beyond max_pairs."""
    parts: list[PairArrays] = []
    count = done = 0
    ends = (-1, -1)
    in_order = True
    for meeting in search.meetings():
        task = search.task(meeting, exclude_self=exclude_self)
        ia, ib, scores, found, is_full = core_similarity.join(
            meeting.block, meeting.queries, search.queries.kind, task, threshold, False, _room(max_pairs, count)
        )
        count, done = count + found, done + meeting.scores
        if is_full:
            total = search.queries.count * search.database.rows.count
            _refuse_pairs(max_pairs, threshold, count, f"in the first {done} of {total}")
        if not len(ia):
            continue
        parts.append((ia + meeting.begin, ib + meeting.base, scores))
        in_order = in_order and ends < (int(parts[-1][0][0]), int(parts[-1][1][0]))
        ends = int(parts[-1][0][-1]), int(parts[-1][1][-1])
    return _joined(parts, in_order)


def _joined(parts: list[PairArrays], in_order: bool) -> PairArrays:
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    if len(parts) == 1:
        return parts[0]
    ia = np.concatenate([part[0] for part in parts])
    ib = np.concatenate([part[1] for part in parts])
    scores = np.concatenate([part[2] for part in parts])
    if in_order:
        return ia, ib, scores
    order = np.lexsort((ib, ia))
    return ia[order], ib[order], scores[order]


def any_above(search: Search, threshold: float, exclude_self: bool) -> npt.NDArray[np.bool_]:
    """(n,) whether a query has a pair."""
    found = np.zeros(search.queries.count, np.uint8)
    for meeting in search.meetings():
        task = search.task(meeting, exclude_self=exclude_self)
        room = found[meeting.begin : meeting.begin + len(meeting.queries)]
        core_similarity.any_above(meeting.block, meeting.queries, search.queries.kind, task, threshold, room)
    return found.view(np.bool_)


@dataclass(frozen=True)
class GroupOptions:
    metric: Metric
    skips: bool
    max_pairs: int
    threads: int


def group_join(
    rows: Rows, offsets: npt.NDArray[np.uint64], threshold: float, options: GroupOptions, progress: Progress | None
) -> PairArrays:
    """Pairs ia < ib within groups; as many whole groups at a time as make a block, at least one."""
    parts: list[PairArrays] = []
    step = max(1, QUERY_BYTES // rows.row_bytes)
    first = count = 0
    while first + 1 < len(offsets):
        begin = int(offsets[first])
        last = max(first + 1, int(np.searchsorted(offsets, begin + step, side="right")) - 1)
        end = int(offsets[last])
        array = rows.read(begin, end)
        if not options.skips:
            refuse_bad_row(array, rows, begin, options.metric, options.threads)
        ia, ib, scores, found, is_full = core_similarity.group_join(
            array, rows.kind, offsets[first : last + 1] - offsets[first], options.metric, threshold,
            _room(options.max_pairs, count), options.threads,
        )  # fmt: skip
        count += found
        if is_full:
            _refuse_pairs(options.max_pairs, threshold, count, f"up to row {end}")
        parts.append((ia + begin, ib + begin, scores))
        first = last
        if progress is not None:
            progress(end, rows.count)
    return _joined(parts, True)
