"""Shards behind URLs: the same index as of the local file, few requests, and every failure with URL and offset."""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dcfast import open_pool, read_members, refresh_index
from dcfast._core import index as core_index
from dcfast.errors import CorruptDataError, MissingDependencyError, PoolError
from dcfast.index.build import index_tars, write_segment
from dcfast.index.segments import Segment
from dcfast.storage.http import RemoteOptions
from dcfast.storage.paths import is_url
from dcfast.storage.remote import RemoteState, remote_state
from http_shards import ShardServer, serve
from tar_reference import make_tar, our_groups, sample_members

pytest.importorskip("aiohttp", reason="shards behind URLs need dcfast[remote]")

QUICK = RemoteOptions(backoff_s=0.001)
SMALL = RemoteOptions(backoff_s=0.001, window_bytes=1 << 16)


@pytest.fixture
def server() -> Iterator[ShardServer]:
    with serve() as state:
        yield state


def tar_of(path: Path, samples: int, size: int, format: str = "pax") -> bytes:
    members = [m for i in range(samples) for m in sample_members(i, size)]
    make_tar(path, members, format, mtime=1.5 if format == "pax" else 1)
    return path.read_bytes()


def columns(path: Path) -> dict[str, bytes]:
    """The bytes of a segment's sections, but for names and times of the shards."""
    data = path.read_bytes()
    out = {}
    for k in range(struct.unpack_from("<I", data, 12)[0]):
        name, offset, size, _ = struct.unpack_from("<24sQQQ", data, 64 + 48 * k)
        out[name.rstrip(b"\0").decode()] = data[offset : offset + size]
    for recorded in ("shard_names", "shard_name_begin", "shard_mtime_ns"):
        del out[recorded]
    return out


@pytest.mark.parametrize("format", ["pax", "gnu"])
@pytest.mark.parametrize(("samples", "size"), [(0, 0), (1, 0), (7, 100), (211, 3000), (5, 200_000), (3, 65_536 - 512)])
def test_same_segment_as_of_the_file(tmp_path: Path, server: ShardServer, format: str, samples: int, size: int) -> None:
    server.files["/a.tar"] = tar_of(tmp_path / "a.tar", samples, size, format)
    write_segment([(tmp_path / "a.tar", "a.tar")], tmp_path / "local")
    for name, options in (("small", SMALL), ("large", QUICK)):
        stats = write_segment([(server.url("/a.tar"), "a.tar")], tmp_path / name, remote=options)
        assert [report for report in stats.reports if report[2]] == []
        assert columns(tmp_path / name) == columns(tmp_path / "local")
    if not samples:
        return
    # the time is the only difference: with it equal, so is every byte
    os.utime(tmp_path / "a.tar", ns=(0, 0))
    write_segment([(tmp_path / "a.tar", "a.tar")], tmp_path / "local")
    assert (tmp_path / "small").read_bytes() == (tmp_path / "local").read_bytes()


def test_damage_of_a_remote_shard_is_that_of_the_file(tmp_path: Path, server: ShardServer) -> None:
    data = tar_of(tmp_path / "a.tar", 20, 3000)
    for name, cut in {
        "cut": data[:40_000],
        "foreign": b"\x1f\x8b" + data,
        "empty": b"",
        "noise": bytes(range(256)) * 9,
    }.items():
        (tmp_path / "a.tar").write_bytes(cut)
        server.files[f"/{name}.tar"] = cut
        local, remote = index_tars(tmp_path / "a.tar"), index_tars(server.url(f"/{name}.tar"), remote=QUICK)
        assert remote.damage == local.damage != [], name
        assert our_groups(remote.segment) == our_groups(local.segment)


def test_few_requests_while_headers_are_near(tmp_path: Path, server: ShardServer) -> None:
    data = server.files["/a.tar"] = tar_of(tmp_path / "a.tar", 200, 20_000)
    assert len(index_tars(server.url("/a.tar"), remote=QUICK)) == 200
    # windows of 64 KiB, 256 KiB, then 1 MiB; the gaps between them are not read
    assert len(server.asked) <= 3 + len(data) // (1 << 20)
    assert server.sent <= len(data)
    offsets = [offset for _, offset, _ in server.asked]
    assert offsets == sorted(set(offsets))


