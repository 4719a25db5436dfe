"""Part of stage ``filter``: k-means of the pool's L/14 image embeddings, for image_based without centroids.

The points are the embeddings of rows that pass the caption rules of image_based, as in DataComp. They are read once an
iteration and each iteration is a piece, so that a stop costs one iteration at most.
Memory: 12 bytes a centroid and dimension (about 0.9 GB for 100,000 of 768), and a tile of scores.
Disk: the points that are clustered, 2 bytes a dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast.engine.piece import Nothing, piece
from dcfast.errors import PoolError
from dcfast.features.files import ARRAY, sibling_npz
from dcfast.filters.image_terms import passes_captions
from dcfast.filters.language import model_fingerprint
from dcfast.filters.rules import Mask
from dcfast.filters.term import TEXT
from dcfast.index.metadata import open_metadata
from dcfast.models.devices import borrowed_device, gpu_share
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import ClusterCounts
from dcfast.similarity.centroids import ITERATIONS, initial_centroids, kmeans_iteration
from dcfast.stages.runner import Do
from dcfast.storage.npz import iterate_npz, load_array, npz_arrays, save_array, write_npy
from dcfast.storage.records import Count, Record

CENTROIDS = "filter/centroids.npy"
BLOCK_ROWS = 8_192
MOST_CLUSTERS = 100_000
ROWS_PER_CLUSTER = 128
"""DataComp's 100,000 clusters at small, with its 12.8 million rows; smaller pools have as many rows a cluster."""
SAMPLED = {"large": 0.3, "xlarge": 0.03}
"""The share of these rows that is clustered; all of them at other scales."""


def check_rows(npz: Path, metadata: str, rows: int) -> None:
    """PoolError where the embeddings of an npz are not those of its metadata file's rows."""
    array = npz_arrays(npz).get(ARRAY)  # where there is none, reading it says so
    if array is not None and array.shape[:1] != (rows,):
        raise PoolError(f"{npz} has {array.shape[0] if array.shape else 0} rows and {metadata} {rows}; get both anew")


