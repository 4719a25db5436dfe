"""The evidence of contamination: which picture of which evaluation set a sample of a pool is, and by which method."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

CONTENT, PERCEPTUAL, PERCEPTUAL_256 = "content", "perceptual", "perceptual256"
DESCRIPTOR = "descriptor:"
"""Begins the method of a descriptor; the model's name follows."""
BITS = {PERCEPTUAL: 64, PERCEPTUAL_256: 256}
"""Of a perceptual hash, by its method."""


def evidence_schema() -> pa.Schema:
    """Columns of ``contamination.parquet``.

    ``distance``: bits, 0 for equal content, null for descriptors.   ``score``: inner product of descriptors, else null.
    """
    import pyarrow as pa

    sample = [("shard", pa.string()), ("row", pa.uint32()), ("key", pa.string()), ("uid", pa.string())]
    texts = [(name, pa.string()) for name in ("evalset", "evalset_shard", "evalset_key", "method")]
    return pa.schema([*sample, *texts, ("distance", pa.uint8()), ("score", pa.float32())])


def alike(method: str | None, distance: int | None, score: float | None) -> str:
    """How two pictures are alike, in words, by a row of the evidence."""
    if method == CONTENT:
        return "identical bytes"
    if method is not None and method.startswith(DESCRIPTOR):
        return f"alike by {method.removeprefix(DESCRIPTOR)}, score {0.0 if score is None else score:.3f}"
    return f"looks alike, {distance} of {BITS.get(method or '', 64)} bits apart"
