"""Random numbers by counter: the i-th of a stream is computed alone, the same on every machine and for every worker.

splitmix64 (Steele, Lea and Flood, OOPSLA 2014) of a key plus a counter, with NumPy's exact integer arithmetic. The
numbers decide what a training sees, and the order of shuffled datasets: they must not change.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def stream_key(seed: int, *labels: int) -> int:
    """A 64-bit key for one of many independent streams of a seed."""
    key = _mix((seed + _GOLDEN) & _MASK)
    for label in labels:
        key = _mix((key ^ _mix((label + _GOLDEN) & _MASK)) + _GOLDEN & _MASK)
    return key


def draw(key: int, counters: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """64 random bits for each counter, shape as given."""
    x = np.atleast_1d(np.asarray(counters)).astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return bits


def uniform(key: int, counters: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each counter, a multiple of 2^-53."""
    return (draw(key, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53
