"""DataComp's evaluation sets from Hugging Face's hub: ``dcfast evalsets fetch --out DIR``.

They come from where DataComp's own download takes them: repositories of shards, ``djghosh/wds_NAME_test``, and for
retrieval and WinoGAViL ``nlphuji/NAME``, whose loading scripts no library runs any longer: of these the hub's
conversion to parquet, in the branch ``refs/convert/parquet``, or parquet of the repository itself. Which commits, and
what each file is, stands in ``DIR/hub.lock.json`` (``dcfast.hub``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dcfast.errors import HubError
from dcfast.evaluate.check_set import check_set, missing_line, refuse_damage
from dcfast.evaluate.evalset import CLASS_FILE, TEMPLATE_FILE
from dcfast.evaluate.evaluation import BAD_SET
from dcfast.evaluate.folders import COUNT_FILE
from dcfast.evaluate.hub import SPLIT
from dcfast.evaluate.place_set import differing_files, sets_home
from dcfast.evaluate.tasks import EvalTask, choose_tasks, datacomp_tasks
from dcfast.evaluate.verify_sets import locked_files
from dcfast.hub import LOCK_FILE, fetch_repo, read_lock
from dcfast.process.options import option
from dcfast.process.shared_options import SOME_SETS
from dcfast.storage.paths import path_argument
from dcfast.storage.records import Record
from dcfast.storage.whole import FULL

OWNER = "djghosh"
SHARD_PATTERNS = (CLASS_FILE, TEMPLATE_FILE, f"{SPLIT}/{COUNT_FILE}", f"{SPLIT}/*.tar")
PARQUET: tuple[tuple[str | None, tuple[str, ...]], ...] = (
    ("refs/convert/parquet", (f"*/{SPLIT}/*.parquet",)),
    (None, (f"{SPLIT}-*.parquet", f"*/{SPLIT}-*.parquet")),
)
"""Branches, and the files of the test split in them; the first that has any is taken."""
GIVE_UP_AFTER = 3
"""Sets in a row that could not be fetched: no network, most likely."""


@dataclass(frozen=True)
class FetchOptions:
    """Which of DataComp's sets are fetched, and where to."""

    out: str = option(
        "", "gets the evaluation sets (--evalsets of a run)", metavar="DIR", parse=path_argument, required=True
    )
    sets: list[str] | None = option(None, SOME_SETS)
    update_lock: bool = option(False, f"take what the hub has today, and not what DIR/{LOCK_FILE} says")
    quiet: bool = option(False, "no progress")


class FetchReport(Record):
    """Keys of the sets that are there whole now. ``failed``: key -> why one is not.   ``missing``: of 40, a line."""

    whole: list[str]
    failed: dict[str, str]
    notes: list[str]
    missing: str


def repo_of(task: EvalTask) -> str:
    """The hub's repository of one of DataComp's tasks."""
    return task.hub or f"{OWNER}/{task.directory}"


def fetch_sets(options: FetchOptions, say: Callable[[str], None] = lambda line: None) -> FetchReport:
    """Fetches DataComp's sets, each whole and verified or not at all; what is there is not fetched again.

    Args:
        say: is given lines of progress, from any thread.
    Raises:
        EvalsetError: a name of none of the 40.   MissingDependencyError: huggingface_hub is not installed.
        CorruptDataError: a damaged lock file.   RunError: another command is at work there.   OSError: a full disk.
    What is wrong with one set is in the report, and stops the others where three in a row have failed alone.
    After a kill the same call goes on, within a file.   Memory: as ``fetch_repo`` and ``check_set``.
    """
    chosen = choose_tasks([(task, task.directory) for task in datacomp_tasks()], options.sets, "DataComp")
    whole: list[str] = []
    failed: dict[str, str] = {}
    notes: list[str] = []
    in_a_row = 0
    with sets_home(options.out) as home:
        locked_files(home)  # one that is damaged is an error of its own
        for task, directory in chosen:
            if in_a_row >= GIVE_UP_AFTER:
                failed[task.key] = f"not tried, since {GIVE_UP_AFTER} in a row before it failed"
                continue
            try:
                _fetch(task, home, options, say)
                in_a_row = 0
                notes += _check(task, home / directory, home)
                whole.append(task.key)
            except (HubError, *BAD_SET) as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise
                in_a_row += isinstance(error, HubError)
                failed[task.key] = str(error)
        there = {task.key for task in datacomp_tasks() if (home / task.directory).is_dir() and task.key not in failed}
    return FetchReport(whole, failed, notes, missing_line(there))


def _fetch(task: EvalTask, home: Path, options: FetchOptions, say: Callable[[str], None]) -> None:
    """The files of a set, from the first place that has them."""
    folder, lock = home / task.directory, home / LOCK_FILE
    if not task.hub:
        fetch_repo(
            repo_of(task),
            folder,
            patterns=SHARD_PATTERNS,
            lock=lock,
            update_lock=options.update_lock,
            required=SHARD_PATTERNS,
            say=say,
        )
        return
    problems = []
    before = read_lock(lock).repos.get(task.hub) if lock.is_file() and not options.update_lock else None
    locked = [place for place in PARQUET if before is not None and set(place[1]) <= set(before.patterns)]
    for revision, patterns in locked or PARQUET:
        try:
            fetch_repo(
                task.hub,
                folder / SPLIT,
                patterns=patterns,
                lock=lock,
                update_lock=options.update_lock,
                revision=revision,
                flatten=True,
                say=say,
            )
            return
        except HubError as error:
            problems.append(f"{revision or 'main'}: {error}")
    raise HubError("; ".join(problems))


def _check(task: EvalTask, folder: Path, home: Path) -> list[str]:
    """Notes on a set that was fetched; EvalsetError and the like where it is not whole."""
    extra = differing_files(folder, locked_files(home)[folder.name], hashes=False)
    check = check_set(task, folder, threads=len(os.sched_getaffinity(0)))
    refuse_damage(folder, [*extra, *check.damage])
    return [f"{task.key}: {note}" for note in (check.short, *check.notes) if note]
