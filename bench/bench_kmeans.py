"""One iteration of k-means, 100,000 points of 512 dimensions and 1,000 centroids, beside faiss and the product alone.

faiss assigns with IndexFlatL2 and adds with NumPy, sorted by cluster, as its own Clustering adds in float32. dcfast's
assignment is exact and its sums are whole numbers, the same for any order of the points.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.bars import FAISS_L2, PRODUCT_FLOOR, Value
from bench.harness import Absent, Side, WrongAnswerError

TILE = 2048
Floats = npt.NDArray[np.float32]


def make_points(count: int, width: int) -> Floats:
    """Unit vectors around 500 directions."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((500, width), np.float32)
    points = centres[rng.integers(0, 500, count)] + rng.standard_normal((count, width), np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points


def ours(points: Floats, centroids: Floats) -> Floats:
    from dcfast.similarity.centroids import kmeans_iteration

    return kmeans_iteration([points], centroids)[0]


def with_faiss(points: Floats, centroids: Floats, threads: int) -> Floats:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(centroids)
    labels = index.search(points, 1)[1][:, 0]
    counts = np.bincount(labels, minlength=len(centroids))
    order = np.argsort(labels, kind="stable")
    filled = np.flatnonzero(counts)
    begin = (np.cumsum(counts) - counts)[filled]
    updated = centroids.copy()
    updated[filled] = np.add.reduceat(points[order], begin, axis=0) / counts[filled, None]
    return updated


def product(points: Floats, centroids: Floats) -> int:
    """The scores of all tiles by BLAS; nothing is chosen."""
    room = np.empty((TILE, len(centroids)), np.float32)
    for begin in range(0, len(points), TILE):
        tile = points[begin : begin + TILE]
        np.matmul(tile, centroids.T, out=room[: len(tile)])
    return len(points)


def check_close(provider: str, expected: Floats, got: Floats) -> None:
    """The same but for points that rounding moves from one of two equally near centroids to the other."""
    near = np.isclose(got, expected, atol=1e-5).all(axis=1)
    if got.shape != expected.shape or near.mean() < 0.98:
        raise WrongAnswerError(f"{provider}: {int((~near).sum())} of {len(expected)} centroids differ")


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_kmeans", argv, __doc__)
    bench = harness.Bench("bench_kmeans", options)
    count, clusters = (2_000, 50) if options.quick else (100_000, 1_000)
    points = make_points(count, 512)
    centroids = np.ascontiguousarray(points[:: count // clusters])
    expected = ours(points, centroids)
    threads = options.threads

    def side(provider: str, run: Any, check: Any, **about: Any) -> Side:
        return Side(provider, run, check, threads=threads, **about)

    def exactly(got: Floats) -> None:
        harness.require_equal("dcfast", "centroids", got, expected)

    all_rows = partial(harness.require_equal, PRODUCT_FLOOR, "rows", expected=count)
    sides: list[Side | Absent] = [
        side("dcfast", partial(ours, points, centroids), exactly),
        side(PRODUCT_FLOOR, partial(product, points, centroids), all_rows),
    ]
    if versions := harness.version_of("faiss-cpu"):
        run = partial(with_faiss, points, centroids, threads)
        sides.append(side(FAISS_L2, run, partial(check_close, FAISS_L2, expected), versions=versions))
    else:
        sides.append(Absent(FAISS_L2, "faiss-cpu is not installed"))
    shape = f"{count} x 512, {clusters} centroids"
    bench.compare("kmeans_iteration", sides, shape=shape, dtype="float32", size_bytes=points.nbytes, touched=[points])
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
