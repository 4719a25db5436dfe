"""The options of a search for duplicates, each written once: of ``dcfast dedup``, and of a run."""

from __future__ import annotations

from dcfast.dedup.thresholds import DUPLICATE_DISTANCE, MAX_DISTANCE_256
from dcfast.process.options import Option, one_of
from dcfast.storage.paths import path_argument

METHODS = ("content", "perceptual256", "perceptual", "semantic")
"""Strongest evidence first: equal bytes, 256-bit and 64-bit perceptual hashes, embeddings."""
KEEP = ("largest", "score", "first")
"""Which of a group is kept: the picture of most pixels, the best score, the first in the order of the pool."""
DEFAULT_METHODS = ["content", "perceptual256"]
DEFAULT_DISTANCE, DEFAULT_WIDE_DISTANCE, DEFAULT_SIMILARITY = DUPLICATE_DISTANCE, MAX_DISTANCE_256, 0.95
EMBEDDINGS, SCORE_COLUMN = "l14_img", "clip_l14_similarity_score"


def check_methods(names: list[str]) -> list[str]:
    """The methods, each once, strongest evidence first; ValueError for a name that is none of METHODS."""
    for name in names:
        one_of("--methods", name, METHODS)
    if not names:
        raise ValueError(f"--methods must name at least one of {', '.join(METHODS)}; got none: give one")
    return [name for name in METHODS if name in names]


AGAINST = Option(
    "older pools, the oldest first: what is in one of them already is a duplicate here, and their own samples stay",
    metavar="POOL",
    gather=lambda words: [path_argument(word) for word in words],
)
SEARCHED = Option(
    "how duplicates are looked for: equal bytes (content), 256-bit or 64-bit perceptual hashes, embeddings (semantic); "
    f"any of {', '.join(METHODS)}",
    metavar="METHOD",
    usual=" ".join(DEFAULT_METHODS),
    gather=check_methods,
)
DISTANCE = Option("64-bit hashes this close are duplicates (perceptual)", metavar="BITS", least=0, most=64)
WIDE_DISTANCE = Option("256-bit hashes this close are duplicates (perceptual256)", metavar="BITS", least=0, most=256)
VARIANTS = Option("by perceptual256, find turned and mirrored pictures, too")
CHAINS = Option(
    "drop what hangs on the kept one by a chain of copies, too: of perceptual hashes only those that are alike to the "
    "kept one itself are dropped else"
)
SIMILARITY = Option("embeddings with at least this cosine are duplicates (semantic)", metavar="X", least=-1, most=1)
EMBEDDING = Option("array of the pool's npz files that semantic compares", metavar="ARRAY")
KEPT = Option(
    "which of a group is kept: the picture of most pixels, that of the best score, or the first in the pool's order",
    choices=KEEP,
)
SCORED = Option("metadata column of the scores, for keeping the best", metavar="COLUMN")
