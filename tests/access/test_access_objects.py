"""Members from an object server: the wanted bytes alone, many requests at a time, a cache, servers that misbehave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dcfast
import numpy as np
import pytest
from dcfast.errors import CorruptDataError, PoolError
from dcfast.storage.http import RemoteOptions
from dcfast.storage.members import MAX_GAP, MOST_UNWANTED, SMALL_MEMBER, Piece, stretches
from object_server import ObjectServer, serve_objects
from pool_builder import PoolBuilder, Sample

pytest.importorskip("aiohttp", reason="shards behind URLs need dcfast[remote]")

QUICK = RemoteOptions(retries=2, backoff_s=0.001, timeout_s=20)
COUNT = 90


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``pool/shards``: three shards of thirty samples whose pictures are no pictures, of 30 to 60 kB."""
    root = tmp_path_factory.mktemp("objects")
    drawn = np.random.default_rng(0)
    samples = [Sample(n, jpg=drawn.bytes(int(drawn.integers(30_000, 60_000)))) for n in range(COUNT)]
    PoolBuilder(root / "pool", [samples[i : i + 30] for i in range(0, COUNT, 30)]).write()
    dcfast.refresh_index(root / "local", root / "pool")
    return root


@pytest.fixture
def server(pool: Path) -> Iterator[ObjectServer]:
    with serve_objects(pool / "pool") as state:
        yield state


@pytest.fixture
def index(server: ObjectServer, tmp_path: Path) -> Path:
    dcfast.refresh_index(tmp_path / "index", server.url("/shards"), remote=QUICK)
    server.forget()
    return tmp_path / "index"


def contents(batch: Any) -> list[dict[str, bytes]]:
    return [{ext: bytes(view) for ext, view in sample.items()} for sample in batch]


def of_files(pool: Path, rows: Any, exts: Any = None) -> list[dict[str, bytes]]:
    with dcfast.open_pool(pool / "local", pool / "pool") as reader:
        return contents(reader.read(rows, exts))


