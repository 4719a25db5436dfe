"""Members of shards behind URLs: the bytes of the files, few requests, and every failure with its URL."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import dcfast
import numpy as np
import pytest
from dcfast import access
from dcfast.cli import main
from dcfast.errors import CorruptDataError, MissingDependencyError, PoolError
from dcfast.index.build import index_tars, write_segment
from dcfast.index.pool import Pool
from dcfast.storage import members
from dcfast.storage.http import RemoteOptions
from dcfast.storage.members import MAX_GAP, MAX_RANGE, Piece, stretches
from http_shards import ShardServer, serve
from pool_builder import plain_pool, uid_of

pytest.importorskip("aiohttp", reason="shards behind URLs need dcfast[remote]")

QUICK = RemoteOptions(backoff_s=0.001, timeout_s=20)
NAMES = [f"0000000{n}.tar" for n in range(3)]


def uids(numbers: list[int]) -> Any:
    return dcfast.uid_parse([uid_of(n) for n in numbers])[0]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``pool/shards`` with twelve samples in three shards, and the index of the files."""
    root = tmp_path_factory.mktemp("urls")
    plain_pool(root / "pool", 12, 3).write()
    dcfast.refresh_index(root / "index", root / "pool")
    return root


@pytest.fixture
def server(pool: Path) -> Iterator[ShardServer]:
    """Lists the shards under ``/dir``, and serves them with ETags."""
    page = "".join(f'<a href="{name}">{name}</a>' for name in [*NAMES, "b.tar.gz", "notes.txt"]).encode()
    files = {f"/dir/{name}": (pool / "pool/shards" / name).read_bytes() for name in NAMES}
    tags = {path: f'"{path}"' for path in files}
    with serve(files={**files, "/dir": page, "/dir/": page}, tags=tags) as state:
        yield state


@pytest.fixture
def index(pool: Path, server: ShardServer, tmp_path: Path) -> Path:
    """The index of what is behind the URL."""
    report = dcfast.refresh_index(tmp_path / "index", server.url("/dir"), remote=QUICK)
    assert report["shards"] == 3
    server.asked.clear()
    return tmp_path / "index"


def contents(batch: Any) -> list[dict[str, bytes]]:
    return [{ext: bytes(view) for ext, view in sample.items()} for sample in batch]


def of_files(pool: Path, rows: Any) -> list[dict[str, bytes]]:
    with dcfast.open_pool(pool / "index", pool / "pool") as reader:
        return contents(reader.read(rows))


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("threads", [1, 3])
def test_members_are_those_of_the_files(pool: Path, server: ShardServer, index: Path, threads: int, slash: str) -> None:
    with dcfast.open_pool(index, server.url("/dir") + slash, remote=QUICK) as reader:
        order = np.random.default_rng(0).permutation(np.repeat(np.arange(12), 2))
        rows = reader.row_ids(order)
        batch = reader.read(rows, threads=threads)
        assert contents(batch) == of_files(pool, rows)
        assert not batch.data.flags.writeable
        samples = list(dcfast.iterate_uids(reader, uids([7, 3, 3]), memory_bytes=20_000))
        assert [s.uid for s in samples] == [uid_of(n) for n in (7, 3, 3)]
        assert len(reader.read([], "jpg")) == 0
        absent = reader.read(rows[:2], "nothing", missing_members="none")
        assert list(absent) == [None, None]


def test_neighbours_are_one_request(server: ShardServer, index: Path) -> None:
    with dcfast.open_pool(index, server.url("/dir"), remote=QUICK) as reader:
        reader.read(reader.row_ids(np.arange(12)))
        assert sorted(path for path, _, _ in server.asked) == [f"/dir/{name}" for name in NAMES]
        reader.read(reader.row_ids([0, 1]), "jpg")
        assert len(server.asked) == 4
        assert server.asked[-1][2] < len(server.files["/dir/00000000.tar"])


