"""A model that brings its files is what open_clip makes of them, weight for weight, though dcfast reads the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast.errors import CheckpointError, CorruptDataError
from dcfast.models import checkpoint
from dcfast.models.clip import load_model, load_tokenizer
from model_folders import hub_cache, model_folder, text, vision
from PIL import Image

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")
transform = pytest.importorskip("open_clip.transform")
safetensors = pytest.importorskip("safetensors.torch")

State = dict[str, Any]


def as_they_are(state: State) -> State:
    return state


def half(state: State) -> State:
    return {key: value.half() for key, value in state.items()}


def numbers(state: State) -> State:
    """open_clip's CoCa leaves a part as it finds the memory."""
    return {key: torch.nan_to_num(value, 0.5, 1, -1) for key, value in state.items()}


def vectors(state: State) -> State:
    return {**state, "logit_scale": state["logit_scale"].reshape(1)}


CUSTOM = {"custom_text": True, "init_logit_bias": -10}
OTHER_PIXELS = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bilinear", "resize_mode": "squash"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, Callable[[State], State]]] = {
    "safetensors": ({}, {}, "open_clip_model.safetensors", as_they_are),
    "torch": ({}, {}, "open_clip_pytorch_model.bin", as_they_are),
    "of wrapped models": ({}, {}, "epoch.pth", lambda s: {"state_dict": {f"module.{key}": s[key] for key in s}}),
    "16 bits": ({}, {}, "model.safetensors", half),
    "16 bits of torch": ({}, {}, "pytorch_model.bin", half),
    "a vector of one scale": ({}, {}, "model.safetensors", vectors),
    "a scale that is a vector": ({}, {"nonscalar_logit_scale": True}, "model.safetensors", as_they_are),
    "a text tower of its own": (CUSTOM, CUSTOM, "model.safetensors", as_they_are),
    "old names, without a bias": ({}, CUSTOM, "model.safetensors", as_they_are),
    "larger pictures": ({}, {"vision_cfg": vision(image_size=96)}, "model.safetensors", as_they_are),
    "shorter texts": ({}, {"text_cfg": text(context_length=12)}, "model.safetensors", as_they_are),
    "another activation": ({}, {"quick_gelu": True}, "model.safetensors", as_they_are),
    "of timm": (
        *[{"vision_cfg": {"timm_model_name": "test_vit", "image_size": 160}}] * 2,
        "m.safetensors",
        as_they_are,
    ),
    "convolutions": (*[{"vision_cfg": vision(layers=[1, 1, 1, 1], width=16)}] * 2, "m.bin", as_they_are),
    "of captions": (
        *[
            {
                "multimodal_cfg": text(),
                **CUSTOM,
                "text_cfg": text(embed_cls=True, output_tokens=True),
                "vision_cfg": vision(output_tokens=True),
            }
        ]
        * 2,
        *("m.safetensors", numbers),
    ),
}
"""What the weights are of, what the configuration says, the name of their file, and what was made of them."""


def same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    assert ours.visual.preprocess_cfg == theirs.visual.preprocess_cfg
    assert ours.visual.image_size == theirs.visual.image_size
    assert getattr(ours, "output_dict", None) == getattr(theirs, "output_dict", None)
    one, other = ours.state_dict(), theirs.state_dict()
    assert list(one) == list(other)
    for key, value in other.items():
        assert one[key].dtype == value.dtype, key
        assert torch.equal(one[key], value), key


@pytest.mark.parametrize("case", CASES)
def test_a_folder_is_what_open_clip_makes_of_it(case: str, tmp_path: Path) -> None:
    trained, config, name, made = CASES[case]
    if "vision_cfg" in trained and "timm_model_name" in trained["vision_cfg"]:
        pytest.importorskip("timm")
    folder = model_folder(tmp_path / "m", config, preprocess=OTHER_PIXELS)
    model_folder(tmp_path / "trained", trained)
    torch.manual_seed(5)
    state = made(open_clip.create_model(f"local-dir:{tmp_path / 'trained'}").state_dict())
    write = safetensors.save_file if name.endswith(".safetensors") else torch.save
    write(state, folder / name)
    for precision in ("fp32", "bf16") if case != "of captions" else ("fp32",):  # open_clip's CoCa has no other
        theirs = open_clip.create_model(f"local-dir:{folder}", precision=precision, output_dict=True).eval()
        clip = load_model(f"local-dir:{folder}", precision=precision)
        same(clip.model, theirs)
    theirs, clip = open_clip.create_model(f"local-dir:{folder}").eval(), load_model(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a red square", "b"])
    assert torch.equal(clip.tokenizer(["a red square", "b"]), tokens)
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (70, 90, 3), np.uint8))
    pp_cfg = transform.PreprocessCfg(**theirs.visual.preprocess_cfg)
    pixels = clip.preprocess(picture)
    assert torch.equal(pixels, transform.image_transform_v2(pp_cfg, is_train=False)(picture))
    with torch.no_grad():
        assert torch.equal(clip.model.encode_text(tokens), theirs.encode_text(tokens))
        assert torch.equal(clip.model.encode_image(pixels[None]), theirs.encode_image(pixels[None]))


