"""Hamming joins of hashes of 64 or 256 bits: all pairs within a distance, between two sets or inside one, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast._core import similarity as core_similarity
from dcfast.process.arguments import integer
from dcfast.process.compute import thread_count

DEFAULT_MAX_PAIRS = 1 << 24
"""18 bytes a pair in the result, at most 44 more while it is made: 1 GB at worst."""

BLOCK_PAIRS = 1 << 20
BLOCK_ROWS = 1 << 20

Hashes = npt.NDArray[np.uint64]


class HammingPairs(NamedTuple):
    """Pairs ``a[ia[k]]``, ``b[ib[k]]`` at ``distance[k]`` bits, sorted by ``ia``, then ``ib``."""

    ia: npt.NDArray[np.int64]
    ib: npt.NDArray[np.int64]
    distance: npt.NDArray[np.uint16]


def _hashes(values: npt.ArrayLike, name: str) -> Hashes:
    """Contiguous (n,) or (n, 4) uint64; an empty list may have any dtype."""
    array = np.asarray(values)
    if array.size == 0 and not isinstance(values, np.ndarray):
        array = array.astype(np.uint64)  # an empty list has no dtype of its own
    if array.dtype != np.uint64:
        raise TypeError(f"{name} must have dtype uint64; got {array.dtype}: pass hashes as unsigned words of 64 bits")
    if array.ndim != 1 and array.shape[1:] != (4,):
        raise ValueError(f"{name} must be of shape (n,) for 64 bits, (n, 4) for 256; got {array.shape}: use either")
    return np.require(array, np.uint64, ["C", "A"])


def _sides(a: npt.ArrayLike, b: npt.ArrayLike | None, max_distance: int) -> tuple[Hashes, Hashes | None, int]:
    """Both sides and the words of a hash, all of it checked."""
    left, right = _hashes(a, "a"), None if b is None else _hashes(b, "b")
    sides = [side for side in (left, right) if side is not None]
    widths = {side.shape[1:] for side in sides if side.size or side.ndim == 2}  # an empty list goes with any
    if len(widths) > 1:
        raise ValueError(f"a is of shape {left.shape} and b {sides[-1].shape}: pass hashes of one width on both sides")
    words = 4 if (4,) in widths else 1
    if not 0 <= integer(max_distance, "max_distance") <= 64 * words:
        raise ValueError(f"max_distance must be 0 to {64 * words} bits; got {max_distance}: pass a number of bits")
    return left, right, words


def _join(
    a: Hashes, b: Hashes | None, words: int, max_distance: int, max_pairs: int, threads: int
) -> HammingPairs | None:
    """None for more than max_pairs."""
    if b is None:
        pairs = core_similarity.hamming_self_join(a.reshape(-1), words, max_distance, max_pairs, threads)
    else:
        pairs = core_similarity.hamming_join(a.reshape(-1), b.reshape(-1), words, max_distance, max_pairs, threads)
    return None if pairs is None else HammingPairs(*pairs)


def hamming_join(
    a: npt.ArrayLike,
    b: npt.ArrayLike | None,
    max_distance: int,
    *,
    max_pairs: int = DEFAULT_MAX_PAIRS,
    threads: int | None = None,
) -> HammingPairs:
    """All pairs of hashes that differ in at most ``max_distance`` bits, exactly.

    Args:
        a: hashes, uint64: shape (N,) for 64 bits, (N, 4) for 256.
        b: hashes of the same width, shape (M,) or (M, 4); None: ``a`` is joined with itself, and of each two rows
            the pair ``ia < ib`` is reported alone, in half of the time.
        max_distance: bits, 0 to 64 or 256.
        max_pairs: refuse to return more pairs than this (``hamming_blocks`` has no such bound).
        threads: None means one per core. The result is the same for any number.

    Returns:
        ``HammingPairs(ia, ib, distance)``: int64, int64, uint16, shape (K,), sorted by ``ia``, then ``ib``.

    Raises:
        TypeError: an array is not uint64; a number is not an integer.
        ValueError: another shape; widths that differ; ``max_distance`` out of range; 2^32 hashes or more on a side;
            more than ``max_pairs`` pairs.

    Memory: 24 bytes a hash of 64 bits, 80 of 256; 4 bytes a slot of a table, of at most 16 slots a hash; 18 bytes a
    pair, and up to 44 more while the result is made. Cost: the cheaper of N x M comparisons (0.3 nanoseconds each on
    one core, of 256 bits 1) and multi-index hashing, which at 8 bits of 64 compares 1 pair in 350 of a million hashes
    with 100,000, and fewer of more. Hashes that are equal are compared once, so that crowds cost what they put out.

    Source: Norouzi, Punjani, Fleet, "Fast exact search in Hamming space with multi-index hashing" (2014).
    Example: ``hamming_join(hashes, None, 8).distance``
    """
    left, right, words = _sides(a, b, max_distance)
    if integer(max_pairs, "max_pairs") < 0:
        raise ValueError(f"max_pairs must not be negative; got {max_pairs}: pass how many pairs there may be")
    bound = min(int(max_pairs), 2**64 - 1)
    pairs = _join(left, right, words, int(max_distance), bound, thread_count(threads))
    if pairs is None:
        others = len(left) if right is None else len(right)
        raise ValueError(
            f"more than max_pairs={max_pairs} pairs within distance {max_distance} among {len(left)} x {others} "
            "hashes: take them by blocks (dcfast.similarity.hamming_blocks), lower max_distance or raise max_pairs"
        )
    return pairs


def hamming_blocks(
    a: npt.ArrayLike, b: npt.ArrayLike | None, max_distance: int, *, threads: int | None = None
) -> Iterator[HammingPairs]:
    """The pairs of ``hamming_join``, however many they are, for some rows of ``a`` after the other.

    Args, Raises: as ``hamming_join``, when it is called.
    Yields:
        ``HammingPairs``, none of them empty; end to end they are what ``hamming_join`` returns. At most ``BLOCK_PAIRS``
        pairs, or as many as ``b`` has rows, whichever is more.

    Memory: what ``hamming_join`` of ``BLOCK_ROWS`` rows and ``b`` takes, whatever the number of pairs. Cost: about that
    of ``hamming_join``; tables of ``b`` are made again for each block.
    """
    left, right, words = _sides(a, b, max_distance)
    return _blocks(left, right, words, int(max_distance), thread_count(threads))


def _blocks(a: Hashes, b: Hashes | None, words: int, max_distance: int, threads: int) -> Iterator[HammingPairs]:
    bound = max(BLOCK_PAIRS, len(a if b is None else b))  # the pairs of one row at least
    start, size = 0, BLOCK_ROWS
    while start < len(a):
        stop = min(start + size, len(a))
        pairs = _block(a, b, slice(start, stop), words, max_distance, bound, threads)
        if pairs is None:  # a crowd of alike hashes
            size = max(1, (stop - start) // 2)
            continue
        if len(pairs.ia):
            yield pairs
        start, size = stop, min(2 * size, BLOCK_ROWS)


def _block(
    a: Hashes, b: Hashes | None, rows: slice, words: int, max_distance: int, bound: int, threads: int
) -> HammingPairs | None:
    """The pairs of some rows of ``a``; None for more than ``bound``."""
    some = a[rows]
    first = _join(some, b, words, max_distance, bound, threads)
    if first is None:
        return None
    if b is not None:
        return first._replace(ia=first.ia + rows.start)
    later = _join(some, a[rows.stop :], words, max_distance, bound - len(first.ia), threads)
    if later is None:
        return None
    ia = np.concatenate([first.ia, later.ia])
    order = np.argsort(ia, kind="stable")  # a row's pairs inside of the block come before those with later rows
    ib = np.concatenate([first.ib + rows.start, later.ib + rows.stop])[order]
    return HammingPairs(ia[order] + rows.start, ib, np.concatenate([first.distance, later.distance])[order])
