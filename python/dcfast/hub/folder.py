"""Files of a repository on their way into a folder: what is there, where the rest is collected, and how it moves.

``.fetching-NAME`` beside a folder: ``files`` are whole and verified, ``parts`` are beginnings, ``plan.json`` says what
they are of.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dcfast.errors import HubError
from dcfast.hub.hashes import Hashes, hashes_of
from dcfast.hub.lock_file import HubLock, LockedFile, LockedRepo
from dcfast.hub.repository import Listed
from dcfast.process.compute import thread_count
from dcfast.process.read_ahead import read_ahead
from dcfast.storage.inputs import StrPath
from dcfast.storage.lock import locked
from dcfast.storage.paths import absolute, make_directory
from dcfast.storage.whole import fsync

STAGING = ".fetching-"
FILES, PARTS = "files", "parts"


@dataclass
class File:
    """A file of the plan: its path in the repository and in the folder, and what it must be.

    ``at``: where it lies whole: in the folder, or collected; None: nowhere yet.   ``sha256``: of it, once it is whole.
    """

    path: str
    local: str
    listed: Listed
    at: Path | None = None
    sha256: str = ""


@contextmanager
def staging_of(into: Path) -> Iterator[Path]:
    """The folder that files are collected in; it stays where the fetch fails and anything was collected.

    It lies beside ``into``, and within it where that is a disk of its own.
    """
    staging = make_directory(into.parent, "into") / f"{STAGING}{into.name}"
    if into.is_dir() and into.stat().st_dev != into.parent.stat().st_dev:
        staging = into / STAGING
    if staging.is_symlink():
        raise HubError(f"{staging} is a link, which may lead to somebody's files; remove it")
    for folder in (staging, staging / FILES, staging / PARTS):
        folder.mkdir(exist_ok=True)
    with locked(staging, f"{into}: another fetch into it is at work; wait for it to end", folder=True):
        try:
            yield staging
        except BaseException:
            collected = [file.stat().st_size for file in staging.glob("[fp]*/**/*") if file.is_file()]
            if not any(collected):
                shutil.rmtree(staging, ignore_errors=True)
            raise
        shutil.rmtree(staging, ignore_errors=True)


def look(files: list[File], into: Path, staging: Path) -> None:
    """Finds what is whole already, in the folder and among what was collected; the rest of that is removed."""

    def find(file: File) -> None:
        for place in (into / file.local, staging / FILES / file.local):
            hashes = _hashes_if(place, file.listed)
            if hashes is not None and file.listed.is_same(hashes):
                file.at, file.sha256 = place, hashes.sha256
                return

    threads = os.cpu_count() or 1
    for _ in read_ahead(find, files, threads=threads, ahead=2 * threads, name="dcfast-hash"):
        pass
    wanted = {file.at for file in files}
    for parent, _, names in os.walk(staging / FILES, topdown=False):
        for name in names:
            if Path(parent, name) not in wanted:
                os.unlink(os.path.join(parent, name))
        with suppress(OSError):  # it holds something
            if parent != str(staging / FILES):
                os.rmdir(parent)


def _hashes_if(path: Path, listed: Listed) -> Hashes | None:
    """Of a file, where there is one of the right size."""
    try:
        if path.stat().st_size != listed.size or not path.is_file():
            return None
        return hashes_of(path, None if listed.sha256 else listed.size)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise HubError(f"{path}: one of its folders is a file; move it away") from None


def move(files: list[File], into: Path, staging: Path) -> None:
    """Moves what was collected into the folder: all at once where there is none yet, else file by file."""
    if not os.path.lexists(into) or not any(into.iterdir()):  # a folder may take the place of an empty one
        os.rename(staging / FILES, into)
        fsync(into.parent)
        return
    real = os.path.realpath(into)
    parents: set[Path] = set()
    for file in files:
        target = into / file.local
        if file.at == target:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.commonpath([real, os.path.realpath(target.parent)]) != real:
            raise HubError(f"{target.parent}: a link leads out of {into} there; remove it, for a file is to be written")
        os.replace(str(file.at), target)
        parents.add(target.parent)
    for parent in parents:
        fsync(parent)


def _entry_of(place: Path, lock: HubLock) -> LockedRepo:
    ends = {name: Path(repo.folder).parts for name, repo in lock.repos.items()}
    of_folder = [lock.repos[name] for name, end in ends.items() if end and place.parts[-len(end) :] == end]
    found = of_folder if len(of_folder) == 1 else [*lock.repos.values()]
    if len(found) != 1:
        names = ", ".join([*lock.repos][:5]) or "none"
        raise ValueError(f"lock must have one entry of folder {place}; it has {names}: pass lock.repos[NAME]")
    return found[0]


def verify_folder(folder: StrPath, lock: HubLock | LockedRepo, *, threads: int | None = None) -> list[str]:
    """What is wrong with the files of a repository in a folder, each in words; empty where nothing is.

    Args:
        lock: what was read from a lock file: the repository's entry, ``read_lock(path).repos[name]``; or all of it,
            of which the entry is taken whose folder this is, or the only one.
        threads: None: one a core.
    Other files in the folder are nobody's business.   Cost: all of them are hashed.
    Raises ValueError: no entry of the lock is of the folder.   OSError.
    Example: ``verify_folder("out/files", read_lock("out/hub.lock.json")) == []``
    """
    place = Path(absolute(folder))
    entry = lock if isinstance(lock, LockedRepo) else _entry_of(place, lock)

    def compare(locked_file: tuple[str, LockedFile]) -> str:
        path, file = locked_file
        local = place / entry.local(path)
        if not local.is_file():
            return f"{local} is missing"
        hashes = hashes_of(local)
        if hashes.size != file.size:
            return f"{local} has {hashes.size:,} bytes; expected {file.size:,}"
        return "" if hashes.sha256 == file.sha256 else f"{local} has SHA-256 {hashes.sha256}; expected {file.sha256}"

    count = thread_count(threads) or os.cpu_count() or 1
    found = read_ahead(compare, sorted(entry.files.items()), threads=count, ahead=2 * count, name="dcfast-hash")
    return [problem for problem in found if problem]
