"""Part of stage ``filter``: which rows of the metadata have a picture in a cluster that a target's picture is in.

For each cluster set that the filter uses: centroids (given, or by ``dcfast.stages.filter.centroids``), the
target's embeddings (given, or of the built-in world's clean pictures), the clusters that are nearest to any of
these, and then a boolean a row, in ``filter/clusters/{set}/{file}.npy``.
Memory: the centroids (0.3 GB for 100,000 of 768 dimensions), and a tile of scores.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcfast.engine.piece import Piece
from dcfast.errors import CorruptDataError, FilterError, PoolError
from dcfast.features.embed import encode
from dcfast.features.files import ARRAY, sibling_npz
from dcfast.features.pairs import NO_CAPTION, OK, SegmentPairs
from dcfast.features.spec import FeatureModel
from dcfast.index.build import Segment, write_segment
from dcfast.models.devices import borrowed_device, gpu_share, one_thread
from dcfast.rundir.layout import mask_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import TEACHER
from dcfast.similarity.centroids import nearest_centroids
from dcfast.stages.features import load_feature_model, model_arguments
from dcfast.stages.filter.centroids import BLOCK_ROWS, kmeans_steps, save_array
from dcfast.stages.teacher import teacher_shards
from dcfast.storage.npz import iterate_npz, npz_arrays
from dcfast.storage.paths import absolute

if TYPE_CHECKING:
    from dcfast.filters.compiled import Filter
    from dcfast.filters.term import Clusters

__all__ = ["check_clusters", "cluster_steps"]


def _load_embeddings(path: str | os.PathLike[str], what: str) -> Any:
    """A two-dimensional npy of floats, mapped; CorruptDataError says what else it is."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # never an archive, never a pickle
    except OSError:
        raise
    except Exception as error:  # NumPy parses the header as Python text and lets that parser's errors through
        raise CorruptDataError(
            f"{what} {path}: expected an .npy of embeddings ({error}); files that torch has pickled have to be "
            "converted with numpy.save first",
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
                _load_embeddings(absolute(path), what)
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
                "make them (--features l14=ViT-L-14:openai)"
            )


