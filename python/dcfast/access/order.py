"""The order of training and of shuffled datasets: which position is sample number g, by the seed and g alone.

Positions are canonical: the rank of a sample in the reshard plan, multiplicity expanded, several sources one after
the other. Neighbouring positions lie side by side on disk, so the order is made of blocks of them, mixed in windows
of a few blocks. Ranks and workers only choose which g they make; no permutation is ever stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from dcfast._core import reshard as core_reshard
from dcfast.access.counter import draw, stream_key

_SOURCE, _START, _WINDOW, _BLOCKS, _TAIL = 1, 2, 3, 4, 5  # streams of a seed
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Placement:
    """Where some samples lie, (n,) int64 each: position = base + (start + offset) % size.

    Attributes:
        base, size: the range of positions that the block lies in (a source, or all of them), a circle.
        start, length: the block in it.
        offset: the sample in the block.
    """

    base: Int64Array
    size: Int64Array
    start: Int64Array
    length: Int64Array
    offset: Int64Array

    def positions(self, attempt: int | Int64Array = 0) -> Int64Array:
        """(n,) positions; ``attempt`` > 0 is the replacement of a sample that cannot be used.

        First the following positions of its block, round it, then those behind the block.
        """
        step = np.broadcast_to(np.asarray(attempt, np.int64), self.offset.shape)
        inside = (self.offset + step) % self.length
        place: Int64Array = self.base + (self.start + np.where(step < self.length, inside, step)) % self.size
        return place


class Order:
    """The order of a training.

    Args:
        counts: samples of each source.
        weights: how often a sample of each source is taken relative to the others; None = all alike.
        resample: blocks are drawn with replacement, each position with the same probability (as DataComp resamples
            shards); else each position comes once before any comes again.
        block: neighbouring positions taken together.   window: blocks that are mixed.

    Memory: the last few windows, 8 bytes a sample.
    """

    def __init__(
        self,
        counts: Sequence[int],
        *,
        seed: int,
        weights: Sequence[float | Fraction] | None = None,
        resample: bool = True,
        block: int = 64,
        window: int = 64,
    ) -> None:
        if not counts or min(counts) < 1:
            raise ValueError(f"each source must have at least 1 sample; got {list(counts)}")
        if block < 1 or window < 1:
            raise ValueError(f"block and window must be at least 1; got {block} and {window}")
        if weights is not None:
            if len(weights) != len(counts) or not all(0 < w < float("inf") for w in weights):
                raise ValueError(f"weights must be {len(counts)} positive numbers; got {list(weights)}")
            if not resample and len(set(weights)) > 1:
                raise ValueError("weights need resample=True: without replacement each sample comes as often as others")
        self._begin = np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))])
        self._count = np.asarray(counts, np.int64)
        self.num_positions: int = int(self._begin[-1])
        self._block, self._window = block, window
        self._resample = resample
        self._seed = seed
        shares = [Fraction(w) * c for w, c in zip(weights or [1.0] * len(counts), counts, strict=True)]
        upto = [sum(shares[: i + 1], Fraction(0)) / sum(shares) for i in range(len(shares) - 1)]
        self._threshold = np.array([int(u * (1 << 64)) for u in upto], np.uint64)
        self._windows: dict[tuple[int, int, int], Int64Array] = {}

    def placement(self, samples: npt.ArrayLike) -> Placement:
        """Where the samples with some numbers g = step * global batch + slot lie."""
        g = np.asarray(samples, np.int64)
        return self._drawn(g) if self._resample else self._permuted(g)

    def source_of(self, positions: Int64Array) -> Int64Array:
        """(n,) the source that each position belongs to."""
        return np.searchsorted(self._begin, positions, side="right") - 1

    def source_begin(self, source: int) -> int:
        return int(self._begin[source])

    def _drawn(self, g: Int64Array) -> Placement:
        size = self._block * self._window
        number = g // size
        j = self._mixed(np.zeros_like(g), number, g % size, np.full_like(g, size))
        block = number * self._window + j // self._block
        source = np.searchsorted(self._threshold, draw(stream_key(self._seed, _SOURCE), block), side="right")
        count = self._count[source]
        start = (draw(stream_key(self._seed, _START), block) % count.astype(np.uint64)).astype(np.int64)
        return Placement(self._begin[source], count, start, np.minimum(self._block, count), j % self._block)

    def _permuted(self, g: Int64Array) -> Placement:
        n, size = self.num_positions, self._block * self._window
        turn, i = g // n, g % n
        number = i // size
        first = number * size
        j = first + self._mixed(turn, number, i - first, np.minimum(size, n - first))
        full, tail = divmod(n, self._block)
        # the short block comes at a drawn rank among the others
        rank_of_tail = (draw(stream_key(self._seed, _TAIL), turn) % np.uint64(full + 1)).astype(np.int64)
        split = rank_of_tail * self._block if tail else np.full_like(j, n)
        in_tail = (j >= split) & (j < split + tail)
        before = np.where(j >= split + tail, j - tail, j)
        block = np.full_like(j, full)
        for t in np.unique(turn[~in_tail]).tolist():
            here = ~in_tail & (turn == t)
            ranks, which = np.unique(before[here] // self._block, return_inverse=True)
            key = stream_key(self._seed, _BLOCKS, t)
            chosen = [core_reshard.permuted(full, key, rank, 1)[0] for rank in ranks.tolist()]
            block[here] = np.array(chosen, np.int64)[which]
        start = block * self._block
        length = np.minimum(self._block, n - start)
        offset = np.where(in_tail, j - split, before % self._block)
        return Placement(np.zeros_like(j), np.full_like(j, n), start, length, offset)

    def _mixed(self, turn: Int64Array, number: Int64Array, i: Int64Array, size: Int64Array) -> Int64Array:
        """Place i of each window goes where the window's own permutation says."""
        out = np.empty_like(i)
        for key in sorted(set(zip(turn.tolist(), number.tolist(), size.tolist(), strict=True))):
            if key not in self._windows:
                while len(self._windows) >= 4:
                    del self._windows[next(iter(self._windows))]
                seed = stream_key(self._seed, _WINDOW, key[0], key[1])
                self._windows[key] = core_reshard.permuted(key[2], seed, 0, key[2]).astype(np.int64)
            at = (turn == key[0]) & (number == key[1])
            out[at] = self._windows[key][i[at]]
        return out
