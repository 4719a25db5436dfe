"""Part of stage ``filter``: which rows of the metadata have a picture in a cluster that a target's picture is in.

For each cluster set that the filter uses: centroids (given, or by ``dcfast.stages.filter.centroids``), the
target's embeddings (given, or of the built-in world's clean pictures), the clusters that are nearest to any of
these. Rows are asked about while the filter is evaluated, and only those that pass the rest of it; what was found is
left in ``filter/clusters/{set}/{file}.npy``, a byte a row.
Memory: the centroids (0.3 GB for 100,000 of 768 dimensions), a tile of scores, and 8,192 embeddings.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.engine.piece import Nothing, piece
from dcfast.errors import CorruptDataError, FilterError, PoolError
from dcfast.features.embed import encode_pictures
from dcfast.features.files import ARRAY, sibling_npz
from dcfast.features.pairs import NO_CAPTION, OK, SegmentPairs
from dcfast.features.spec import FeatureModel
from dcfast.filters.rules import Mask
from dcfast.filters.term import FEATURES_OPTIONS
from dcfast.index.build import write_segment
from dcfast.index.metadata import count_metadata_rows
from dcfast.index.segments import Segment
from dcfast.models.devices import borrowed_device, gpu_share, one_thread
from dcfast.rundir.layout import INSIDE, OUTSIDE, UNASKED
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import TEACHER
from dcfast.rundir.summaries import ClusterCounts
from dcfast.similarity.nearest import NearestCentroids
from dcfast.stages.features import ModelSource, load_feature_model, model_source
from dcfast.stages.filter.centroids import BLOCK_ROWS, check_rows, make_centroids
from dcfast.stages.runner import Do
from dcfast.stages.teacher import teacher_shards
from dcfast.storage.npz import iterate_npz, load_array, npz_arrays, save_array
from dcfast.storage.paths import absolute
from dcfast.storage.records import Count, Record, replaced

if TYPE_CHECKING:
    from dcfast.filters.compiled import Filter
    from dcfast.filters.term import Clusters


class ClusterFiles(Record):
    """Paths of a cluster set: the centroids, and (k,) bool which of them are chosen."""

    centroids: str
    chosen: str


def load_embeddings(path: str | os.PathLike[str], what: str) -> npt.NDArray[np.floating]:
    """A two-dimensional npy of floats, mapped; CorruptDataError says what else it is."""
    try:
        array = load_array(path, mmap=True)
    except CorruptDataError as error:
        raise CorruptDataError(
            f"{what} {path}: expected an .npy of embeddings ({error.__cause__}); files that torch has pickled have to "
            "be converted with numpy.save first",
            path=os.fspath(path),
        ) from None
    if array.ndim != 2 or array.dtype.kind != "f" or len(array) == 0:
        raise CorruptDataError(
            f"{what} {path}: expected floats of shape (rows, dimensions); got {array.dtype} of shape {array.shape}",
            path=os.fspath(path),
        )
    return array


def check_clusters(run: Run, compiled: Filter) -> None:
    """Looks for what the filter's cluster sets need, before any work.

    Raises:
        FileNotFoundError, CorruptDataError: a given file is not there, or holds no embeddings.
        FilterError: no target is given for a given pool.
        PoolError: neither the features stage nor the pool has L/14 image embeddings.
    """
    if not compiled.clusters:
        return
    for clusters in compiled.clusters:
        for what, path in (("centroids", clusters.centroids), ("target", clusters.target)):
            if path is not None:
                load_embeddings(absolute(path), what)
        if clusters.target is None and not (run.is_world and run.features.get("l14") == TEACHER):
            raise FilterError(
                f'filter {compiled.text!r} needs target="embeddings.npy", the L/14 image embeddings of the pictures to '
                "look for (DataComp: ImageNet's training set); only the built-in world with its teacher has its own"
            )
    if "l14" in run.features:
        return
    for number, metadata in enumerate(run.pool.metadata):
        path = sibling_npz(metadata)
        # one is opened; of the others, perhaps thousands, it is enough that they are there
        if not os.path.isfile(path) or (number == 0 and ARRAY not in npz_arrays(path)):
            raise PoolError(
                f"filter {compiled.text!r} needs image embeddings, {ARRAY} in {path}; download the pool's npz, or "
                f"have them computed ({FEATURES_OPTIONS['l14']})"
            )


class Chosen(Record):
    """Clusters, and those that a target's image is in."""

    clusters: Count
    chosen: Count


