"""URLs of a stranger's list: quoted as servers want them, and never to an address that is not of the public net."""

from __future__ import annotations

import pytest
from dcfast.acquire.addresses import Allowed, host_of, is_public, parse_url, refuse_literal
from dcfast.acquire.causes import FetchError
from dcfast.acquire.options import nameservers_of
from dcfast.acquire.resolver import _servers


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("http://a.de/x y.jpg", "http://a.de/x%20y.jpg"),
        ("http://bücher.example/ä.jpg?q=ö&x=%20", "http://xn--bcher-kva.example/%C3%A4.jpg?q=%C3%B6&x=%20"),
        ("HTTPS://A.de:8443/%7Eme/a%2Fb", "https://a.de:8443/%7Eme/a%2Fb"),  # quoted already: not touched
        ("http://a.de", "http://a.de/"),
        ("http://a.de/a#part", "http://a.de/a"),
        (" http://a.de/\n\tx ", "http://a.de/x"),
        ("http://a.de/./b/../c/x", "http://a.de/c/x"),  # as servers take it, and robots.txt
        ("http://a.de/../%2E%2e/b/%2e/x", "http://a.de/b/x"),
        ("http://a.de/b/..", "http://a.de/"),
        ("http://a.de/b/c/.?q=/../x", "http://a.de/b/c/?q=/../x"),
        ("http://a.de/.b/..c/...//x", "http://a.de/.b/..c/...//x"),
        ("http://[2001:db8::1]:81/a", "http://[2001:db8::1]:81/a"),
        ("http://name:secret@a.de/a", "http://a.de/a"),
    ],
)
def test_a_url_is_quoted_once(given: str, asked: str) -> None:
    assert str(parse_url(given)) == asked


@pytest.mark.parametrize(
    "given",
    [
        *(None, "", "  ", "a.de/x", "//a.de/x", "ftp://a.de/x", "file:///etc/passwd", "data:image/png;base64,"),
        *("http:///x", "http://a.de:99999/", "http://exa mple/x", "http://[::1/", f"http://{'a' * 300}.de/"),
        f"http://a.de/{'x' * 20_000}",
    ],
)
def test_what_is_no_url_is_said(given: str | None) -> None:
    with pytest.raises(FetchError) as raised:
        parse_url(given)
    assert raised.value.cause == "invalid_url"
    assert host_of(given) == ""


def test_rows_take_turns_by_host_and_port() -> None:
    assert host_of("http://u:p@A.de:81/x") == "a.de:81"
    assert host_of("https://a.de/y") == "a.de"


PRIVATE = [
    *("10.0.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("240.0.0.1", "198.18.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::1", "64:ff9b::7f00:1", "::7f00:1"),
    *("ff02::1", "2001:db8::1", "2001:0:4136:e378:8000:63bf:f5ff:fffe", "no address", ""),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_none_of_the_net(address: str) -> None:
    assert not is_public(address)


PUBLIC = ["8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808", "::ffff:8.8.8.8", "2002:808:808::"]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_one_is(address: str) -> None:
    assert is_public(address)


def test_only_literals_are_refused_before_a_lookup() -> None:
    refuse_literal(parse_url("http://a.de/"), Allowed())
    refuse_literal(parse_url("http://8.8.8.8/"), Allowed())
    for host in ("10.0.0.1", "[::1]", "[::ffff:10.0.0.1]"):
        refuse_literal(parse_url(f"http://{host}/"), Allowed(["any"]))
        with pytest.raises(FetchError) as raised:
            refuse_literal(parse_url(f"http://{host}/"), Allowed())
        assert raised.value.cause == "private_address"


def test_networks_that_are_named_may_be_asked_and_no_others() -> None:
    allowed = Allowed(["10.1.0.0/16", "::1"])
    assert [address in allowed for address in ("10.1.2.3", "10.2.0.1", "::1", "::2", "8.8.8.8", "x")] == [
        *(True, False, True, False, True, False)
    ]
    with pytest.raises(ValueError, match=r"--allow-private takes networks .*10\.1\.0\.0/99"):
        Allowed(["10.1.0.0/99"])


def test_name_servers_have_ports_or_none() -> None:
    words = ["1.1.1.1", "[::1]:53", "9.9.9.9:53", "::1", "[::2]"]
    assert nameservers_of(words) == words
    assert _servers(words) == (["1.1.1.1", "::1", "9.9.9.9", "::1", "::2"], 53)
    for word in ("a.b", "", "1.1.1.1:0", "[::1]:99999", "1.1.1.1:"):
        with pytest.raises(ValueError, match="--nameservers"):
            nameservers_of([word])
