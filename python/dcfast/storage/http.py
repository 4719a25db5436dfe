"""Requests to servers: how long they may take, whether an answer is what was asked for, what an error means.

fsspec makes the requests. It takes what a server answers for what was asked for, and waits five minutes for it.
"""

from __future__ import annotations

import errno
import io
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from dcfast.errors import PoolError

if TYPE_CHECKING:
    import aiohttp

_BLANKS = re.compile(r"\s{17,}")
_UNIT_RANGE = re.compile(r"\s*bytes\s+(\d+)-(\d+)/(\d+|\*)\s*", re.IGNORECASE)
# where a server sends a client on: another try is sent the same way
_REDIRECTIONS = ("TooManyRedirects", "NonHttpUrlRedirectClientError", "InvalidUrlRedirectClientError")
# another try cannot help these
_NOT_THERE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_PERMANENT = (*_NOT_THERE, ImportError, NotImplementedError, TypeError, ValueError, io.UnsupportedOperation, PoolError)
# of the client errors of HTTP, those that pass: request timeout, too early, too many requests
_PASSING_STATUS = (408, 425, 429)
# Content-Encoding labels that uploads leave on objects whose bytes are as they were
_SAME_BYTES = ("", "identity", "none", "binary", "8bit", "utf-8", "utf8", "aws-chunked")
# protocol -> the argument of its file system that takes limits of time
_LIMITED_BY = {"http": "client_kwargs", "https": "client_kwargs", "s3": "config_kwargs", "s3a": "config_kwargs"}
_ELSEWHERE = "download the shard to index it, or serve it by a server that does"


_NO_CREDENTIALS = {  # of botocore, google-auth, azure and huggingface_hub
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"),
    *("TokenRetrievalError", "DefaultCredentialsError", "ClientAuthenticationError", "LocalTokenNotFoundError"),
}
NO_CREDENTIALS = (
    "no credentials: give those that its library looks for (s3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
    "~/.aws; gs: GOOGLE_APPLICATION_CREDENTIALS; hf: HF_TOKEN), or ask without any, of what is open to all: "
    "FSSPEC_S3='{\"anon\": true}'"
)
MOST_LISTING_BYTES = 64 << 20
"""Of an answer that is no range: a directory as a page."""
SLOWEST = 1024
"""Bytes a second, on average, of an answer that takes longer than ``timeout_s``."""


class SlowAnswerError(TimeoutError):
    """An answer comes slower than ``SLOWEST``."""


class OtherSizeError(OSError):
    """An answer tells another size of the object than the look-up did."""


