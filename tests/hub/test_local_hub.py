"""The hub of the tests is one: the hub's own library lists and fetches from it, and is refused as by the real one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from local_hub import Fault, blob_id, local_hub

hub_library = pytest.importorskip("huggingface_hub")

FILES = {"README.md": b"# hello\n", "a.parquet": b"PAR1" * 100, "test/0.tar": b"tar" * 50, "test/n.txt": b"1"}
REPO = "owner/name"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setenv("HF_TOKEN", "secret")


def test_the_library_lists_and_fetches(tmp_path: Path) -> None:
    with local_hub({REPO: FILES}, models={"owner/model": {"w.bin": b"w" * 9}}) as hub:
        hub.page = 2
        api = hub_library.HfApi(endpoint=hub.url, token="secret")
        first = api.dataset_info(REPO).sha
        tree = {entry.path: entry for entry in api.list_repo_tree(REPO, recursive=True, repo_type="dataset")}
        assert set(tree) == {*FILES, "test"}
        assert tree["a.parquet"].lfs.sha256 == hashlib.sha256(FILES["a.parquet"]).hexdigest()
        assert tree["README.md"].blob_id == blob_id(FILES["README.md"])
        assert [entry.path for entry in api.get_paths_info(REPO, ["a.parquet"], repo_type="dataset")] == ["a.parquet"]
        for name, data in FILES.items():
            got = hub_library.hf_hub_download(
                REPO, name, repo_type="dataset", endpoint=hub.url, local_dir=tmp_path, revision=first
            )
            assert Path(got).read_bytes() == data
        weights = hub_library.hf_hub_download("owner/model", "w.bin", endpoint=hub.url, local_dir=tmp_path)
        assert Path(weights).read_bytes() == b"w" * 9
        assert {one.token for one in hub.log if one.server == "cdn"} == {""}
        second = hub.commit(REPO, {"a.parquet": b"another"})
        assert api.dataset_info(REPO).sha == second != first
        assert api.dataset_info(REPO, revision=first).sha == first


def test_the_library_is_refused() -> None:
    errors = hub_library.errors
    with local_hub({REPO: FILES}, private={REPO: "secret"}) as hub:
        api = hub_library.HfApi(endpoint=hub.url, token="another")
        with pytest.raises(errors.RepositoryNotFoundError):
            api.dataset_info(REPO)
        api = hub_library.HfApi(endpoint=hub.url, token="secret")
        with pytest.raises(errors.RevisionNotFoundError):
            api.dataset_info(REPO, revision="0" * 40)
        with pytest.raises(errors.RepositoryNotFoundError):
            api.dataset_info("owner/none")
        hub.faults.append(Fault("gated", times=1))
        with pytest.raises(errors.GatedRepoError):
            api.dataset_info(REPO)
        hub.faults.append(Fault(500, times=1))
        with pytest.raises(errors.HfHubHTTPError):
            api.dataset_info(REPO)
        assert api.dataset_info(REPO).sha == hub.head(REPO)
        hub.forget(REPO, hub.head(REPO))
        with pytest.raises(errors.RevisionNotFoundError):
            api.dataset_info(REPO)
