"""Checkpoints of which each rank writes its part.

Such a checkpoint is a directory ``step_N.sharded``: files of safetensors, which torch's distributed checkpoint writes
and reads again on any number of ranks, and ``checkpoint.json`` with all that is no tensor and a hash of each file. The
metadata that torch would write beside them is a pickle; there is none. The directory has its name when it is whole.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dcfast.errors import CheckpointError, CorruptDataError
from dcfast.storage.atomic import write_json
from dcfast.storage.hashing import hash_file
from dcfast.storage.listing import temporary_name
from dcfast.storage.records import Record, plain, read_record
from dcfast.storage.whole import FULL, fsync, full_disk
from dcfast.train.progress import Progress
from dcfast.train.spread import MOMENTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import ProcessGroup

    from dcfast.train.learner import Learner

SUFFIX = ".sharded"
RECORD = "checkpoint.json"
_FILES = "*.safetensors"
_SHOWN = 4


class ShardedRecord(Record):
    """``checkpoint.json``.

    Attributes:
        epoch, name, scaler: as in a checkpoint of open_clip's form.
        files: the hash (XXH3-128) of each file of safetensors beside it.
    """

    epoch: int
    name: str
    files: dict[str, str]
    dcfast: Progress
    scaler: dict[str, float | int] = {}


def named_state(learner: Learner) -> dict[str, Tensor]:
    """Weights and moments by name, as they are spread; scalars as vectors of one, whether the model is spread or not.

    They are views: what is loaded into them is loaded into the model and the optimizer.
    """
    names = {id(parameter): name for name, parameter in learner.bare.named_parameters()}
    state = {f"model.{name}": value for name, value in learner.bare.state_dict().items()}
    for parameter, kept in learner.optimizer.state.items():
        state |= {f"optimizer.{names[id(parameter)]}.{name}": value for name, value in kept.items()}
    return {name: value.detach().reshape(1) if value.ndim == 0 else value.detach() for name, value in state.items()}


def temporary_of(path: Path) -> Path:
    """Where a checkpoint is written before it has its name; what a killed training leaves there goes at its next
    start."""
    return path.with_name(temporary_name(path.name))


def write_shards(temporary: Path, state: dict[str, Tensor], group: ProcessGroup) -> None:
    """Each rank's part, written by all ranks together. Memory: once more the part of a rank.

    Args:
        temporary: made here; the same on all ranks.
        group: of processes, by gloo, in which nobody else talks meanwhile.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    temporary.mkdir(parents=True, exist_ok=True)
    try:
        writer = HuggingFaceStorageWriter(str(temporary), save_distributed=True)
        save(cast("dict[str, Any]", state), storage_writer=writer, process_group=group)
    except CheckpointException as error:  # of all ranks' errors, none of which writes any more
        shutil.rmtree(temporary, ignore_errors=True)
        own = next((inner for inner, _ in error.failures.values() if isinstance(inner, OSError)), None)
        if own is None:
            raise
        raise (full_disk(own.errno, temporary) if own.errno in FULL else own) from None


def finish_shards(path: Path, temporary: Path, record: Callable[[dict[str, str]], ShardedRecord], kept: int) -> None:
    """On one rank, when all have written: the record, the name; of the directories beside it the last ``kept`` stay."""
    files = {file.name: hash_file(file) for file in sorted(temporary.glob(_FILES))}
    write_json(temporary / RECORD, plain(record(files)))
    if path.is_dir():
        shutil.rmtree(path)  # of a start whose later checkpoints could not be read
    fsync(temporary)
    os.rename(temporary, path)
    fsync(path.parent)
    # the new one stays: those of a larger number were passed over, being damaged
    older = sorted(path.parent.glob(f"step_*{SUFFIX}"), key=lambda folder: (folder == path, _step(folder)))
    for folder in older[:-kept]:
        shutil.rmtree(folder)


def _step(path: Path) -> int:
    number = path.name.removeprefix("step_").removesuffix(SUFFIX)
    return int(number) if number.isdecimal() else -1


def read_sharded_record(path: Path) -> ShardedRecord:
    """``checkpoint.json`` of a checkpoint."""
    return read_record(path / RECORD, ShardedRecord)


def check_sharded(path: Path) -> None:
    """Reads all of a checkpoint; CorruptDataError where a file of it is not the one that was written."""
    record, there = read_sharded_record(path), {file.name for file in path.glob(_FILES)}
    for name in sorted(there ^ record.files.keys()):
        raise CorruptDataError(f"checkpoint {path}: {name} is {'unknown' if name in there else 'gone'}", path=str(path))
    for name, expected in record.files.items():
        if hash_file(path / name) != expected:
            raise CorruptDataError(f"checkpoint {path}: {name} is damaged: another hash", path=str(path / name))


def load_sharded(path: Path, learner: Learner, group: ProcessGroup | None) -> ShardedRecord:
    """Loads weights, optimizer and scaler, spread over these ranks or whole; all ranks call it together.

    Raises:
        CheckpointError: it is of another model.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    record = read_sharded_record(path)
    _begin_optimizer(learner.optimizer)
    state = named_state(learner)
    reader = HuggingFaceStorageReader(str(path))
    for problem in _differences(reader.read_metadata().state_dict_metadata, state):
        raise CheckpointError(f"checkpoint {path} is of another model than {record.name}: {problem}; name its own")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one rank, as is meant
        load(cast("dict[str, Any]", state), storage_reader=reader, process_group=group, no_dist=group is None)
    if learner.scaler is not None and record.scaler:
        learner.scaler.load_state_dict(record.scaler)
    return record


def _differences(saved: dict[str, Any], state: dict[str, Tensor]) -> Iterator[str]:
    names = sorted(saved.keys() ^ state.keys())
    if names:
        yield f"{len(names)} tensors are there or here alone ({', '.join(names[:_SHOWN])})"
    for name in sorted(saved.keys() & state.keys()):
        if list(saved[name].size) != list(state[name].shape):
            yield f"{name} is {list(saved[name].size)} there, {list(state[name].shape)} here"


def _begin_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """What AdamW keeps of each parameter, as it is before its first step."""
    import torch

    for group in optimizer.param_groups:
        for parameter in group["params"]:
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            moments = {name: torch.zeros_like(parameter) for name in MOMENTS}
            optimizer.state[parameter] = {"step": step, **moments}
