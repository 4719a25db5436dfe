"""A folder copied to another place as its files change: an object store by URL, or a disk that others have mounted.

A file appears there whole or not at all: where the store has no whole puts, it is written under another name first.
"""

from __future__ import annotations

import logging
import os
import posixpath
import queue
import re
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dcfast.errors import RunError, first_line
from dcfast.storage.atomic import atomic_path
from dcfast.storage.http import RemoteOptions
from dcfast.storage.inputs import open_input
from dcfast.storage.listing import is_temporary_name, temporary_name
from dcfast.storage.remote import RemoteObject, protocols_of

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")
_WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "hf", "memory"}
"""Protocols in which an object is there when all of it is."""
_LARGE = 8 << 20
"""Bytes of a file that is not held in memory: one that is written whole, and does not grow."""
_PATIENT = RemoteOptions(retries=6, backoff_s=0.5, deadline_s=120.0)
_LAST = (".pt", "/checkpoint.json")
_LAST_SECONDS = 20.0
_LOG = logging.getLogger("dcfast")


class Mirror:
    """Copies the files of a folder whose names fit a pattern, in a thread, after each ``update``.

    Args:
        folder: with files by relative names such as ``checkpoints/epoch_1.pt``.
        url: of the folder there; a path of this machine will do.
        names: of the files, in whole.   passing: of those that are removed there when they have gone here.
    Memory: a file of up to 8 MiB.
    """

    def __init__(self, folder: Path, url: str, names: re.Pattern[str], passing: re.Pattern[str]) -> None:
        self.url: str = url.rstrip("/")
        self._folder, self._names, self._passing = folder, names, passing
        self._remote = RemoteObject(self.url, _PATIENT)
        self._fs: AbstractFileSystem = self._remote.fs
        self._place: str = self._remote.path.rstrip("/")
        self._is_whole = bool(_WHOLE & set(protocols_of(self._fs)))
        self._copied: dict[str, tuple[int, int]] = {}
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._problem: Exception | None = None

    def check(self) -> None:
        """RunError where nothing can be written there: before hours of work."""
        try:
            self._put(".dcfast-copy", b"a file that may be removed\n")
            self._do("remove", lambda: self._fs.rm_file(self._at(".dcfast-copy")))
        except (OSError, ValueError, NotImplementedError) as error:
            raise RunError(
                f"copy_to {self.url}: nothing can be written there ({first_line(error)}); give another place, or "
                "credentials that may write to it (docs/training.md, Data behind URLs)"
            ) from error

    def restore(self) -> list[str]:
        """Fetches the files that are there; their names. OSError: reading there, or writing here."""
        self._fs.invalidate_cache()
        try:
            found: list[str] = self._do("list", lambda: self._fs.find(self._place))
        except FileNotFoundError:
            return []
        fetched = []
        prefix = f"{self._place}/"
        for path in sorted(found):
            name = path.removeprefix(prefix)
            if path.startswith(prefix) and self._names.fullmatch(name):
                with atomic_path(self._folder / name) as temporary:
                    self._do(f"fetch {name}", partial(self._fs.get_file, path, str(temporary)))
                self._copied[name] = _state(self._folder / name)
                fetched.append(name)
        return fetched

    def update(self) -> None:
        """Has what changed copied, soon; returns at once."""
        if self._thread is None:
            # a daemon: a store that hangs must not keep the process from its end
            self._thread = threading.Thread(target=self._work, name="dcfast-copy", daemon=True)
            self._thread.start()
        self._asked.put(True)

    def close(self, *, in_order: bool = True) -> None:
        """Waits until all is copied; where not ``in_order``, for 20 s at most. RunError, in order: it could not be."""
        if self._thread is not None:
            self._asked.put(False)
            self._thread.join(None if in_order else _LAST_SECONDS)
            self._thread = None
        if self._problem is not None and in_order:
            raise RunError(
                f"copy_to {self.url}: not all could be copied there ({first_line(self._problem)}); what was trained is "
                f"in {self._folder}: the same command copies the rest"
            ) from self._problem

    def _work(self) -> None:
        goes_on = True
        while goes_on:
            asked = [self._asked.get()]
            while not self._asked.empty():
                asked.append(self._asked.get())
            goes_on = False not in asked
            if True not in asked:
                continue
            try:
                self._copy()
                self._problem = None
            except Exception as error:
                if self._problem is None:
                    _LOG.warning(
                        "%s cannot be copied to %s (%s); it is tried again with the next checkpoint",
                        self._folder, self.url, first_line(error),
                    )  # fmt: skip
                self._problem = error

    def _copy(self) -> None:
        present = {name: path for name, path in self._files() if self._names.fullmatch(name)}
        # what others are told by, such as the log, comes before its checkpoint; shards before their record
        for name, path in sorted(present.items(), key=lambda item: item[0].endswith(_LAST)):
            try:
                state = _state(path)
                if self._copied.get(name) == state:
                    continue
                if state[0] > _LARGE:
                    self._put_file(name, path)
                else:
                    with open_input(path) as file:
                        self._put(name, file.read())
            except FileNotFoundError:
                if path.exists():
                    raise
                continue  # removed meanwhile
            self._copied[name] = state
        for name in [name for name in self._copied if name not in present and self._passing.fullmatch(name)]:
            with suppress(FileNotFoundError):
                self._do(f"remove {name}", partial(self._fs.rm_file, self._at(name)))
            del self._copied[name]

    def _files(self) -> Iterable[tuple[str, Path]]:
        for folder, below, names in os.walk(self._folder):  # goes over what is removed meanwhile
            below[:] = [name for name in below if not is_temporary_name(name)]
            for name in names:
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink() and not is_temporary_name(name):
                    yield path.relative_to(self._folder).as_posix(), path

    def _at(self, name: str) -> str:
        return f"{self._place}/{name}"

    def _put(self, name: str, data: bytes) -> None:
        self._written(name, lambda path: self._fs.pipe_file(path, data))

    def _put_file(self, name: str, file: Path) -> None:
        self._written(name, lambda path: self._fs.put_file(str(file), path))

    def _written(self, name: str, write: Callable[[str], object]) -> None:
        path = self._at(name)
        if self._is_whole:  # folders are but names there
            self._do(f"write {name}", lambda: write(path))
            return
        self._do("make the folder of it", lambda: self._fs.makedirs(posixpath.dirname(path), exist_ok=True))
        temporary = f"{posixpath.dirname(path)}/{temporary_name(posixpath.basename(path))}"
        try:
            self._do(f"write {name}", lambda: write(temporary))
            self._do(f"name {name}", lambda: self._fs.mv(temporary, path))
        except BaseException:
            with suppress(Exception):
                self._fs.rm_file(temporary)
            raise

    def _do(self, action: str, call: Callable[[], T]) -> T:
        return self._remote.attempt(action, call)


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
