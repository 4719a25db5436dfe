"""Every behaviour of the hostile web: where it is, what it answers, and what a downloader should make of it."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable
from email.utils import formatdate
from time import time
from typing import Any

import hostile_bytes as bytes_of
from dns_server import Answer
from hostile_exchange import ALL, JPEG, RETRIED, Behaviour, Exchange, Reply
from hostile_replies import HTML, OK, endless, hops, moves, packed, raw, says, shows, tagged, text

_PICTURE = bytes_of.picture()
_CUT = _PICTURE[: len(_PICTURE) // 2]
_LENGTH = ("Content-Length", str(len(_PICTURE)))
CATALOGUE: dict[str, Behaviour] = {}
#: what the DNS server knows
NAMES: dict[str, Answer | Callable[[int], Answer]] = {
    "*.hostile.test": ["127.0.0.1"],
    "ipv6-only.hostile.test": ["::1"],
    "private-name.hostile.test": ["10.0.0.1"],
    "private-name-ipv6.hostile.test": ["fd00::1"],
    "dns-unknown.hostile.test": "NXDOMAIN",
    "dns-empty.hostile.test": [],
    "dns-fails.hostile.test": "SERVFAIL",
    "dns-silent.hostile.test": "TIMEOUT",
}


def _add(name: str, cause: str, reply: Reply | None = None, attempts: int = 0, **rest: Any) -> None:
    rest["path"] = rest.get("path") or f"/{name}.jpg"
    attempts = attempts or (ALL if cause in RETRIED else 1)
    CATALOGUE[name] = Behaviour(name, cause, attempts, reply=reply, **rest)


def behaviour(cause: str, attempts: int = 0, **rest: Any) -> Callable[[Reply], Reply]:
    """Puts a reply into the catalogue, under its name."""

    def add(reply: Reply) -> Reply:
        _add(reply.__name__, cause, reply, attempts, **rest)
        return reply

    return add


# -- what ends well ---------------------------------------------------------------------------------------------------

for _kind in ("JPEG", "PNG", "WEBP", "GIF"):
    _add(f"good_{_kind.lower()}", "", shows(_kind))
_add("good_octet_stream", "", shows("JPEG", ("Content-Type", "application/octet-stream")))
_add("good_without_type", "", shows("JPEG", ("Cache-Control", "no-cache")))
_add("good_wrong_type", "", shows("PNG", ("Content-Type", "image/jpeg")))
_add("http10", "", raw(b"HTTP/1.0 200 OK\r\nContent-Type: image/jpeg\r\n\r\n", _PICTURE))
_add("early_hints", "", raw(b"HTTP/1.1 103 Early\r\nLink: </a.css>\r\n\r\n" * 3, OK, b"\r\n", _PICTURE))
_add("ipv6_only", "", shows(), needs="ipv6")
_add("host_idn", "", shows(), host="bücher")
_add("path_non_ascii", "", shows(), path="/bücher/図.jpg", target="/b%C3%BCcher/%E5%9B%B3.jpg")
_add("path_spaces", "", shows(), path="/with two spaces.jpg", target="/with%20two%20spaces.jpg")
_add("path_encoded", "", shows(), path="/a%2Fb%20c%25.jpg")
_add("path_fragment", "", shows(), path="/path_fragment.jpg#top")
_add("signed_query", "", shows(), path="/signed.jpg?u=http%3A%2F%2Fa&s=%7Ex%2By+z")


@behaviour("")
async def late(exchange: Exchange) -> None:
    """Answers after a fifth of a second, so that requests at one time can be told."""
    await asyncio.sleep(0.2)
    await exchange.answer(200, _PICTURE)


@behaviour("")
async def chunked(exchange: Exchange) -> None:
    body = _PICTURE
    parts = [body[i : i + 1000] for i in range(0, len(body), 1000)]
    await exchange.answer(200, b"", (*JPEG, ("Transfer-Encoding", "chunked")))
    for part in [*parts, b""]:
        await exchange.write(b"%x;note=1\r\n" % len(part) + part + b"\r\n")


@behaviour("")
async def stale_keep_alive(exchange: Exchange) -> None:
    """Says that the connection stays open, and closes it when it is used again, as servers do that tidy up."""
    if exchange.request.number == 0:
        return await exchange.answer(200, _PICTURE)
    return exchange.close()


@behaviour("")
async def smuggles(exchange: Exchange) -> None:
    """Sends more than its Content-Length: a response that the next request on the connection must not get."""
    await exchange.answer(200, _PICTURE + OK + b"Content-Length: 9\r\n\r\nimpostor!", (*JPEG, _LENGTH))


# -- redirects --------------------------------------------------------------------------------------------------------

_add("redirect_chain", "", hops(3))
_add("redirect_ten", "", hops(10))
_add("redirect_eleven", "redirects", hops(11))
_add("redirect_loop", "redirects", moves("/redirect_loop.jpg"))
for _name, _to, _cause in (
    ("file", "file:///etc/passwd", "redirects"),
    ("ftp", "ftp://files.hostile.test/a.jpg", "redirects"),
    ("data", "data:image/png;base64,AAAA", "redirects"),
    ("bad_location", "http://[::1/a.jpg", "redirects"),
    ("empty_location", "", "redirects"),
    ("private", "http://10.0.0.1/a.jpg", "private_address"),
    ("private_ipv6", "http://[fd00::1]/a.jpg", "private_address"),
    ("private_link_local", "http://169.254.169.254/latest/meta-data", "private_address"),
    ("private_name", "http://private-name.hostile.test/a.jpg", "private_address"),
    ("private_mapped", "http://[::ffff:10.0.0.1]/a.jpg", "private_address"),
    ("loopback_mapped", "http://[::ffff:127.0.0.2]/a.jpg", "private_address"),
    ("unknown_name", "http://dns-unknown.hostile.test/a.jpg", "dns_not_found"),
    ("missing", "/nothing-is-here.jpg", "gone"),
):
    _add(f"redirect_{_name}", _cause, moves(_to))
_odd = ("invalid_url", "dns_not_found", "redirects", "connection")
_add("redirect_private_decimal", "private_address", moves("http://167772161/a.jpg"), also=_odd)
_add("redirect_without_location", "redirects", says(302))
_add("redirect_308", "", moves("/good_png.jpg", 308))
_add("redirect_relative", "", moves("good_png.jpg"))
_add("redirect_non_ascii", "", moves("/bücher/図.jpg"))
_add("redirect_closed", "connection", moves(lambda exchange: exchange.web.at("/a.jpg", port="closed")))
_add("redirect_tls", "tls", moves(lambda exchange: exchange.web.at("/good_png.jpg", port="tls", scheme="https")))


@behaviour("")
async def redirect_to(exchange: Exchange) -> None:
    """Leads to a picture at the host that ``?to=`` names."""
    host = exchange.request.query.get("to", "files.hostile.test")
    await exchange.redirect(f"{exchange.web.at('/good_png.jpg', host)}?{exchange.request.target.partition('?')[2]}")


@behaviour("")
async def redirect_cookie(exchange: Exchange) -> None:
    """Shows the picture to whoever brings the cookie that the way to it set; sends others there."""
    if exchange.request.query.get("gate"):
        return await exchange.redirect(exchange.request.path, 302, [("Set-Cookie", "gate=open; Path=/")])
    if "gate=open" in exchange.request.headers.get("cookie", ""):
        return await exchange.answer(200, _PICTURE)
    return await exchange.redirect(f"{exchange.request.path}?gate=1")


# -- statuses ---------------------------------------------------------------------------------------------------------

for _status, _cause in {400: "gone", 404: "gone", 410: "gone", 451: "gone", 401: "refused", 403: "refused"}.items():
    _add(f"status_{_status}", _cause, says(_status, b"<html>", [("Content-Type", "text/html")]))
for _status in (500, 502, 503, 504):
    _add(f"status_{_status}", "server_error", says(_status))
_add("status_407", "refused", says(407, headers=[("Proxy-Authenticate", "Basic")]))
_add("status_999", "refused", says(999), also=("gone", "server_error", "connection"))
_add("status_204", "not_image", says(204, b"", ()), also=("gone", "undecodable", "connection"))
_add("status_500_twice", "", says(500, times=2), 3)
_add("throttled_once", "", says(429, headers=[("Retry-After", "1")], times=1), 2)
_add("throttled_for_ever", "throttled", says(429))
_add("throttled_nonsense", "throttled", says(429, headers=[("Retry-After", "soon")]))
_add("throttled_negative", "", says(429, headers=[("Retry-After", "-5")], times=1), 2)
_add("throttled_an_hour", "throttled", says(429, headers=[("Retry-After", "3600")]), 1)
_add("throttled_a_million_years", "throttled", says(429, headers=[("Retry-After", "9" * 400)]), 1)
_add("unavailable_once", "", says(503, headers=[("Retry-After", "0")], times=1), 2)
_add("unavailable_an_hour", "throttled", says(503, headers=[("Retry-After", "3600")]), 1)


@behaviour("", 2)
async def throttled_date(exchange: Exchange) -> None:
    """Says 429 once, with a date of a second from now."""
    await says(429, headers=[("Retry-After", formatdate(time() + 1, usegmt=True))], times=1)(exchange)


# -- connections and HTTP ---------------------------------------------------------------------------------------------


@behaviour("connection")
async def reset_before(exchange: Exchange) -> None:
    exchange.reset()


@behaviour("connection")
async def reset_middle(exchange: Exchange) -> None:
    await exchange.answer(200, _PICTURE[:2000], (*JPEG, _LENGTH))
    exchange.reset()


@behaviour("timeout", also=("too_slow",))
async def silent(exchange: Exchange) -> None:
    await exchange.wait()


@behaviour("timeout", also=("too_slow",))
async def slow_headers(exchange: Exchange) -> None:
    await exchange.trickle(OK * 10000)


@behaviour("too_slow", also=("timeout",))
async def one_byte_a_second(exchange: Exchange) -> None:
    await exchange.write(OK + b"\r\n")
    await exchange.trickle(_PICTURE)


@behaviour("too_slow", also=("timeout",))
async def stalls_in_the_middle(exchange: Exchange) -> None:
    await exchange.answer(200, _PICTURE[:2000], (*JPEG, _LENGTH))
    await exchange.wait()


@behaviour("timeout", also=("connection",))
async def early_hints_for_ever(exchange: Exchange) -> None:
    while True:
        await exchange.write(b"HTTP/1.1 103 Early\r\nLink: </a.css>\r\n\r\n")
        await asyncio.sleep(exchange.web.drip_s / 100)


_add("reason_no_text", "gone", raw(b"HTTP/1.1 404 Fort \xff\xfe\r\nContent-Length: 0\r\n\r\n"))
_add("type_no_text", "not_image", raw(b"HTTP/1.1 200 OK\r\nContent-Type: audio/\xff\r\n\r\n", _PICTURE))
_add("close_before", "connection", raw())
_add("length_too_long", "connection", raw(OK, b"Content-Length: 99999\r\n\r\n", _PICTURE))
_add("length_negative", "connection", raw(OK, b"Content-Length: -5\r\n\r\n", _PICTURE))
_add("length_twice", "connection", raw(OK, b"Content-Length: 5\r\nContent-Length: 9999\r\n\r\n", _PICTURE))
_add("chunk_bad_size", "connection", raw(OK, b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", _PICTURE))
_add("chunk_cut", "connection", raw(OK, b"Transfer-Encoding: chunked\r\n\r\nfff0\r\n", _PICTURE))
_add("chunk_huge", "connection", raw(OK, b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n", _PICTURE))
_add("headers_10000", "connection", raw(OK, b"".join(b"X-%d: 1\r\n" % i for i in range(10000)), b"\r\n", _PICTURE))
_add("header_1mb", "connection", raw(OK, b"X-Long: " + b"a" * (1 << 20) + b"\r\n\r\n", _PICTURE))
_add("header_nul", "connection", raw(OK, b"X-Nul: a\x00b\r\n\r\n", _PICTURE), also=("",))
_add("not_http", "connection", raw(b"SSH-2.0-OpenSSH_9.6\r\n"))
_add("status_nonsense", "connection", raw(b"HTTP/1.1 twenty OK\r\n\r\n", _PICTURE))
_add("closed_port", "connection", port="closed")
_add("mute_port", "timeout", port="mute", also=("too_slow",))
_add("full_port", "timeout", port="full")
_add("tls_self_signed", "tls", shows(), scheme="https", port="tls")
_add("tls_of_plain_http", "tls", scheme="https", also=("connection",))
_add("tls_mute", "timeout", scheme="https", port="mute", also=("tls",))
_add("plain_http_of_tls", "connection", port="tls")


# -- names and addresses ----------------------------------------------------------------------------------------------

_add("dns_unknown", "dns_not_found")
_add("dns_empty", "dns_not_found")
_add("dns_fails", "dns_temporary")
_add("dns_silent", "dns_temporary")
_add("private_name", "private_address")
_add("private_name_ipv6", "private_address")


# -- bodies -----------------------------------------------------------------------------------------------------------

_add("endless", "too_large", endless("image/jpeg", bytes_of.JPEG_MAGIC))
_add("body_1gb", "too_large", endless("image/jpeg", bytes_of.JPEG_MAGIC, 1 << 30, length=True))
_add("body_1gb_no_length", "too_large", endless("image/jpeg", bytes_of.JPEG_MAGIC, 1 << 30))
_add("audio", "not_image", endless("audio/mpeg", b"ID3\x04"))
_add("gzip_good", "", packed("gzip", lambda: gzip.compress(_PICTURE)))
_add("deflate_good", "", packed("deflate", lambda: zlib.compress(_PICTURE)))
_add("gzip_bomb", "too_large", packed("gzip", bytes_of.gzip_bomb))
_add("deflate_bomb", "too_large", packed("deflate", bytes_of.deflate_bomb))
_add("gzip_15mb", "too_large", packed("gzip", bytes_of.gzip_zeros), also=("undecodable",))
_add("gzip_twice", "not_image", packed("gzip, gzip", lambda: gzip.compress(gzip.compress(_PICTURE))), also=("",))
_add("gzip_broken", "connection", packed("gzip", lambda: _PICTURE), also=("undecodable", "not_image"))
_add("gzip_cut", "connection", packed("gzip", lambda: gzip.compress(_PICTURE)[:-1000]), also=("undecodable", ""))
_add("coding_unknown", "not_image", packed("x-own", lambda: b"\x01" + _PICTURE), also=("connection", "undecodable"))
_add("coding_brotli", "connection", packed("br", lambda: b"\x01" + _PICTURE), also=("not_image", "undecodable"))
_add("png_bomb", "too_many_pixels", says(200, bytes_of.png_bomb(), [("Content-Type", "image/png")]))
_add("many_scans", "undecodable", packed("identity", bytes_of.many_scans), also=("too_many_pixels",))
_add("jpeg_cut", "undecodable", says(200, _CUT), also=("",))
_add(
    "length_too_short",
    "undecodable",
    raw(OK, b"Content-Length: %d\r\n\r\n" % len(_CUT), _PICTURE),
    also=("", "connection"),
)
_add("jpeg_head_alone", "undecodable", says(200, bytes_of.JPEG_MAGIC), also=("not_image",))
_add("html_as_jpeg", "not_image", says(200, HTML))
_add("html", "not_image", says(200, HTML, [("Content-Type", "text/html; charset=utf-8")]))
_add("svg", "not_image", says(200, b"<svg xmlns='http://www.w3.org/2000/svg'/>", [("Content-Type", "image/svg+xml")]))
_add("empty", "not_image", says(200), also=("undecodable",))


# -- opt-outs and robots.txt ------------------------------------------------------------------------------------------

for _tag in ("noai", "noimageai", "noindex", "noimageindex"):
    _add(f"opt_out_{_tag}", "opt_out", tagged(_tag))
_add("opt_out_upper_case", "opt_out", tagged("NOFOLLOW , NoAI"))
_add("opt_out_second_header", "opt_out", tagged("otherbot: noindex", "noai"))
_add("opt_out_after_a_date", "opt_out", tagged("unavailable_after: 25 Jun 2030 15:00:00 PST, noai"))
_add("opt_out_endless", "opt_out", endless("image/jpeg\r\nX-Robots-Tag: noai", bytes_of.JPEG_MAGIC))
_add("allowed_until", "", tagged("unavailable_after: 25 Jun 2030 15:00:00 PST"))
_add("allowed_other_agent", "", tagged("otherbot: noindex"))
_add("allowed_other_agent_list", "", tagged("otherbot: noindex, noai"))
_add("allowed_other_words", "", tagged("noarchive, nofollow, max-image-preview: large"))


def _robots(name: str, cause: str, reply: Reply, **rest: Any) -> None:
    """A good picture at a host whose robots.txt is this reply."""
    _add(f"robots_{name}", cause, shows(), 1, needs="robots", robots=reply, **rest)


_DISALLOW = "User-agent: *\nDisallow: /robots_disallow\nDisallow: /robots_moved\n"
_robots("disallow", "robots", text(_DISALLOW))
_robots("allow", "", text("User-agent: *\nDisallow: /private/\n"))
_robots("other_agent", "", text("User-agent: otherbot\nDisallow: /\n"))
_robots("500", "robots_unreachable", text("", 500))
_robots("403", "", text("", 403))
_robots("html", "", text(HTML.decode(), kind="text/html"))
_robots("bytes", "", says(200, bytes(range(256)) * 40))
_robots("moved", "robots", moves("/moved/robots.txt"))
_robots("loop", "", moves("/robots.txt"), also=("robots_unreachable",))
_robots("file", "", moves("file:///etc/passwd"), also=("robots_unreachable",))
_robots("private", "", moves("http://10.0.0.1/robots.txt"), also=("robots_unreachable", "private_address"))
_robots("endless", "", endless("text/plain", b"User-agent: *\nDisallow: /private/\n"), also=("robots_unreachable",))
_robots("silent", "robots_unreachable", silent, also=("timeout",))
_robots("reset", "robots_unreachable", reset_before, also=("connection",))
_to_disallowed = moves(lambda exchange: exchange.web.url("robots_disallow"))
_add("robots_of_redirect", "robots", _to_disallowed, needs="robots", also=("",))
_add("moved_robots", "not_image", text(_DISALLOW), path="/moved/robots.txt", needs="robots")
