"""CLIP models by name: open_clip's, and ours of ``model_configs``; weights from a tag, a checkpoint, or a seed.

open_clip builds and runs every model; this module names what is wrong with a name or a file before anything is
trusted, and says which weights a model holds by their hash.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dcfast.errors import CorruptDataError, MissingDependencyError, did_you_mean
from dcfast.models.captions import Tokenizer, read_as_far_as_the_model
from dcfast.models.checkpoint import load_weights, read_checkpoint
from dcfast.models.folder import (
    HUB,
    LOCAL,
    ModelFolder,
    check_size,
    find_folder,
    find_weights,
    no_code_of_strangers,
    tokenizer_folder,
    with_tower_here,
)
from dcfast.models.library_errors import model_errors, quiet, tokenizer_errors, weights_errors
from dcfast.models.open_clip_weights import read_by_us
from dcfast.models.pixels import PixelTransform
from dcfast.process.compute import device_name
from dcfast.process.libraries import require_library
from dcfast.storage.hashing import sha256_file

if TYPE_CHECKING:
    import torch
    from open_clip import CLIP
    from PIL.Image import Image
    from torch import Tensor


_CLIP_WORDS = 49408
"""Of CLIP's tokenizer: what open_clip takes where a configuration does not say."""
_SCHEMAS = (LOCAL, HUB)


@dataclass(frozen=True)
class ClipModel:
    """A CLIP model ready to use.

    Attributes:
        model: the open_clip module, in eval mode, on its device; ``encode_image`` and ``encode_text``.
        preprocess: PIL picture -> float32 tensor (3, image_size, image_size); the validation transform.
        pixels: the same in two parts, with uint8 pixels between them.
        tokenizer: list of n strings -> int64 tensor (n, context length).
        name: of the architecture, e.g. ``ViT-B-32``.
        source: where the weights come from, in words: a path, an open_clip tag, or a seed.
        content_hash: SHA-256, 64 hex characters: of the checkpoint file, or of the weights where there is no file.
        embed_dim: width of an embedding.
        image_size: side of the square picture that the model takes, in pixels.
    Example: ``clip.model.encode_text(clip.tokenizer(["a red square"])).shape[1] == clip.embed_dim``
    """

    model: torch.nn.Module
    preprocess: Callable[[Image], Tensor]
    pixels: PixelTransform
    tokenizer: Tokenizer
    name: str
    source: str
    content_hash: str
    embed_dim: int
    image_size: int


@cache
def _open_clip() -> ModuleType:
    try:
        import open_clip
    except ImportError as error:
        raise MissingDependencyError(
            f"CLIP models need open_clip, which cannot be imported ({error}); pip install 'dcfast[train]'"
        ) from error
    library: ModuleType = open_clip
    library.add_model_config(Path(__file__).parent / "model_configs")
    return library


def model_names() -> list[str]:
    """Every architecture that can be built by name, ours included.

    Example: ``"ViT-B-32" in model_names()``
    """
    return list(_open_clip().list_models())


