"""Requests to a server that is a stranger: bounded in time, bytes and tries; files continue where they were cut.

The client is that of ``huggingface_hub``: proxies, certificates and its offline mode are as that library has them. All
it does beside is left out: it waits without end, reads answers of any size, and begins a file anew that was cut.
"""

from __future__ import annotations

import email.utils
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from dcfast._core import version as core_version
from dcfast.errors import HubError, first_line
from dcfast.hub.hashes import PIECE, Hashes
from dcfast.process.libraries import require_library
from dcfast.storage.atomic import unfollowed
from dcfast.storage.json_files import MOST_JSON_BYTES, Json, parse_json
from dcfast.storage.whole import FULL

if TYPE_CHECKING:
    from io import BufferedRandom

T = TypeVar("T")
TIMEOUT_S = 30.0
"""How long a request waits for a connection, and then for the next bytes."""
SLOWEST = 1024
"""Bytes a second, on average over ``TIMEOUT_S``, below which an answer counts as cut."""
TRIES, FIRST_TRIES = 6, 3
"""Failures in a row until it is said; where the server has never answered, fewer."""
BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 30.0
LONGEST_WAIT_S = 600.0
"""That a server may ask for (Retry-After)."""
PROGRESS = 1 << 20
"""Bytes after which a failure is the first again."""
HOW = "pip install 'dcfast[acquire]'"
_PASSING = (408, 425, 429)
_PERMANENT = ("UnsupportedProtocol", "LocalProtocolError", "TooManyRedirects", "DecodingError")
"""Of the client's errors: another try ends the same way."""
_RANGE = re.compile(r"\s*bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)\s*", re.IGNORECASE)
_RESET = re.compile(r";\s*t\s*=\s*(\d{1,6})\s*$")


class StoppedError(Exception):
    """Another thread of the same work has failed, and says why."""


class _AgainError(Exception):
    """Another try may help: why this one failed, how long the server asks to wait, and the bytes that came."""

    def __init__(self, reason: str, *, wait: float | None = None, moved: int = 0) -> None:
        super().__init__(reason)
        self.wait: float | None = wait
        self.moved: int = moved


@dataclass
class Server:
    """Who is asked, and how its refusals are said.

    Attributes:
        name: for messages: its address.
        refused: status, headers and address of a refusal -> the error that says it.
        headers: of each request; those of redirections to other servers leave ``Authorization`` out.
        stop: set by the first thread of the work that fails; the others end.
    """

    name: str
    refused: Callable[[int, Mapping[str, str], str], HubError]
    headers: dict[str, str] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    has_answered: bool = False


def agent() -> str:
    """How dcfast names itself: without what is installed here, which the library would tell."""
    return f"dcfast/{core_version}"


def require_hub(user: str) -> None:
    """MissingDependencyError where huggingface_hub is not installed."""
    require_library("huggingface_hub", user, HOW)


def read_page(server: Server, url: str, most: int = MOST_JSON_BYTES) -> tuple[Json, str]:
    """An answer of JSON, and the address of the next page (empty: there is none).

    Raises:
        HubError: refused, not reached, longer than ``most`` bytes, or no JSON.
    """

    def once() -> tuple[bytes, str]:
        body = bytearray()
        with _answer(server, url, {**server.headers, "Accept-Encoding": "identity"}) as response:
            _refuse(server, response, url)
            for chunk in _chunks(server, response):
                body += chunk
                if len(body) > most:
                    raise HubError(f"{server.name} lists more than {most:,} bytes on a page; look at HF_ENDPOINT")
            return bytes(body), str(response.links.get("next", {}).get("url", ""))

    data, following = _repeated(server, once)
    try:
        return parse_json(data), following
    except ValueError as error:
        raise HubError(
            f"{server.name} answers with no listing ({error}); look at HF_ENDPOINT, and whether a proxy in between "
            "wants a log-in"
        ) from None


