"""A share of the pool drawn by chance: the filter ``random(fraction)``, a pure function of uid and seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_SEED", "drawn"]

MAX_SEED = 2**53 - 1
"""Numbers of the filter language are floats: larger seeds would not be told apart."""


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    # the finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit moves every output bit
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def drawn(uids: npt.NDArray[np.void], fraction: float, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Which uids are among a share drawn by chance; larger shares of one seed hold the smaller ones.

    Args:
        uids: (n,) "u8,u8". Equal uids have equal answers, in any order and any number of files.
        fraction: expected share, 0..1.
        seed: 0..MAX_SEED; others draw independently.
    Returns:
        (n,) bool.   Memory: 40 n bytes.   Cost: O(n).
    """
    golden = 0x9E3779B97F4A7C15
    start = np.uint64((seed * golden + golden) % 2**64)
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(np.asarray(uids["f0"], np.uint64) + start) ^ np.asarray(uids["f1"], np.uint64))
    return np.asarray((mixed >> np.uint64(11)) < round(fraction * 2**53))
