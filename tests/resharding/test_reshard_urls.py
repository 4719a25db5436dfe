"""Resharding from shards behind a URL: the same bytes as from the files, the wanted members alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dcfast
import numpy as np
import pytest
from dcfast.errors import CorruptDataError, PoolError
from dcfast.resharding import far, reshard, verify_output_shards
from dcfast.resharding.cli import main
from dcfast.storage.http import RemoteOptions
from object_server import ObjectServer, serve_objects
from pool_builder import PoolBuilder, Sample
from train_builder import subset_file

pytest.importorskip("aiohttp", reason="shards behind URLs need dcfast[remote]")

QUICK = RemoteOptions(retries=2, backoff_s=0.001, timeout_s=20)
NUMBERS = [*range(3, 40, 3), 7, 7, 8]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reshard-urls")
    drawn = np.random.default_rng(0)
    samples = [Sample(n, jpg=drawn.bytes(int(drawn.integers(9_000, 20_000)))) for n in range(60)]
    PoolBuilder(root / "pool", [samples[i : i + 20] for i in range(0, 60, 20)]).write()
    subset_file(root / "subset.npy", sorted(NUMBERS))
    return root


@pytest.fixture
def server(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    monkeypatch.setattr(far, "PATIENT", QUICK)
    with serve_objects(root / "pool") as state:
        yield state


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".tar", ".idx")}


@pytest.mark.parametrize("options", [{}, {"shuffle_seed": 3}, {"idx": True, "shard_size": 5}])
def test_the_same_bytes_as_from_files(
    root: Path, server: ObjectServer, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far, "_AT_ONCE", 50_000)  # several parts
    local = reshard(root / "pool", tmp_path / "near", root / "subset.npy", threads=2, **options)
    url = server.url("/shards")
    report = reshard(url, tmp_path / "far", root / "subset.npy", threads=2, verify=True, **options)
    assert tars(tmp_path / "far") == tars(tmp_path / "near")
    assert (report["output_count"], report["verified"]["mismatch_count"]) == (local["output_count"], 0)
    assert not [path for path in (tmp_path / "far").iterdir() if path.name.startswith(".tmp-")]


def test_an_index_is_enough_and_little_more_is_read_than_is_wanted(
    root: Path, server: ObjectServer, tmp_path: Path
) -> None:
    dcfast.refresh_index(tmp_path / "index", server.url("/shards"), remote=QUICK)
    server.forget()
    segments = sorted(map(str, (tmp_path / "index").glob("*.dcx")))
    report = reshard(segments, tmp_path / "out", root / "subset.npy", shards_dir=server.url("/shards/"))
    assert report["output_count"] == len(NUMBERS)
    index = dcfast.open_pool(tmp_path / "index", server.url("/shards"))
    rows = np.unique(index.find(dcfast.load_subset(root / "subset.npy"))[0])
    wanted = index.locate(rows).num_bytes
    assert wanted <= server.sent <= 1.05 * wanted
    checked = verify_output_shards(_plan(segments, root, server), root / "subset.npy", tmp_path / "out")
    assert (checked["samples"], checked["mismatch_count"]) == (len(NUMBERS), 0)


def _plan(segments: list[str], root: Path, server: ObjectServer) -> Any:
    from dcfast.resharding import make_plan

    return make_plan(segments, root / "subset.npy", shards_dir=server.url("/shards"))


def test_a_reshard_goes_on_after_a_server_that_ended(root: Path, server: ObjectServer, tmp_path: Path) -> None:
    options = {"shard_size": 4, "threads": 1}
    reshard(root / "pool", tmp_path / "near", root / "subset.npy", **options)
    count = {"left": 6}

    def fault(path: str, span: tuple[int, int] | None) -> str:
        count["left"] -= 1
        return "403" if count["left"] < 0 and span else ""

    server.fault = fault
    with pytest.raises(PermissionError, match="403"):
        reshard(server.url("/shards"), tmp_path / "far", root / "subset.npy", **options)
    server.fault = lambda path, span: ""
    report = reshard(server.url("/shards"), tmp_path / "far", root / "subset.npy", resume=True, **options)
    assert tars(tmp_path / "far") == tars(tmp_path / "near")
    assert report["output_count"] == len(NUMBERS)


def test_a_shard_that_changed_is_refused(root: Path, server: ObjectServer, tmp_path: Path) -> None:
    dcfast.refresh_index(tmp_path / "index", server.url("/shards"), remote=QUICK)
    server.tags["/shards/00000000.tar"] = '"anew"'
    segments = sorted(map(str, (tmp_path / "index").glob("*.dcx")))
    with pytest.raises(CorruptDataError, match=r"00000000\.tar: the shard has changed since it was indexed"):
        reshard(segments, tmp_path / "out", root / "subset.npy", shards_dir=server.url("/shards"))


def test_the_command(root: Path, server: ObjectServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subset = ["-s", str(root / "subset.npy")]
    assert main(["-i", server.url("/shards"), "-o", str(tmp_path / "out"), *subset, "--verify"]) == 0
    assert f"wrote {len(NUMBERS)} samples" in capsys.readouterr().out
    for place, words in (
        ("pipe:cat a.tar", "names a program"),
        ("file://host/a", "is no plain path"),
        (server.url("/nothing"), "/nothing"),
    ):
        assert main(["-i", place, "-o", str(tmp_path / "none"), *subset]) != 0
        assert words in capsys.readouterr().err
    assert main(["-i", server.url("/shards"), "-i", str(root / "pool"), "-o", str(tmp_path / "none"), *subset]) == 1
    assert "beside others; give it by itself" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    with pytest.raises(PoolError, match=r"lists no \.tar files"):
        reshard(server.url("/metadata"), tmp_path / "none", root / "subset.npy")
