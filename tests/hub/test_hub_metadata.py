"""DataComp's metadata: from which repository, which files of it, and where they are put."""

from __future__ import annotations

from pathlib import Path

import pytest
from dcfast.errors import HubError
from dcfast.hub import LOCK_FILE, read_lock
from dcfast.hub.metadata import SCALES, fetch_metadata, metadata_repo
from local_hub import local_hub

NAMES = ["0020f0cb", "00a1"]
SMALL = {f"{name}.{kind}": f"{name} {kind}".encode() for name in NAMES for kind in ("parquet", "npz")}


def test_the_repositories() -> None:
    assert [metadata_repo(scale) for scale in SCALES] == [
        "mlfoundations/datacomp_small",
        "mlfoundations/datacomp_medium",
        "mlfoundations/datacomp_large",
        "mlfoundations/datacomp_xlarge",
        "mlfoundations/datacomp_1b",
    ]
    with pytest.raises(ValueError, match=r"scale must be one of small, .*; got 'smal'; did you mean 'small'\?"):
        metadata_repo("smal")


def test_parquet_and_npz_by_consent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with local_hub({"mlfoundations/datacomp_small": {**SMALL, "README.md": b"#"}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        lock = tmp_path / LOCK_FILE
        parquet = [f"{name}.parquet" for name in NAMES]
        assert fetch_metadata("small", tmp_path, lock=lock).files == parquet
        assert sorted(path.name for path in (tmp_path / "metadata").iterdir()) == parquet
        done = fetch_metadata("small", tmp_path, npz=True, lock=lock)
        assert (done.fetched, done.already_there) == (2, 2)
        assert sorted(path.name for path in (tmp_path / "metadata").iterdir()) == sorted(SMALL)
        assert read_lock(lock).repos["mlfoundations/datacomp_small"].folder == "metadata"
        hub.repos["mlfoundations/datacomp_medium"] = hub.repos["mlfoundations/datacomp_small"]
        with pytest.raises(HubError, match="folder metadata holds files of mlfoundations/datacomp_small"):
            fetch_metadata("medium", tmp_path, lock=lock)


def test_xlarge_loses_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {f"part_{n}/{n}.{kind}": f"{n}{kind}".encode() for n in range(8) for kind in ("parquet", "npz")}
    with local_hub({"mlfoundations/datacomp_xlarge": {**parts, "top.parquet": b"not taken"}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        fetch_metadata("xlarge", tmp_path, npz=True, lock=tmp_path / LOCK_FILE)
        there = {path.name: path.read_bytes() for path in (tmp_path / "metadata").iterdir()}
        assert there == {path[7:]: data for path, data in parts.items()}
