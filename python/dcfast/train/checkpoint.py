"""Checkpoints in the form of open_clip's training, whole or absent, and the latest whole one to go on from."""

from __future__ import annotations

import errno
import io
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dcfast.errors import CheckpointError, CorruptDataError
from dcfast.models.checkpoint import load_weights, read_checkpoint
from dcfast.storage.atomic import atomic_path
from dcfast.storage.records import as_record, plain
from dcfast.train.progress import Progress
from dcfast.train.settings import Identity, differences
from dcfast.train.sharded import SUFFIX, check_sharded, load_sharded, read_sharded_record
from dcfast.train.spread import MOMENTS, gathered, spread_optimizer

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from dcfast.train.learner import Learner
    from dcfast.train.ranks import Ranks

_LOG = logging.getLogger("dcfast.train")
_NAME = re.compile(r"(epoch|step)_(\d+)(\.pt|\.sharded)")
_UNREADABLE = (errno.EINVAL, errno.EIO)
"""Of something that is no file, and of a bad disk; a file that may not be read is no damaged one."""
_WRITTEN_AT_ONCE = 1 << 20
KEPT_STEPS = 2  # of the step_N.pt files


def checkpoint_content(name: str, learner: Learner, epoch: int, progress: Progress) -> dict[str, object]:
    """What a checkpoint holds: open_clip's keys, and ``dcfast`` with the progress; the tensors are the training's own.

    Args:
        name: of the model.   epoch: checkpoints of the recipe done.
    """
    content: dict[str, object] = {
        "epoch": epoch,
        "name": name,
        "state_dict": learner.bare.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "dcfast": plain(progress),
    }
    if learner.scaler is not None:
        content["scaler"] = learner.scaler.state_dict()
    return content


def gathered_content(content: dict[str, object], learner: Learner, keep: bool) -> dict[str, object]:
    """The same of a model that is spread over the ranks, whole, where it is to be kept; all ranks call it together."""
    scalars = learner.scalars
    model = gathered(content["state_dict"], keep, scalars)
    optimizer = cast("dict[str, Any]", content["optimizer"])
    names = {id(parameter): name for name, parameter in learner.bare.named_parameters()}
    order = [names[id(p)] for group in learner.optimizer.param_groups for p in group["params"]]
    state = {
        number: gathered(kept, keep, frozenset(MOMENTS) if order[number] in scalars else frozenset())
        for number, kept in optimizer["state"].items()
    }
    return {**content, "state_dict": model, "optimizer": {**optimizer, "state": state}}


def write_checkpoint(path: Path, content: object, rest: Callable[[], None] = lambda: None) -> None:
    """Writes a checkpoint atomically; the same state in containers of its own (``Aside``) is the same bytes. Of the
    ``step_N.pt`` beside it the last two are kept. Memory: nothing beyond the state.

    Args:
        rest: called after each piece of it.
    """
    import torch

    with atomic_path(path) as temporary:
        raw = _Remembering(temporary, "w")
        raw.rest = rest
        try:
            # to a file object: torch puts a path's name into the archive; with a large buffer, since each call of
            # Python's takes the interpreter from the steps
            with io.BufferedWriter(raw, _WRITTEN_AT_ONCE) as file:
                torch.save(content, file)
        except (RuntimeError, OSError):
            if raw.error is not None:
                raise raw.error from None
            raise
    steps = [p for p in path.parent.glob("step_*.pt") if _NAME.fullmatch(p.name)]
    # the new one stays: those of a larger number were passed over, being damaged
    steps.sort(key=lambda p: (p == path, int(p.stem[5:])))
    for older in steps[:-KEPT_STEPS]:
        if not older.is_dir():
            older.unlink()


class _Remembering(io.FileIO):
    """A file that keeps the error of a write: torch ends in one of its own then, which says nothing of a full disk."""

    error: OSError | None = None
    rest: Callable[[], None]

    def write(self, data: Buffer) -> int:
        try:
            written = super().write(data) or 0
        except OSError as error:
            self.error = self.error or error
            raise
        self.rest()
        return written