def test_little_more_is_read_than_is_wanted(pool: Path, server: ObjectServer, index: Path) -> None:
    with dcfast.open_pool(index, server.url("/shards"), remote=QUICK) as reader:
        rows = reader.row_ids(np.random.default_rng(1).permutation(COUNT)[: COUNT * 3 // 10])
        batch = reader.read(rows, ["jpg", "txt"])
        assert contents(batch) == of_files(pool, rows, ["jpg", "txt"])
        assert len(batch.data) <= server.sent <= (1 + MOST_UNWANTED) * len(batch.data)
        assert len(server.asked) <= len(rows)  # picture and text of a sample together, and some neighbours
        assert sorted(server.look_ups) == [f"/shards/0000000{k}.tar" for k in range(3)]  # each once


def test_many_requests_are_under_way(server: ObjectServer, index: Path) -> None:
    server.delay_s = 0.05
    some = RemoteOptions(retries=0, timeout_s=20, requests=8)
    with dcfast.open_pool(index, server.url("/shards"), remote=some) as reader:
        reader.read(reader.row_ids(np.arange(0, COUNT, 3)), ["jpg"], threads=1)
    assert server.most_in_flight == 8


def test_gaps_are_read_over_while_they_are_few_bytes() -> None:
    def ranges(*pieces: tuple[int, int]) -> list[tuple[int, int]]:
        return [(s.begin, s.end) for s in stretches([Piece(0, at, size, 0) for at, size in pieces])]

    size = 10 * SMALL_MEMBER
    assert ranges((0, size), (size + 1000, size)) == [(0, 2 * size + 1000)]
    assert ranges((0, size), (size + MAX_GAP, size)) == [(0, size), (size + MAX_GAP, 2 * size + MAX_GAP)]
    # the smallest first, as long as there is something left of the twentieth
    near, far = size // 20, size // 8
    three = ranges((0, size), (size + far, size), (2 * size + far + near, size))
    assert three == [(0, size), (size + far, 3 * size + far + near)]
    assert ranges((0, size), (0, size), (size + far, 10)) == [(0, size), (size + far, size + far + 10)]
    small = ranges((0, 10), (MAX_GAP, 10), (2 * MAX_GAP, 10))
    assert small == [(0, 2 * MAX_GAP + 10)]


def with_cache(folder: Path, **options: Any) -> RemoteOptions:
    return RemoteOptions(retries=0, backoff_s=0.001, timeout_s=20, cache_dir=str(folder), **options)


def test_the_second_reading_is_from_the_cache(pool: Path, server: ObjectServer, index: Path, tmp_path: Path) -> None:
    rows = np.arange(0, 30, 2)
    for turn in range(2):
        with dcfast.open_pool(index, server.url("/shards"), remote=with_cache(tmp_path / "cache")) as reader:
            assert contents(reader.read(reader.row_ids(rows))) == of_files(pool, reader.row_ids(rows))
        assert (len(server.asked) > 0, len(server.look_ups) > 0) == (turn == 0, turn == 0)
        server.forget()
    for path in sorted((tmp_path / "cache").rglob("*"))[:40]:
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    with dcfast.open_pool(index, server.url("/shards"), remote=with_cache(tmp_path / "cache")) as reader:
        assert contents(reader.read(reader.row_ids(rows))) == of_files(pool, reader.row_ids(rows))
    assert server.asked


def test_the_cache_is_of_one_version(server: ObjectServer, index: Path, tmp_path: Path, pool: Path) -> None:
    options = with_cache(tmp_path / "cache")
    with dcfast.open_pool(index, server.url("/shards"), remote=options) as reader:
        reader.read(reader.row_ids([0]))
    server.tags["/shards/00000000.tar"] = '"anew"'
    dcfast.refresh_index(tmp_path / "index", server.url("/shards"), remote=QUICK)
    server.forget()
    with dcfast.open_pool(tmp_path / "index", server.url("/shards"), remote=options) as reader:
        assert contents(reader.read(reader.row_ids([0]))) == of_files(pool, reader.row_ids([0]))
    assert server.asked


def test_nothing_that_changed_meanwhile_is_kept(server: ObjectServer, index: Path, tmp_path: Path) -> None:
    server.fault = lambda path, span: "etag" if span else ""
    with dcfast.open_pool(index, server.url("/shards"), remote=with_cache(tmp_path / "cache")) as reader:
        assert len(reader.read(reader.row_ids([0]), ["jpg"])) == 1  # the look-up says that it is the same
        server.tags["/shards/00000000.tar"] = '"another"'
        kept = {path for path in (tmp_path / "cache").rglob("*") if path.is_file()}
        with pytest.raises(CorruptDataError, match=r"00000000\.tar: the shard has changed while it was read"):
            reader.read(reader.row_ids([1]), ["jpg"])
    assert {path for path in (tmp_path / "cache").rglob("*") if path.is_file()} == kept


ENDS: dict[str, tuple[type[Exception], str]] = {
    "403": (PermissionError, "403"),
    "404": (FileNotFoundError, r"00000000\.tar"),
    "416": (OSError, "sent 0 of"),
    "500": (OSError, r"500.*after 3 attempts"),
    "reset": (OSError, "after 3 attempts"),
    "cut": (OSError, "after 3 attempts"),
    "other": (OSError, "asked for|tells|says|sent"),
}


@pytest.mark.parametrize("fault", ENDS)
def test_a_server_that_lists_and_looks_up_but_does_not_serve(
    server: ObjectServer, index: Path, tmp_path: Path, fault: str
) -> None:
    server.fault = lambda path, span: fault if span else ""
    kind, words = ENDS[fault]
    with dcfast.open_pool(index, server.url("/shards"), remote=QUICK) as reader:
        with pytest.raises((kind, PoolError), match=words) as caught:
            reader.read(reader.row_ids([0, 9]), ["jpg"])
        assert "00000000.tar" in str(caught.value)
        server.fault = lambda path, span: ""
        assert len(reader.read(reader.row_ids([0, 9]), ["jpg"])) == 2


def test_what_passes_is_tried_again_until_the_deadline(server: ObjectServer, index: Path) -> None:
    left = {"count": 4}

    def fault(path: str, span: tuple[int, int] | None) -> str:
        left["count"] -= 1
        return ["500", "reset"][left["count"] % 2] if left["count"] >= 0 else ""

    server.fault = fault
    patient = RemoteOptions(retries=10, backoff_s=0.001, timeout_s=20)
    with dcfast.open_pool(index, server.url("/shards"), remote=patient) as reader:
        assert len(reader.read(reader.row_ids([0]), ["jpg"])) == 1
    server.fault = lambda path, span: "500"
    late = RemoteOptions(retries=1000, backoff_s=0.05, timeout_s=20, deadline_s=0.2)
    with (
        dcfast.open_pool(index, server.url("/shards"), remote=late) as reader,
        pytest.raises(OSError, match=r"after [234] attempts"),
    ):
        reader.read(reader.row_ids([0]), ["jpg"])


@pytest.fixture
def of_s3(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> RemoteOptions:
    pytest.importorskip("s3fs", reason="s3 needs dcfast[remote]")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    storage = {"endpoint_url": server.url(""), "key": "k", "secret": "s", "skip_instance_cache": True}
    return RemoteOptions(storage, retries=1, backoff_s=0.001, timeout_s=20)


def test_s3_is_read_by_the_same_ranges(pool: Path, server: ObjectServer, tmp_path: Path, of_s3: RemoteOptions) -> None:
    dcfast.refresh_index(tmp_path / "of-s3", "s3://shards", remote=of_s3)
    server.forget()
    with dcfast.open_pool(tmp_path / "of-s3", "s3://shards", remote=of_s3) as reader:
        rows = reader.row_ids(np.random.default_rng(1).permutation(COUNT)[:27])
        batch = reader.read(rows, ["jpg", "txt"])
        assert contents(batch) == of_files(pool, rows, ["jpg", "txt"])
        assert server.sent <= (1 + MOST_UNWANTED) * len(batch.data)
        assert len(server.look_ups) <= 6  # of each shard: looked up, and opened under If-Match
    server.fault = lambda path, span: "403" if span else ""
    with (
        dcfast.open_pool(tmp_path / "of-s3", "s3://shards", remote=of_s3) as reader,
        pytest.raises(PermissionError, match=r"s3://shards/00000000\.tar"),
    ):
        reader.read(reader.row_ids([0]), ["jpg"])


def test_s3_without_credentials_is_said_at_once(server: ObjectServer, of_s3: RemoteOptions) -> None:
    storage = {name: value for name, value in of_s3.storage_options.items() if name not in ("key", "secret")}
    without = RemoteOptions({**storage, "anon": False}, retries=9, backoff_s=0.5, timeout_s=20)
    with pytest.raises(PermissionError, match=r"no credentials.*AWS_ACCESS_KEY_ID.*s3://shards"):
        dcfast.refresh_index("nowhere", "s3://shards", remote=without)
    assert server.look_ups == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"requests": 0}, "requests and cache_bytes must be at least 1; got 0"),
        ({"cache_bytes": 0}, "must be at least 1"),
        ({"cache_dir": ""}, "cache_dir must be a path, or None for no cache"),
        ({"deadline_s": 0}, "deadline_s must be a number of seconds above 0; got 0"),
        ({"deadline_s": float("nan")}, "deadline_s must be"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RemoteOptions(**options)


def test_versions_by_the_names_of_other_stores() -> None:
    from dcfast.storage.ranges import _OF_REVISION
    from dcfast.storage.remote import _etag

    assert [_etag(info) for info in ({"ETag": '"a"'}, {"etag": "b"}, {"blob_id": "c"}, {})] == ['"a"', "b", "c", ""]
    commit = "0123456789abcdef" * 2 + "01234567"
    assert _OF_REVISION.match(f"hf://datasets/owner/name@{commit}/shards/0.tar")
    assert not _OF_REVISION.match("hf://datasets/owner/name@main/shards/0.tar")
