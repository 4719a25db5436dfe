"""Whether an evaluation set is whole, by the reader that evaluation uses."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dcfast.errors import EvalsetError
from dcfast.evaluate.evalset import open_evalset
from dcfast.evaluate.hub import hub_files
from dcfast.evaluate.opened import EvalSet
from dcfast.evaluate.tasks import EvalTask, datacomp_tasks
from dcfast.images.costs import BadImage
from dcfast.storage.records import Count, Record

HELD = 16
"""Pictures of a set of the hub that are read at a time."""


class SetCheck(Record):
    """What a look at all of a set found.

    Attributes:
        kind: how it is scored.   pictures: that can be.   riddles: of an association set.
        damage: what is broken in it, in words.   notes: what else is odd about it.
        short: how it differs in number from the benchmark's own; empty where it does not.
    """

    key: str
    directory: str
    kind: str
    pictures: Count
    riddles: Count
    damage: list[str] = []
    short: str = ""
    notes: list[str] = []


def check_set(task: EvalTask, folder: Path, *, threads: int = 1) -> SetCheck:
    """Opens a set as evaluation does, and reads the pictures where they lie in parquet or in an Arrow cache.

    Raises:
        EvalsetError, CorruptDataError, PoolError, OSError: it cannot be scored.
    Pictures are not decoded. Memory: as ``open_evalset``; of parquet 700 MiB.   Cost: a look at headers and labels of
    tars; parquet is read as a whole.
    """
    evalset = open_evalset(task, folder, threads=threads)
    damage = evalset.notes + (_unread(evalset) if hub_files(folder) else [])
    counted, what = len(evalset.rows), "pictures"
    if evalset.task.kind == "association":
        counted, what = len(evalset.riddles), "riddles"
    short = f"it holds {counted:,} {what}, the whole set has {task.size:,}" if counted != task.size > 0 else ""
    return SetCheck(
        key=task.key,
        directory=task.directory,
        kind=evalset.task.kind,
        pictures=len(evalset.rows),
        riddles=len(evalset.riddles),
        damage=damage,
        short=short,
        notes=evalset.said_left_out() + evalset.remarks,
    )


def _unread(evalset: EvalSet) -> list[str]:
    """The pictures without a byte; a damaged page is an error of its own."""
    bad: list[str] = []
    with evalset.pictures.read(np.asarray(evalset.rows), HELD) as batches:
        for places, readers in batches:
            for place, read in zip(places.tolist(), readers, strict=True):
                try:
                    read()
                except BadImage as error:
                    bad.append(f"{evalset.key(place)}: {error}")
    more = f" (and {len(bad) - 1:,} more)" if len(bad) > 1 else ""
    return [f"a picture cannot be read: {bad[0]}{more}"] if bad else []


def refuse_damage(folder: Path, damage: list[str]) -> None:
    """EvalsetError where anything is broken in a set; says the first of it."""
    if damage:
        more = f" (and {len(damage) - 1:,} more such notes)" if len(damage) > 1 else ""
        raise EvalsetError(f"{folder}: {damage[0]}{more}. Get the set again")


def missing_tasks(keys: set[str]) -> list[str]:
    """Which of DataComp's 40 tasks are not among some, in its order."""
    return [task.key for task in datacomp_tasks() if task.key not in keys]


def missing_line(keys: set[str]) -> str:
    """What is missing of the 40, all of it at once; empty where nothing is."""
    missing = missing_tasks(keys)
    return f"missing of DataComp's 40 tasks ({len(missing)}): {', '.join(missing)}" if missing else ""
