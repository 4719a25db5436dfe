"""Exact scores of blocks: float64 sums of the inputs as given, rounded once to float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dcfast.similarity.operands import Metric, Rows

BLOCK = 4096


def to_float64(rows: Rows, begin: int, end: int) -> npt.NDArray[np.float64]:
    part = rows.read(begin, end)
    if rows.kind == "bfloat16":
        return (part.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return part.astype(np.float64)


def valid_rows(values: npt.NDArray[np.float64], metric: Metric) -> npt.NDArray[np.bool_]:
    usable = np.isfinite(values).all(axis=1)
    return usable & (values != 0).any(axis=1) if metric == "cos" else usable


def load(
    rows: Rows, begin: int, end: int, metric: Metric, skips: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """(values, valid) of rows [begin, end); ValueError for an invalid row unless it is to be skipped."""
    values = to_float64(rows, begin, end)
    valid = valid_rows(values, metric)
    if not skips and not valid.all():
        row = int(np.flatnonzero(~valid)[0])
        what = "zero" if np.isfinite(values[row]).all() else "not finite"
        raise ValueError(
            f"{rows.name} row {begin + row} is {what}: leave such rows out, or pass invalid='skip' so that they match nothing"
        )
    values[~valid] = 0
    return values, valid


def block_scores(
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    metric: Metric,
    x_valid: npt.NDArray[np.bool_],
    y_valid: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float32]:
    """(n, m) float32; NaN where a side is not valid."""
    if metric == "l2":
        scores = np.stack([np.square(row - y).sum(axis=1) for row in x]) if len(x) else np.empty((0, len(y)))
    else:
        scores = x @ y.T
        if metric == "cos":
            with np.errstate(invalid="ignore"):
                scores /= np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
    scores[~x_valid] = np.nan
    scores[:, ~y_valid] = np.nan
    return scores.astype(np.float32)
