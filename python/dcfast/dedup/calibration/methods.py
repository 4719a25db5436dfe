"""The ways to compare pictures, each as vectors whose inner products are distances in whole numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.dedup.thresholds import MAX_DISTANCE, MAX_DISTANCE_256
from dcfast.images.signatures import Signatures, hash_variants

Vectors = npt.NDArray[np.float32]
ROWS_AT_A_TIME = 1024


@dataclass(frozen=True)
class Method:
    """A way to compare pictures.

    Attributes:
        most: the largest distance there is.
        step: 2 where only even distances occur (a hash of which half of the bits are always set), else 1.
        default: the threshold that dcfast's commands take; None where they have none.
        thresholds: those that are reported, ascending.
        turned: whether a picture is compared in all eight ways of turning it.
    """

    name: str
    title: str
    most: int
    step: int
    default: int | None
    thresholds: tuple[int, ...]
    turned: bool = False

    @property
    def comparisons(self) -> int:
        """Of a pair of pictures."""
        return 8 if self.turned else 1


PHASH = Method("phash", "64 bits", 64, 2, MAX_DISTANCE, tuple(range(0, 25, 2)))
WIDE = Method("phash256", "256 bits", 256, 1, MAX_DISTANCE_256, tuple(sorted({*range(0, 101, 4), MAX_DISTANCE_256})))
TURNED = Method("phash256_turned", "256 bits, turned", 256, 1, MAX_DISTANCE_256, WIDE.thresholds, turned=True)
DESCRIPTOR = Method("descriptor", "descriptor, 100 (1 - cosine)", 200, 1, None, tuple(range(0, 51, 2)))


class Coded(NamedTuple):
    """Pictures in the terms of a method: ``own`` (n, d); ``turned`` (n, 8, d), own first, or (n, 1, d); which match."""

    own: Vectors
    turned: npt.NDArray[np.float32]
    usable: npt.NDArray[np.bool_]

    def rows(self, rows: slice | npt.NDArray[np.int64]) -> Coded:
        return Coded(self.own[rows], self.turned[rows], self.usable[rows])


def of_hashes(method: Method, signed: Signatures) -> Coded:
    """Hashes as vectors of -1 and 1, so that a product of matrices counts the bits in which they differ, exactly."""
    if method is PHASH:
        own = _signs(signed.phash[:, None])
        return Coded(own, own[:, None], ~signed.flat)
    words = hash_variants(signed.phash256) if method.turned else signed.phash256[:, None]
    turned = _signs(words.reshape(-1, 4)).reshape(len(words), method.comparisons, 256)
    return Coded(turned[:, 0], turned, ~signed.flat256)


def of_descriptors(vectors: Vectors) -> Coded:
    """Unit vectors."""
    return Coded(vectors, vectors[:, None], np.ones(len(vectors), np.bool_))


def _signs(words: npt.NDArray[np.uint64]) -> Vectors:
    bits = np.unpackbits(np.ascontiguousarray(words, "<u8").view(np.uint8), axis=1, bitorder="little")
    return bits.astype(np.float32) * 2 - 1


def distances(method: Method, a: Vectors, b: Vectors) -> npt.NDArray[np.int64]:
    """(n, m): of rows of ``a`` and rows of ``b``; of descriptors in hundredths of the cosine, rounded down."""
    products = a @ b.T
    if method is DESCRIPTOR:
        apart = np.clip(np.floor(100 * (1 - products) + 1e-4), 0, method.most)
    else:
        apart = ((method.most - products) / 2).round()
    whole: npt.NDArray[np.int64] = apart.astype(np.int64)
    return whole


def nearest(method: Method, queries: Coded, database: Coded) -> npt.NDArray[np.int64]:
    """(n, m): the smallest over the ways of turning the queries; most + 1 where either matches nothing."""
    found = distances(method, queries.turned[:, 0], database.own)
    for way in range(1, queries.turned.shape[1]):
        found = np.minimum(found, distances(method, queries.turned[:, way], database.own))
    found[~queries.usable] = method.most + 1
    found[:, ~database.usable] = method.most + 1
    return found


def blocks(count: int) -> Iterator[slice]:
    """Rows a few at a time."""
    yield from (slice(begin, min(count, begin + ROWS_AT_A_TIME)) for begin in range(0, count, ROWS_AT_A_TIME))


Describe = Callable[[Sequence[bytes]], Vectors]
"""Encoded pictures -> their unit descriptors, (n, d); zeros for one that cannot be read."""