@dataclass(frozen=True)
class RemoteOptions:
    """How shards behind URLs are read.

    Attributes:
        storage_options: arguments of the fsspec file system: credentials, endpoint_url, headers, client_kwargs, ...
        window_bytes: the largest range asked for in one request while headers are near each other; payloads larger
            than this are jumped over. At least 65,536. Memory: four times this for each shard indexed at a time.
        retries: how often a request that failed is made again, at most; only where another try may help.
        backoff_s: pause before the first retry; doubled for each further one, at most 10 s. Eight times as long where
            the server says that it is asked too much (429, 503, SlowDown).
        timeout_s: how long a request may wait for a connection, and then for the next bytes. A request by http that
            takes longer must bring 1 kB a second, and is ended after ten times this. Of http(s) and s3, where
            storage_options has no limits of its own (client_kwargs["timeout"]; config_kwargs["connect_timeout"],
            ["read_timeout"]). A server that never answers costs (retries + 1) times this, twice that for the look-up
            by http, which asks in two ways.
        deadline_s: after so many seconds of trying, no request is made again.
        requests: ranges of members that one reader asks for at the same time; each is up to 1 MiB.
        cache_dir: folder on a local disk for the members that are read (``dcfast.storage.cache``); None: no cache.
        cache_bytes: that it may take, over all processes that share it.
    Raises ValueError: a number out of its range.
    Example: ``RemoteOptions({"headers": {"Authorization": "Bearer TOKEN"}}, retries=5, timeout_s=20)``
    """

    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # it has credentials
    window_bytes: int = 1 << 20
    retries: int = 4
    backoff_s: float = 0.2
    timeout_s: float = 30.0
    deadline_s: float = math.inf
    requests: int = 32
    cache_dir: str | None = None
    cache_bytes: int = 100_000_000_000

    def __post_init__(self) -> None:
        if self.window_bytes < 1 << 16:
            raise ValueError(f"window_bytes must be at least 65536; got {self.window_bytes}")
        if self.retries < 0:
            raise ValueError(f"retries must not be negative; got {self.retries}")
        if not 0 < self.timeout_s < math.inf:
            raise ValueError(f"timeout_s must be a number of seconds above 0; got {self.timeout_s}")
        if not self.deadline_s > 0:
            raise ValueError(f"deadline_s must be a number of seconds above 0; got {self.deadline_s}")
        if self.cache_dir == "":
            raise ValueError("cache_dir must be a path, or None for no cache; got an empty text")
        if self.requests < 1 or self.cache_bytes < 1:
            raise ValueError(f"requests and cache_bytes must be at least 1; got {self.requests} and {self.cache_bytes}")

    def limited(self, url: str) -> Mapping[str, Any]:
        """The storage options, with limits of time for the links of a URL whose file systems take them from there.

        Limits that are there already stay.   Raises ImportError: http without aiohttp.
        """
        storage = dict(self.storage_options)
        for number, link in enumerate(url.split("::")):
            protocol = link.split("://", 1)[0]
            name = _LIMITED_BY.get(protocol)
            if name is None:
                continue
            limits = _http_limits(self.timeout_s) if name == "client_kwargs" else _s3_limits(self.timeout_s)
            own = dict(storage.get(protocol) or {})
            # the options of the first link stand beside those by protocol, and go before them
            given = storage[name] if number == 0 and name in storage else own.get(name)
            merged = {**limits, **(given or {})}
            storage |= {name: merged} if number == 0 else {protocol: {**own, name: merged}}
        return storage


PATIENT = RemoteOptions(retries=30, deadline_s=120.0)
"""Of work over hours: what passes within two minutes does not end it."""


def remote_options(remote: RemoteOptions | None) -> RemoteOptions:
    """Those that a caller gave, or the usual ones. TypeError: it is something else, such as storage options alone."""
    if remote is not None and not isinstance(remote, RemoteOptions):
        raise TypeError(
            f"remote must be None or a RemoteOptions; got {type(remote).__name__}: "
            "pass dcfast.index.RemoteOptions(storage_options)"
        )
    return remote or RemoteOptions()