def download(
    server: Server,
    url: str,
    part: Path,
    *,
    size: int | None,
    most: int,
    resume: bool,
    blob: bool = False,
    moved: Callable[[int], None] = lambda count: None,
) -> Hashes:
    """Fetches a file, and goes on where an earlier call was cut.

    Args:
        part: where the bytes are written; no link. It stays where the call fails, and is durable where it returns.
        size: that the file has; None where it is not known: then the server tells it.
        most: bytes that are taken.
        blob: git's blob id is asked for, too, of a file whose size is known.
        resume: what lies in ``part`` is a beginning of the file; else it is begun anew.
        moved: is told how many bytes came (or, negative, were thrown away), by the thread that calls.
    Returns:
        size and hashes of the whole, which the caller compares.
    Raises:
        HubError: refused, not reached, cut too often, another size than expected, more than ``most``, a full disk.
        StoppedError: ``server.stop`` was set.
    Memory: 1 MiB.
    """
    with open(part, "ab", opener=unfollowed):
        pass  # it is there now
    try:
        with open(part, "r+b", opener=unfollowed) as file:
            fetch = _File(server, url, file, size, most, size if blob else None, moved)
            fetch.begin(resume)
            _repeated(server, fetch.more)
            file.flush()
            os.fsync(file.fileno())
            return fetch.hashes
    except BaseException as error:
        if not part.stat().st_size:
            part.unlink()
        if isinstance(error, OSError) and error.errno in FULL:
            raise HubError(
                f"{part.parent}: no space is left ({error.strerror}); free some, and give the same command again: it "
                "goes on where it was"
            ) from error
        raise


class _File:
    """A file that is being fetched."""

    def __init__(
        self,
        server: Server,
        url: str,
        file: BufferedRandom,
        size: int | None,
        most: int,
        blob_size: int | None,
        moved: Callable[[int], None],
    ) -> None:
        self._server, self._url, self._file, self._most, self._moved = server, url, file, most, moved
        self._size, self._blob_size, self._etag, self._whole = size, blob_size, "", False
        self.hashes: Hashes = Hashes(blob_size)

    def begin(self, resume: bool) -> None:
        """Takes what is there, or throws it away."""
        there = os.fstat(self._file.fileno()).st_size
        if not resume or there > (self._most if self._size is None else self._size):
            self._restart()
        while resume and (data := self._file.read(PIECE)):
            self.hashes.update(data)
            self._moved(len(data))
        if self._size is not None and self.hashes.size > self._size:  # it grew meanwhile
            self._restart()

    def _restart(self) -> None:
        self._moved(-self.hashes.size)
        self.hashes = Hashes(self._blob_size)
        self._file.seek(0)
        self._file.truncate()

    def more(self) -> None:
        """A request for what is missing, where anything is."""
        if self._whole or self._size == self.hashes.size:
            return
        offset = self.hashes.size
        wanted = {**self._server.headers, "Accept-Encoding": "identity"}
        if offset:
            wanted["Range"] = f"bytes={offset}-"
            if self._etag:
                wanted["If-Range"] = self._etag
        with _answer(self._server, self._url, wanted) as response:
            if response.status_code == 416 and offset:
                self._restart()
                raise _AgainError("the server has fewer bytes than came before")
            _refuse(self._server, response, self._url)
            total = self._total(response, offset)
            most = self._most if total is None else total
            etag = response.headers.get("ETag", "")
            self._etag = "" if etag.startswith("W/") else etag
            began = self.hashes.size
            try:
                for chunk in _chunks(self._server, response):
                    if self.hashes.size + len(chunk) > most:
                        raise HubError(f"{self._url}: more than the {most:,} bytes came that were expected")
                    self._file.write(chunk)
                    self.hashes.update(chunk)
                    self._moved(len(chunk))
            except _AgainError as again:
                again.moved = self.hashes.size - began
                raise
            if total is not None and self.hashes.size < total:
                raise _AgainError("the answer ended too early", moved=self.hashes.size - began)
        self._whole = True

    def _total(self, response: Any, offset: int) -> int | None:  # Any: of the library's client, by its version
        """Bytes of the whole file by its headers, which are held against what is known; begins anew where it has to."""
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise HubError(
                f"{self._url}: the server sends it packed ({encoding[:40]!r}); expected the bytes as they are"
            )
        length = response.headers.get("Content-Length", "")
        total = int(length) if re.fullmatch(r"\d{1,18}", length) else None
        if response.status_code == 200:
            if offset:
                self._restart()
        else:
            sent = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if response.status_code != 206 or sent is None or int(sent[1]) != offset:
                got = f"status {response.status_code}, Content-Range {response.headers.get('Content-Range', '')[:60]!r}"
                raise HubError(f"{self._url}: expected the bytes from {offset:,}; got {got}: fetch it by hand")
            total = None if sent[3] == "*" else int(sent[3])
        if total is not None and self._size is not None and total != self._size:
            raise HubError(
                f"{self._url}: expected {self._size:,} bytes; the server has {total:,}: it is another file, or a "
                "page of a proxy"
            )
        total = self._size if total is None else total
        if total is None and response.headers.get("Transfer-Encoding", "").strip().lower() != "chunked":
            raise HubError(f"{self._url}: the server does not tell where it ends; fetch it from another, or by hand")
        if total is not None and total > self._most:
            raise HubError(f"{self._url}: it has {total:,} bytes; expected at most {self._most:,}: look at its address")
        return total


