"""Training: open_clip's ``train_one_epoch`` called for one stretch between saved steps after the other.

A stretch is what lies between two checkpoints. open_clip's loop counts steps within the stretch; the shim below gives
it our batches, and a scheduler that adds the steps done before. Optimizer, checkpoints and resume are ours.
"""

from __future__ import annotations

import logging
import time
from argparse import Namespace
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.process.advance import tell_advance
from dcfast.process.signals import postponed
from dcfast.rundir.training_summary import LogLine
from dcfast.storage.atomic import write_json
from dcfast.train.batch import Batch, BatchSpec
from dcfast.train.checkpoint import latest_checkpoint, load_checkpoint
from dcfast.train.control import POLL_SECONDS, Control
from dcfast.train.evaluating import Evaluations
from dcfast.train.feed import Feed
from dcfast.train.journal import append_records, drop_later_lines
from dcfast.train.keeper import Keeper
from dcfast.train.learner import Learner
from dcfast.train.loader import iterate_batches
from dcfast.train.objective import NonFiniteLossError, WatchedLoss
from dcfast.train.progress import Progress, RankCount
from dcfast.train.ranks import Ranks
from dcfast.train.reporters import Reports
from dcfast.train.stretch import Pair, StretchData, take_steps
from dcfast.train.telling import Telling
from dcfast.uids.sets import uid_format

if TYPE_CHECKING:
    import torch

    from dcfast.scales import Scale
    from dcfast.train.settings import Identity, TrainSettings

_LOG = logging.getLogger("dcfast.train")


