"""Files that features are in: of a segment, and beside each metadata file."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ARRAY", "ARRAYS", "score_column", "segment_file", "sibling_npz", "status_path"]


ARRAYS = ("img", "txt", "score")


def segment_file(number: int, what: str, key: str | None = None) -> str:
    """Where a column of a segment lies, relative to the run directory."""
    column = what if key is None else f"{key}-{what}"
    return f"features/segments/{number:05d}-{column}.npy"


def status_path(number: int) -> str:
    """(n,) u8 of a segment: what became of each sample, an index into ``dcfast.features.pairs.STATUS``."""
    return segment_file(number, "status")


def score_column(prefix: str) -> str:
    """DataComp's name of a score column."""
    return f"clip_{prefix}_similarity_score"


ARRAY = "l14_img"
"""The embeddings that are clustered: DataComp uses L/14."""


def sibling_npz(metadata: str) -> str:
    """The npz that belongs to a metadata file."""
    return str(Path(metadata).with_suffix(".npz"))
