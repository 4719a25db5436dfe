"""What is alike: Hamming joins of perceptual hashes (``hamming``), k-means and nearest centroids (``centroids``)."""

from __future__ import annotations

from dcfast.similarity.centroids import kmeans
from dcfast.similarity.hamming import DEFAULT_MAX_PAIRS, HammingPairs, hamming_blocks, hamming_join

__all__ = ["DEFAULT_MAX_PAIRS", "HammingPairs", "hamming_blocks", "hamming_join", "kmeans"]
