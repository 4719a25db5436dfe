"""Part of stage ``filter``: k-means of the pool's L/14 image embeddings, for image_based without centroids.

The points are read once an iteration and each iteration is a piece, so that a stop costs one iteration at most.
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
from dcfast.models.devices import borrowed_device, gpu_share
from dcfast.rundir.run_dir import Run
from dcfast.similarity.centroids import ITERATIONS, initial_centroids, kmeans_iteration
from dcfast.storage.atomic import atomic_path
from dcfast.storage.npz import NpyWriter, iterate_npz

__all__ = ["BLOCK_ROWS", "CENTROIDS", "kmeans_steps", "num_clusters", "save_array"]

CENTROIDS = "filter/centroids.npy"
BLOCK_ROWS = 8_192
MOST_CLUSTERS = 100_000
ROWS_PER_CLUSTER = 128
"""DataComp's 100,000 clusters at small, with its 12.8 million rows; smaller pools have as many rows a cluster."""
SAMPLED = {"large": 0.3, "xlarge": 0.03}
"""The share of the pool that is clustered; all of it at other scales."""


def num_clusters(rows: int) -> int:
    """How many clusters a pool of so many rows gets."""
    return min(MOST_CLUSTERS, max(1, rows // ROWS_PER_CLUSTER))


def save_array(path: Path, array: Any) -> None:
    """An npy that is whole or absent."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def sample_points(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the embeddings of some metadata files that are clustered, as one npy (m, d) float16."""
    root = Path(out)
    held: list[int] = []
    dim = 0
    for pass_number in (0, 1):
        if pass_number:
            output = root / args["output"]
            with atomic_path(output) as temporary, open(temporary, "wb") as file:
                writer = NpyWriter(file, (sum(held), dim), np.float16)
                for block in _points(root, args):
                    writer.write(block)
                writer.close()
        else:
            for block in _points(root, args):
                held.append(len(block))
                dim = dim or block.shape[1]
                if block.shape[1] != dim:
                    raise PoolError(f"{ARRAY} has {dim} dimensions in one file and {block.shape[1]} in another")
    return {"points": sum(held), "dim": dim}


def _points(root: Path, args: dict[str, Any]) -> Iterator[Any]:
    for ordinal, path in enumerate(args["files"], args["first"]):
        # counter-based: which rows are drawn depends on seed, file and row alone
        draw = np.random.Generator(np.random.Philox(key=[args["seed"], ordinal]))
        for block in iterate_npz(root / sibling_npz(path), ARRAY, BLOCK_ROWS):
            if block.ndim != 2 or block.dtype.kind != "f":
                raise PoolError(f"{sibling_npz(path)}: {ARRAY} must be (rows, dimensions) floats; got {block.dtype}")
            values = block.astype(np.float32)
            length = np.linalg.norm(values, axis=1)
            usable = np.isfinite(length) & (length > 0)
            if args["share"] < 1:
                usable &= draw.random(len(block)) < args["share"]
            yield (values[usable] / length[usable, None]).astype(np.float16)


def begin_kmeans(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the centroids that k-means begins at."""
    root = Path(out)
    blocks = [np.load(root / path, mmap_mode="r", allow_pickle=False) for path in args["points"]]
    save_array(root / args["output"], initial_centroids(blocks, args["clusters"], seed=args["seed"]))
    return {}


def iterate_kmeans(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: one iteration of k-means over all points."""
    root = Path(out)
    blocks = (np.load(root / path, mmap_mode="r", allow_pickle=False) for path in args["points"])
    with borrowed_device(args["device"]) as device:
        centroids, counts, error = kmeans_iteration(blocks, np.load(root / args["before"]), device=device)
    save_array(root / args["output"], centroids)
    return {"error": error, "empty": int((counts == 0).sum())}


def kmeans_steps(run: Run) -> Any:
    """The steps of the pool's own centroids; returns (their path, what was done)."""
    settings = run.settings
    groups = run.metadata_groups()
    points = [f"state/filter/points/{number:05d}.npy" for number in range(len(groups))]
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
                "output": points[number],
            },
            inputs=tuple(sibling_npz(name) for name in files),
            outputs=(points[number],),
        )
        for number, (first, files) in enumerate(groups)
    ]
    total = sum(s["points"] for s in stats)
    if total == 0:
        raise PoolError(f"no metadata row has an image embedding ({ARRAY}); there is nothing to cluster")
    share = SAMPLED.get(settings.scale, 1.0)
    clusters = min(total, num_clusters(round(total / share)))
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
