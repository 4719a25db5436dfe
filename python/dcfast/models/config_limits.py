"""What the configuration of a stranger's model may ask for: numbers and names, looked at before any memory is taken.

300 bytes of it decide loops and shapes: a billion layers, a table of a million by a million. open_clip takes them as
they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeGuard

from dcfast.storage.json_files import Json

Table = dict[str, Json]

MOST_PARAMETERS = 8_000_000_000
"""Of a model without a file of weights, whose bytes would say more; EVA02-E-14-plus has 5.0 billion."""
_WIDTH = 8192
_LAYERS = 256
_TOKENS = 8192
_PIXELS = 4096
_CONTEXT = 4096
_WORDS = 1 << 21

_WHOLE: dict[str, tuple[int, int]] = {
    "embed_dim": (1, _WIDTH),
    "width": (1, _WIDTH),
    "head_width": (1, _WIDTH),
    "dim_head": (1, _WIDTH),
    "heads": (1, 1024),
    "attn_pooler_heads": (1, 1024),
    "attn_pooler_queries": (1, _TOKENS),
    "n_queries": (1, _TOKENS),
    "layers": (0, _LAYERS),
    "patch_size": (1, _PIXELS),
    "image_size": (1, _PIXELS),
    "context_length": (1, _CONTEXT),
    "vocab_size": (1, _WORDS),
    "pad_id": (0, _WORDS),
    "eos_id": (0, _WORDS),
}
"""Key -> lowest and highest whole number."""
_LISTS = {"layers": 4, "image_size": 2, "size": 2}
"""Keys that may be as many whole numbers in place of one."""
_REAL: dict[str, tuple[float, float]] = {
    "mlp_ratio": (1e-3, 64),
    "ls_init_value": (-1e3, 1e3),
    "patch_dropout": (0, 1),
    "timm_drop": (0, 1),
    "timm_drop_path": (0, 1),
    "init_logit_scale": (-1e3, 1e3),
    "init_logit_bias": (-1e6, 1e6),
}
_FLAGS = {
    *("quick_gelu", "custom_text", "nonscalar_logit_scale", "no_ln_pre", "final_ln_after_pool", "output_tokens"),
    *("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc", "embed_cls"),
    *("no_causal_mask", "proj_bias", "timm_model_pretrained", "timm_proj_bias", "hf_model_pretrained"),
    *("strip_sep_token", "trust_remote_code"),
}
_NAMES = {
    *("pos_embed_type", "pool_type", "block_type", "proj_type", "tokenizer_mode", "timm_model_name", "timm_pool"),
    *("timm_proj", "hf_tokenizer_name", "hf_model_name", "hf_proj_type", "hf_pooler_type", "clean", "language"),
    *("mode", "interpolation", "resize_mode"),
}
_TABLES = {"act_kwargs", "norm_kwargs", "tokenizer_kwargs"}
_TOKENIZER = {"clean", "strip_sep_token", "language", "additional_special_tokens"}
"""What a configuration may say to a tokenizer; others name files, servers or revisions, drop words by chance, or have
nltk fetch its models (reduction_mask)."""
_MOST_TOKENS_NAMED = 1024
_PARTS = ("vision_cfg", "text_cfg", "multimodal_cfg")
_TOWER_SIZES = re.compile(
    r"(^|_)(size|dim|dims|d_model|d_ff|d_kv|width|embeddings|length|positions|n_embd|n_ctx|n_inner)$"
)
_TOWER_COUNTS = re.compile(r"(^|_)(layers?|heads?|blocks?|groups|experts|depths?|stages|n_layer|n_head)$")
_TOWER_WIDTHS = re.compile(
    r"(^|_)(hidden_size|hidden_sizes|intermediate_size|dim|dims|d_model|d_ff|width|n_embd|n_inner)$"
)
_HIDDEN = ("hidden_size", "d_model", "dim", "n_embd")
_DEPTH = 8
_REPOSITORY = re.compile(r"(?!.*\.\.)(?!.{201})[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
"""A name of the hub (``ORG/REPO``), which can be no path out of a folder."""


def check_model_config(content: Json) -> None:
    """ValueError names the key of a configuration (``open_clip_config.json``) that open_clip must not be given."""
    config = table(content, "")
    model = table(config.get("model_cfg"), "model_cfg")
    vision, text = (table(model.get(part), f"model_cfg.{part}") for part in _PARTS[:2])
    _check_values(model, "model_cfg")
    for part in _PARTS:
        if part in model:
            _check_values(table(model[part], f"model_cfg.{part}"), f"model_cfg.{part}")
    _check_tokens(vision)
    _check_tokenizer(table(text.get("tokenizer_kwargs") or {}, "model_cfg.text_cfg.tokenizer_kwargs"))
    _check_towers(vision, text)
    _check_preprocess(table(config.get("preprocess_cfg", {}), "preprocess_cfg"))


def check_tower_config(content: Json) -> None:
    """ValueError names the key of a configuration of transformers (``config.json``) that is none, or beyond bounds."""
    for where, part in _tables(table(content, ""), ""):
        if "auto_map" in part:
            raise ValueError(
                "auto_map asks for Python code of the repository, which dcfast never runs; take another model"
            )
        for key, value in part.items():
            if key.endswith("attn_implementation") and not (isinstance(value, str) and value.isidentifier()):
                raise ValueError(f"{where}{key} is {_shown(value)}, code of a repository; take it out")
            most = _most_of(key)
            if most and any(not 0 <= number <= most for number in _numbers(value)):
                raise ValueError(f"{where}{key} is {_shown(value)}; expected 0 to {most:,}")
        if (count := _parameters(part)) > MOST_PARAMETERS:
            raise ValueError(
                f"{where or 'it'} describes some {count:,} parameters; expected at most {MOST_PARAMETERS:,}"
            )


def _tables(outer: Table, where: str, depth: int = 0) -> Iterator[tuple[str, Table]]:
    """A table and those within it, each with its place; lists of tables too."""
    if depth > _DEPTH:
        raise ValueError(f"{where.rstrip('.')} is nested too deeply; expected at most {_DEPTH} levels")
    yield where, outer
    for key, value in outer.items():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                yield from _tables(inner, f"{where}{key}.", depth + 1)


def _most_of(key: str) -> int:
    """The largest number that a key of a tower may have; 0 for any."""
    if _TOWER_COUNTS.search(key):
        return _LAYERS if "head" not in key else 4 * _LAYERS
    if _TOWER_SIZES.search(key):
        return _WORDS if "vocab" in key else 4 * _WIDTH
    return 0


def _numbers(value: Json) -> list[float]:
    """Of a value that is one, or a list of them."""
    return [number for number in (value if isinstance(value, list) else [value]) if _is_number(number)]


def _parameters(tower: Table) -> int:
    """About how many a tower has, of its depth and its widths: four square matrices a layer, and a table of words."""
    layers, widths, words = 0, [0], 0
    for key, value in tower.items():
        numbers = [int(number) for number in _numbers(value)]
        if "vocab" in key:
            words = max([words, *numbers])
        elif _TOWER_COUNTS.search(key):
            layers = max(layers, sum(numbers)) if "head" not in key else layers
        elif _TOWER_WIDTHS.search(key):
            widths += numbers
    narrow = min((size for key in _HIDDEN if _is_whole(size := tower.get(key))), default=max(widths))
    return max(layers, 1) * 4 * narrow * max(widths) + words * narrow


def table(value: Json, where: str) -> Table:
    """ValueError where a value is no object."""
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'it'} is {'missing' if value is None else _shown(value)}; expected an object")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]} ..."


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_values(values: Table, where: str, whole: dict[str, tuple[int, int]] = _WHOLE) -> None:
    for key, value in values.items():
        expected = None if value is None else _expected(key, value, whole)
        if expected is not None:
            raise ValueError(f"{where}.{key} is {_shown(value)}; expected {expected}")


def _expected(key: str, value: Json, whole: dict[str, tuple[int, int]]) -> str | None:
    """What was expected of this key; None where it is that."""
    if key in whole:
        low, high = whole[key]
        numbers = value if isinstance(value, list) and len(value) == _LISTS.get(key) else [value]
        if not all(_is_whole(number) and low <= number <= high for number in numbers):
            return f"a whole number of {low:,} to {high:,}" + (f", or {_LISTS[key]} of them" if key in _LISTS else "")
    elif key in _REAL:
        least, most = _REAL[key]
        if not (_is_number(value) and least <= value <= most):
            return f"a number of {least:g} to {most:g}"
    elif key in _FLAGS:
        return None if isinstance(value, bool) else "true or false"
    elif key in _NAMES:
        return None if isinstance(value, str) and len(value) <= 200 else "a name of at most 200 characters"
    elif key in _TABLES:
        plain = isinstance(value, dict) and (key == "tokenizer_kwargs" or _is_plain(value))
        return None if plain else "an object of numbers, names and true or false"
    elif key not in _PARTS and not isinstance(value, (bool, str)):
        return None if _is_number(value) and abs(value) <= _WORDS else f"a number of at most {_WORDS:,}"
    return None


def _is_plain(values: Table) -> bool:
    return all(isinstance(v, (bool, str)) or (_is_number(v) and abs(v) <= 1e6) for v in values.values())


def _check_tokens(vision: Table) -> None:
    if vision.get("timm_model_name") or isinstance(vision.get("layers"), list):
        return  # these have patches of their own
    image, patch = vision.get("image_size") or 224, vision.get("patch_size") or 16
    sides, side = _numbers(image), _numbers(patch)[0]
    if (count := (sides[0] // side) * (sides[-1] // side)) > _TOKENS or count == 0:
        raise ValueError(
            f"model_cfg.vision_cfg has {count:,} patches (image_size {image}, patch_size {patch}); "
            f"expected 1 to {_TOKENS:,}"
        )


def _check_tokenizer(given: Table) -> None:
    where = "model_cfg.text_cfg.tokenizer_kwargs"
    if other := sorted({*given} - _TOKENIZER - {"trust_remote_code"}):
        raise ValueError(
            f"{where} has {other[0]:.40}, by which a tokenizer may read other files (bpe_path, vocab_file) or servers; "
            f"expected {', '.join(sorted(_TOKENIZER))} alone: take it out"
        )
    tokens = given.get("additional_special_tokens")
    _check_values({key: value for key, value in given.items() if key != "additional_special_tokens"}, where)
    if tokens is not None and not (
        isinstance(tokens, list)
        and len(tokens) <= _MOST_TOKENS_NAMED
        and all(isinstance(token, str) and len(token) <= 200 for token in tokens)
    ):
        raise ValueError(
            f"{where}.additional_special_tokens is {_shown(tokens)}; expected at most {_MOST_TOKENS_NAMED:,} texts"
        )


def _check_towers(vision: Table, text: Table) -> None:
    for key in ("hf_model_name", "hf_tokenizer_name"):
        name = text.get(key)
        if name and not (isinstance(name, str) and _REPOSITORY.fullmatch(name)):
            raise ValueError(
                f"model_cfg.text_cfg.{key} is {_shown(name)}; expected the name of a model on the hub (ORG/REPO), "
                "never a path: files are read from the model's own folder alone"
            )
    tower = vision.get("timm_model_name")
    if tower and not (isinstance(tower, str) and re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_-]+)?", tower)):
        raise ValueError(
            f"model_cfg.vision_cfg.timm_model_name is {_shown(tower)}; expected the name of an architecture of timm, "
            "never a folder (local-dir:) or a model on the hub (hf-hub:)"
        )


def _check_preprocess(values: Table) -> None:
    for key, least in (("mean", -1e3), ("std", 1e-3)):
        given = values.get(key)
        numbers = given if isinstance(given, list) and len(given) in (1, 3) else [given]
        if given is not None and not all(_is_number(number) and least <= number <= 1e3 for number in numbers):
            raise ValueError(f"preprocess_cfg.{key} is {_shown(given)}; expected 3 numbers of {least:g} to 1,000")
    rest = {key: value for key, value in values.items() if key not in ("mean", "std")}
    _check_values(rest, "preprocess_cfg", {"size": (1, _PIXELS), "fill_color": (0, 255)})
