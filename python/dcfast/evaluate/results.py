"""Results on disk: a JSON line a task, all of one checkpoint, and the averages that they allow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dcfast.evaluate.tasks import EvalTask, datacomp_tasks
from dcfast.storage.atomic import write_bytes
from dcfast.storage.lines import read_lines

__all__ = ["AGGREGATES", "aggregate", "read_results", "write_results"]

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


def read_results(path: Path, checkpoint: str) -> dict[str, Line]:
    """The whole lines of a results file that are of this checkpoint, by task key; none where there is no file."""
    try:
        lines = read_lines(path)
    except (FileNotFoundError, UnicodeDecodeError):
        return {}
    found: dict[str, Line] = {}
    for raw in lines:
        try:
            line = json.loads(raw)
            if line["checkpoint"] == checkpoint and isinstance(line["metrics"], dict):
                found[str(line["key"])] = line
        except (ValueError, KeyError, TypeError):
            continue  # written by something else: that task is scored again
    return found


def write_results(path: Path, lines: Iterable[Line]) -> None:
    """Writes the file whole, so that a kill leaves the one before."""
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    write_bytes(path, text.encode("utf-8", "surrogatepass"))


def _mean(keys: Sequence[str], lines: dict[str, Line]) -> float | None:
    """None unless every key has a complete result."""
    values = [lines[key]["metrics"]["main_metric"] for key in keys if key in lines and lines[key]["complete"]]
    return sum(values) / len(values) if keys and len(values) == len(keys) and None not in values else None


def aggregate(lines: Iterable[Line], own: Sequence[EvalTask] = ()) -> dict[str, Any]:
    """The averages, None wherever a member is missing or is only a part of its set.

    Args:
        lines: results of one checkpoint.
        own: the tasks that a ``tasks.json`` beside the sets describes; their average is apart from DataComp's.
    Returns:
        ``averages`` (group -> value or None), ``own_average``, ``missing`` (keys of DataComp's 40 without a result),
        ``partial`` (keys of those whose set has another size than the benchmark's), ``unlisted`` (keys of none).
    """
    benchmark = [task for task in datacomp_tasks() if task.main_metric]
    by_key = {line["key"]: line for line in lines}
    ours = {key: line for key, line in by_key.items() if line["benchmark"]}
    groups = {**AGGREGATES, "Average": tuple(task.key for task in benchmark)}
    listed = [task.key for task in own if task.main_metric]
    foreign = {key: line for key, line in by_key.items() if not line["benchmark"]}
    return {
        "averages": {name: _mean(keys, ours) for name, keys in groups.items()},
        "own_average": _mean(listed, foreign),
        "missing": [task.key for task in datacomp_tasks() if task.key not in ours],
        "partial": [key for key, line in ours.items() if not line["complete"]],
        "unlisted": sorted(set(foreign) - {task.key for task in own}),
    }
