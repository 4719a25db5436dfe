"""Part of stage ``filter``: normsim and vas, how near a picture is to the pictures of a target.

For p = 2, and for vas, all of the target is in the (d, d) sum of its outer products, so that a row costs d^2 products;
for p = inf the largest magnitude of a row's inner products is looked for (``dcfast.row_max``), d products a target row.
Memory a worker: 8 d^2 bytes and a block; for p = inf the target, mapped. Disk: 4 bytes a metadata row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast.engine.piece import piece
from dcfast.errors import FilterError
from dcfast.features.files import sibling_npz
from dcfast.filters.pair_scores import Floats, gram_matrix, norm_from_gram, usable_rows
from dcfast.filters.score_sources import TargetScore
from dcfast.rundir.layout import score_name, score_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import TEACHER
from dcfast.similarity import Database, row_max
from dcfast.stages.filter.clusters import load_embeddings, make_target
from dcfast.stages.filter.embeddings import (
    BLOCK_ROWS,
    check_arrays,
    check_file,
    check_width,
    embedding_blocks,
    image_array,
    one_blas_thread,
)
from dcfast.stages.filter.score_columns import ScoreColumns, Scored, scored_of
from dcfast.stages.runner import Do
from dcfast.storage.npz import load_array, save_array
from dcfast.storage.paths import absolute
from dcfast.storage.records import Count, Record

Score = Callable[[Floats], npt.NDArray[np.floating]]


class Target(Record):
    """Embeddings of a target."""

    rows: Count
    dim: Count


def check_target(run: Run, source: TargetScore) -> None:
    """Looks for what the source needs, before any work.

    Raises:
        FileNotFoundError, CorruptDataError: the target is not there, or holds no embeddings.   PoolError: see
        ``check_arrays``.   FilterError: no target is given for a given pool.
    """
    check_arrays(run, source.key, source.arch, [image_array(source.arch)])
    if source.target is not None:
        load_embeddings(absolute(source.target), "target")
    elif not (run.is_world and run.features.get(source.arch) == TEACHER):
        raise FilterError(
            f'filter {source.key} needs target="embeddings.npy", the {source.arch} image embeddings of the pictures to '
            "look for (ImageNet's training set, or those of the tasks); only the built-in world has its own"
        )


@piece()
def measure_target(out: Path, target: str, output: str) -> Target:
    """Piece: the (d, d) sum of outer products of a target's embeddings. FilterError: a row is none; named."""
    array = load_embeddings(out / target, "target")

    def blocks() -> Iterator[Floats]:
        for begin in range(0, len(array), BLOCK_ROWS):
            block = np.asarray(array[begin : begin + BLOCK_ROWS])
            bad = np.flatnonzero(~usable_rows(block))
            if len(bad):
                raise FilterError(
                    f"target {target}, row {begin + int(bad[0])}: zero, or not finite, which is no embedding; leave "
                    "such rows out"
                )
            yield block

    with one_blas_thread():
        gram, count = gram_matrix(blocks())
    save_array(out / output, gram)
    return Target(count, len(gram))


def _formula(method: str, p: str, gram: npt.NDArray[np.float64], rows: int, target: Floats) -> Score:
    if method == "vas":
        return lambda block: np.square(norm_from_gram(block, gram)) / rows
    if p == "2":
        return lambda block: norm_from_gram(block, gram)
    database = Database(target)
    return lambda block: row_max(block, database, absolute=True, threads=1)


@piece()
def score_by_target(
    out: Path, key: str, files: Sequence[str], array: str, method: str, p: str, target: str, gram: str
) -> Scored:
    """Piece: the scores of some metadata files, float32, NaN without an embedding."""
    embeddings = load_embeddings(out / target, "target")
    score = _formula(method, p, load_array(out / gram), len(embeddings), embeddings)
    done = []
    for path in files:
        npz = out / sibling_npz(path)
        scores = np.full(check_file(npz, str(out / path), [array], key), np.nan, np.float32)
        at = 0
        for block, usable in embedding_blocks(npz, array):
            check_width(block.shape[1], embeddings.shape[1], npz, target)
            rows = at + np.flatnonzero(usable)
            if len(rows):
                with one_blas_thread():
                    scores[rows] = score(np.ascontiguousarray(block[usable]))
            at += len(block)
        save_array(out / score_path(key, path), scores)
        done.append(scored_of(scores))
    return Scored.sum(done)


def make_target_scores(run: Run, do: Do, source: TargetScore) -> ScoreColumns:
    """The columns of ``normsim`` or ``vas``."""
    target = make_target(run, do) if source.target is None else absolute(source.target)
    name = score_name(source.key)
    gram = f"state/filter/scores/{name}-gram.npy"
    do.one(
        measure_target.piece(f"filter/scores-{name}-target", "target", inputs=[target], outputs=[gram])(
            target=target, output=gram
        )
    )
    stats = do(
        score_by_target.piece(
            f"filter/scores-{name}",
            f"{group:05d}",
            inputs=[*files, *map(sibling_npz, files), target, gram],
            outputs=[score_path(source.key, file) for file in files],
            weight=sum(os.path.getsize(run.out / sibling_npz(file)) for file in files),
        )(
            key=source.key,
            files=files,
            array=image_array(source.arch),
            method=source.method,
            p=source.p,
            target=target,
            gram=gram,
        )
        for group, (_, files) in enumerate(run.metadata_groups())
    )
    return ScoreColumns.of(source, "float32", stats)
