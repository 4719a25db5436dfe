"""Small models with files of their own: in a folder, or in a cache of the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def vision(**given: Any) -> dict[str, Any]:
    return {"image_size": 64, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16, **given}


def text(**given: Any) -> dict[str, Any]:
    return {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, **given}


def model_folder(path: Path, given: dict[str, Any] | None = None, *, preprocess: dict[str, Any] | None = None) -> Path:
    """A folder with the configuration of a small model, and what is given in place of parts of it; no weights."""
    config = {"embed_dim": 32, "vision_cfg": vision(), "text_cfg": text(), **(given or {})}
    path.mkdir(parents=True, exist_ok=True)
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess or {}}))
    return path


def hub_cache(root: Path, monkeypatch: pytest.MonkeyPatch, repository: str) -> Path:
    """The folder of a repository in a cache of the hub, on a machine without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place, revision = root / "hub" / f"models--{repository.replace('/', '--')}", "0123456789" * 4
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(revision)
    (place / "snapshots" / revision).mkdir(parents=True)
    return place / "snapshots" / revision
