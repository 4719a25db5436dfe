"""All pairs of rows whose score reaches a threshold: ``join``, ``any_above``, ``group_join``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.process.arguments import integer, thread_count
from dcfast.similarity import scores as exact
from dcfast.similarity.database import Database, as_database
from dcfast.similarity.operands import Invalid, Metric, Progress, RowsLike, as_rows, check_invalid, check_sides, restore

MAX_PAIRS = 1 << 26
"""Pairs a join gives at most where nothing else is asked for: 20 bytes each, 1.3 GB."""


class Pairs(NamedTuple):
    """Pairs ``a[ia[i]]``, ``b[ib[i]]`` with their scores, sorted by ``ia``, then ``ib``. Torch tensors where ``a`` was."""

    ia: npt.NDArray[np.int64]
    ib: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


def _threshold(threshold: float) -> np.float32:
    value = np.float32(threshold)
    if np.isnan(value):
        raise ValueError(f"threshold must be a number; got {threshold!r}: give a score")
    return value


def join(
    a: RowsLike,
    b: RowsLike | Database,
    threshold: float,
    *,
    metric: Metric | None = None,
    exclude_self: bool = False,
    max_pairs: int = MAX_PAIRS,
    invalid: Invalid = "raise",
    threads: int = 0,
    progress: Progress | None = None,
) -> Pairs:
    """All pairs whose score is at least ``threshold`` ("l2": at most), exactly.

    Args:
        a: (n, d), as the queries of ``topk``.
        b: (m, d), or a ``Database``.
        threshold: compared as float32 with the float32 score.
        exclude_self: a and b are one set: pairs of a row with itself are left out (each other pair comes twice).
        max_pairs: more are an error.
        metric, invalid, threads, progress: as of ``topk``.
    Returns:
        ``Pairs(ia, ib, scores)``: int64, int64, float32, sorted by ``ia``, then ``ib``.
    Raises:
        TypeError, ValueError: as of ``topk``; more than ``max_pairs`` pairs, with the count so far.
    """
    left, right = as_rows(a, "a"), as_database(b, metric, "b", invalid)
    check_sides(left, right.rows)
    skips, limit, bound = check_invalid(invalid), _threshold(threshold), integer(max_pairs, "max_pairs")
    thread_count(threads)
    parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]] = []
    count = done = 0
    for begin in range(0, left.count, exact.BLOCK):
        end = min(left.count, begin + exact.BLOCK)
        x, x_valid = exact.load(left, begin, end, right.metric, skips)
        for start in range(0, right.rows.count, exact.BLOCK):
            stop = min(right.rows.count, start + exact.BLOCK)
            y, y_valid = exact.load(right.rows, start, stop, right.metric, right.skips or skips)
            block = exact.block_scores(x, y, right.metric, x_valid, y_valid)
            hits = block <= limit if right.metric == "l2" else block >= limit
            if exclude_self:
                own = np.arange(max(begin, start), min(end, stop))
                hits[own - begin, own - start] = False
            ia, ib = np.nonzero(hits)
            count += len(ia)
            done += (end - begin) * (stop - start)
            if count > bound:
                raise ValueError(
                    f"more than max_pairs={bound} pairs reach the threshold {threshold} ({count} in the first {done} of "
                    f"{left.count * right.rows.count}): use a stricter threshold, raise max_pairs, or join parts of a"
                )
            parts.append((ia + begin, ib + start, block[ia, ib]))
            if progress is not None:
                progress(done, left.count * right.rows.count)
    ia = np.concatenate([p[0] for p in parts] or [np.empty(0, np.int64)])
    ib = np.concatenate([p[1] for p in parts] or [np.empty(0, np.int64)])
    found = np.concatenate([p[2] for p in parts] or [np.empty(0, np.float32)])
    order = np.lexsort((ib, ia))
    return Pairs(*(restore(part[order], as_torch=left.is_torch) for part in (ia, ib, found)))  # type: ignore[arg-type]


def any_above(
    queries: RowsLike,
    database: RowsLike | Database,
    threshold: float,
    *,
    metric: Metric | None = None,
    exclude_self: bool = False,
    invalid: Invalid = "raise",
    threads: int = 0,
    progress: Progress | None = None,
) -> npt.NDArray[np.bool_]:
    """Whether any row of the database reaches the threshold ("l2": is within it), (n,) bool; arguments as of ``join``."""
    from dcfast.similarity.search import row_max

    rows, prepared = as_rows(queries, "queries"), as_database(database, metric, "database", invalid)
    limit = _threshold(threshold)
    if prepared.rows.count <= bool(exclude_self):
        return restore(np.zeros(rows.count, np.bool_), as_torch=rows.is_torch)  # type: ignore[return-value]
    best = row_max(queries, prepared, exclude_self=exclude_self, invalid=invalid, threads=threads, progress=progress)
    scores = np.asarray(best)
    return restore(scores <= limit if prepared.metric == "l2" else scores >= limit, as_torch=rows.is_torch)  # type: ignore[return-value]


def group_join(
    x: RowsLike,
    offsets: npt.ArrayLike,
    threshold: float,
    *,
    metric: Metric | None = None,
    max_pairs: int = MAX_PAIRS,
    invalid: Invalid = "raise",
    threads: int = 0,
    progress: Progress | None = None,
) -> Pairs:
    """All pairs within groups of rows that reach a threshold, each once.

    Args:
        x: (n, d), groups one after the other.
        offsets: (g + 1,) integers from 0 to n, none below the one before: group g is ``x[offsets[g]:offsets[g + 1]]``.
        threshold, metric, max_pairs, invalid, threads, progress: as of ``join``.
    Returns:
        ``Pairs``: ia < ib, of one group.
    Raises:
        TypeError, ValueError: as of ``join``; offsets that fall or do not end at n.
    """
    rows = as_rows(x, "x")
    bounds = np.asarray(offsets)
    if bounds.dtype.kind not in "iu" or bounds.ndim != 1 or len(bounds) < 1:
        raise TypeError(
            f"offsets must be one-dimensional integers; got {bounds.dtype} of shape {bounds.shape}: pass int64"
        )
    if bounds[0] != 0 or bounds[-1] != rows.count or (np.diff(bounds.astype(np.int64)) < 0).any():
        raise ValueError(
            f"offsets must rise from 0 to the {rows.count} rows of x: give where each group begins, and the end"
        )
    parts: list[Pairs] = []
    count = 0
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if end - begin < 2:
            continue
        part = rows.read(begin, end)
        if rows.kind == "bfloat16":
            import torch

            part = torch.from_numpy(part).view(torch.bfloat16)  # type: ignore[assignment]
        found = join(
            part,
            part,
            threshold,
            metric=metric,
            exclude_self=True,
            max_pairs=max_pairs * 2,
            invalid=invalid,
            threads=threads,
        )  # type: ignore[arg-type]
        ia, ib, values = (np.asarray(field) for field in found)
        once = ia < ib
        count += int(once.sum())
        if count > max_pairs:
            raise ValueError(
                f"more than max_pairs={max_pairs} pairs reach the threshold {threshold} ({count} up to row {end}): use a "
                "stricter threshold, raise max_pairs, or join fewer groups at a time"
            )
        parts.append(Pairs(ia[once] + begin, ib[once] + begin, values[once]))
        if progress is not None:
            progress(end, rows.count)
    empty = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    joined = [np.concatenate(fields) for fields in zip(empty, *parts, strict=True)]
    return Pairs(*(restore(field, as_torch=rows.is_torch) for field in joined))  # type: ignore[arg-type]
