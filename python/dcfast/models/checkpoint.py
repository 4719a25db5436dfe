"""Checkpoint files: what they hold, read without running anything in them, and the weights of one in a model."""

from __future__ import annotations

import errno
import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcfast.errors import CheckpointError, CorruptDataError
from dcfast.models.checkpoint_costs import check_costs, error_text
from dcfast.storage.inputs import check_input, open_input, read_input
from dcfast.storage.zip_directory import open_zip

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_SHOWN = 4  # parameters an error message names
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""Parts of a name that torch.compile, FSDP, activation checkpointing and Lightning put before the module they wrap."""
_STATES = ("state_dict", "model", "module", "model_state_dict")
"""Under which trainers keep the weights in a checkpoint."""
_FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Types of weights; those of 8 bits and fewer have scales beside them, without which they are other numbers."""
_OPENAI_SIZES = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's own files keep among the weights; open_clip leaves them out, too."""


def read_checkpoint(path: str | os.PathLike[str], *, also: Sequence[type] = ()) -> dict[str, Any]:
    """What a checkpoint file holds: ``.safetensors``, or torch's own format read with ``weights_only``.

    No code in the file is ever run. Beside tensors, scalars and arrays of NumPy are read. Memory: the file's size,
    and twice that of safetensors, which are read and not mapped (``dcfast.models.checkpoint_costs``). Time: files of
    ``torch.save`` are read twice, first for the CRC-32 of what is in them; safetensors, and torch's format before 1.6,
    have none.

    Args:
        also: classes that may be in it beside; they must hold values and do nothing (``argparse.Namespace``).
    Raises:
        FileNotFoundError: no such file.
        CheckpointError: a TorchScript archive.
        CorruptDataError: it is cut off, damaged, no checkpoint, or would take more than its bytes.
    """
    source = Path(path)
    size = check_checkpoint(source, also)
    content = _loaded(source, size, also)
    if not isinstance(content, dict):
        raise _corrupt(source, f"holds a {type(content).__name__}; expected a dict with 'state_dict'")
    return content


def read_tensor(path: str | os.PathLike[str]) -> np.ndarray[Any, np.dtype[Any]]:
    """The one tensor of a file of ``torch.save``, as an array; errors and costs as ``read_checkpoint``."""
    import torch

    source = Path(path)
    content = _loaded(source, check_checkpoint(source), ())
    if not isinstance(content, torch.Tensor) or _kind(content):
        raise _corrupt(source, f"holds a {type(content).__name__}; expected one dense tensor")
    array: np.ndarray[Any, np.dtype[Any]] = content.detach().to(torch.float32).numpy()
    return array


def read_pickled(path: str | os.PathLike[str], key: str = "", *, most_pickle: int) -> np.ndarray[Any, np.dtype[Any]]:
    """The array of a file of ``torch.save``: a dense tensor or an array of NumPy, alone or under a key of a dict.

    Args:
        key: of a dict; a file that holds an array alone has it without.
        most_pickle: bytes of the pickle within, as which NumPy's arrays are written: of a process of its own alone, for
            it takes some times that in memory.
    Errors as ``read_checkpoint``. Types stay; bfloat16, which NumPy lacks, becomes float32.
    """
    import torch

    source = Path(path)
    content = _loaded(source, check_checkpoint(source, most_pickle=most_pickle), ())
    if isinstance(content, dict):
        if key not in content:
            keys = ", ".join(ascii(name)[:40] for name in [*content][:8])
            raise _corrupt(source, f"holds a dict with the keys {keys or 'none'}; expected {key or 'an array alone'}")
        content = content[key]
    if isinstance(content, torch.Tensor) and not _kind(content):
        content = content.detach()
        content = (content.float() if content.dtype == torch.bfloat16 else content).numpy()
    if not isinstance(content, np.ndarray):
        raise _corrupt(source, f"holds a {type(content).__name__}; expected an array of numbers")
    return content


def _corrupt(source: Path, problem: str) -> CorruptDataError:
    return CorruptDataError(f"checkpoint {source} {problem}", path=str(source))