def test_gaps_and_lengths_of_requests_are_bounded() -> None:
    def ranges(*pieces: tuple[int, int, int]) -> list[tuple[int, int]]:
        return [(s.begin, s.end) for s in stretches([Piece(shard, at, size, 0) for shard, at, size in pieces])]

    assert ranges() == []
    assert ranges((0, 0, 5), (0, 5 + MAX_GAP, 5)) == [(0, 10 + MAX_GAP)]
    assert ranges((0, 0, 5), (0, 6 + MAX_GAP, 5)) == [(0, 5), (6 + MAX_GAP, 11 + MAX_GAP)]
    assert ranges((0, 0, 5), (1, 5, 5)) == [(0, 5), (5, 10)]
    assert ranges((0, 0, MAX_RANGE - 5), (0, MAX_RANGE - 5, 5)) == [(0, MAX_RANGE)]
    assert ranges((0, 0, MAX_RANGE - 5), (0, MAX_RANGE - 5, 6)) == [(0, MAX_RANGE - 5), (MAX_RANGE - 5, MAX_RANGE + 1)]
    assert ranges((0, 0, 50), (0, 10, 5), (0, 60, 5), (0, 0, 50)) == [(0, 65)]  # one inside of another, one twice


def test_long_members_come_in_parts(tmp_path: Path, server: ShardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_RANGE", 1000)
    monkeypatch.setattr(members, "MAX_GAP", 0)
    urls = [server.url(f"/dir/{name}") for name in NAMES]
    tars = index_tars(urls, remote=QUICK)
    server.asked.clear()
    got = access.read_members(tars, np.arange(12), numbering="sample", threads=2)
    rows = access.PoolReader(None, [tars.segment]).row_ids(np.arange(12))
    assert contents(got) == [s for k in range(3) for s in _of_tar(server, k, tmp_path)]
    assert len(rows) == 12
    assert max(sent for _, _, sent in server.asked) <= 1000
    assert len(server.asked) > 3


def _of_tar(server: ShardServer, k: int, tmp_path: Path) -> list[dict[str, bytes]]:
    (tmp_path / NAMES[k]).write_bytes(server.files[f"/dir/{NAMES[k]}"])
    return contents(access.read_members(index_tars(tmp_path / NAMES[k]), np.arange(4), numbering="sample"))


def test_files_and_urls_in_one_index(pool: Path, server: ShardServer, tmp_path: Path) -> None:
    tars = index_tars([pool / "pool/shards" / NAMES[0], server.url(f"/dir/{NAMES[1]}")], remote=QUICK)
    got = contents(access.read_members(tars, [5, 0, 7, 1, 5], numbering="sample"))
    expected = _of_tar(server, 0, tmp_path) + _of_tar(server, 1, tmp_path)
    assert got == [expected[n] for n in (5, 0, 7, 1, 5)]


def test_a_directory_behind_a_url_is_listed(server: ShardServer) -> None:
    tars = index_tars(server.url("/dir/"), remote=QUICK)
    assert len(tars) == 12
    assert tars.damage == []
    assert tars.segment.shard_names == [server.url(f"/dir/{name}") for name in NAMES]
    assert tars.passed_over == [("b.tar.gz", "compressed: unpack it")]
    server.files["/none/"] = server.files["/none"] = b'<a href="b.tar.gz">b</a>'
    with pytest.raises(PoolError, match=r"no \.tar files in directory 'http://.*/none/' \(passed over: b\.tar\.gz"):
        index_tars(server.url("/none/"), remote=QUICK)
    with pytest.raises(FileNotFoundError, match="/nowhere/"):
        index_tars(server.url("/nowhere/"), remote=QUICK)
    with pytest.raises(IsADirectoryError, match=r"is a directory, expected a shard: 'http://.*/dir/'"):
        index_tars([server.url("/dir/")], remote=QUICK)


def test_a_page_is_no_shard(server: ShardServer) -> None:
    page = server.files["/dir"]
    kind = {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(page))}
    server.reply = lambda is_range, begin, end, whole: (200, kind, whole) if whole == page else None
    with pytest.raises(
        PoolError, match=r"/dir: it is a page, expected a shard; the URL of a directory must end in a sl"
    ):
        index_tars(server.url("/dir"), remote=QUICK)
    assert len(index_tars(server.url("/dir/"), remote=QUICK)) == 12


