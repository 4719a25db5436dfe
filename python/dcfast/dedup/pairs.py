"""Pairs of copies among samples: by equal bytes, by perceptual hashes, by embeddings. All pairs, exactly.

Samples have numbers; what is returned are edges (``dcfast.dedup.edges``), reduced to their lightest forest wherever
they could become many: a crowd of m alike pictures has m^2 / 2 pairs, and m - 1 edges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.dedup.edges import CONTENT, NARROW, SEMANTIC, WIDE, Edges, make_edges, no_edges
from dcfast.dedup.groups import lightest
from dcfast.images.signatures import hash_variants
from dcfast.similarity import Blocks, Pairs, hamming_blocks, join
from dcfast.uids.sets import record_sort

MAX_PAIRS = 1 << 21
"""That are held at a time: about 300 MB until they are reduced."""
PART_ROWS = 1 << 16
"""Embeddings that are compared with all others at a time; fewer where they are alike in crowds."""
CONTENT_ROWS = 1 << 20
"""Sorted records of content hashes that are looked at together."""
Numbers = npt.NDArray[np.int64]


class Hashed(NamedTuple):
    """Perceptual hashes of some samples, (n,) uint64 or (n, 4) uint64, and the samples' numbers, (n,) ascending."""

    hashes: npt.NDArray[np.uint64]
    numbers: Numbers


class Embedded(NamedTuple):
    """Embeddings of some samples, (n, d), an array or blocks read by slices, and the samples' numbers, (n,)."""

    rows: npt.NDArray[np.floating] | Blocks
    numbers: Numbers


def content_edges(records: npt.NDArray[np.void], first_new: int) -> Iterator[Edges]:
    """Edges from the first sample of each content to the new ones among the others.

    Args:
        records: (n,) RECORD_DTYPE, sorted, may be mapped: content hash, high half first, and the sample's number.
        first_new: samples below it are old.
    Memory: 150 MB, whatever n.
    """
    last, first = None, -1
    for begin in range(0, len(records), CONTENT_ROWS):
        part = records[begin : begin + CONTENT_ROWS]
        number = part["f2"].astype(np.int64)
        starts = np.ones(len(part), np.bool_)
        starts[1:] = (part["f0"][1:] != part["f0"][:-1]) | (part["f1"][1:] != part["f1"][:-1])
        starts[0] = (part["f0"][0], part["f1"][0]) != last
        # where the content of each record began; -1: in the part before
        at = np.maximum.accumulate(np.where(starts, np.arange(len(part)), -1))
        origin = np.where(at < 0, first, number[at])
        copies = (origin != number) & (number >= first_new)
        yield make_edges(CONTENT, origin[copies], number[copies])
        last, first = (part["f0"][-1], part["f1"][-1]), int(origin[-1])


def hash_edges(
    a: Hashed, b: Hashed | None, max_distance: int, *, variants: bool = False, threads: int | None = 1
) -> Edges:
    """Edges between samples whose hashes differ in at most ``max_distance`` bits, as their lightest forest.

    Args:
        a, b: samples of two blocks, none in both; b None: within a.
        variants: compare the turned and mirrored forms of the pictures as well; of 256-bit hashes alone.
        threads: of the join; None means one per core.
    Memory: what the join takes for both blocks, 100 bytes a sample (600 with ``variants``), and 300 MB.
    """
    method = NARROW if a.hashes.ndim == 1 else WIDE
    left, same = _distinct(a, method)
    right, others = (left, same) if b is None else _distinct(b, method)

    def found() -> Iterator[Edges]:
        yield same if b is None else no_edges()
        for variant, hashes in enumerate(_forms(right.hashes) if variants else [right.hashes]):
            within = b is None and variant == 0
            for pairs in hamming_blocks(left.hashes, None if within else hashes, max_distance, threads=threads):
                yield make_edges(method, left.numbers[pairs.ia], right.numbers[pairs.ib], pairs.distance, variant)
                if b is not None and variant == 0:
                    equal = pairs.distance == 0
                    yield _expanded(method, left.numbers[pairs.ia[equal]], right.numbers[pairs.ib[equal]], others)

    return gather(found())