@dataclass
class HttpAnswers:
    """Checks of the answers about one URL, called by aiohttp before a body is read.

    Attributes:
        url: as the user gave it; the answers come from where that was redirected to.
        size: bytes of the object, as the look-up said.
        header_size: by the headers; fsspec takes none of an answer with a Content-Encoding, whatever that is.
        is_version: whether the headers of a range are of the version that the look-up told; others are counted in
        ``doubtful``, as are those that do not say.
    """

    url: str
    size: int = -1
    header_size: int | None = None
    is_version: Callable[[Mapping[str, str]], bool] = lambda headers: False
    doubtful: int = 0

    async def check_look_up(self, response: aiohttp.ClientResponse) -> None:
        """Raises PoolError or OSError where the headers do not tell the size of the bytes that ranges are of."""
        if response.status >= 400:
            return  # fsspec raises it
        headers = response.headers
        problem: Exception | None = None
        if response.status >= 300:
            problem = _answer(f"status {response.status} without a place to go on to", "200 or a redirection")
        elif _encoding(headers):
            problem = PoolError(f"{self.url}: {_encoded(headers)}")
        elif "Content-Length" not in headers and re.search(r"/\d+\s*$", headers.get("Content-Range", "/0")) is None:
            got = headers["Content-Range"]
            problem = PoolError(f"{self.url}: the server does not tell the size (Content-Range: {got}); {_ELSEWHERE}")
        elif "Content-Encoding" in headers and response.status == 200 and headers.get("Content-Length", "").isdecimal():
            self.header_size = int(headers["Content-Length"])
        self._refuse(response, problem)

    async def check_range(self, response: aiohttp.ClientResponse) -> None:
        """Raises PoolError or OSError where an answer is not the range asked for, bytes as they are."""
        requested = _requested_range(response)
        if response.status >= 400 or requested is None:
            return
        first, last = requested
        headers = response.headers
        sent = _UNIT_RANGE.fullmatch(headers.get("Content-Range", ""))
        problem: Exception | None = None
        if _encoding(headers):
            problem = PoolError(f"{self.url}: {_encoded(headers)}")
        elif response.status == 200:
            if first or self.size > last + 1:
                problem = PoolError(no_ranges(self.url))
        elif response.status != 206:
            problem = _answer(f"status {response.status} to a request for bytes {first}-{last}", "206 with these bytes")
        elif sent is None:
            got = headers.get("Content-Range", "none")
            problem = PoolError(
                f"{self.url}: the server does not say which bytes it sent: expected Content-Range "
                f"'bytes {first}-{last}/{self.size}'; got {got!r}; {_ELSEWHERE}"
            )
        elif int(sent[1]) != first or int(sent[2]) > last:
            problem = OSError(
                errno.EIO,
                f"the server sent bytes {sent[1]}-{sent[2]}, asked for {first}-{last}; download the shard",
                self.url,
            )
        elif sent[3] != "*" and int(sent[3]) != self.size:
            both = f"expected {self.size} bytes, as the look-up told; got Content-Range {headers['Content-Range']!r}"
            problem = OtherSizeError(errno.EIO, f"the server tells two sizes: {both}; {_ELSEWHERE}", self.url)
        self.doubtful += not self.is_version(headers)
        self._refuse(response, problem)

    def _refuse(self, response: aiohttp.ClientResponse, problem: Exception | None) -> None:
        if problem is not None:
            response.close()
            raise problem


def _requested_range(response: aiohttp.ClientResponse) -> tuple[int, int] | None:
    """First and last byte that a request asked for; None where it asked for all there is."""
    span = re.fullmatch(r"bytes=(\d+)-(\d+)", response.request_info.headers.get("Range", ""))
    return None if span is None else (int(span[1]), int(span[2]))


def no_ranges(url: str) -> str:
    """What to say of a server that sends whole objects alone."""
    return f"{url}: the server does not answer range requests; {_ELSEWHERE}"


def _answer(got: str, expected: str) -> OSError:
    return OSError(errno.EIO, f"the server answered {got}; expected {expected}; ask it by the URL it should lead to")


def _encoding(headers: Mapping[str, str]) -> str:
    """The encodings that change bytes, or may: all but those known not to."""
    names = [name.strip() for name in headers.get("Content-Encoding", "").split(",")]
    return ", ".join(name for name in names if name.lower() not in _SAME_BYTES)


def _encoded(headers: Mapping[str, str]) -> str:
    return (
        f"expected the bytes as they are; the server sent Content-Encoding {_encoding(headers)!r} although asked for "
        "'identity', and its ranges would be of other bytes; switch compression off for tars there, or download it"
    )


def _s3_limits(seconds: float) -> dict[str, float | dict[str, int]]:
    # no tries of botocore: those of RemoteOptions would multiply them
    return {"connect_timeout": seconds, "read_timeout": seconds, "retries": {"max_attempts": 0}}


def _http_limits(seconds: float) -> dict[str, aiohttp.ClientTimeout | type[aiohttp.ClientResponse]]:
    import aiohttp

    # the total is the deadline of a request: a window of 1 MiB has to come at 3.5 kB a second by default
    timeout = aiohttp.ClientTimeout(total=10 * seconds, sock_connect=seconds, sock_read=seconds)
    return {"timeout": timeout, "response_class": _bounded_response(seconds)}


