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
from dcfast.acquire.causes import SUCCESS
from dcfast.storage.atomic import copy_file, unfollowed
from dcfast.storage.lock import is_without_locks, take_lock
from dcfast.storage.records import Count, Record
from dcfast.storage.whole import FULL, full_disk

_HEAD = struct.Struct("<IQQ")  # bytes of the record, bytes of the image, checksum of both
_MOST_RECORD_BYTES = 1 << 20
_USUAL_BYTES = 1024
"""Of a record with its head: more are read at a second time."""
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
        successes: rows whose images are there.
        suspects: rows whose images were being decoded when an earlier process ended, perhaps of one of them.
    Memory: 150 bytes a row: what became of it is read again when it is asked for.
    """

    def __init__(self, path: Path, identity: str) -> None:
        """Opens or begins a journal; one of another identity is begun anew. OSError: it cannot be written."""
        self._places: dict[int, int] = {}  # row -> where its record begins
        self.successes: int = 0
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
        self._took(fetched, self._write(fetched, data))

    def decoding(self, number: int) -> None:
        """Writes down that a row's image is about to be decoded. OSError: a full disk."""
        self._write(Fetched(number, _DECODING), b"")

    def _write(self, fetched: Fetched, data: bytes) -> int:
        """Writes a record; returns where it begins."""
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
        offset = self._end
        self._end += _HEAD.size + len(record) + len(data)
        return offset

    def _took(self, fetched: Fetched, offset: int) -> None:
        if fetched.number not in self._places:
            self.successes += fetched.status == SUCCESS
        self._places[fetched.number] = offset

    def __contains__(self, number: int) -> bool:
        """Whether it is known what became of a row."""
        return number in self._places

    def __len__(self) -> int:
        """Rows of which it is known what became of them."""
        return len(self._places)

    def fetched(self, number: int) -> Fetched:
        """What became of a row. Cost: a read of the file; KeyError: that is not known."""
        offset = self._places[number]
        start = os.pread(self._file.fileno(), _USUAL_BYTES, offset)
        record_size, _, _ = _HEAD.unpack_from(start)
        record = start[_HEAD.size : _HEAD.size + record_size]
        if len(record) < record_size:
            record = os.pread(self._file.fileno(), record_size, offset + _HEAD.size)
        return _decoded(record)

    def image(self, number: int) -> bytes:
        """The image of a row, empty where it has none."""
        offset = self._places[number]
        record_size, size, _ = _HEAD.unpack(os.pread(self._file.fileno(), _HEAD.size, offset))
        return os.pread(self._file.fileno(), size, offset + _HEAD.size + record_size)

    def image_bytes(self) -> int:
        """Of all images that are there. Cost: a read a row."""
        file = self._file.fileno()
        return sum(_HEAD.unpack(os.pread(file, _HEAD.size, offset))[1] for offset in self._places.values())

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
                fetched = _decoded(payload[:record_size])
            except msgspec.DecodeError:
                break
            if fetched.status == _DECODING:
                self.suspects.add(fetched.number)
            else:
                self.suspects.discard(fetched.number)
                self._took(fetched, end)
            end += _HEAD.size + record_size + size
        return end


def _decoded(record: bytes) -> Fetched:
    return msgspec.msgpack.decode(record, type=Fetched)
