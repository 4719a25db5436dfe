"""CLIP models by name: open_clip's, and ours of ``model_configs``; weights from a tag, a checkpoint, or a seed.

open_clip builds and runs every model; this module names what is wrong with a name or a file before anything is
trusted, and says which weights a model holds by their hash.
"""

from __future__ import annotations

import difflib
import errno
import gzip
import hashlib
import logging
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcfast.errors import CheckpointError, CorruptDataError, MissingDependencyError, first_line
from dcfast.storage.hashing import sha256_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "ClipModel",
    "create_model",
    "load_model",
    "load_tokenizer",
    "load_weights",
    "model_names",
    "read_checkpoint",
    "weights_hash",
]

CONFIG_DIR = Path(__file__).parent / "model_configs"
_SCHEMAS = ("local-dir:", "hf-hub:")
_SHOWN = 4  # parameters an error message names


@dataclass(frozen=True)
class ClipModel:
    """A CLIP model ready to use.

    Attributes:
        model: the open_clip module, in eval mode, on its device; ``encode_image`` and ``encode_text``.
        preprocess: PIL picture -> float32 tensor (3, image_size, image_size); the validation transform.
        tokenizer: list of n strings -> int64 tensor (n, context length).
        name: of the architecture, e.g. ``ViT-B-32``.
        source: where the weights come from, in words: a path, an open_clip tag, or a seed.
        content_hash: SHA-256, 64 hex characters: of the checkpoint file, or of the weights where there is no file.
        embed_dim: width of an embedding.
        image_size: side of the square picture that the model takes, in pixels.
    """

    model: torch.nn.Module
    preprocess: Callable[[Any], Tensor]
    tokenizer: Callable[[list[str]], Tensor]
    name: str
    source: str
    content_hash: str
    embed_dim: int
    image_size: int


@cache
def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise MissingDependencyError(
            f"CLIP models need open_clip, which cannot be imported ({error}); pip install 'dcfast[train]'"
        ) from error
    open_clip.add_model_config(CONFIG_DIR)
    return open_clip


def model_names() -> list[str]:
    """Every architecture that can be built by name, ours included."""
    return list(_open_clip().list_models())


def _checked_name(name: str) -> str:
    """The name as open_clip writes it; ValueError suggests the nearest."""
    if not isinstance(name, str):
        raise TypeError(f"model name must be a str; got {type(name).__name__}")
    if name.startswith(_SCHEMAS):
        return name
    known = model_names()
    name = name.replace("/", "-")
    if name in known:
        return name
    lower = {k.lower(): k for k in reversed(known)}
    near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(lower[n]) for n in near)}?" if near else ""
    raise ValueError(f"open_clip knows no model {name!r}{hint} ({len(known)} names: dcfast.models.model_names())")


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a model's state, hex; the order of the names is the model's."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        raw = value.detach().cpu().contiguous().flatten()
        digest.update(f"{name}\0{raw.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(raw.view(_byte_type()).numpy().tobytes())
    return digest.hexdigest()


def _byte_type() -> Any:
    import torch

    return torch.uint8


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint file holds: ``.safetensors``, or torch's own format read with ``weights_only``.

    No code in the file is ever run. Memory: the file's size.

    Raises:
        FileNotFoundError: no such file.
        CorruptDataError: it is cut off, or no checkpoint.
    """
    import torch

    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"checkpoint {source}: no such file; expected a .pt or .safetensors file")
    if source.stat().st_size == 0:
        raise CorruptDataError(f"checkpoint {source} is empty (0 bytes); it was never written whole", path=str(source))
    try:
        if source.suffix == ".safetensors":
            from safetensors.torch import load_file

            return {"state_dict": load_file(source)}
        content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CorruptDataError(
            f"checkpoint {source} cannot be read as weights alone ({first_line(error)[:200]}): it is cut off or "
            "damaged, or holds other Python objects, which dcfast never loads",
            path=str(source),
        ) from error
    except Exception as error:  # torch and safetensors raise many types for damaged files
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # torch seeks before the start
            raise
        raise CorruptDataError(
            f"checkpoint {source} ({source.stat().st_size:,} bytes) cannot be read: {first_line(error)[:200]}; "
            "it is cut off or no checkpoint",
            path=str(source),
        ) from error
    if not isinstance(content, dict):
        raise CorruptDataError(
            f"checkpoint {source} holds a {type(content).__name__}; expected a dict with 'state_dict'",
            path=str(source),
        )
    return content


def _state_dict(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    import torch

    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise CheckpointError(f"checkpoint {path} holds no state_dict of tensors; its keys: {sorted(content)[:8]}")
    # DistributedDataParallel and torch.compile each put a prefix before every name
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def load_weights(model: torch.nn.Module, content: dict[str, Any], path: str | os.PathLike[str], name: str) -> None:
    """Loads a checkpoint's weights, all or none; CheckpointError names the file, the model and what differs."""
    state = _state_dict(content, Path(path))
    expected = model.state_dict()
    for key in ("logit_scale", "logit_bias"):  # some checkpoints keep them as vectors of one
        if key in state and key in expected and state[key].numel() == expected[key].numel() == 1:
            state = {**state, key: state[key].reshape(expected[key].shape)}
    missing = [key for key in expected if key not in state]
    foreign = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {list(state[key].shape)} there, {list(value.shape)} in {name}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    said = [
        f"{len(found)} {what}: {', '.join(found[:_SHOWN])}{', ...' if len(found) > _SHOWN else ''}"
        for what, found in (
            ("parameters differ in shape", shapes),
            ("parameters are missing", missing),
            ("are unknown to the model", foreign),
        )
        if found
    ]
    if said:
        raise CheckpointError(f"checkpoint {path} is of another architecture than {name}: {'; '.join(said)}")
    model.load_state_dict(state)


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip warns on the root logger about every model without pretrained weights: here that is meant."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


@cache
def load_tokenizer(name: str) -> Callable[[list[str]], Tensor]:
    """The tokenizer of a model: list of n strings -> int64 (n, context length).

    A config of ours may ask for ``bpe_merges``: CLIP's own byte-pair merges, the first so many of them. Merges are
    ordered by how often they are used, so a small model keeps a small vocabulary.
    """
    open_clip = _open_clip()
    name = _checked_name(name)
    config = {} if name.startswith(_SCHEMAS) else open_clip.get_model_config(name)["text_cfg"]
    merges = (config.get("tokenizer_kwargs") or {}).get("bpe_merges")
    tokenizer: Callable[[list[str]], Tensor]
    if merges is None:
        tokenizer = open_clip.get_tokenizer(name)
        return tokenizer
    from open_clip.tokenizer import SimpleTokenizer, default_bpe

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line, _ in zip(file, range(merges + 1), strict=False)]  # a heading, then merges
    with tempfile.TemporaryDirectory(prefix="dcfast-") as folder:
        path = Path(folder) / "bpe.txt.gz"
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
        short = SimpleTokenizer(bpe_path=str(path), context_length=config["context_length"])
    if short.vocab_size != config["vocab_size"]:
        raise ValueError(
            f"model {name}: vocab_size {config['vocab_size']} in its config; its merges give {short.vocab_size}"
        )
    tokenizer = short
    return tokenizer


