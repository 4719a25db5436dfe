"""What a stranger's configuration may ask of a model: looked at before memory is taken, and before anything is read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dcfast.errors import CorruptDataError, MissingDependencyError
from dcfast.models import config_limits, folder
from dcfast.models.clip import create_model, load_model, load_tokenizer
from dcfast.models.config_limits import check_model_config, check_tower_config
from model_folders import hub_cache, model_folder, text, vision

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")


def test_every_architecture_of_open_clip_passes() -> None:
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        (config["text_cfg"].get("tokenizer_kwargs") or {}).pop("bpe_merges", None)  # of ours alone
        check_model_config({"model_cfg": config})
        for tag in open_clip.list_pretrained_tags_by_model(name):
            given = {key: list(one) if isinstance(one, tuple) else one for key, one in _preprocess(name, tag).items()}
            check_model_config({"model_cfg": config, "preprocess_cfg": given})


def _preprocess(name: str, tag: str) -> dict[str, Any]:
    found = open_clip.get_pretrained_cfg(name, tag)
    return {key: found[key] for key in ("mean", "std", "interpolation", "resize_mode", "size") if key in found}


NUMBERS = ("12", 12.5, True, [1], {}, -1, 10**9, 10**19)
VISION = ("width", "head_width", "patch_size", "image_size", "layers", "attn_pooler_queries", "attn_pooler_heads")
TEXT = ("context_length", "vocab_size", "width", "heads", "layers", "pad_id", "eos_id")
MULTIMODAL = ("dim_head", "n_queries", "attn_pooler_heads", "layers", "width", "context_length", "vocab_size")
BAD: list[tuple[str, Any]] = [
    *((f"vision_cfg.{key}", value) for key in VISION for value in NUMBERS),
    *((f"text_cfg.{key}", value) for key in TEXT for value in NUMBERS),
    *((f"multimodal_cfg.{key}", value) for key in MULTIMODAL for value in NUMBERS),
    *(("embed_dim", value) for value in (*NUMBERS, 0)),
    *((f"vision_cfg.{key}", 0) for key in ("width", "head_width", "patch_size", "image_size")),
    *(("vision_cfg.layers", value) for value in ([1, 1, 1], [1, 1, 1, 10**9], [1, 1, 1, "1"], [1, 1, 1, True])),
    *(("vision_cfg.image_size", value) for value in ([64, 10**6], [64, 64, 64], [64.0, 64], [])),
    *((f"{part}_cfg.mlp_ratio", value) for part in ("vision", "text") for value in ("4", 1e30, -1, 0, True, [4])),
    *(("vision_cfg.patch_dropout", value) for value in (-0.1, 1.5, "0.1")),
    *(("vision_cfg.ls_init_value", value) for value in (1e30, "1")),
    *((key, value) for key in ("init_logit_scale", "init_logit_bias") for value in ("1", 1e300, True)),
    *((f"text_cfg.{key}", value) for key in ("no_causal_mask", "embed_cls") for value in ("false", 1, {})),
    *((key, value) for key in ("quick_gelu", "custom_text") for value in ("false", 0, [])),
    *(("text_cfg.pool_type", value) for value in (1, "x" * 300, [])),
    *((f"vision_cfg.{key}", value) for key in ("act_kwargs", "norm_kwargs") for value in (1, {"a": {}}, {"a": 1e300})),
    ("vision_cfg.of_a_later_version", 10**12),
    ("vision_cfg.of_a_later_version", {"layers": 10**9}),
    *(("vision_cfg", value) for value in (None, 1, [], "x")),
    *(("text_cfg", value) for value in (None, 1, [], "x")),
    ("text_cfg.tokenizer_kwargs", []),
    *(("text_cfg.tokenizer_kwargs.clean", value) for value in (1, {}, "x" * 300)),
    ("text_cfg.tokenizer_kwargs.strip_sep_token", "yes"),
    *(
        ("text_cfg.tokenizer_kwargs.additional_special_tokens", value)
        for value in ("x", [1], ["x"] * 5000, ["x" * 300])
    ),
]
REACHES_OUT: list[tuple[str, Any]] = [
    *((f"text_cfg.tokenizer_kwargs.{key}", "/etc/passwd") for key in ("bpe_path", "vocab_file", "tokenizer_file")),
    *((f"text_cfg.tokenizer_kwargs.{key}", "x") for key in ("cache_dir", "subfolder", "revision", "token", "proxies")),
    ("text_cfg.tokenizer_kwargs.reduction_mask", "syntax"),
    *(
        (f"text_cfg.{key}", name)
        for key in ("hf_model_name", "hf_tokenizer_name")
        for name in ("/etc", "../x", "./x", "a/b/c", "a/..", "~/x", "hf-hub:a/b", "https://x.y/z", "a\\b", "a b", 5)
    ),
    *(("vision_cfg.timm_model_name", name) for name in ("hf-hub:a/b", "local-dir:/x", "hf_hub:a/b", "a/b", "../x", 5)),
]


def changed(key: str, value: Any) -> dict[str, Any]:
    config = {"embed_dim": 32, "vision_cfg": vision(), "text_cfg": text(), "multimodal_cfg": text()}
    place, parts = config, key.split(".")
    for part in parts[:-1]:
        place = place.setdefault(part, {})  # type: ignore[assignment]
    place[parts[-1]] = value
    return deepcopy(config)


@pytest.mark.parametrize(("key", "value"), [*BAD, *REACHES_OUT], ids=lambda one: str(one)[:40])
def test_a_key_is_named(key: str, value: Any, tmp_path: Path) -> None:
    name = f"local-dir:{model_folder(tmp_path / 'm', changed(key, value))}"
    for use in (load_model, load_tokenizer, lambda name: create_model(name, seed=0)):
        with pytest.raises(
            CorruptDataError, match=rf"open_clip_config\.json: .*{key.split('.')[-1]}.*expected"
        ) as caught:
            use(name)
        assert len(str(caught.value)) < 600 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("mean", value) for value in ("x", [1, 2], [1, 2, "3"], [1, 2, 1e30], True)),
        *(("std", value) for value in (0, [0, 1, 1], [-1, 1, 1], [1, 1, 1e30], "x")),
        *(("fill_color", value) for value in (-1, 256, "x", 1.5)),
        *(("size", value) for value in (10**9, [64, 10**9], "x")),
        *(("interpolation", value) for value in (1, [])),
    ],
)
def test_what_is_done_to_pictures_is_named(key: str, value: Any, tmp_path: Path) -> None:
    name = f"local-dir:{model_folder(tmp_path / 'm', preprocess={key: value})}"
    with pytest.raises(CorruptDataError, match=rf"open_clip_config\.json: preprocess_cfg\.{key} is .*; expected"):
        load_model(name)


@pytest.mark.parametrize("image", [4096, [4096, 512], 8])
def test_patches_are_counted(image: Any, tmp_path: Path) -> None:
    name = model_folder(tmp_path / "m", {"vision_cfg": vision(image_size=image, patch_size=10)})
    with pytest.raises(CorruptDataError, match=r"vision_cfg has [\d,]+ patches .*; expected 1 to 8,192"):
        load_model(f"local-dir:{name}")


@pytest.mark.parametrize("content", [[], 1, "x", {}, {"model_cfg": 1}, {"model_cfg": {}}])
def test_what_is_no_configuration(content: Any, tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m")
    (model / "open_clip_config.json").write_text(json.dumps(content))
    for use in (load_model, load_tokenizer):
        with pytest.raises(CorruptDataError, match=r"open_clip_config\.json: .*; expected an object"):
            use(f"local-dir:{model}")
    (model / "open_clip_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no open_clip_config\.json"):
        load_model(f"local-dir:{model}")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_model(f"local-dir:{model / 'none'}")
    with pytest.raises(ValueError, match="names nothing"):
        load_model("local-dir:")


LARGE = {
    "vision_cfg": vision(layers=200, width=8192, head_width=64),
    "text_cfg": text(layers=256, width=8192, heads=64),
}
"""Within the bounds of each number: 367 billion parameters."""


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices that models are built on."""
    own, devices = open_clip.create_model, []

    def create(*given: Any, **options: Any) -> Any:
        devices.append(str(options.get("device")))
        if devices[-1] != "meta":
            raise AssertionError("built in memory")
        return own(*given, **options)

    monkeypatch.setattr(open_clip, "create_model", create)
    return devices