def test_a_server_that_lists_and_does_not_serve(server: ShardServer, index: Path) -> None:
    for path in [p for p in server.files if p.endswith("1.tar")]:
        del server.files[path]
    with dcfast.open_pool(index, server.url("/dir"), remote=QUICK) as reader:
        with pytest.raises(FileNotFoundError, match=r"http://.*/dir/00000001\.tar"):
            reader.read(reader.row_ids([4]), "jpg")
        assert len(reader.read(reader.row_ids([0, 11]), "jpg")) == 2
    with pytest.raises(FileNotFoundError, match=r"http://.*/dir/00000001\.tar"):
        index_tars(server.url("/dir/"), remote=QUICK)


@pytest.mark.parametrize("announce", [True, False])
def test_a_server_without_ranges(server: ShardServer, index: Path, announce: bool) -> None:
    server.ranges, server.announce = False, announce
    match = r"/dir/00000001\.tar: the server does not answer range requests; download"
    with dcfast.open_pool(index, server.url("/dir"), remote=QUICK) as reader, pytest.raises(PoolError, match=match):
        reader.read(reader.row_ids([5]), "jpg")


def test_requests_are_tried_again(server: ShardServer, index: Path) -> None:
    refused: list[int] = []

    def fault(_: ShardServer, offset: int) -> int | None:
        refused.append(offset)
        return 503 if len(refused) < 3 else None

    server.fault = fault
    with dcfast.open_pool(index, server.url("/dir"), remote=QUICK) as reader:
        assert len(reader.read(reader.row_ids([5]), "jpg")) == 1
        assert len(refused) == 3
        server.fault = lambda *_: 503
        with pytest.raises(OSError, match=r"read \d+ bytes at offset \d+: .*after 5 attempts.*/dir/00000002\.tar"):
            reader.read(reader.row_ids([9]), "jpg")


@pytest.mark.parametrize("size", ["same", "other"])
def test_a_shard_replaced_under_the_reader(server: ShardServer, index: Path, size: str) -> None:
    path = "/dir/00000001.tar"
    with dcfast.open_pool(index, server.url("/dir"), remote=QUICK) as reader:
        row = reader.row_ids([5])
        before = contents(reader.read(row))
        server.files[path] = server.files[path][::-1] + (b"" if size == "same" else bytes(512))
        server.tags[path] = '"new"'
        for _ in range(2):  # of the one that is open, and of the one that is looked up anew
            with pytest.raises(CorruptDataError, match=r"/dir/00000001\.tar: the shard has changed") as caught:
                reader.read(row)
            assert caught.value.path == server.url(path)
        assert before


def test_servers_that_tell_no_version_are_asked_again(pool: Path, server: ShardServer, tmp_path: Path) -> None:
    server.tags.clear()
    dcfast.refresh_index(tmp_path / "index", server.url("/dir"), remote=QUICK)
    with dcfast.open_pool(tmp_path / "index", server.url("/dir"), remote=QUICK) as reader:
        rows = reader.row_ids(np.arange(12))
        assert contents(reader.read(rows)) == of_files(pool, rows)


def test_an_index_of_the_files_serves_for_their_copies(pool: Path, server: ShardServer) -> None:
    reader = dcfast.open_pool(pool / "index", server.url("/dir"), remote=QUICK)
    with pytest.raises(CorruptDataError, match=r"or was indexed elsewhere \(check_mtime=False\)"):
        reader.read([0], "jpg")
    with dcfast.open_pool(pool / "index", server.url("/dir"), remote=QUICK, check_mtime=False) as reader:
        assert contents(reader.read([0, 1])) == of_files(pool, [0, 1])


