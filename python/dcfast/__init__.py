"""dcfast: the DataComp workflow on a compiled core.

The operations are here (arrays in, arrays out); the workflow is ``python -m dcfast.run`` and the console
script ``dcfast``. Importing this package imports nothing else: NumPy, too, is imported when it is used.
"""

from __future__ import annotations

from dcfast.process.starting import begin

begin()  # a process that is a command of dcfast can be stopped from here on

import importlib  # noqa: E402

from dcfast.errors import (  # noqa: E402
    CheckpointError,
    CorruptDataError,
    DcfastError,
    EvalsetError,
    FilterError,
    MissingDependencyError,
    PoolError,
    RunError,
    SubsetError,
)

__version__ = "0.1.0"

# public name -> module that holds it; resolved on first use to keep the import under 0.15 s
_LAZY: dict[str, str] = {
    "index_tars": "dcfast.index.build",
    "PoolIndex": "dcfast.index.pool_index",
    "PoolReader": "dcfast.access",
    "iterate_uids": "dcfast.access",
    "open_pool": "dcfast.access",
    "refresh_index": "dcfast.index.refresh",
    "read_members": "dcfast.access",
    "TarIndex": "dcfast.index.build",
    "uid_parse": "dcfast.uids",
    "uid_format": "dcfast.uids",
    "uid_sort": "dcfast.uids",
    "uid_unique": "dcfast.uids",
    "uid_isin": "dcfast.uids",
    "uid_union": "dcfast.uids",
    "uid_intersect": "dcfast.uids",
    "uid_difference": "dcfast.uids",
    "load_subset": "dcfast.uids",
    "save_subset": "dcfast.uids",
    "hash_members": "dcfast.storage.hashing",
    "perceptual_hash": "dcfast.images.signatures",
    "hamming_join": "dcfast.similarity.hamming",
    "kmeans": "dcfast.similarity.centroids",
    "nearest_centroids": "dcfast.similarity.centroids",
    "reshard": "dcfast.resharding.run",
    "ClipModel": "dcfast.models.clip",
    "load_model": "dcfast.models.clip",
    "evaluate_model": "dcfast.evaluate",
    "ClipLoss": "dcfast.loss",
    "SigLipLoss": "dcfast.loss",
    "cached_backward": "dcfast.loss",
    "clip_loss": "dcfast.loss",
    "clip_lse": "dcfast.loss",
    "siglip_loss": "dcfast.loss",
}

# spelled out for readers, and once more with types in __init__.pyi; tests compare both with _LAZY
__all__ = [
    "CheckpointError",
    "ClipLoss",
    "ClipModel",
    "CorruptDataError",
    "DcfastError",
    "EvalsetError",
    "FilterError",
    "MissingDependencyError",
    "PoolError",
    "PoolIndex",
    "PoolReader",
    "RunError",
    "SigLipLoss",
    "SubsetError",
    "TarIndex",
    "__version__",
    "cached_backward",
    "clip_loss",
    "clip_lse",
    "evaluate_model",
    "hamming_join",
    "hash_members",
    "index_tars",
    "iterate_uids",
    "kmeans",
    "load_model",
    "load_subset",
    "nearest_centroids",
    "open_pool",
    "perceptual_hash",
    "read_members",
    "refresh_index",
    "reshard",
    "save_subset",
    "siglip_loss",
    "uid_difference",
    "uid_format",
    "uid_intersect",
    "uid_isin",
    "uid_parse",
    "uid_sort",
    "uid_union",
    "uid_unique",
]


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'dcfast' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
