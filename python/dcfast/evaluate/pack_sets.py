"""``dcfast evalsets pack DIR --out FILE.tar`` and ``dcfast evalsets unpack FILE.tar --out DIR``: sets for machines
without a network, as one file that is refused where a byte of it has changed (``bundle``).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from dcfast.engine.progress import Progress, Silent
from dcfast.errors import EvalsetError, RunError
from dcfast.evaluate.bundle import TOP_FILES, Bundle, BundleFile, open_bundle, write_bundle
from dcfast.evaluate.check_set import check_set
from dcfast.evaluate.evaluation import BAD_SET
from dcfast.evaluate.place_set import SetFile, check_space, differing_files, file_state, set_files, sets_home
from dcfast.evaluate.tasks import OWN_TABLE, EvalTask, chosen_tasks
from dcfast.evaluate.verify_sets import locked_files, repos_of_sets
from dcfast.hub import LOCK_FILE
from dcfast.hub.lock_file import HubLock, LockedRepo, lock_repo, read_lock_if_any
from dcfast.importing.found import leads_out
from dcfast.process.options import option
from dcfast.process.read_ahead import read_ahead
from dcfast.process.shared_options import SOME_SETS
from dcfast.storage.atomic import remove_leftovers, write_json
from dcfast.storage.listing import temporary_name
from dcfast.storage.lock import locked
from dcfast.storage.paths import LOCK_NAME, absolute, check_writable, make_directory, not_left_empty, path_argument
from dcfast.storage.records import Count, Record, plain
from dcfast.storage.whole import fsync
from dcfast.storage.whole_folder import whole_folder

_HASHED_AT_ONCE = 4


@dataclass(frozen=True)
class PackOptions:
    """Which sets are packed, and where to."""

    folder: str = option(
        "", "holds the evaluation sets", flags=("folder",), metavar="DIR", parse=path_argument, required=True
    )
    out: str = option("", "the bundle that is written", metavar="FILE.tar", parse=path_argument, required=True)
    sets: list[str] | None = option(None, SOME_SETS)
    overwrite: bool = option(False, "replace a file of this name")
    quiet: bool = option(False, "no progress")


@dataclass(frozen=True)
class UnpackOptions:
    """A bundle, and where its sets go."""

    file: str = option(
        "",
        "a bundle of `dcfast evalsets pack`",
        flags=("file",),
        metavar="FILE.tar",
        parse=path_argument,
        required=True,
    )
    out: str = option("", "gets the evaluation sets", metavar="DIR", parse=path_argument, required=True)
    overwrite: bool = option(False, "replace sets of these names that differ")
    quiet: bool = option(False, "no progress")


class PackReport(Record):
    """``sets``: their directories.   files, size (bytes): of the bundle."""

    sets: list[str]
    files: Count
    size: Count


class UnpackReport(Record):
    """Directories of sets: those that were ``made``, and those that were there already, ``kept``."""

    made: list[str]
    kept: list[str]
    dcfast: str


def pack_sets(options: PackOptions) -> PackReport:
    """Writes a bundle of whole sets; the same sets make the same bytes.

    Raises:
        EvalsetError: no sets, none of a name, damaged ones, some in ``hf_cache``: all that is wrong, before work.
        RunError: the file is there, or another process packs it, or a set changed meanwhile.   OSError: a full disk.
    Killed, it begins anew with the same command. Memory: the manifest.   Cost: two reads of the sets.
    """
    home, out = Path(absolute(options.folder)), Path(absolute(options.out))
    tasks = chosen_tasks(home, options.sets)
    _refuse_out(out, [folder for _, folder in tasks], options)
    files = _files_of(home, tasks)
    locked_repos = repos_of_sets(home, {folder.name for _, folder in tasks})
    total = sum(os.stat(path).st_size for path in files.values())
    check_space(out.parent, total)
    work = Path(f"{out}.parts")
    busy = f"{out}: another process packs this file; wait for it"
    with not_left_empty(work), locked(make_directory(work, "--out") / LOCK_NAME, busy):
        remove_leftovers(work)
        show = Silent if options.quiet else Progress
        looked: dict[str, tuple[Path, SetFile]] = {}
        with show("evalsets/hash", total=total, pieces=len(files)) as bar:
            states = read_ahead(file_state, files.values(), threads=_HASHED_AT_ONCE, ahead=2 * _HASHED_AT_ONCE)
            for (name, path), state in zip(files.items(), states, strict=True):
                looked[name] = path, state
                bar.advance(state.size)
        _refuse_others(home, locked_files(home), {name: state for name, (_, state) in looked.items()})
        if locked_repos:
            lock = work / LOCK_FILE
            write_json(lock, plain(HubLock(repos=locked_repos)))
            looked[LOCK_FILE] = lock, file_state(lock)
        with show("evalsets/pack", total=total, pieces=len(files)) as bar:
            write_bundle(work / out.name, looked, bar.advance)
        os.replace(work / out.name, out)
        fsync(out.parent)
        (work / LOCK_FILE).unlink(missing_ok=True)
    (work / LOCK_NAME).unlink(missing_ok=True)
    with suppress(OSError):  # it holds files of somebody's, who had a folder of this name
        work.rmdir()
    return PackReport([folder.name for _, folder in tasks], len(looked), out.stat().st_size)


def _differing(locked: Mapping[str, Mapping[str, SetFile]], found: Mapping[str, SetFile]) -> list[str]:
    """Files of sets that are among those found which a lock file has otherwise, or alone."""
    sets = {name.partition("/")[0] for name in found}
    return [
        f"{folder}/{name}"
        for folder, files in locked.items()
        for name, state in files.items()
        if folder in sets and found.get(f"{folder}/{name}") != state
    ]


def _refuse_others(home: Path, locked: Mapping[str, Mapping[str, SetFile]], found: Mapping[str, SetFile]) -> None:
    """EvalsetError where files of a set that is packed are not those that the lock file names."""
    if differing := _differing(locked, found):
        raise EvalsetError(
            f"{home}: not packed, since {', '.join(differing[:5])} {'is' if len(differing) == 1 else 'are'} not as "
            f"{LOCK_FILE} has it: `dcfast evalsets fetch` gets it again, or choose other sets by --sets"
        )


def _refuse_out(out: Path, folders: Sequence[Path], options: PackOptions) -> None:
    real = os.path.realpath(out)
    for folder in folders:
        if os.path.commonpath([real, os.path.realpath(folder)]) == os.path.realpath(folder):
            raise RunError(f"--out {out} lies in the set {folder.name}; choose another place for the bundle")
    if out.is_dir():
        raise RunError(f"--out {out} is a directory; name the file that is to be written")
    if out.exists() and not options.overwrite:
        raise RunError(f"--out {out} is there already; choose another name, or --overwrite to replace it")
    check_writable(out.parent, "--out")


def _files_of(home: Path, tasks: Sequence[tuple[EvalTask, Path]]) -> dict[str, Path]:
    """Path in the bundle -> file, of sets that are whole. EvalsetError: what is wrong with any of them."""
    files = {name: home / name for name in (OWN_TABLE,) if (home / name).is_file()}
    problems = [f"{name} is a link that leads out of {home}" for name in files if leads_out(os.fspath(home), name)]
    for task, folder in tasks:
        try:
            its = set_files(folder)
            if folder.parent != home or any(path.suffix == ".arrow" for path in its.values()):
                raise EvalsetError("it lies in a cache: `dcfast evalsets convert` makes files of it that can be packed")
            damage = check_set(task, folder, threads=len(os.sched_getaffinity(0))).damage
            problems += [f"{task.key}: {damage[0]}"] if damage else []
            files.update({f"{folder.name}/{name}": path for name, path in its.items()})
        except BAD_SET as error:
            problems.append(f"{task.key}: {error}")
    if problems:
        raise EvalsetError(
            f"{home}: not packed, since {'; '.join(problems)}. Get these sets again, or choose others by --sets"
        )
    return dict(sorted(files.items()))


def unpack_sets(options: UnpackOptions) -> UnpackReport:
    """Puts the sets of a bundle in their places, each as a whole, after every byte of it was held against the manifest.

    Raises:
        EvalsetError, CorruptDataError: as ``open_bundle``, ``Bundle.take``; what was put in place before stays.
        RunError: a set or table of a name is there and differs (``overwrite`` replaces it); others are at work there.
        OSError: no space; a full disk.
    What the bundle's lock file says of its sets goes into that of the directory.
    Killed, it goes on with the same command, set by set. Memory: the manifest, and 1 MiB.   Cost: one read of the
    bundle, and one of what is there already.
    """
    with open_bundle(options.file) as bundle, sets_home(options.out) as home:
        groups = {
            name: list(entries)
            for name, entries in groupby(bundle.manifest.files, key=lambda file: file.path.partition("/")[0])
        }
        kept = _kept(groups, home, options)
        locked_repos: dict[str, LockedRepo] = {}
        needed = {name: sum(file.size for file in files) for name, files in groups.items() if name not in kept}
        check_space(home, sum(needed.values()))
        show = Silent if options.quiet else Progress
        with show("evalsets/unpack", total=sum(needed.values()), pieces=len(needed)) as bar:
            for name, entries in groups.items():
                if name == LOCK_FILE:
                    locked_repos = _taken_lock(bundle, entries[0], home, groups.keys())
                elif name in kept or name in TOP_FILES:
                    for entry in entries:
                        bundle.take(entry, None if name in kept else home / name)
                else:
                    with whole_folder(home / name) as staging:
                        for entry in entries:
                            bundle.take(entry, staging / entry.path.partition("/")[2])
                bar.advance(needed.get(name, 0))
        bundle.end()
        for name, repo in locked_repos.items():  # what is in place now is what they say
            lock_repo(home / LOCK_FILE, name, repo)
        sets = [name for name in groups if name not in TOP_FILES]
        made = [name for name in sets if name not in kept]
        return UnpackReport(made, [name for name in sets if name in kept], bundle.manifest.dcfast)


def _taken_lock(bundle: Bundle, entry: BundleFile, home: Path, sets: Collection[str]) -> dict[str, LockedRepo]:
    """What the lock file of a bundle says of its sets.

    CorruptDataError: it cannot be read.   EvalsetError: it says what is not so, or would take a repository from another
    set of the directory.
    """
    with TemporaryDirectory(prefix=temporary_name("lock"), dir=home) as place:
        bundle.take(entry, Path(place, LOCK_FILE))
        repos, locked = repos_of_sets(Path(place), sets), locked_files(Path(place))
    found = {file.path: SetFile(file.size, file.sha256) for file in bundle.manifest.files}
    if differing := _differing(locked, found):
        problem = f"says of {differing[0]} what its manifest does not"
    else:
        mine = read_lock_if_any(home / LOCK_FILE).repos
        taken = [name for name, repo in repos.items() if name in mine and _set_of(mine[name]) != _set_of(repo)]
        if not taken:
            return repos
        problem = f"has {taken[0]} in {_set_of(repos[taken[0]])}, that of {home} in {_set_of(mine[taken[0]])}"
    raise EvalsetError(
        f"{bundle.path}: its {LOCK_FILE} {problem}; pack it again from sets that `evalsets verify` passes"
    )


def _set_of(repo: LockedRepo) -> str:
    return repo.folder.partition("/")[0]


def _kept(groups: dict[str, list[BundleFile]], home: Path, options: UnpackOptions) -> set[str]:
    """Sets, and files beside them, that are there as the bundle has them. RunError: one that differs, and may not."""
    kept, differing = set(), []
    for name, entries in groups.items():
        place = home / name
        if name == LOCK_FILE or not os.path.lexists(place):  # what it says is put beside what is there
            continue
        try:
            if name in TOP_FILES:
                same = file_state(place) == SetFile(entries[0].size, entries[0].sha256)
            else:
                files = {file.path.partition("/")[2]: SetFile(file.size, file.sha256) for file in entries}
                same = not differing_files(place, files, hashes=True)
        except BAD_SET:
            same = False
        if same:
            kept.add(name)
        elif not options.overwrite:
            differing.append(name)
    if differing:
        raise RunError(
            f"--out {home}: {', '.join(differing[:20])} {'is' if len(differing) == 1 else 'are'} there already, and "
            "not as the bundle has it; choose another place, or --overwrite to replace it"
        )
    return kept
