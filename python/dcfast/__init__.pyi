# The public names, for type checkers; __init__.py resolves them on first use. Tests compare the two.
from dcfast import errors as errors
from dcfast.access import PoolReader, iterate_uids, open_pool, read_members
from dcfast.access.datasets import PoolDataset, PoolIterableDataset
from dcfast.errors import (
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
from dcfast.evaluate import evaluate_model
from dcfast.images.perceptual import perceptual_hash
from dcfast.index.build import TarIndex, index_tars
from dcfast.index.pool_index import PoolIndex
from dcfast.index.refresh import refresh_index
from dcfast.loss import ClipLoss, SigLipLoss, cached_backward, clip_loss, clip_lse, siglip_loss
from dcfast.models.clip import ClipModel, load_model
from dcfast.resharding.run import reshard
from dcfast.similarity.centroids import kmeans
from dcfast.similarity.database import Database
from dcfast.similarity.hamming import hamming_join
from dcfast.similarity.joins import any_above, group_join, join
from dcfast.similarity.search import assign, row_max, topk
from dcfast.storage.hashing import hash_members
from dcfast.uids.sets import (
    load_subset,
    save_subset,
    uid_difference,
    uid_format,
    uid_intersect,
    uid_isin,
    uid_parse,
    uid_sort,
    uid_to_arrow,
    uid_union,
    uid_unique,
)

__version__: str

__all__ = [
    "CheckpointError",
    "ClipLoss",
    "ClipModel",
    "CorruptDataError",
    "Database",
    "DcfastError",
    "EvalsetError",
    "FilterError",
    "MissingDependencyError",
    "PoolDataset",
    "PoolError",
    "PoolIndex",
    "PoolIterableDataset",
    "PoolReader",
    "RunError",
    "SigLipLoss",
    "SubsetError",
    "TarIndex",
    "__version__",
    "any_above",
    "assign",
    "cached_backward",
    "clip_loss",
    "clip_lse",
    "evaluate_model",
    "group_join",
    "hamming_join",
    "hash_members",
    "index_tars",
    "iterate_uids",
    "join",
    "kmeans",
    "load_model",
    "load_subset",
    "open_pool",
    "perceptual_hash",
    "read_members",
    "refresh_index",
    "reshard",
    "row_max",
    "save_subset",
    "siglip_loss",
    "topk",
    "uid_difference",
    "uid_format",
    "uid_intersect",
    "uid_isin",
    "uid_parse",
    "uid_sort",
    "uid_to_arrow",
    "uid_union",
    "uid_unique",
]
