"""Shards behind fsspec URLs (http, s3, gs, memory, ...), read by ranges: what the tar walker in the core asks for.

The core decides which bytes it needs; this module asks for them, tries again where that may help, and notices an
object that is replaced meanwhile.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypedDict, TypeVar

from dcfast._core import hashing as core_hashing
from dcfast.errors import MissingDependencyError, PoolError, first_line
from dcfast.process.read_ahead import read_ahead
from dcfast.storage.http import (
    NO_CREDENTIALS,
    HttpAnswers,
    RemoteOptions,
    explained,
    is_throttled,
    lacks_credentials,
    may_pass,
    no_ranges,
    remote_options,
    retry_reason,
    status_of,
)
from dcfast.storage.listing import PassedOver, is_shard_name, reason_passed_over

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


_NS = 1_000_000_000
REMOTE_HINT = "pip install 'dcfast[remote]'"
T = TypeVar("T")


class RemoteState(NamedTuple):
    """What tells one version of a remote object from another.

    Attributes:
        size: bytes.
        etag: the server's ETag, or an empty string.
        modified_ns: time of the last modification in ns since 1970, 0 where the server does not say.
    """

    size: int
    etag: str
    modified_ns: int

    @property
    def stored_mtime_ns(self) -> int:
        """The ``shard_mtime_ns`` of an index: where there is an ETag, a negative number made of it."""
        if not self.etag:
            return self.modified_ns
        digest = core_hashing.xxh3_64(self.etag.encode("utf-8", "surrogatepass"))
        return -1 - (digest & ((1 << 62) - 1))

    def is_told_by(self, headers: Mapping[str, str]) -> bool:
        """Whether the headers of an answer say that it is of this version."""
        told = (headers.get("ETag", ""), _header_ns(headers.get("Last-Modified")))
        return any(told) and told == (self.etag, self.modified_ns)


def remote_state(url: str, options: RemoteOptions | None = None) -> RemoteState:
    """Size, ETag and modification time of a remote object, as the server tells them now.

    Raises:
        FileNotFoundError, PermissionError, OSError: with the URL, after the retries.
        PoolError: the server does not tell the size.   MissingDependencyError: the URL's protocol needs a package.
    """
    return RemoteObject(url, remote_options(options)).state()


class _Info(TypedDict, total=False):
    """What fsspec says of an object; what the server told is whatever it is."""

    name: str
    type: str
    size: object
    partial: object
    ETag: object
    etag: object
    blob_id: object


class RemoteListing(NamedTuple):
    """The tars of a remote directory.

    Attributes:
        states: name of each shard -> its state where the listing has ETags (as S3's), else None.
        passed_over: what looks like shards and is not taken, sorted; directories below with whatever they hold.
    """

    states: dict[str, RemoteState | None]
    passed_over: list[PassedOver]


def list_shards(url: str, options: RemoteOptions | None = None) -> RemoteListing:
    """The ``*.tar`` of a remote directory, by the rule of ``storage.listing``. Errors as ``remote_state``."""
    return RemoteObject(url, remote_options(options)).shards()


def shard_states(url: str, options: RemoteOptions | None = None) -> tuple[dict[str, RemoteState], list[PassedOver]]:
    """Name -> state of the shards of a remote directory, sorted, and what was passed over. Errors as ``remote_state``.

    Cost: the listing, and a request for each shard of which it does not tell the version, many at a time.
    """
    listing = list_shards(url, options)
    unknown = sorted(name for name, state in listing.states.items() if state is None)
    places = [f"{url.rstrip('/')}/{name}" for name in unknown]
    count = remote_options(options).requests
    found = read_ahead(lambda place: remote_state(place, options), places, threads=count, ahead=count)
    looked_up = dict(zip(unknown, found, strict=True))
    return {name: state or looked_up[name] for name, state in sorted(listing.states.items())}, listing.passed_over


def _last_part(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


class RemoteObject:
    """One URL on its file system, with retries.

    Attributes:
        fs, path: of fsspec.
    """

    def __init__(self, url: str, options: RemoteOptions) -> None:
        self.url: str = url
        self.options: RemoteOptions = options
        self.fs: AbstractFileSystem
        self.path: str
        try:
            import fsspec.core
        except ImportError:
            raise MissingDependencyError(f"{url}: reading URLs needs fsspec: {REMOTE_HINT}") from None
        try:
            self.fs, self.path = fsspec.core.url_to_fs(url, **options.limited(url))
        except ImportError as error:
            what = f"the package of that name, or: {REMOTE_HINT}"
            raise MissingDependencyError(f"{url}: {error}; install {what}") from error
        except ValueError as error:
            raise PoolError(f"{url}: {error}") from error
        if "s3" in protocols_of(self.fs):
            self.fs.retries = 1  # attempt() tries again: tries of tries would multiply the waiting

    def state(self) -> RemoteState:
        """See ``remote_state``."""
        return self._state_of(self.attempt("look up", self._info))

    def _state_of(self, info: _Info) -> RemoteState:
        size = info.get("size")
        if info.get("type") == "directory" or self.url.endswith("/"):
            raise IsADirectoryError(errno.EISDIR, "is a directory, expected a shard", self.url)
        if info.get("mimetype") == "text/html" and not is_shard_name(_last_part(self.path)):
            raise PoolError(f"{self.url}: it is a page, expected a shard; the URL of a directory must end in a slash")
        if not isinstance(size, int) or isinstance(size, bool):
            raise PoolError(f"{self.url}: the server does not tell the size; download the shard to index it")
        if not 0 <= size < 1 << 63:
            raise PoolError(f"{self.url}: expected a size of 0 to 2^63 - 1 bytes; the server tells {size}")
        if info.get("partial") is False:
            raise PoolError(no_ranges(self.url))
        return RemoteState(size, _etag(info), _modified_ns(info))

    def shards(self) -> RemoteListing:
        """The tars of a directory by name; None where the listing does not tell one version from another."""
        states: dict[str, RemoteState | None] = {}
        passed_over: set[PassedOver] = set()
        here = _last_part(self.path)
        for info in self.attempt("list", self._list):
            name = _last_part(str(info["name"]))
            is_file = info.get("type") == "file"
            if is_file and is_shard_name(name):
                tells = isinstance(info.get("size"), int) and _etag(info)
                states[name] = self._state_of(info) if tells else None
            elif is_file and (reason := reason_passed_over(name)):
                passed_over.add(PassedOver(name, reason))
            elif info.get("type") == "directory" and not name.startswith(".") and name not in ("", here):
                passed_over.add(PassedOver(name, "a directory: shards must lie side by side"))
        return RemoteListing(states, sorted(passed_over))

    def _list(self) -> list[_Info]:
        self.fs.invalidate_cache()
        return list(self.fs.ls(self.path, detail=True))

    def _info(self) -> _Info:
        self.fs.invalidate_cache()  # what a listing said earlier may be what was replaced
        answers = HttpAnswers(self.url)
        checks = {"raise_for_status": answers.check_look_up} if "http" in protocols_of(self.fs) else {}
        info: _Info = self.fs.info(self.path, **checks).copy()
        if checks and not isinstance(info.get("size"), int):
            info["size"] = answers.header_size
        return info

    def state_now(self) -> RemoteState:
        """As ``state`` without further tries, for use inside of one."""
        return self._state_of(self._info())

    def attempt(self, action: str, call: Callable[[], T]) -> T:
        """The result of call(), tried again where that may help, as often and as long as the options say."""
        tries, began = 0, time.monotonic()
        while True:
            try:
                return call()
            except Exception as raised:
                error = _cause(raised)
                tries += 1
                pause = self.options.backoff_s * 2 ** (tries - 1)
                pause = min(10.0, 8 * pause if is_throttled(error) else pause)
                is_late = time.monotonic() - began + pause > self.options.deadline_s
                if not may_pass(error) or tries > self.options.retries or is_late:
                    raise self._final(action, error, tries) from error
                time.sleep(pause)

    def _final(self, action: str, error: Exception, tries: int) -> Exception:
        if isinstance(error, PoolError):
            return error
        if lacks_credentials(error):
            return PermissionError(errno.EACCES, f"{action}: {NO_CREDENTIALS} ({first_line(error)})", self.url)
        text = explained(error)
        if "support range requests" in text:
            return PoolError(no_ranges(self.url))
        after = f" (after {tries} attempts)" if tries > 1 else ""
        awaited = retry_reason(error)
        if awaited:
            limit = f"timeout_s={self.options.timeout_s:g} of RemoteOptions, or what storage_options set"
            message = f"{action}: waited for {awaited} until the limit{after}; the limit is {limit}: raise it"
            return TimeoutError(errno.ETIMEDOUT, f"{message} if the server is only slow", self.url)
        message = f"{action}: {text}{after}"
        status = status_of(error)
        if isinstance(error, FileNotFoundError) or status == 404:
            return FileNotFoundError(errno.ENOENT, message, self.url)
        if isinstance(error, PermissionError) or status in (401, 403):
            return PermissionError(errno.EACCES, message, self.url)
        return OSError(errno.EIO, message, self.url)


class RangeSource(Protocol):
    """What the core indexes a shard from, where it is not a file: called from any thread, one call at a time."""

    def open(self) -> tuple[int, int]:
        """Size and modification time in ns."""

    def read(self, offset: int, length: int) -> bytes | None:
        """At most ``length`` bytes from ``offset``; None where it is no longer the object that was opened."""

    def finish(self) -> str:
        """What is wrong with what was read, as a sentence; empty where nothing is."""


def protocols_of(fs: AbstractFileSystem) -> tuple[str, ...]:
    """The protocols that a file system answers to."""
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _cause(error: Exception) -> Exception:
    """fsspec says "not found" of whatever went wrong with a look-up: what it was decides about another try."""
    cause = error.__cause__
    return cause if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) else error


def _etag(info: _Info) -> str:
    """What tells a version, by the names that fsspec's file systems give it: S3's, Google's, the hub's."""
    return str(info.get("ETag") or info.get("etag") or info.get("blob_id") or "")


@lru_cache(maxsize=256)
def _header_ns(text: str | None) -> int:
    """``_modified_ns`` of a header, which every answer of a shard has alike."""
    return _modified_ns({"Last-Modified": text})  # type: ignore[typeddict-unknown-key]


def _modified_ns(info: _Info) -> int:
    """Last modification by the names that fsspec's file systems give it."""
    for name in ("LastModified", "last_modified", "updated", "mtime", "modified", "created", "Last-Modified"):
        value = info.get(name)
        try:
            if isinstance(value, str):
                value = parsedate_to_datetime(value) if name == "Last-Modified" else datetime.fromisoformat(value)
            if isinstance(value, datetime):
                modified = int(value.timestamp()) * _NS + value.microsecond * 1000
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                modified = int(value * _NS)
            else:
                continue
        except (ValueError, OverflowError):
            continue  # no time, or none that a computer knows
        # an index holds 64 bits, and negative numbers for what an ETag tells
        return modified if 0 <= modified < 1 << 63 else 0
    return 0