def _checked_name(name: str) -> str:
    """The name as open_clip writes it; ValueError suggests the nearest."""
    if not isinstance(name, str):
        raise TypeError(f"model name must be a str; got {type(name).__name__}")
    if name.startswith(_SCHEMAS):
        if name in _SCHEMAS:
            raise ValueError(f"model name {name!r} names nothing; expected local-dir:DIR or hf-hub:ORG/REPO")
        return name
    known = model_names()
    name = name.replace("/", "-")
    if name in known:
        return name
    hint = did_you_mean(name, reversed(known), most=3, cutoff=0.5)
    raise ValueError(f"open_clip knows no model {name!r}{hint} ({len(known)} names: dcfast.models.model_names())")


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a model's state, hex; the order of the names is the model's."""
    import torch

    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        raw = value.detach().cpu().contiguous().flatten()
        digest.update(f"{name}\0{raw.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(raw.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def require_model(name: str, pretrained: str | None = None) -> None:
    """Looks for all that ``load_model`` needs, so that what is missing is said before hours of other work.

    Weights behind a tag that are not in the cache of the model hub are fetched now; a file is left unread.

    Raises:
        MissingDependencyError: a library, the weights or the tokenizer are not here and cannot be fetched.
        ValueError: an unknown name; the nearest are suggested.
    """
    open_clip = _open_clip()
    name = _checked_name(name)
    if name.startswith(_SCHEMAS):
        load_model(name)  # such a name brings configuration, weights and tokenizer along
        return
    config = open_clip.get_model_config(name)
    parts = (("vision_cfg", "timm_model_name", "timm"), ("text_cfg", "hf_model_name", "transformers"))
    for tower, key, library in parts:
        if key in config[tower]:
            require_library(library, f"model {name}", f"pip install {library}")
    load_tokenizer(name)
    if pretrained is not None and not os.path.isfile(pretrained):
        _check_tag(name, pretrained)
        with weights_errors(name, pretrained):
            open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, pretrained))


def _check_tag(name: str, tag: str) -> None:
    """ValueError where a model has no weights of this tag; the nearest are suggested."""
    tags = _open_clip().list_pretrained_tags_by_model(name)
    if tag in tags:
        return
    hint = did_you_mean(tag, tags)
    raise ValueError(
        f"pretrained {tag!r} is neither a file nor a tag of {name}{hint} (its tags: {', '.join(tags) or 'none'})"
    )


def needs_quick_gelu(name: str, tag: str) -> bool:
    """Whether a tag's weights were trained with QuickGELU, and the architecture of this name computes without.

    open_clip would only warn, and compute other scores.
    """
    open_clip, name = _open_clip(), _checked_name(name)
    if name.startswith(_SCHEMAS) or not (open_clip.get_pretrained_cfg(name, tag) or {}).get("quick_gelu"):
        return False
    return not open_clip.get_model_config(name).get("quick_gelu")


def model_config(name: str) -> dict[str, Any]:  # Any: open_clip's, of many kinds of towers
    """The configuration of an architecture (``embed_dim``, ``vision_cfg``, ``text_cfg``, ...), a copy.

    ValueError: an unknown name; the nearest are suggested.   A folder's: as ``find_folder``.
    """
    name = _checked_name(name)
    config = dict(find_folder(name).model) if name.startswith(_SCHEMAS) else _open_clip().get_model_config(name)
    return {**config}


@cache
def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a model: list of n strings -> int64 (n, context length).

    A config of ours may ask for ``bpe_merges``: CLIP's own byte-pair merges, the first so many of them. Merges are
    ordered by how often they are used, so a small model keeps a small vocabulary.
    ValueError: an unknown name.   Cost: read once a process and kept.
    Example: ``load_tokenizer("dcfast-tiny")(["a red square"]).shape[0] == 1``
    """
    open_clip = _open_clip()
    name = _checked_name(name)
    if name.startswith(_SCHEMAS):
        return read_as_far_as_the_model(_own_tokenizer(name))
    config = open_clip.get_model_config(name)["text_cfg"]
    merges = (config.get("tokenizer_kwargs") or {}).get("bpe_merges")
    if merges is None:
        with tokenizer_errors(name), no_code_of_strangers():
            return read_as_far_as_the_model(open_clip.get_tokenizer(name))
    from open_clip.tokenizer import SimpleTokenizer

    with tempfile.TemporaryDirectory(prefix="dcfast-") as folder:
        path = Path(folder) / "bpe.txt.gz"
        path.write_bytes(shortened_merges(merges))
        short = SimpleTokenizer(bpe_path=str(path), context_length=config["context_length"])
    if short.vocab_size != config["vocab_size"]:
        raise ValueError(
            f"model {name}: vocab_size {config['vocab_size']} in its config; its merges give {short.vocab_size}"
        )
    return read_as_far_as_the_model(short)


def shortened_merges(merges: int) -> bytes:
    """The first of CLIP's byte-pair merges, as open_clip reads them: gzip, the same bytes each time."""
    from open_clip.tokenizer import default_bpe

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line, _ in zip(file, range(merges + 1), strict=False)]  # a heading, then merges
    return gzip.compress("\n".join(lines).encode(), mtime=0)


def _own_tokenizer(name: str) -> Tokenizer:
    """That of a model which brings its own files."""
    with nullcontext() if name.startswith(LOCAL) else tokenizer_errors(name):
        folder = find_folder(name)
        place = tokenizer_folder(folder)
    with tokenizer_errors(name), folder.as_read() as read, no_code_of_strangers(place):
        tokenizer: Tokenizer = _open_clip().get_tokenizer(read)
    tokens, rows = getattr(tokenizer, "vocab_size", 0), folder.text.get("vocab_size") or _CLIP_WORDS
    if isinstance(rows, int) and tokens > rows:
        raise CorruptDataError(
            f"model configuration {folder.path}: model_cfg.text_cfg.vocab_size is {rows:,}; CLIP's tokenizer writes "
            f"{tokens:,} tokens; give the number that the model was trained with",
            path=str(folder.path),
        )
    return tokenizer


