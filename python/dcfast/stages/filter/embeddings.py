"""Part of stage ``filter``: the embeddings beside the metadata, as the sources of scores read them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast.errors import FilterError, PoolError
from dcfast.features.files import sibling_npz
from dcfast.filters.pair_scores import Floats, Mask, usable_rows
from dcfast.filters.term import FEATURES_OPTIONS
from dcfast.index.metadata import count_metadata_rows
from dcfast.rundir.run_dir import Run
from dcfast.storage.npz import Array, iterate_npz, npz_arrays

BLOCK_ROWS = 8_192


def image_array(arch: str) -> str:
    return f"{arch}_img"


def text_array(arch: str) -> str:
    return f"{arch}_txt"


def _or_make(arch: str) -> str:
    """The option that has embeddings made; nothing of those that dcfast does not make under this name."""
    return f", or have them computed ({FEATURES_OPTIONS[arch]})" if arch in FEATURES_OPTIONS else ""


def check_arrays(run: Run, key: str, arch: str, names: Sequence[str]) -> None:
    """Looks for a source's arrays in the npz of the pool, before any work; the features stage makes its own.

    PoolError: an npz or an array is not there, or it holds no embeddings.   CorruptDataError: it is no npz.
    """
    if arch in run.features:
        return
    for number, metadata in enumerate(run.pool.metadata):
        path = sibling_npz(metadata)
        if not os.path.isfile(path):
            raise PoolError(
                f"filter {key} needs embeddings, {' and '.join(names)} in {path}, which is not there; download the "
                f"pool's npz{_or_make(arch)}"
            )
        if number == 0:  # of the others, perhaps thousands, each piece looks at its own
            arrays = npz_arrays(path)
            for name in names:
                _check_array(arrays, name, path, key, None)


def check_file(npz: str | Path, metadata: str, names: Sequence[str], key: str) -> int:
    """The rows of a metadata file, whose npz has these arrays of embeddings of one width.

    PoolError: it has others, or as many rows as another pool.
    """
    rows, arrays = count_metadata_rows(metadata), npz_arrays(npz)
    shapes = [_check_array(arrays, name, npz, key, rows).shape for name in names]
    if len({shape[1:] for shape in shapes}) > 1:
        raise PoolError(
            f"{npz}: {' and '.join(names)} have shapes {' and '.join(map(str, shapes))}, so they are of two models; "
            "make both by one"
        )
    return rows


def _check_array(arrays: dict[str, Array], name: str, path: str | Path, key: str, rows: int | None) -> Array:
    if name not in arrays:
        raise PoolError(
            f"filter {key} needs {name}, and {path} has {', '.join(arrays) or 'no arrays'}; name the embeddings that "
            f"are there{_or_make(name.rpartition('_')[0])}"
        )
    array = arrays[name]
    if len(array.shape) != 2 or array.dtype.kind != "f" or 0 in array.shape[1:]:
        raise PoolError(
            f"{path}, {name}: expected floats of shape (rows, dimensions); got {array.dtype} of shape {array.shape}; "
            "write it again"
        )
    if rows is not None and array.shape[0] != rows:
        raise PoolError(f"{path}, {name} has {array.shape[0]} rows and its metadata {rows}; get both anew")
    return array


def embedding_blocks(npz: str | Path, name: str) -> Iterator[tuple[Floats, Mask]]:
    """Blocks of embeddings, and which of their rows are one: the others are zero, or not finite."""
    for block in iterate_npz(npz, name, BLOCK_ROWS):
        yield block, usable_rows(block)


def usable_pairs(npz: str | Path, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """The rows that all these arrays have an embedding of, ascending. All is read, so that checksums hold."""
    masks = [np.concatenate([np.empty(0, np.bool_), *(m for _, m in embedding_blocks(npz, name))]) for name in names]
    return np.flatnonzero(np.logical_and.reduce(masks))


def check_width(width: int, target_width: int, npz: str | Path, target: str) -> None:
    """FilterError where embeddings and those of a target are not of one width."""
    if width != target_width:
        raise FilterError(
            f"target {target} has {target_width} dimensions, the embeddings of {npz} have {width}: those of two models "
            "cannot be compared; compute both by one"
        )


def one_blas_thread() -> AbstractContextManager[object]:
    """Pieces, not the threads of NumPy's products, fill the cores."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, "blas")  # type: ignore[no-any-return]


def score_device(run: Run) -> str:
    """The run's device; the CPU where it is left open and torch is not there, which nothing on the CPU needs."""
    device = run.settings.device
    return "cpu" if device == "auto" and importlib.util.find_spec("torch") is None else device