def create_model(name: str, *, seed: int, device: str = "cpu", precision: str = "fp32", **options: Any) -> Any:
    """An open_clip model with the initial weights that open_clip draws at this seed, in train mode.

    Torch's own random state is left as it was. Downloads nothing for a model that is known by name alone.

    Args:
        precision: of open_clip (``fp32``, ``amp``, ``amp_bf16``, ``bf16``, ``fp16``, ...).
        options: passed to ``open_clip.create_model``, e.g. ``force_patch_dropout``.
    Raises:
        ValueError: an unknown name; the nearest are suggested.
    """
    import torch

    name = _checked_name(name)
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        model = _open_clip().create_model(
            name, precision=precision, device=device, output_dict=True, pretrained_text=False, **options
        )
    return model


def load_model(name: str, pretrained: str | None = None, *, device: str = "cpu", precision: str = "fp32") -> ClipModel:
    """A CLIP model with its validation transform and tokenizer.

    Args:
        name: an open_clip architecture, ``dcfast-tiny``, or open_clip's ``local-dir:DIR`` and ``hf-hub:ORG/REPO``.
        pretrained: an open_clip tag; a path to a ``.pt`` (``{"state_dict": ...}`` as open_clip's training writes it,
            or the bare state) or ``.safetensors`` file; None for the initial weights of seed 0 (an untrained model).
    Raises:
        ValueError: an unknown name or tag; the nearest are suggested.
        CheckpointError: the file is of another architecture; says which parameters differ.
        CorruptDataError: the file is cut off or no checkpoint.
    """
    open_clip = _open_clip()
    name = _checked_name(name)
    from open_clip.transform import PreprocessCfg, image_transform_v2

    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        model = create_model(name, seed=0, device=device, precision=precision)
        source = name if name.startswith(_SCHEMAS) else "untrained, seed 0"
        content_hash = weights_hash(model)
    elif pretrained in tags and not os.path.exists(pretrained):
        model = open_clip.create_model(name, pretrained, precision=precision, device=device, output_dict=True)
        source, content_hash = f"open_clip tag {pretrained}", weights_hash(model)
    else:
        path = Path(pretrained)
        if not path.is_file():
            near = difflib.get_close_matches(pretrained, tags, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"pretrained {pretrained!r} is neither a file nor a tag of {name}{hint} "
                f"(its tags: {', '.join(tags) or 'none'})"
            )
        content = read_checkpoint(path)
        model = create_model(name, seed=0, precision=precision)
        load_weights(model, content, path, name)
        model = model.to(device)
        source, content_hash = str(path), sha256_file(path)
    model.eval()
    tokenizer = load_tokenizer(name)
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    size = model.visual.image_size
    return ClipModel(
        model=model,
        preprocess=transform,
        tokenizer=tokenizer,
        name=name,
        source=source,
        content_hash=content_hash,
        embed_dim=_embed_dim(model, tokenizer, device),
        image_size=int(size[0] if isinstance(size, (tuple, list)) else size),
    )


def _embed_dim(model: Any, tokenizer: Callable[[list[str]], Tensor], device: str) -> int:
    import torch

    with torch.no_grad():  # one caption: every kind of text tower answers the same way
        return int(model.encode_text(tokenizer([""]).to(device)).shape[1])