def check_checkpoint(source: Path, also: Sequence[type] = (), *, most_pickle: int | None = None) -> int:
    """Its bytes. Raises what ``read_checkpoint`` does of a file before torch or safetensors read it."""
    try:
        size = check_input(source).st_size
    except FileNotFoundError:
        raise FileNotFoundError(f"checkpoint {source}: no such file; expected a .pt or .safetensors file") from None
    if size == 0:
        raise _corrupt(source, "is empty (0 bytes); it was never written whole")
    if _is_torchscript(source):
        raise CheckpointError(
            f"checkpoint {source} is a TorchScript archive, as OpenAI publishes its models: a program with its "
            "weights, and dcfast reads weights alone. Name the tag in its place (ViT-L-14:openai), or write the "
            "weights to a file once, by torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt'); OpenAI's own need "
            "an architecture with -quickgelu"
        )
    if other := _what_else(source):
        raise _corrupt(source, other)
    try:
        check_costs(source, frozenset(f"{kind.__module__}.{kind.__qualname__}" for kind in also), most_pickle)
    except ValueError as error:
        problem = f"is not read: {error}; save its state_dict anew, by torch.save or safetensors"
        raise _corrupt(source, problem) from error
    except zipfile.BadZipFile as error:
        problem = f"({size:,} bytes) cannot be read: {error}; it is cut off, damaged or no checkpoint"
        raise _corrupt(source, problem) from error
    return size


def _loaded(source: Path, size: int, also: Sequence[type]) -> object:
    """What torch or safetensors read; CorruptDataError."""
    import torch

    try:
        if source.suffix == ".safetensors":
            from safetensors.torch import load

            # its load_file maps the file: one that is cut meanwhile would end the interpreter
            return {"state_dict": load(read_input(source, size))}
        with torch.serialization.safe_globals([*_numpy_globals(), *also]):
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _corrupt(
            source,
            f"cannot be read as weights alone ({error_text(error)}): it is cut off or damaged, or holds other Python "
            "objects, which dcfast never loads: save its state_dict alone",
        ) from error
    except Exception as error:  # torch and safetensors raise many types for damaged files
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # torch seeks before the start
            raise
        problem = f"({size:,} bytes) cannot be read: {error_text(error)}; it is cut off, damaged or no checkpoint"
        raise _corrupt(source, problem) from error


def _numpy_globals() -> list[Callable[..., object] | tuple[Callable[..., object], str]]:
    """What a pickle names for numbers and arrays of NumPy: they hold bytes, and make nothing else.

    Not the dtype of Python objects: it would let an array hold what the file likes.
    """
    from numpy._core import multiarray  # NumPy 1.26 has it on demand alone

    def scalar(kind: np.dtype[np.generic], data: bytes) -> object:
        if kind.itemsize != len(data):  # NumPy takes as many bytes as the type says
            raise ValueError(f"a number of {kind.itemsize:,} bytes, of which {len(data):,} are there")
        return multiarray.scalar(kind, data)

    dtypes = [kind for name in np.dtypes.__all__ if (kind := getattr(np.dtypes, name)) is not np.dtypes.ObjectDType]
    called = {"scalar": scalar, "_reconstruct": multiarray._reconstruct}
    named = [(call, f"numpy.{core}.multiarray.{name}") for name, call in called.items() for core in ("core", "_core")]
    return [*named, np.dtype, np.ndarray, *dtypes]


