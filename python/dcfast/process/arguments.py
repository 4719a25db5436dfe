"""Checks of what a caller passes to the core: whole numbers, and arrays of them.

``name`` is the argument's, for the message. Cost: one look at an array's values at most; a copy where the core could
not borrow it as it is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def integer(value: object, name: str) -> int:
    """An int or a NumPy integer, as int; TypeError for everything else, bool among it."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer; got {type(value).__name__}")
    return int(value)


def unsigned_array(
    values: npt.ArrayLike, name: str, *, negative: type[Exception] = ValueError
) -> npt.NDArray[np.uint64]:
    """(n,) integers of any dtype, none of them negative, as contiguous uint64.

    Raises:
        TypeError: no integers (empty ones may have any dtype).   ValueError: not one-dimensional.
        ``negative``: one is.
    """
    array = np.asarray(values)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, np.uint64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers; got dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional; got shape {array.shape}")
    if array.dtype.kind == "i" and int(array.min()) < 0:
        raise negative(f"{name} must not be negative; got {int(array.min())}")
    return np.ascontiguousarray(array, np.uint64)


def uint64_array(values: npt.ArrayLike, name: str, what: str) -> npt.NDArray[np.uint64]:
    """(n,) uint64 and no other dtype, contiguous and aligned; an empty list may have any.

    Args:
        what: the numbers are, for the message.
    Raises:
        TypeError: another dtype.   ValueError: not one-dimensional.
    """
    array = np.asarray(values)
    if array.size == 0 and not isinstance(values, np.ndarray):
        array = array.astype(np.uint64)  # an empty list has no dtype of its own
    if array.dtype != np.uint64:
        raise TypeError(f"{name} must have dtype uint64 ({what}); got {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional; got shape {array.shape}")
    return np.require(array, np.uint64, ["C", "A"])
