"""A model's folder is a stranger's: weights, configuration and tokenizer are looked at, and nothing in it is run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dcfast.errors import CorruptDataError
from dcfast.models.clip import create_model, load_model, load_tokenizer
from test_checkpoint_costs import archive, named, number
from train_builder import MODEL

torch = pytest.importorskip("torch")


def folder(path: Path, **tokenizer: Any) -> Path:
    """The model of the tests, with what ``text_cfg`` says of the tokenizer."""
    config = json.loads(Path(MODEL.removeprefix("local-dir:"), "open_clip_config.json").read_bytes())
    config["model_cfg"]["text_cfg"] |= tokenizer
    path.mkdir()
    (path / "open_clip_config.json").write_text(json.dumps(config))
    return path


def test_weights_are_looked_at_before_open_clip_reads_them(tmp_path: Path) -> None:
    model = folder(tmp_path / "m")
    weights = model / "open_clip_pytorch_model.bin"
    weights.write_bytes(archive(named("__builtin__", "bytearray") + number(3 << 30) + b"\x85R"))
    with pytest.raises(CorruptDataError, match=r"open_clip_pytorch_model\.bin is not read: it makes a bytearray"):
        load_model(f"local-dir:{model}")
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(OSError, match="is a named pipe"):
        load_model(f"local-dir:{model}")
    weights.unlink()
    torch.save(create_model(MODEL, seed=3).state_dict(), weights)
    assert load_model(f"local-dir:{model}").content_hash != load_model(MODEL).content_hash


def test_no_code_beside_a_tokenizer_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = folder(tmp_path / "m", hf_tokenizer_name="x/y", tokenizer_kwargs={"trust_remote_code": True})
    asked: list[dict[str, Any]] = []

    def from_pretrained(_: Any, **options: Any) -> Any:
        asked.append(options)
        return SimpleNamespace()

    fake = SimpleNamespace(AutoTokenizer=SimpleNamespace(from_pretrained=from_pretrained))
    monkeypatch.setitem(sys.modules, "transformers", fake)
    load_tokenizer(f"local-dir:{model}")
    assert [options["trust_remote_code"] for options in asked] == [False]


def test_a_tokenizer_reads_no_file_that_a_configuration_names(tmp_path: Path) -> None:
    model = folder(tmp_path / "m", tokenizer_kwargs={"bpe_path": "/dev/zero"})
    for load in (load_tokenizer, load_model):
        with pytest.raises(CorruptDataError, match=r"open_clip_config\.json: .*tokenizer_kwargs has bpe_path"):
            load(f"local-dir:{model}")
