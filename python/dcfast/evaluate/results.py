"""Results on disk: a JSON line a task, all of one checkpoint, their one reader, and the averages that they allow."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_type_hints

import msgspec

from dcfast.evaluate.metrics import Metrics
from dcfast.evaluate.tasks import EvalTask, datacomp_tasks
from dcfast.storage.atomic import write_bytes
from dcfast.storage.inputs import read_input
from dcfast.storage.json_files import parse_json
from dcfast.storage.lines import split_lines
from dcfast.storage.records import Record, plain

RESULTS = "eval_results.jsonl"

AGGREGATES: dict[str, tuple[str, ...]] = {
    "ImageNet": ("imagenet1k",),
    "ImageNet dist. shifts": ("imagenet_sketch", "imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet"),
    "VTAB": (
        *(f"vtab/{name}" for name in ("caltech101", "cifar100", "clevr_count_all", "clevr_closest_object_distance")),
        *(f"vtab/{name}" for name in ("dtd", "eurosat", "kitti_closest_vehicle_distance", "flowers", "pets", "pcam")),
        *("vtab/resisc45", "vtab/svhn", "sun397"),
    ),
    "Retrieval": (
        "retrieval/flickr_1k_test_image_text_retrieval",
        "retrieval/mscoco_2014_5k_test_image_text_retrieval",
        "misc/winogavil",
    ),
    "Average": (),  # all that have a main metric
}
"""DataComp's groups, by the keys of their tasks."""


def number(value: object) -> float | None:
    """A finite number; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def mean(values: Sequence[float]) -> float | None:
    """The mean, correctly rounded; None of nothing."""
    return math.fsum(values) / len(values) if values else None


class Result(Record, omit_defaults=True):
    """A line of a results file, in DataComp's form: what one checkpoint scored on one set.

    Attributes:
        key, dataset: of the task.
        main_metric_name, kind: of the task; None where it has no main metric.
        benchmark: one of DataComp's 40.
        checkpoint: SHA-256 of the weights, None where the line has none.
        metrics: by name, ``main_metric`` among them: None where the set has none.
        chance: the main metric of a guess.
        complete: of the whole set.
        limit: pictures that were scored of a larger set (``--limit``), None where there was none: no score of
            DataComp's, and of nothing but that many pictures.
        state: of the files and the way of scoring: results of different states are not to be compared.
        non_standard: in words, what of the training's recipe is not the scale's own; None where nothing is known to be.
        error: why the set could not be scored, None where it was. Such a line has no state.
    Example: ``[result.score for result in evaluate_model(clip, "evalsets", "scores").tasks]``
    """

    key: str
    dataset: str
    main_metric_name: str | None
    kind: str | None
    benchmark: bool
    model: str | None
    checkpoint: str | None
    metrics: Metrics
    chance: float | None
    complete: bool
    pictures: int | None
    unreadable: int | None
    notes: list[str]
    state: str | None = None
    error: str | None = None
    limit: int | None = None
    non_standard: str | None = None

    @property
    def score(self) -> float | None:
        """The main metric."""
        return self.metrics.get("main_metric")

    @classmethod
    def of(cls, line: object) -> Result:
        """A line of whatever wrote it: a field that is absent or of another type has the value that says nothing.

        Raises:
            ValueError: it has no key or no metrics.
        """
        if not isinstance(line, Mapping) or line.get("key") is None or not isinstance(line.get("metrics"), Mapping):
            raise ValueError("no result of an evaluation: expected an object with key and metrics")
        texts = {
            name: str(line[name]) for name in ("key", "checkpoint", "error", "state") if line.get(name) is not None
        }
        texts["dataset"] = str(line.get("dataset") or line["key"])
        metrics = {name: None if number(value) is None else value for name, value in line["metrics"].items()}
        flags = {name: bool(line[name]) for name in ("complete", "benchmark") if name in line}
        given = {**line, **texts, **flags, "metrics": metrics, "chance": number(line.get("chance"))}
        kinds = get_type_hints(cls)
        fields = {name: given[name] for name in kinds.keys() & given.keys() if _fits(given[name], kinds[name])}
        return msgspec.convert({**_UNSAID, **fields}, cls)


_UNSAID = {"benchmark": False, "complete": True, "notes": ()} | dict.fromkeys(
    ("main_metric_name", "kind", "model", "checkpoint", "pictures", "unreadable")
)


def _fits(value: object, kind: object) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


class ResultFile(NamedTuple):
    """What a results file holds: the results in order, and the numbers (from 1) of lines that are none."""

    results: list[Result]
    damaged: list[int]


MOST_RESULTS_BYTES = 64 << 20


def load_results(path: str | os.PathLike[str]) -> ResultFile:
    """Reads a results file, nothing where there is none; a line that is cut off, not UTF-8 or no result is ``damaged``.

    Raises OSError: the file is there and cannot be read. Memory: the file.
    """
    file = ResultFile([], [])
    try:
        lines = split_lines(read_input(path, MOST_RESULTS_BYTES))
    except FileNotFoundError:
        return file
    for place, text in enumerate(lines, 1):
        try:
            file.results.append(Result.of(parse_json(text, any_number=True)))
        except ValueError:
            file.damaged.append(place)
    return file


def read_results(path: Path, checkpoint: str) -> dict[str, Result]:
    """The results of a file that are of this checkpoint, by task key; what is damaged is scored again."""
    return {result.key: result for result in load_results(path).results if result.checkpoint == checkpoint}


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Writes the file whole, so that a kill leaves the one before."""
    text = "".join(json.dumps(plain(result), ensure_ascii=False, allow_nan=False) + "\n" for result in results)
    write_bytes(path, text.encode("utf-8", "surrogatepass"))


