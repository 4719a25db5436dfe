"""Checkpoints in the form of open_clip's training, whole or absent, and the latest whole one to go on from."""

from __future__ import annotations

import errno
import io
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from dcfast.errors import CheckpointError, CorruptDataError
from dcfast.models.clip import load_weights, read_checkpoint
from dcfast.storage.atomic import atomic_path
from dcfast.train.settings import differences

__all__ = ["Progress", "latest_checkpoint", "load_checkpoint", "save_checkpoint"]

_LOG = logging.getLogger("dcfast.train")
_NAME = re.compile(r"(epoch|step)_(\d+)\.pt")
_UNREADABLE = (errno.EINVAL, errno.EIO)
"""Of something that is no file, and of a bad disk; a file that may not be read is no damaged one."""
_KEPT_STEPS = 2  # of the step_N.pt files


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Attributes:
        step: steps done.   epoch: checkpoints of the recipe done.
        samples_seen: counted as they were taken, over all ranks.
        replaced: of these, how many stand in for one that could not be used; -1 = not counted, by an older version.
        identity: what training it is, see ``TrainSettings.identity``.
        ranks: (first step, number of ranks, micro-batches a step) of each stretch on as many.
    """

    step: int
    epoch: int
    samples_seen: int
    replaced: int
    identity: dict[str, Any]
    ranks: list[list[int]]


def save_checkpoint(path: Path, name: str, model: Any, optimizer: Any, scaler: Any, progress: Progress) -> None:
    """Writes a checkpoint atomically: open_clip's keys, and ``dcfast`` with the progress. The same state is the same
    bytes. Memory: nothing beyond the state."""
    import torch

    content = {
        "epoch": progress.epoch,
        "name": name,
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "dcfast": {
            "step": progress.step,
            "samples_seen": progress.samples_seen,
            "replaced": progress.replaced,
            "identity": progress.identity,
            "ranks": progress.ranks,
        },
    }
    if scaler is not None:
        content["scaler"] = scaler.state_dict()
    with atomic_path(path) as temporary, open(temporary, "wb") as opened:
        file = _Remembering(opened)
        try:
            # to a file object: torch puts a path's name into the archive
            torch.save(_plain(content), cast(IO[bytes], file))
        except RuntimeError:
            if file.error is not None:
                raise file.error from None
            raise


class _Remembering(io.RawIOBase):
    """A file that keeps the error of a write: torch ends in one of its own then, which says nothing of a full disk."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


def _plain(value: Any) -> Any:
    """The same content in containers made anew: pickle writes shared objects otherwise than equal ones, and what is
    shared depends on whether the state was loaded from a file before."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_plain(item) for item in value])
    return sys.intern(value) if type(value) is str else value


def load_checkpoint(
    path: Path, name: str, model: Any, optimizer: Any, scaler: Any, identity: dict[str, Any]
) -> Progress:
    """Loads model, optimizer and scaler; the progress. CheckpointError where it is of another training."""
    content = read_checkpoint(path)
    own = content.get("dcfast")
    if not isinstance(own, dict) or "optimizer" not in content:
        raise CheckpointError(f"checkpoint {path} is not one of dcfast's training; move it away, or choose another out")
    _refuse_other(path, own.get("identity", {}), identity)
    load_weights(model, content, path, name)
    optimizer.load_state_dict(content["optimizer"])
    if scaler is not None and "scaler" in content:
        scaler.load_state_dict(content["scaler"])
    return Progress(
        int(own["step"]),
        int(content["epoch"]),
        int(own["samples_seen"]),
        int(own.get("replaced", -1)),
        identity,
        list(own.get("ranks", [])),
    )


def _refuse_other(path: Path, there: Any, now: dict[str, Any]) -> None:
    found = differences(dict(there), now)
    if found:
        said = "; ".join(f"{name.removeprefix('recipe.')}: {a!r} there, {b!r} now" for name, a, b in found[:4])
        raise CheckpointError(f"checkpoint {path} is of another training ({said}); choose another out, or remove it")


def _by_age(folder: Path, boundaries: dict[int, int]) -> list[tuple[int, Path]]:
    """(steps done, path) of the checkpoints in a folder, latest first; ``boundaries``: epoch -> step."""
    found = []
    for path in folder.glob("*.pt"):
        match = _NAME.fullmatch(path.name)
        if match is not None:
            number = int(match[2])
            found.append((boundaries.get(number, -1) if match[1] == "epoch" else number, path))
    # at the same step the epoch's file comes first
    return sorted((f for f in found if f[0] >= 0), key=lambda f: (-f[0], f[1].name))


def latest_checkpoint(folder: Path, boundaries: dict[int, int]) -> tuple[Path | None, list[str]]:
    """The latest checkpoint that can be read, and a note for each later one that cannot.

    A directory of that name, over which no checkpoint could be written, is given another name.
    """
    notes = []
    for _, path in _by_age(folder, boundaries):
        try:
            read_checkpoint(path)
        except IsADirectoryError:
            aside = path.rename(path.with_name(f"{path.name}.aside"))
            notes.append(f"checkpoint {path.name} is a directory and was passed over; its name is {aside.name} now")
        except (CorruptDataError, OSError) as error:
            if not isinstance(error, (CorruptDataError, FileNotFoundError)) and error.errno not in _UNREADABLE:
                raise
            notes.append(f"checkpoint {path.name} cannot be read and was passed over: {error}")
        else:
            return path, notes
        _LOG.warning("%s", notes[-1])
    return None, notes


def remove_old_steps(folder: Path) -> None:
    """Removes all but the last two ``step_N.pt``."""
    steps = sorted((p for p in folder.glob("step_*.pt") if _NAME.fullmatch(p.name)), key=lambda p: int(p.stem[5:]))
    for path in steps[:-_KEPT_STEPS]:
        if not path.is_dir():
            path.unlink()
