"""Hamming distances between sets of 64-bit hashes: all pairs within a distance, and the nearest of each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast._core import similarity as core_similarity
from dcfast.process.arguments import integer, thread_count, uint64_array

# 17 bytes a pair in the result, at most 48 more while it is made: 1.1 GB at worst
DEFAULT_MAX_PAIRS = 1 << 24


class HammingPairs(NamedTuple):
    """Pairs ``a[ia[k]]``, ``b[ib[k]]`` at ``distance[k]``, sorted by ``ia``, then ``ib``."""

    ia: npt.NDArray[np.uint64]
    ib: npt.NDArray[np.uint64]
    distance: npt.NDArray[np.uint8]


class HammingNearest(NamedTuple):
    """For each of ``a``: where in ``b`` the nearest hash is (``ib``), and its ``distance``."""

    ib: npt.NDArray[np.uint64]
    distance: npt.NDArray[np.uint8]


def hamming_join(
    a: npt.ArrayLike, b: npt.ArrayLike, max_distance: int, *, max_pairs: int = DEFAULT_MAX_PAIRS, threads: int = 0
) -> HammingPairs:
    """All pairs of hashes that differ in at most ``max_distance`` bits, exactly.

    Args:
        a: hashes, shape (N,), uint64.
        b: hashes, shape (M,), uint64.
        max_distance: bits, 0 to 64.
        max_pairs: refuse to return more pairs than this.
        threads: 0 means one per core. The result is the same for any number.

    Returns:
        ``HammingPairs(ia, ib, distance)``: uint64, uint64, uint8, shape (K,), sorted by ``ia``, then ``ib``.

    Raises:
        TypeError: an array is not uint64; a number is not an integer.
        ValueError: an array is not one-dimensional; ``max_distance`` is outside 0 to 64; there are more than
            ``max_pairs`` pairs.

    Memory: 17 bytes a pair, and up to 48 more while the result is made. Cost: N x M comparisons of about a
    nanosecond on one core.
    """
    if not 0 <= integer(max_distance, "max_distance") <= 64:
        raise ValueError(f"max_distance must be 0 to 64 bits; got {max_distance}")
    if integer(max_pairs, "max_pairs") < 0:
        raise ValueError(f"max_pairs must not be negative; got {max_pairs}")
    left, right = uint64_array(a, "a", "64-bit hashes"), uint64_array(b, "b", "64-bit hashes")
    bound = min(int(max_pairs), 2**64 - 1)
    return HammingPairs(*core_similarity.hamming_join(left, right, int(max_distance), bound, thread_count(threads)))


def hamming_nearest(a: npt.ArrayLike, b: npt.ArrayLike, *, threads: int = 0) -> HammingNearest:
    """For each hash of ``a`` the nearest of ``b``; among equally near ones that of the lowest index.

    Args:
        a: hashes, shape (N,), uint64.
        b: hashes, shape (M,), uint64, M > 0 unless N is 0.
        threads: 0 means one per core. The result is the same for any number.

    Returns:
        ``HammingNearest(ib, distance)``: uint64 and uint8, shape (N,).

    Raises:
        TypeError: an array is not uint64; a number is not an integer.
        ValueError: an array is not one-dimensional; ``b`` is empty and ``a`` is not.

    Memory: 9 bytes for each of ``a``. Cost: N x M comparisons of about a nanosecond on one core.
    """
    left, right = uint64_array(a, "a", "64-bit hashes"), uint64_array(b, "b", "64-bit hashes")
    return HammingNearest(*core_similarity.hamming_nearest(left, right, thread_count(threads)))
