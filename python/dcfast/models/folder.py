"""The files of a model that brings its own (``local-dir:DIR``, ``hf-hub:ORG/REPO``): found, and looked at before use.

They are a stranger's as a checkpoint is: a configuration, weights, and perhaps a tokenizer or a text tower of
transformers. Those of the hub are fetched into its cache first, and then stand for a folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from dcfast.errors import CorruptDataError
from dcfast.models.checkpoint import check_checkpoint
from dcfast.models.config_limits import MOST_PARAMETERS, Table, check_model_config, check_tower_config, table
from dcfast.storage.inputs import check_input, read_input
from dcfast.storage.json_files import Json, parse_json, read_json

LOCAL, HUB = "local-dir:", "hf-hub:"
CONFIG = "open_clip_config.json"
MOST_CONFIG_BYTES = 1 << 20
MOST_TOKENIZER_BYTES = 128 << 20
"""Of each file of a tokenizer; that of Gemma has 34 MB."""
MOST_GROWTH = 256
"""Of a text by a tokenizer's normalizers; a blank becomes one character in those that are in use."""
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
)
_SLACK_BYTES = 1 << 20
"""Of parameters that open_clip makes itself where weights lack them (``logit_bias``)."""


@dataclass(frozen=True)
class ModelFolder:
    """A model's own files, its configuration looked at.

    Attributes:
        path: of the configuration.
        config: what it holds.
        repository: on the hub (``ORG/REPO``); None for a folder.
    """

    path: Path
    config: Table
    repository: str | None

    @property
    def model(self) -> Table:
        return table(self.config["model_cfg"], "model_cfg")

    @property
    def text(self) -> Table:
        return table(self.model["text_cfg"], "text_cfg")

    def text_name(self, key: str) -> str | None:
        """A name that it gives there; None where it gives none."""
        name = self.text.get(key)
        return name if isinstance(name, str) and name else None

    @contextmanager
    def as_read(self) -> Iterator[str]:
        """A name by which open_clip reads the configuration that was looked at, though the file be another by now."""
        with TemporaryDirectory(prefix="dcfast-") as folder:
            Path(folder, CONFIG).write_text(json.dumps(self.config), encoding="utf-8")
            yield f"{LOCAL}{folder}"


def find_folder(name: str) -> ModelFolder:
    """Where the configuration of a model lies, and what it holds; of one on the hub it is fetched.

    Raises:
        FileNotFoundError: no such folder, or none in it.
        CorruptDataError: it is no configuration, or asks for more than docs/limits.md says; names the key.
    """
    if name.startswith(HUB):
        repository = name.removeprefix(HUB)
        path = Path(_fetched(repository, CONFIG))
    else:
        repository, path = None, Path(name.removeprefix(LOCAL), CONFIG)
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"model folder {path.parent}: no such folder; expected one with {CONFIG} and weights"
            )
    try:
        config = read_json(path, "model configuration", most=MOST_CONFIG_BYTES)
    except FileNotFoundError:
        raise FileNotFoundError(f"model folder {path.parent} has no {CONFIG}; expected it and weights") from None
    with _named(path):
        check_model_config(config)
    return ModelFolder(path, config, repository)


def find_weights(folder: ModelFolder) -> Path | None:
    """The weights that open_clip takes, looked at; None where a folder has none. Errors: as ``read_checkpoint``."""
    from open_clip import factory

    if folder.repository is not None:
        weights = _fetched(folder.repository)
    else:
        weights = factory._find_checkpoint_in_dir(folder.path.parent)
    if weights is None:
        return None
    check_checkpoint(Path(weights))
    return Path(weights)


def tokenizer_folder(folder: ModelFolder) -> Path | None:
    """Where the files of a tokenizer of transformers lie, looked at; None where the tokenizer is open_clip's own.

    On the hub it may be that of another repository, as open_clip's own models name them.
    """
    repository = folder.text_name("hf_tokenizer_name")
    if repository is None:
        return None
    place = folder.path.parent
    if folder.repository is not None:
        from huggingface_hub import snapshot_download

        place = Path(snapshot_download(repository, allow_patterns=list(_TOKENIZER_FILES)))
    for path in (place / name for name in _TOKENIZER_FILES):
        if path.is_symlink() or path.exists():
            if (size := check_input(path).st_size) > MOST_TOKENIZER_BYTES:
                raise CorruptDataError(
                    f"{path} has {size:,} bytes; expected at most {MOST_TOKENIZER_BYTES:,} of a file of a tokenizer",
                    path=str(path),
                )
            with _named(path):
                if path.name == "tokenizer_config.json":
                    _check_tokenizer_config(_parsed(path))
                if path.name == "tokenizer.json":
                    _check_normalizers(read_input(path, MOST_TOKENIZER_BYTES))
    return place


