"""One device's share of a search: blocks of queries against a database that stays there, or comes in parts.

Each part is screened (``gpu_screen``), candidates within the bound of ``gpu_operands`` are scored exactly
(``gpu_scores``), and the exact answers of parts are joined. No answer depends on tiles, parts or the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dcfast.similarity.gpu_operands import (
    Columns,
    Queries,
    prepare_columns,
    prepare_queries,
    rounded_down,
    screening_dtype,
)
from dcfast.similarity.gpu_screen import Screen, products
from dcfast.similarity.gpu_upload import Part, load_part
from dcfast.similarity.operands import Kind, Metric, Rows

CAPACITY = 1 << 24
"""Candidates that one pass has room for: 128 MB. More are found in several passes."""
CPU_PART = 1 << 16  # rows of a database at a time on the CPU, which is for tests
_FIRST = 2048  # columns that give the first threshold of a top-k
_LOW = 0xFFFFFFFF
_NOTHING = -(2**63)


@dataclass
class Found:
    """A part of a database on the device, valid rows alone: ``part.index`` are their places in the database."""

    part: Part
    columns: Columns


@dataclass
class DeviceSearch:
    """A database on one device.

    Args:
        rows: of the database, in memory at once where they fit into half of what is free.
    """

    device: torch.device
    rows: Rows
    metric: Metric
    skips: bool
    screen: Screen
    _resident: dict[torch.dtype, list[Found]] = field(default_factory=dict)

    @property
    def sign(self) -> float:
        """Scores times this are better the higher they are."""
        return -1.0 if self.metric == "l2" else 1.0

    def _part_rows(self) -> int:
        if self.device.type != "cuda":
            return CPU_PART
        free = torch.cuda.mem_get_info(self.device)[0]
        item = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}[self.rows.kind]
        return max(4096, min(2**31 - 512, free // 2 // (self.rows.width * (item + 2) + 32)))

    def _parts(self, kind: Kind) -> Iterator[Found]:
        dtype = screening_dtype(kind, self.rows.kind)
        if dtype in self._resident:
            yield from self._resident[dtype]
            return
        step = self._part_rows()
        kept: list[Found] = []
        for begin in range(0, self.rows.count, step):
            part = load_part(self.rows, begin, min(self.rows.count, begin + step), self.device, self.metric, self.skips)
            if not len(part.values):
                continue
            found = Found(part, prepare_columns(part.values, self.metric, dtype, self.screen))
            if step >= self.rows.count:
                kept.append(found)
            yield found
        if step >= self.rows.count:
            self._resident[dtype] = kept

    def _candidates(self, queries: Tensor, found: Found, threshold: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows, columns) of screened scores that reach each row's threshold, ``CAPACITY`` at a time or a row's."""
        cols = found.columns.copy.values
        capacity = max(CAPACITY, len(cols))
        waiting = [(0, len(queries))]
        while waiting:
            begin, end = waiting.pop()
            if begin == end:
                continue
            room = min(capacity, (end - begin) * len(cols))
            keys, count = self.screen.above(queries[begin:end], cols, threshold[begin:end], room)
            if count <= room:
                if count:
                    yield (keys >> 32) + begin, keys & _LOW
                continue
            pieces = min(end - begin, 2 * math.ceil(count / capacity))
            size = -(-(end - begin) // pieces)
            waiting += [(b, min(end, b + size)) for b in range(begin, end, size)][::-1]

    def _scores(self, x: Tensor, found: Found, rows: Tensor, cols: Tensor) -> Tensor:
        """(c,) float32 scores, float64 sums rounded once."""
        y, sums = found.part.values, self.screen.pair_sums
        scores = sums(x, y, rows, cols, self.metric == "l2")
        if self.metric == "cos":
            scores /= sums(x, x, rows, rows, False).sqrt_() * sums(y, y, cols, cols, False).sqrt_()
        return scores.float()

    def best(self, queries: Part, kind: Kind) -> tuple[Tensor, Tensor]:
        """(scores, indices) of the best row of the database; -1 and the worst score where there is none."""
        score = torch.full((len(queries.values),), -math.inf, device=self.device)
        index = torch.full((len(queries.values),), -1, dtype=torch.int64, device=self.device)
        for found in self._parts(kind) if len(queries.values) else ():
            ready = prepare_queries(queries.values, found.columns, self.screen)
            high, place, following = self.screen.best_two(ready.values, found.columns.copy.values)
            # where the next best is too near, both are scored, and whatever else is as near
            near = ~(high.double() - following.double() > 2 * ready.bound)
            sure, unsure = (~near).nonzero()[:, 0], near.nonzero()[:, 0]
            self._improve(score, index, queries.values, found, sure, place[sure])
            limit = rounded_down(high[unsure].double() - 2 * ready.bound[unsure])
            for rows, cols in self._candidates(ready.values[unsure], found, limit):
                self._improve(score, index, queries.values, found, unsure[rows], cols)
        return score * self.sign, index

    def _improve(self, score: Tensor, index: Tensor, x: Tensor, found: Found, rows: Tensor, cols: Tensor) -> None:
        """Takes candidates into the best so far, in place; of equal scores the lowest index."""
        scores = self._scores(x, found, rows, cols) * self.sign
        before = score.clone()
        score.scatter_reduce_(0, rows, scores, "amax")
        better = score > before
        far = torch.full_like(index, 2**62)
        ties = scores == score[rows]
        far.scatter_reduce_(0, rows[ties], found.part.index[cols[ties]], "amin")
        lowest = torch.minimum(far, torch.where(better | (index < 0), 2**62, index))
        index.copy_(torch.where(lowest < 2**62, lowest, index))

    def topk(self, queries: Part, kind: Kind, k: int, exclude_self: bool) -> tuple[Tensor, Tensor]:
        """(scores, indices), each (n, k), best first; -1 and the worst score where there are fewer."""
        n = len(queries.values)
        keys = torch.full((n, k), _NOTHING, dtype=torch.int64, device=self.device)
        for found in self._parts(kind) if n else ():
            ready = prepare_queries(queries.values, found.columns, self.screen)
            width = len(found.part.values)
            first = min(width, max(_FIRST, 4 * k))
            floor = self._floor(ready, found, first, k + exclude_self)
            begin, end = 0, min(width, 2 * first)
            while begin < width:
                worst = unpacked(keys[:, -1])[0].double() * self.sign
                limit = torch.maximum(floor, rounded_down(ready.scaled(worst) - ready.bound))
                limit = torch.where(keys[:, -1] == _NOTHING, floor, limit)
                columns = self._slice(found, begin, end)
                for rows, cols in self._candidates(ready.values, columns, limit):
                    keys = self._merged(keys, queries, columns, rows, cols, exclude_self)
                begin, end = end, min(width, 2 * end)
        score, index = unpacked(keys)
        return score * self.sign, index

    def _floor(self, ready: Queries, found: Found, first: int, k: int) -> Tensor:
        """(n,) float32: no screened score below it can be among the k best, judged by the first columns."""
        floor = torch.full((len(ready.values),), -math.inf, device=self.device)
        if k > first:
            return floor
        cols = found.columns.copy.values[:first]
        for begin in range(0, len(floor), 16384):
            part = slice(begin, begin + 16384)
            kth = products(ready.values[part], cols).topk(k, dim=1).values[:, -1].double()
            floor[part] = rounded_down(kth - 2 * ready.bound[part])
        return floor

    @staticmethod
    def _slice(found: Found, begin: int, end: int) -> Found:
        copy = found.columns.copy
        narrowed = Columns(
            type(copy)(copy.values[begin:end], copy.scale, copy.norms[begin:end], copy.errors[begin:end],
                       copy.squares[begin:end]),
            found.columns.metric, found.columns.tops,
        )  # fmt: skip
        return Found(Part(found.part.values[begin:end], found.part.index[begin:end]), narrowed)

    def _merged(
        self, keys: Tensor, queries: Part, found: Found, rows: Tensor, cols: Tensor, exclude_self: bool
    ) -> Tensor:
        """The k best of what was there and of candidates, all of them exact."""
        n, k = keys.shape
        index = found.part.index[cols]
        if exclude_self:
            other = index != queries.index[rows]
            rows, cols, index = rows[other], cols[other], index[other]
        scores = self._scores(queries.values, found, rows, cols) * self.sign
        every = torch.cat((keys.flatten(), packed(scores, index)))
        owner = torch.cat((torch.arange(n, device=self.device).repeat_interleave(k), rows))
        order = every.argsort(descending=True, stable=True)
        order = order[owner[order].argsort(stable=True)]
        counts = torch.bincount(owner, minlength=n)
        starts = counts.cumsum(0) - counts  # every row has at least k
        return every[order[starts[:, None] + torch.arange(k, device=self.device)]]

    def pairs(
        self, queries: Part, kind: Kind, threshold: float, exclude_self: bool, later_only: bool
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(ia, ib, scores) of pairs that reach the threshold, in pieces, unsorted.

        Args:
            later_only: pairs with ib > ia alone.
        """
        for found in self._parts(kind) if len(queries.values) else ():
            if later_only:
                begin = int(torch.searchsorted(found.part.index, queries.index[0]))
                if begin == len(found.part.index):
                    continue
                found = self._slice(found, begin, len(found.part.index))
            ready = prepare_queries(queries.values, found.columns, self.screen)
            # scores beyond the largest float32 are infinite, and reach a threshold that is
            finite = min(threshold * self.sign, torch.finfo(torch.float32).max) * self.sign
            limit = rounded_down(ready.scaled(finite) - ready.bound)
            for rows, cols in self._candidates(ready.values, found, limit):
                scores = self._scores(queries.values, found, rows, cols)
                kept = scores * self.sign >= threshold * self.sign
                ia, ib = queries.index[rows], found.part.index[cols]
                if later_only:
                    kept &= ib > ia
                elif exclude_self:
                    kept &= ib != ia
                yield ia[kept], ib[kept], scores[kept]


def packed(scores: Tensor, index: Tensor) -> Tensor:
    """int64 that are higher for a higher score, of equal scores for a lower index (below 2^32)."""
    bits = (scores + 0.0).view(torch.int32)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return bits.long() << 32 | (_LOW - index)


def unpacked(keys: Tensor) -> tuple[Tensor, Tensor]:
    """(scores, indices); -inf and -1 of what is nothing."""
    bits = (keys >> 32).to(torch.int32)
    scores = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
    nothing = keys == _NOTHING
    return scores.masked_fill(nothing, -math.inf), (_LOW - (keys & _LOW)).masked_fill(nothing, -1)
