"""Part of stage ``filter``: semdedup and density, which stand on clusters of the pool's image embeddings.

All rows that have an embedding are clustered: spherical k-means, 20 iterations. Then, a piece a run of clusters, the
items of each cluster are compared with one another. Distances of semdedup are scores of their own, so that any eps
serves; both terms share the clusters of one arch, number and seed.
Memory a worker: 12 bytes a centroid and dimension; the largest cluster at 4 bytes a dimension and item; for density 5
bytes an item of the pool. Disk: 2 bytes a dimension and row of embeddings, 20 bytes a row beside.
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
from dcfast.filters.semantic import cluster_complexity, cluster_sizes, distance_to_earlier, farthest_first
from dcfast.index.metadata import count_metadata_rows
from dcfast.models.devices import gpu_share
from dcfast.rundir.layout import score_name, score_path
from dcfast.rundir.run_dir import Run
from dcfast.similarity.centroids import ITERATIONS
from dcfast.stages.filter.centroids import begin_kmeans, iterate_kmeans
from dcfast.stages.filter.embeddings import BLOCK_ROWS, check_file, embedding_blocks, image_array, one_blas_thread
from dcfast.stages.filter.score_columns import ScoreColumns, Scored, scored_of
from dcfast.stages.runner import Do
from dcfast.storage.npz import load_array, save_array, write_npy
from dcfast.storage.records import Count, Record

CLUSTERS_AT_ONCE = 64
"""Of a piece."""
_FOUND = np.dtype([("group", "<u4"), ("item", "<u8"), ("score", "<f4")])


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
            products = np.asarray(points[begin : begin + BLOCK_ROWS], np.float32) @ centroids.T
            labels[begin : begin + BLOCK_ROWS] = products.argmax(axis=1)
            cosines[begin : begin + BLOCK_ROWS] = products.max(axis=1)
    order = np.argsort(labels, kind="stable")
    save_array(out / files.order(group), order)
    save_array(out / files.offsets(group), np.searchsorted(labels[order], np.arange(len(centroids) + 1)))
    save_array(out / files.cosines(group), cosines[order])
    return Nothing()


class _Clusters:
    """The items of clusters over all groups, mapped."""

    def __init__(self, out: Path, files: ClusterFolder) -> None:
        groups = range(files.groups)
        self.points = [load_array(out / files.points(g), mmap=True) for g in groups]
        self.order = [load_array(out / files.order(g), mmap=True) for g in groups]
        self.offsets = [load_array(out / files.offsets(g)) for g in groups]
        self.cosines = [load_array(out / files.cosines(g), mmap=True) for g in groups]

    def slices(self, cluster: int) -> Iterator[tuple[int, slice]]:
        for group, offsets in enumerate(self.offsets):
            if offsets[cluster + 1] > offsets[cluster]:
                yield group, slice(int(offsets[cluster]), int(offsets[cluster + 1]))

    def items(self, cluster: int) -> npt.NDArray[np.void]:
        """``_FOUND`` records of a cluster's items, in the order of the pool; the score is the cosine."""
        parts = [np.empty(0, _FOUND)]
        for group, where in self.slices(cluster):
            part = np.empty(where.stop - where.start, _FOUND)
            part["group"], part["item"], part["score"] = group, self.order[group][where], self.cosines[group][where]
            parts.append(part)
        return np.concatenate(parts)

    def vectors(self, cluster: int) -> npt.NDArray[np.float32]:
        parts = [self.points[group][self.order[group][where]] for group, where in self.slices(cluster)]
        return np.concatenate(parts).astype(np.float32)


@piece()
def compare_in_clusters(out: Path, files: ClusterFolder, begin: int, end: int, output: str) -> Nothing:
    """Piece: SemDeDup's distances of the items of some clusters, as records sorted by group and item."""
    clusters, found = _Clusters(out, files), [np.empty(0, _FOUND)]
    for cluster in range(begin, end):
        items = clusters.items(cluster)
        if len(items):
            order = farthest_first(items["score"])
            with one_blas_thread():
                items["score"][order] = distance_to_earlier(clusters.vectors(cluster)[order])
            found.append(items)
    records = np.concatenate(found)
    save_array(out / output, records[np.lexsort((records["item"], records["group"]))])
    return Nothing()


