"""Hamming distances between sets of 64-bit hashes: all pairs within a distance, and the nearest of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast._core import similarity as core_similarity

__all__ = ["HammingNearest", "HammingPairs", "hamming_join", "hamming_nearest"]

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
    if not 0 <= _integer(max_distance, "max_distance") <= 64:
        raise ValueError(f"max_distance must be 0 to 64 bits; got {max_distance}")
    if _integer(max_pairs, "max_pairs") < 0:
        raise ValueError(f"max_pairs must not be negative; got {max_pairs}")
    left, right = _hashes(a, "a"), _hashes(b, "b")
    bound = min(int(max_pairs), 2**64 - 1)
    return HammingPairs(*core_similarity.hamming_join(left, right, int(max_distance), bound, _threads(threads)))


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
    return HammingNearest(*core_similarity.hamming_nearest(_hashes(a, "a"), _hashes(b, "b"), _threads(threads)))


def _hashes(values: npt.ArrayLike, name: str) -> npt.NDArray[np.uint64]:
    array = np.asarray(values)
    if array.size == 0 and not isinstance(values, np.ndarray):
        array = array.astype(np.uint64)  # an empty list has no dtype of its own
    if array.dtype != np.uint64:
        raise TypeError(f"{name} must have dtype uint64 (64-bit hashes); got {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional; got shape {array.shape}")
    return np.require(array, np.uint64, ["C", "A"])


def _integer(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer; got {type(value).__name__}")
    return int(value)


def _threads(threads: Any) -> int:
    count = _integer(threads, "threads")
    if not 0 <= count <= 4096:
        raise ValueError(f"threads must be 0 (one per core) to 4096; got {count}")
    return count
