"""Sets as others left them on a disk, in our layout: hard links where files stay as they are, parquet of caches.

``dcfast evalsets convert SOURCE --out DIR``. ``SOURCE`` is DataComp's ``--data_dir``, or a folder of CLIP_benchmark's
webdatasets; no network is needed. Each set appears as a whole, so that the same command goes on after a kill.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dcfast.engine.progress import Progress, Silent
from dcfast.errors import EvalsetError, RunError
from dcfast.evaluate.check_set import check_set, missing_line, refuse_damage
from dcfast.evaluate.evalset import set_fingerprint
from dcfast.evaluate.evaluation import BAD_SET
from dcfast.evaluate.folders import COUNT_FILE, set_name
from dcfast.evaluate.hub import SPLIT, find_hub_set
from dcfast.evaluate.hub_parquet import write_hub_parquet
from dcfast.evaluate.place_set import (
    RECORD_FILE,
    check_space,
    data_files,
    differing_files,
    read_set_record,
    sets_home,
    text_files,
    write_set_record,
)
from dcfast.evaluate.tasks import OWN_TABLE, EvalTask, choose_tasks, datacomp_tasks, own_tasks, task_of_directory
from dcfast.importing.found import leads_out
from dcfast.process.options import option
from dcfast.process.shared_options import SOME_SETS
from dcfast.storage.atomic import copy_file, link_or_copy, write_bytes
from dcfast.storage.inputs import read_input
from dcfast.storage.json_files import MOST_JSON_BYTES
from dcfast.storage.listing import list_tars
from dcfast.storage.paths import absolute, path_argument
from dcfast.storage.records import Count, Record
from dcfast.storage.whole import FULL
from dcfast.storage.whole_folder import whole_folder


@dataclass(frozen=True)
class ConvertOptions:
    """Which sets become ours, and how."""

    source: str = option(
        "",
        "what is there: DataComp's --data_dir (wds_*_test folders, hf_cache), or a folder of CLIP_benchmark's "
        "webdatasets (wds_NAME_test, wds_NAME or NAME, with test/*.tar)",
        flags=("source",),
        metavar="SOURCE",
        parse=path_argument,
        required=True,
    )
    out: str = option(
        "", "gets the evaluation sets (--evalsets of a run)", metavar="DIR", parse=path_argument, required=True
    )
    sets: list[str] | None = option(None, SOME_SETS)
    copy: bool = option(False, "copy files that could be linked")
    overwrite: bool = option(False, "replace sets of these names that are made of other files")
    quiet: bool = option(False, "no progress")


class ConvertReport(Record):
    """What became of the sets, by their keys.

    Attributes:
        made, kept: sets; ``kept`` were there already.   linked, copied, written: files of those that were made.
        failed: key -> why it was passed over.
        notes: what is odd.   missing: which of the 40 are not there, in a line.
    """

    made: list[str]
    kept: list[str]
    linked: Count
    copied: Count
    written: Count
    failed: dict[str, str]
    notes: list[str]
    missing: str


def convert_sets(options: ConvertOptions) -> ConvertReport:
    """Puts the sets of a folder into our layout; what is damaged is named and passed over.

    Raises:
        EvalsetError: no set is there, or none of a name that was asked for; a bad ``tasks.json``.
        RunError: the folders lie in each other; ``DIR`` has another ``tasks.json``; another process is at work there.
        OSError: a full disk; ``DIR`` cannot be made.   PluginError.
    After a kill the same call goes on with the next set. Memory: as ``check_set`` and ``write_hub_parquet``.   Cost:
    two reads of each set, of tars the second for their hashes.
    """
    source = Path(absolute(options.source))
    _refuse_places(source, options.out)
    found, notes = find_sets(source)
    if not found:
        raise EvalsetError(
            f"{source}: no evaluation set in it; expected wds_*_test folders with test/*.tar, such folders by the "
            "names of CLIP_benchmark, or DataComp's hf_cache"
        )
    work = _Conversion(options, notes)
    chosen = choose_tasks(found, options.sets, os.fspath(source))
    sizes = [_size(folder) for _, folder in chosen]
    show = Silent if options.quiet else Progress
    with sets_home(options.out) as home, show("evalsets/convert", total=sum(sizes), pieces=len(sizes)) as bar:
        _take_table(source, home)
        for (task, folder), size in zip(chosen, sizes, strict=True):
            work.convert(task, folder, home)
            bar.advance(size)
    missing = missing_line({task.key for task, _ in found if task.key not in work.failed})
    linked, copied, written = work.files
    return ConvertReport(work.made, work.kept, linked, copied, written, work.failed, work.notes, missing)


def _refuse_places(source: Path, out: str) -> None:
    if not source.is_dir():
        raise EvalsetError(f"{source}: no such directory; expected a folder with evaluation sets")
    places = [os.path.realpath(source), os.path.realpath(out)]
    if os.path.commonpath(places) in places:
        raise RunError(f"--out {out} and {source} lie in each other; choose another place for the sets")


def find_sets(source: Path) -> tuple[list[tuple[EvalTask, Path]], list[str]]:
    """The sets of a folder, or the one that it is: with how each is scored and the folder of its files; and notes.

    The benchmark's come first, in its order. Folders by CLIP_benchmark's names count where they hold tars; where two
    are one set, ``wds_NAME_test`` is taken before ``wds_NAME``, and that before ``NAME``.
    """
    children = [] if _has_tars(source) else [child for child in sorted(source.iterdir()) if child.is_dir()]
    named = [child for child in children if _rank(child) == 0 or _has_tars(child)]
    folders: dict[str, Path] = {}
    notes = []
    for folder in sorted(named, key=_rank) if children else [source] if _has_tars(source) else []:
        first = folders.setdefault(f"wds_{set_name(folder.name)}_test", folder)
        if first != folder:
            notes.append(f"{folder.name} is passed over: the set of this name is taken from {first.name}")
    known = {task.directory: task for task in (*datacomp_tasks(), *own_tasks(source))}
    for task in datacomp_tasks():
        if task.hub and task.directory not in folders and (cached := find_hub_set(source, task.hub)) is not None:
            folders[task.directory] = cached
    directories = [*(name for name in known if name in folders), *(name for name in folders if name not in known)]
    return [(known.get(name) or task_of_directory(name), folders[name]) for name in directories], notes


def _rank(folder: Path) -> int:
    is_ours = folder.name.startswith("wds_")
    return 0 if is_ours and folder.name.endswith("_test") else 1 if is_ours else 2


def _has_tars(folder: Path) -> bool:
    test = folder / SPLIT
    return test.is_dir() and bool(list_tars(test).names)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in data_files(folder) if path.is_file())


def _take_table(source: Path, home: Path) -> None:
    """The ``tasks.json`` that says how sets of one's own are scored."""
    table, target = source / OWN_TABLE, home / OWN_TABLE
    if not table.is_file():
        return
    if leads_out(os.fspath(source), OWN_TABLE):
        raise EvalsetError(f"{table}: it is a link that leads out of {source}; copy what it leads to")
    data = read_input(table, MOST_JSON_BYTES)
    if not target.exists():
        write_bytes(target, data)
    elif read_input(target, MOST_JSON_BYTES) != data:
        raise RunError(f"{target} is there and is not the one of {source}; choose another --out")


