"""What is alike: ``topk``, ``join``, ``assign`` and their kin over embeddings (``search``, ``joins``), Hamming joins of
perceptual hashes (``hamming``), k-means (``centroids``)."""

from __future__ import annotations

from dcfast.similarity.centroids import kmeans
from dcfast.similarity.database import Database
from dcfast.similarity.hamming import DEFAULT_MAX_PAIRS, HammingPairs, hamming_blocks, hamming_join
from dcfast.similarity.joins import MAX_PAIRS, Pairs, any_above, group_join, join
from dcfast.similarity.operands import Blocks, Metric
from dcfast.similarity.search import Assigned, TopK, assign, row_max, topk

__all__ = [
    "DEFAULT_MAX_PAIRS",
    "MAX_PAIRS",
    "Assigned",
    "Blocks",
    "Database",
    "HammingPairs",
    "Metric",
    "Pairs",
    "TopK",
    "any_above",
    "assign",
    "group_join",
    "hamming_blocks",
    "hamming_join",
    "join",
    "kmeans",
    "row_max",
    "topk",
]
