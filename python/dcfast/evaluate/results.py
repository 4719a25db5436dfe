"""Results on disk: a JSON line a task, all of one checkpoint, their one reader, and the averages that they allow."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcfast.evaluate.tasks import EvalTask, datacomp_tasks
from dcfast.storage.atomic import write_bytes
from dcfast.storage.inputs import read_input
from dcfast.storage.json_files import parse_json
from dcfast.storage.lines import split_lines

__all__ = [
    "AGGREGATES",
    "RESULTS",
    "Result",
    "ResultFile",
    "aggregate",
    "load_results",
    "mean",
    "number",
    "read_results",
    "write_results",
]

RESULTS = "eval_results.jsonl"
Line = dict[str, Any]

_SHIFTS = ("imagenet_sketch", "imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet")
_VTAB = (
    *(f"vtab/{name}" for name in ("caltech101", "cifar100", "clevr_count_all", "clevr_closest_object_distance", "dtd")),
    *(f"vtab/{name}" for name in ("eurosat", "kitti_closest_vehicle_distance", "flowers", "pets", "pcam", "resisc45")),
    *("vtab/svhn", "sun397"),
)
_RETRIEVAL = (
    "retrieval/flickr_1k_test_image_text_retrieval",
    "retrieval/mscoco_2014_5k_test_image_text_retrieval",
    "misc/winogavil",
)
AGGREGATES: dict[str, tuple[str, ...]] = {
    "ImageNet": ("imagenet1k",),
    "ImageNet dist. shifts": _SHIFTS,
    "VTAB": _VTAB,
    "Retrieval": _RETRIEVAL,
    "Average": (),  # all that have a main metric
}
"""DataComp's groups, by the keys of their tasks."""


def number(value: Any) -> float | None:
    """A finite number; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def mean(values: Sequence[float]) -> float | None:
    """The mean, correctly rounded; None of nothing."""
    return math.fsum(values) / len(values) if values else None


@dataclass(frozen=True)
class Result:
    """A line of a results file: what one checkpoint scored on one set.

    Attributes:
        key: of the task.   checkpoint: SHA-256, None where the line has none.   score: the main metric, None where the
            set has none.   chance: that of a guess.   state: of the files and the way of scoring: results of different
            states are not to be compared.   complete: of the whole set.   error: why the set could not be scored, None
        where it was.   line: as it stands in the file.
    """

    key: str
    checkpoint: str | None
    score: float | None
    chance: float | None
    dataset: str
    kind: str | None
    metric: str | None
    benchmark: bool
    complete: bool
    pictures: int | None
    unreadable: int | None
    notes: tuple[str, ...]
    state: str | None
    error: str | None
    line: Line

    @classmethod
    def of(cls, line: Any) -> Result:
        """A line as a result. ValueError: it lacks a key or metrics; other fields may be absent."""
        try:
            key, main = line["key"], line["metrics"].get("main_metric")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no result of an evaluation: {error!r}") from None
        notes = line.get("notes")
        counts = {n: line.get(n) if type(line.get(n)) is int else None for n in ("pictures", "unreadable")}
        return cls(
            key=str(key),
            checkpoint=None if line.get("checkpoint") is None else str(line["checkpoint"]),
            score=number(main),
            chance=number(line.get("chance")),
            dataset=str(line.get("dataset") or key),
            kind=line.get("kind"),
            metric=line.get("main_metric_name"),
            benchmark=bool(line.get("benchmark", False)),
            complete=bool(line.get("complete", True)),
            notes=tuple(map(str, notes)) if isinstance(notes, list) else (),
            state=line.get("state"),
            error=None if line.get("error") is None else str(line["error"]),
            line=line,
            **counts,
        )


@dataclass(frozen=True)
class ResultFile:
    """What a results file holds: the results in order, and the numbers (from 1) of lines that are none."""

    results: list[Result] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)


MOST_RESULTS_BYTES = 64 << 20


def load_results(path: str | os.PathLike[str]) -> ResultFile:
    """Reads a results file, nothing where there is none; a line that is cut off, not UTF-8 or no result is ``damaged``.

    Raises OSError: the file is there and cannot be read. Memory: the file.
    """
    try:
        lines = split_lines(read_input(path, MOST_RESULTS_BYTES))
    except FileNotFoundError:
        return ResultFile()
    found = ResultFile()
    for place, text in enumerate(lines, 1):
        try:
            found.results.append(Result.of(parse_json(text, any_number=True)))
        except ValueError:
            found.damaged.append(place)
    return found


def read_results(path: Path, checkpoint: str) -> dict[str, Line]:
    """The lines of a results file that are of this checkpoint, by task key; what is damaged is scored again."""
    return {found.key: found.line for found in load_results(path).results if found.checkpoint == checkpoint}


def write_results(path: Path, lines: Iterable[Line]) -> None:
    """Writes the file whole, so that a kill leaves the one before."""
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    write_bytes(path, text.encode("utf-8", "surrogatepass"))


def _whole_mean(keys: Sequence[str], results: dict[str, Result]) -> float | None:
    """None unless every key has a complete result. A plain sum: DataComp's averages keep the last digit they had."""
    scores = [results[key].score for key in keys if key in results and results[key].complete]
    values = [score for score in scores if score is not None]
    return sum(values) / len(values) if keys and len(values) == len(keys) else None


def aggregate(lines: Iterable[Result | Line], own: Sequence[EvalTask] = ()) -> dict[str, Any]:
    """The averages, None wherever a member is missing or is only a part of its set.

    Args:
        lines: results of one checkpoint, as they were read or as they will be written.
        own: the tasks that a ``tasks.json`` beside the sets describes; their average is apart from DataComp's.
    Returns:
        ``averages`` (group -> value or None), ``own_average``, ``missing`` (keys of DataComp's 40 that are not there),
        ``failed`` (key -> why the set could not be scored), ``partial`` (keys of those whose set has another size than
        the benchmark's), ``unlisted`` (keys of none).
    """
    benchmark = [task for task in datacomp_tasks() if task.main_metric]
    results = [line if isinstance(line, Result) else Result.of(line) for line in lines]
    failed = {result.key: result.error for result in results if result.error is not None}
    by_key = {result.key: result for result in results if result.error is None}
    ours = {key: result for key, result in by_key.items() if result.benchmark}
    groups = {**AGGREGATES, "Average": tuple(task.key for task in benchmark)}
    listed = [task.key for task in own if task.main_metric]
    foreign = {key: result for key, result in by_key.items() if not result.benchmark}
    return {
        "averages": {name: _whole_mean(keys, ours) for name, keys in groups.items()},
        "own_average": _whole_mean(listed, foreign),
        "missing": [task.key for task in datacomp_tasks() if task.key not in ours and task.key not in failed],
        "failed": failed,
        "partial": [key for key, result in ours.items() if not result.complete],
        "unlisted": sorted(set(foreign) - {task.key for task in own}),
    }
