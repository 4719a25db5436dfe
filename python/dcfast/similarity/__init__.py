"""What is alike: Hamming joins of perceptual hashes (``hamming``), k-means and nearest centroids (``centroids``)."""

from __future__ import annotations

from dcfast.similarity.centroids import kmeans, nearest_centroids
from dcfast.similarity.hamming import DEFAULT_MAX_PAIRS, hamming_join

__all__ = ["DEFAULT_MAX_PAIRS", "hamming_join", "kmeans", "nearest_centroids"]