def test_headers_of_requests(tmp_path: Path, server: ShardServer) -> None:
    """Those of the user are sent, and none that lets a server answer with compressed bytes."""
    server.files["/a.tar"] = tar_of(tmp_path / "a.tar", 2, 10)
    options = RemoteOptions({"headers": {"X-Token": "t"}}, backoff_s=0.001)
    assert len(index_tars(server.url("/a.tar"), remote=options)) == 2
    assert (server.headers["X-Token"], server.headers["Accept-Encoding"]) == ("t", "identity")


def test_large_payloads_are_not_fetched(tmp_path: Path, server: ShardServer) -> None:
    data = server.files["/a.tar"] = tar_of(tmp_path / "a.tar", 6, 3 << 20)
    assert len(index_tars(server.url("/a.tar"), remote=QUICK)) == 6
    assert server.sent < len(data) // 8
    assert len(server.asked) <= 3 * 6 + 2


def test_large_json_is_read_whole(tmp_path: Path, server: ShardServer) -> None:
    json_text = b'{"caption": "' + b"x" * 3_000_000 + b'", "uid": "' + b"ab" * 16 + b'"}'
    make_tar(tmp_path / "a.tar", [("a.jpg", b"1"), ("a.json", json_text), ("b.txt", b"t")])
    server.files["/a.tar"] = (tmp_path / "a.tar").read_bytes()
    index = index_tars(server.url("/a.tar"), remote=SMALL)
    assert index.samples()["uid"].to_pylist() == ["ab" * 16, None]


def test_many_urls_on_threads_and_beside_files(tmp_path: Path, server: ShardServer) -> None:
    sources: list[tuple[Any, str]] = []
    for k in range(6):
        data = tar_of(tmp_path / f"{k}.tar", 30 + k, 2000)
        server.files[f"/{k}.tar"] = data
        os.utime(tmp_path / f"{k}.tar", ns=(0, 0))
        sources.append((server.url(f"/{k}.tar") if k % 2 else tmp_path / f"{k}.tar", f"{k}.tar"))
    write_segment([(tmp_path / name, name) for _, name in sources], tmp_path / "local")
    for threads in (1, 4):
        write_segment(sources, tmp_path / "mixed", threads, remote=SMALL)
        assert (tmp_path / "mixed").read_bytes() == (tmp_path / "local").read_bytes()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_passing_errors_are_tried_again(tmp_path: Path, server: ShardServer, status: int) -> None:
    server.files["/a.tar"] = tar_of(tmp_path / "a.tar", 50, 3000)
    left: dict[int, int] = {}

    def fault(_: ShardServer, offset: int) -> int | None:
        left[offset] = left.get(offset, 2) - 1
        return status if left[offset] >= 0 else None

    server.fault = fault
    assert len(index_tars(server.url("/a.tar"), remote=QUICK)) == 50


def test_errors_that_stay_name_url_and_offset(tmp_path: Path, server: ShardServer) -> None:
    server.files["/a.tar"] = tar_of(tmp_path / "a.tar", 100, 3000)
    tries = 0

    def fault(_: ShardServer, offset: int) -> int | None:
        nonlocal tries
        tries += offset > 0
        return 503 if offset else None

    server.fault = fault
    with pytest.raises(OSError, match=r"read \d+ bytes at offset \d+: .*503.*after 3 attempts") as caught:
        write_segment([(server.url("/a.tar"), "a")], tmp_path / "s", remote=RemoteOptions(retries=2, backoff_s=0.001))
    assert caught.value.filename == server.url("/a.tar")
    assert tries == 3
    assert not (tmp_path / "s").exists()


