"""Part of stage ``filter``: clusters of the pool's image embeddings, which ``semdedup`` and ``density`` share.

All rows that have an embedding are items. Spherical k-means, 20 iterations, each a piece; then the items of each group
of metadata files in the order of their clusters. Terms of the same arch, number and seed have the same clusters.
Memory a worker: 12 bytes a centroid and dimension, and a tile. Disk: 2 bytes a dimension and row, 20 bytes a row.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast.engine.piece import Nothing, piece
from dcfast.errors import PoolError
from dcfast.features.files import sibling_npz
from dcfast.filters.score_sources import DensityScore, SemanticScore
from dcfast.models.devices import gpu_share
from dcfast.rundir.layout import score_name
from dcfast.rundir.run_dir import Run
from dcfast.similarity.centroids import ITERATIONS
from dcfast.stages.filter.centroids import begin_kmeans, iterate_kmeans
from dcfast.stages.filter.embeddings import BLOCK_ROWS, check_file, embedding_blocks, image_array, one_blas_thread
from dcfast.stages.runner import Do
from dcfast.storage.npz import load_array, save_array, write_npy
from dcfast.storage.records import Count, Record


class ClusterFolder(Record):
    """Where what is shared of one clustering lies, and how it was made.

    Attributes:
        groups: of metadata files, each with its items.   clusters: fewer than asked for where there are fewer items.
    """

    folder: str
    groups: Count
    clusters: Count
    items: Count

    def points(self, group: int) -> str:
        """(m, d) float16 unit vectors: the items of a group."""
        return f"{self.folder}/points-{group:05d}.npy"

    def rows(self, group: int) -> str:
        """(m,) int64: the row of each item, counted over the group's files."""
        return f"{self.folder}/rows-{group:05d}.npy"

    def order(self, group: int) -> str:
        """(m,) int64: the items, cluster by cluster."""
        return f"{self.folder}/order-{group:05d}.npy"

    def offsets(self, group: int) -> str:
        """(clusters + 1,) int64: where each cluster begins in ``order``."""
        return f"{self.folder}/offsets-{group:05d}.npy"

    def cosines(self, group: int) -> str:
        """(m,) float32: cosines to the centroid, in the order of ``order``."""
        return f"{self.folder}/cosines-{group:05d}.npy"

    @property
    def centroids(self) -> str:
        return f"{self.folder}/centroids.npy"


class Points(Record):
    """Items of some metadata files."""

    points: Count
    dim: Count


@piece()
def unit_points(out: Path, key: str, files: Sequence[str], array: str, points: str, rows: str) -> Points:
    """Piece: the embeddings of some metadata files that are one, of length 1, and which rows they are of."""
    for path in files:
        check_file(out / sibling_npz(path), str(out / path), [array], key)
    usable = [
        np.concatenate([np.empty(0, np.bool_), *(mask for _, mask in embedding_blocks(out / sibling_npz(path), array))])
        for path in files
    ]
    kept = np.flatnonzero(np.concatenate([np.empty(0, np.bool_), *usable]))
    first = next((block.shape[1] for path in files for block, _ in embedding_blocks(out / sibling_npz(path), array)), 0)

    def blocks() -> Iterator[npt.NDArray[np.float16]]:
        for path in files:
            for block, mask in embedding_blocks(out / sibling_npz(path), array):
                if block.shape[1] != first:
                    raise PoolError(
                        f"{sibling_npz(path)}: {array} has {block.shape[1]} dimensions, other files have {first}: "
                        "compute all by one model"
                    )
                values = block[mask].astype(np.float64)
                yield (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)

    write_npy(out / points, (len(kept), first), np.float16, blocks())
    save_array(out / rows, kept)
    return Points(len(kept), first)


@piece()
def order_by_cluster(out: Path, files: ClusterFolder, group: int) -> Nothing:
    """Piece: the cluster of each item of a group, its nearest centroid by cosine; ties to the lowest index."""
    centroids = load_array(out / files.centroids)
    points = load_array(out / files.points(group), mmap=True)
    labels, cosines = np.zeros(len(points), np.int64), np.zeros(len(points), np.float32)
    with one_blas_thread():
        for begin in range(0, len(points), BLOCK_ROWS):
            part = np.asarray(points[begin : begin + BLOCK_ROWS], np.float64)
            near = (part.astype(np.float32) @ centroids.T).argmax(axis=1)
            labels[begin : begin + BLOCK_ROWS] = near
            # in float64, so that the order of a cluster's items does not hang on how products are cut
            cosines[begin : begin + BLOCK_ROWS] = np.einsum("nd,nd->n", part, centroids[near])
    order = np.argsort(labels, kind="stable")
    save_array(out / files.order(group), order)
    save_array(out / files.offsets(group), np.searchsorted(labels[order], np.arange(len(centroids) + 1)))
    save_array(out / files.cosines(group), cosines[order])
    return Nothing()


def make_item_clusters(run: Run, do: Do, source: SemanticScore | DensityScore) -> ClusterFolder:
    """Clusters that terms of the same arch, number and seed share."""
    name = score_name(f"clusters({source.arch}, {source.clusters}, {source.seed})")
    step, device, groups = f"filter/{name}", run.settings.device, run.metadata_groups()
    files = ClusterFolder(f"state/filter/scores/{name}", len(groups), 0, 0)
    done = do(
        unit_points.piece(
            f"{step}-points",
            f"{group:05d}",
            inputs=[*names, *map(sibling_npz, names)],
            outputs=[files.points(group), files.rows(group)],
            weight=sum(os.path.getsize(run.out / sibling_npz(path)) for path in names),
        )(
            key=source.key,
            files=names,
            array=image_array(source.arch),
            points=files.points(group),
            rows=files.rows(group),
        )
        for group, (_, names) in enumerate(groups)
    )
    total = sum(part.points for part in done)
    if not total:
        raise PoolError(
            f"filter {source.key}: no metadata row has an image embedding, so there is nothing to cluster; leave it out"
        )
    widths = sorted({part.dim for part in done if part.points})
    if len(widths) > 1:
        raise PoolError(
            f"filter {source.key}: {image_array(source.arch)} has {' and '.join(map(str, widths))} dimensions in "
            "different files: compute all by one model"
        )
    points = [files.points(group) for group, part in enumerate(done) if part.points]
    files = ClusterFolder(files.folder, len(groups), min(source.clusters, total), total)
    path = f"{files.folder}/kmeans-00.npy"
    do.one(
        begin_kmeans.piece(f"{step}-kmeans", "00", inputs=points, outputs=[path])(
            points=points, clusters=files.clusters, seed=source.seed, output=path
        )
    )
    for turn in range(1, ITERATIONS + 1):
        before, path = path, f"{files.folder}/kmeans-{turn:02d}.npy" if turn < ITERATIONS else files.centroids
        iterate = iterate_kmeans.piece(
            f"{step}-kmeans", f"{turn:02d}", inputs=[before, *points], outputs=[path], gpus=gpu_share(device)
        )
        do.one(iterate(points=points, before=before, output=path, device=device, spherical=True))
    do(
        order_by_cluster.piece(
            f"{step}-order",
            f"{group:05d}",
            inputs=[files.points(group), files.centroids],
            outputs=[files.order(group), files.offsets(group), files.cosines(group)],
        )(files=files, group=group)
        for group in range(len(groups))
    )
    return files
