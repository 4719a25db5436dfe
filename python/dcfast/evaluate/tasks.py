"""Evaluation tasks as data: DataComp's 40, those that a ``tasks.json`` beside the sets describes, and any others.

``datacomp_tasks.json`` has the fields of the built-in world's ``tasks.json`` (docs/evaluation.md), so one reader and
one scorer serve both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dcfast.errors import EvalsetError, PoolError
from dcfast.evaluate.folders import evalset_folders, evalset_tars
from dcfast.evaluate.hub import CACHE, find_hub_set, hub_files
from dcfast.storage.json_files import read_json

__all__ = ["KINDS", "EvalTask", "compared_sets", "datacomp_tasks", "find_tasks", "read_task_table"]

KINDS = ("classification", "retrieval", "association", "wilds", "fairness", "fairness_multilabel")
TABLE = Path(__file__).parent / "datacomp_tasks.json"
OWN_TABLE = "tasks.json"
DEFAULT_METRICS = {
    "classification": "acc1",
    "retrieval": "mean_recall@1",
    "association": "jaccard_score_10-12",
}
"""The main metric of a set that no table knows, by the kind its members show."""


@dataclass(frozen=True)
class EvalTask:
    """How one evaluation set is scored.

    Attributes:
        key, name: of the results' ``key`` and ``dataset``.
        directory: ``wds_*_test`` that holds it.
        kind: one of ``KINDS``; empty where the members decide.
        main_metric: name of the metric that stands for the set; empty where there is none.
        size: pictures of the whole set (of an association set: riddles), 0 where unknown.
        num_classes: classes of the whole set, 0 where unknown.
        random_score: the main metric of a guess, from the table; None where it is computed.
        benchmark: one of DataComp's 40.
        metadata_fields: columns of the npy member, in order.
        group_field: the column whose values are the groups; empty where there are none.
        group_names: of the values 0, 1, ...; ``acc_worst_region_without_other`` leaves the one called "Other" out.
        hub: OWNER/NAME on Hugging Face's hub of a set that is looked for in ``hf_cache``; empty where it is in none.
        objectives: of a multi-label set, prefixes of its classes and templates.
        toxic_nonhuman, toxic_crime: half-open class ranges of the objective ``toxic``.
    """

    key: str
    name: str
    directory: str
    kind: str = ""
    main_metric: str = ""
    size: int = 0
    num_classes: int = 0
    random_score: float | None = None
    benchmark: bool = False
    metadata_fields: tuple[str, ...] = ()
    group_field: str = ""
    group_names: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    toxic_nonhuman: tuple[int, int] = (0, 0)
    toxic_crime: tuple[int, int] = (0, 0)
    hub: str = ""


_TEXTS = ("key", "name", "directory", "kind", "main_metric", "group_field", "hub")
_LISTS = ("metadata_fields", "group_names", "objectives")
_RANGES = ("toxic_nonhuman", "toxic_crime")


def _task(entry: Any, where: str, benchmark: bool) -> EvalTask:
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or not entry["key"]:
        raise EvalsetError(f"{where}: expected an object with a 'key'; got {str(entry)[:80]}")
    where = f"{where}, task {entry['key']!r}"
    values: dict[str, Any] = {"name": entry["key"], "benchmark": benchmark}
    for field in _TEXTS:
        if field in entry:
            if not isinstance(entry[field], str):
                raise EvalsetError(f"{where}: {field} must be a string; got {entry[field]!r}")
            values[field] = entry[field]
    for field in _LISTS:
        given = entry.get(field, [])
        if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
            raise EvalsetError(f"{where}: {field} must be a list of strings; got {given!r}")
        values[field] = tuple(given)
    for field in _RANGES:
        given = entry.get(field, [0, 0])
        if not isinstance(given, list) or len(given) != 2 or not all(type(item) is int for item in given):
            raise EvalsetError(f"{where}: {field} must be [first, last + 1]; got {given!r}")
        values[field] = (given[0], given[1])
    for field in ("size", "num_classes"):
        if type(entry.get(field, 0)) is not int or entry.get(field, 0) < 0:
            raise EvalsetError(f"{where}: {field} must be a whole number; got {entry[field]!r}")
        values[field] = entry.get(field, 0)
    guess = entry.get("random_score")
    values["random_score"] = float(guess) if isinstance(guess, (int, float)) else None
    if values.get("kind") not in KINDS:
        raise EvalsetError(f"{where}: kind must be one of {', '.join(KINDS)}; got {entry.get('kind')!r}")
    if not values.get("directory"):
        raise EvalsetError(f"{where}: it names no directory")
    if values.get("group_field") and values["group_field"] not in values["metadata_fields"]:
        raise EvalsetError(f"{where}: group_field {values['group_field']!r} is not among its metadata_fields")
    return EvalTask(**values)


def read_task_table(path: Path, *, benchmark: bool = False) -> tuple[EvalTask, ...]:
    """The tasks of a ``tasks.json``; EvalsetError names the file, the task and the field that is wrong."""
    try:
        entries = read_json(path)
    except ValueError as error:
        raise EvalsetError(str(error)) from None
    if not isinstance(entries, list):
        raise EvalsetError(f"{path}: expected a list of tasks; got {type(entries).__name__}")
    tasks = tuple(_task(entry, str(path), benchmark) for entry in entries)
    for field in ("key", "directory"):
        seen: set[str] = set()
        for task in tasks:
            value = str(getattr(task, field))
            if value in seen:
                raise EvalsetError(f"{path}: two tasks have the {field} {value!r}")
            seen.add(value)
    return tasks


@cache
def datacomp_tasks() -> tuple[EvalTask, ...]:
    """DataComp's 40 tasks in its order; 38 of them have a main metric."""
    return read_task_table(TABLE, benchmark=True)