@pytest.mark.parametrize(
    "name", ["../a.tar", "/etc/a.tar", "x/%2e%2e/%2E%2E/a.tar", "http://elsewhere/a.tar", "..\\a.tar"]
)
def test_names_lead_nowhere_else(pool: Path, server: ShardServer, tmp_path: Path, name: str) -> None:
    write_segment([(pool / "pool/shards" / NAMES[0], name)], tmp_path / "s.dcx", sync=False)
    with pytest.raises(CorruptDataError, match="the shard lies outside of its pool"):
        access.PoolReader(server.url("/dir"), [tmp_path / "s.dcx"])


def test_a_range_beyond_the_shard_is_not_asked_for(server: ShardServer, index: Path) -> None:
    with dcfast.open_pool(index, server.url("/dir"), remote=QUICK) as reader:
        assert reader._remote is not None
        size = len(server.files["/dir/00000000.tar"])
        with pytest.raises(CorruptDataError, match=r"/dir/00000000\.tar: the index has a member of 11 bytes that ends"):
            reader._remote.read_into(np.empty(11, np.uint8), [Piece(0, size - 10, 11, 0)])
    assert server.asked == []


def test_without_aiohttp_it_is_said_what_to_install(
    server: ShardServer, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    reader = dcfast.open_pool(index, server.url("/dir"), remote=QUICK)
    with pytest.raises(MissingDependencyError, match=r"00000000\.tar: .*aiohttp.*pip install 'dcfast\[remote\]'"):
        reader.read([0], "jpg")


def first_jpg(reader: access.PoolReader, rows: Any) -> bytes:
    return bytes(reader.read(rows, "jpg")[0])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["fork", "spawn"])
def test_a_reader_that_has_read_goes_to_processes(pool: Path, server: ShardServer, index: Path, kind: str) -> None:
    with dcfast.open_pool(index, server.url("/dir"), remote=QUICK) as reader:
        rows = reader.row_ids([6])
        expected = first_jpg(reader, rows)
        with ProcessPoolExecutor(1, multiprocessing.get_context(kind)) as processes:
            assert processes.submit(first_jpg, reader, rows).result(timeout=100) == expected
        if kind == "fork":  # the reader itself, not a pickle of it
            out, into = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    os.write(into, first_jpg(reader, rows)[:64])
                finally:
                    os._exit(0)
            os.close(into)
            with open(out, "rb") as file:
                assert file.read() == expected[:64]
            os.waitpid(child, 0)
        assert first_jpg(reader, rows) == expected