class _Conversion:
    """Sets on their way. ``files``: linked, copied, written; the rest as in ``ConvertReport``."""

    def __init__(self, options: ConvertOptions, notes: list[str]) -> None:
        self.options, self.notes = options, notes
        self.made: list[str] = []
        self.kept: list[str] = []
        self.failed: dict[str, str] = {}
        self.files: list[int] = [0, 0, 0]

    def convert(self, task: EvalTask, folder: Path, home: Path) -> None:
        """One set. OSError: a full disk."""
        target = home / task.directory
        try:
            state = set_fingerprint(EvalTask(""), folder)
            if target.exists() and self._is_kept(target, state):
                self.kept.append(task.key)
                return
            check = check_set(task, folder, threads=len(os.sched_getaffinity(0)))
            refuse_damage(folder, check.damage)
            with whole_folder(target) as staging:
                self._fill(task, folder, staging)
                write_set_record(staging, state)
        except BAD_SET as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            self.failed[task.key] = str(error)
            return
        self.made.append(task.key)
        self.notes += [f"{task.key}: {note}" for note in (check.short, *check.notes) if note]

    def _is_kept(self, target: Path, state: str) -> bool:
        """Whether a set is there whole; EvalsetError where it is another one that is not to be replaced."""
        try:
            record = read_set_record(target)
        except BAD_SET:
            record = None
        if record is not None and record.source == state:
            return not differing_files(target, record.files, hashes=False)
        if not self.options.overwrite:
            raise EvalsetError(
                f"{target} is there and is made of other files; choose another --out, or --overwrite to replace it"
            )
        return False

    def _fill(self, task: EvalTask, folder: Path, staging: Path) -> None:
        """Makes the files of a set in a folder of its own."""
        data = data_files(folder)
        is_cache = data[0].suffix == ".arrow"
        if self.options.copy or is_cache or os.stat(folder).st_dev != os.stat(staging).st_dev:
            check_space(staging, _size(folder))
        (staging / SPLIT).mkdir()
        if is_cache:
            write_hub_parquet(task, folder, staging)
            self.files[2] += 1
        else:
            for path in data:
                self._put(path, staging / SPLIT / path.name)
        for name in set(text_files(folder)) - {RECORD_FILE}:
            self._put(folder / name, staging / name)
        count = staging / SPLIT / COUNT_FILE
        if data[0].suffix == ".tar" and not count.exists():
            write_bytes(count, str(len(data)).encode())
            self.files[2] += 1

    def _put(self, path: Path, target: Path) -> None:
        real = os.path.realpath(path)
        linked = not self.options.copy and link_or_copy(real, target)
        if self.options.copy:
            copy_file(real, target)
        self.files[0 if linked else 1] += 1