def load_checkpoint(path: Path, name: str, learner: Learner, identity: Identity, ranks: Ranks) -> Progress:
    """Loads model, optimizer and scaler; the progress. CheckpointError where it is of another training.

    All ranks call it together; a sharded one is read by parts, any other whole by each rank.
    """
    if path.suffix == SUFFIX:
        progress = _checked(path, plain(read_sharded_record(path).dcfast), identity)
        load_sharded(path, learner, ranks.control)
        return progress
    content = read_checkpoint(path)
    progress = _progress(path, content, identity)
    load_weights(learner.bare, content, path, name)
    learner.optimizer.load_state_dict(spread_optimizer(learner.optimizer, content["optimizer"]))
    if learner.scaler is not None and "scaler" in content:
        learner.scaler.load_state_dict(content["scaler"])
    return progress


def progress_of(path: Path, identity: Identity) -> Progress:
    """Where the training of a checkpoint stands. CheckpointError where it is another training."""
    if path.suffix == SUFFIX:
        return _checked(path, plain(read_sharded_record(path).dcfast), identity)
    return _progress(path, read_checkpoint(path), identity)


def _progress(path: Path, content: dict[str, Any], identity: Identity) -> Progress:
    own = content.get("dcfast")
    if not isinstance(own, dict) or "optimizer" not in content:
        raise CheckpointError(f"checkpoint {path} is not one of dcfast's training; move it away, or choose another out")
    return _checked(path, own, identity)


def _checked(path: Path, own: object, identity: Identity) -> Progress:
    departures = differences(own.get("identity", {}) if isinstance(own, dict) else {}, plain(identity))
    if departures:
        shown = "; ".join(f"{field.removeprefix('recipe.')}: {a!r} there, {b!r} now" for field, a, b in departures[:4])
        raise CheckpointError(f"checkpoint {path} is of another training ({shown}); choose another out, or remove it")
    return as_record(own, Progress, f"checkpoint {path}")


def checkpoints_by_age(folder: Path, boundaries: dict[int, int]) -> list[tuple[int, Path]]:
    """(steps done, path) of the checkpoints in a folder, latest first; ``boundaries``: epoch -> step."""
    by_step = []
    for path in [*folder.glob("*.pt"), *folder.glob(f"*{SUFFIX}")]:
        match = _NAME.fullmatch(path.name)
        if match is not None:
            number = int(match[2])
            by_step.append((boundaries.get(number, -1) if match[1] == "epoch" else number, path))
    # at the same step the sharded one comes first, of which each rank reads a part, and then the epoch's file
    order = sorted((item for item in by_step if item[0] >= 0), key=lambda item: (-item[0], item[1].name))
    return sorted(order, key=lambda item: (-item[0], item[1].suffix != SUFFIX))


def latest_checkpoint(
    folder: Path, boundaries: dict[int, int], *, set_aside: bool = True
) -> tuple[Path | None, list[str]]:
    """The latest checkpoint that can be read, and a note for each later one that cannot.

    A directory of that name, over which no checkpoint could be written, is given another name (``set_aside``).
    """
    notes = []
    for _, path in checkpoints_by_age(folder, boundaries):
        try:
            if path.suffix == SUFFIX:
                check_sharded(path)
            else:
                read_checkpoint(path)
        except IsADirectoryError:
            aside = path.with_name(f"{path.name}.aside")
            if set_aside:
                path.rename(aside)
            notes.append(f"checkpoint {path.name} is a directory and was passed over; its name is {aside.name} now")
        except (CorruptDataError, OSError) as error:
            if not isinstance(error, (CorruptDataError, FileNotFoundError)) and error.errno not in _UNREADABLE:
                raise
            notes.append(f"checkpoint {path.name} cannot be read and was passed over: {error}")
        else:
            return path, notes
        _LOG.warning("%s", notes[-1])
    return None, notes
