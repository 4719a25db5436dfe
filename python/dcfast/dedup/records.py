"""Signature records: content hash, perceptual hash and decode status of every image of some shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from dcfast.images.costs import BadImage
from dcfast.images.signatures import Signatures, image_signatures, signatures_of
from dcfast.index.segments import Segment

_SIZES = [("width", "<u4"), ("height", "<u4")]
_HASHES = [("h0", "<u8"), ("h1", "<u8"), ("phash", "<u8"), ("phash256", "<u8", (4,))]
SIGNATURE_DTYPE = np.dtype([("status", "u1"), ("flat", "u1"), ("quality", "u1"), *_SIZES, *_HASHES])
"""status: of ``dcfast.images.signatures``, or ABSENT; h0, h1: XXH3-128 of the encoded bytes, high half first; phash,
phash256: perceptual hashes of 64 and of 256 bits, which match nothing where ``flat``, or ``quality`` is too low."""

ABSENT = 255
"""Status of a sample without a picture."""


def sign_images(segment: Segment, paths: Sequence[str]) -> npt.NDArray[np.void]:
    """The records of a segment's samples, whose shards are in the files of ``paths``."""
    records = _absent(segment.num_samples)
    shard, offset, size = segment.image_places()
    for number, path in enumerate(paths):
        rows = np.flatnonzero(shard == number)
        if len(rows):
            places = offset[rows].astype(np.uint64), size[rows].astype(np.uint64)
            records[rows] = _records(image_signatures(path, *places, threads=1, wide=True))
    return records


def sign_encoded(pictures: Sequence[Callable[[], bytes]]) -> npt.NDArray[np.void]:
    """The records of pictures that lie in no shard, one at a time. What gives none (BadImage) is absent."""
    records = _absent(len(pictures))
    for row, encoded in enumerate(pictures):
        with suppress(BadImage):
            records[row : row + 1] = _records(signatures_of([encoded()], threads=1, wide=True))
    return records


def _absent(count: int) -> npt.NDArray[np.void]:
    records = np.zeros(count, SIGNATURE_DTYPE)
    records["status"] = ABSENT
    return records


def _records(signatures: Signatures) -> npt.NDArray[np.void]:
    records = np.empty(len(signatures.status), SIGNATURE_DTYPE)
    for name in ("status", "flat", "quality", "width", "height", "phash", "phash256"):
        records[name] = getattr(signatures, name)
    records["h0"], records["h1"] = signatures.content_hash["f0"], signatures.content_hash["f1"]
    return records