def with_tower_here(folder: ModelFolder) -> ModelFolder:
    """The same where the configuration of its tower of transformers, which says how large it is, was looked at."""
    repository = folder.text_name("hf_model_name")
    if repository is None:
        return folder
    path = Path(_fetched(repository, "config.json"))
    with _named(path):
        check_tower_config(_parsed(path))
    text: Table = {**folder.text, "hf_model_name": str(path.parent)}
    return replace(folder, config={**folder.config, "model_cfg": {**folder.model, "text_cfg": text}})


def check_size(folder: ModelFolder, weights: Path | None) -> None:
    """CorruptDataError where a model has more parameters than its weights have bytes for, before memory is taken.

    It is built without numbers (torch's device ``meta``). Tables of positions do not count: open_clip makes them
    larger where the model's picture is larger than that of the weights. A tower of transformers that cannot be built
    so is held by the bounds of its configuration alone.
    """
    import open_clip
    import torch

    with folder.as_read() as name, torch.device("meta"):
        try:
            model = open_clip.create_model(name, device="meta", load_weights=False, pretrained_text=False)
        except Exception:
            if folder.text.get("hf_model_name"):
                return
            raise
    count = sum(value.numel() for key, value in model.named_parameters() if "positional_embedding" not in key)
    if weights is None and count > MOST_PARAMETERS:
        raise CorruptDataError(
            f"model configuration {folder.path} describes {count:,} parameters; expected at most {MOST_PARAMETERS:,} "
            "of a model without weights: put its weights beside it, or correct it",
            path=str(folder.path),
        )
    if weights is not None and 2 * count > (size := weights.stat().st_size) + _SLACK_BYTES:
        raise CorruptDataError(
            f"model configuration {folder.path} describes {count:,} parameters; {weights} has {size:,} bytes, too few "
            "for them at 2 bytes each: put the weights and the configuration of one model there",
            path=str(folder.path),
        )


def _fetched(repository: str, filename: str | None = None) -> str:
    """A file of the hub in its cache, as open_clip takes it: the weights where none is named."""
    from open_clip.pretrained import download_pretrained_from_hf

    return str(download_pretrained_from_hf(repository, filename=filename))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """A ValueError within becomes a CorruptDataError that names the file."""
    try:
        yield
    except CorruptDataError:
        raise
    except ValueError as error:
        raise CorruptDataError(f"model configuration {path}: {error}", path=str(path)) from None


def _parsed(path: Path) -> Json:
    # others write numbers of any length into theirs
    content: Json = parse_json(read_input(path, MOST_TOKENIZER_BYTES >> 3), as_it_is=True)
    return content


def _check_tokenizer_config(content: Json) -> None:
    if not isinstance(content, dict):
        raise ValueError("it is no object; expected one of settings of a tokenizer")
    for key, value in content.items():
        is_file = key.endswith("_file") and key != "special_tokens_map_file"  # old ones have it, and nothing reads it
        if is_file and isinstance(value, str) and value != Path(value).name:
            raise ValueError(f"{key} is {value!r:.60}, a file outside of its folder; take it out")


class _Tokenizer(msgspec.Struct):
    """What is looked at of ``tokenizer.json``, whose words may take 30 MB."""

    normalizer: Any = None  # a stranger's


def _check_normalizers(data: bytes) -> None:
    """ValueError where the normalizers of a tokenizer make a text more than ``MOST_GROWTH`` times as long."""
    try:
        steps, growth = [msgspec.json.decode(data, type=_Tokenizer).normalizer], 1
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"it is no tokenizer ({error})") from None
    while steps:
        step = steps.pop()
        if not isinstance(step, dict):
            continue
        inner = step.get("normalizers")
        steps += inner if isinstance(inner, list) else []
        pattern, made = step.get("pattern"), step.get("content", step.get("prepend"))
        if isinstance(made, str):
            exact = pattern.get("String") if isinstance(pattern, dict) else None
            growth *= max(1, -(-len(made) // max(1, len(exact))) if isinstance(exact, str) else len(made))
        if growth > MOST_GROWTH:
            raise ValueError(f"normalizer makes texts more than {MOST_GROWTH} times as long; take such steps out")


@contextmanager
def in_open_clip(**replaced: Callable[..., object]) -> Iterator[None]:
    """Functions of open_clip's factory are others within."""
    from open_clip import factory

    own = {name: getattr(factory, name) for name in replaced}
    try:
        vars(factory).update(replaced)
        yield
    finally:
        vars(factory).update(own)


def no_code_of_strangers(place: Path | None = None) -> AbstractContextManager[None]:
    """A model's configuration may ask that the tokenizer beside it be Python code: it is not run, whatever it says.

    ``place``: the folder of the tokenizer, whatever open_clip takes for it.
    """
    from open_clip import factory

    own: Callable[..., object] = factory.HFTokenizer

    def tokenizer(source: object, *given: object, **options: object) -> object:
        return own(source if place is None else place, *given, **{**options, "trust_remote_code": False})

    return in_open_clip(HFTokenizer=tokenizer)
