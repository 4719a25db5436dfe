"""``hub.lock.json``: which commit of which repository was fetched, and what each file is.

The first fetch writes it, later ones obey it, on any machine. It can be handed on, so whoever reads it takes it for a
stranger's: names of files that lead out of a folder are refused.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dcfast.errors import CorruptDataError, HubError, printable
from dcfast.storage.atomic import write_json
from dcfast.storage.inputs import StrPath
from dcfast.storage.listing import is_temporary_name
from dcfast.storage.lock import is_without_locks, take_lock
from dcfast.storage.records import Count, Record, plain, read_record, replaced

LOCK_FILE = "hub.lock.json"
FORMAT = 1
KINDS = ("dataset", "model")
MOST_NAME = 1024
"""Bytes of a file's path in a repository; of each part of it, 255."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPO = re.compile(r"(?!.*(?:\.\.|--))[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}(?:/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95})?")
_WAIT_S, _PAUSE_S = 30.0, 0.05
_ADVICE = "bring it back as it was, or remove it: the next fetch writes another"


class LockedFile(Record):
    """A file of a repository: its bytes, and their SHA-256.

    Example: ``LockedFile(size=3, sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")``
    """

    size: Count
    sha256: str


class LockedRepo(Record):
    """A repository as it was fetched.

    Attributes:
        kind: ``dataset`` or ``model``.   commit: 40 hex digits.
        files: path in the repository -> the file; those that were fetched.
        patterns: by which they were chosen: of these, all that the commit has are in ``files``.
        folder: that they lie in, seen from the lock file's.   flat: without the folders of the repository.
    Example: ``LockedRepo(kind="dataset", commit="0" * 40, files={}).local("test/0.tar") == "test/0.tar"``
    """

    kind: str
    commit: str
    files: dict[str, LockedFile]
    patterns: list[str] = []
    folder: str = ""
    flat: bool = False

    def local(self, path: str) -> str:
        """The name that a file of the repository has in the folder."""
        return path.rpartition("/")[2] if self.flat else path


class HubLock(Record):
    """A lock file: repository -> what was fetched of it.

    Example: ``read_lock("out/hub.lock.json").repos["owner/name"].commit``
    """

    format: int = FORMAT
    repos: dict[str, LockedRepo] = {}


def read_lock(path: StrPath) -> HubLock:
    """The lock in a file.

    Raises:
        CorruptDataError: no lock file, of a later format, or with names or hashes that none has; names file and entry.
        FileNotFoundError, OSError: it cannot be read.
    Memory: 1 kB a file.
    Example: ``read_lock("out/hub.lock.json").repos["owner/name"].files["a.parquet"].size == 4``
    """
    lock = read_record(path, HubLock, advice=_ADVICE)
    if lock.format != FORMAT:
        problem = f"format {lock.format}; expected {FORMAT}: it is of another release of dcfast, which reads it"
        raise CorruptDataError(f"{path}: {problem}", path=path)
    for name, repo in lock.repos.items():
        problem = _fault_of_repo(name, repo)
        if problem:
            raise CorruptDataError(f"{path}: {printable(name)[:200]}: {problem}; {_ADVICE}", path=path)
    return lock


def read_lock_if_any(path: StrPath) -> HubLock:
    """The lock in a file; an empty one where there is none yet."""
    return read_lock(path) if os.path.lexists(path) else HubLock()


def lock_repo(path: Path, name: str, repo: LockedRepo) -> None:
    """Writes a repository's entry, atomically; those of others stay, also of processes that write at the same time.

    Raises:
        HubError: another process has had the file for half a minute.   CorruptDataError: what is there is no lock.
    """
    with held_folder(path.parent, path.name):
        for entry in os.scandir(path.parent):  # of a process that was killed: nobody else writes now
            if is_temporary_name(entry.name) and entry.name.endswith(f"-{path.name}"):
                os.unlink(entry.path)
        lock = read_lock_if_any(path)
        repos = dict(sorted({**lock.repos, name: repo}.items()))
        write_json(path, plain(replaced(lock, repos=repos)))


@contextmanager
def held_folder(folder: Path, name: str) -> Iterator[None]:
    """For the time of a block no other process changes the file of a name in a folder; waits for one that does."""
    held, until = -1, time.monotonic() + _WAIT_S
    while held < 0:
        try:
            held = take_lock(folder, folder=True)
        except BlockingIOError:
            if time.monotonic() > until:
                raise HubError(f"{folder / name}: another process holds its folder; wait for it to end") from None
            time.sleep(_PAUSE_S)
        except OSError as error:
            if not is_without_locks(error):
                raise
            break  # a file system without locks on folders, as NFS: whoever writes last wins
    try:
        yield
    finally:
        if held >= 0:
            os.close(held)


def is_commit(text: str) -> bool:
    """Whether a text is the id of a commit: 40 hex digits."""
    return _COMMIT.fullmatch(text) is not None


def is_sha256(text: str) -> bool:
    """Whether a text is a SHA-256: 64 hex digits, in lower case."""
    return _SHA256.fullmatch(text) is not None


def is_repo_name(text: str) -> bool:
    """Whether the hub could have a repository of this name: ``owner/name``, or a name alone."""
    return _REPO.fullmatch(text) is not None


def fault_of_name(path: str) -> str:
    """What is wrong with a file's path in a repository, by which a file would be written; empty where nothing is."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "is no text"
    parts = encoded.split(b"/")
    if len(encoded) > MOST_NAME or any(len(part) > 255 for part in parts):
        return "is too long"
    if not path.isprintable():
        return "holds characters that do not print"
    if any(part in (b"", b".", b"..") for part in parts):
        return "leads out of the folder, or is no path of a file"
    return ""


def _fault_of_repo(name: str, repo: LockedRepo) -> str:
    if not is_repo_name(name):
        return "expected a repository, owner/name"
    if repo.kind not in KINDS:
        return f"kind must be one of {', '.join(KINDS)}; got {ascii(repo.kind)[:80]}"
    if not is_commit(repo.commit):
        return f"commit must be 40 hex digits; got {ascii(repo.commit)[:80]}"
    for path, file in repo.files.items():
        if problem := fault_of_name(path):
            return f"the file name {ascii(path)[:200]} {problem}"
        if not is_sha256(file.sha256):
            return f"sha256 of {path} must be 64 hex digits; got {ascii(file.sha256)[:80]}"
    return ""