def own_tasks(directory: Path) -> tuple[EvalTask, ...]:
    """The tasks of the ``tasks.json`` beside the sets, none where there is no such file."""
    path = directory / OWN_TABLE
    return read_task_table(path) if path.exists() else ()


def find_tasks(directory: Path) -> list[tuple[EvalTask, Path]]:
    """The sets of a directory with how each is scored: benchmark sets first, in the benchmark's order.

    A ``wds_*_test`` directory that no table knows comes last, under its own name, its kind left open. A set of the hub
    without such a directory is looked for in ``hf_cache``.

    Raises:
        EvalsetError: no such directory, no set in it, a bad ``tasks.json``.
    """
    if not directory.is_dir():
        raise EvalsetError(
            f"evalsets {directory}: no such directory; expected one with wds_*_test directories (--evalsets DIR)"
        )
    folders = {folder.name: folder for folder in evalset_folders(directory)}
    found: list[tuple[EvalTask, Path]] = []
    own = own_tasks(directory)
    described = {task.directory for task in own}
    for task in [*(t for t in datacomp_tasks() if t.directory not in described), *own]:
        folder = folders.pop(task.directory, None)
        if folder is None and task.hub:
            folder = find_hub_set(directory, task.hub)
        if folder is not None:
            found.append((task, folder))
    keys = {task.key for task, _ in found}
    for name, folder in folders.items():
        key = name[len("wds_") : -len("_test")]
        if key in keys:
            raise EvalsetError(f"{folder}: its name makes it the task {key!r}, which another directory holds already")
        found.append((EvalTask(key, key, name), folder))
    if not found:
        raise EvalsetError(
            f"evalsets {directory}: no wds_*_test directory in it, no set in {CACHE}; there is nothing to evaluate on"
        )
    return found


def compared_sets(directory: Path) -> list[tuple[str, list[str]]]:
    """The sets whose pictures are looked for in a pool: (name without wds_ and _test, its files), sorted by directory.

    The files are tars, or parquet and Arrow of a set of the hub, whose name is that of its directory all the same.

    Raises:
        PoolError: no such directory, or no set in it; or see ``evalset_tars``.
    """
    found = dict(evalset_tars(directory))
    places = {folder.name: folder for folder in evalset_folders(directory)}
    for task in datacomp_tasks():
        cached = find_hub_set(directory, task.hub) if task.hub and task.directory not in places else None
        if cached is not None:
            places[task.directory] = cached
    for name, folder in places.items():
        files = hub_files(folder)
        if files:
            found[name.removeprefix("wds_").removesuffix("_test")] = [str(file) for file in files]
    if not found:
        raise PoolError(f"evalsets {directory}: no wds_*_test/test/*.tar in it; nothing to decontaminate against")
    return sorted(found.items(), key=lambda one: f"wds_{one[0]}_test")
