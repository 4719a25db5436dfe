"""Pool pictures matched with evaluation pictures: by content hash, perceptual hashes and descriptors, exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.dedup.evidence import CONTENT, DESCRIPTOR, PERCEPTUAL, PERCEPTUAL_256
from dcfast.dedup.signature_file import DescriptorInfo, Rows, SignatureFile, SignedSet, read_headers
from dcfast.dedup.thresholds import CONFIRMING_DISTANCE_256, LENGTH_TOLERANCE, UNCONFIRMED_DISTANCE
from dcfast.images.signatures import FLAT_QUALITY, VARIANTS, hash_variants
from dcfast.similarity import Database, hamming_join, join
from dcfast.uids.sets import uid_lookup

JOIN_ROWS = 65_536
"""Pool pictures compared at a time."""
MOST_PAIRS = 1 << 20
"""Pairs held at a time: fewer pictures are compared at a time where they are alike in crowds."""

Ints = npt.NDArray[np.int64]


class Limits(NamedTuple):
    """How near is near.

    Attributes:
        bits, bits256: most bits in which perceptual hashes of 64 and of 256 bits differ; None: not compared.
        scores: name of a descriptor -> least inner product.
        content: whether content hashes are compared.
        turned: whether the evaluation pictures are looked for turned and mirrored, too, by the hashes of 256 bits.
    """

    bits: int | None
    bits256: int | None
    scores: dict[str, float]
    content: bool = True
    turned: bool = False


class Hits(NamedTuple):
    """Pool pictures that are evaluation pictures, by one method: of each row and set the nearest picture.

    Attributes:
        row, picture: (n,) int64, sorted by row, then set.
        near: (n,) float32, bits in which hashes differ, or the score of descriptors.
    """

    method: str
    row: Ints
    picture: Ints
    near: npt.NDArray[np.float32]


class Described(NamedTuple):
    """The descriptors of one model, (n, dim) float32, ready to be searched, and (n,) int64, of which pictures."""

    info: DescriptorInfo
    picture: Ints
    database: Database


class EvalImages:
    """The readable pictures of the sets of some signature files.

    Attributes:
        sets: what is told of each set.   set_id: (n,) int64, the set of each picture.   records: (n,), its signature.
        descriptors: by the model's name.
    Memory: about 200 bytes a picture, and its descriptors; twice that while a file is read.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Reads signature files, each held against its fingerprints. Errors: ``read_headers``, ``SignatureFile``."""
        self.sets: list[SignedSet] = []
        self._parts: list[Rows] = []
        read_headers(files)
        infos: dict[str, DescriptorInfo] = {}
        columns: dict[str, list[tuple[int, Rows, int]]] = {}
        self._begin = [0]
        for file in files:
            with SignatureFile(file) as opened:
                rows = _readable(opened.read(), len(self.sets))
                self.sets += opened.header.sets
            for column, info in enumerate(opened.header.descriptors):
                infos[info.name] = info
                columns.setdefault(info.name, []).append((self._begin[-1], rows, column))
            self._parts.append(rows)
            self._begin.append(self._begin[-1] + len(rows))
        records = np.concatenate([part.records for part in self._parts])
        self.set_id: npt.NDArray[np.int64] = np.concatenate([part.set_id for part in self._parts])
        self.records = records
        # sorted by content for look-ups; within equal content by picture, so that the first is always the same
        readable = np.flatnonzero(records["status"] == 0)
        self.by_content: npt.NDArray[np.intp] = readable[
            np.lexsort((readable, records["h1"][readable], records["h0"][readable]))
        ]
        self.content: npt.NDArray[np.void] = np.empty(len(readable), dtype="u8,u8")
        self.content["f0"], self.content["f1"] = (records[name][self.by_content] for name in ("h0", "h1"))
        self.descriptors: dict[str, Described] = {
            name: _described(infos[name], parts) for name, parts in columns.items()
        }

    def __len__(self) -> int:
        return len(self.set_id)

    def keys(self, pictures: Ints) -> tuple[list[str], list[str], list[str]]:
        """Names of the sets, shards and keys of some pictures."""
        part = np.searchsorted(self._begin, pictures, side="right") - 1
        shards, keys = [], []
        for file, picture in zip(part.tolist(), pictures.tolist(), strict=True):
            at = picture - self._begin[file]
            shards.append(self._parts[file].shard[at].as_py())
            keys.append(self._parts[file].key[at].as_py())
        return [self.sets[number].name for number in self.set_id[pictures].tolist()], shards, keys


def _readable(rows: Rows, first_set: int) -> Rows:
    """Those of rows that have a hash or a descriptor, their sets numbered over all files."""
    import pyarrow as pa

    chosen = rows.records["status"] == 0
    for vectors in rows.descriptors:
        chosen |= vectors.any(axis=1)
    at = np.flatnonzero(chosen)
    shard, key = (text.take(pa.array(at)) for text in (rows.shard, rows.key))
    return Rows(rows.set_id[at] + first_set, shard, key, rows.records[at], [some[at] for some in rows.descriptors])


def _described(info: DescriptorInfo, parts: list[tuple[int, Rows, int]]) -> Described:
    vectors = [rows.descriptors[column] for _, rows, column in parts]
    there = [np.flatnonzero(some.any(axis=1)) for some in vectors]
    pictures = np.concatenate([begin + at for (begin, _, _), at in zip(parts, there, strict=True)])
    chosen = np.concatenate([some[at] for some, at in zip(vectors, there, strict=True)])
    return Described(info, pictures, Database(chosen, metric="ip"))


def valid_descriptors(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """(n,) bool of (n, d): which rows are finite and not zero; the others match nothing."""
    valid: npt.NDArray[np.bool_] = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    return valid


def unit_length(vectors: npt.NDArray[np.float32], usable: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float32], int]:
    """Descriptors of which those whose length is not 1 (to ``LENGTH_TOLERANCE``) are brought to it, and their number.

    ``usable``: see ``valid_descriptors``; the others stay.
    """
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    off = usable & (np.abs(length - 1) > LENGTH_TOLERANCE)
    if off.any():
        vectors = vectors.copy()
        vectors[off] = vectors[off] / length[off, None]
    return vectors, int(off.sum())


def _has_hash(records: npt.NDArray[np.void], method: str) -> npt.NDArray[np.bool_]:
    """Which pictures match others by a perceptual hash: there are no bits to compare in one that is flat."""
    flat = records["flat"] == 1 if method == PERCEPTUAL else records["quality"] < FLAT_QUALITY
    has: npt.NDArray[np.bool_] = (records["status"] == 0) & ~flat
    return has


def exact_matches(evals: EvalImages, pool: npt.NDArray[np.void], rows: Ints) -> Hits:
    """Equal bytes: the first picture of each evaluation set.

    Args:
        pool: signature records (``dcfast.dedup.records``).   rows: of them.
    """
    queries = np.empty(len(rows), dtype="u8,u8")
    queries["f0"], queries["f1"] = pool["h0"][rows], pool["h1"][rows]
    first, count = uid_lookup(evals.content, queries, threads=1)
    owner = np.repeat(np.arange(len(rows)), count)
    inside = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    picture = evals.by_content[np.repeat(first, count) + inside]
    return nearest_hits(evals, CONTENT, rows[owner], picture, np.zeros(len(owner), np.float32))


def near_matches(
    evals: EvalImages, pool: npt.NDArray[np.void], rows: Ints, most: int, method: str, *, turned: bool = False
) -> Hits:
    """The nearest picture of each evaluation set by perceptual hashes of 64 or of 256 bits. Flat ones match nothing.

    Of 64 bits only pairs that 256 bits confirm (``_confirmed``).   ``turned``: of 256 bits, the nearest of the eight
    ways of turning and mirroring. Memory of that: the eight hashes of ``JOIN_ROWS`` pool pictures, 16 MiB. It is the
    pool's side that is turned, block by block: the bits of a turned picture are the same bits elsewhere and some
    inverted, so that it is as far from the other as the other, turned back, is from it.
    """
    name = "phash" if method == PERCEPTUAL else "phash256"
    records, chosen = evals.records, np.flatnonzero(_has_hash(evals.records, method))
    others, rows = np.ascontiguousarray(records[name][chosen]), rows[_has_hash(pool[rows], method)]
    ways = len(VARIANTS) if turned and method == PERCEPTUAL_256 else 1

    def pairs(block: Ints, most_pairs: int) -> tuple[Ints, Ints, npt.NDArray[np.float32]]:
        own = np.ascontiguousarray(pool[name][block])
        if ways > 1:
            own = np.ascontiguousarray(hash_variants(own).reshape(-1, own.shape[1]))
        found = hamming_join(own, others, most, max_pairs=most_pairs, threads=1)
        ia, ib, near = found.ia // ways, found.ib, found.distance
        if method == PERCEPTUAL:
            kept = _confirmed(pool, block[ia], records, chosen[ib], near)
            ia, ib, near = ia[kept], ib[kept], near[kept]
        return ia, ib, near.astype(np.float32)

    return _joined(evals, method, rows, chosen, pairs, ways)


def _confirmed(
    pool: npt.NDArray[np.void], row: Ints, evals: npt.NDArray[np.void], picture: Ints, near: npt.NDArray[np.integer]
) -> npt.NDArray[np.bool_]:
    """Which pairs are no chance hits of 64 bits, by those of 256; where one picture is flat by these, the nearest."""
    apart = np.bitwise_count(pool["phash256"][row] ^ evals["phash256"][picture]).sum(axis=1)
    both = (pool["quality"][row] >= FLAT_QUALITY) & (evals["quality"][picture] >= FLAT_QUALITY)
    return np.where(both, apart <= CONFIRMING_DISTANCE_256, near <= UNCONFIRMED_DISTANCE)


def descriptor_matches(
    evals: EvalImages, name: str, vectors: npt.NDArray[np.floating], least: float, rows: Ints | None = None
) -> Hits:
    """The nearest picture of each evaluation set by the inner product of descriptors, from ``least`` on.

    Args:
        vectors: (n, d) of the pool.   rows: of them, all that are valid; None: looked for.
    """
    described = evals.descriptors[name]
    chosen = np.flatnonzero(valid_descriptors(vectors)) if rows is None else rows

    def pairs(block: Ints, most_pairs: int) -> tuple[Ints, Ints, npt.NDArray[np.float32]]:
        queries = np.ascontiguousarray(vectors[block], np.float32)
        found = join(queries, described.database, least, max_pairs=most_pairs, threads=1)
        return found.ia, found.ib, found.scores

    return _joined(evals, f"{DESCRIPTOR}{name}", chosen, described.picture, pairs)


_Pairs = Callable[[Ints, int], tuple[Ints, Ints, npt.NDArray[np.float32]]]


def _joined(evals: EvalImages, method: str, rows: Ints, pictures: Ints, pairs: _Pairs, ways: int = 1) -> Hits:
    """The nearest of all pairs, a block of rows at a time; ``ways``: pairs of a row and a picture at most."""
    found = [
        nearest_hits(evals, method, block[ia], pictures[ib], near)
        for block, (ia, ib, near) in _blocks(rows, ways * len(pictures), pairs)
    ]
    if not found:
        return Hits(method, np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    return Hits(method, *(np.concatenate([hits[i] for hits in found]) for i in (1, 2, 3)))


def _blocks(
    rows: Ints, others: int, pairs: _Pairs
) -> Iterator[tuple[Ints, tuple[Ints, Ints, npt.NDArray[np.float32]]]]:
    """(rows of a block, its pairs); blocks shrink where a crowd of alike pictures makes too many."""
    start, size = 0, JOIN_ROWS
    while start < len(rows) and others:
        block = rows[start : start + size]
        most = MOST_PAIRS if len(block) > 1 else max(MOST_PAIRS, others)
        try:
            found = pairs(block, most)
        except ValueError:
            if len(block) * others <= most:
                raise  # not for the number of pairs
            size = max(1, len(block) // 2)
            continue
        yield block, found
        start += len(block)


def nearest_hits(evals: EvalImages, method: str, row: Ints, picture: Ints, near: npt.NDArray[np.float32]) -> Hits:
    """Of pairs the nearest of each row and set; ties to the first picture."""
    sets = evals.set_id[picture]
    order = np.lexsort((picture, -near if method.startswith(DESCRIPTOR) else near, sets, row))
    row, picture, sets, near = row[order], picture[order], sets[order], near[order]
    first = np.ones(len(row), dtype=bool)
    first[1:] = (row[1:] != row[:-1]) | (sets[1:] != sets[:-1])
    return Hits(method, row[first], picture[first], near[first])


def all_matches(
    evals: EvalImages, pool: npt.NDArray[np.void], limits: Limits, described: dict[str, npt.NDArray[np.floating]]
) -> list[Hits]:
    """The hits of each method over some pool pictures.

    Args:
        pool: their signature records.   described: name of a model -> (n, d) descriptors of the same pictures.
    """
    readable = np.flatnonzero(pool["status"] == 0)
    near = partial(near_matches, evals, pool, readable)
    hits = [exact_matches(evals, pool, readable if limits.content else readable[:0])]
    for most, method in ((limits.bits, PERCEPTUAL), (limits.bits256, PERCEPTUAL_256)):
        if most is not None:
            hits.append(near(most, method, turned=limits.turned))
    names = sorted(described.keys() & evals.descriptors.keys() & limits.scores.keys())
    return hits + [descriptor_matches(evals, name, described[name], limits.scores[name]) for name in names]
