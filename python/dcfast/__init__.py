"""dcfast: the DataComp workflow on a compiled core.

The operations are here (arrays in, arrays out); the workflow is ``python -m dcfast.run`` and the console
script ``dcfast``. Importing this package imports nothing else: NumPy, too, is imported when it is used.
"""

from __future__ import annotations

from dcfast.process.starting import begin

begin()  # a process that is a command of dcfast can be stopped from here on

import importlib  # noqa: E402

from dcfast import errors  # noqa: E402, F401 (``dcfast.errors`` is there without another import)

__version__ = "0.1.0"

# resolved on first use to keep the import under 0.15 s; with types in __init__.pyi, which a test compares with it
_PUBLIC = {
    "dcfast.access": ("PoolReader", "iterate_uids", "open_pool", "read_members"),
    "dcfast.access.datasets": ("PoolDataset", "PoolIterableDataset"),
    "dcfast.errors": (
        *("CheckpointError", "CorruptDataError", "DcfastError", "EvalsetError", "FilterError"),
        *("MissingDependencyError", "PoolError", "RunError", "SubsetError"),
    ),
    "dcfast.evaluate": ("evaluate_model",),
    "dcfast.images.perceptual": ("perceptual_hash",),
    "dcfast.index.build": ("TarIndex", "index_tars"),
    "dcfast.index.pool_index": ("PoolIndex",),
    "dcfast.index.refresh": ("refresh_index",),
    "dcfast.loss": ("ClipLoss", "SigLipLoss", "cached_backward", "clip_loss", "clip_lse", "siglip_loss"),
    "dcfast.models.clip": ("ClipModel", "load_model"),
    "dcfast.resharding.run": ("reshard",),
    "dcfast.similarity.centroids": ("kmeans",),
    "dcfast.similarity.database": ("Database",),
    "dcfast.similarity.hamming": ("hamming_join",),
    "dcfast.similarity.joins": ("any_above", "group_join", "join"),
    "dcfast.similarity.search": ("assign", "row_max", "topk"),
    "dcfast.storage.hashing": ("hash_members",),
    "dcfast.uids": (
        *("load_subset", "save_subset", "uid_difference", "uid_format", "uid_intersect", "uid_isin", "uid_parse"),
        *("uid_sort", "uid_to_arrow", "uid_union", "uid_unique"),
    ),
}
_LAZY = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(["__version__", *_LAZY])


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'dcfast' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