def _is_torchscript(path: Path) -> bool:
    try:
        with open_zip(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def _what_else(path: Path) -> str:
    """What often lies where a checkpoint was meant to, and what to do; empty for all else."""
    with open_input(path) as file:
        begin = file.read(64)
    if begin.startswith(b"version https://git-lfs"):
        return "is a pointer of git-lfs in place of the file; fetch the file: git lfs pull"
    if begin.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "is a web page, perhaps of an error or a log-in; download the file again"
    if path.suffix != ".safetensors" and begin[8:10] == b'{"':
        return f"has the bytes of safetensors; name it {path.stem}.safetensors"
    return ""


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

    nested = next((content[key] for key in _STATES if isinstance(content.get(key), dict)), content)
    state = content.get("state_dict", nested)
    if isinstance(state, dict):  # a single number may be NumPy's
        state = {key: torch.from_numpy(np.array(value)) if _is_number(value) else value for key, value in state.items()}
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        keys = sorted(map(str, content))[:8]
        raise CheckpointError(
            f"checkpoint {path} holds no state_dict of tensors; its keys: {keys}. Save a model's state_dict()"
        )
    names = _without_wrappers([str(name) for name in state])
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise CheckpointError(
            f"checkpoint {path} has {twice[0]} twice, once with and once without the prefix of a wrapper: "
            "two models in one file? Save the state_dict of one"
        )
    return dict(zip(names, state.values(), strict=True))


def _of_the_model(state: dict[str, Tensor], expected: list[str], path: Path) -> dict[str, Tensor]:
    """The parameters below a prefix that has all of the model's: it was a part of what was trained (``model.``).

    What stands beside it, as the count of an average, is of others. CheckpointError where several prefixes have all.
    """
    if any(name in state for name in expected):
        return state
    ends = f".{expected[0]}"
    prefixes = [key.removesuffix(expected[0]) for key in state if key.endswith(ends)]
    whole = [prefix for prefix in prefixes if all(prefix + name in state for name in expected)]
    if len(whole) > 1:
        raise CheckpointError(f"checkpoint {path} holds several models ({', '.join(whole)}); save the weights of one")
    if not whole:
        return state
    return {key.removeprefix(whole[0]): value for key, value in state.items() if key.startswith(whole[0])}


def _is_number(value: object) -> bool:
    return isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind in "fiub"


def _kind(value: Tensor) -> str:
    """What a tensor is, where it is no plain array of numbers that are stored as they are; else empty."""
    if value.is_quantized:
        return "quantized"
    if value.is_meta:
        return "a shape without numbers"
    if value.is_nested or str(value.layout) != "torch.strided":
        return "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
    return ""


def load_weights(model: torch.nn.Module, content: dict[str, Any], path: str | os.PathLike[str], name: str) -> None:
    """Loads a checkpoint's weights, all or none; CheckpointError names the file, the model and what differs."""
    expected = model.state_dict()
    state = _of_the_model(_state_dict(content, Path(path)), list(expected), Path(path))
    if all(key in state and key not in expected for key in _OPENAI_SIZES):
        state = {key: value for key, value in state.items() if key not in _OPENAI_SIZES}
        if not name.endswith("-quickgelu"):
            raise CheckpointError(
                f"checkpoint {path} has OpenAI's weights, which were trained with QuickGELU; {name} has another "
                f"activation, and its scores would be wrong. Name the architecture {name}-quickgelu"
            )
    for key in {"logit_scale", "logit_bias"} & state.keys() & expected.keys():  # some keep them as vectors of one
        if state[key].numel() == expected[key].numel() == 1 and not _kind(state[key]):
            state = {**state, key: state[key].reshape(expected[key].shape)}
    differences = {
        "parameters differ in shape": [
            f"{key} is {list(state[key].shape)} there, {list(value.shape)} in {name}"
            for key, value in expected.items()
            if key in state and state[key].shape != value.shape
        ],
        "parameters are missing": [key for key in expected if key not in state],
        "are unknown to the model": [key for key in state if key not in expected],
    }
    problems = [
        f"{len(keys)} {problem}: {', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''}"
        for problem, keys in differences.items()
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"checkpoint {path} is of another architecture than {name}: {'; '.join(problems)}; name its own"
        )
    refuse_other_types(state, expected, path, name)
    model.load_state_dict(state)


def read_state(path: str | os.PathLike[str], *, also: Sequence[type] = ()) -> dict[str, Tensor]:
    """The weights of a checkpoint by name, without the prefixes of wrappers; otherwise as ``read_checkpoint``."""
    return _state_dict(read_checkpoint(path, also=also), Path(path))


def refuse_other_types(
    state: dict[str, Tensor], expected: dict[str, Tensor], path: str | os.PathLike[str], name: str
) -> None:
    """CheckpointError names the parameters that ``load_state_dict`` would cast or cannot copy."""
    problems = []
    for key, parameter in expected.items():
        if key not in state:
            continue
        dtype, own_dtype = (str(tensor.dtype).removeprefix("torch.") for tensor in (state[key], parameter))
        fits = dtype in _FLOATS if parameter.is_floating_point() else dtype == own_dtype
        if (kind := _kind(state[key])) or not fits:
            problems.append(f"{key} is {f'{kind} ({dtype})' if kind else dtype} there, {own_dtype} in {name}")
    if problems:
        more = f", and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
        raise CheckpointError(
            f"checkpoint {path} has other numbers than {name} takes: {', '.join(problems[:_SHOWN])}{more}; save its "
            "weights as they were trained, in 16 bits or more and dense"
        )
