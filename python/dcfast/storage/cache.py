"""A bounded folder of bytes on a local disk, shared by all processes of a machine: what was read of URLs.

An entry is a file named by the XXH3-128 of its key: a header of 32 bytes (the XXH3-128 of the key and content, and the
length), then the content. Readers take no lock and believe no file whose hash does not fit; it is removed. Writers
count an entry under a lock before they write it, as a whole file. Where it would not fit any more, the files used
longest ago are removed, and the rest is counted anew; what others write at that moment is not seen, so that the bound
is passed by one entry a writer at most. What a killed process had counted, or left half written, goes then, too.
"""

from __future__ import annotations

import logging
import os
import struct
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from dcfast._core import hashing as core_hashing
from dcfast.storage.hashing import hex_digits
from dcfast.storage.listing import TEMPORARY_PREFIX, temporary_name
from dcfast.storage.lock import take_lock
from dcfast.storage.paths import make_directory

_HEADER = struct.Struct("<QQQ8s")
_MAGIC = b"dcfast1\0"
_FILLED = 0.9
"""Of the bound, to which a folder that is full is cleared."""
_LOCK_SECONDS = 0.05
_PAUSE_SECONDS = 1.0
"""For which nothing is kept, where the lock was not had: whoever has it removes files."""
_FRESH_SECONDS = 60.0
"""An entry that was used within these is not marked as used again."""
_ABANDONED_SECONDS = 600.0
"""Age of a file that is half written, and not written any more."""
_BLOCK = 4096
_DIGITS = 20
_LOG = logging.getLogger("dcfast")
_NAMES = [f"{n:02x}" for n in range(256)]


class Cache:
    """See the module. Safe for threads and for processes, also for those that are forked.

    Args:
        folder: made where missing.   most: bytes that the files in it may have, each rounded up to 4 KiB.
    Raises OSError: the folder cannot be made.
    Example: ``cache = Cache("cache", 1 << 20)``, ``cache.put("key", b"content")``
    """

    def __init__(self, folder: str | os.PathLike[str], most: int) -> None:
        self.folder: Path = make_directory(folder, "cache_dir")
        self.most: int = most
        self._is_off = False
        self._resumes = 0.0  # at this time, where another process was found at clearing

    def _place(self, key: str) -> tuple[str, tuple[int, int]]:
        name = hex_digits(*core_hashing.xxh3_128(key.encode("utf-8", "surrogatepass")))
        return f"{self.folder}/{name[:2]}/{name[2:]}", (int(name[:16], 16), int(name[16:], 16))

    def read_into(self, key: str, place: memoryview) -> bool:
        """Whether the cache has the bytes of a key, which are put to ``place`` then. A damaged entry is removed."""
        path, seed = self._place(key)
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            header = bytearray(_HEADER.size)
            status = os.fstat(file)
            is_whole = status.st_size == _HEADER.size + len(place)
            if is_whole and os.readv(file, [header, place]) == status.st_size and bytes(header) == _head(seed, place):
                if time.time() - status.st_mtime > _FRESH_SECONDS:
                    with suppress(OSError):
                        os.utime(file)
                return True
        except OSError:
            pass
        finally:
            os.close(file)
        with suppress(OSError):
            os.unlink(path)
        return False

    def put(self, key: str, content: memoryview | bytes) -> None:
        """Keeps bytes, where there is room, or others can be removed for them. Never raises for want of it."""
        size = _on_disk(_HEADER.size + len(content))
        if self._is_off or size > self.most // 4 or time.monotonic() < self._resumes:
            return
        path, seed = self._place(key)
        try:
            if not self._take(size):
                return
            self._write(path, [_head(seed, content), content])
        except OSError as error:
            self._is_off = True
            _LOG.warning(
                "the cache in %s cannot be written (%s): what is read from now on is not kept there; free some space, "
                "or give another --cache-dir",
                self.folder,
                error.strerror,
            )

    def _write(self, path: str, parts: list[bytes | memoryview]) -> None:
        folder, name = os.path.split(path)
        temporary = f"{folder}/{temporary_name(name)}"
        os.makedirs(folder, exist_ok=True)
        try:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                for part in parts:
                    view = memoryview(part)
                    while len(view):
                        view = view[os.write(file, view) :]
            finally:
                os.close(file)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def _take(self, size: int) -> bool:
        """Counts so many bytes more; False where they do not fit, or another process has the lock for long."""
        with self._counted() as count:
            if count is None:
                self._resumes = time.monotonic() + _PAUSE_SECONDS
                return False
            used = count[0] if count[0] >= 0 else self._count()
            if used + size > self.most:
                used = self._clear(min(int(_FILLED * self.most), self.most - size))
            fits = used + size <= self.most
            count[0] = used + size if fits else used
            return fits

    @contextmanager
    def _counted(self) -> Iterator[list[int] | None]:
        """The bytes counted by all, under the lock, to be changed; [-1]: not known; None: the lock is held."""
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                lock = take_lock(self.folder / "used", follow=False)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    yield None
                    return
                time.sleep(0.001)
        try:
            text = os.pread(lock, _DIGITS + 1, 0)
            count = [int(text) if len(text) == _DIGITS and text.isdigit() else -1]
            yield count
            os.pwrite(lock, b"%0*d" % (_DIGITS, count[0]), 0)
            if len(text) > _DIGITS:  # somebody's
                os.ftruncate(lock, _DIGITS)
        finally:
            os.close(lock)

    def _files(self) -> Iterator[os.DirEntry[str]]:
        for name in _NAMES:
            with suppress(OSError), os.scandir(self.folder / name) as entries:
                yield from entries

    def _count(self) -> int:
        total = 0
        for entry in self._files():
            with suppress(OSError):
                total += _on_disk(entry.stat(follow_symlinks=False).st_size)
        return total

    def _clear(self, most: int) -> int:
        """Removes what was used longest ago, until the rest has ``most`` bytes; how many it has.

        Memory: 16 bytes a file.   Cost: two listings of the folder.
        """
        times, sizes = array("d"), array("q")
        now = time.time()
        for entry in self._files():
            with suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                is_abandoned = entry.name.startswith(TEMPORARY_PREFIX) and now - status.st_mtime > _ABANDONED_SECONDS
                if is_abandoned:
                    os.unlink(entry.path)
                    continue
                times.append(status.st_mtime)
                sizes.append(_on_disk(status.st_size))
        if not len(times):
            return 0
        when, size = np.frombuffer(times), np.frombuffer(sizes, np.int64)
        order = np.argsort(when, kind="stable")
        excess = int(size.sum()) - most
        last = int(np.searchsorted(np.cumsum(size[order]), excess))  # with it, enough is removed
        limit = when[order[min(last, len(order) - 1)]] if excess > 0 else -1.0
        left = 0
        for entry in self._files():
            with suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if status.st_mtime <= limit and excess > 0 and not entry.name.startswith(TEMPORARY_PREFIX):
                    os.unlink(entry.path)
                    excess -= _on_disk(status.st_size)
                else:
                    left += _on_disk(status.st_size)
        return left


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _head(seed: tuple[int, int], content: memoryview | bytes) -> bytes:
    high, low = core_hashing.xxh3_128(content)
    return _HEADER.pack(high ^ seed[0], low ^ seed[1], len(content), _MAGIC)


def open_cache(folder: str | os.PathLike[str] | None, most: int) -> Cache | None:
    """The cache in a folder; None where none is named."""
    return None if folder is None else Cache(folder, most)
