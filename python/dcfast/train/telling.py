"""What a training says of its steps: lines of progress on screen, and of ``log.jsonl``."""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Callable
from pathlib import Path

from dcfast.process.advance import tell_advance
from dcfast.rundir.training_summary import LogLine
from dcfast.storage.records import replaced
from dcfast.train.journal import append_records
from dcfast.train.ranks import Ranks

_LOG = logging.getLogger("dcfast.train")
_SECONDS_BETWEEN_LINES = 10.0


class Telling:
    """The steps of a training, told on rank 0; all ranks call ``step`` and ``line`` alike.

    Args:
        steps: of the whole training.   batch: samples of a step.
        told: called on rank 0 with each line of the log.
    Attributes:
        waited: seconds that this rank has waited for its data so far; whoever waits adds to it.
        awaits_gradients: a line is not complete yet, for want of the length of its gradients; alike on all ranks.
    """

    def __init__(self, folder: Path, ranks: Ranks, steps: int, batch: int, told: Callable[[LogLine], None]) -> None:
        self.waited: float = 0.0
        self.awaits_gradients: bool = False
        self._log = folder / "log.jsonl"
        self._ranks, self._steps, self._batch, self._told = ranks, steps, batch, told
        self._line: LogLine | None = None
        self._logged = (time.monotonic(), 0.0)  # when the last line was, and what had been waited until then
        self._began = self._spoke = (0.0, 0, 0.0)  # the same of the lines on screen, with the step between
        self._speaks = False

    def step(self, done: int, replaced: int) -> None:
        """A step is being taken, after which ``done`` are: a line on screen now and then."""
        tell_advance(done * self._batch, self._steps * self._batch, "samples", f"step {done:,} of {self._steps:,}")
        now = (time.monotonic(), done, self.waited)
        if not self._speaks:  # the first step starts the workers: it is no measure
            self._speaks, self._began, self._spoke = True, now, now
        elif self._ranks.rank == 0 and now[0] - self._spoke[0] >= _SECONDS_BETWEEN_LINES:
            rate = (done - self._began[1]) / (now[0] - self._began[0])
            _LOG.info(
                "  train: step %d of %d, %.0f samples/s, about %.0f s left, wait %.0f%%%s",
                done,
                self._steps,
                rate * self._batch,
                (self._steps - done) / rate,
                100 * (self.waited - self._spoke[2]) / (now[0] - self._spoke[0]),
                f"; {replaced:,} samples replaced" if replaced else "",
            )
            self._spoke = now

    def line(self, line: LogLine) -> None:
        """A line of the log, whose ``loss`` is this rank's; of the others are their waiting, memory and loss added.

        It is written by ``complete``, when its gradients are known, or before the next one.
        """
        self.complete()
        now, (since, waited) = time.monotonic(), self._logged
        share = (self.waited - waited) / max(now - since, 1e-9)
        everyone = self._ranks.gather((line.loss, share, peak_memory(self._ranks.device)))
        self._logged = (now, self.waited)
        self.awaits_gradients = True
        if self._ranks.rank == 0:
            losses, shares, memory = zip(*everyone, strict=True)
            self._line = replaced(
                line,
                loss=sum(losses) / len(losses),
                wait=round(max(shares), 4),
                memory=max(memory),
                world_size=len(everyone),
                seconds=round(now - since, 3),
            )

    def complete(self, gradient_norm: float | None = None) -> None:
        """Writes the line that waits, if one does."""
        line, self._line, self.awaits_gradients = self._line, None, False
        if line is None:
            return
        if gradient_norm is not None and math.isfinite(gradient_norm):  # float16 overflows now and then
            line = replaced(line, gradient_norm=gradient_norm)
        append_records(self._log, [line])
        self._told(line)


def peak_memory(device: str) -> int:
    """Bytes that this process has taken at most: of the GPU, or of the machine where it trains on the CPU."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    import torch

    return int(torch.cuda.max_memory_reserved())
