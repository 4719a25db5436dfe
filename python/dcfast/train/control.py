"""What the ranks of a training decide together before a step: to take it, to save, to stop, or that it cannot go on.

Each rank says what it knows: whether it has its batch, a signal, the clock of rank 0, samples replaced. All read the
same sums, and so do the same. A rank that waits for its batch says so twice a second, and the others wait for its word
and not within the step: so all of them hear a signal, and can save, whatever one waits for.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dcfast.errors import SubsetError
from dcfast.process.signals import POSTPONED, Stopped
from dcfast.train.batch import Batch, BatchSpec
from dcfast.train.ranks import Ranks
from dcfast.train.replaced import allowed, replacement_reasons
from dcfast.train.settings import TrainSettings

POLL_SECONDS = 0.5
"""How long a rank waits for its batch until it speaks to the others, and they to it."""
_SHOWN_REASONS = 5
_FIRST_WORD = 6
"""Within this part of the time that a rank may wait for its data the others are told; then at twice the time each."""
_LOG = logging.getLogger("dcfast.train")


class Control:
    """Between the steps of one rank.

    Args:
        folder: ``OUT/train``, where replaced samples are recorded.
    Attributes:
        asked: the signal that asks for an end, or None (``signals.postponed``).
        failed: whether a checkpoint could not be written; then one is due, and whoever is to write it says why.
        samples_seen, replaced: over all ranks, since the training began, as far as they were told.
        due, stop: what ``meet`` heard last: it is time for a checkpoint; the signal that asks for the end, or None.
    """

    def __init__(self, spec: BatchSpec, ranks: Ranks, folder: Path) -> None:
        self.settings: TrainSettings = spec.settings
        self.ranks: Ranks = ranks
        self.folder: Path = folder
        self.asked: Callable[[], int | None] = lambda: None
        self.failed: Callable[[], bool] = lambda: False
        self.samples_seen: int = 0
        self.replaced: int = 0
        self.due: bool = False
        self.stop: int | None = None
        self._batch = spec.recipe.global_batch
        # of a window of the order, which begins at the same steps however often the training was stopped
        self._steps = -(-self.settings.block * self.settings.window // self._batch)
        self._window = (0, 0, 0)  # step, samples and replaced where it began
        self._before = (0, 0)  # samples and replaced before the step
        self._own = [0, 0]  # samples, and replaced, not yet told
        self._longest_told = 0.0  # the wait that was told of last
        self._saved = time.monotonic()

    def resume(self, step: int, samples_seen: int, replaced: int) -> None:
        """All ranks go on after ``step`` steps, within the window that was begun before.

        Args:
            replaced: -1 = not counted, by an older version.
        """
        first = step - step % self._steps
        everything, in_window = self.ranks.on_first(
            lambda: [len(replacement_reasons(self.folder, begin, step)) for begin in (0, first)]
        )
        self.samples_seen = samples_seen
        self.replaced = everything if replaced < 0 else replaced
        seen_before = samples_seen - (step - first) * self._batch
        self._window = (first, seen_before, max(0, self.replaced - in_window))

    def meet(self, ready: bool) -> bool:
        """Tells the others what this rank knows, and hears what they know; whether all have their batch.

        Args:
            ready: this rank has its own.
        """
        number = self.asked()
        due = self.ranks.rank == 0 and 0 < self.settings.save_every_minutes * 60 <= time.monotonic() - self._saved
        others_due, have, *came = self._summed(due or self.failed(), ready, *(number == signal for signal in POSTPONED))
        self.due = others_due > 0
        self.stop = next((signal for signal, ranks in zip(POSTPONED, came, strict=True) if ranks), self.stop)
        return have == self.ranks.world_size

    def _summed(self, *values: int) -> list[int]:
        """Of each number its sum over the ranks; adds up the samples that were not yet told, too."""
        seen, replaced, *sums = map(int, self.ranks.sums([float(value) for value in (*self._own, *values)]))
        self._own = [0, 0]
        self.samples_seen += seen
        self.replaced += replaced
        return sums

    def look(self, step: int, waited: float, first: bool) -> None:
        """Says now and then which rank waits for its data; the same RunError on each where it waits too long.

        Args:
            waited: seconds that this rank has waited without any data coming.
            first: it is the first step of this start: imports and a cold disk may take long.
        """
        waits = self.ranks.gather(waited)
        longest = max(waits)
        who = f"rank {waits.index(longest)}" if self.ranks.world_size > 1 else "the training"
        if 0 < self.settings.rank_timeout <= longest and not first:
            self.ranks.fail(
                f"step {step}: {who} has waited for training samples for {longest:.0f} s and none came: its loader was "
                "stopped or hangs, or the disk does not answer. Training ended; the same command goes on from the "
                "latest checkpoint"
            )
        if longest < self._longest_told:
            self._longest_told = 0.0  # that one is over
        if longest >= max((self.settings.rank_timeout or 60.0) / _FIRST_WORD, 2 * self._longest_told):
            self._longest_told = longest
            if self.ranks.rank == 0:
                _LOG.warning("  train: %s waits for training samples since %.0f s (step %d)", who, longest, step)

    def begin(self, step: int) -> None:
        """All ranks take a step now: it ends by itself, or ``forget`` is called."""
        self._before = (self.samples_seen, self.replaced)
        if step % self._steps == 0:
            self._check(step, *self._window)
            self._window = (step, *self._before)

    def end(self, step: int) -> None:
        """All steps are done: SubsetError where too many samples of the last window, or of all, were replaced.

        A training shorter than a window only counts them, unless none may be replaced.
        """
        if step < self._steps and self.settings.max_replaced > 0:
            return
        self._check(step, *self._window)
        self._check(step, 0, 0, 0)

    def forget(self) -> None:
        """The step that was begun last was not finished: its samples do not count."""
        self.samples_seen, self.replaced = self._before
        self._own = [0, 0]

    def take(self, batch: Batch) -> None:
        """Counts a batch of this rank that is about to be used."""
        self._own[0] += len(batch.uids)
        self._own[1] += len({record.slot for record in batch.replaced})

    def count(self) -> None:
        """Makes the counts those of all samples taken so far; called on all ranks at once."""
        self._summed()

    def saved(self) -> None:
        """A checkpoint has been written: the clock begins anew. Stopped where a signal asks for an end."""
        self._saved = time.monotonic()
        if self.stop is not None:
            raise Stopped(self.stop)

    def _check(self, step: int, first: int, seen_before: int, replaced_before: int) -> None:
        """SubsetError where too many of the samples from step ``first`` on were replaced; those before are given."""
        seen, replaced = self.samples_seen - seen_before, self.replaced - replaced_before
        share = self.settings.max_replaced
        most = allowed(share, seen, self._steps * self._batch)

        def refuse() -> None:
            counted = Counter(replacement_reasons(self.folder, first, step).values())
            reasons = ", ".join(f"{reason} ({count:,})" for reason, count in counted.most_common(_SHOWN_REASONS))
            raise SubsetError(
                f"step {step}: of the last {seen:,} samples {replaced:,} ({replaced / seen:.1%}) could not be used and "
                f"were replaced by others, more than max_replaced allows ({share:.1%}; {most:,} of so many). "
                f"Reasons: {reasons}. See replaced-*.jsonl; leave these samples out of the subset, or allow more"
            )

        if replaced > most:
            self.ranks.on_first(refuse)  # the others' lines lie beside its own