def test_errors_that_cannot_pass_are_not_tried_again(server: ShardServer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        index_tars(server.url("/none.tar"), remote=QUICK)
    assert missing.value.filename == server.url("/none.tar")
    server.files["/a.tar"] = tar_of(tmp_path / "a.tar", 3, 100)
    server.fault = lambda _, offset: 403
    with pytest.raises(PermissionError, match="403"):
        index_tars(server.url("/a.tar"), remote=QUICK)
    with pytest.raises(PoolError, match=r"nosuch://x: .*nosuch"):
        index_tars("nosuch://x")


def test_answers_cut_short_are_errors(tmp_path: Path, server: ShardServer) -> None:
    server.files["/a.tar"] = tar_of(tmp_path / "a.tar", 30, 3000)
    server.cut = 1000
    with pytest.raises(OSError, match=r"read 65536 bytes at offset 0: .*after 3 attempts"):
        index_tars(server.url("/a.tar"), remote=RemoteOptions(retries=2, backoff_s=0.001))


@pytest.mark.parametrize(("shift", "longer"), [(512, 0), (-512, 0), (0, 512)])
def test_another_range_than_asked_for_is_an_error(tmp_path: Path, server: ShardServer, shift: int, longer: int) -> None:
    server.files["/a.tar"] = tar_of(tmp_path / "a.tar", 100, 3000)
    server.wrong = lambda begin, end: (begin + shift, end + shift + longer) if begin else (begin, end)
    with pytest.raises(OSError, match=r"read \d+ bytes at offset \d+: .*the server sent bytes \d+-\d+, asked for \d+-"):
        index_tars(server.url("/a.tar"), remote=QUICK)


@pytest.mark.parametrize("status", [503, 403, 404])
def test_failed_look_ups_are_what_the_server_said(tmp_path: Path, server: ShardServer, status: int) -> None:
    server.files["/a.tar"] = tar_of(tmp_path / "a.tar", 10, 30)
    server.look_ups = [status, status]  # HEAD, then GET: fsspec tries both
    if status == 503:  # passes
        assert index_tars(server.url("/a.tar"), remote=QUICK).segment.num_samples == 10
        return
    with pytest.raises({403: PermissionError, 404: FileNotFoundError}[status], match=f"look up: .*{status}"):
        index_tars(server.url("/a.tar"), remote=QUICK)


@pytest.mark.parametrize("announce", [True, False])
def test_server_without_ranges(tmp_path: Path, announce: bool) -> None:
    with serve(ranges=False, announce=announce) as server:
        server.files["/a.tar"] = tar_of(tmp_path / "a.tar", 100, 3000)
        url = server.url("/a.tar")
        with pytest.raises(PoolError, match=re.escape(url) + ": the server does not answer range requests; download"):
            index_tars(url, remote=QUICK)


@pytest.mark.parametrize("what", ["etag", "size"])
def test_shard_replaced_while_it_is_read(tmp_path: Path, server: ShardServer, what: str) -> None:
    first, second = tar_of(tmp_path / "a.tar", 100, 3000), tar_of(tmp_path / "b.tar", 100, 3000)
    server.files["/a.tar"] = first
    if what == "etag":
        server.tags["/a.tar"] = '"1"'

    def fault(state: ShardServer, offset: int) -> int | None:
        if offset:
            state.files["/a.tar"] = second if what == "etag" else first[:-512]
            state.tags.update({"/a.tar": '"2"'} if what == "etag" else {})
        return None

    server.fault = fault
    stats = write_segment([(server.url("/a.tar"), "a")], tmp_path / "s", remote=QUICK)
    assert "replaced while it was indexed" in stats.reports[-1][3]
    assert Segment.open(tmp_path / "s").shard_damage[-1].shard == 0


def test_shard_cut_to_less_than_was_opened(tmp_path: Path, server: ShardServer) -> None:
    data = server.files["/a.tar"] = tar_of(tmp_path / "a.tar", 100, 3000)

    def fault(state: ShardServer, offset: int) -> int | None:
        state.files["/a.tar"] = data if offset == 0 else data[: offset + 700]
        return None

    server.fault = fault
    index = index_tars(server.url("/a.tar"), remote=QUICK)
    assert "replaced while it was indexed" in index.damage[-1].message


def test_state_and_freshness(tmp_path: Path, server: ShardServer) -> None:
    server.files["/a.tar"] = tar_of(tmp_path / "a.tar", 2, 10)
    url = server.url("/a.tar")
    assert remote_state(url) == RemoteState(len(server.files["/a.tar"]), "", 0)
    server.tags["/a.tar"] = '"one"'
    segment = index_tars(url, remote=QUICK).segment
    stored = int(segment.shard_mtimes_ns[0])
    assert stored == RemoteState(0, '"one"', 5).stored_mtime_ns < 0
    assert stored != RemoteState(0, '"two"', 5).stored_mtime_ns
    assert RemoteState(0, "", 5).stored_mtime_ns == 5
    assert segment.check_fresh() == []
    server.tags["/a.tar"] = '"two"'
    assert segment.check_fresh() == [(0, "changed")]
    del server.files["/a.tar"]
    assert segment.check_fresh() == [(0, "vanished")]


@pytest.mark.parametrize("headers", [{}, {"ETag": '"two"'}, {"Last-Modified": "Thu, 01 Jan 1970 00:00:06 GMT"}])
def test_versions_are_told_by_headers(headers: dict[str, str]) -> None:
    time = {"Last-Modified": "Thu, 01 Jan 1970 00:00:05 GMT"}
    tag = {"ETag": '"one"'}
    states = (RemoteState(9, '"one"', 5 * 10**9), RemoteState(9, '"one"', 0), RemoteState(9, "", 5 * 10**9))
    for state, own in zip(states, ({**tag, **time}, tag, time), strict=True):
        assert state.is_told_by(own)
        assert not state.is_told_by(headers)
        assert not state.is_told_by({**own, **headers}) or not headers
    assert not RemoteState(9, "", 0).is_told_by({})


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingDependencyError, match=r"http://h/a\.tar: reading URLs needs fsspec: pip install"):
        index_tars("http://h/a.tar")


