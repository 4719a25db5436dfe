"""Zero-shot scores between checkpoints (``--evaluate-every``): a process beside the training, which goes on meanwhile.

The process is ``python -m dcfast.evaluate``. Its scores become lines of ``evaluations.jsonl`` and are told to the
reporters. One that fails is said, and ends nothing.
"""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from dcfast.errors import first_line
from dcfast.rundir.training_summary import EvaluationLine
from dcfast.storage.inputs import read_input
from dcfast.storage.json_files import read_json_lines
from dcfast.storage.lines import MOST_TEXT_BYTES
from dcfast.storage.records import Record, as_record
from dcfast.train.journal import append_records

_LOG = logging.getLogger("dcfast.train")


def check_evaluations(directory: str | None) -> None:
    """ValueError before work where there is no directory of evaluation sets."""
    if directory is not None and not any(path.is_dir() for path in Path(directory).glob("*")):
        raise ValueError(
            f"evaluate_on {directory}: no directory with evaluation sets; expected one that holds wds_*_test, as for "
            "dcfast evaluate --evalsets"
        )


class _Scored(Record):
    """Of a line of eval_results.jsonl what is told on."""

    key: str
    score: float | None = None
    error: str | None = None
    metrics: dict[str, float | None] = {}

    @property
    def told(self) -> float | None:
        value = self.metrics.get("main_metric") if self.score is None else self.score
        return value if self.error is None and value is not None and math.isfinite(value) else None


def read_scores(path: Path) -> dict[str, float]:
    """Main metric by the key of each set that was scored; empty where the file is not there, or no such file."""
    found: dict[str, float] = {}
    with suppress(OSError, ValueError):
        for line in read_json_lines(path):
            with suppress(ValueError):
                scored = as_record(line, _Scored, str(path))
                if scored.told is not None:
                    found[scored.key] = scored.told
    return found


class Evaluations:
    """At most one evaluation at a time, on rank 0.

    Args:
        folder: ``OUT/train``.   words: of the command, but for the checkpoint and where its results go.
        told: called with the step and the scores of each evaluation.
    """

    def __init__(self, folder: Path, words: list[str], told: Callable[[int, Mapping[str, float]], None]) -> None:
        self._folder, self._words, self._told = folder, words, told
        self._process: subprocess.Popen[bytes] | None = None
        self._of = (0, "")  # step and checkpoint

    @property
    def _place(self) -> Path:
        return self._folder / "evaluations" / self._of[1].removesuffix(".pt")

    def start(self, step: int, checkpoint: Path) -> None:
        """Begins to score a checkpoint that is on disk, where none is at work."""
        self._of = (step, checkpoint.name)
        command = [sys.executable, "-m", "dcfast.evaluate", "--quiet", *self._words]
        command += ["--checkpoint", str(checkpoint), "--out", str(self._place)]
        try:
            self._place.mkdir(parents=True, exist_ok=True)
            with open(self._place / "evaluate.log", "wb") as said:
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        except OSError as error:  # no room for it, or no memory
            self._say_why(first_line(error))

    def is_idle(self) -> bool:
        """Whether no evaluation is at work, or told of yet."""
        return self._process is None

    def look(self) -> None:
        """Tells of an evaluation that has ended meanwhile."""
        if self._process is not None and self._process.poll() is not None:
            self.finish()

    def finish(self) -> None:
        """Waits for the evaluation that is at work, and tells of it."""
        if self._process is None:
            return
        status = self._process.wait()
        self._process = None
        step, name = self._of
        scores = read_scores(self._place / "eval_results.jsonl")
        if not scores:
            said: list[str] = []
            with suppress(OSError):
                said = read_input(self._place / "evaluate.log", MOST_TEXT_BYTES).decode("utf-8", "replace").split("\n")
            self._say_why(next((line for line in reversed(said) if line.strip()), f"exit status {status}"))
            return
        append_records(self._folder / "evaluations.jsonl", [EvaluationLine(step=step, checkpoint=name, scores=scores)])
        shown = ", ".join(f"{key} {score:.3f}" for key, score in sorted(scores.items())[:4])
        _LOG.info("  train: scores of %s: %s%s", name, shown, ", ..." if len(scores) > 4 else "")
        self._told(step, scores)

    def _say_why(self, why: str) -> None:
        _LOG.warning("  train: %s was not scored, the training goes on: %s", self._of[1], why)

    def close(self) -> None:
        """Ends an evaluation that is at work: the training has failed, or was stopped."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
