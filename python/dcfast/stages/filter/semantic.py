"""Part of stage ``filter``: semdedup and density, which stand on clusters of the pool's image embeddings.

A piece is a run of clusters, whose items are compared with one another. Distances of semdedup are scores of their own,
so that any eps serves.
Memory a worker: the largest cluster at 4 bytes a dimension and item; for density 16 bytes an item of the pool. Disk: 16
bytes a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast.engine.piece import Nothing, piece
from dcfast.filters.score_sources import DensityScore, SemanticScore
from dcfast.filters.semantic import cluster_complexity, cluster_sizes, distance_to_earlier, farthest_first
from dcfast.filters.thresholds import rows_of_fraction
from dcfast.index.metadata import count_metadata_rows
from dcfast.rundir.layout import score_name, score_path
from dcfast.rundir.run_dir import Run
from dcfast.stages.filter.embeddings import one_blas_thread
from dcfast.stages.filter.item_clusters import ClusterFolder, make_item_clusters
from dcfast.stages.filter.score_columns import ScoreColumns, Scored, scored_of
from dcfast.stages.runner import Do
from dcfast.storage.npz import load_array, save_array

CLUSTERS_AT_ONCE = 64
"""Of a piece."""
_FOUND = np.dtype([("group", "<u4"), ("item", "<u8"), ("score", "<f4")])


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
    files, name = make_item_clusters(run, do, source), score_name(source.key)
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
    """The columns of ``density``; a fraction is of the whole pool's rows, by the rule of thresholds."""
    files, name = make_item_clusters(run, do, source), score_name(source.key)
    what, _, number = source.size.partition("=")
    rows = sum(count_metadata_rows(str(run.out / path)) for path in run.metadata_files)
    total = int(number) if what == "total" else rows_of_fraction(rows, float(number))
    output = f"state/filter/scores/{name}/found.npy"
    prune = prune_by_density.piece(f"filter/scores-{name}", "prune", inputs=_inputs(files), outputs=[output])
    do.one(prune(files=files, total=total, tau=source.tau, output=output))
    return _place(run, do, source, files, [output])
