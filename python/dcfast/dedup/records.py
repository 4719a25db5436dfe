"""Signature records: content hash, perceptual hash and decode status of every image of some shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from dcfast.images.decode import BadImage
from dcfast.images.signatures import image_signatures
from dcfast.index.segments import Segment
from dcfast.storage.temporary import temporary_folder

SIGNATURE_DTYPE = np.dtype(
    [
        ("status", "u1"),
        ("flat", "u1"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("h0", "<u8"),
        ("h1", "<u8"),
        ("phash", "<u8"),
    ]
)
"""status: of ``dcfast.images.signatures``, or ABSENT; h0, h1: XXH3-128 of the encoded bytes, high half first."""


ABSENT = 255
"""Status of a sample without a picture."""


def sign_images(segment: Segment, paths: list[str]) -> npt.NDArray[np.void]:
    """The records of a segment's samples, whose shards are in the files of ``paths``."""
    result = np.zeros(segment.num_samples, dtype=SIGNATURE_DTYPE)
    result["status"] = ABSENT
    member = np.asarray(segment.image_member())
    offsets, sizes = np.asarray(segment.member_offset()), np.asarray(segment.member_size())
    begin = np.asarray(segment.shard_sample_begin)
    for shard, path in enumerate(paths):
        rows = np.arange(int(begin[shard]), int(begin[shard + 1]))
        rows = rows[member[rows] >= 0]
        if len(rows):
            _sign(result, rows, path, offsets[member[rows]], sizes[member[rows]])
    return result


def sign_encoded(pictures: Sequence[Callable[[], bytes]]) -> npt.NDArray[np.void]:
    """The records of pictures that lie in no file as they are: by way of one. What gives none (BadImage) is absent."""
    result = np.zeros(len(pictures), dtype=SIGNATURE_DTYPE)
    result["status"] = ABSENT
    ends, rows = [0], []
    with temporary_folder("dcfast-signatures-") as folder:
        path = os.path.join(folder, "pictures")
        with open(path, "wb") as file:
            for row, encoded in enumerate(pictures):
                with suppress(BadImage):
                    file.write(encoded())
                    ends.append(file.tell())
                    rows.append(row)
        if rows:
            at = np.array(ends, dtype=np.uint64)
            _sign(result, np.array(rows), path, at[:-1], np.diff(at))
    return result


def _sign(
    result: npt.NDArray[np.void],
    rows: npt.NDArray[np.int64],
    path: str,
    offsets: npt.NDArray[np.uint64],
    sizes: npt.NDArray[np.uint64],
) -> None:
    signatures = image_signatures(path, offsets, sizes, threads=1)
    for name in ("status", "flat", "width", "height", "phash"):
        result[name][rows] = getattr(signatures, name)
    result["h0"][rows] = signatures.content_hash["f0"]
    result["h1"][rows] = signatures.content_hash["f1"]