def test_parameters_are_counted_before_memory_is_taken(tmp_path: Path, built: list[str]) -> None:
    model = model_folder(tmp_path / "m", LARGE)
    with pytest.raises(
        CorruptDataError, match=r"describes 3\d\d,\d{3},\d{3},\d{3} parameters; expected at most 8,000,"
    ):
        load_model(f"local-dir:{model}")
    weights = model / "model.safetensors"
    from safetensors.torch import save_file

    save_file({"ln_final.bias": torch.ones(8192)}, weights)
    with pytest.raises(CorruptDataError, match=r"parameters; .*model\.safetensors has [\d,]+ bytes, too few"):
        load_model(f"local-dir:{model}")
    assert built == ["meta", "meta"]


def test_parameters_of_a_model_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: list[str]) -> None:
    model = model_folder(hub_cache(tmp_path, monkeypatch, "some/model"), LARGE)
    torch.save({"ln_final.bias": torch.ones(8192)}, model / "open_clip_pytorch_model.bin")
    with pytest.raises(CorruptDataError, match=r"parameters; .*open_clip_pytorch_model\.bin has [\d,]+ bytes, too few"):
        load_model("hf-hub:some/model")
    assert built == ["meta"]


def test_largest_of_open_clip_needs_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        largest = open_clip.create_model("EVA02-E-14-plus", device="meta", load_weights=False)
    count = sum(value.numel() for value in largest.parameters())
    assert 5e9 < count < config_limits.MOST_PARAMETERS


