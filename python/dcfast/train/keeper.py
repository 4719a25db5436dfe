"""When a checkpoint is due: the state copied aside, and the thread that writes it, in the forms that are wanted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dcfast.train.checkpoint import KEPT_STEPS, checkpoint_content, gathered_content, write_checkpoint
from dcfast.train.learner import Learner
from dcfast.train.progress import Progress
from dcfast.train.ranks import Ranks
from dcfast.train.saving import Aside, Saver
from dcfast.train.sharded import SUFFIX, ShardedRecord, finish_shards, named_state, temporary_of, write_shards

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


class Keeper:
    """Checkpoints of one rank; all ranks call it alike.

    A model that is spread over the ranks is written in shards, and at the end of an epoch in open_clip's form beside
    them; any other in open_clip's form, by rank 0.

    Args:
        folder: of the checkpoints.   name: of the model.
        steps: of the training; after the last one nobody goes on, and there are no shards.
        saved: called on rank 0, by the thread that writes, when a checkpoint is on disk.
    """

    def __init__(
        self, folder: Path, name: str, learner: Learner, ranks: Ranks, steps: int, saved: Callable[[], None]
    ) -> None:
        self._saved = saved
        self._folder, self._name, self._learner, self._ranks, self._steps = folder, name, learner, ranks, steps
        self._saver = Saver(rests=ranks.device == "cpu")
        self._aside = Aside()
        self._group: ProcessGroup | None = None  # the thread's own: the ranks talk in theirs meanwhile
        if learner.is_sharded:
            import torch.distributed as dist

            self._group = cast("ProcessGroup", dist.new_group(backend="gloo"))

    @property
    def failed(self) -> Callable[[], bool]:
        """Whether the last write has failed, on this rank."""
        return self._saver.failed

    @property
    def before_update(self) -> Callable[[], None]:
        """To be called before the optimizer changes the state."""
        return self._aside.before_update

    def is_idle(self) -> bool:
        """Whether all that was to be saved is on disk, as far as this rank writes it."""
        return self._saver.is_idle()

    def wait(self) -> None:
        """Until the last checkpoint is on disk; where that failed, the error is raised on every rank."""
        with self._ranks.together():
            self._saver.wait()

    def close(self) -> None:
        """As ``wait``, where another error ends the training."""
        self._saver.close()

    def save(self, epoch: int, whole: bool, progress: Progress) -> None:
        """Begins a checkpoint, after the one before it is on disk.

        Args:
            epoch: checkpoints of the recipe done; ``whole``: with this one.
        """
        self.wait()
        writes: list[Callable[[], None]] = []
        if self._learner.is_sharded and progress.step < self._steps:
            writes.append(self._shards(epoch, progress))
        if whole or not self._learner.is_sharded:
            path = self._folder / (f"epoch_{epoch}.pt" if whole else f"step_{progress.step}.pt")
            writes += self._one_file(path, epoch, progress)

        def write() -> None:
            self._aside.wait()
            for each in writes:
                each()
            if self._ranks.rank == 0:
                self._saved()

        self._saver.start(write)
        self._ranks.barrier()

    def _one_file(self, path: Path, epoch: int, progress: Progress) -> list[Callable[[], None]]:
        first = self._ranks.rank == 0
        content: object = None
        if self._learner.is_sharded:
            parts = checkpoint_content(self._name, self._learner, epoch, progress)
            content = gathered_content(parts, self._learner, first)
        elif first:
            parts = checkpoint_content(self._name, self._learner, epoch, progress)
            content = self._aside.copy(parts, self._learner.updated())
        return [lambda: write_checkpoint(path, content, self._saver.rest)] if first else []

    def _shards(self, epoch: int, progress: Progress) -> Callable[[], None]:
        path = self._folder / f"step_{progress.step}{SUFFIX}"
        temporary = self._ranks.on_first(lambda: temporary_of(path))
        late = self._learner.updated()
        state = cast("dict[str, Tensor]", self._aside.copy(named_state(self._learner), late))
        scaler = {} if self._learner.scaler is None else dict(self._learner.scaler.state_dict())
        group = self._group
        assert group is not None

        def record(files: dict[str, str]) -> ShardedRecord:
            return ShardedRecord(epoch=epoch, name=self._name, files=files, dcfast=progress, scaler=scaler)

        def write() -> None:
            write_shards(temporary, state, group)
            if self._ranks.rank == 0:
                finish_shards(path, temporary, record, KEPT_STEPS)

        return write