@piece()
def embed_target(out: Path, shards: Sequence[str], model: ModelSource, device: str, output: str) -> Nothing:
    """Piece: image embeddings of the built-in world's clean images by the run's teacher, (m, d) float16."""
    import torch

    index = out / "state/filter/target.dcx"
    write_segment([(out / path, Path(path).name) for path in shards], index)
    parts = []
    with borrowed_device(device) as borrowed, one_thread(borrowed):
        clip = load_feature_model(out, model, borrowed)
        pairs = SegmentPairs(Segment.open(index), str(out / Path(shards[0]).parent), [clip])
        for chunk in pairs.chunks(threads=1, ahead=4):
            image = encode_pictures(clip, chunk.pixels[clip.pixels.shape], borrowed)
            usable = torch.from_numpy((chunk.status == OK) | (chunk.status == NO_CAPTION))
            parts.append(image.cpu()[usable].to(torch.float16).numpy())
    save_array(out / output, np.concatenate(parts))
    return Nothing()


@piece()
def choose_clusters(out: Path, centroids: str, device: str, target: str, output: str) -> Chosen:
    """Piece: (k,) bool, the centroids that are nearest to any of the target's embeddings."""
    centers = np.asarray(load_embeddings(out / centroids, "centroids"), np.float32)
    embeddings = load_embeddings(out / target, "target")
    if embeddings.shape[1] != centers.shape[1]:
        raise FilterError(
            f"target {target} has {embeddings.shape[1]} dimensions, the centroids have {centers.shape[1]}: "
            "embeddings of two models cannot be compared: compute both by one"
        )
    chosen = np.zeros(len(centers), np.bool_)
    with borrowed_device(device) as borrowed:
        find = NearestCentroids(centers, device=borrowed)
        for begin in range(0, len(embeddings), BLOCK_ROWS):
            nearest = find(embeddings[begin : begin + BLOCK_ROWS])
            chosen[nearest[nearest >= 0]] = True
    save_array(out / output, chosen)
    return Chosen(len(chosen), int(chosen.sum()))


class ClusterSet:
    """Centroids, which of them are chosen, and the device to ask on; one a process and cluster set.

    Memory: the centroids, and on each GPU that was borrowed once more.
    """

    def __init__(self, root: Path, key: str, given: ClusterFiles, device: str) -> None:
        self.key = key
        self.centroids: npt.NDArray[np.float32] = np.asarray(
            load_embeddings(root / given.centroids, "centroids"), np.float32
        )
        self._chosen = load_array(root / given.chosen)
        self._device = device
        self._nearest: dict[str, NearestCentroids] = {}

    def contains(self, embeddings: npt.NDArray[np.floating]) -> Mask:
        """(n,) bool: the nearest centroid is chosen; False without embedding."""
        # borrowed for this alone: the language model may take longer than the clusters
        with borrowed_device(self._device) as device:
            if device not in self._nearest:  # one thread: pieces fill the cores
                self._nearest[device] = NearestCentroids(self.centroids, device=device, threads=1)
            nearest = self._nearest[device](embeddings)
        inside: Mask = (nearest >= 0) & self._chosen[np.maximum(nearest, 0)]
        return inside