@piece()
def prune_by_density(out: Path, files: ClusterFolder, total: int, tau: float, output: str) -> Nothing:
    """Piece: density-based pruning: 1 of each item that is kept, else 0, as records sorted by group and item."""
    clusters = _Clusters(out, files)
    centroids = load_array(out / files.centroids)
    sizes = np.array([sum(w.stop - w.start for _, w in clusters.slices(c)) for c in range(files.clusters)], np.int64)
    distances = np.zeros(files.clusters)
    for cluster in np.flatnonzero(sizes).tolist():
        parts = (clusters.cosines[group][where] for group, where in clusters.slices(cluster))
        distances[cluster] = 1.0 - sum(float(part.sum(dtype=np.float64)) for part in parts) / sizes[cluster]
    keeps = cluster_sizes(cluster_complexity(distances, centroids), sizes, total, tau)
    found = [np.empty(0, _FOUND)]
    for cluster in np.flatnonzero(sizes).tolist():
        items = clusters.items(cluster)
        order = farthest_first(items["score"])
        items["score"] = 0
        items["score"][order[: keeps[cluster]]] = 1
        found.append(items)
    records = np.concatenate(found)
    save_array(out / output, records[np.lexsort((records["item"], records["group"]))])
    return Nothing()


@piece(native=True)
def place_scores(out: Path, key: str, files: Sequence[str], group: int, rows: str, found: Sequence[str]) -> Scored:
    """Piece: the scores of a group's items as columns beside its metadata files, float32, NaN for rows of no item."""
    sizes = [count_metadata_rows(str(out / path)) for path in files]
    scores, place = np.full(sum(sizes), np.nan, np.float32), load_array(out / rows)
    for name in found:
        records = load_array(out / name, mmap=True)
        mine = records[slice(*np.searchsorted(records["group"], [group, group + 1]))]
        scores[place[mine["item"].astype(np.int64)]] = mine["score"]
    done, at = [], 0
    for path, size in zip(files, sizes, strict=True):
        save_array(out / score_path(key, path), scores[at : at + size])
        done.append(scored_of(scores[at : at + size]))
        at += size
    return Scored.sum(done)


def _make_clusters(run: Run, do: Do, source: SemanticScore | DensityScore) -> ClusterFolder:
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


def _place(
    run: Run, do: Do, source: SemanticScore | DensityScore, files: ClusterFolder, found: list[str]
) -> ScoreColumns:
    stats = do(
        place_scores.piece(
            f"filter/scores-{score_name(source.key)}-place",
            f"{group:05d}",
            inputs=[*names, files.rows(group), *found],
            outputs=[score_path(source.key, name) for name in names],
        )(key=source.key, files=names, group=group, rows=files.rows(group), found=found)
        for group, (_, names) in enumerate(run.metadata_groups())
    )
    return ScoreColumns.of(source, "float32", stats)


def _inputs(files: ClusterFolder) -> list[str]:
    of_group = (files.points, files.order, files.offsets, files.cosines)
    return [files.centroids, *(path(group) for group in range(files.groups) for path in of_group)]


def make_semantic(run: Run, do: Do, source: SemanticScore) -> ScoreColumns:
    """The columns of ``semdedup``."""
    files, name = _make_clusters(run, do, source), score_name(source.key)
    starts = range(0, files.clusters, CLUSTERS_AT_ONCE)
    found = [f"state/filter/scores/{name}/found-{number:05d}.npy" for number in range(len(starts))]
    do(
        compare_in_clusters.piece(
            f"filter/scores-{name}", f"{number:05d}", inputs=_inputs(files), outputs=[found[number]]
        )(files=files, begin=begin, end=min(begin + CLUSTERS_AT_ONCE, files.clusters), output=found[number])
        for number, begin in enumerate(starts)
    )
    return _place(run, do, source, files, found)


def make_density(run: Run, do: Do, source: DensityScore) -> ScoreColumns:
    """The columns of ``density``; a fraction is of the whole pool's rows."""
    files, name = _make_clusters(run, do, source), score_name(source.key)
    what, _, number = source.size.partition("=")
    rows = sum(count_metadata_rows(str(run.out / path)) for path in run.metadata_files)
    total = int(number) if what == "total" else int(rows * float(number))
    output = f"state/filter/scores/{name}/found.npy"
    prune = prune_by_density.piece(f"filter/scores-{name}", "prune", inputs=_inputs(files), outputs=[output])
    do.one(prune(files=files, total=total, tau=source.tau, output=output))
    return _place(run, do, source, files, [output])
