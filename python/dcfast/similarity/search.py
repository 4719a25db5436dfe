"""The best rows of a database for each query: ``topk``, ``assign``, ``row_max``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.process.arguments import integer, thread_count
from dcfast.similarity import scores as exact
from dcfast.similarity.database import Database, as_database
from dcfast.similarity.operands import Invalid, Metric, Progress, RowsLike, as_rows, check_invalid, check_sides, restore


class TopK(NamedTuple):
    """The k best of each query, best first, ties by lowest index. Torch tensors where queries were."""

    scores: npt.NDArray[np.float32]
    indices: npt.NDArray[np.int64]


class Assigned(NamedTuple):
    """The nearest center of each row and its score. Torch tensors where x was."""

    indices: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


def topk(
    queries: RowsLike,
    database: RowsLike | Database,
    k: int,
    *,
    metric: Metric | None = None,
    exclude_self: bool = False,
    invalid: Invalid = "raise",
    threads: int = 0,
    progress: Progress | None = None,
) -> TopK:
    """The k best rows of a database for each query, exactly.

    Args:
        queries: (n, d) float32, float16, bfloat16 or int8: NumPy array or memmap, torch tensor, DLPack, or blocks
            (``shape``, ``dtype``, ``[begin:end]``).
        database: (m, d), or a ``Database``.
        k: 1 to m (m - 1 with ``exclude_self``).
        metric: "ip" inner product (where none is given), "cos", or "l2", the squared distance, smallest first.
        exclude_self: leave out the row of the database with the query's own index.
        invalid: rows that are not finite (for "cos" zero ones too) are an error ("raise"), or match nothing ("skip").
        threads: 0 means one per core. The result is the same for any number.
        progress: called with (scores done, scores in all).
    Returns:
        ``TopK(scores, indices)``: (n, k) float32 and int64. Where fewer than k match (``invalid="skip"``) the rest is
        index -1 and the worst score, -inf (inf for "l2").
    Raises:
        TypeError, ValueError: other dtypes, shapes, k out of range, an invalid row (named).
    """
    a, b = as_rows(queries, "queries"), as_database(database, metric, "database", invalid)
    check_sides(a, b.rows)
    k, skips = integer(k, "k"), check_invalid(invalid)
    most = b.rows.count - bool(exclude_self)
    thread_count(threads)
    if not 1 <= k <= most and a.count:
        raise ValueError(f"k must be 1 to the {max(most, 0)} rows there are to choose from; got {k}: lower k")
    sign = -1.0 if b.metric == "l2" else 1.0
    best = np.full((a.count, k), -np.inf, np.float32)
    index = np.full((a.count, k), -1, np.int64)
    done = 0
    for begin in range(0, a.count, exact.BLOCK):
        end = min(a.count, begin + exact.BLOCK)
        x, x_valid = exact.load(a, begin, end, b.metric, skips)
        for left in range(0, b.rows.count, exact.BLOCK):
            right = min(b.rows.count, left + exact.BLOCK)
            y, y_valid = exact.load(b.rows, left, right, b.metric, b.skips or skips)
            block = sign * exact.block_scores(x, y, b.metric, x_valid, y_valid)
            if exclude_self:
                own = np.arange(max(begin, left), min(end, right))
                block[own - begin, own - left] = np.nan
            both = np.concatenate([best[begin:end], block], axis=1)
            where = np.concatenate(
                [index[begin:end], np.broadcast_to(np.arange(left, right), (end - begin, right - left))], axis=1
            )
            where = np.where(np.isnan(both), -1, where)
            both = np.where(np.isnan(both), -np.inf, both)
            order = np.argsort(-both, axis=1, kind="stable")[:, :k]
            best[begin:end] = np.take_along_axis(both, order, axis=1)
            index[begin:end] = np.take_along_axis(where, order, axis=1)
            done += (end - begin) * (right - left)
            if progress is not None:
                progress(done, a.count * b.rows.count)
    return TopK(restore(sign * best, as_torch=a.is_torch), restore(index, as_torch=a.is_torch))  # type: ignore[arg-type]


def assign(
    x: RowsLike,
    centers: RowsLike | Database,
    *,
    metric: Metric | None = None,
    invalid: Invalid = "raise",
    threads: int = 0,
    progress: Progress | None = None,
) -> Assigned:
    """The nearest center of each row, ties by lowest index; arguments and errors as of ``topk`` with k = 1.

    Returns:
        ``Assigned(indices, scores)``: (n,) int64 and float32; -1 where nothing matches (``invalid="skip"``).
    """
    found = topk(x, centers, 1, metric=metric, invalid=invalid, threads=threads, progress=progress)
    return Assigned(found.indices[:, 0], found.scores[:, 0])


def row_max(
    queries: RowsLike,
    database: RowsLike | Database,
    *,
    metric: Metric | None = None,
    absolute: bool = False,
    exclude_self: bool = False,
    invalid: Invalid = "raise",
    threads: int = 0,
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """The best score of each query, (n,) float32; arguments and errors as of ``topk``.

    Args:
        absolute: the score of the largest magnitude, as a magnitude: of "ip" and "cos" alone.
    """
    rows = as_rows(queries, "queries")
    prepared = as_database(database, metric, "database", invalid)
    options = {"exclude_self": exclude_self, "invalid": invalid, "threads": threads, "progress": progress}
    high = topk(queries, prepared, 1, **options).scores[:, 0]  # type: ignore[arg-type]
    if not absolute:
        return high
    if prepared.metric == "l2":
        raise ValueError("absolute=True has no meaning for 'l2', which is never negative: leave it out")
    found = np.array(high)
    for begin in range(0, rows.count, exact.BLOCK):
        end = min(rows.count, begin + exact.BLOCK)
        x, valid = exact.load(rows, begin, end, prepared.metric, check_invalid(invalid))
        for left in range(0, prepared.rows.count, exact.BLOCK):
            right = min(prepared.rows.count, left + exact.BLOCK)
            y, y_valid = exact.load(prepared.rows, left, right, prepared.metric, True)
            block = -exact.block_scores(x, y, prepared.metric, valid, y_valid)
            if exclude_self:
                own = np.arange(max(begin, left), min(end, right))
                block[own - begin, own - left] = np.nan
            found[begin:end] = np.fmax(found[begin:end], np.fmax.reduce(block, axis=1))
    return restore(found, as_torch=rows.is_torch)  # type: ignore[return-value]