def test_a_pool_in_a_file_system_of_fsspec(pool: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    try:
        for name in NAMES:
            memory.pipe(f"/dcfast-access/{name}", (pool / "pool/shards" / name).read_bytes())
        dcfast.refresh_index(tmp_path / "index", "memory://dcfast-access")
        with dcfast.open_pool(tmp_path / "index", "memory://dcfast-access") as reader:
            rows = reader.row_ids(np.arange(12))
            assert contents(reader.read(rows)) == of_files(pool, rows)
        assert len(index_tars("memory://dcfast-access/")) == 12
        with pytest.raises(IsADirectoryError, match="is a directory, expected a shard"):
            index_tars("memory://dcfast-access")
    finally:
        memory.rm("/dcfast-access", recursive=True)


def test_a_url_where_files_are_needed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for use in (dcfast.PoolIndex.open, dcfast.open_pool, lambda url: dcfast.refresh_index(url, tmp_path)):
        with pytest.raises(
            PoolError, match="http://h/i: expected a directory with an index, got a URL: copy the index"
        ):
            use("http://h/i")
    with pytest.raises(PoolError, match=r"pool http://h/pool: expected a directory, got a URL; .*: download the pool"):
        Pool.open("http://h/pool")
    argv = ["--out", str(tmp_path / "out"), "--against", str(tmp_path)]
    for command in (["run", "--pool", "http://h/p", *argv[:2]], ["decontaminate", "http://h/p", *argv]):
        assert main(command) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert "error: pool http://h/p: expected a directory, got a URL" in said.err
    assert not (tmp_path / "out").exists()


def test_datasets_of_torch_read_behind_a_url(pool: Path, index: Path, server: ShardServer) -> None:
    pytest.importorskip("torch", reason="datasets of torch need torch")
    keys = sorted(sample.key for sample in dcfast.PoolDataset(pool / "index", pool / "pool"))
    for kind in (dcfast.PoolDataset, dcfast.PoolIterableDataset):
        assert sorted(sample.key for sample in kind(index, server.url("/dir"))) == keys
    with pytest.raises(PoolError, match="expected a directory with an index, got a URL"):
        dcfast.PoolDataset("http://h/i")


WITH_KEY = RemoteOptions({"headers": {"X-Key": "secret"}}, backoff_s=0.001, timeout_s=20)


def test_read_members_takes_the_options_of_a_url(pool: Path, index: Path, server: ShardServer) -> None:
    tars = index_tars([server.url(f"/dir/{name}") for name in NAMES], remote=QUICK)
    assert "X-Key" not in server.headers
    assert len(access.read_members(tars, [5, 0], "jpg", numbering="sample", remote=WITH_KEY)) == 2
    assert server.headers["X-Key"] == "secret"
    server.headers.clear()
    segments = dcfast.open_pool(pool / "index", pool / "pool").segments
    with pytest.raises(CorruptDataError, match="was indexed elsewhere"):  # it has the times of the files
        access.read_members(segments, [0], "jpg", shards_dir=server.url("/dir"), remote=WITH_KEY)
    with dcfast.open_pool(index, server.url("/dir"), remote=QUICK) as reader:
        assert len(access.read_members(reader.segments, [0], shards_dir=server.url("/dir"), remote=WITH_KEY)) == 1
        assert server.headers["X-Key"] == "secret"
        with pytest.raises(ValueError, match=r"^remote must be None beside an open PoolReader.*: pass it to open_pool"):
            access.read_members(reader, [0], "jpg", remote=WITH_KEY)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["PoolDataset", "PoolIterableDataset"])
def test_datasets_take_the_options_of_a_url_to_their_workers(index: Path, server: ShardServer, kind: str) -> None:
    data = pytest.importorskip("torch.utils.data", reason="datasets of torch need torch")
    made = getattr(dcfast, kind)
    dataset = made(index, server.url("/dir"), extensions="txt", remote=WITH_KEY)
    assert len(pickle.dumps(dataset)) < 800 + len(str(index))
    loader = data.DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=100)
    assert server.asked == []
    assert {sample.uid for sample in loader} == {uid_of(n) for n in range(12)}
    assert server.headers["X-Key"] == "secret"
    server.headers.clear()
    assert len(list(pickle.loads(pickle.dumps(dataset)))) == 12
    assert server.headers["X-Key"] == "secret"
    with (
        dcfast.open_pool(index, server.url("/dir"), remote=QUICK) as reader,
        pytest.raises(ValueError, match=r"^remote must be None beside an open PoolReader"),
    ):
        made(reader, remote=WITH_KEY)


def test_options_of_another_kind_are_refused(index: Path, server: ShardServer, tmp_path: Path) -> None:
    storage: Any = {"headers": {"X-Key": "secret"}}
    url, said = server.url("/dir/"), "^remote must be None or a RemoteOptions; got dict: pass"
    for use in (
        lambda: dcfast.open_pool(index, url, remote=storage),
        lambda: index_tars(url, remote=storage),
        lambda: index_tars(url + NAMES[0], remote=storage),
        lambda: dcfast.refresh_index(tmp_path / "new", url, remote=storage),
        lambda: access.read_members(index_tars([]), [], remote=storage),
    ):
        with pytest.raises(TypeError, match=said):
            use()
    assert not (tmp_path / "new").exists()
