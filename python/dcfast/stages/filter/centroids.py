"""Part of stage ``filter``: k-means of the pool's L/14 image embeddings, for image_based without centroids.

The points are the embeddings of rows that pass the caption rules of image_based, as in DataComp. They are read once an
iteration and each iteration is a piece, so that a stop costs one iteration at most.
Memory: 12 bytes a centroid and dimension (about 0.9 GB for 100,000 of 768), and a tile of scores.
Disk: the points that are clustered, 2 bytes a dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dcfast.engine.piece import Piece
from dcfast.errors import PoolError
from dcfast.features.files import ARRAY, sibling_npz
from dcfast.filters.image_terms import passes_captions
from dcfast.filters.language import model_fingerprint
from dcfast.filters.rules import Mask
from dcfast.filters.term import TEXT
from dcfast.index.metadata import open_metadata
from dcfast.models.devices import borrowed_device, gpu_share
from dcfast.rundir.run_dir import Run
from dcfast.similarity.centroids import ITERATIONS, initial_centroids, kmeans_iteration
from dcfast.storage.npz import iterate_npz, load_array, npz_arrays, save_array, write_npy

__all__ = ["BLOCK_ROWS", "CENTROIDS", "check_rows", "kmeans_steps", "num_clusters"]

CENTROIDS = "filter/centroids.npy"
BLOCK_ROWS = 8_192
MOST_CLUSTERS = 100_000
ROWS_PER_CLUSTER = 128
"""DataComp's 100,000 clusters at small, with its 12.8 million rows; smaller pools have as many rows a cluster."""
SAMPLED = {"large": 0.3, "xlarge": 0.03}
"""The share of these rows that is clustered; all of them at other scales."""
VERSION = 2
"""Of the points. 2: rows that pass the caption rules alone."""


def check_rows(npz: Path, metadata: str, rows: int) -> None:
    """PoolError where the embeddings of an npz are not those of its metadata file's rows."""
    array = npz_arrays(npz).get(ARRAY)  # where there is none, reading it says so
    if array is not None and array.shape[:1] != (rows,):
        raise PoolError(f"{npz} has {array.shape[0] if array.shape else 0} rows and {metadata} {rows}; get both anew")


def num_clusters(rows: int) -> int:
    """How many clusters a pool of so many rows gets."""
    return min(MOST_CLUSTERS, max(1, rows // ROWS_PER_CLUSTER))


def sample_points(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the embeddings of some metadata files that are clustered, as one npy (m, d) float16."""
    root = Path(out)
    captions = [_passing_rows(str(root / path)) for path in args["files"]]
    held: list[int] = []
    dim = 0
    for pass_number in (0, 1):
        if pass_number:
            write_npy(root / args["output"], (sum(held), dim), np.float16, _points(root, args, captions))
        else:
            for block in _points(root, args, captions):
                held.append(len(block))
                dim = dim or block.shape[1]
                if block.shape[1] != dim:
                    raise PoolError(f"{ARRAY} has {dim} dimensions in one file and {block.shape[1]} in another")
    return {"points": sum(held), "dim": dim, "rows": sum(map(len, captions))}


def _passing_rows(path: str) -> Mask:
    """(n,) bool of a metadata file: the caption is one that image_based lets pass."""
    with open_metadata(path) as file:
        return np.concatenate([np.empty(0, np.bool_), *map(passes_captions, file.batches([TEXT]))])


def _points(root: Path, args: dict[str, Any], captions: list[Mask]) -> Iterator[Any]:
    for ordinal, (path, passes) in enumerate(zip(args["files"], captions, strict=True), args["first"]):
        # counter-based: which rows are drawn depends on seed, file and row alone
        draw = np.random.Generator(np.random.Philox(key=[args["seed"], ordinal]))
        check_rows(root / sibling_npz(path), path, len(passes))
        at = 0
        for block in iterate_npz(root / sibling_npz(path), ARRAY, BLOCK_ROWS):
            if block.ndim != 2 or block.dtype.kind != "f":
                raise PoolError(f"{sibling_npz(path)}: {ARRAY} must be (rows, dimensions) floats; got {block.dtype}")
            values = block.astype(np.float32)
            length = np.linalg.norm(values, axis=1)
            usable = np.isfinite(length) & (length > 0) & passes[at : at + len(block)]
            at += len(block)
            if args["share"] < 1:
                usable &= draw.random(len(block)) < args["share"]
            yield (values[usable] / length[usable, None]).astype(np.float16)


def begin_kmeans(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the centroids that k-means begins at."""
    root = Path(out)
    blocks = [load_array(root / path, mmap=True) for path in args["points"]]
    save_array(root / args["output"], initial_centroids(blocks, args["clusters"], seed=args["seed"]))
    return {}


def iterate_kmeans(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: one iteration of k-means over all points."""
    root = Path(out)
    blocks = (load_array(root / path, mmap=True) for path in args["points"])
    with borrowed_device(args["device"]) as device:
        centroids, counts, error = kmeans_iteration(blocks, load_array(root / args["before"]), device=device)
    save_array(root / args["output"], centroids)
    return {"error": error, "empty": int((counts == 0).sum())}


def kmeans_steps(run: Run) -> Any:
    """The steps of the pool's own centroids; returns (their path, what was done)."""
    settings = run.settings
    groups = run.metadata_groups()
    points = [f"state/filter/points/{number:05d}.npy" for number in range(len(groups))]
    model = model_fingerprint()
    stats = yield [
        Piece(
            "filter/points",
            f"{number:05d}",
            "dcfast.stages.filter.centroids:sample_points",
            {
                "files": files,
                "first": first,
                "share": SAMPLED.get(settings.scale, 1.0),
                "seed": settings.seed,
                "language_model": model,
                "output": points[number],
            },
            inputs=(*files, *(sibling_npz(name) for name in files)),
            outputs=(points[number],),
            version=VERSION,
        )
        for number, (first, files) in enumerate(groups)
    ]
    total = sum(s["points"] for s in stats)
    if total == 0:
        raise PoolError(
            f"no metadata row has an image embedding ({ARRAY}) and a caption that image_based lets pass; there is "
            "nothing to cluster"
        )
    clusters = min(total, num_clusters(sum(s["rows"] for s in stats)))
    places = [p for p, s in zip(points, stats, strict=True) if s["points"]]
    path = "state/filter/kmeans/00.npy"
    yield [
        Piece(
            "filter/kmeans",
            "00",
            "dcfast.stages.filter.centroids:begin_kmeans",
            {"points": places, "clusters": clusters, "seed": settings.seed, "output": path},
            inputs=tuple(places),
            outputs=(path,),
        )
    ]
    error = None
    for turn in range(1, ITERATIONS + 1):
        before, path = path, f"state/filter/kmeans/{turn:02d}.npy" if turn < ITERATIONS else CENTROIDS
        (done,) = yield [
            Piece(
                "filter/kmeans",
                f"{turn:02d}",
                "dcfast.stages.filter.centroids:iterate_kmeans",
                {"points": places, "before": before, "output": path, "device": settings.device},
                inputs=(before, *places),
                outputs=(path,),
                gpus=gpu_share(settings.device),
            )
        ]
        error = done["error"]
    return path, {"points": total, "clusters": clusters, "iterations": ITERATIONS, "mean_squared_distance": error}
