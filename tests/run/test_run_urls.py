"""A run over shards behind a URL, beside the same run over files: the same features, subset, shards and training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dcfast.errors import PoolError
from dcfast.index import fetched
from dcfast.run.workflow import main, run
from dcfast.rundir.settings import Settings
from dcfast.rundir.training_summary import TrainingSummary
from features_reference import MODEL, save_checkpoint
from object_server import ObjectServer, serve_objects
from pool_builder import plain_pool

pytest.importorskip("aiohttp", reason="shards behind URLs need dcfast[remote]")

RECIPE = {"global_batch": 4, "precision": "fp32", "warmup_steps": 1, "checkpoints": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``near``, a pool; ``far``, which has its metadata alone."""
    root = tmp_path_factory.mktemp("run-urls")
    plain_pool(root / "near", 24, 2).write()
    shutil.copytree(root / "near/metadata", root / "far/metadata")
    save_checkpoint(root / "clip.safetensors")
    return root


@pytest.fixture
def server(root: Path) -> Iterator[ObjectServer]:
    with serve_objects(root / "near") as state:
        yield state


def settings_of(root: Path, server: ObjectServer | None) -> Settings:
    return Settings(
        pool=str(root / ("near" if server is None else "far")),
        shards_from=None if server is None else server.url("/shards/"),
        filter="words >= 2",
        features={"l14": f"{MODEL}:{root / 'clip.safetensors'}"},
        samples_seen=16,
        overrides=RECIPE,
        compare="none",
        device="cpu",
    )


def test_a_run_over_a_url_is_that_over_files(root: Path, server: ObjectServer, tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    trained = [
        run(out, settings_of(root, of), last="train", cache_dir=str(tmp_path / "cache"))["train"]
        for out, of in ((near, None), (far, server))
    ]
    assert isinstance(trained[0], TrainingSummary)
    assert isinstance(trained[1], TrainingSummary)
    assert trained[0].checkpoint_sha256 == trained[1].checkpoint_sha256
    for name in ("subset.npy", "shards/00000000.tar", "signatures/pool-00000.npy", "features/metadata/00000000.npz"):
        assert (far / name).read_bytes() == (near / name).read_bytes(), name
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    server.forget()
    run(far, settings_of(root, server), last="train")
    assert server.asked == []  # all of it was done
    for name in ("manifest.json", "train/summary.json", "shards/meta.json"):
        assert f":{server.port}" not in (far / name).read_text(), name  # it is published


def test_a_shard_that_changed_is_indexed_again(root: Path, server: ObjectServer, tmp_path: Path) -> None:
    settings = replace(settings_of(root, server), features={}, train=False)
    run(tmp_path / "out", settings, last="signatures")
    server.tags["/shards/00000001.tar"] = '"anew"'
    server.forget()
    run(tmp_path / "out", settings, last="signatures")
    assert {path for path, _, _ in server.asked} == {"/shards/00000001.tar"}


def test_signing_reads_pictures_from_copies_that_go(
    root: Path, server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(fetched, "_RANGE", 4096)
    settings = replace(settings_of(root, server), features={}, train=False)
    run(tmp_path / "out", settings, last="signatures")
    near = replace(settings_of(root, None), features={}, train=False)
    run(tmp_path / "near", near, last="signatures")
    signed = [np.load(tmp_path / name / "signatures/pool-00000.npy") for name in ("out", "near")]
    assert np.array_equal(*signed)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("dcfast-shards-")]


def test_what_is_refused(root: Path, server: ObjectServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    for place, words in (("pipe:cat", "names a program"), ("/data/shards", "must be the URL of a given pool's shards")):
        assert main(["--pool", str(root / "far"), "--shards-from", place, *out]) == 2
        assert words in capsys.readouterr().err
    assert main(["--shards-from", "s3://a/b", *out]) == 2
    assert "must be the URL of a given pool's shards" in capsys.readouterr().err
    with pytest.raises(PoolError, match=r"lists no \.tar file"):
        run(tmp_path / "out", replace(settings_of(root, server), shards_from=server.url("/metadata")))
    server.fault = lambda path, span: "403"
    with pytest.raises(PermissionError, match="403"):
        run(tmp_path / "out", settings_of(root, server))
    assert not (tmp_path / "out").exists()


def test_the_plan_tries_the_first_shard(
    root: Path, server: ObjectServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--pool", str(root / "far"), "--shards-from", server.url("/shards"), "--no-train"]
    assert main([*given, "--out", str(tmp_path / "out"), "--dry-run", "--to", "reshard"]) == 0
    said = capsys.readouterr().out
    assert "reading, indexing and decoding of 00000000.tar" in said
    assert not (tmp_path / "out").exists()
