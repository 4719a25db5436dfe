"""What stands in a signature file: its header, its rows, and the fingerprint of a set (``signature_file``)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from dcfast.dedup.records import SIGNATURE_DTYPE
from dcfast.storage.arrow import text_buffers
from dcfast.storage.records import Count, Record

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT, VERSION = "dcfast signatures", 1
HASHES = {"content": "xxh3-128", "phash": "dct of 64 bits, version 1", "phash256": "dct of 256 bits, version 1"}
"""Name of a hash -> how it is made; what is compared must be made alike."""
MOST_SETS, MOST_MODELS, MOST_DIM = 65_535, 16, 8192
PLAIN = [name for name in SIGNATURE_DTYPE.names or () if name != "phash256"]
WORDS = [f"phash256_{word}" for word in range(4)]


class DescriptorInfo(Record):
    """A column of descriptors: the model's name, the SHA-256 of its weights (empty: unknown), the vectors' width."""

    name: str
    sha256: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
    dim: Annotated[int, msgspec.Meta(ge=1, le=MOST_DIM)]


class SignedSet(Record):
    """A set of pictures: its rows, those with a picture, what of them does not decode or is flat, and a fingerprint.

    ``damage``: (file, what may hide pictures of it).   ``fingerprint``: SHA-256 of shards, keys and content hashes in
    their order, hex.
    """

    name: str
    rows: Count
    pictures: Count
    unreadable: Count
    flat: Count
    fingerprint: str
    damage: list[tuple[str, str]] = []


class Header(Record):
    """What stands in the metadata of a signature file."""

    format: str
    version: int
    hashes: dict[str, str]
    sets: list[SignedSet]
    descriptors: list[DescriptorInfo] = []


class Rows:
    """Rows of a signature file, in its order.

    Attributes:
        set_id: (n,) int64, a place in ``Header.sets``.
        shard, key: (n,) Arrow strings.
        records: (n,) ``SIGNATURE_DTYPE``.
        descriptors: of each model (n, dim) float32, zeros where there is none.
    """

    def __init__(
        self,
        set_id: npt.NDArray[np.int64],
        shard: pa.Array,
        key: pa.Array,
        records: npt.NDArray[np.void],
        descriptors: Sequence[npt.NDArray[np.float32]],
    ) -> None:
        self.set_id: npt.NDArray[np.int64] = set_id
        self.shard: pa.Array = shard
        self.key: pa.Array = key
        self.records: npt.NDArray[np.void] = records
        self.descriptors: list[npt.NDArray[np.float32]] = list(descriptors)

    def __len__(self) -> int:
        return len(self.records)


class Fingerprint:
    """SHA-256 of the rows of a set, told in any batches."""

    def __init__(self) -> None:
        self._shards, self._keys = ([hashlib.sha256(), hashlib.sha256()] for _ in range(2))
        self._contents = hashlib.sha256()

    def add(self, rows: Rows) -> None:
        for (lengths, bytes_), texts in ((self._shards, rows.shard), (self._keys, rows.key)):
            data, begin = text_buffers(texts)
            lengths.update(np.diff(begin).astype("<i8").tobytes())
            bytes_.update(data.data[begin[0] : begin[-1]])
        contents = np.stack([rows.records["h0"], rows.records["h1"]], axis=1)
        self._contents.update(np.ascontiguousarray(contents, "<u8").tobytes())

    def hex(self) -> str:
        parts = (*self._shards, *self._keys, self._contents)
        return hashlib.sha256(b"".join(part.digest() for part in parts)).hexdigest()


def signature_schema(descriptors: Sequence[DescriptorInfo]) -> pa.Schema:
    import pyarrow as pa

    numbers = [(name, pa.from_numpy_dtype(SIGNATURE_DTYPE[name])) for name in PLAIN]
    words = [(name, pa.uint64()) for name in WORDS]
    vectors = [(f"descriptor_{i}", pa.binary(4 * info.dim)) for i, info in enumerate(descriptors)]
    return pa.schema([("set", pa.uint16()), ("shard", pa.string()), ("key", pa.string()), *numbers, *words, *vectors])


def join_rows(parts: Sequence[Rows], infos: Sequence[DescriptorInfo]) -> Rows:
    """The rows of all parts, in order."""
    import pyarrow as pa

    def text(arrays: list[pa.Array]) -> pa.Array:
        return pa.chunked_array(arrays, pa.string()).combine_chunks()

    return Rows(
        np.concatenate([np.empty(0, np.int64), *(part.set_id for part in parts)]),
        text([part.shard for part in parts]),
        text([part.key for part in parts]),
        np.concatenate([np.empty(0, SIGNATURE_DTYPE), *(part.records for part in parts)]),
        [
            np.concatenate([np.empty((0, info.dim), np.float32), *(part.descriptors[i] for part in parts)])
            for i, info in enumerate(infos)
        ],
    )


def choose_rows(rows: Rows, places: npt.NDArray[np.int64]) -> Rows:
    import pyarrow as pa

    at = pa.array(places)
    return Rows(rows.set_id[places], rows.shard.take(at), rows.key.take(at), rows.records[places], [])
