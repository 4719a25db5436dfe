"""The proxies of the environment; the .netrc, which has passwords, is never looked at."""

from __future__ import annotations

from urllib.request import getproxies

SCHEMES = ("http", "https")


def proxies() -> dict[str, str]:
    """Scheme of a URL -> the proxy that is asked for it, as ``http_proxy``, ``https_proxy`` and ``all_proxy`` say.

    ValueError: a proxy is of a kind that is not spoken here, SOCKS say.
    """
    given, found = getproxies(), {}
    for scheme in SCHEMES:
        name = scheme if given.get(scheme) else "all"
        url = given.get(name, "")
        if not url:
            continue
        kind, _, rest = url.rpartition("://")
        if kind not in ("", *SCHEMES):
            raise ValueError(f"{name}_proxy is {kind}://; expected a proxy of http, or none: unset it")
        found[scheme] = f"{kind or 'http'}://{rest}"
    return found


def proxy_names() -> frozenset[str]:
    """The hosts of ``proxies``, whose names may stand for private addresses: for what goes through them alone."""
    from yarl import URL

    return frozenset(URL(url).raw_host or "" for url in proxies().values())
