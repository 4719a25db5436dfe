"""Log-sum-exps of the rows and the columns of a matrix of inner products, without the matrix.

The core makes tiles of it in 16-bit numbers, exact in their sums, and one exponential of an element serves its row and
its column: ``csrc/core/similarity/exp_sums.hpp``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast._core import similarity as core_similarity
from dcfast.process.compute import thread_count

Doubles = npt.NDArray[np.float64]

MOST_ERROR = 2e-5
"""Of an inner product by rounding to 16 bits (standard deviation); unit vectors of CLIP have a fifth of it."""
_LEAST_SHARE = 1e-6  # of a sum that may have vanished
_TILE = 1024
SMALL = 1024
"""So many pairs, or fewer, are computed in float64: there is little to average the rounding, and little to do."""


class LogSums(NamedTuple):
    """Of n pairs, natural logarithms, float64.

    Attributes:
        rows: (n,) log sum_j exp(scale x_i . y_j), j = i included.
        columns: (n,) log sum_j exp(scale x_j . y_i).
        diagonal: (n,) scale x_i . y_i.
    """

    rows: Doubles
    columns: Doubles
    diagonal: Doubles


def log_sums(
    x: npt.NDArray[np.floating], y: npt.NDArray[np.floating], scale: float, *, threads: int | None = None
) -> LogSums:
    """The log-sum-exps of all inner products of pairs, by row and by column.

    Args:
        x, y: (n, d) floats, finite, row i of both a pair; unit vectors as a rule.
        scale: of the inner products: 1 / temperature.
        threads: None means one per core; the result is the same for any number, and any processor.
    Returns:
        ``LogSums``: divided by ``scale`` they are off by at most MOST_ERROR (standard deviation) where a row is as good
        as one product, and by some 1e-6 of CLIP's embeddings; of SMALL pairs and fewer by nothing but float64.
    Raises:
        TypeError, ValueError: no floats, other shapes, no rows, a value that is not finite (named by row).
    Cost: n * n * d products; vectors so unlike in length that 16 bits do not serve are computed in float64, at ten
    times that. Memory: 12 n d bytes, and n * n / 48 bytes.
    """
    x, y = _checked(x, "x"), _checked(y, "y")
    if x.shape != y.shape:
        raise ValueError(f"x has shape {x.shape} and y {y.shape}: give as many rows, of one width")
    if not np.isfinite(scale):
        raise ValueError(f"scale must be finite; got {scale!r}: give 1 / temperature")
    count = thread_count(threads)
    if len(x) <= SMALL:
        return _exact(x, y, scale)
    rows, columns, own, shift, error = core_similarity.exp_sums(x.ravel(), y.ravel(), len(x), scale, count)
    with np.errstate(over="ignore"):
        positive = np.exp(np.minimum(own - shift, 700.0))
    lost = len(x) * 2.0**-126 / _LEAST_SHARE
    if error > MOST_ERROR * abs(scale) or bool((rows + positive < lost).any() or (columns + positive < lost).any()):
        return _exact(x, y, scale)
    with np.errstate(divide="ignore"):  # a single pair has no other
        by_row, by_column = np.log(rows) + shift, np.log(columns) + shift
    return LogSums(np.logaddexp(by_row, own), np.logaddexp(by_column, own), own)


def _checked(values: npt.NDArray[np.floating], name: str) -> npt.NDArray[np.float32]:
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        raise TypeError(f"{name} must be a NumPy array of floats; got {getattr(values, 'dtype', type(values))}")
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} must have shape (rows, width), both at least 1; got {values.shape}: give embeddings")
    floats = np.ascontiguousarray(values, np.float32)
    finite = np.isfinite(floats).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name}, row {int(np.flatnonzero(~finite)[0])}: not finite; leave such rows out")
    return floats


def _exact(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], scale: float) -> LogSums:
    """The same in float64, each row and column relative to its largest."""
    n, right = len(x), y.astype(np.float64)
    rows, own = np.empty(n), np.empty(n)
    columns = np.full(n, -np.inf)
    for begin in range(0, n, _TILE):
        z = (x[begin : begin + _TILE].astype(np.float64) * scale) @ right.T
        own[begin : begin + _TILE] = np.take_along_axis(z, np.arange(begin, begin + len(z))[:, None], axis=1)[:, 0]
        rows[begin : begin + _TILE] = _log_sum(z, 1)
        columns = np.logaddexp(columns, _log_sum(z, 0))
    return LogSums(rows, columns, own)


def _log_sum(z: Doubles, axis: int) -> Doubles:
    top = z.max(axis=axis, keepdims=True)
    total: Doubles = np.log(np.exp(z - top).sum(axis=axis)) + top.squeeze(axis)
    return total
