"""Hashes of a file as it comes: SHA-256, and git's id of a blob, which is all that the hub tells of small files."""

from __future__ import annotations

import hashlib
import os

from dcfast.storage.inputs import open_input

PIECE = 1 << 20
"""Bytes that are read at a time."""


class Hashes:
    """Size, SHA-256 and, where it is asked for, git's blob id of bytes as they come.

    Args:
        blob_size: bytes that they will be, for the blob id; None: it is not asked for, and empty.
    """

    def __init__(self, blob_size: int | None = None) -> None:
        self.size: int = 0
        self._sha256 = hashlib.sha256()
        self._blob = None if blob_size is None else hashlib.sha1(b"blob %d\0" % blob_size, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """The next bytes."""
        self.size += len(data)
        self._sha256.update(data)
        if self._blob is not None:
            self._blob.update(data)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def blob(self) -> str:
        return "" if self._blob is None else self._blob.hexdigest()


def hashes_of(path: str | os.PathLike[str], blob_size: int | None = None) -> Hashes:
    """Of a file. Memory: 1 MiB.   Raises OSError."""
    hashes = Hashes(blob_size)
    with open_input(path) as file:
        while data := file.read(PIECE):
            hashes.update(data)
    return hashes
