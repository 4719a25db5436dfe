"""Training from shards behind URLs: the same batches, the wanted bytes alone, a cache, and clear ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dcfast
import numpy as np
import pytest
import torch
from dcfast.errors import PoolError, RunError
from dcfast.storage.http import RemoteOptions
from dcfast.train import TrainSource
from dcfast.train import source as source_module
from dcfast.train.__main__ import main
from dcfast.train.batch import BatchSpec
from dcfast.train.batches import BatchMaker
from dcfast.train.captions import TXT_ALONE
from dcfast.train.session import train
from dcfast.train.source import OpenSource, prepare_source
from object_server import ObjectServer, serve_objects
from train_builder import both_sources, small

pytest.importorskip("aiohttp", reason="shards behind URLs need dcfast[remote]")

QUICK = RemoteOptions(retries=2, backoff_s=0.001, timeout_s=20)
NUMBERS = [*range(2, 30), 5]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``pool/shards``, ``new`` shards of some of its samples, ``run/index`` and ``subset.npy``."""
    root = tmp_path_factory.mktemp("urls")
    both_sources(root, 36, sorted(NUMBERS))
    return root


@pytest.fixture
def server(root: Path) -> Iterator[ObjectServer]:
    with serve_objects(root) as state:
        yield state


def batches(files: Any) -> list[Any]:
    settings = small(Path("out"), TrainSource(shards="any"), overrides={"global_batch": 12}, seed=5, block=4, window=4)
    maker = BatchMaker(BatchSpec(settings, (files,), 64))
    return [maker.make(step) for step in range(3)]


def same(a: list[Any], b: list[Any]) -> None:
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.tokens, other.tokens)
        assert one.uids.tolist() == other.uids.tolist()


def test_shards_behind_a_url_are_those_of_the_files(root: Path, server: ObjectServer, tmp_path: Path) -> None:
    local = prepare_source(TrainSource(shards=str(root / "new")), tmp_path, 0)
    url = server.url("/new/")
    far = prepare_source(TrainSource(shards=url), tmp_path, 1, TXT_ALONE, QUICK)
    assert (far.fingerprint, far.count, far.shards) == (local.fingerprint, len(NUMBERS), local.shards)
    server.forget()
    same(batches(far), batches(local))
    assert server.asked
    server.forget()
    again = prepare_source(TrainSource(shards=url), tmp_path, 1, TXT_ALONE, QUICK)
    assert again == far
    assert len(server.asked) == 1  # the first sample alone: the index is kept


def test_an_index_and_a_subset_of_a_url(root: Path, server: ObjectServer, tmp_path: Path) -> None:
    dcfast.refresh_index(tmp_path / "index", server.url("/pool/shards"), remote=QUICK)
    subset = str(root / "subset.npy")
    far = TrainSource(index=str(tmp_path / "index"), shards_dir=server.url("/pool/shards"), subset=subset)
    near = TrainSource(index=str(root / "run/index"), shards_dir=str(root / "pool/shards"), subset=subset)
    files = [prepare_source(far, tmp_path, 0, TXT_ALONE, QUICK), prepare_source(near, tmp_path, 1)]
    assert files[0].fingerprint == files[1].fingerprint
    same(*map(batches, files))


def test_what_is_read_twice_is_in_the_cache(server: ObjectServer, tmp_path: Path) -> None:
    cached = RemoteOptions(retries=0, timeout_s=20, cache_dir=str(tmp_path / "cache"))
    files = prepare_source(TrainSource(shards=server.url("/new")), tmp_path, 0, TXT_ALONE, cached)
    first = batches(files)
    server.forget()
    server.fault = lambda path, span: "403"
    same(batches(files), first)
    assert (server.asked, server.look_ups) == ([], [])