@contextmanager
def _answer(server: Server, url: str, headers: Mapping[str, str]) -> Iterator[Any]:  # Any: as above
    """The answer to a request, redirections followed; whatever the client raises becomes _AgainError or HubError."""
    from huggingface_hub import get_session
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    if server.stop.is_set():
        raise StoppedError
    try:
        with get_session().stream(
            "GET", url, headers=dict(headers), timeout=TIMEOUT_S, follow_redirects=True
        ) as response:
            server.has_answered = True
            if urlsplit(url).scheme == "https" and response.url.scheme != "https":
                raise HubError(
                    f"{url}: the server sends on to {response.url.scheme}, which anybody could change; name another"
                )
            yield response
    except OfflineModeIsEnabled:
        raise HubError(
            f"{server.name}: nothing is fetched, because HF_HUB_OFFLINE is set; remove it from the environment"
        ) from None
    except HTTPError as error:
        kind, text = type(error).__name__, first_line(error)[:200]
        if kind in _PERMANENT:
            raise HubError(f"{url}: the server cannot be followed ({kind}: {text}); look at its address") from None
        raise _AgainError(f"{kind}: {text}") from None


def _chunks(server: Server, response: Any) -> Iterator[bytes]:  # Any: as above
    """The body as it comes; _AgainError where it trickles."""
    began, came = time.monotonic(), 0
    for chunk in response.iter_raw():
        if server.stop.is_set():
            raise StoppedError
        yield chunk
        came += len(chunk)
        spent = time.monotonic() - began
        if spent > TIMEOUT_S:
            if came < SLOWEST * spent:
                raise _AgainError(f"{came:,} bytes came in {spent:.0f} s")
            began, came = time.monotonic(), 0


def _refuse(server: Server, response: Any, url: str) -> None:  # Any: as above
    """Raises where an answer is a refusal."""
    status = response.status_code
    if status < 300:
        return
    if status >= 500 or status in _PASSING:
        raise _AgainError(f"status {status}", wait=_asked_wait(response.headers))
    place = response.url.netloc.decode("ascii", "replace")
    if place != urlsplit(url).netloc:  # the store that the hub sends on to, by an address that holds for a while
        raise _AgainError(f"status {status} of {place}")
    raise server.refused(status, response.headers, url)


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: Retry-After as a number or a date, or the hub's own RateLimit."""
    asked = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", asked):
        return float(asked)
    date = email.utils.parsedate_tz(asked[:64]) if asked else None
    if date is not None:
        try:
            return max(0.0, email.utils.mktime_tz(date) - time.time())
        except (ValueError, OverflowError):
            return None
    reset = _RESET.search(headers.get("RateLimit", "")[:200])
    return float(reset[1]) if reset else None


def _repeated(server: Server, work: Callable[[], T]) -> T:
    """What ``work`` returns, at the first try that may not be repeated; waits in between, longer and longer."""
    failures = 0
    while True:
        try:
            return work()
        except _AgainError as again:
            failures = 1 if again.moved >= PROGRESS else failures + 1
            tries = TRIES if server.has_answered else FIRST_TRIES
            if failures >= tries:
                raise _given_up(server, str(again), tries) from None
            wait = min(BACKOFF_S * 2 ** (failures - 1), LONGEST_BACKOFF_S) if again.wait is None else again.wait
            if wait > LONGEST_WAIT_S:
                raise HubError(
                    f"{server.name} asks to wait {wait:,.0f} s ({again}); give the same command again then: it goes on "
                    "where it was"
                ) from None
            if server.stop.wait(wait):
                raise StoppedError from None


def _given_up(server: Server, reason: str, tries: int) -> HubError:
    if not server.has_answered:
        return HubError(
            f"{server.name} cannot be reached ({reason}); look at the network, at HTTPS_PROXY and at HF_ENDPOINT"
        )
    return HubError(
        f"{server.name} failed {tries} times in a row ({reason}); give the same command again later: it goes on where "
        "it was"
    )