def test_what_is_a_url(tmp_path: Path) -> None:
    assert all(map(is_url, ["http://a/b.tar", "s3://b/k", "simplecache::s3://b/k", "memory://x"]))
    assert not any(map(is_url, ["/a/b.tar", "a:b.tar", "a//b", "", str(tmp_path)]))
    for bad in ({"window_bytes": 1000}, {"retries": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must"):
            RemoteOptions(**bad)


def test_other_file_systems(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    data = tar_of(tmp_path / "a.tar", 40, 5000)
    memory = fsspec.filesystem("memory")
    memory.pipe("/dcfast-test/a.tar", data)
    try:
        urls = ["memory://dcfast-test/a.tar", f"file://{tmp_path}/a.tar"]
        local = index_tars(tmp_path / "a.tar").samples().drop(["shard"])
        for url in urls:
            index = index_tars(url)
            assert index.samples().drop(["shard"]).equals(local)
            assert set(index.samples()["shard"].to_pylist()) == {url}
    finally:
        memory.rm("/dcfast-test", recursive=True)


def test_real_archives(tmp_path: Path, server: ShardServer, real_data: Path) -> None:
    """Odd dialects, damage and all: through ranges of 64 KiB as from the file."""
    tars = [path for path in sorted((real_data / "tars").rglob("*")) if path.is_file() and path.suffix == ".tar"]
    tars += [real_data / "cc12m-train-0000.tar", *sorted((real_data / "pool" / "shards").glob("*.tar"))[:1]]
    server.files |= {f"/{number}": path.read_bytes() for number, path in enumerate(tars)}
    names = [path.name for path in tars]
    write_segment(list(zip(tars, names, strict=True)), tmp_path / "local")
    urls = [server.url(f"/{number}") for number in range(len(tars))]
    write_segment(list(zip(urls, names, strict=True)), tmp_path / "remote", 4, remote=SMALL)
    assert columns(tmp_path / "remote") == columns(tmp_path / "local")


@pytest.mark.long
def test_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        options = RemoteOptions({"endpoint_url": endpoint, "skip_instance_cache": True}, backoff_s=0.001)
        fs = s3fs.S3FileSystem(endpoint_url=endpoint, skip_instance_cache=True)
        fs.mkdir("pool")
        data = tar_of(tmp_path / "a.tar", 120, 4000)
        fs.pipe("pool/shards/a.tar", data)
        write_segment([(tmp_path / "a.tar", "a.tar")], tmp_path / "local")
        write_segment([("s3://pool/shards/a.tar", "a.tar")], tmp_path / "s3", remote=options)
        assert columns(tmp_path / "s3") == columns(tmp_path / "local")
        state = remote_state("s3://pool/shards/a.tar", options)
        assert state.size == len(data)
        assert state.etag
        assert state.modified_ns > 0
        assert Segment.open(tmp_path / "s3").shard_mtimes_ns.tolist() == [state.stored_mtime_ns]
        with pytest.raises(FileNotFoundError, match=re.escape("s3://pool/shards/none.tar")):
            index_tars("s3://pool/shards/none.tar", remote=options)
        _refreshed_from_s3(fs, options, tmp_path)
        _members_of_s3(fs, options, tmp_path)
        _replaced_in_s3(fs, options, data)
    finally:
        server.stop()


def _refreshed_from_s3(fs: Any, options: RemoteOptions, tmp_path: Path) -> None:
    """A pool in a bucket: only what changed is read, and the files are those of a fresh index."""
    tars = {f"{k:08d}.tar": tar_of(tmp_path / "t.tar", 2 + k, 300) for k in range(3)}
    fs.pipe({f"pool/many/{name}": data for name, data in tars.items()})
    fs.pipe("pool/many/notes.txt", b"-")
    first = refresh_index(tmp_path / "index", "s3://pool/many", remote=options)
    assert (first["indexed"], first["samples"]) == (sorted(tars), 9)
    assert refresh_index(tmp_path / "index", "s3://pool/many/", remote=options)["indexed"] == []
    fs.pipe("pool/many/00000001.tar", tar_of(tmp_path / "t.tar", 3, 301))
    fs.rm("pool/many/00000000.tar")
    again = refresh_index(tmp_path / "index", "s3://pool/many", remote=options)
    assert (again["indexed"], again["removed"], again["reused"]) == (["00000001.tar"], ["00000000.tar"], 1)
    refresh_index(tmp_path / "fresh", "s3://pool/many", remote=options)
    for name in ("segment-00000.dcx", "segment-00001.dcx", "pool.npy", "index.json"):
        assert (tmp_path / "index" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
    with pytest.raises(FileNotFoundError, match="s3://pool/none"):
        refresh_index(tmp_path / "index", "s3://pool/none", remote=options)


def test_pool_whose_listing_tells_no_versions(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    try:
        memory.pipe("/dcfast-pool/b.tar", tar_of(tmp_path / "b.tar", 4, 10))
        report = refresh_index(tmp_path / "index", "memory://dcfast-pool")
        assert (report["indexed"], report["rows"]) == (["b.tar"], 4)
        memory.rm("/dcfast-pool/b.tar")
        memory.pipe("/dcfast-pool/notes", b"")
        with pytest.raises(PoolError, match=r"the listing has no \.tar file"):
            refresh_index(tmp_path / "index", "memory://dcfast-pool")
    finally:
        memory.rm("/dcfast-pool", recursive=True)


def _members_of_s3(fs: Any, options: RemoteOptions, tmp_path: Path) -> None:
    """Members are read as from the files, and none of an object that is not the indexed one."""
    refresh_index(tmp_path / "of-s3", "s3://pool/shards", remote=options)
    local = read_members(index_tars(tmp_path / "a.tar"), [7, 0, 7], numbering="sample")
    with open_pool(tmp_path / "of-s3", "s3://pool/shards", remote=options) as reader:
        assert [dict(sample) for sample in reader.read([7, 0, 7])] == [dict(sample) for sample in local]
        fs.pipe("pool/shards/a.tar", (tmp_path / "a.tar").read_bytes()[::-1])
        for _ in range(2):  # of the one that was looked up, and anew
            with pytest.raises(CorruptDataError, match=r"s3://pool/shards/a\.tar: the shard has changed"):
                reader.read([9])
    fs.pipe("pool/shards/a.tar", (tmp_path / "a.tar").read_bytes())


def _replaced_in_s3(fs: Any, options: RemoteOptions, data: bytes) -> None:
    """An object that is written anew between two reads is not read as a mixture."""
    from dcfast.storage.ranges import RemoteShard

    shard = RemoteShard("s3://pool/shards/a.tar", options)
    assert shard.open()[0] == len(data)
    assert shard.read(0, 1000) == data[:1000]
    fs.pipe("pool/shards/a.tar", data[::-1])
    assert shard.read(1000, 1000) is None
    assert shard.read(0, 10) is None
    assert "replaced" in shard.finish()


def test_exceptions_of_a_source_pass_through_the_core(tmp_path: Path) -> None:
    class Broken:
        def open(self) -> tuple[int, int]:
            return 1 << 20, 0

        def read(self, offset: int, length: int) -> bytes:
            raise KeyError(offset)

        def finish(self) -> str:
            return ""

    class Long(Broken):
        def read(self, offset: int, length: int) -> bytes:
            return bytes(length + 1)

    for source, error in ((Broken(), KeyError), (Long(), ValueError)):
        with pytest.raises(error):
            core_index.write_segment([(source, b"a")] * 9, os.fsencode(tmp_path / "s"), True, True, 4, 1 << 20)
