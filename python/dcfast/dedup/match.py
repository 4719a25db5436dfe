"""Pool images matched with evaluation images: by content hash and by perceptual hash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcfast.similarity.hamming import DEFAULT_MAX_PAIRS, hamming_join
from dcfast.storage.parquet import read_table
from dcfast.uids.sets import uid_lookup

__all__ = ["JOIN_ROWS"]


JOIN_ROWS = 65_536
"""Pool pictures compared at a time, which bounds the pairs in memory."""


class EvalImages:
    """The readable pictures of all evaluation sets, as columns; ``source`` is (set, place in its table)."""

    def __init__(self, names: Sequence[str], tables: list[Path]) -> None:
        self.names = names
        self.tables = [read_table(path) for path in tables]
        kinds: list[Any] = []
        for number, table in enumerate(self.tables):
            columns = {c: table[c].to_numpy() for c in ("status", "flat", "h0", "h1", "phash")}
            place = np.flatnonzero(columns["status"] == 0)
            kinds.append(
                (np.full(len(place), number), place, *(columns[c][place] for c in ("h0", "h1", "phash", "flat")))
            )
        # there is at least one evaluation set, though perhaps none of its pictures is readable
        merged: list[Any] = [np.concatenate(parts) for parts in zip(*kinds, strict=True)]
        self.set_id, self.place, h0, h1, self.phash, self.flat = merged
        # sorted by content for look-ups; within equal content by set and place, so that the first is always the same
        order = np.lexsort((self.place, self.set_id, h1, h0))
        self.by_content = order
        self.content = np.empty(len(order), dtype="u8,u8")
        self.content["f0"], self.content["f1"] = h0[order], h1[order]
        self.structured = np.flatnonzero(self.flat == 0)

    def key(self, picture: int) -> tuple[str, str, str]:
        number, place = int(self.set_id[picture]), int(self.place[picture])
        table = self.tables[number]
        return self.names[number], table["shard"][place].as_py(), table["key"][place].as_py()


def exact_matches(evals: EvalImages, pool: Any, rows: Any) -> list[tuple[int, int, int]]:
    """(pool row, evaluation picture, 0) for equal bytes: the first picture of each evaluation set."""
    queries = np.empty(len(rows), dtype="u8,u8")
    queries["f0"], queries["f1"] = pool["h0"][rows], pool["h1"][rows]
    first, count = uid_lookup(evals.content, queries, threads=1)
    hits = []
    for i in np.flatnonzero(np.asarray(count) > 0):
        seen: set[int] = set()
        for picture in evals.by_content[int(first[i]) : int(first[i]) + int(count[i])]:
            if int(evals.set_id[picture]) not in seen:
                seen.add(int(evals.set_id[picture]))
                hits.append((int(rows[i]), int(picture), 0))
    return hits


def _joined(hashes: Any, rows: Any, others: Any, max_distance: int) -> Iterator[tuple[Any, Any]]:
    """(rows of a block, its Hamming pairs); blocks shrink where a crowd of alike pictures makes too many pairs."""
    start, size = 0, JOIN_ROWS
    while start < len(rows):
        block = rows[start : start + size]
        try:
            pairs = hamming_join(np.ascontiguousarray(hashes[block]), others, max_distance, threads=1)
        except ValueError:
            if len(block) * len(others) <= DEFAULT_MAX_PAIRS:
                raise  # not for the number of pairs
            size = max(1, len(block) // 2)
            continue
        yield block, pairs
        start += len(block)


def near_matches(evals: EvalImages, pool: Any, rows: Any, max_distance: int) -> list[tuple[int, int, int]]:
    """(pool row, evaluation picture, distance): the nearest picture of each evaluation set."""
    hits = []
    for block, (ia, ib, distance) in _joined(pool["phash"], rows, evals.phash[evals.structured], max_distance):
        # the indices are unsigned: NumPy would make floats of them together with signed ones
        ia, ib = ia.astype(np.int64), ib.astype(np.int64)
        picture = evals.structured[ib]
        sets = evals.set_id[picture]
        order = np.lexsort((picture, distance, sets, ia))  # nearest first; ties to the first picture
        ia, picture, distance, sets = ia[order], picture[order], distance[order], sets[order]
        first = np.ones(len(ia), dtype=bool)
        first[1:] = (ia[1:] != ia[:-1]) | (sets[1:] != sets[:-1])
        hits += [
            (int(block[a]), int(p), int(d)) for a, p, d in zip(ia[first], picture[first], distance[first], strict=True)
        ]
    return hits
