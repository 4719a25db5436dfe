"""The slowest of some training steps while a checkpoint is being written, beside that of the same steps alone.

A step is forward, loss, backward and AdamW's update of a CLIP model. Before the first one the state is copied aside,
which counts as a part of it, and a thread writes the copy while the steps go on. What is checked: the file holds the
weights of before the first step, and the steps' losses are those of the steps alone.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench import harness
from bench.bars import CHECKPOINTED, Value
from bench.harness import Side, Timed, WrongAnswerError

MODEL, BATCH, QUICK_BATCH = "dcfast-tiny", 128, 8
"""A recipe's own: what a checkpoint takes does not grow with the batch, what a step takes does."""
STEPS, QUICK_STEPS = 10, 2


class Training:
    """A model with its optimizer, one batch, and what writes checkpoints of it to a folder."""

    def __init__(self, name: str, batch: int, folder: Path) -> None:
        import torch
        from dcfast.models.clip import create_model
        from dcfast.scales import scale
        from dcfast.train.learner import create_optimizer
        from dcfast.train.objective import create_loss
        from dcfast.train.saving import Aside, Saver

        self.model, self.path = create_model(name, seed=0), folder / "epoch_1.pt"
        self.optimizer = create_optimizer(self.model, scale("small"))
        self.loss = create_loss("open_clip", 0, 1)
        size = self.model.visual.image_size
        side = size[0] if isinstance(size, (tuple, list)) else size
        self.images = torch.randn(batch, 3, side, side)
        self.tokens = torch.randint(1, 400, (batch, self.model.context_length))
        self.saver, self.aside = Saver(rests=True), Aside()
        self.step()  # the optimizer has its moments from its first step on
        self.first = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))

    @property
    def bytes(self) -> int:
        import torch

        kept = [value for state in self.optimizer.state.values() for value in state.values()]
        return sum(t.nbytes for t in [*self.model.parameters(), *kept] if isinstance(t, torch.Tensor))

    def begin(self) -> None:
        """The state after the first step, and no write at work: each turn does the same."""
        self.saver.wait()
        model, optimizer = copy.deepcopy(self.first)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = self.loss(**self.model(self.images, self.tokens))
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def slowest(self, steps: int, begin: Callable[[], None]) -> Timed:
        """Seconds of the slowest of some steps, and their losses; ``begin`` is called within the first."""
        losses, seconds = [], []
        for number in range(steps):
            since = time.perf_counter()
            if number == 0:
                begin()
            losses.append(self.step())
            seconds.append(time.perf_counter() - since)
        return Timed(max(seconds), losses)

    def save(self) -> None:
        from dcfast.train.checkpoint import write_checkpoint

        content = {"state_dict": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        copied = self.aside.copy(content, set())
        self.saver.start(lambda: write_checkpoint(self.path, copied, self.saver.rest))

    def check(self, provider: str, expected: list[float], losses: list[float]) -> None:
        import torch
        from dcfast.models.checkpoint import read_checkpoint

        harness.require_equal(provider, "losses", losses, expected)
        self.saver.wait()
        if provider != CHECKPOINTED:
            return
        saved = read_checkpoint(self.path)["state_dict"]
        if not all(torch.equal(saved[name], value) for name, value in self.first[0].items()):
            raise WrongAnswerError(f"{provider}: the checkpoint holds other weights than those of before the step")


def time_steps(bench: harness.Bench) -> None:
    import torch

    batch, steps = (QUICK_BATCH, QUICK_STEPS) if bench.options.quick else (BATCH, STEPS)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(MODEL, batch, Path(folder))
        training.begin()
        expected = training.slowest(steps, lambda: None).answer
        sides = [
            Side(
                provider,
                partial(training.slowest, steps, begin),
                partial(training.check, provider, expected),
                training.begin,
                torch.get_num_threads(),
            )
            for provider, begin in (("dcfast", lambda: None), (CHECKPOINTED, training.save))
        ]
        shape = f"{MODEL}, {batch} pairs, the slowest of {steps} steps; {training.bytes / 1e6:.0f} MB of state"
        bench.compare("checkpointed_step", sides, shape=shape, dtype="float32", size_bytes=training.bytes)
        training.saver.wait()


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_checkpoint", argv, __doc__)
    bench = harness.Bench("bench_checkpoint", options)
    time_steps(bench)
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