class FileClusters:
    """Which rows of a metadata file are in chosen clusters, found for those rows alone that a filter asks about.

    Batches are taken in the order of the file.

    Attributes:
        verdicts: (sets, rows) uint8, OUTSIDE, INSIDE or UNASKED.
    Memory: a byte a row and set, and the embeddings of a batch.
    """

    def __init__(self, path: str, sets: list[ClusterSet]) -> None:
        """PoolError where the npz beside the file has other rows, or embeddings of another model."""
        rows = count_metadata_rows(path) if sets else 0
        self.verdicts: npt.NDArray[np.uint8] = np.full((len(sets), rows), UNASKED, np.uint8)
        self._sets, self._at = sets, 0
        self._npz = Path(sibling_npz(path))
        if sets:
            check_rows(self._npz, path, rows)
        self._blocks = iterate_npz(self._npz, ARRAY, BLOCK_ROWS)
        self._left = np.empty((0, 0), np.float16)

    def of_batch(self, rows: int) -> dict[str, Callable[[Mask], Mask]]:
        """What ``Filter.evaluate`` takes as ``clusters`` for the next rows of the file."""
        if not self._sets:
            return {}
        embeddings = self._take(rows)
        at = slice(self._at, self._at + rows)
        self._at += rows
        return {s.key: partial(_ask, s, embeddings, self.verdicts[i, at]) for i, s in enumerate(self._sets)}

    def _take(self, rows: int) -> npt.NDArray[np.floating]:
        parts = [self._left]
        while sum(map(len, parts)) < rows:
            block = next(self._blocks)  # check_rows has counted them
            for one in self._sets:
                if block.shape[1:] != one.centroids.shape[1:]:
                    raise PoolError(
                        f"{self._npz}: {ARRAY} has shape {block.shape[1:]} a row, the centroids have "
                        f"{one.centroids.shape[1:]}: embeddings of two models cannot be compared; compute both by one"
                    )
            parts.append(block)
        whole = np.concatenate([part for part in parts if len(part)]) if len(parts) > 1 else self._left
        self._left = whole[rows:]
        return whole[:rows]


def _ask(one: ClusterSet, embeddings: npt.NDArray[np.floating], verdicts: npt.NDArray[np.uint8], pending: Mask) -> Mask:
    """The rows of a batch that are inside, right where they are pending; ``verdicts`` remembers."""
    unasked = np.flatnonzero(pending & (verdicts == UNASKED))
    if len(unasked):
        verdicts[unasked] = np.where(one.contains(embeddings[unasked]), INSIDE, OUTSIDE)
    return np.equal(verdicts, INSIDE)


def make_target(run: Run, do: Do) -> str:
    """The built-in world's target: its path."""
    model, files = model_source(FeatureModel(("l14",), TEACHER, None))
    shards, device = teacher_shards(run), run.settings.device
    path = "filter/target.npy"
    embed = embed_target.piece(
        "filter/target", "target", inputs=[*shards, *files], outputs=[path], gpus=gpu_share(device)
    )
    do.one(embed(shards=shards, model=model, device=device, output=path))
    return path


def make_clusters(run: Run, do: Do, sets: list[Clusters]) -> tuple[list[ClusterFiles], list[ClusterCounts]]:
    """Makes all cluster sets of a filter: their files, and what was done, both in their order."""
    files, done = [], []
    own: tuple[str, ClusterCounts] | None = None
    own_target: str | None = None
    device = run.settings.device
    for number, clusters in enumerate(sets):
        counts = ClusterCounts()
        if clusters.centroids is None:
            own = own or make_centroids(run, do)
            centroids, counts = own
        else:
            centroids = absolute(clusters.centroids)
        if clusters.target is None:
            target = own_target = own_target or make_target(run, do)
        else:
            target = absolute(clusters.target)
        chosen = f"filter/clusters/{number}-chosen.npy"
        choose = choose_clusters.piece(
            f"filter/chosen-{number}",
            "chosen",
            inputs=[centroids, target],
            outputs=[chosen],
            gpus=gpu_share(device),
        )
        picked = do.one(choose(centroids=centroids, device=device, target=target, output=chosen))
        files.append(ClusterFiles(centroids, chosen))
        done.append(replaced(counts, clusters=picked.clusters, chosen=picked.chosen))
    return files, done