def test_from_s3(root: Path, server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what fsspec has of the protocol in its configuration, as of a user's files and environment."""
    pytest.importorskip("s3fs", reason="s3 needs dcfast[remote]")
    from fsspec.config import conf

    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setitem(conf, "s3", {"endpoint_url": server.url(""), "key": "k", "secret": "s"})
    local = prepare_source(TrainSource(shards=str(root / "new")), tmp_path, 0)
    far = prepare_source(TrainSource(shards="s3://new"), tmp_path, 1, TXT_ALONE, QUICK)
    assert far.fingerprint == local.fingerprint
    same(batches(far), batches(local))


def test_a_training_from_a_url_is_that_from_files(root: Path, server: ObjectServer, tmp_path: Path) -> None:
    sources = TrainSource(shards=str(root / "new")), TrainSource(shards=server.url("/new"))
    summaries = [train(small(tmp_path / str(k), source)) for k, source in enumerate(sources)]
    assert summaries[0].checkpoint_sha256 == summaries[1].checkpoint_sha256
    assert summaries[0].sources == summaries[1].sources


ENDS = {
    "403": "403.*Give credentials that may read it",
    "404": "See to the server and its objects, or index them anew",
    "500": "after 3 attempts",
    "reset": "after 3 attempts",
    "etag": "changed",
}


@pytest.mark.parametrize("fault", ENDS)
def test_a_server_that_ends_in_the_middle(server: ObjectServer, tmp_path: Path, fault: str) -> None:
    source = TrainSource(shards=server.url("/new"))
    files = prepare_source(source, tmp_path, 0, TXT_ALONE, QUICK)
    maker = BatchMaker(BatchSpec(small(Path("out"), source, overrides={"global_batch": 12}), (files,), 64))
    maker.make(0)
    if fault == "etag":
        server.tags.update({f"/new/{k:08d}.tar": '"anew"' for k in range(3)})
    else:
        server.fault = lambda path, span: fault
    with pytest.raises(RunError, match=ENDS[fault]) as caught:
        maker.make(1)
    assert "the same command goes on from the latest checkpoint" in str(caught.value)
    assert "/new/0000000" in str(caught.value)


def test_a_bucket_that_lists_but_does_not_serve_is_found_before_work(server: ObjectServer, tmp_path: Path) -> None:
    source = TrainSource(shards=server.url("/new"))
    prepare_source(source, tmp_path, 0, TXT_ALONE, QUICK)
    server.fault = lambda path, span: "403" if span else ""
    with pytest.raises(RunError, match="Give credentials that may read it"):
        prepare_source(source, tmp_path, 0, TXT_ALONE, QUICK)  # its index is there
    with pytest.raises((PoolError, OSError), match="403"):
        prepare_source(source, tmp_path, 1, TXT_ALONE, QUICK)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("pipe:cat a.tar", "names a program (pipe:), and none is started"),
        ("PIPE:cat a.tar", "names a program"),
        ("cat a.tar |", "a pipe to a program (|)"),
        ("file:///data/$(id)", "is no plain path"),
        ("file://host/data", "is no plain path"),
        ("file:///data/../etc", "is no plain path"),
        ("https://h/a\x1b[0m", "characters that cannot be printed"),
    ],
)
def test_programs_are_no_sources(place: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "out"), "--shards", place]) == 2
    assert words in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "out"), "--index", "i", "--subset", "s", "--shards-dir", place]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pictures_are_asked_for_ahead_of_the_decoder(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a sample or two, each of which is one request: several are under way at a time."""
    files = prepare_source(TrainSource(shards=server.url("/new")), tmp_path, 0, TXT_ALONE, QUICK)
    source = OpenSource(files)
    monkeypatch.setattr(source_module, "_ASKED_TOGETHER", 1)
    server.forget()
    server.delay_s = 0.02
    rows = source.rows(np.arange(files.count))
    assert sum(int((raw.pictures.size >= 0).sum()) for raw in source.read(rows)) == files.count
    assert len(server.asked) >= files.count
    assert server.most_in_flight >= 3
