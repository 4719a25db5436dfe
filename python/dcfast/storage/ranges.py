"""One shard behind a URL, read by ranges: the source that the core indexes it from, and that members are read from."""

from __future__ import annotations

import errno
import re
import threading
from typing import IO

from dcfast.errors import PoolError
from dcfast.storage.http import HttpAnswers, OtherSizeError, RemoteOptions, status_of
from dcfast.storage.remote import RemoteObject, RemoteState, protocols_of

_OF_REVISION = re.compile(r"hf://[^@]+@[0-9a-f]{40}/")
"""A file of the hub by the hash of a commit: what it holds never changes."""


class RemoteShard:
    """A shard behind a URL. ``read`` may be called by several threads at the same time; all else by one.

    Nothing is asked of the server before ``open``. Memory: the answers to the requests under way.
    """

    def __init__(self, url: str, options: RemoteOptions) -> None:
        self.url: str = url
        self._options = options
        self._remote: RemoteObject | None = None
        self._file: IO[bytes] | None = None
        self._answers: HttpAnswers | None = None
        self._is_pinned = False
        self._lock = threading.Lock()
        self.state: RemoteState = RemoteState(0, "", 0)
        self._changed = False

    def open(self) -> tuple[int, int]:
        """(size, what to store as mtime_ns)."""
        self._remote = RemoteObject(self.url, self._options)
        self.state = self._remote.state()
        return self.state.size, self.state.stored_mtime_ns

    def read(self, offset: int, length: int) -> bytes | None:
        """Exactly length bytes at offset; None where the object is no longer what was opened.

        Raises OSError (after the retries) or PoolError (no range requests), naming URL and offset.
        """
        remote = self._remote
        assert remote is not None

        def fetch() -> bytes | None:
            try:
                data = self._range(self._opened(remote, length), offset, length)
            except OtherSizeError as error:
                if remote.state_now() != self.state:
                    return None
                raise PoolError(f"{self.url}: {error.strerror}") from error
            except Exception as error:
                if type(error).__name__ == "FileExpired" or status_of(error) == 412:
                    return None  # s3fs reads under If-Match
                raise
            if len(data) > length:
                raise OSError(
                    errno.EIO, f"the server sent {len(data)} bytes, asked for {length}; download it", self.url
                )
            if len(data) < length:
                if remote.state_now() != self.state:
                    return None
                raise OSError(
                    errno.EIO, f"the server sent {len(data)} of {length} bytes; try again, or download it", self.url
                )
            return data

        if self._changed:
            return None
        data = remote.attempt(f"read {length} bytes at offset {offset}", fetch)
        self._changed |= data is None
        return data

    def _opened(self, remote: RemoteObject, length: int) -> IO[bytes]:
        """The file object whose every read is one request, where the file system can do that."""
        with self._lock:
            if self._file is None:
                self._file, self._answers = _open_ranges(remote, length, self.state)
                of_version = bool(self.state.etag) and _is_pinned(self._file, self.state.etag)
                self._is_pinned = of_version or _OF_REVISION.match(self.url) is not None
            return self._file

    def _range(self, file: IO[bytes], offset: int, length: int) -> bytes:
        """Bytes as the server sends them; without a place in the file, which threads would share, where that can be."""
        fetch = getattr(file, "_fetch_range", None)
        if fetch is not None and offset + length <= self.state.size and length < self.state.size:
            return bytes(fetch(offset, offset + length))
        with self._lock:
            file.seek(offset)
            return file.read(length)

    def is_unchanged(self) -> bool:
        """Whether all that was read so far is of the object that was opened: where the answers do not tell, the server
        is asked for its state.
        """
        assert self._remote is not None
        if self._changed:
            return False
        doubtful = 0 if self._answers is None else self._answers.doubtful
        if self._is_pinned or (self._answers is not None and not doubtful):
            return True
        self._changed = self._remote.state() != self.state
        if self._answers is not None:
            self._answers.doubtful -= doubtful  # those that came meanwhile are not answered for
        return not self._changed

    def finish(self) -> str:
        """What is wrong with what was read, or an empty string: asks the server for its state once more."""
        if self._file is not None:
            self._file.close()
            self._file = None
        assert self._remote is not None
        if not self._changed and self._remote.state() == self.state:
            return ""
        return "the shard was replaced while it was indexed (another size, ETag or time): index it again"


def _open_ranges(remote: RemoteObject, length: int, state: RemoteState) -> tuple[IO[bytes], HttpAnswers | None]:
    """A file object whose every read is one request, where the file system can do that; of http the checks of it."""
    fs, known, answers = remote.fs, {}, None
    if "http" in protocols_of(fs):
        # the size saves asking for it again; a compressed answer would be a range of other bytes
        headers = {**fs.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
        answers = HttpAnswers(remote.url, state.size, is_version=state.is_told_by)
        known = {"size": state.size, "headers": headers, "raise_for_status": answers.check_range}
    try:
        file: IO[bytes] = fs.open(remote.path, "rb", block_size=max(length, 1 << 16), cache_type="none", **known)
    except TypeError:  # a file system of whole files, such as that of an archive
        file = fs.open(remote.path, "rb")
    return file, answers


def _is_pinned(file: IO[bytes], etag: str) -> bool:
    """Whether a file object asks for bytes of this version alone (s3fs: under If-Match)."""
    asked = [getattr(file, name, None) for name in ("read_kw", "req_kw")]
    return any(isinstance(with_, dict) and with_.get("IfMatch") == etag for with_ in asked)
