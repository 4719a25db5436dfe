"""Part of stage ``filter``: s_cliploss, the score of each pair less what others of its batch have in common with it.

A piece is one shuffle of some metadata files: its batches are cut from a permutation of a file's rows, keyed by seed,
shuffle and the name of the file, so that neither other files nor the number of workers change a score. The mean over
shuffles is a piece of its own: more shuffles later cost only the new ones.
Memory a worker: 16 bytes an element of a batch (0.4 GB for 768 dimensions) and 40 bytes a row of one metadata file; the
embeddings are mapped. Disk: 4 bytes a row and shuffle. Cost: 32,768 x dimensions products a row and shuffle.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast._core import reshard as core_reshard
from dcfast.access.counter import stream_key
from dcfast.engine.piece import Nothing, piece
from dcfast.features.files import sibling_npz
from dcfast.filters.pair_scores import BATCH, s_cliploss
from dcfast.filters.score_sources import ContrastScore
from dcfast.models.devices import borrowed_device, gpu_share, whole_matmuls
from dcfast.rundir.layout import score_name, score_path
from dcfast.rundir.run_dir import Run
from dcfast.stages.filter.embeddings import check_file, image_array, score_device, text_array, usable_pairs
from dcfast.stages.filter.score_columns import ScoreColumns, Scored, scored_of
from dcfast.stages.runner import Do
from dcfast.storage.npz import load_array, map_npz, save_array


def arrays_of(source: ContrastScore) -> list[str]:
    return [image_array(source.arch), text_array(source.arch)]


def shuffled_rows(rows: int, seed: int, shuffle: int, file: str) -> npt.NDArray[np.int64]:
    """(rows,) a permutation of 0..rows-1, the same for the same seed, shuffle and name of the file."""
    if not rows:
        return np.empty(0, np.int64)
    name = int.from_bytes(hashlib.sha256(os.fsencode(Path(file).stem)).digest()[:8], "little")
    return core_reshard.permuted(rows, stream_key(seed, shuffle, name), 0, rows).astype(np.int64)


def _shuffle_path(key: str, shuffle: int, metadata: str) -> str:
    return f"state/filter/scores/{score_name(key)}/{shuffle:04d}/{Path(metadata).stem}.npy"


@piece()
def contrast_shuffle(
    out: Path,
    key: str,
    files: Sequence[str],
    arrays: Sequence[str],
    seed: int,
    shuffle: int,
    temperature: float,
    batch: int,
    device: str,
) -> Nothing:
    """Piece: one shuffle's scores of some metadata files, (rows,) float32 each, NaN without a pair of embeddings."""
    for path in files:
        npz = out / sibling_npz(path)
        rows = check_file(npz, str(out / path), arrays, key)
        usable = usable_pairs(npz, arrays)
        scores = np.full(rows, np.nan, np.float32)
        order = usable[shuffled_rows(len(usable), seed, shuffle, path)]
        image, text = (map_npz(npz, name) for name in arrays)
        if device == "cpu":  # nothing of torch is imported then
            scores[order] = s_cliploss(image, text, order, temperature=temperature, batch=batch, threads=1)
        else:
            with borrowed_device(device) as borrowed, whole_matmuls():
                scores[order] = s_cliploss(
                    image, text, order, temperature=temperature, batch=batch, threads=1, device=borrowed
                )
        save_array(out / _shuffle_path(key, shuffle, path), scores)
    return Nothing()


@piece(native=True)
def mean_of_shuffles(out: Path, key: str, shuffle_key: str, files: Sequence[str], shuffles: int) -> Scored:
    """Piece: the mean of the shuffles' scores, summed in float64 in their order."""
    done = []
    for path in files:
        total = np.zeros(0)
        for shuffle in range(shuffles):
            scores = load_array(out / _shuffle_path(shuffle_key, shuffle, path))
            total = total + scores if shuffle else scores.astype(np.float64)
        mean = (total / shuffles).astype(np.float32)
        save_array(out / score_path(key, path), mean)
        done.append(scored_of(mean))
    return Scored.sum(done)


def make_contrast(run: Run, do: Do, source: ContrastScore) -> ScoreColumns:
    """The columns of ``s_cliploss``."""
    one = ContrastScore(source.arch, 0, source.seed, source.temperature)  # the same shuffles serve any number of them
    name, arrays, device = score_name(one.key), arrays_of(source), score_device(run)
    groups = [files for _, files in run.metadata_groups()]
    do(
        contrast_shuffle.piece(
            f"filter/scores-{name}",
            f"{group:05d}-{shuffle:04d}",
            inputs=[*files, *map(sibling_npz, files)],
            outputs=[_shuffle_path(one.key, shuffle, file) for file in files],
            weight=sum(os.path.getsize(run.out / sibling_npz(file)) for file in files),
            gpus=gpu_share(device),
            native=device == "cpu",
        )(
            key=one.key,
            files=files,
            arrays=arrays,
            seed=source.seed,
            shuffle=shuffle,
            temperature=source.temperature,
            batch=BATCH,
            device=device,
        )
        for shuffle in range(source.shuffles)
        for group, files in enumerate(groups)
    )
    stats = do(
        mean_of_shuffles.piece(
            f"filter/scores-{score_name(source.key)}-mean",
            f"{group:05d}",
            inputs=[_shuffle_path(one.key, s, file) for file in files for s in range(source.shuffles)],
            outputs=[score_path(source.key, file) for file in files],
        )(key=source.key, shuffle_key=one.key, files=files, shuffles=source.shuffles)
        for group, files in enumerate(groups)
    )
    return ScoreColumns.of(source, "float32", stats)