@pytest.mark.parametrize(("key", "value"), [("text_cfg.bpe_path", "/etc/passwd"), ("vision_cfg.layers", 10**9)])
def test_configurations_of_the_hub_are_looked_at(
    key: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: list[str]
) -> None:
    part, name = key.split(".")
    given = text(tokenizer_kwargs={name: value}) if part == "text_cfg" else vision(**{name: value})
    model_folder(hub_cache(tmp_path, monkeypatch, "some/model"), {part: given})
    for use in (load_model, load_tokenizer):
        with pytest.raises(CorruptDataError, match=rf"open_clip_config\.json: .*{name}"):
            use("hf-hub:some/model")
    assert built == []


def test_weights_of_the_hub_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: list[str]) -> None:
    model = model_folder(hub_cache(tmp_path, monkeypatch, "some/model"))
    with pytest.raises(MissingDependencyError, match="cannot be made"):
        load_model("hf-hub:some/model")
    (model / "open_clip_model.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(CorruptDataError, match=r"open_clip_model\.safetensors is not read: a header of"):
        load_model("hf-hub:some/model")
    assert built == []


class Transformers:
    """Stands for the library, and notes what is asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[Any, dict[str, Any]]] = []
        fake = SimpleNamespace(AutoTokenizer=SimpleNamespace(from_pretrained=self._from_pretrained))
        monkeypatch.setitem(sys.modules, "transformers", fake)
        load_tokenizer.cache_clear()

    def _from_pretrained(self, source: Any, **options: Any) -> Any:
        self.asked.append((source, options))
        return SimpleNamespace()


def test_a_tokenizer_of_the_hub_stands_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = Transformers(monkeypatch)
    other = hub_cache(tmp_path, monkeypatch, "other/words")
    kwargs = {"clean": "canonicalize", "trust_remote_code": True}
    named = text(hf_tokenizer_name="other/words", tokenizer_kwargs=kwargs)
    model_folder(hub_cache(tmp_path, monkeypatch, "some/model"), {"text_cfg": named})
    (other / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    load_tokenizer("hf-hub:some/model")
    assert transformers.asked == [(other, {"cache_dir": None, "trust_remote_code": False})]


GROWING = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "a"},
        *[{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}] * 2,
    ],
}
BAD_TOKENIZERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a file elsewhere": (
        lambda place: (place / "tokenizer_config.json").write_text('{"vocab_file": "/etc/passwd"}'),
        r"tokenizer_config\.json: vocab_file is '/etc/passwd'",
    ),
    "no object": (
        lambda place: (place / "tokenizer_config.json").write_text("[]"),
        r"tokenizer_config\.json: it is no",
    ),
    "nested": (lambda place: (place / "tokenizer_config.json").write_text("[" * 999), "nested too deeply"),
    "growing": (
        lambda place: (place / "tokenizer.json").write_text(json.dumps({"normalizer": GROWING})),
        "normalizer makes texts more than 256 times as long",
    ),
    "no tokenizer": (lambda place: (place / "tokenizer.json").write_text("[" * 999), "it is no tokenizer"),
    "large": (
        lambda place: (place / "tokenizer.json").write_bytes(b" " * 2000),
        r"tokenizer\.json has 2,000 bytes; exp",
    ),
}


@pytest.mark.parametrize("bad", BAD_TOKENIZERS)
@pytest.mark.parametrize("where", ["folder", "hub"])
def test_files_of_a_tokenizer_are_looked_at(
    bad: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = Transformers(monkeypatch)
    monkeypatch.setattr(folder, "MOST_TOKENIZER_BYTES", 1024 << 3)
    if bad == "large":
        monkeypatch.setattr(folder, "MOST_TOKENIZER_BYTES", 1024)
    place = hub_cache(tmp_path, monkeypatch, "some/model") if where == "hub" else tmp_path / "m"
    model_folder(place, {"text_cfg": text(hf_tokenizer_name="some/model")})
    make, said = BAD_TOKENIZERS[bad]
    make(place)
    with pytest.raises(CorruptDataError, match=said):
        load_tokenizer("hf-hub:some/model" if where == "hub" else f"local-dir:{place}")
    assert transformers.asked == []


def test_the_configuration_of_a_tower_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = hub_cache(tmp_path, monkeypatch, "other/bert")
    model = model_folder(tmp_path / "m", {"text_cfg": {"hf_model_name": "other/bert"}})
    with pytest.raises(MissingDependencyError, match="cannot be made"):
        load_model(f"local-dir:{model}")
    for content, said in (
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; expected 0 to 256"),
        ({"hidden_size": 10**9}, "hidden_size is"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "auto_map asks for Python code"),
        ({"text_config": {"num_hidden_layers": 10**8}}, "text_config.num_hidden_layers is 100000000"),
        ({"depths": [10**8, 1, 1]}, "depths is"),
        ({"encoder": [{"hidden_size": 30_000, "num_layers": 200}]}, "describes some [0-9,]* parameters"),
        ({"attn_implementation": "some/kernel"}, "attn_implementation is 'some/kernel', code of a repository"),
        ([], "expected an object"),
    ):
        (tower / "config.json").write_text(json.dumps(content))
        with pytest.raises(CorruptDataError, match=rf"config\.json: .*{said}"):
            load_model(f"local-dir:{model}")


def test_numbers_of_towers() -> None:
    bert = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "intermediate_size": 4096,
        "vocab_size": 250_112,
        "d_ff": 5120,
    }
    for fine in (
        bert,
        {"d_model": 4096, "num_layers": 24, "num_heads": 64, "d_kv": 64, "relative_attention_num_buckets": 32},
    ):
        check_tower_config(fine)
    for key in (*bert, "d_model", "n_embd", "n_layer", "num_heads", "encoder_layers", "max_position_embeddings"):
        for value in (10**9, -1):
            with pytest.raises(ValueError, match=f"{key} is"):
                check_tower_config({key: value})


def test_fewer_words_than_the_tokenizer_writes(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m", {"text_cfg": text(vocab_size=100)})
    with pytest.raises(CorruptDataError, match="vocab_size is 100; CLIP's tokenizer writes 49,408"):
        load_model(f"local-dir:{model}")
