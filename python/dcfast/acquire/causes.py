"""Why an image was not got: a cause for each row that failed, what kind of cause it is, and whether asking again helps.

Where img2dataset has a text for it (``error_message``), it is that one, so that tools that count them go on.
"""

from __future__ import annotations

from typing import NamedTuple

SUCCESS, FAILED_DOWNLOAD, FAILED_RESIZE = "success", "failed_to_download", "failed_to_resize"
"""``status`` of a row, as img2dataset has it."""


class Cause(NamedTuple):
    """Attributes:
    status: of the row.   again: whether another attempt is made at once.
    later: whether ``--retry`` on another day may help.   words: for people.
    """

    status: str
    again: bool
    later: bool
    words: str


CAUSES: dict[str, Cause] = {
    "gone": Cause(FAILED_DOWNLOAD, False, False, "the server says that it is not there (404, 410, other 4xx)"),
    "refused": Cause(FAILED_DOWNLOAD, False, True, "the server refuses (401, 403)"),
    "throttled": Cause(FAILED_DOWNLOAD, True, True, "the server asks for patience (429, 503)"),
    "server_error": Cause(FAILED_DOWNLOAD, True, True, "the server fails (5xx)"),
    "dns_temporary": Cause(FAILED_DOWNLOAD, True, True, "the resolver does not answer"),
    "dns_not_found": Cause(FAILED_DOWNLOAD, False, False, "there is no host of that name"),
    "timeout": Cause(FAILED_DOWNLOAD, True, True, "no answer within the deadline"),
    "too_slow": Cause(FAILED_DOWNLOAD, True, True, "fewer bytes a second than the floor"),
    "connection": Cause(FAILED_DOWNLOAD, True, True, "the connection failed, was reset, or spoke no HTTP"),
    "tls": Cause(FAILED_DOWNLOAD, False, True, "certificate or handshake is no good"),
    "host_down": Cause(FAILED_DOWNLOAD, False, True, "not asked: its host failed many times in a row"),
    "redirects": Cause(FAILED_DOWNLOAD, False, False, "redirected in a loop, too often, or to no URL"),
    "invalid_url": Cause(FAILED_DOWNLOAD, False, False, "no http(s) URL"),
    "bad_row": Cause(FAILED_DOWNLOAD, False, False, "its row of the list has texts or boxes without end"),
    "private_address": Cause(FAILED_DOWNLOAD, False, False, "leads to a private address (--allow-private)"),
    "robots": Cause(FAILED_DOWNLOAD, False, False, "robots.txt disallows it"),
    "robots_unreachable": Cause(FAILED_DOWNLOAD, False, True, "robots.txt cannot be had (5xx)"),
    "opt_out": Cause(FAILED_DOWNLOAD, False, False, "X-Robots-Tag opts out"),
    "not_image": Cause(FAILED_DOWNLOAD, False, False, "by its type or first bytes no image"),
    "too_large": Cause(FAILED_DOWNLOAD, False, False, "more bytes than --max-bytes"),
    "hash_mismatch": Cause(FAILED_DOWNLOAD, False, False, "another SHA-256 than the list has (--verify-sha256)"),
    "unforeseen": Cause(FAILED_DOWNLOAD, False, True, "an error that dcfast did not foresee: its message says which"),
    "undecodable": Cause(FAILED_RESIZE, False, False, "cannot be decoded"),
    "too_many_pixels": Cause(
        FAILED_RESIZE, False, False, "more pixels than --max-pixels, or than are decoded of its kind"
    ),
    "by_rule": Cause(FAILED_RESIZE, False, False, "too small, too large, or too long and thin, by the options"),
    "bad_boxes": Cause(FAILED_RESIZE, False, False, "its face boxes are no boxes, so that nothing could be blurred"),
}
"""Every cause there is, in the order in which tables list them."""

RETRIED_BY_DEFAULT = tuple(name for name, cause in CAUSES.items() if cause.later)
"""What ``--retry later`` stands for."""
REDIRECTS = frozenset((301, 302, 303, 307, 308))


def cause_of_status(status: int, *, asks_for_patience: bool) -> str:
    """Which cause an HTTP status is that brings no image; ``asks_for_patience``: it came with ``Retry-After``."""
    if status in (401, 403, 407) or status >= 600:  # as some answer whom they take for a machine
        return "refused"
    if status == 429 or (status == 503 and asks_for_patience):
        return "throttled"
    if status >= 500 or status in (408, 425):
        return "server_error"
    return "redirects" if status in REDIRECTS else "gone"


class FetchError(Exception):
    """An attempt to get an image failed.

    Attributes:
        cause: one of ``CAUSES``.   message: of ``error_message``.   http_status: 0 where there was no answer.
        final_url: where redirects had led.   retry_after: seconds that the server asks for, None where it says nothing.
    """

    def __init__(
        self, cause: str, message: str, *, http_status: int = 0, final_url: str = "", retry_after: float | None = None
    ) -> None:
        message = message.encode("utf-8", "backslashreplace").decode()  # servers put any bytes into their headers
        super().__init__(message)
        self.cause = cause
        self.message = message
        self.http_status = http_status
        self.final_url = final_url
        self.retry_after = retry_after

    def fresh(self) -> FetchError:
        """The same without a traceback: one that is raised for many rows would grow by each."""
        return FetchError(
            self.cause,
            self.message,
            http_status=self.http_status,
            final_url=self.final_url,
            retry_after=self.retry_after,
        )
