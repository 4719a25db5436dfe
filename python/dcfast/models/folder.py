"""The folder of a model (``local-dir:DIR``), which open_clip reads itself: looked at before it does.

It is a stranger's as a checkpoint is: a configuration, weights, and perhaps a tokenizer of transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcfast.errors import CorruptDataError
from dcfast.models.checkpoint import check_checkpoint
from dcfast.storage.json_files import read_json

__all__ = ["check_config", "check_weights", "no_code_of_strangers"]

MOST_CONFIG_BYTES = 1 << 20


def check_config(path: Path) -> None:
    """CorruptDataError where a model's configuration is not what open_clip may read, or names a file to it."""
    found = read_json(path, "model configuration", most=MOST_CONFIG_BYTES)
    try:
        given = found["model_cfg"]["text_cfg"].get("tokenizer_kwargs") or {}
    except (KeyError, TypeError, AttributeError):
        return  # open_clip says what it lacks
    if "bpe_path" in given:
        raise CorruptDataError(
            f"model configuration {path} names a file of its tokenizer (bpe_path), of any size and anybody's; "
            "take bpe_path out of its tokenizer_kwargs",
            path=str(path),
        )


def check_weights(folder: Path) -> None:
    """Raises what ``read_checkpoint`` does of the file of weights that open_clip takes; none where there is none."""
    from open_clip import factory

    weights = factory._find_checkpoint_in_dir(folder) if folder.is_dir() else None
    if weights is not None:
        check_checkpoint(Path(weights))


@contextmanager
def no_code_of_strangers() -> Iterator[None]:
    """A model's configuration may ask that the tokenizer beside it be Python code: it is not run, whatever it says."""
    from open_clip import factory as theirs

    factory: Any = theirs
    own = factory.HFTokenizer
    factory.HFTokenizer = lambda *given, **options: own(*given, **{**options, "trust_remote_code": False})
    try:
        yield
    finally:
        factory.HFTokenizer = own
