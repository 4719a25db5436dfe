"""``dcfast export``: open_clip by itself loads the folder, and computes the same bits as dcfast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from dcfast.errors import RunError
from dcfast.models.clip import create_model, load_model
from dcfast.models.export import MERGES, export_model, main
from dcfast.process.exit_codes import DONE, USAGE
from PIL import Image
from train_builder import MODEL

CAPTIONS = ["a photo of two striped red circles", "", "Ünusual wörds 12345 on a field of sand " * 9]
PIXELS = np.random.default_rng(1).integers(0, 256, (90, 130, 3), np.uint8)
ALONE = """
import sys, numpy as np, open_clip, torch
from PIL import Image
folder = sys.argv[1]
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
with torch.no_grad():
    image = model.eval().encode_image(preprocess(Image.fromarray(np.load(sys.argv[2])))[None])
    text = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(sys.argv[3].split("|")))
np.savez(f"{folder}/out.npz", image=image, text=text)
assert not any(name.partition(".")[0] == "dcfast" for name in sys.modules)
"""


def checkpoint(path: Path, name: str) -> Path:
    """As dcfast's training writes it, of random weights."""
    torch.save({"name": name, "state_dict": create_model(name, seed=5).state_dict(), "dcfast": {}}, path)
    return path


@pytest.mark.parametrize("name", ["dcfast-tiny", MODEL], ids=["tiny", "folder"])
def test_open_clip_computes_the_same(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert export_model(str(checkpoint(tmp_path / "c.pt", name)), str(folder)) == name
    clip = load_model(name, str(tmp_path / "c.pt"))
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS)
    model.eval()
    assert torch.equal(tokens, clip.tokenizer(CAPTIONS))
    assert torch.equal(model.logit_scale, clip.model.logit_scale)
    image = Image.fromarray(PIXELS)
    with torch.no_grad():
        assert torch.equal(model.encode_text(tokens), clip.model.encode_text(tokens))
        assert torch.equal(preprocess(image), clip.preprocess(image))
        assert torch.equal(
            model.encode_image(preprocess(image)[None]), clip.model.encode_image(clip.preprocess(image)[None])
        )


@pytest.mark.soak
def test_a_process_without_dcfast_computes_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", PIXELS)
    folder = tmp_path / "out"
    export_model(str(checkpoint(tmp_path / "c.pt", "dcfast-tiny")), str(folder))
    command = [sys.executable, "-c", ALONE, folder, tmp_path / "pixels.npy", "|".join(CAPTIONS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    clip = load_model("dcfast-tiny", str(tmp_path / "c.pt"))
    with torch.no_grad(), np.load(folder / "out.npz") as alone:
        image = clip.model.encode_image(clip.preprocess(Image.fromarray(PIXELS))[None])
        assert np.array_equal(alone["image"], image.numpy())
        assert np.array_equal(alone["text"], clip.model.encode_text(clip.tokenizer(CAPTIONS)).numpy())


def test_the_folder_is_a_model_here_too(tmp_path: Path) -> None:
    export_model(str(checkpoint(tmp_path / "c.pt", MODEL)), str(tmp_path / "out"))
    here, there = load_model(MODEL, str(tmp_path / "c.pt")), load_model(f"local-dir:{tmp_path / 'out'}")
    for key, value in here.model.state_dict().items():
        assert torch.equal(value, there.model.state_dict()[key])
    assert not (tmp_path / "out" / MERGES).exists()
    assert str(tmp_path) not in (tmp_path / "out/open_clip_config.json").read_text()


def test_what_cannot_be_exported_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(create_model("dcfast-tiny", seed=5).state_dict(), tmp_path / "bare.pt")
    out = tmp_path / "out"
    assert main([str(tmp_path / "bare.pt"), "--out", str(out)]) == USAGE
    assert "bare.pt does not say which model it is of; give --model NAME" in capsys.readouterr().err
    assert not out.exists()
    assert main([str(tmp_path / "bare.pt"), "--out", str(out), "--model", "dcfast-tiny"]) == DONE
    assert f'create_model_and_transforms("local-dir:{out}")' in capsys.readouterr().out
    kwargs = json.loads((out / "open_clip_config.json").read_bytes())["model_cfg"]["text_cfg"]["tokenizer_kwargs"]
    assert kwargs == {"bpe_path": str(out / MERGES)}
    with pytest.raises(RunError, match=r"out is not empty \(open_clip_config\.json\); choose another folder"):
        export_model(str(tmp_path / "bare.pt"), str(out), "dcfast-tiny")