def embed_target(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: image embeddings of the built-in world's clean pictures by the run's teacher, (m, d) float16."""
    import torch

    root = Path(out)
    index = root / "state/filter/target.dcx"
    write_segment([(root / path, Path(path).name) for path in args["shards"]], index)
    found = []
    with borrowed_device(args["device"]) as device, one_thread(device):
        model = load_feature_model(root, args["model"], device)
        pairs = SegmentPairs(Segment.open(index), str(root / Path(args["shards"][0]).parent), [model])
        for chunk in pairs.chunks(threads=1, ahead=4):
            image, _ = encode(model, chunk.images[0], None, device)
            usable = torch.from_numpy((chunk.status == OK) | (chunk.status == NO_CAPTION))
            found.append(image.cpu()[usable].to(torch.float16).numpy())
    target = np.concatenate(found)
    save_array(root / args["output"], target)
    return {"pictures": len(target)}


def choose_clusters(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: (k,) bool, the centroids that are nearest to any of the target's embeddings."""
    root = Path(out)
    centroids = np.asarray(_load_embeddings(root / args["centroids"], "centroids"), np.float32)
    target = _load_embeddings(root / args["target"], "target")
    if target.shape[1] != centroids.shape[1]:
        raise FilterError(
            f"target {args['target']} has {target.shape[1]} dimensions, the centroids have {centroids.shape[1]}: "
            "embeddings of two models cannot be compared"
        )
    chosen = np.zeros(len(centroids), np.bool_)
    with borrowed_device(args["device"]) as device:
        for begin in range(0, len(target), BLOCK_ROWS):
            nearest = nearest_centroids(target[begin : begin + BLOCK_ROWS], centroids, device=device)
            chosen[nearest[nearest >= 0]] = True
    save_array(root / args["output"], chosen)
    return {"clusters": len(chosen), "chosen": int(chosen.sum())}


def assign_rows(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: for some metadata files, whether each row's nearest centroid is chosen; False without embedding."""
    root = Path(out)
    centroids = np.asarray(_load_embeddings(root / args["centroids"], "centroids"), np.float32)
    chosen = np.load(root / args["chosen"], allow_pickle=False)
    rows = inside = 0
    with borrowed_device(args["device"]) as device, one_thread(device):
        for path in args["files"]:
            parts = [np.empty(0, np.bool_)]
            for block in iterate_npz(root / sibling_npz(path), ARRAY, BLOCK_ROWS):
                if block.shape[1:] != centroids.shape[1:]:
                    raise PoolError(
                        f"{sibling_npz(path)}: {ARRAY} has shape {block.shape[1:]} a row, the centroids have "
                        f"{centroids.shape[1:]}: embeddings of two models cannot be compared"
                    )
                nearest = nearest_centroids(block, centroids, device=device)
                parts.append((nearest >= 0) & chosen[np.maximum(nearest, 0)])
            mask = np.concatenate(parts)
            save_array(root / mask_path(args["number"], path), mask)
            rows, inside = rows + len(mask), inside + int(mask.sum())
    return {"rows": rows, "inside": inside}


def _target(run: Run) -> Any:
    """The steps of the built-in world's target; returns its path."""
    model, files = model_arguments(FeatureModel(("l14",), TEACHER, None))
    shards = teacher_shards(run)
    path = "filter/target.npy"
    yield [
        Piece(
            "filter/target",
            "target",
            "dcfast.stages.filter.clusters:embed_target",
            {"shards": shards, "model": model, "device": run.settings.device, "output": path},
            inputs=(*shards, *files),
            outputs=(path,),
            gpus=gpu_share(run.settings.device),
        )
    ]
    return path


def _members(run: Run, number: int, centroids: str, target: str) -> Any:
    """The steps that ask of each row whether it is in a chosen cluster; returns their counts."""
    chosen = f"filter/clusters/{number}-chosen.npy"
    common = {"centroids": centroids, "device": run.settings.device}
    (picked,) = yield [
        Piece(
            f"filter/chosen-{number}",
            "chosen",
            "dcfast.stages.filter.clusters:choose_clusters",
            {**common, "target": target, "output": chosen},
            inputs=(centroids, target),
            outputs=(chosen,),
            gpus=gpu_share(run.settings.device),
        )
    ]
    stats = yield [
        Piece(
            f"filter/assign-{number}",
            f"{group:05d}",
            "dcfast.stages.filter.clusters:assign_rows",
            {**common, "chosen": chosen, "files": files, "number": number},
            inputs=(centroids, chosen, *(sibling_npz(name) for name in files)),
            outputs=tuple(mask_path(number, name) for name in files),
            gpus=gpu_share(run.settings.device),
        )
        for group, (_, files) in enumerate(run.metadata_groups())
    ]
    return {**picked, "rows": sum(s["rows"] for s in stats), "rows_inside": sum(s["inside"] for s in stats)}


def cluster_steps(run: Run, wanted: list[Clusters]) -> Any:
    """The steps of all cluster sets of a filter; returns what was done, by the set's key."""
    done: dict[str, Any] = {}
    own: tuple[str, dict[str, Any]] | None = None
    target: str | None = None
    for number, clusters in enumerate(wanted):
        about: dict[str, Any] = {}
        if clusters.centroids is None:
            own = own or (yield from kmeans_steps(run))
            place, about = own
        else:
            place = absolute(clusters.centroids)
        if clusters.target is None:
            target = target or (yield from _target(run))
        aim = target if clusters.target is None else absolute(clusters.target)
        assert aim is not None
        done[clusters.key] = {**about, **(yield from _members(run, number, place, aim))}
    return done
