"""Models by name, tag, file or seed; what is wrong with a name or a file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import dcfast
import numpy as np
import pytest
import torch
from dcfast.errors import CheckpointError, CorruptDataError
from dcfast.models.checkpoint import read_checkpoint
from dcfast.models.clip import create_model, load_model, load_tokenizer, model_names, weights_hash
from dcfast.storage.hashing import sha256_file
from PIL import Image


@pytest.fixture(scope="module")
def model() -> Any:
    return create_model("dcfast-tiny", seed=4)


@pytest.fixture
def checkpoint(model: Any, tmp_path: Path) -> Path:
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, tmp_path / "epoch_1.pt")
    return tmp_path / "epoch_1.pt"


def test_a_checkpoint_gives_the_model_that_was_saved(model: Any, checkpoint: Path) -> None:
    clip = dcfast.load_model("dcfast-tiny", str(checkpoint))
    assert isinstance(clip, dcfast.ClipModel)
    assert clip.content_hash == hashlib.sha256(checkpoint.read_bytes()).hexdigest() == sha256_file(checkpoint)
    assert weights_hash(clip.model) == weights_hash(model)
    assert (clip.name, clip.source) == ("dcfast-tiny", str(checkpoint))
    assert not clip.model.training
    picture = clip.preprocess(Image.new("RGB", (90, 70)))
    tokens = clip.tokenizer(["a red circle", ""])
    assert picture.shape == (3, clip.image_size, clip.image_size)
    assert tokens.dtype == torch.int64
    with torch.no_grad():
        assert clip.model.encode_image(picture[None]).shape == (1, clip.embed_dim)
        assert clip.model.encode_text(tokens).shape == (2, clip.embed_dim)


def test_other_forms_of_the_same_weights(model: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = model.state_dict()
    wrapped = {f"module._orig_mod.{name}": value for name, value in state.items()}
    as_vector = {**state, "logit_scale": state["logit_scale"].reshape(1)}
    for name, content in (("bare", state), ("wrapped", {"state_dict": wrapped}), ("vector", as_vector)):
        torch.save(content, tmp_path / f"{name}.pt")
        assert weights_hash(load_model("dcfast-tiny", str(tmp_path / f"{name}.pt")).model) == weights_hash(model)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "model.safetensors")
    clip = load_model("dcfast-tiny", str(tmp_path / "model.safetensors"))
    assert weights_hash(clip.model) == weights_hash(model)


def test_without_weights_a_model_is_that_of_seed_0() -> None:
    clip = load_model("dcfast-tiny")
    assert clip.source == "untrained, seed 0"
    assert clip.content_hash == weights_hash(create_model("dcfast-tiny", seed=0))
    assert clip.content_hash != weights_hash(create_model("dcfast-tiny", seed=1))


def test_initial_weights_are_those_open_clip_draws_and_leave_torchs_state_alone() -> None:
    import open_clip

    torch.manual_seed(11)
    expected = open_clip.create_model("dcfast-tiny")
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    ours = create_model("dcfast-tiny", seed=11)
    assert torch.equal(torch.random.get_rng_state(), before)
    for (name, a), b in zip(ours.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_small_vocabulary_is_the_first_merges_of_clips() -> None:
    import open_clip

    full, short = open_clip.get_tokenizer("ViT-B-32"), load_tokenizer("dcfast-tiny")
    text = "Two LARGE squares, 3 dogs &amp; a zyzzyva"
    assert short.decode(short.encode(text)) == full.decode(full.encode(text))
    assert len(short.encode(text)) >= len(full.encode(text))
    tokens = short([text, ""])
    assert tokens.max() < short.vocab_size
    config = open_clip.get_model_config("dcfast-tiny")
    assert short.vocab_size == config["text_cfg"]["vocab_size"]
    assert tokens.shape == (2, config["text_cfg"]["context_length"])
    # the end of the text is the highest number, where CLIP reads its features
    assert tokens.argmax(dim=1).tolist() == [len(short.encode(text)) + 1, 1]
    assert np.array_equal(load_tokenizer("ViT-B-32")([text]), full([text]))


@pytest.mark.parametrize(
    ("name", "nearest"), [("ViT-B32", "'ViT-B-32'"), ("dcfast-tinny", "'dcfast-tiny'"), ("vit-l-14", "'ViT-L-14'")]
)
def test_unknown_names_suggest_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"open_clip knows no model '{name}'; did you mean {nearest}"):
        load_model(name)


def test_names_and_tags_that_make_no_sense() -> None:
    assert {"dcfast-tiny", "ViT-B-32"} <= set(model_names())
    with pytest.raises(TypeError, match="model name must be a str"):
        load_model(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="knows no model 'qqqqqqqqqqqq'"):
        load_model("qqqqqqqqqqqq")
    with pytest.raises(ValueError, match=r"neither a file nor a tag of ViT-B-32; did you mean 'openai'\? \(its tags: "):
        load_model("ViT-B-32", "openia")
    with pytest.raises(ValueError, match=r"neither a file nor a tag of dcfast-tiny \(its tags: none\)"):
        load_model("dcfast-tiny", "/nowhere/epoch_1.pt")


def test_a_checkpoint_of_another_architecture_says_what_differs(checkpoint: Path, model: Any) -> None:
    with pytest.raises(
        CheckpointError, match=r"epoch_1.pt is of another architecture than ViT-S-32: \d+ parameters diff"
    ):
        load_model("ViT-S-32", str(checkpoint))
    state = dict(model.state_dict())
    del state["text_projection"]
    state["extra.weight"] = torch.zeros(1)
    torch.save(state, checkpoint)
    with pytest.raises(
        CheckpointError, match=r"1 parameters are missing: text_projection; 1 are unknown to the model: extra.weight"
    ):
        load_model("dcfast-tiny", str(checkpoint))


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -1, -30])
def test_cut_off_checkpoints(checkpoint: Path, keep: int) -> None:
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[:keep])
    with pytest.raises(CorruptDataError, match=r"epoch_1.pt") as info:
        read_checkpoint(checkpoint)
    assert info.value.path == str(checkpoint)


def test_cut_off_safetensors(model: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorruptDataError, match="it is cut off, damaged or no checkpoint"):
        load_model("dcfast-tiny", str(path))


class Hostile:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit",))


def test_no_code_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    path = tmp_path / "hostile.pt"
    torch.save({"state_dict": {}, "payload": Hostile()}, path)
    with pytest.raises(CorruptDataError, match="which dcfast never loads"):
        load_model("dcfast-tiny", str(path))


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_checkpoint(tmp_path / "nothing.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CorruptDataError, match="holds a list; expected a dict"):
        read_checkpoint(tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    with pytest.raises(CheckpointError, match="holds no state_dict of tensors"):
        load_model("dcfast-tiny", str(tmp_path / "epoch.pt"))
