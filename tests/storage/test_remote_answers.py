"""Servers that hang, trickle, redirect or lie: a typed error with URL, expected, got and what to do, and no index."""

from __future__ import annotations

import gzip
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dcfast.errors import PoolError
from dcfast.index.build import index_tars
from dcfast.storage.http import RemoteOptions
from dcfast.storage.ranges import RemoteShard
from dcfast.storage.remote import _modified_ns, remote_state
from http_shards import ShardServer, serve
from tar_reference import make_tar, sample_members

pytest.importorskip("aiohttp", reason="shards behind URLs need dcfast[remote]")

QUICK = RemoteOptions(backoff_s=0.001)
#: seconds that a busy machine may take for a time-out of tenths; without our limits it would be 300 and more
A_WHILE = 60


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ShardServer]:
    make_tar(tmp_path / "a.tar", [m for i in range(60) for m in sample_members(i, 6000)])
    with serve(files={"/a.tar": (tmp_path / "a.tar").read_bytes()}) as state:
        yield state


def answer(url: str, options: RemoteOptions = QUICK) -> Exception:
    with pytest.raises((PoolError, OSError)) as caught:
        index_tars(url, remote=options)
    assert url in str(caught.value)
    return caught.value


# servers that do not answer


def test_a_server_that_never_answers_a_look_up(server: ShardServer) -> None:
    server.hang = lambda ranged: not ranged
    begin = time.monotonic()
    error = answer(server.url("/a.tar"), RemoteOptions(retries=1, backoff_s=0.001, timeout_s=0.1))
    assert 0.4 <= time.monotonic() - begin < A_WHILE  # HEAD and GET, each twice
    assert isinstance(error, TimeoutError)
    assert error.filename == server.url("/a.tar")
    for words in ("look up: waited for the next bytes of the answer", "after 2 attempts", "timeout_s=0.1", "raise it"):
        assert words in str(error)


def test_a_server_that_never_answers_a_read(server: ShardServer) -> None:
    server.hang = lambda ranged: ranged
    begin = time.monotonic()
    error = answer(server.url("/a.tar"), RemoteOptions(retries=2, backoff_s=0.001, timeout_s=0.1))
    assert 0.3 <= time.monotonic() - begin < A_WHILE
    assert isinstance(error, TimeoutError)
    assert "read 65536 bytes at offset 0: waited for the next bytes of the answer" in str(error)
    assert "after 3 attempts" in str(error)


def test_a_server_that_hangs_once_is_asked_again(server: ShardServer) -> None:
    asked: list[bool] = []

    def hang(ranged: bool) -> bool:
        asked.append(ranged)
        return asked.count(True) == 1 and ranged

    server.hang = hang
    index = index_tars(server.url("/a.tar"), remote=RemoteOptions(backoff_s=0.001, timeout_s=0.2))
    assert (len(index), index.damage) == (60, [])


def test_a_slow_answer_is_read_to_its_end(server: ShardServer) -> None:
    server.pieces, server.pause_s = 12, 0.2  # a window takes 2.4 s
    shard = RemoteShard(server.url("/a.tar"), RemoteOptions(retries=0, timeout_s=1.5))
    shard.open()
    assert shard.read(512, 100_000) == server.files["/a.tar"][512:100_512]


def test_an_answer_that_trickles_is_ended(server: ShardServer) -> None:
    server.pieces, server.pause_s = 65_536, 0.02
    begin = time.monotonic()
    error = answer(server.url("/a.tar"), RemoteOptions(retries=0, timeout_s=0.3))
    assert 0.3 < time.monotonic() - begin < A_WHILE
    assert isinstance(error, TimeoutError)
    assert "waited for an answer of at least 1,024 bytes a second until the limit" in str(error)
    assert "the limit is timeout_s=0.3" in str(error)


