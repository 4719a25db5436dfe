"""What the ranks of a training decide together between two steps: to save, to stop, or that too much was replaced.

Each rank says once a step what it knows (a signal, the clock of rank 0, samples replaced); the sums are read a step
later, so that nobody waits for them. All ranks read the same, and so end the same step.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from dcfast.errors import SubsetError
from dcfast.process.signals import Stopped
from dcfast.train.batch import Batch, BatchSpec
from dcfast.train.ranks import Ranks, SumOverRanks

__all__ = ["Control"]

_SHOWN_REASONS = 5


@dataclass
class Control:
    """Between the steps of one rank.

    Attributes:
        save_minutes: between two checkpoints, by rank 0's clock; 0 = by the clock never.
        max_replaced: share of a window's samples that may be replaced.
        asked: the signal that asks for an end, or None (``signals.postponed``).
        samples_seen, replaced: over all ranks, since the training began, as far as ``count`` was told.
    """

    spec: BatchSpec
    ranks: Ranks
    save_minutes: float
    max_replaced: float
    asked: Callable[[], int | None] = lambda: None
    samples_seen: int = 0
    replaced: int = 0
    _reasons: Counter[str] = field(default_factory=Counter)
    _own: list[int] = field(default_factory=lambda: [0, 0])  # samples, and replaced, not yet told
    _sums: SumOverRanks | None = None
    _due: bool = False
    _stop: int | None = None
    _window: tuple[int, int] | None = None  # samples and replaced where the window began

    def __post_init__(self) -> None:
        self._saved = time.monotonic()

    def take(self, batch: Batch) -> None:
        """Counts a batch of this rank that is about to be used."""
        slots: dict[int, str] = {record["slot"]: record["reason"] for record in batch.replaced}
        self._reasons.update(slots.values())
        self._own[0] += len(batch.uids)
        self._own[1] += len(slots)

    def begin(self, step: int) -> None:
        """Says to the others what this rank knows, as a step begins."""
        self._check_window(step)
        number = self.asked()
        due = self.ranks.rank == 0 and 0 < self.save_minutes * 60 <= time.monotonic() - self._saved
        signals = [float(number == n) for n in (signal.SIGTERM, signal.SIGUSR1)]
        self._sums = SumOverRanks(self.ranks, [*signals, float(due), *map(float, self._own)])
        self._own = [0, 0]

    def ended(self) -> bool:
        """Whether the step that has just been done is the last before a checkpoint; reads what ``begin`` asked for."""
        self._read()
        return self._due or self._stop is not None

    def count(self) -> None:
        """Makes the counts those of all samples taken so far; called on all ranks at once."""
        self._read()
        self._add(*self.ranks.sums([float(n) for n in self._own]))
        self._own = [0, 0]

    def saved(self) -> None:
        """A checkpoint has been written: the clock begins anew. Stopped where a signal asks for an end."""
        self._saved, self._due = time.monotonic(), False
        if self._stop is not None:
            raise Stopped(self._stop)

    def _read(self) -> None:
        if self._sums is None:
            return
        term, usr1, due, seen, replaced = self._sums.result()
        self._sums = None
        self._add(seen, replaced)
        self._due = self._due or due > 0
        if term or usr1:
            self._stop = signal.SIGTERM if term else signal.SIGUSR1

    def _add(self, seen: float, replaced: float) -> None:
        self.samples_seen += int(seen)
        self.replaced += int(replaced)

    def _check_window(self, step: int) -> None:
        """SubsetError where too many samples of the window that has just ended were replaced."""
        batch = self.spec.global_batch
        steps = -(-self.spec.block * self.spec.window // batch)
        if step % steps:
            return
        begin, self._window = self._window, (self.samples_seen, self.replaced)
        reasons_here, self._reasons = self._reasons, Counter()
        if begin is None:
            return  # it began before this start of the training
        seen, replaced = self.samples_seen - begin[0], self.replaced - begin[1]
        if replaced <= self.max_replaced * seen:
            return
        reasons: Counter[str] = sum(self.ranks.gather(reasons_here), Counter())
        said = ", ".join(f"{reason} ({count:,})" for reason, count in reasons.most_common(_SHOWN_REASONS))
        problem = SubsetError(
            f"step {step}: of the last {seen:,} samples {replaced:,} ({replaced / seen:.1%}) could not be used and "
            f"were replaced by others, more than max_replaced allows ({self.max_replaced:.1%}). Reasons: "
            f"{said}. See replaced-*.jsonl; leave these samples out of the subset, or allow more"
        )
        raise self.ranks.known(problem)
