"""URLs of a stranger's list: made such that they can be asked for, and which addresses they may not lead to."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import quote, urlsplit, urlunsplit

from yarl import URL

from dcfast.acquire.causes import FetchError

SCHEMES = ("http", "https")
MOST_URL_BYTES = 16_384
_SAFE = "%/:=&?~#+!$,;'@()*[]|"
"""What stands in a URL as it is: it may be quoted already, and servers take some of these for what they are."""
_PLAIN = re.compile(
    r"https?://[a-z0-9.-]+(?::(?:[1-9]\d{0,3}|[1-5]\d{4}))?/[\w%/:=&~+!$,;'@()*|.-]*(?:\?[\w%/:=&?~+!$,;'@()*|.-]+)?",
    re.ASCII,
)
"""A URL that is asked for as it stands, as most are: nothing to quote, to lower or to leave out."""
_ENDS = "".join(map(chr, range(33)))
_BROKEN_LINES = re.compile(r"[\t\r\n]")
"""What browsers leave out of a URL, as do we; other control characters are quoted in a path, and make no host."""
_HOST = re.compile(r"(?!\.|.*\.\.)[a-z0-9._:-]{1,253}", re.IGNORECASE)
_DOTS = re.compile(r"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_NUMBER = re.compile(r"(?:^|\.)(?:\d+|0x[0-9a-f]*)\.?$", re.IGNORECASE)
"""The end of what no name may be: 127.1 and 0x7f000001, say, which a proxy would take for an address."""
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_SITE_LOCAL = ipaddress.ip_network("fec0::/10")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_url(text: str | None) -> URL:
    """A URL as it is asked for: quoted where it has to be (UTF-8), its host in the form of the DNS.

    FetchError (invalid_url): there is none, or none of http or https, or no host.
    """
    text = _BROKEN_LINES.sub("", (text or "").strip(_ENDS))
    if not text:
        raise FetchError("invalid_url", "no URL")
    if len(text.encode("utf-8", "surrogatepass")) > MOST_URL_BYTES:
        raise FetchError("invalid_url", f"a URL of more than {MOST_URL_BYTES:,} bytes")
    url = URL(text, encoded=True) if _PLAIN.fullmatch(text) and not _DOTS.search(text) else _quoted(text)
    host = url.raw_host or ""
    if not _HOST.fullmatch(host):
        raise FetchError("invalid_url", "a URL without a host, or whose host has no name that the DNS knows")
    if _NUMBER.search(host) and _address(host) is None:
        raise FetchError("invalid_url", "its host is an address in a form that only libraries of C read")
    return url


def _quoted(text: str) -> URL:
    try:
        parts = urlsplit(text)
        if parts.scheme.lower() not in SCHEMES:
            raise FetchError("invalid_url", f"<urlopen error unknown url type: {parts.scheme[:20]}>")
        path, query = (quote(part, safe=_SAFE, errors="replace") for part in (parts.path, parts.query))
        host = parts.hostname or ""
        if not host.isascii():
            host = URL.build(scheme="http", host=host).raw_host or ""
        port = f":{parts.port}" if parts.port is not None else ""
        place = f"[{host}]{port}" if ":" in host else f"{host}{port}"
        return URL(urlunsplit((parts.scheme.lower(), place, _without_dots(path), query, "")), encoded=True)
    except (ValueError, UnicodeError) as error:
        raise FetchError("invalid_url", f"no URL: {error}"[:200]) from None


def _without_dots(path: str) -> str:
    """A path without its segments ``.`` and ``..``: servers take them out, and robots.txt speaks of what is left."""
    if not _DOTS.search(path):
        return path or "/"
    kept: list[str] = []
    last = ""
    for segment in path.split("/")[1:]:
        last = segment.lower().replace("%2e", ".")
        if last == "..":
            del kept[-1:]
        elif last != ".":
            kept.append(segment)
    return "/" + "/".join([*kept, ""] if last in (".", "..") and kept else kept)


@lru_cache(4096)
def _address(text: str) -> Address | None:
    """An IP address, its zone aside; None for what is none."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def is_public(address: str) -> bool:
    """Whether an IP address is of the public net: neither private, local, reserved, nor such a one in IPv6's clothes.

    False for what is no address.
    """
    parsed = _address(address)
    return parsed is not None and _is_public(parsed)


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and (any(address in net for net in _NAT64) or int(address) >> 32 == 0):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
        if address in _SITE_LOCAL:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


class Allowed:
    """The addresses that may be asked: those of the public net, and networks that are named.

    Args:
        networks: ``10.1.0.0/16``, ``fd00::/8``, one address, or ``any``.
    Raises ValueError: one is none of these.
    """

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._any = "any" in networks
        try:
            self._networks = [ipaddress.ip_network(text) for text in networks if text != "any"]
        except ValueError as error:
            raise ValueError(f"--allow-private takes networks (10.1.0.0/16), addresses, or any: {error}") from None

    def __contains__(self, address: str) -> bool:
        if self._any or is_public(address):
            return True
        parsed = _address(address)
        if parsed is None:
            return False
        return any(parsed in network for network in self._networks if network.version == parsed.version)


def refuse_literal(url: URL, allowed: Allowed) -> None:
    """FetchError (private_address) where a URL's host is written as an address that may not be asked."""
    host = url.raw_host or ""
    if _address(host) is not None and host not in allowed:  # of a name the resolver looks at what it stands for
        raise FetchError("private_address", f"{host} is not a public address", final_url=str(url))


def place_of(url: URL) -> str:
    """Host and port of a URL, by which rows take turns."""
    return url.raw_authority.rpartition("@")[2]


def host_of(text: str | None) -> str:
    """``place_of`` a list's URL; empty where it is none."""
    try:
        return place_of(parse_url(text))
    except FetchError:
        return ""
