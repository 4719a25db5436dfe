"""Top-1, top-10 and a join by threshold, exact, beside faiss IndexFlatIP and the product alone.

Rows of unit length in clusters, so that each query has ten hits and more, with pairs planted within 1e-6 of the
threshold on both sides. Both sides have the same threads. DCFAST_ISA=avx2 with OPENBLAS_CORETYPE=Haswell holds all to
AVX2.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.bars import FAISS, PRODUCT_FLOOR, Value
from bench.harness import Absent, Side, WrongAnswerError

THRESHOLD = 0.6
CLUSTER = 20
TILE = (2048, 8192)
Rows = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Case:
    """One comparison's sizes."""

    label: str
    queries: int
    database: int
    width: int
    dtype: str = "float32"


FULL = (
    Case("512", 100_000, 50_000, 512),
    Case("256", 20_000, 50_000, 256),
    Case("768", 20_000, 50_000, 768),
    Case("1024", 20_000, 50_000, 1024),
    Case("512_fp16", 20_000, 50_000, 512, "float16"),
)
QUICK = tuple(Case(case.label, 300, 1000, case.width, case.dtype) for case in FULL)


def make_rows(case: Case) -> tuple[Rows, Rows]:
    """(queries, database), float32 in memory or float16 as asked for."""
    rng = np.random.default_rng(7)
    centers = rng.standard_normal((max(1, case.database // CLUSTER), case.width), np.float32)

    def around(n: int, of: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        rows = centers[of] + np.float32(0.6) * rng.standard_normal((n, case.width), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    database = around(case.database, np.arange(case.database) % len(centers))
    queries = around(case.queries, rng.integers(0, len(centers), case.queries))
    for i in range(min(1000, case.queries, case.database)):
        x, y = queries[i].astype(np.float64), database[i].astype(np.float64)
        side = y - (y @ x) / (x @ x) * x
        score = THRESHOLD + rng.uniform(-1e-6, 1e-6)
        x /= np.linalg.norm(x)
        database[i] = score * x + np.sqrt(1 - score**2) * side / np.linalg.norm(side)
    return queries.astype(case.dtype), database.astype(case.dtype)


def product(queries: Rows, database: Rows, threads: int) -> int:
    """The BLAS product of all tiles, in float32; nothing is kept."""
    from threadpoolctl import threadpool_limits

    room = np.empty(TILE, np.float32)
    with threadpool_limits(limits=threads, user_api="blas"):
        for begin in range(0, len(queries), TILE[0]):
            left = queries[begin : begin + TILE[0]]
            for start in range(0, len(database), TILE[1]):
                right = database[start : start + TILE[1]]
                np.matmul(left, right.T, out=room[: len(left), : len(right)])
    return len(queries)


def oracle(queries: Rows, database: Rows) -> npt.NDArray[np.float64]:
    """Scores of the first queries in float64."""
    return queries[:200].astype(np.float64) @ database.astype(np.float64).T


def check_topk(provider: str, got: Any, *, scores: npt.NDArray[np.float64], k: int, error: float) -> None:
    values, indices = got
    best = -np.sort(-scores, axis=1)[:, :k]
    if not np.allclose(values[: len(scores)], best, rtol=0, atol=error):
        raise WrongAnswerError(f"{provider}: scores are off by {np.abs(values[: len(scores)] - best).max()}")
    taken = np.take_along_axis(scores, np.asarray(indices[: len(scores)], np.int64), axis=1)
    if not np.allclose(taken, best, rtol=0, atol=error):
        raise WrongAnswerError(f"{provider}: rows that are not the best were chosen")


def check_pairs(provider: str, got: Any, *, scores: npt.NDArray[np.float64], error: float) -> None:
    """Pairs of the first queries; error: how far from the threshold a side may be wrong."""
    ia, ib = np.asarray(got[0]), np.asarray(got[1])
    ours = np.zeros(scores.shape, np.bool_)
    first = ia < len(scores)
    ours[ia[first], ib[first]] = True
    rounded = scores.astype(np.float32)
    wrong = (ours != (rounded >= np.float32(THRESHOLD))) & (np.abs(scores - THRESHOLD) > error)
    if wrong.any() or len(ia) < 5 * scores.shape[0]:
        raise WrongAnswerError(f"{provider}: {int(wrong.sum())} pairs of the first {len(scores)} queries are wrong")


def sides_of_faiss(case: Case, database: Rows, threads: int) -> Any:
    """The index, or why there is none."""
    try:
        import faiss
    except ImportError:
        return "faiss-cpu is not installed"
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(case.width)
    index.add(np.asarray(database, np.float32))
    return index


def range_pairs(index: Any, queries: Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    limits, _, found = index.range_search(np.asarray(queries, np.float32), THRESHOLD)
    return np.repeat(np.arange(len(queries)), np.diff(limits.astype(np.int64))), found


def time_case(bench: harness.Bench, case: Case, folder: Path) -> None:
    import dcfast

    queries, database = make_rows(case)
    wide = database.astype(np.float32)
    scores = oracle(queries, database)
    if case.dtype == "float16":
        for name, rows in (("queries", queries), ("database", database)):
            rows.tofile(folder / name)
        queries, database = (
            np.memmap(folder / name, np.float16, "r", shape=rows.shape)
            for name, rows in (("queries", queries), ("database", database))
        )
    threads = bench.options.threads
    index = sides_of_faiss(case, database, threads)
    shape = f"{case.queries} x {case.database} x {case.width}"
    floor = partial(product, np.asarray(queries, np.float32), wide, threads)
    versions = harness.version_of("faiss-cpu")

    def compare(op: str, own: Callable[[], Any], peer: Callable[[], Any], check: Callable[..., None]) -> None:
        sides: list[Side | Absent] = [
            Side("dcfast", own, partial(check, "dcfast", error=1e-7), threads=threads),
            Absent(FAISS, index)
            if isinstance(index, str)
            else Side(FAISS, peer, partial(check, FAISS, error=3e-6), threads=threads, versions=versions),
            Side(PRODUCT_FLOOR, floor, lambda _: None, threads=threads),
        ]
        bench.compare(f"{op}_{case.label}", sides, shape=shape, dtype=case.dtype, rounds=3)

    for k in (1, 10):
        compare(
            f"topk_{k}",
            partial(dcfast.topk, queries, database, k, threads=threads),
            lambda k=k: index.search(np.asarray(queries, np.float32), k),
            partial(check_topk, scores=scores, k=k),
        )
    compare(
        "join",
        partial(dcfast.join, queries, database, THRESHOLD, threads=threads),
        lambda: range_pairs(index, queries),
        partial(check_pairs, scores=scores),
    )


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_similarity", argv, __doc__)
    bench = harness.Bench("bench_similarity", options)
    with tempfile.TemporaryDirectory(dir=options.cache) as folder:
        for case in QUICK if options.quick else FULL:
            time_case(bench, case, Path(folder))
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