def test_s3_that_never_answers() -> None:
    """Neither botocore nor s3fs multiply the tries."""
    pytest.importorskip("s3fs")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(listening.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        storage = {"endpoint_url": f"http://127.0.0.1:{listening.getsockname()[1]}", "key": "k", "secret": "s"}
        begin = time.monotonic()
        error = answer("s3://pool/a.tar", RemoteOptions(storage, retries=1, backoff_s=0.001, timeout_s=0.1))
        assert time.monotonic() - begin < A_WHILE
        listening.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()
    assert isinstance(error, TimeoutError)
    assert len(held) == 2
    assert "look up: waited for the next bytes of the answer until the limit (after 2 attempts)" in str(error)


def test_limits_of_the_storage_options_stay() -> None:
    import aiohttp

    own = aiohttp.ClientTimeout(total=7)
    for url, options in (
        ("http://h/a", {"client_kwargs": {"timeout": own, "trust_env": True}}),
        ("simplecache::http://h/a", {"http": {"client_kwargs": {"timeout": own}}}),
    ):
        before = repr(options)
        merged = RemoteOptions(options, timeout_s=30).limited(url)
        assert merged.get("http", merged)["client_kwargs"]["timeout"] is own
        assert repr(options) == before
    limits = RemoteOptions(timeout_s=30).limited("https://h/a")["client_kwargs"]["timeout"]
    assert (limits.total, limits.sock_connect, limits.sock_read) == (300, 30, 30)
    options = {"s3": {"anon": True, "config_kwargs": {"read_timeout": 1}}}
    config = RemoteOptions(options, timeout_s=30).limited("simplecache::s3://b/a")["s3"]
    assert config["anon"]
    assert (config["config_kwargs"]["connect_timeout"], config["config_kwargs"]["read_timeout"]) == (30, 1)
    assert RemoteOptions({"x": 1}).limited("memory://a") == {"x": 1}


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_timeout_is_a_number_above_zero(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout_s must be a number of seconds above 0; got"):
        RemoteOptions(timeout_s=timeout)


# servers that answer something else


@pytest.mark.parametrize("how", ["look-up", "range"])
@pytest.mark.parametrize("body", ["compressed", "as it is", "cut"])
def test_encoded_answers_are_refused(server: ShardServer, how: str, body: str) -> None:
    def reply(ranged: bool, begin: int, end: int, data: bytes) -> tuple[int, dict[str, str], bytes] | None:
        if ranged is (how == "look-up"):
            return None
        if not ranged:
            return 200, {"Content-Encoding": "gzip"}, data
        part = data[begin:end]
        headers = {"Content-Encoding": "gzip", "Content-Range": f"bytes {begin}-{begin + len(part) - 1}/{len(data)}"}
        sent = {
            "compressed": gzip.compress(part),
            "as it is": part,
            "cut": gzip.compress(data)[:end],
        }
        return 206, headers, sent[body]

    server.reply = reply
    error = answer(server.url("/a.tar"))
    assert isinstance(error, PoolError)
    assert "the server sent Content-Encoding 'gzip' although asked for 'identity'" in str(error)
    assert "switch compression off" in str(error)


@pytest.mark.parametrize("label", ["aws-chunked", "UTF-8", "none", "identity, binary", ""])
def test_labels_of_bytes_as_they_are(server: ShardServer, label: str) -> None:
    def reply(ranged: bool, begin: int, end: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
        if not ranged:
            return 200, {"Content-Encoding": label}, data
        part = data[begin:end]
        place = f"bytes {begin}-{begin + len(part) - 1}/{len(data)}"
        return 206, {"Content-Encoding": label, "Content-Range": place}, part

    server.reply = reply
    index = index_tars(server.url("/a.tar"), remote=QUICK)
    assert (len(index), index.damage) == (60, [])


def test_labels_that_are_not_known_are_refused(server: ShardServer) -> None:
    server.reply = lambda ranged, begin, end, data: (200, {"Content-Encoding": "identity, x-rot13"}, data)
    assert "the server sent Content-Encoding 'x-rot13' although asked for" in str(answer(server.url("/a.tar")))


@pytest.mark.parametrize("how", ["look-up", "range"])
def test_redirections_that_lead_nowhere(server: ShardServer, how: str) -> None:
    tries = 0
    for place, expected in (
        ("/a.tar", "the server redirects without end; expected the shard"),
        ("ftp://127.0.0.1/a.tar", "redirects to what is no web address: ftp://127.0.0.1/a.tar"),
        ("http://[", "redirects to what is no web address: http://["),
        ("", "the server answered status 302"),
    ):

        def reply(ranged: bool, *_: object, place: str = place) -> tuple[int, dict[str, str], bytes] | None:
            nonlocal tries
            tries += 1
            return (302, {"Location": place}, b"") if ranged is (how == "range") else None

        server.reply = reply
        error = answer(server.url("/a.tar"), RemoteOptions(backoff_s=0.001, retries=1))
        assert isinstance(error, OSError)
        assert expected in str(error)
        assert "ask it by the URL it should lead to" in str(error)
    assert tries < 60  # a loop is not gone round again


@pytest.mark.parametrize("length", ["-5", "abc", "1" + "0" * 30, "1e5", "+7", "7, 7", str(1 << 63)])
def test_lengths_that_are_no_number_of_bytes(server: ShardServer, length: str) -> None:
    server.reply = lambda ranged, *_: None if ranged else (200, {"Content-Length": length}, b"")
    error = answer(server.url("/a.tar"))
    assert "download the shard" in str(error) or "expected a size of 0 to 2^63 - 1 bytes; the server tells" in str(
        error
    )
    assert length in str(error)


@pytest.mark.parametrize("told", ["*", "bytes */*", "x"])
def test_a_size_that_is_not_told(server: ShardServer, told: str) -> None:
    headers = {"Content-Length": "", "Content-Range": told}
    server.reply = lambda ranged, *_: None if ranged else (200, headers, b"")
    error = answer(server.url("/a.tar"))
    assert isinstance(error, PoolError)
    assert "the server does not tell the size" in str(error)
    assert told in str(error)


@pytest.mark.parametrize("more", [-512, 10_240, 1 << 62])
def test_two_sizes_are_never_taken_for_one(server: ShardServer, more: int) -> None:
    """A look-up that tells too little would cut the index short, at a whole sample without a word."""
    told = str(len(server.files["/a.tar"]) + more)
    server.reply = lambda ranged, *_: None if ranged else (200, {"Content-Length": told}, b"")
    error = answer(server.url("/a.tar"))
    assert isinstance(error, PoolError)
    assert re.search(rf"tells two sizes: expected {told} bytes.*; got Content-Range 'bytes 0-65535/\d+'", str(error))


@pytest.mark.parametrize(
    ("status", "named", "expected"),
    [
        (206, None, "expected Content-Range 'bytes 0-65535/"),
        (206, "bytes x-y/z", "got 'bytes x-y/z'"),
        (200, None, "does not answer range requests"),
        (204, None, "status 204 to a request for bytes 0-65535; expected 206"),
    ],
)
def test_answers_that_do_not_say_what_they_are(
    server: ShardServer, status: int, named: str | None, expected: str
) -> None:
    """Always the beginning of the shard, of the length asked for: it was indexed in place of what comes after."""

    def reply(ranged: bool, begin: int, end: int, data: bytes) -> tuple[int, dict[str, str], bytes] | None:
        body = data[: min(end, len(data)) - begin] if status != 204 else b""
        return (status, {"Content-Range": named} if named else {}, body) if ranged else None

    server.reply = reply
    assert expected in str(answer(server.url("/a.tar"), RemoteOptions(backoff_s=0.001, retries=1)))


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1_445_412_480_000_000_000),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 0),
        ("Mon, 01 Jan 1601 00:00:00 GMT", 0),
        ("Mon, 01 Jan 99999999999999999 00:00:00 GMT", 0),
        ("yesterday", 0),
    ],
)
def test_times_that_are_none(server: ShardServer, told: str, expected: int) -> None:
    server.reply = lambda ranged, begin, end, data: None if ranged else (200, {"Last-Modified": told}, data)
    assert remote_state(server.url("/a.tar"), QUICK).modified_ns == expected
    assert index_tars(server.url("/a.tar"), remote=QUICK).segment.shard_mtimes_ns.tolist() == [expected]


@pytest.mark.parametrize("told", [float("nan"), float("inf"), 1e300, 10**40, -5, "0001-01-01T00:00:00", True])
def test_times_of_file_systems_that_are_none(told: object) -> None:
    assert _modified_ns({"mtime": told}) == 0
    assert _modified_ns({"mtime": 1.5, "created": told}) == 1_500_000_000


def test_a_small_shard_sent_whole_is_read(tmp_path: Path, server: ShardServer) -> None:
    make_tar(tmp_path / "b.tar", sample_members(1, 100))
    server.files["/a.tar"] = (tmp_path / "b.tar").read_bytes()
    server.reply = lambda ranged, begin, end, data: (200, {}, data) if ranged else None
    index = index_tars(server.url("/a.tar"), remote=QUICK)
    assert (len(index), index.damage) == (1, [])


def test_the_state_of_a_hanging_server(server: ShardServer) -> None:
    server.hang = lambda ranged: True
    with pytest.raises(TimeoutError, match="look up: waited for"):
        remote_state(server.url("/a.tar"), RemoteOptions(retries=0, timeout_s=0.05))