def create_model(name: str, *, seed: int, device: str = "cpu", precision: str = "fp32") -> CLIP:
    """An open_clip model with the initial weights that open_clip draws at this seed, in train mode.

    Torch's own random state is left as it was. Downloads nothing for a model that is known by name alone.

    Args:
        precision: of open_clip (``fp32``, ``amp``, ``amp_bf16``, ``bf16``, ``fp16``, ...).
    Raises:
        ValueError: an unknown name; the nearest are suggested.
    Memory: the parameters of the model.
    Example: ``create_model("dcfast-tiny", seed=3).visual``
    """
    import torch

    name = _checked_name(name)
    with torch.random.fork_rng(devices=[]), quiet(), ExitStack() as stack:
        own = _own_files(name) if name.startswith(_SCHEMAS) else None
        read = name
        stack.enter_context(model_errors(name))
        if own is not None:
            folder, weights = own
            checkpoint = None if weights is None else str(weights)
            read = stack.enter_context(folder.as_read())
            stack.enter_context(read_by_us(name, _find_checkpoint_in_dir=lambda _: checkpoint))
        torch.manual_seed(seed)
        return _open_clip().create_model(
            read, precision=precision, device=device, output_dict=True, pretrained_text=False
        )


def _own_files(name: str) -> tuple[ModelFolder, Path | None]:
    """Configuration and weights of a model that brings them, looked at; a name on the hub stands for its weights."""
    with nullcontext() if name.startswith(LOCAL) else model_errors(name):
        folder = find_folder(name)
        weights = find_weights(folder)
    with model_errors(name):
        folder = with_tower_here(folder)
        check_size(folder, weights)
    return folder, weights


def load_model(
    name: str, pretrained: str | None = None, *, device: str | torch.device = "cpu", precision: str = "fp32"
) -> ClipModel:
    """A CLIP model with its validation transform and tokenizer.

    Args:
        name: an open_clip architecture, ``dcfast-tiny``, or open_clip's ``local-dir:DIR`` and ``hf-hub:ORG/REPO``.
        pretrained: an open_clip tag; a path to a ``.pt`` (``{"state_dict": ...}`` as open_clip's training writes it,
            or the bare state) or ``.safetensors`` file; None for the initial weights of seed 0 (an untrained model).
        device: "cpu", "cuda" or "cuda:N", or a torch.device.
    Raises:
        ValueError: an unknown name or tag; the nearest are suggested.
        CheckpointError: the weights are of another architecture; says which parameters differ.
        CorruptDataError: a file is cut off or no checkpoint, or a folder's configuration asks for more than
            docs/limits.md says.
        FileNotFoundError: no such folder, or no configuration in it.
        MissingDependencyError: weights or tokenizer are not here and cannot be fetched, or need another library.
    Cost: one read of a file to load it and one for its hash; a tag's weights are hashed in memory.
    Example: ``load_model("dcfast-tiny", device="cpu").embed_dim``
    """
    open_clip = _open_clip()
    name, device = _checked_name(name), device_name(device)
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        model = create_model(name, seed=0, device=device, precision=precision)
        source = name if name.startswith(_SCHEMAS) else "untrained, seed 0"
        content_hash = weights_hash(model)
    elif pretrained in tags and not os.path.isfile(pretrained):
        quick = needs_quick_gelu(name, pretrained)
        with weights_errors(name, pretrained), read_by_us(name):
            model = open_clip.create_model(
                name, pretrained, precision=precision, device=device, output_dict=True, force_quick_gelu=quick
            )
        source, content_hash = f"open_clip tag {pretrained}", weights_hash(model)
    else:
        path = Path(pretrained)
        if not path.is_file():
            _check_tag(name, pretrained)
        content = read_checkpoint(path)
        model = create_model(name, seed=0, precision=precision)
        load_weights(model, content, path, name)
        model = model.to(device)
        source, content_hash = str(path), sha256_file(path)
    model.eval()
    tokenizer = load_tokenizer(name)
    with torch.no_grad():  # one caption: every kind of text tower answers the same way
        embedding = model.encode_text(tokenizer([""]).to(device))
    size = model.visual.image_size
    return ClipModel(
        model=model,
        preprocess=image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False),
        pixels=PixelTransform.of_config(model.visual.preprocess_cfg),
        tokenizer=tokenizer,
        name=name,
        source=source,
        content_hash=content_hash,
        embed_dim=int(embedding.shape[1]),
        image_size=int(size[0] if isinstance(size, (tuple, list)) else size),
    )