@cache
def _bounded_response(seconds: float) -> type[aiohttp.ClientResponse]:
    """aiohttp's class of answers, for all requests of a session: at most a byte more than was asked for is read of a
    body, and one that trickles ends.
    """
    import aiohttp

    class BoundedResponse(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            if self._body is None:
                try:
                    self._body = await self._read_bounded()
                except BaseException:
                    self.close()  # of the rest nothing is read
                    raise
            return self._body

        async def text(self, encoding: str | None = None, errors: str = "strict") -> str:
            return soon_searched(await super().text(encoding, errors))

        async def _read_bounded(self) -> bytes:
            requested = _requested_range(self)
            most = requested[1] - requested[0] + 1 if requested else MOST_LISTING_BYTES
            began, parts, size = time.monotonic(), [], 0
            while size <= most and (part := await self.content.read(min(1 << 20, most + 1 - size))):
                parts.append(part)
                size += len(part)
                spent = time.monotonic() - began
                if spent > seconds and size < SLOWEST * spent:
                    raise SlowAnswerError(f"{size} bytes came in {spent:.0f} s")
            if size > most:
                raise OSError(
                    errno.EIO,
                    f"the server sent more than the {most:,} bytes asked for; download the shard",
                    str(self.url),
                )
            return b"".join(parts)

    return BoundedResponse


def soon_searched(page: str) -> str:
    """A page with the same links in it, in which a search for them takes time by its length.

    fsspec's takes hours over a tag of some thousand blanks, or many that do not end, and lets no signal through.
    """
    return _BLANKS.sub(" " * 16, page).replace("<", "><")


def retry_reason(error: BaseException) -> str:
    """What a request waited for in vain; empty of errors that are not about time."""
    names: set[str] = set()
    cause: BaseException | None = error
    while cause is not None and len(names) < 16:
        names.add(type(cause).__name__)
        cause = cause.__cause__
    if "SlowAnswerError" in names:
        return f"an answer of at least {SLOWEST:,} bytes a second"
    if names & {"ConnectionTimeoutError", "ConnectTimeoutError"}:
        return "a connection"
    if names & {"SocketTimeoutError", "ReadTimeoutError"}:
        return "the next bytes of the answer"
    return "the end of the answer" if isinstance(error, TimeoutError) else ""


def explained(error: Exception) -> str:
    """An error of a library in words, shortened; what to do where it does not say."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    name = type(error).__name__
    if name == "TooManyRedirects":
        return "the server redirects without end; expected the shard; ask it by the URL it should lead to"
    if name in _REDIRECTIONS:
        return f"the server redirects to what is no web address: {text}; ask it by the URL it should lead to"
    if any(kind.__name__ == "HttpProcessingError" for kind in type(error.__cause__).__mro__):
        return f"the server's answer is not HTTP: {text}; {_ELSEWHERE}"
    # an OSError tells its own number and file, which stand in the error to come
    return str(error.args[1]) if type(error) is OSError and len(error.args) > 1 else f"{name}: {text}"


def may_pass(error: Exception) -> bool:
    """Whether another try may help."""
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in _PASSING_STATUS
    is_permanent = isinstance(error, _PERMANENT) or lacks_credentials(error)
    return not is_permanent and type(error).__name__ not in _REDIRECTIONS


def lacks_credentials(error: BaseException) -> bool:
    """Whether a library found none to ask with."""
    return bool(_NO_CREDENTIALS & {kind.__name__ for kind in type(error).__mro__})


def is_throttled(error: BaseException) -> bool:
    """Whether the server says that it is asked too much."""
    return status_of(error) in (429, 503) or getattr(error, "errno", None) == errno.EBUSY


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an error of aiohttp, requests or botocore."""
    response = getattr(error, "response", None)
    status = getattr(error, "status", None) or getattr(response, "status_code", None)
    if isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None