def num_clusters(rows: int) -> int:
    """How many clusters a pool of so many rows gets."""
    return min(MOST_CLUSTERS, max(1, rows // ROWS_PER_CLUSTER))


class Sampled(Record):
    """``points`` of ``dim`` dimensions, drawn from ``rows`` of the metadata."""

    points: Count
    dim: Count
    rows: Count


class Iterated(Record):
    """The mean squared distance before the iteration."""

    error: float


@piece(version=2)
def sample_points(
    out: Path,
    files: Sequence[str],
    first: int,
    share: float,
    seed: int,
    language_model: dict[str, str | int],
    output: str,
) -> Sampled:
    """Piece: the embeddings of some metadata files that are clustered, as one npy (m, d) float16.

    Args:
        language_model: in use, for the piece's key.
    Version 2: rows that pass the caption rules alone.
    """
    del language_model
    captions = [_passing_rows(str(out / path)) for path in files]

    def points() -> Iterator[npt.NDArray[np.float16]]:
        for ordinal, (path, passes) in enumerate(zip(files, captions, strict=True), first):
            # counter-based: which rows are drawn depends on seed, file and row alone
            draw = np.random.Generator(np.random.Philox(key=[seed, ordinal]))
            yield from _points(out, path, passes, share, draw)

    held, dim = 0, 0
    for block in points():
        held += len(block)
        dim = dim or block.shape[1]
        if block.shape[1] != dim:
            raise PoolError(
                f"{ARRAY} has {dim} dimensions in one file and {block.shape[1]} in another: compute all by one model"
            )
    write_npy(out / output, (held, dim), np.float16, points())
    return Sampled(held, dim, sum(map(len, captions)))


def _passing_rows(path: str) -> Mask:
    """(n,) bool of a metadata file: the caption is one that image_based lets pass."""
    with open_metadata(path) as file:
        return np.concatenate([np.empty(0, np.bool_), *map(passes_captions, file.batches([TEXT]))])


def _points(
    out: Path, path: str, passes: Mask, share: float, draw: np.random.Generator
) -> Iterator[npt.NDArray[np.float16]]:
    """The embeddings of a metadata file's rows that are clustered, of length 1."""
    check_rows(out / sibling_npz(path), path, len(passes))
    at = 0
    for block in iterate_npz(out / sibling_npz(path), ARRAY, BLOCK_ROWS):
        if block.ndim != 2 or block.dtype.kind != "f":
            raise PoolError(
                f"{sibling_npz(path)}: {ARRAY} must be (rows, dimensions) floats; got {block.dtype}: write it again"
            )
        values = block.astype(np.float32)
        length = np.linalg.norm(values, axis=1)
        usable = np.isfinite(length) & (length > 0) & passes[at : at + len(block)]
        at += len(block)
        if share < 1:
            usable &= draw.random(len(block)) < share
        yield (values[usable] / length[usable, None]).astype(np.float16)


@piece()
def begin_kmeans(out: Path, points: Sequence[str], clusters: int, seed: int, output: str) -> Nothing:
    """Piece: the centroids that k-means begins at."""
    blocks = [load_array(out / path, mmap=True) for path in points]
    save_array(out / output, initial_centroids(blocks, clusters, seed=seed))
    return Nothing()


@piece()
def iterate_kmeans(
    out: Path, points: Sequence[str], before: str, output: str, device: str, spherical: bool = False
) -> Iterated:
    """Piece: one iteration of k-means over all points."""
    blocks = (load_array(out / path, mmap=True) for path in points)
    with borrowed_device(device) as borrowed:
        centroids, _, error = kmeans_iteration(blocks, load_array(out / before), spherical=spherical, device=borrowed)
    save_array(out / output, centroids)
    return Iterated(error)


def make_centroids(run: Run, do: Do) -> tuple[str, ClusterCounts]:
    """The pool's own centroids: their path, and what was done."""
    settings, groups = run.settings, run.metadata_groups()
    places = [f"state/filter/points/{number:05d}.npy" for number in range(len(groups))]
    model = model_fingerprint()
    stats = do(
        sample_points.piece(
            "filter/points",
            f"{number:05d}",
            inputs=[*files, *map(sibling_npz, files)],
            outputs=[places[number]],
        )(
            files=files,
            first=first,
            share=SAMPLED.get(settings.scale, 1.0),
            seed=settings.seed,
            language_model=model,
            output=places[number],
        )
        for number, (first, files) in enumerate(groups)
    )
    total = sum(s.points for s in stats)
    if total == 0:
        raise PoolError(
            f"no metadata row has an image embedding ({ARRAY}) and a caption that image_based lets pass; there is "
            "nothing to cluster: use a filter without image_based, or another pool"
        )
    clusters = min(total, num_clusters(sum(s.rows for s in stats)))
    points = [place for place, s in zip(places, stats, strict=True) if s.points]
    path = "state/filter/kmeans/00.npy"
    begin = begin_kmeans.piece("filter/kmeans", "00", inputs=points, outputs=[path])
    do.one(begin(points=points, clusters=clusters, seed=settings.seed, output=path))
    error = 0.0
    for turn in range(1, ITERATIONS + 1):
        before, path = path, f"state/filter/kmeans/{turn:02d}.npy" if turn < ITERATIONS else CENTROIDS
        iterate = iterate_kmeans.piece(
            "filter/kmeans",
            f"{turn:02d}",
            inputs=[before, *points],
            outputs=[path],
            gpus=gpu_share(settings.device),
        )
        error = do.one(iterate(points=points, before=before, output=path, device=settings.device)).error
    return path, ClusterCounts(points=total, clusters=clusters, iterations=ITERATIONS, mean_squared_distance=error)
