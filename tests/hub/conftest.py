"""What every test of this wing needs: the library as it is on a machine without anything of the hub, and no waiting."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No token, cache or proxy of the machine; retries at once. The user's caches stay empty."""
    home = tmp_path_factory.mktemp("home")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "DCFAST_ASSETS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "hf/token"))
    monkeypatch.setattr("dcfast.hub.transfer.BACKOFF_S", 0.0)
    yield
    assert [str(path) for path in home.rglob("*") if "cache/dcfast" not in str(path) and path.is_file()] == []
