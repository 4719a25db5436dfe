"""The scores of a run, read from its ``eval_results.jsonl``: one number a task, and their mean."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from dcfast.errors import PoolError

__all__ = ["Scores", "read_scores"]


@dataclass(frozen=True)
class Scores:
    """What a trained model scored.

    Attributes:
        tasks: key -> main metric, 0..1; tasks without a main metric are not in it.
        chance: key -> the main metric of a guess, where it is known.
        unscored: keys of the tasks without a main metric.
    """

    tasks: dict[str, float]
    chance: dict[str, float] = field(default_factory=dict)
    unscored: tuple[str, ...] = ()

    @property
    def mean(self) -> float | None:
        """The mean of the main metrics, each task counting alike; None where there are none.

        Only means over the same tasks can be compared. It is DataComp's average only over all 38 of its tasks.
        """
        return math.fsum(self.tasks.values()) / len(self.tasks) if self.tasks else None


def read_scores(out: str | os.PathLike[str]) -> Scores:
    """The scores of a run directory; no tasks where nothing has been evaluated.

    Raises:
        PoolError: the file is there and cannot be read.
    """
    path = Path(out) / "eval_results.jsonl"
    tasks: dict[str, float] = {}
    chance: dict[str, float] = {}
    unscored = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return Scores({})
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            key, value, guess = str(row["key"]), row["metrics"].get("main_metric"), row.get("chance")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PoolError(
                f"{path}, line {number}: not a result of an evaluation; remove the file and run again"
            ) from None
        if value is None or not math.isfinite(value):
            unscored.append(key)
        else:
            tasks[key] = float(value)
            if guess is not None:
                chance[key] = float(guess)
    return Scores(tasks, chance, tuple(unscored))
