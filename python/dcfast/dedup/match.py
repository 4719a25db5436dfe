"""Pool images matched with evaluation images: by content hash and by perceptual hash."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.similarity.hamming import hamming_blocks
from dcfast.storage.parquet import read_table
from dcfast.uids.sets import uid_lookup


class Hit(NamedTuple):
    """A row of the pool whose picture is an evaluation picture, or near it: bits that the hashes differ in."""

    row: int
    picture: int
    distance: int


class EvalImages:
    """The readable pictures of all evaluation sets, as columns: ``set_id``, and ``place`` in the set's table."""

    def __init__(self, names: Sequence[str], tables: list[Path]) -> None:
        self.names = names
        self.tables = [read_table(path) for path in tables]
        # there is at least one evaluation set, though perhaps none of its pictures is readable
        places = [np.flatnonzero(table["status"].to_numpy() == 0) for table in self.tables]
        self.place = np.concatenate(places)
        self.set_id = np.repeat(np.arange(len(places)), [len(place) for place in places])

        def readable(name: str) -> npt.NDArray[np.uint64]:
            parts = zip(self.tables, places, strict=True)
            return np.concatenate([table[name].to_numpy()[place] for table, place in parts])

        h0, h1, self.phash = readable("h0"), readable("h1"), readable("phash")
        # sorted by content for look-ups; within equal content by set and place, so that the first is always the same
        self.by_content = np.lexsort((self.place, self.set_id, h1, h0))
        self.content = np.empty(len(h0), dtype="u8,u8")
        self.content["f0"], self.content["f1"] = h0[self.by_content], h1[self.by_content]
        self.structured = np.flatnonzero(readable("flat") == 0)

    def key(self, picture: int) -> tuple[str, str, str]:
        number, place = int(self.set_id[picture]), int(self.place[picture])
        table = self.tables[number]
        return self.names[number], table["shard"][place].as_py(), table["key"][place].as_py()


def exact_matches(evals: EvalImages, pool: npt.NDArray[np.void], rows: npt.NDArray[np.int64]) -> list[Hit]:
    """Equal bytes: the first picture of each evaluation set.

    Args:
        pool: signature records (``dcfast.dedup.records``).   rows: of them.
    """
    queries = np.empty(len(rows), dtype="u8,u8")
    queries["f0"], queries["f1"] = pool["h0"][rows], pool["h1"][rows]
    first, count = uid_lookup(evals.content, queries, threads=1)
    hits: list[Hit] = []
    for i in np.flatnonzero(count > 0):
        pictures = evals.by_content[int(first[i]) : int(first[i]) + int(count[i])]
        _, firsts = np.unique(evals.set_id[pictures], return_index=True)
        hits += [Hit(int(rows[i]), picture, 0) for picture in pictures[firsts].tolist()]
    return hits


def near_matches(
    evals: EvalImages, pool: npt.NDArray[np.void], rows: npt.NDArray[np.int64], max_distance: int
) -> list[Hit]:
    """The nearest picture of each evaluation set. Arguments as of ``exact_matches``."""
    hits: list[Hit] = []
    hashes = np.ascontiguousarray(pool["phash"][rows])
    for pairs in hamming_blocks(hashes, evals.phash[evals.structured], max_distance, threads=1):
        row, picture = rows[pairs.ia], evals.structured[pairs.ib]
        sets = evals.set_id[picture]
        order = np.lexsort((picture, pairs.distance, sets, row))  # nearest first; ties to the first picture
        row, picture, sets, distance = row[order], picture[order], sets[order], pairs.distance[order]
        first = np.ones(len(row), dtype=bool)
        first[1:] = (row[1:] != row[:-1]) | (sets[1:] != sets[:-1])
        hits += map(Hit, row[first].tolist(), picture[first].tolist(), distance[first].tolist())
    return hits
