"""The best rows of a database for each query: ``topk``, ``assign``, ``row_max``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Unpack, overload

from dcfast.process.arguments import integer
from dcfast.process.compute import thread_count
from dcfast.similarity import cpu
from dcfast.similarity.database import Database, as_database
from dcfast.similarity.devices import placed
from dcfast.similarity.operands import (
    ArrayLike,
    Devices,
    F,
    Floats,
    I,
    Integers,
    Invalid,
    Metric,
    Progress,
    RowsLike,
    SearchOptions,
    as_rows,
    check_invalid,
    check_sides,
    restore,
)

if TYPE_CHECKING:
    import torch


class TopK(NamedTuple, Generic[F, I]):
    """The k best of each query, best first, ties by lowest index. Torch tensors where queries were."""

    scores: F
    indices: I


class Assigned(NamedTuple, Generic[I, F]):
    """The nearest center of each row and its score. Torch tensors where x was."""

    indices: I
    scores: F


@overload
def topk(  # type: ignore[overload-overlap]  # a tensor is rows with slices, too
    queries: torch.Tensor,
    database: RowsLike | Database,
    k: int,
    *,
    exclude_self: bool = False,
    **options: Unpack[SearchOptions],
) -> TopK[torch.Tensor, torch.Tensor]: ...
@overload
def topk(
    queries: ArrayLike,
    database: RowsLike | Database,
    k: int,
    *,
    exclude_self: bool = False,
    **options: Unpack[SearchOptions],
) -> TopK[Floats, Integers]: ...
def topk(
    queries: RowsLike,
    database: RowsLike | Database,
    k: int,
    *,
    metric: Metric | None = None,
    exclude_self: bool = False,
    invalid: Invalid = "raise",
    device: Devices = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> TopK[Any, Any]:
    """The k best rows of a database for each query, exactly.

    Args:
        queries: (n, d) float32, float16, bfloat16 or int8: NumPy array or memmap, torch tensor, DLPack, or blocks
            (``shape``, ``dtype``, ``[begin:end]``).
        database: (m, d), or a ``Database``.
        k: 1 to m (m - 1 with ``exclude_self``).
        metric: "ip" inner product (where none is given), "cos", or "l2", the squared distance, smallest first.
        exclude_self: leave out the row of the database with the query's own index.
        invalid: rows that are not finite (for "cos" zero ones too) are an error ("raise"), or match nothing ("skip").
        device: None for where the tensors are; "cuda" for all GPUs, "cuda:1", or a list, which share the queries. The
            result is the same anywhere.
        threads: of the CPU; None means one per core. The result is the same for any number.
        progress: called with (scores done, scores in all).
    Returns:
        ``TopK(scores, indices)``: (n, k) float32 and int64. Where fewer than k match (``invalid="skip"``) the rest is
        index -1 and the worst score, -inf (inf for "l2").
    Raises:
        TypeError, ValueError: other dtypes, shapes, k out of range, an invalid row (named).
    Cost: n x m scores of d numbers; docs/similarity.md has times and memory.
    Example: ``scores, indices = topk(queries, points, 3, metric="cos")``
    """
    a, b = as_rows(queries, "queries"), as_database(database, metric, "database", invalid)
    check_sides(a, b.rows)
    k, skips = integer(k, "k"), check_invalid(invalid)
    most = b.rows.count - bool(exclude_self)
    count = thread_count(threads)
    if k < 1 or (k > most and a.count):
        raise ValueError(f"k must be 1 to the {max(most, 0)} rows there are to choose from; got {k}: lower k")
    if devices := placed(device, a, b.rows):
        from dcfast.similarity import gpu

        return TopK(*gpu.topk(gpu.Search(a, b, devices, skips, progress), k, exclude_self))
    scores, indices = cpu.topk(cpu.Search(a, b, skips, count, progress), k, exclude_self)
    return TopK(restore(scores, as_torch=a.is_torch), restore(indices, as_torch=a.is_torch))


@overload
def assign(  # type: ignore[overload-overlap]  # a tensor is rows with slices, too
    x: torch.Tensor, centers: RowsLike | Database, **options: Unpack[SearchOptions]
) -> Assigned[torch.Tensor, torch.Tensor]: ...
@overload
def assign(
    x: ArrayLike, centers: RowsLike | Database, **options: Unpack[SearchOptions]
) -> Assigned[Integers, Floats]: ...
def assign(
    x: RowsLike,
    centers: RowsLike | Database,
    *,
    metric: Metric | None = None,
    invalid: Invalid = "raise",
    device: Devices = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Assigned[Any, Any]:
    """The nearest center of each row, ties by lowest index; arguments and errors as of ``topk`` with k = 1.

    Returns:
        ``Assigned(indices, scores)``: (n,) int64 and float32; -1 where nothing matches (``invalid="skip"``).
    Example: ``assign(points, kmeans(points, 3).centroids).indices``
    """
    rows, prepared = as_rows(x, "x"), as_database(centers, metric, "centers", invalid)
    check_sides(rows, prepared.rows)
    count = thread_count(threads)
    if rows.count and not prepared.rows.count:
        raise ValueError("centers has no rows, and x has some: give at least one center")
    if devices := placed(device, rows, prepared.rows):
        from dcfast.similarity import gpu

        return Assigned(*gpu.assign(gpu.Search(rows, prepared, devices, check_invalid(invalid), progress)))
    search = cpu.Search(rows, prepared, check_invalid(invalid), count, progress)
    scores, indices = (restore(field[:, 0], as_torch=rows.is_torch) for field in cpu.topk(search, 1, False))
    return Assigned(indices, scores)


@overload
def row_max(  # type: ignore[overload-overlap]  # a tensor is rows with slices, too
    queries: torch.Tensor,
    database: RowsLike | Database,
    *,
    absolute: bool = False,
    exclude_self: bool = False,
    **options: Unpack[SearchOptions],
) -> torch.Tensor: ...
@overload
def row_max(
    queries: ArrayLike,
    database: RowsLike | Database,
    *,
    absolute: bool = False,
    exclude_self: bool = False,
    **options: Unpack[SearchOptions],
) -> Floats: ...
def row_max(
    queries: RowsLike,
    database: RowsLike | Database,
    *,
    metric: Metric | None = None,
    absolute: bool = False,
    exclude_self: bool = False,
    invalid: Invalid = "raise",
    device: Devices = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Any:
    """The best score of each query, (n,) float32; arguments and errors as of ``topk``.

    Args:
        absolute: the score of the largest magnitude, as a magnitude: of "ip" and "cos" alone.
    Example: ``row_max(queries, points) == topk(queries, points, 1).scores[:, 0]``
    """
    rows = as_rows(queries, "queries")
    prepared = as_database(database, metric, "database", invalid)
    if absolute and prepared.metric == "l2":
        raise ValueError("absolute=True has no meaning for 'l2', which is never negative: leave it out")
    check_sides(rows, prepared.rows)
    count = thread_count(threads)
    if rows.count and prepared.rows.count <= bool(exclude_self):
        raise ValueError("database has no row to choose from: give at least one other than the query's own")
    if devices := placed(device, rows, prepared.rows):
        from dcfast.similarity import gpu

        on_gpus = gpu.Search(rows, prepared, devices, check_invalid(invalid), progress)
        return gpu.row_max(on_gpus, absolute, exclude_self)
    search = cpu.Search(rows, prepared, check_invalid(invalid), count, progress)
    scores, _ = cpu.topk(search, 1, exclude_self, magnitudes=absolute)
    return restore(scores[:, 0], as_torch=rows.is_torch)
