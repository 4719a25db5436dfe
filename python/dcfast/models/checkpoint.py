"""Checkpoint files: what they hold, read without running anything in them, and the weights of one in a model."""

from __future__ import annotations

import errno
import os
import pickle
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcfast.errors import CheckpointError, CorruptDataError, first_line
from dcfast.storage.inputs import check_input, read_input

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["load_weights", "read_checkpoint"]

_SHOWN = 4  # parameters an error message names
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of a name that torch.compile, FSDP and activation checkpointing put before those of the module they wrap."""
_OPENAI_SIZES = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's own files keep among the weights; open_clip leaves them out, too."""


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint file holds: ``.safetensors``, or torch's own format read with ``weights_only``.

    No code in the file is ever run. Beside tensors, scalars and arrays of NumPy are read. Memory: the file's size,
    and twice that of safetensors, which are read and not mapped.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: a TorchScript archive.
        CorruptDataError: it is cut off, or no checkpoint.
    """
    import torch

    source = Path(path)
    try:
        size = check_input(source).st_size
    except FileNotFoundError:
        raise FileNotFoundError(f"checkpoint {source}: no such file; expected a .pt or .safetensors file") from None
    if size == 0:
        raise CorruptDataError(f"checkpoint {source} is empty (0 bytes); it was never written whole", path=str(source))
    if _is_torchscript(source):
        raise CheckpointError(_about_torchscript(source))
    try:
        if source.suffix == ".safetensors":
            from safetensors.torch import load

            # its load_file maps the file: one that is cut meanwhile would end the interpreter
            return {"state_dict": load(read_input(source, size))}
        with torch.serialization.safe_globals(_numpy_globals()):
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


def _numpy_globals() -> list[Any]:
    """What a pickle names for numbers and arrays of NumPy: they hold bytes, and make nothing else.

    Not the dtype of Python objects: it would let an array hold what the file likes.
    """
    multiarray = np._core.multiarray  # type: ignore[attr-defined]
    dtypes = [kind for name in np.dtypes.__all__ if (kind := getattr(np.dtypes, name)) is not np.dtypes.ObjectDType]
    named = [
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for core in ("core", "_core")
    ]
    return [*named, np.dtype, np.ndarray, *dtypes]


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def _about_torchscript(path: Path) -> str:
    return (
        f"checkpoint {path} is a TorchScript archive, as OpenAI publishes its models: a program with its weights, and "
        "dcfast reads weights alone. Name the tag in its place (ViT-L-14:openai), or write the weights to a file once, "
        "by torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt'); OpenAI's own need an architecture with "
        "-quickgelu"
    )


def _without_wrappers(names: list[str]) -> list[str]:
    """Names of parameters without what wrappers put before them, in any order and number.

    ``module.`` (DataParallel, DistributedDataParallel) is a prefix of all names; the others stand at any place of a
    name, where a part of the model was wrapped.
    """
    while True:
        before = names
        names = [".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in names]
        if names and all(name.startswith("module.") for name in names):
            names = [name.removeprefix("module.") for name in names]
        if names == before:
            return names


def _state_dict(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    import torch

    state = content.get("state_dict", content)
    if isinstance(state, dict):  # a single number may be NumPy's
        state = {key: torch.from_numpy(np.array(value)) if _is_number(value) else value for key, value in state.items()}
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        keys = sorted(map(str, content))[:8]
        raise CheckpointError(f"checkpoint {path} holds no state_dict of tensors; its keys: {keys}")
    names = _without_wrappers([str(name) for name in state])
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise CheckpointError(
            f"checkpoint {path} has {twice[0]} twice, once with and once without the prefix of a wrapper: "
            "two models in one file? Save the state_dict of one"
        )
    return dict(zip(names, state.values(), strict=True))


def _is_number(value: object) -> bool:
    return isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind in "fiub"


def load_weights(model: torch.nn.Module, content: dict[str, Any], path: str | os.PathLike[str], name: str) -> None:
    """Loads a checkpoint's weights, all or none; CheckpointError names the file, the model and what differs."""
    state = _state_dict(content, Path(path))
    expected = model.state_dict()
    if all(key in state and key not in expected for key in _OPENAI_SIZES):
        state = {key: value for key, value in state.items() if key not in _OPENAI_SIZES}
        if not name.endswith("-quickgelu"):
            raise CheckpointError(
                f"checkpoint {path} has OpenAI's weights, which were trained with QuickGELU; {name} has another "
                f"activation, and its scores would be wrong. Name the architecture {name}-quickgelu"
            )
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