def test_a_model_of_the_hub_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = hub_cache(tmp_path, monkeypatch, "some/model")
    model_folder(snapshot, {"quick_gelu": True}, preprocess=OTHER_PIXELS)
    torch.manual_seed(6)
    state = open_clip.create_model(f"local-dir:{snapshot}").state_dict()
    safetensors.save_file(state, snapshot / "open_clip_model.safetensors")
    theirs = open_clip.create_model("hf-hub:some/model", output_dict=True)
    ours = load_model("hf-hub:some/model")
    same(ours.model, theirs)
    assert ours.source == "hf-hub:some/model"
    assert torch.equal(ours.tokenizer(["a b"]), open_clip.get_tokenizer("hf-hub:some/model")(["a b"]))


@pytest.mark.parametrize(("name", "tag"), [("ViT-B-16", "datacomp_xl_s13b_b90k"), ("ViT-B-32", "openai")])
def test_weights_of_a_tag_are_read_by_us(name: str, tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag's file is what open_clip takes; a small model stands for the architecture."""
    from open_clip import factory

    small = json.loads((model_folder(tmp_path / "m") / "open_clip_config.json").read_bytes())["model_cfg"]
    load_model("dcfast-tiny")  # the first model makes open_clip read all configurations again
    monkeypatch.setitem(factory._MODEL_CONFIGS, name, small)
    torch.manual_seed(7)
    weights = tmp_path / "w.safetensors"
    safetensors.save_file(half(open_clip.create_model(name).state_dict()), weights)
    monkeypatch.setattr(factory, "download_pretrained", lambda *_, **__: str(weights))
    quick = tag == "openai"
    same(load_model(name, tag).model, open_clip.create_model(name, tag, output_dict=True, force_quick_gelu=quick))
    load_tokenizer.cache_clear()  # it has that of the small model
    shrinks(monkeypatch, weights)
    with pytest.raises(CorruptDataError, match=r"w\.safetensors .* cannot be read"):
        load_model(name, tag)


def shrinks(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """From now on the file is cut as soon as it was looked at for the last time."""
    own = checkpoint._loaded

    def loaded(source: Path, size: int, also: Any) -> Any:
        path.write_bytes(path.read_bytes()[: size // 2])
        return own(source, size, also)

    monkeypatch.setattr(checkpoint, "_loaded", loaded)


@pytest.mark.parametrize("place", ["folder", "hub"])
@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_weights_that_shrink_meanwhile(name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub_cache(tmp_path, monkeypatch, "some/model") if place == "hub" else tmp_path / "m"
    model_folder(folder)
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    (safetensors.save_file if name.endswith("safetensors") else torch.save)(state, folder / name)
    model = "hf-hub:some/model" if place == "hub" else f"local-dir:{folder}"
    load_model(model)
    shrinks(monkeypatch, folder / name)
    with pytest.raises(CorruptDataError, match=rf"{name} .* cannot be read"):
        load_model(model)


def test_other_weights_are_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    weights = folder / "model.safetensors"
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    for other, said in (
        ({key: state[key] for key in state if key != "ln_final.bias"}, r"another architecture .*ln_final\.bias"),
        ({**state, "more": torch.ones(2)}, "another architecture .*more"),
        ({**state, "ln_final.bias": torch.ones(9)}, r"another architecture .*ln_final\.bias"),
        ({**state, "ln_final.bias": torch.ones(32, dtype=torch.int8)}, r"ln_final\.bias is int8 there, float32"),
        ({**state, "logit_scale": torch.ones(3)}, "another architecture"),
    ):
        safetensors.save_file(other, weights)
        with pytest.raises(CheckpointError, match=said) as caught:
            load_model(f"local-dir:{folder}")
        assert str(weights) in str(caught.value)
        assert len(str(caught.value)) < 600 + len(str(weights))
