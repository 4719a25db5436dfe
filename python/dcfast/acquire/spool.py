"""What a shard has got so far: a journal on disk, from which the shard is written in the order of its keys.

A killed shard goes on from it: what was fetched is not fetched again. Each record has a checksum; at the first that is
not whole the rest counts as not there.
"""

from __future__ import annotations

import os
import struct
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from dcfast._core import hashing as core_hashing
from dcfast.storage.atomic import copy_file, unfollowed
from dcfast.storage.lock import is_without_locks, take_lock
from dcfast.storage.records import Count, Record
from dcfast.storage.whole import FULL, full_disk

_HEAD = struct.Struct("<IQQ")  # bytes of the record, bytes of the image, checksum of both
_MOST_RECORD_BYTES = 1 << 20
_DECODING = "decoding"
"""``status`` of a record that says that what comes of a row is not known yet."""
MAGIC = b"dcfast spool 1\n"


class Fetched(Record):
    """What became of a row.

    Attributes:
        number: its place in the list's file.   status: as img2dataset has it.   cause: of ``CAUSES``, or empty.
        message: ``error_message``.   attempts: requests for it, redirects aside; 0 where its host was given up.
        http_status: of the last answer, 0 for none.   size: bytes that came.   seconds: of all attempts.
        sha256: of the bytes as they came.   width, height: of the image as written.
    """

    number: Count
    status: str
    cause: str = ""
    message: str | None = None
    attempts: Count = 0
    final_url: str = ""
    http_status: Count = 0
    size: Count = 0
    seconds: float = 0.0
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    exif: str | None = None


class Spool:
    """The journal of one shard, for one process.

    Attributes:
        fetched: row -> what became of it, and where its image lies: (offset, size).
        suspects: rows whose images were being decoded when an earlier process ended, perhaps of one of them.
    Memory: 600 bytes a row.
    """

    def __init__(self, path: Path, identity: str) -> None:
        """Opens or begins a journal; one of another identity is begun anew. OSError: it cannot be written."""
        self.fetched: dict[int, tuple[Fetched, int, int]] = {}
        self.suspects: set[int] = set()
        self.is_broken: bool = False
        """Whether something could not be written to it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: BinaryIO = self._open()
        head = MAGIC + identity.encode() + b"\n"
        end = self._read(head)
        self._file.truncate(end)
        if end == 0:
            self._file.seek(0)
            self._file.write(head)
        self._file.flush()
        self._end = self._file.seek(0, os.SEEK_END)

    def _open(self) -> BinaryIO:
        """Opens the file for this process alone.

        On a cluster a node that was given up may be at work still: what it goes on to write then goes into a file that
        has no name any more, and its records until now are here in a copy.
        """
        lock = self._lock()
        if lock is None:
            copy_file(self.path, self.path)
            lock = self._lock()
        if lock is None:  # there are no locks here
            return open(self.path, "r+b", opener=unfollowed)
        return os.fdopen(lock, "r+b")

    def _lock(self) -> int | None:
        """A descriptor of the file, made where it is missing; None where another has it, or there are no locks."""
        try:
            return take_lock(self.path, follow=False)
        except OSError as error:
            if isinstance(error, BlockingIOError) or is_without_locks(error):
                return None
            raise

    def add(self, fetched: Fetched, data: bytes) -> None:
        """Writes down what became of a row; it counts once this has returned. OSError: a full disk."""
        offset = self._write(fetched, data)
        self.fetched[fetched.number] = (fetched, offset, len(data))

    def decoding(self, number: int) -> None:
        """Writes down that a row's image is about to be decoded. OSError: a full disk."""
        self._write(Fetched(number, _DECODING), b"")

    def _write(self, fetched: Fetched, data: bytes) -> int:
        """Writes a record; returns where its image begins."""
        record = msgspec.msgpack.encode(fetched)
        check = core_hashing.xxh3_64(record + data)
        try:
            self._file.write(_HEAD.pack(len(record), len(data), check) + record)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            self.is_broken = True
            if error.errno in FULL:
                raise full_disk(error.errno, str(self.path)) from error
            raise
        offset = self._end + _HEAD.size + len(record)
        self._end = offset + len(data)
        return offset

    def image(self, number: int) -> bytes:
        """The image of a row."""
        _, offset, size = self.fetched[number]
        return os.pread(self._file.fileno(), size, offset)

    def close(self) -> None:
        """Closes it; it stays on disk."""
        with suppress(OSError) if self.is_broken else nullcontext():  # what could not be written is tried once more
            self._file.close()

    def _read(self, head: bytes) -> int:
        """Takes in the records that are there; returns where the last whole one ends, 0 for a journal of another."""
        file = self._file
        file.seek(0)
        if file.read(len(head)) != head:
            return 0
        end = len(head)
        total = os.fstat(file.fileno()).st_size
        while total - end >= _HEAD.size:
            record_size, size, check = _HEAD.unpack(file.read(_HEAD.size))
            if record_size > _MOST_RECORD_BYTES or record_size + size > total - end - _HEAD.size:
                break
            payload = file.read(record_size + size)
            if core_hashing.xxh3_64(payload) != check:
                break
            try:
                fetched = msgspec.msgpack.decode(payload[:record_size], type=Fetched)
            except msgspec.DecodeError:
                break
            offset = end + _HEAD.size + record_size
            if fetched.status == _DECODING:
                self.suspects.add(fetched.number)
            else:
                self.suspects.discard(fetched.number)
                self.fetched[fetched.number] = (fetched, offset, size)
            end = offset + size
        return end
