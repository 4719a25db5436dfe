"""The evidence of duplicates: which sample of a group each dropped one is a copy of, and what ties it to that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcfast.dedup.options import METHODS

if TYPE_CHECKING:
    import pyarrow as pa

DUPLICATES = "duplicates.npy"
"""The sorted uids of the samples of the pool that are dropped as duplicates."""
DUPLICATE_TABLE = "duplicates.parquet"
"""The evidence for each of them."""


def duplicate_schema() -> pa.Schema:
    """Columns of ``duplicates.parquet``, a row for each dropped sample in the order of the pool.

    shard, row, key, uid: the dropped sample; uid null where it has none.
    kept_pool, kept_shard, kept_key, kept_uid: the one of its group that is kept; kept_pool is null where it is in the
    same pool, else the last part of the older pool's path.
    group: of the groups, in the order of their first samples.   steps: links between the two; above 1 the sample is a
    copy of a copy, and need not be like the kept one.
    link_pool, link_shard, link_key, link_uid: the next sample on the way to the kept one: the kept one itself where
    steps is 1.   method, variant, distance, score: how the dropped one and its link are alike; variant: turned or
    mirrored how, null for not at all; distance: bits of hashes, null for embeddings; score: cosine of embeddings, else
    null.
    """
    import pyarrow as pa

    words = pa.dictionary(pa.int8(), pa.string())
    own = [("shard", pa.string()), ("row", pa.uint32()), ("key", pa.string()), ("uid", pa.string())]
    others = [
        (f"{which}_{name}", pa.string()) for which in ("kept", "link") for name in ("pool", "shard", "key", "uid")
    ]
    tie = [("method", words), ("variant", words), ("distance", pa.uint16()), ("score", pa.float32())]
    return pa.schema([*own, *others[:4], ("group", pa.int64()), ("steps", pa.uint32()), *others[4:], *tie])


def alike(method: str, distance: int | None, score: float | None, variant: str | None = None) -> str:
    """How a sample and its link are alike, in words."""
    if method == METHODS[0]:
        return "identical bytes"
    if method == METHODS[-1]:
        return f"embeddings of cosine {0.0 if score is None else score:.4f}"
    bits = 256 if method == "perceptual256" else 64
    turned = f" ({variant})" if variant else ""
    return f"looks alike{turned}, {distance} of {bits} bits apart"
