"""``dcfast evalsets verify DIR``: whether sets are as they were fetched or converted, and whole for evaluation."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from dcfast.engine.progress import Progress, Silent
from dcfast.evaluate.check_set import check_set, missing_line
from dcfast.evaluate.evaluation import BAD_SET
from dcfast.evaluate.hub import SPLIT
from dcfast.evaluate.place_set import RECORD_FILE, SetFile, data_files, differing_files, read_set_record
from dcfast.evaluate.tasks import EvalTask, choose_tasks, find_tasks
from dcfast.hub import LOCK_FILE, read_lock
from dcfast.hub.lock_file import LockedRepo
from dcfast.process.options import option
from dcfast.process.shared_options import SOME_SETS
from dcfast.storage.paths import absolute, path_argument
from dcfast.storage.records import Count, Record


@dataclass(frozen=True)
class VerifyOptions:
    """Which sets are looked at, and what is wrong."""

    folder: str = option(
        "", "holds the evaluation sets", flags=("folder",), metavar="DIR", parse=path_argument, required=True
    )
    sets: list[str] | None = option(None, SOME_SETS)
    complete: bool = option(False, "a task of DataComp's 40 that is not there is wrong, too")
    quiet: bool = option(False, "no progress")


class Verdict(Record):
    """What a look at a set found.

    Attributes:
        by: the file whose sizes and SHA-256 its files have; empty where none says anything of them.
        problems: what is wrong, in words; none of a whole set.   notes: what else is odd.
    """

    key: str
    by: str
    pictures: Count
    problems: list[str]
    notes: list[str]


class VerifyReport(Record):
    """Of each set a verdict. ``gone``: locked sets that are not there.   ``missing``: of the 40, in a line."""

    verdicts: list[Verdict]
    gone: list[str]
    missing: str

    def is_right(self, *, complete: bool) -> bool:
        """Whether nothing is wrong."""
        return not (any(verdict.problems for verdict in self.verdicts) or self.gone or (complete and self.missing))


def verify_sets(options: VerifyOptions) -> VerifyReport:
    """Reads the sets of a directory, all bytes of those whose hashes are known, and says what is wrong with each.

    Raises:
        EvalsetError: no such directory, no set in it or none of a name, a bad ``tasks.json``.
        CorruptDataError: a damaged lock file.   PluginError, OSError.
    Memory: as ``check_set``.   Cost: a read of the files, and what ``check_set`` costs.
    """
    home = Path(absolute(options.folder))
    found = find_tasks(home)
    chosen = choose_tasks(found, options.sets, os.fspath(home))
    locked = locked_files(home)
    sizes = [sum(path.stat().st_size for path in data_files(folder) if path.is_file()) for _, folder in chosen]
    verdicts = []
    with (Silent if options.quiet else Progress)("evalsets/verify", total=sum(sizes), pieces=len(sizes)) as bar:
        for (task, folder), size in zip(chosen, sizes, strict=True):
            verdicts.append(_verdict(task, folder, locked.get(folder.name, {}) if folder.parent == home else {}))
            bar.advance(size)
    gone = [name for name in locked if options.sets is None and not (home / name).exists()]
    return VerifyReport(verdicts, gone, missing_line({task.key for task, _ in found}))


def locked_files(home: Path) -> dict[str, dict[str, SetFile]]:
    """What the lock file of a directory says of its sets: folder -> name of a file in it -> size and hash."""
    path = home / LOCK_FILE
    found: dict[str, dict[str, SetFile]] = {}
    for repo in read_lock(path).repos.values() if path.is_file() else ():
        directory, _, below = repo.folder.partition("/")
        start = f"{below}/" if below else ""
        files = {start + repo.local(name): SetFile(file.size, file.sha256) for name, file in repo.files.items()}
        found.setdefault(directory, {}).update(files)
    return found


def repos_of_sets(home: Path, sets: Collection[str]) -> dict[str, LockedRepo]:
    """What the lock file of a directory, if it has one, says of sets. CorruptDataError: it cannot be read."""
    path = home / LOCK_FILE
    repos = read_lock(path).repos if path.is_file() else {}
    folders = {*sets, *(f"{name}/{SPLIT}" for name in sets)}
    return {name: repo for name, repo in repos.items() if repo.folder in folders}


def _verdict(task: EvalTask, folder: Path, locked: Mapping[str, SetFile]) -> Verdict:
    by, problems, notes, pictures = "", [], [], 0
    try:
        record = None if locked else read_set_record(folder)
        files = locked or (record.files if record is not None else {})
        by = LOCK_FILE if locked else RECORD_FILE if files else ""
        problems += differing_files(folder, files, hashes=True) if files else []
        check = check_set(task, folder, threads=len(os.sched_getaffinity(0)))
        pictures, notes = check.pictures, check.notes
        problems += check.damage
        if check.short:
            # bytes that are known to be the published ones are whole, whatever the table says
            (notes if locked and not problems else problems).append(check.short)
    except BAD_SET as error:
        problems.append(str(error))
    return Verdict(task.key, by, pictures, problems, notes)
