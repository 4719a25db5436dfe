"""All pairs of rows whose score reaches a threshold: ``join``, ``any_above``, ``group_join``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Unpack, overload

import numpy as np
import numpy.typing as npt

from dcfast.process.arguments import integer
from dcfast.process.compute import thread_count
from dcfast.similarity import cpu
from dcfast.similarity.database import Database, as_database
from dcfast.similarity.devices import placed
from dcfast.similarity.operands import (
    ArrayLike,
    Bools,
    Devices,
    F,
    Floats,
    I,
    Integers,
    Invalid,
    Metric,
    Progress,
    Rows,
    RowsLike,
    SearchOptions,
    as_rows,
    check_invalid,
    check_metric,
    check_sides,
    restore,
)

if TYPE_CHECKING:
    import torch

MAX_PAIRS = 1 << 26
"""Pairs a join gives at most where nothing else is asked for: 20 bytes each, 1.3 GB, and 40 while they are made."""


class Pairs(NamedTuple, Generic[I, F]):
    """Pairs ``a[ia[i]]``, ``b[ib[i]]`` with scores, sorted by ``ia``, then ``ib``. Torch tensors where ``a`` was."""

    ia: I
    ib: I
    scores: F


def _threshold(threshold: float) -> np.float32:
    value = np.float32(threshold)
    if np.isnan(value):
        raise ValueError(f"threshold must be a number; got {threshold!r}: give a score")
    return value


def _most(max_pairs: int) -> int:
    bound = integer(max_pairs, "max_pairs")
    if bound < 0:
        raise ValueError(f"max_pairs must not be negative; got {max_pairs}: pass how many pairs there may be")
    return bound


@overload
def join(  # type: ignore[overload-overlap]  # a tensor is rows with slices, too
    a: torch.Tensor,
    b: RowsLike | Database,
    threshold: float,
    *,
    exclude_self: bool = False,
    max_pairs: int = MAX_PAIRS,
    **options: Unpack[SearchOptions],
) -> Pairs[torch.Tensor, torch.Tensor]: ...
@overload
def join(
    a: ArrayLike,
    b: RowsLike | Database,
    threshold: float,
    *,
    exclude_self: bool = False,
    max_pairs: int = MAX_PAIRS,
    **options: Unpack[SearchOptions],
) -> Pairs[Integers, Floats]: ...
def join(
    a: RowsLike,
    b: RowsLike | Database,
    threshold: float,
    *,
    metric: Metric | None = None,
    exclude_self: bool = False,
    max_pairs: int = MAX_PAIRS,
    invalid: Invalid = "raise",
    device: Devices = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Pairs[Any, Any]:
    """All pairs whose score is at least ``threshold`` ("l2": at most), exactly.

    Args:
        a: (n, d), as the queries of ``topk``.
        b: (m, d), or a ``Database``.
        threshold: compared as float32 with the float32 score.
        exclude_self: a and b are one set: pairs of a row with itself are left out (each other pair comes twice).
        max_pairs: more are an error. A pair takes 20 bytes, and 40 while pairs are made.
        metric, invalid, device, threads, progress: as of ``topk``.
    Returns:
        ``Pairs(ia, ib, scores)``: int64, int64, float32, sorted by ``ia``, then ``ib``.
    Raises:
        TypeError, ValueError: as of ``topk``; more than ``max_pairs`` pairs, with the count so far.
    Example: ``join(queries, points, 0.5, metric="cos").scores``
    """
    left, right = as_rows(a, "a"), as_database(b, metric, "b", invalid)
    check_sides(left, right.rows)
    skips, limit, bound = check_invalid(invalid), _threshold(threshold), _most(max_pairs)
    count = thread_count(threads)
    if devices := placed(device, left, right.rows):
        from dcfast.similarity import gpu

        same = exclude_self and gpu.same_rows(left, right.rows)
        search = gpu.Search(left, right, devices, skips, progress)
        return Pairs(*gpu.join(search, float(limit), exclude_self, bound, same))
    found = cpu.join(cpu.Search(left, right, skips, count, progress), float(limit), exclude_self, bound)
    return _as_given(found, left)


def _as_given(found: cpu.PairArrays, rows: Rows) -> Pairs[Any, Any]:
    return Pairs(*(restore(field, as_torch=rows.is_torch) for field in found))


@overload
def any_above(  # type: ignore[overload-overlap]  # a tensor is rows with slices, too
    queries: torch.Tensor,
    database: RowsLike | Database,
    threshold: float,
    *,
    exclude_self: bool = False,
    **options: Unpack[SearchOptions],
) -> torch.Tensor: ...
@overload
def any_above(
    queries: ArrayLike,
    database: RowsLike | Database,
    threshold: float,
    *,
    exclude_self: bool = False,
    **options: Unpack[SearchOptions],
) -> Bools: ...
def any_above(
    queries: RowsLike,
    database: RowsLike | Database,
    threshold: float,
    *,
    metric: Metric | None = None,
    exclude_self: bool = False,
    invalid: Invalid = "raise",
    device: Devices = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Any:
    """Whether any row of the database reaches the threshold ("l2": is within it), (n,) bool; else as ``join``.

    Example: ``points[~any_above(points, queries, 0.9)]``: those that are like no query.
    """
    rows, prepared = as_rows(queries, "queries"), as_database(database, metric, "database", invalid)
    check_sides(rows, prepared.rows)
    count = thread_count(threads)
    limit = _threshold(threshold)
    if devices := placed(device, rows, prepared.rows):
        from dcfast.similarity import gpu

        on_gpus = gpu.Search(rows, prepared, devices, check_invalid(invalid), progress)
        return gpu.any_above(on_gpus, float(limit), exclude_self)
    if prepared.rows.count <= bool(exclude_self):
        return restore(np.zeros(rows.count, np.bool_), as_torch=rows.is_torch)
    search = cpu.Search(rows, prepared, check_invalid(invalid), count, progress)
    return restore(cpu.any_above(search, float(limit), exclude_self), as_torch=rows.is_torch)


@overload
def group_join(  # type: ignore[overload-overlap]  # a tensor is rows with slices, too
    x: torch.Tensor,
    offsets: npt.ArrayLike,
    threshold: float,
    *,
    max_pairs: int = MAX_PAIRS,
    **options: Unpack[SearchOptions],
) -> Pairs[torch.Tensor, torch.Tensor]: ...
@overload
def group_join(
    x: ArrayLike,
    offsets: npt.ArrayLike,
    threshold: float,
    *,
    max_pairs: int = MAX_PAIRS,
    **options: Unpack[SearchOptions],
) -> Pairs[Integers, Floats]: ...
def group_join(
    x: RowsLike,
    offsets: npt.ArrayLike,
    threshold: float,
    *,
    metric: Metric | None = None,
    max_pairs: int = MAX_PAIRS,
    invalid: Invalid = "raise",
    device: Devices = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Pairs[Any, Any]:
    """All pairs within groups of rows that reach a threshold, each once.

    Args:
        x: (n, d), groups one after the other.
        offsets: (g + 1,) integers from 0 to n, none below the one before: group g is ``x[offsets[g]:offsets[g + 1]]``.
        threshold, metric, max_pairs, invalid, device, threads, progress: as of ``join``.
    Returns:
        ``Pairs``: ia < ib, of one group.
    Raises:
        TypeError, ValueError: as of ``join``; offsets that fall or do not end at n.
    Example: ``group_join(points, [0, 5, 8], 0.9).ia``
    """
    rows, count = as_rows(x, "x"), thread_count(threads)
    bounds = np.asarray(offsets)
    if bounds.dtype.kind not in "iu" or bounds.ndim != 1 or len(bounds) < 1:
        raise TypeError(
            f"offsets must be one-dimensional integers; got {bounds.dtype} of shape {bounds.shape}: pass int64"
        )
    if bounds[0] != 0 or bounds[-1] != rows.count or (np.diff(bounds.astype(np.int64)) < 0).any():
        raise ValueError(
            f"offsets must rise from 0 to the {rows.count} rows of x: give where each group begins, and the end"
        )
    chosen, skips, most = check_metric("ip" if metric is None else metric), check_invalid(invalid), _most(max_pairs)
    if devices := placed(device, rows):
        from dcfast.similarity import gpu

        starts, limit = bounds.astype(np.int64), float(_threshold(threshold))
        return Pairs(*gpu.group_join(rows, starts, limit, chosen, most, skips, devices, progress))
    options = cpu.GroupOptions(chosen, skips, most, count)
    return _as_given(
        cpu.group_join(rows, bounds.astype(np.uint64), float(_threshold(threshold)), options, progress), rows
    )
