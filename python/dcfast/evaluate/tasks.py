"""Evaluation tasks as data: DataComp's 40, those that a ``tasks.json`` beside the sets describes, and any others.

``datacomp_tasks.json`` has the fields of the built-in world's ``tasks.json`` (docs/evaluation.md), so one reader and
one scorer serve both.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

from dcfast.errors import EvalsetError, PoolError, did_you_mean
from dcfast.evaluate.folders import evalset_folders, list_set_tars, set_name
from dcfast.evaluate.hub import CACHE, find_hub_set, hub_files
from dcfast.index.pool import check_name
from dcfast.plugins import EVALUATION_TASKS, PluginUse, find_plugin
from dcfast.storage.records import Count, Record, read_record, replaced

T = TypeVar("T")
KINDS = ("classification", "retrieval", "association", "wilds", "fairness", "fairness_multilabel")
TABLE = Path(__file__).parent / "datacomp_tasks.json"
OWN_TABLE = "tasks.json"
DEFAULT_METRICS = {"classification": "acc1", "retrieval": "mean_recall@1", "association": "jaccard_score_10-12"}
"""The main metric of a set that no table knows, by the kind its members show."""


class EvalTask(Record):
    """How one evaluation set is scored: an entry of a ``tasks.json``.

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
    Example: ``[task.main_metric for task in datacomp_tasks() if task.key == "vtab/flowers"]``
    """

    key: str
    name: str = ""
    directory: str = ""
    kind: str = ""
    main_metric: str = ""
    size: Count = 0
    num_classes: Count = 0
    random_score: float | None = None
    benchmark: bool = False
    metadata_fields: tuple[str, ...] = ()
    group_field: str = ""
    group_names: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    toxic_nonhuman: tuple[int, int] = (0, 0)
    toxic_crime: tuple[int, int] = (0, 0)
    hub: str = ""


def _problem(task: EvalTask) -> str:
    """What is wrong with a task, in words; empty where nothing is."""
    if task.kind not in KINDS:
        return f"kind must be one of {', '.join(KINDS)}; got {task.kind!r}{did_you_mean(task.kind, KINDS)}"
    if not task.key or not task.directory:
        return f"it names no {'directory' if task.key else 'key'}"
    if task.group_field and task.group_field not in task.metadata_fields:
        return f"group_field {task.group_field!r} is not among its metadata_fields"
    return ""


def _plugin_task(folder: str) -> EvalTask | None:
    """The task that a plugin describes for a directory, by its name without wds_ and _test; None where none does.

    PluginError: the plugin is broken, or has the name of one of DataComp's.
    """
    name = set_name(folder)
    plugin = find_plugin(EVALUATION_TASKS, name, {set_name(task.directory) for task in datacomp_tasks()})
    if plugin is None:
        return None
    task = plugin.load("an evaluation task")
    if not isinstance(task, EvalTask):
        raise plugin.refuse(f"expected an EvalTask of dcfast.evaluate; got a {type(task).__name__}")
    problem = _problem(task) or ("" if task.directory == folder else f"its directory must be {folder!r}")
    if problem:
        raise plugin.refuse(problem)
    return replaced(task, name=task.name or task.key, benchmark=False)


def task_of_directory(name: str) -> EvalTask:
    """How a ``wds_NAME_test`` directory that no table knows is scored: as a plugin says, else under its own name."""
    return _plugin_task(name) or EvalTask(set_name(name), set_name(name), name)


def used_plugins(directory: Path) -> list[PluginUse]:
    """The plugins that describe sets of a directory. Nothing is imported."""
    known = {task.directory for task in (*datacomp_tasks(), *own_tasks(directory))}
    names = [set_name(folder.name) for folder in evalset_folders(directory) if folder.name not in known]
    plugins = [find_plugin(EVALUATION_TASKS, name) for name in names]
    return [plugin.use for plugin in plugins if plugin is not None]


def read_task_table(path: Path, *, benchmark: bool = False) -> tuple[EvalTask, ...]:
    """The tasks of a ``tasks.json``; EvalsetError names the file, the entry or its key, and what is wrong."""
    try:
        entries = read_record(path, list[EvalTask], names=False)
    except ValueError as error:
        raise EvalsetError(str(error)) from None
    tasks = tuple(replaced(task, name=task.name or task.key, benchmark=benchmark) for task in entries)
    for task in tasks:
        problem = _problem(task)
        if problem:
            raise EvalsetError(f"{path}, task {task.key!r}: {problem}")
    for field in ("key", "directory"):
        repeated = [value for value, count in Counter(getattr(task, field) for task in tasks).items() if count > 1]
        if repeated:
            raise EvalsetError(f"{path}: two tasks have the {field} {repeated[0]!r}")
    return tasks


@cache
def datacomp_tasks() -> tuple[EvalTask, ...]:
    """DataComp's 40 tasks in its order; 38 of them have a main metric.

    Example: ``len(datacomp_tasks()) == 40``
    """
    return read_task_table(TABLE, benchmark=True)


def own_tasks(directory: Path) -> tuple[EvalTask, ...]:
    """The tasks of the ``tasks.json`` beside the sets, none where there is no such file."""
    path = directory / OWN_TABLE
    return read_task_table(path) if path.exists() else ()


def _no_directory(directory: Path) -> str:
    return f"evalsets {directory}: no such directory; expected one with wds_*_test directories (--evalsets DIR)"


def find_tasks(directory: Path) -> list[tuple[EvalTask, Path]]:
    """The sets of a directory with how each is scored: benchmark sets first, in the benchmark's order.

    A ``wds_*_test`` directory that no table knows comes last: as a plugin describes it, else under its own name, its
    kind left open. A set of the hub without such a directory is looked for in ``hf_cache``.

    Raises:
        EvalsetError: no such directory, no set in it, a bad ``tasks.json``.   PluginError: a broken plugin.
    Example: ``[folder.name for task, folder in find_tasks(Path("evalsets"))] == ["wds_colours_test"]``
    """
    if not directory.is_dir():
        raise EvalsetError(_no_directory(directory))
    folders = {folder.name: folder for folder in evalset_folders(directory)}
    tasks: list[tuple[EvalTask, Path]] = []
    own = own_tasks(directory)
    described = {task.directory for task in own}
    for task in [*(t for t in datacomp_tasks() if t.directory not in described), *own]:
        folder = folders.pop(task.directory, None)
        if folder is None and task.hub:
            folder = find_hub_set(directory, task.hub)
        if folder is not None:
            tasks.append((task, folder))
    keys = {task.key for task, _ in tasks}
    for name, folder in folders.items():
        task = task_of_directory(name)
        if task.key in keys:
            raise EvalsetError(
                f"{folder}: its name makes it the task {task.key!r}, which another directory holds already"
            )
        keys.add(task.key)
        tasks.append((task, folder))
    if not tasks:
        raise EvalsetError(
            f"evalsets {directory}: no wds_*_test directory in it, no set in {CACHE}; there is nothing to evaluate on"
        )
    return tasks


def chosen_tasks(directory: Path, sets: Sequence[str] | None) -> list[tuple[EvalTask, Path]]:
    """Those of ``find_tasks`` that are named, by key or by directory (whole, or its NAME); all for None.

    Raises:
        EvalsetError: a name of no set of the directory, with the nearest.   Others as ``find_tasks``.
    """
    return choose_tasks(find_tasks(directory), sets, os.fspath(directory))


def choose_tasks(tasks: list[tuple[EvalTask, T]], sets: Sequence[str] | None, where: str) -> list[tuple[EvalTask, T]]:
    """Those of some tasks that are named; see ``chosen_tasks``. ``where``: what has them, for the message."""
    if sets is None:
        return tasks
    key_of = {name: task.key for task, _ in tasks for name in (task.directory, set_name(task.directory), task.key)}
    for name in sets:
        if name not in key_of:
            hint = did_you_mean(name, key_of) or f"; there are {', '.join(task.key for task, _ in tasks)}"
            raise EvalsetError(f"--sets: {where} has no evaluation set {name!r}{hint}")
    chosen = {key_of[name] for name in sets}
    return [(task, place) for task, place in tasks if task.key in chosen]


def compared_sets(directory: Path) -> list[tuple[str, list[str]]]:
    """The sets whose pictures are looked for in a pool: (name without wds_ and _test, its files), sorted by directory.

    The files are tars, or parquet and Arrow of a set of the hub, whose name is that of its directory all the same.

    Raises:
        PoolError: no such directory, no set in it, or a tar of a name that no index takes.
    """
    if not directory.is_dir():
        raise PoolError(_no_directory(directory))
    sets = {}
    folders = {folder.name: folder for folder in evalset_folders(directory)}
    for task in datacomp_tasks():
        cached = find_hub_set(directory, task.hub) if task.hub and task.directory not in folders else None
        if cached is not None:
            folders[task.directory] = cached
    for name, folder in folders.items():
        files = [str(file) for file in hub_files(folder)]
        if not files:
            files = [str(folder / "test" / tar) for tar in list_set_tars(folder).names]
            for tar in files:
                check_name(tar, f"evalsets {directory}")
        if files:
            sets[set_name(name)] = files
    if not sets:
        raise PoolError(
            f"evalsets {directory}: no wds_*_test/test/*.tar in it, so there is nothing to "
            "decontaminate against; give the directory that holds them, or leave --evalsets out"
        )
    return sorted(sets.items(), key=lambda item: f"wds_{item[0]}_test")
