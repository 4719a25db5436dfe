"""The scores of a run, read from its ``eval_results.jsonl``: one number a task, and their mean.

Beside them, what they may be worth nothing for: samples of the training that are copies of evaluation pictures.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dcfast.errors import DcfastError, PoolError
from dcfast.evaluate.folders import set_name
from dcfast.evaluate.results import RESULTS, load_results, mean
from dcfast.evaluate.tasks import datacomp_tasks, find_tasks
from dcfast.rundir.summaries import KeptCopies
from dcfast.storage.records import Record, read_record

NAMED = 6
"""Evaluation sets that a sentence names."""


@dataclass(frozen=True)
class Scores:
    """What a trained model scored.

    Attributes:
        tasks: key -> main metric, 0..1; tasks without a main metric are not in it.
        chance: key -> the main metric of a guess, where it is known.
        unscored: keys of the tasks without a main metric.
        failed: key -> why the set could not be scored.
        limit: pictures of a set that were scored at most, where sets were not scored whole (``--limit``), else None.
    """

    tasks: dict[str, float]
    chance: dict[str, float] = field(default_factory=dict)
    unscored: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    limit: int | None = None

    @property
    def mean(self) -> float | None:
        """The mean of the main metrics, each task counting alike; None where there are none, or a set has failed.

        Only means over the same tasks can be compared. It is DataComp's average only over all 38 of its tasks.
        """
        return None if self.failed else mean(list(self.tasks.values()))


def read_scores(out: str | os.PathLike[str]) -> Scores:
    """The scores of a run directory; no tasks where nothing has been evaluated.

    Raises:
        PoolError: a line of the file is damaged.   OSError: the file is there and cannot be read.
    """
    path = Path(out) / RESULTS
    results, damaged = load_results(path)
    if damaged:
        raise PoolError(f"{path}, line {damaged[0]}: not a result of an evaluation; remove the file and run again")
    return Scores(
        tasks={result.key: result.score for result in results if result.score is not None},
        chance={r.key: r.chance for r in results if r.score is not None and r.chance is not None},
        unscored=tuple(result.key for result in results if result.score is None and result.error is None),
        failed={result.key: result.error for result in results if result.error is not None},
        limit=max((result.limit for result in results if result.limit is not None), default=None),
    )


@dataclass(frozen=True)
class Leaked:
    """Samples of a run's training that decontamination found to be copies of evaluation pictures.

    Attributes:
        samples: of any set that was compared, each once.
        tasks: key of a task -> samples that are copies of its set's pictures, 0 where there are none; tasks whose set
            was not compared are not in it.
    """

    samples: int
    tasks: dict[str, int] = field(default_factory=dict)

    @property
    def concerned(self) -> dict[str, int]:
        """The tasks whose scores are of a model that trained on copies of their pictures."""
        return {key: count for key, count in self.tasks.items() if count}

    @property
    def words(self) -> str:
        """``160 samples that are copies of evaluation pictures (flickr 160, cifar10 1)``, the sets with most first."""
        ordered = sorted(self.concerned.items(), key=lambda item: (-item[1], item[0]))
        named = ", ".join(f"{key} {count:,}" for key, count in ordered[:NAMED])
        more = f", {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
        copies = "samples that are copies of evaluation pictures"
        if self.samples == 1:
            copies = "sample that is a copy of an evaluation picture"
        return f"{self.samples:,} {copies}" + (f" ({named}{more})" if named else "")


class _Filtered(Record):
    """Of ``FilterSummary`` what is read here; nothing else in the file matters."""

    contaminated: KeptCopies | None = None


def read_leaked(out: str | os.PathLike[str], evalset_dir: Path | None) -> Leaked | None:
    """How many copies of evaluation pictures a run's training had; None where it was not looked for.

    Args:
        evalset_dir: of the run's evaluation sets, for the keys of their tasks.
    """
    try:
        counted = read_record(Path(out) / "state" / "filter.json", _Filtered).contaminated
    except (OSError, ValueError):
        return None
    if counted is None:
        return None
    keys = {set_name(task.directory): task.key for task in datacomp_tasks()}  # of sets whose tasks have another
    with suppress(DcfastError, OSError):  # gone since
        keys.update({set_name(f.name): task.key for task, f in find_tasks(evalset_dir)} if evalset_dir else {})
    return Leaked(counted.samples, {keys.get(name, name): count for name, count in counted.evalsets.items()})