def num_steps(samples_seen: int, global_batch: int) -> int:
    """Steps of a recipe: the whole number nearest to samples / batch (exact at every scale but xlarge), at least 1."""
    return max(1, (2 * samples_seen + global_batch) // (2 * global_batch))


def boundaries(steps: int, checkpoints: int) -> dict[int, int]:
    """Checkpoint ("epoch") K -> the step after which it is saved; the last is after the last step.

    With fewer steps than checkpoints, those that would be the same as the next one are left out.
    """
    ends = {k: steps * k // checkpoints for k in range(1, checkpoints + 1)}
    return {k: end for k, end in ends.items() if end > 0 and (k == checkpoints or end < ends[k + 1])}


class Trainer:
    """One rank of a training, from ``step`` to ``steps``.

    Args:
        folder: ``OUT/train``.
        workers: threads that make batches.
        on_step: called with the number of each step as it is taken.
        begun: called when the first step of this start is done.
    Attributes:
        step: steps done.   notes: for the summary.
        by_pillow: pictures of this start that the core left to Pillow, by kind.
        saved: called on rank 0 when a checkpoint is there.
    """

    def __init__(
        self, spec: BatchSpec, ranks: Ranks, folder: Path, learner: Learner, workers: int,
        on_step: Callable[[int], None], begun: Callable[[], None],
    ) -> None:  # fmt: skip
        self.spec: BatchSpec = spec
        self.settings: TrainSettings = spec.settings
        self.recipe: Scale = spec.recipe
        self.ranks: Ranks = ranks
        self.folder: Path = folder
        self.learner: Learner = learner
        self.workers: int = workers
        self.on_step: Callable[[int], None] = on_step
        self.begun: Callable[[], None] = begun
        self.saved: Callable[[], None] = lambda: None
        self.identity: Identity = self.settings.identity([source.fingerprint for source in spec.sources])
        self.control: Control = Control(spec, ranks, folder)
        self.steps: int = num_steps(self.recipe.samples_seen, self.recipe.global_batch)
        self.epochs: dict[int, int] = boundaries(self.steps, self.recipe.checkpoints)
        self.step: int = 0
        self.notes: list[str] = []
        self.by_pillow: Counter[str] = Counter()
        self.batches: Feed | None = None
        self.telling: Telling = Telling(folder, ranks, self.steps, self.recipe.global_batch, self._tell)
        self._reports: Reports | None = None
        self._evaluations: Evaluations | None = None
        self._to_score: deque[tuple[int, Path]] = deque()  # steps and checkpoints that are not scored yet
        self._keeper = Keeper(
            folder / "checkpoints", self.recipe.model, learner, ranks, self.steps, lambda: self.saved()
        )
        self.control.failed = self._keeper.failed
        self._recent: deque[npt.NDArray[np.void]] = deque(maxlen=2 * self.settings.accumulation)  # uids of batches
        self._stepped = self._resumed_at = 0  # steps begun, and those done before this start
        self._buffers: dict[str, torch.Tensor] = {}  # of the model, as the step began
        self._on_ranks: list[RankCount] = []

    # --- data -------------------------------------------------------------------------------------------------------
    def take(self) -> Batch:
        """The next batch; noted are its uids, for a loss that fails, and on disk its replacements and what DALI refused
        of it."""
        assert self.batches is not None
        batch = next(self.batches)
        self._recent.append(batch.uids)
        self.by_pillow += batch.by_pillow
        self.control.take(batch)
        append_records(self.folder / f"replaced-{self.ranks.rank:05d}.jsonl", batch.replaced)
        append_records(self.folder / f"refused-{self.ranks.rank:05d}.jsonl", batch.refused)
        return batch

    # --- resume -----------------------------------------------------------------------------------------------------
    def resume(self) -> None:
        """Goes on from the latest whole checkpoint, if there is one; what was logged after it is forgotten."""
        latest, notes = self.ranks.on_first(lambda: latest_checkpoint(self.folder / "checkpoints", self.epochs))
        self.notes += notes
        before: list[RankCount] = []
        if latest is not None:
            with self.ranks.together():
                done = load_checkpoint(latest, self.recipe.model, self.learner, self.identity, self.ranks)
            self.step, before = done.step, done.ranks
            self.control.resume(done.step, done.samples_seen, done.replaced)
        self._resume_ranks(before)
        if self.ranks.rank == 0:
            if latest is not None:
                self._say_resumed(latest.name)
            for name in ("log.jsonl", "evaluations.jsonl"):
                drop_later_lines(self.folder / name, self.step)
            # there may have been more ranks before; they number steps from 0
            for path in [*self.folder.glob("replaced-*.jsonl"), *self.folder.glob("refused-*.jsonl")]:
                drop_later_lines(path, self.step - 1)
            for path in self.folder.glob("nonfinite-*.json"):  # of an earlier start: it says nothing about this one
                path.unlink()
        self.ranks.barrier()

    def _say_resumed(self, checkpoint: str) -> None:
        """To the log of a training by itself, and to a run, which shows no such log."""
        done = f"step {self.step:,} of {self.steps:,}"
        where = f"train: goes on from {checkpoint}, {done}"
        _LOG.info("  %s", where)
        tell_advance(self.step, self.steps, "steps", done, where)  # not samples: the rate is that of the steps to come

    def _resume_ranks(self, before: list[RankCount]) -> None:
        """Notes where another number of ranks goes on: the samples are the same, the weights not quite."""
        now = RankCount(self.step, self.ranks.world_size, self.settings.accumulation)
        ended = self.step == self.steps
        goes_on = before and (ended or (before[-1].ranks, before[-1].accumulation) == (now.ranks, now.accumulation))
        self._on_ranks = before if goes_on else [*before, now]
        for earlier, later in pairwise(self._on_ranks):
            self.notes.append(
                f"steps up to {later.first_step} on {earlier.ranks} ranks with {earlier.accumulation} micro-batches, "
                f"from then on on {later.ranks} with {later.accumulation}: the samples are those of any number of "
                "ranks; the weights are neither's exactly"
            )
            if self.ranks.rank == 0:
                _LOG.warning("%s", self.notes[-1])

    # --- the steps --------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """All that is left to do.

        Raises:
            NonFiniteLossError: the uids of the batch are in ``nonfinite-RANK.json``.
            SubsetError: too many samples were replaced.
        """
        if self.step < self.steps:
            self._steps_left()
        # the last checkpoint is there: with more allowed the same command is done
        self.control.end(self.steps)

    def _steps_left(self) -> None:
        ends = set(self.epochs.values())
        if self.settings.save_every_steps is not None:
            ends |= set(range(self.settings.save_every_steps, self.steps, self.settings.save_every_steps))
        self._resumed_at = saved = self.step
        if self.ranks.rank == 0:
            self._begin_telling()
        self.batches = iterate_batches(self.spec, self.step, self.steps, self.workers, self.ranks.device)
        self.learner.optimizer.register_step_pre_hook(lambda *_: self._before_update())
        with postponed() as self.control.asked:
            for end in sorted(e for e in ends if e > self.step):
                while self.step < end:
                    self._stretch(end)
                    self.control.count()
                    if self.step > saved:
                        self._save()
                        saved = self.step
                    if self.control.stop is not None:
                        self._keeper.wait()
                    self.control.saved()
                    self.begun()
            self._keeper.wait()

    def _begin_telling(self) -> None:
        settings = self.settings
        config = {**asdict(self.recipe), "seed": settings.seed, "ranks": self.ranks.world_size}
        self._reports = Reports(settings.report_to or (), self.folder, self.step, config)
        if settings.evaluate_on is not None:
            kind = "cpu" if self.ranks.device == "cpu" else "cuda"
            words = ["--model", self.recipe.model, "--evalsets", settings.evaluate_on, "--device", kind]
            words += ["--sets", ",".join(settings.evaluate_sets)] if settings.evaluate_sets else []
            self._evaluations = Evaluations(self.folder, words, self._tell_scores)

    def _tell(self, line: LogLine) -> None:
        values = {
            "loss": line.loss, "learning_rate": line.learning_rate, "logit_scale": line.logit_scale, "wait": line.wait,
            "memory": line.memory, "gradient_norm": line.gradient_norm, "replaced": line.replaced,
            "ranks": line.world_size, "samples_seen": line.samples_seen,
        }  # fmt: skip
        if self._reports is not None:
            self._reports.tell(line.step, {f"train/{k}": v for k, v in values.items() if v is not None})

    def _tell_scores(self, step: int, scores: Mapping[str, float]) -> None:
        if self._reports is not None:  # not at the checkpoint's own step: some take no step behind the last one
            self._reports.tell(max(step, self._stepped), {f"eval/{key}": score for key, score in scores.items()})

    def _look_at_scores(self) -> None:
        """Begins to score a checkpoint that is on disk by now, and tells of one that has been."""
        if self._evaluations is not None:
            self._evaluations.look()
            if self._to_score and self._keeper.is_idle() and self._evaluations.is_idle():
                self._evaluations.start(*self._to_score.popleft())

    def finish_scores(self) -> None:
        """Waits for the scores that are wanted and not there yet; no other rank needs to wait."""
        while self._evaluations is not None:
            self._evaluations.finish()
            if not self._to_score:
                break
            self._look_at_scores()

    def _before_update(self) -> None:
        """Each step, when its gradients are there and before the optimizer changes anything."""
        self._keeper.before_update()
        if self.telling.awaits_gradients:
            known = self.ranks.rank == 0 or self.learner.is_sharded
            self.telling.complete(self.learner.gradient_norm() if known else None)

    def close(self) -> None:
        """Ends whoever makes batches, which takes seconds where they hang, and waits for a checkpoint's last bytes."""
        if self.batches is not None:
            self.batches.close()
        if self._evaluations is not None:
            self._evaluations.close()
        self._keeper.close()
        if self._reports is not None:
            self._reports.close()

    def all_ready(self, micro: int, *, first: bool) -> bool:
        """Waits until every rank has its next batch, and begins the step with the first of it; False where the model
        is to be saved instead, which is that of the last finished step then.

        Args:
            micro: number of the batch within its step.
            first: it is the first of a stretch: no checkpoint is due.
        """
        assert self.batches is not None
        step = self._stepped - (micro > 0)
        while True:
            since = time.monotonic()
            ready = self.batches.ready(POLL_SECONDS)
            self.telling.waited += time.monotonic() - since
            everyone = self.control.meet(ready)
            if micro == 0 and (self.control.stop is not None or (self.control.due and not first)):
                return False
            if everyone:
                break
            if self.control.stop is not None:
                self._forget_step()
                return False
            self.control.look(step + 1, self.batches.waited, step == self._resumed_at)
        if micro == 0:
            self._begin_step()
        return True

    def _begin_step(self) -> None:
        import torch

        step = self._stepped
        self.control.begin(step)
        # what a model draws itself (patch dropout) begins anew with each step: no matter where training was resumed
        torch.manual_seed(((self.settings.seed << 20) + (step << 8) + self.ranks.rank) & ((1 << 63) - 1))
        self._stepped += 1
        if self.settings.accumulation > 1:  # batch statistics follow each micro-batch, all else the whole step
            self._buffers = {name: buffer.clone() for name, buffer in self.learner.bare.named_buffers()}

    def _forget_step(self) -> None:
        """Of a step whose next micro-batch does not come: as if it had not been begun."""
        self.control.forget()
        self._stepped -= 1
        for name, buffer in self.learner.bare.named_buffers():
            buffer.copy_(self._buffers[name])

    def _stretch(self, end: int) -> None:
        from open_clip_train.scheduler import cosine_lr

        first, learner, recipe = self.step, self.learner, self.recipe
        self._stepped = first
        cosine = cosine_lr(learner.optimizer, recipe.learning_rate, recipe.warmup_steps, self.steps)
        watched = WatchedLoss(
            learner.loss, self.settings.accumulation, first, lambda step, scale: self._after(step, scale, watched)
        )
        arguments = Namespace(
            device=self.ranks.device,
            precision=recipe.precision,
            accum_freq=self.settings.accumulation,
            rank=self.ranks.rank,
            local_rank=self.ranks.local_rank,
            world_size=self.ranks.world_size,
            batch_size=self.spec.micro_batch,
        )
        count = (end - first) * self.settings.accumulation
        data = StretchData(count, (end - first) * recipe.global_batch, self._batches(count))
        try:
            take_steps(
                learner.model, data, watched, learner.optimizer, learner.scaler,
                lambda step: cosine(first + step), arguments,
            )  # fmt: skip
            watched.check()
        except NonFiniteLossError as error:
            raise self._stopped(error) from None
        self.telling.complete()
        self.step = self._stepped

    def _batches(self, count: int) -> Iterator[Pair]:
        """The micro-batches of a stretch; it may end early, after any step."""
        for number in range(count):
            micro = number % self.settings.accumulation
            if number and not micro:
                self.begun()
            if not self.all_ready(micro, first=number == 0):
                return  # the model is to be saved now
            batch = self.take()
            images = batch.images.to(self.ranks.device, non_blocking=True)
            yield Pair(self.learner.normalised(images), batch.tokens)

    def _after(self, step: int, scale: torch.Tensor, watched: WatchedLoss) -> None:
        """Once a step, after its loss and before its gradients."""
        done = step + 1
        self.on_step(step)
        self._look_at_scores()
        self.telling.step(done, self.control.replaced)
        if done % self.settings.log_every and done != self.steps and step != 0:
            return
        watched.check()
        self.control.count()
        line = LogLine(
            step=done,
            samples_seen=self.control.samples_seen,
            loss=watched.mean(step),
            learning_rate=self.learner.optimizer.param_groups[0]["lr"],
            logit_scale=float(scale.detach()),
            replaced=self.control.replaced,
        )
        watched.values.clear()
        self.telling.line(line)

    def _stopped(self, error: NonFiniteLossError) -> NonFiniteLossError:
        """Saves the uids of the batches that may be to blame, and says where."""
        path = self.folder / f"nonfinite-{self.ranks.rank:05d}.json"
        # the batch that the loss was of; on a GPU the loss is looked at one step later
        batches = list(self._recent)[-self.settings.accumulation if self.ranks.device == "cpu" else 0 :]
        uids = [text for batch in batches for text in uid_format(batch, as_list=True, threads=1)]
        write_json(path, {"step": error.step, "rank": self.ranks.rank, "problem": str(error), "uids": uids})
        return NonFiniteLossError(
            f"{error}; training stopped. The {len(uids)} uids of the batch are in {path}; look at them, or at the "
            "learning rate and the precision",
            error.step,
        )

    def _save(self) -> None:
        """Copies the state aside, which a thread writes while the steps go on; waits for the checkpoint before it."""
        epoch = max((k for k, end in self.epochs.items() if end <= self.step), default=0)
        progress = Progress(
            step=self.step,
            samples_seen=self.control.samples_seen,
            replaced=self.control.replaced,
            identity=self.identity,
            ranks=self._on_ranks,
        )
        whole, every = self.step in self.epochs.values(), self.settings.evaluate_every
        self._keeper.save(epoch, whole, progress)
        if whole and self._evaluations is not None and every is not None and epoch % every == 0:
            self._to_score.append((self.step, self.folder / "checkpoints" / f"epoch_{epoch}.pt"))