def semantic_edges(a: Embedded, b: Embedded | None, threshold: float, *, threads: int | None = 1) -> Edges:
    """Edges between samples whose embeddings have a cosine of at least ``threshold``, as their lightest forest.

    Args:
        a, b: samples of two blocks, no row of them zero, infinite or NaN; b None: within a.
        threads: of the join; None means one per core.
    Memory: what the join takes, 65,536 rows, and 300 MB.
    """
    other = a if b is None else b
    return gather(
        make_edges(SEMANTIC, a.numbers[pairs.ia], other.numbers[pairs.ib], pairs.scores)
        for pairs in _semantic_pairs(a, other, threshold, threads)
    )


def _semantic_pairs(
    a: Embedded, b: Embedded, threshold: float, threads: int | None
) -> Iterator[Pairs[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """All pairs, some rows of ``a`` at a time: fewer where a crowd of alike ones makes too many. Within one set each
    pair comes once."""
    begin, size, count, others = 0, PART_ROWS, len(a.numbers), len(b.numbers)
    while begin < count and others:
        end = min(count, begin + size)
        # a row by itself has no more pairs than there are others
        most = MAX_PAIRS if end - begin > 1 else max(MAX_PAIRS, others)
        try:
            pairs = join(a.rows[begin:end], b.rows, threshold, metric="cos", max_pairs=most, threads=threads)  # type: ignore[call-overload]
        except ValueError:
            if (end - begin) * others <= most:
                raise  # not for the number of pairs
            size = max(1, (end - begin) // 4)
            continue
        ia = pairs.ia + begin
        once = ia < pairs.ib if a is b else np.ones(len(ia), np.bool_)
        yield Pairs(ia[once], pairs.ib[once], pairs.scores[once])
        begin, size = end, min(PART_ROWS, 2 * size)


def gather(parts: Iterable[Edges]) -> Edges:
    """The lightest forest of all edges of some parts. Memory: 300 MB, or 200 bytes an edge of the result."""
    held, count, most = [no_edges()], 0, MAX_PAIRS
    for part in parts:
        held.append(part)
        count += len(part)
        if count > most:
            held = [_reduced(held)]
            count = len(held[0])
            most = max(MAX_PAIRS, 2 * count)
    return _reduced(held)


def _distinct(samples: Hashed, method: str) -> tuple[Hashed, Edges]:
    """The first sample of each hash, and the edges from it to the others."""
    hashes, numbers = samples
    if not len(numbers):
        return samples, no_edges()
    # by hash, then number: those of one hash stand together, the first of them first
    order = np.argsort(hashes, kind="stable") if hashes.ndim == 1 else np.lexsort(hashes.T[::-1])
    ordered = hashes[order]
    differs = ordered[1:] != ordered[:-1]
    starts = np.ones(len(order), np.bool_)
    starts[1:] = differs if hashes.ndim == 1 else differs.any(axis=1)
    at = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    same = make_edges(method, numbers[order[at]][~starts], numbers[order[~starts]])
    firsts = np.sort(order[starts])
    return Hashed(np.ascontiguousarray(hashes[firsts]), numbers[firsts]), same


def _expanded(method: str, first: Numbers, second: Numbers, same: Edges) -> Edges:
    """Edges of samples to those that have the hash of their equals in another block, as all in one block would have.

    Args:
        first, second: pairs of equal hash, the first sample of each in its block.   same: of the second's block.
    """
    order = np.argsort(second)
    origin = same["f1"].astype(np.int64)
    at = np.searchsorted(second[order], origin)
    known = np.flatnonzero(at < len(order))
    known = known[second[order[at[known]]] == origin[known]]
    return make_edges(method, first[order[at[known]]], same["f2"][known].astype(np.int64))


def _forms(hashes: npt.NDArray[np.uint64]) -> list[npt.NDArray[np.uint64]]:
    turned = hash_variants(hashes)
    return [np.ascontiguousarray(turned[:, form]) for form in range(turned.shape[1])]


def _reduced(parts: Sequence[Edges]) -> Edges:
    return lightest(record_sort(np.concatenate(parts), threads=1))