class Averages(Record):
    """The averages that results allow, None wherever a member is missing or is only a part of its set.

    Attributes:
        averages: of DataComp's groups, see ``AGGREGATES``.
        own_average: of the tasks that a ``tasks.json`` beside the sets describes.
        missing: keys of DataComp's 40 that are not there.
        failed: key -> why the set could not be scored.
        partial: keys of sets that have another size than the benchmark's.
        unlisted: keys of sets that no table knows.
    """

    averages: dict[str, float | None]
    own_average: float | None
    missing: list[str]
    failed: dict[str, str]
    partial: list[str]
    unlisted: list[str]


class EvaluationSummary(Averages, omit_defaults=True):
    """``evaluate/summary.json``: the results of one checkpoint on the sets that were asked for.

    Attributes:
        checkpoint: SHA-256 of the weights.
        model, source: names of the architecture and of the weights.
        results: the file that keeps the lines of ``tasks``, and of sets asked for before, relative to the folder of
            the results.
        limit: of pictures of each set, where one was asked for.
        left_out: keys of sets that were not asked for; None where all were.
        scored: keys of the sets that were scored now, not skipped; not in the file.
    Example: ``summary = evaluate_model(clip, "evalsets", "scores", limit=3)``; ``summary.limit == 3``
    """

    checkpoint: str
    model: str
    source: str
    results: str
    tasks: list[Result]
    notes: list[str]
    limit: int | None = None
    left_out: list[str] | None = None
    scored: list[str] = []


def _whole_mean(keys: Sequence[str], results: dict[str, Result]) -> float | None:
    """None unless every key has a complete result. A plain sum: DataComp's averages keep the last digit they had."""
    scores = [results[key].score for key in keys if key in results and results[key].complete]
    values = [score for score in scores if score is not None]
    return sum(values) / len(values) if keys and len(values) == len(keys) else None


def aggregate(results: Sequence[Result], own: Sequence[EvalTask] = ()) -> Averages:
    """The averages of results of one checkpoint; ``own``: the tasks of the ``tasks.json`` beside the sets."""
    failed = {result.key: result.error for result in results if result.error is not None}
    ours = {result.key: result for result in results if result.error is None and result.benchmark}
    foreign = {result.key: result for result in results if result.error is None and not result.benchmark}
    benchmark = tuple(task.key for task in datacomp_tasks() if task.main_metric)
    return Averages(
        averages={name: _whole_mean(keys or benchmark, ours) for name, keys in AGGREGATES.items()},
        own_average=_whole_mean([task.key for task in own if task.main_metric], foreign),
        missing=[task.key for task in datacomp_tasks() if task.key not in ours and task.key not in failed],
        failed=failed,
        partial=[key for key, result in ours.items() if not result.complete],
        unlisted=sorted(foreign.keys() - {task.key for task in own}),
    )
