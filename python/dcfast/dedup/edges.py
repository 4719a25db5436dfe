"""Pairs of copies as edges of a graph: how two samples are alike, packed so that the strongest evidence sorts first.

An edge is a record of three numbers, as ``dcfast.uids`` sorts and merges them on disk: its weight, and its two samples,
the lower number first. A weight holds the method, then the distance, then the variant; so edges in the order of such
records are in the order of their evidence, whatever parts they were found in.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.dedup.options import METHODS
from dcfast.uids.files import RECORD_DTYPE
from dcfast.uids.sets import record_sort

CONTENT, WIDE, NARROW, SEMANTIC = METHODS

Weights = npt.NDArray[np.uint64]
Edges = npt.NDArray[np.void]
"""(n,) RECORD_DTYPE: weight, lower sample, higher sample."""
_METHOD, _DISTANCE = np.uint64(48), np.uint64(16)
APART = np.uint64(2**64 - 1)
"""The weight of no edge."""
_LOW_32, _LOW_16 = np.uint64(0xFFFFFFFF), np.uint64(0xFFFF)


class Evidence(NamedTuple):
    """What the weights of edges say, arrays of shape (n,).

    Attributes:
        method: indices into METHODS.   variant: which turn or mirror image matched; 0: the picture as it is.
        distance: bits that the hashes differ in; 0 for the other methods.
        score: cosine of the embeddings; NaN for the other methods.
    """

    method: npt.NDArray[np.uint8]
    variant: npt.NDArray[np.uint8]
    distance: npt.NDArray[np.uint16]
    score: npt.NDArray[np.float32]


def no_edges() -> Edges:
    return np.empty(0, RECORD_DTYPE)


def make_edges(
    method: str,
    a: npt.NDArray[np.int64],
    b: npt.NDArray[np.int64],
    distance: npt.NDArray[np.integer] | npt.NDArray[np.float32] | None = None,
    variant: int = 0,
) -> Edges:
    """Sorted edges of pairs of samples; pairs of a sample with itself are none.

    Args:
        method: one of METHODS.
        a, b: (n,) numbers of samples, none negative.
        distance: (n,) bits, or cosines where the method is semantic; None: all are equal.
        variant: which turn or mirror image of a picture it was, 0 to 255.
    Memory: 24 bytes a pair for the result, and twice that on the way.
    """
    edges = np.empty(len(a), RECORD_DTYPE)
    if distance is None:
        key: npt.NDArray[np.uint64] = np.zeros(len(a), np.uint64)
    elif method == SEMANTIC:
        key = _falling(np.asarray(distance, np.float32))
    else:
        key = np.asarray(distance).astype(np.uint64)
    edges["f0"] = _weights(method, key, variant)
    edges["f1"], edges["f2"] = np.minimum(a, b), np.maximum(a, b)
    return record_sort(edges[a != b], threads=1)


def _weights(method: str, key: npt.NDArray[np.uint64], variant: int) -> npt.NDArray[np.uint64]:
    return (np.uint64(METHODS.index(method)) << _METHOD) | (key << _DISTANCE) | np.uint64(variant)


def weights(method: str, alike: npt.NDArray[np.bool_], bits: npt.NDArray[np.int64], variant: int = 0) -> Weights:
    """(n,) of pairs by bytes or hashes: the weights of their edges, APART where they are not alike."""
    return np.where(alike, _weights(method, bits.astype(np.uint64), variant), APART)


def read_edges(edges: Edges) -> Evidence:
    """The evidence that edges stand for."""
    weight = np.ascontiguousarray(edges["f0"])
    method = (weight >> _METHOD).astype(np.uint8)
    key = (weight >> _DISTANCE) & _LOW_32
    semantic = method == METHODS.index(SEMANTIC)
    return Evidence(
        method,
        (weight & _LOW_16).astype(np.uint8),
        np.where(semantic, 0, key).astype(np.uint16),
        np.where(semantic, _risen(key), np.float32(np.nan)).astype(np.float32),
    )


def _falling(score: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """Keys of 32 bits, the lower the higher the score."""
    bits = (score + np.float32(0)).view(np.uint32)  # -0.0 is 0.0
    top = np.uint32(1 << 31)
    return (~np.where(bits & top, ~bits, bits | top)).astype(np.uint64)


def _risen(key: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
    """The scores of their keys."""
    bits, top = ~key.astype(np.uint32), np.uint32(1 << 31)
    return np.where(bits & top, bits ^ top, ~bits).astype(np.uint32).view(np.float32)
