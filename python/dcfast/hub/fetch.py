"""``fetch_repo``: files of a repository of the hub, whole and verified, or not there."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock

from dcfast.errors import HubError
from dcfast.hub.folder import FILES, PARTS, File, look, move, staging_of
from dcfast.hub.hashes import Hashes
from dcfast.hub.lock_file import LockedFile, LockedRepo, lock_repo, read_lock_if_any
from dcfast.hub.plan import Plan, changes, check_arguments, check_required, local_names, make_plan
from dcfast.hub.repository import Repository
from dcfast.hub.transfer import Server, StoppedError, download, require_hub
from dcfast.process.read_ahead import read_ahead
from dcfast.storage.paths import absolute, make_directory, not_left_empty
from dcfast.storage.records import Count, Record

AT_ONCE = 8
"""Files that are fetched at the same time."""
SAY_EVERY_S, SAY_FROM = 10.0, 10**9


class Fetched(Record):
    """What a fetch did.

    Attributes:
        files: paths in the folder, sorted.   bytes: of all of them.
        fetched, already_there: how many came now, and how many were there as they must be.
    Example: ``Fetched("owner/name", "0" * 40, ["a.parquet"], 3, 1, 0).files == ["a.parquet"]``
    """

    repo: str
    commit: str
    files: list[str]
    bytes: Count
    fetched: Count
    already_there: Count


@dataclass
class Progress:
    """Says how far a fetch is, every ten seconds, from whatever thread."""

    say: Callable[[str], None]
    total: int
    done: int = 0
    _said: tuple[float, int] = field(default_factory=lambda: (time.monotonic(), 0))
    _door: Lock = field(default_factory=Lock)

    def moved(self, count: int) -> None:
        """So many bytes more are there."""
        with self._door:
            self.done += count
            (then, before), now = self._said, time.monotonic()
            if now - then > SAY_EVERY_S:
                self._said = now, self.done
                rate = in_words(max(0, int((self.done - before) / (now - then))))
                self.say(f"{in_words(self.done)} of {in_words(self.total)}, {rate} a second")


def in_words(count: int) -> str:
    """A number of bytes, to three digits."""
    if count < 1000:
        return f"{count} bytes"
    size, units = count / 1000, ["kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:,.0f} {units[0]}" if size >= 100 else f"{size:.3g} {units[0]}"


def fetch_repo(
    repo: str,
    into: Path,
    *,
    patterns: Sequence[str],
    lock: Path,
    kind: str = "dataset",
    update_lock: bool = False,
    revision: str | None = None,
    required: Sequence[str] = (),
    flatten: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Fetched:
    """Fetches files of a repository into a folder, where they appear when all of them are whole and verified.

    The first fetch writes to the lock file which commit it took and what each file is; later ones take just that.
    Files that are collected lie in a folder ``.fetching-NAME`` beside ``into`` until then, also after a kill: the same
    call goes on there. What lies in ``into`` and is as it must be is not fetched again; a file of the same name with
    other bytes is replaced, and other files stay.

    Args:
        repo: ``owner/name``.   kind: ``dataset`` or ``model``.
        patterns: of fnmatch, of paths in the repository; ``*`` stands for slashes, too.
        lock: the lock file, made where it is missing; it may hold other repositories as well.
        update_lock: take what the hub has now (or ``revision``), and say what that changes.
        revision: branch, tag or commit of the first fetch; the lock stands for it afterwards.
        required: patterns each of which a file has to match, of those that ``patterns`` choose.
        flatten: leave the folders of the repository out: ``part_0/x.parquet`` becomes ``x.parquet``.
        say: is given lines of progress, from any thread, one at a time.
    Raises:
        HubError: no network; refused (a token, terms); vanished; failed too often; no room; other bytes than the lock
            or the hub says; the lock or the folder is another repository's; names that lead out of the folder.
        MissingDependencyError: huggingface_hub is not installed.   CorruptDataError: the lock file is damaged.
        ValueError, TypeError: arguments.   RunError: another fetch into the folder is at work.   OSError.
    Memory: 1 kB a file of the repository, 2 MiB a file that is being fetched (8 at once).   Cost: what is there is
    hashed, at the speed of the disk.
    Example: ``fetch_repo("owner/name", Path("out/files"), patterns=["*.parquet"], lock=Path("out/hub.lock.json"))``
    """
    check_arguments(repo, kind, patterns, required, revision)
    require_hub("fetching from the hub")
    into, lock = Path(absolute(into)), Path(absolute(lock))
    if into.is_symlink():
        into = into.resolve()
    if os.path.lexists(into) and not into.is_dir():
        raise NotADirectoryError(f"{into}: it is a file; name a folder for what is fetched")
    repository = Repository(repo, kind, lock.name)
    before = read_lock_if_any(lock)
    folder = _beside(into, lock)
    _check_entries(before.repos, repo, kind, folder, lock)
    with not_left_empty(into.parent), staging_of(into) as staging:
        plan = make_plan(repository, before, staging, patterns, revision, update=update_lock, say=say)
        check_required(repository, plan, required)
        files = [File(path, name, plan.files[path]) for path, name in local_names(plan, flat=flatten).items()]
        _say_look(files, into, say)
        look(files, into, staging)
        already = sum(file.at is not None and staging not in file.at.parents for file in files)
        missing = [file for file in files if file.at is None]
        _say_begin(plan, files, missing, say)
        _fetch(repository, plan.commit, missing, staging, say)
        move(files, into, staging)
        entry = _entry(plan, files, before.repos.get(repo), folder, flat=flatten)
        make_directory(lock.parent, "lock")
        lock_repo(lock, repo, entry)
        _say_changes(before.repos.get(repo), entry, repo, say)
    size = sum(file.listed.size for file in files)
    return Fetched(repo, plan.commit, sorted(file.local for file in files), size, len(files) - already, already)


def _beside(into: Path, lock: Path) -> str:
    """The folder as the lock file names it: by the way from there, where it lies below."""
    return os.fspath(into.relative_to(lock.parent)) if into.is_relative_to(lock.parent) else into.name


def _check_entries(repos: dict[str, LockedRepo], repo: str, kind: str, folder: str, lock: Path) -> None:
    """HubError where the lock has the repository as another kind, or the folder as another repository's."""
    if repo in repos and repos[repo].kind != kind:
        raise HubError(f"{lock}: {repo} is a {repos[repo].kind} there; asked for as a {kind}: name another lock file")
    others = [name for name, entry in repos.items() if name != repo and entry.folder == folder]
    if others:
        raise HubError(
            f"{lock}: folder {folder} holds files of {others[0]}, and {repo} is asked for: choose another folder, or "
            "remove that one and the lock file"
        )


def _fetch(repository: Repository, commit: str, missing: list[File], staging: Path, say: Callable[[str], None]) -> None:
    """Fetches files into ``staging``; the first error stops them all."""
    if not missing:
        return
    needed = sum(file.listed.size for file in missing)
    free = shutil.disk_usage(staging).free + sum(part.stat().st_size for part in (staging / PARTS).iterdir())
    if needed > free:
        raise HubError(
            f"{staging.parent}: {in_words(needed)} are to be fetched, and {in_words(free)} are free there: make "
            "room, or choose another disk"
        )
    server, progress = repository.server, Progress(say, needed)
    failures: list[BaseException] = []

    def work(file: File) -> None:
        try:
            _fetch_one(server, repository.file_url(commit, file.path), file, staging, progress)
        except BaseException as error:
            if not isinstance(error, StoppedError):
                failures.append(error)
            server.stop.set()
            raise

    try:
        for _ in read_ahead(work, missing, threads=AT_ONCE, ahead=2 * AT_ONCE, name="dcfast-fetch"):
            pass
    except StoppedError:
        raise failures[0] from None
    finally:
        server.stop.set()


def _fetch_one(server: Server, url: str, file: File, staging: Path, progress: Progress) -> None:
    """Fetches a file and holds it against its hash, once more where what was there before may be at fault."""
    listed = file.listed
    target = staging / FILES / file.local
    target.parent.mkdir(parents=True, exist_ok=True)
    name = Hashes()
    name.update(f"{listed.said} {file.path}".encode())
    part = staging / PARTS / name.sha256[:32]
    resumed = part.exists()
    once = partial(
        download,
        server,
        url,
        part,
        size=listed.size,
        most=listed.size,
        blob=not listed.sha256,
        moved=progress.moved,
    )
    hashes = once(resume=True)
    if not listed.is_same(hashes) and resumed:
        progress.moved(-hashes.size)
        hashes = once(resume=False)
    if not listed.is_same(hashes):
        part.unlink()
        raise HubError(
            f"{url}: other bytes came than were said: expected {listed.said}; got {listed.said_of(hashes)}. They were "
            "removed; give the same command again, and where it stays so, --update-lock takes what is there today"
        )
    os.replace(part, target)
    file.at, file.sha256 = target, hashes.sha256


def _entry(plan: Plan, files: list[File], before: LockedRepo | None, folder: str, *, flat: bool) -> LockedRepo:
    """What the lock says from now on: of the same commit, what it said before as well."""
    now = {file.path: LockedFile(file.listed.size, file.sha256) for file in files}
    patterns = set(plan.patterns)
    if before is not None and before.commit == plan.commit:
        now, patterns = {**before.files, **now}, patterns | set(before.patterns)
    return LockedRepo(plan.kind, plan.commit, dict(sorted(now.items())), sorted(patterns), folder, flat)


def _say_look(files: list[File], into: Path, say: Callable[[str], None]) -> None:
    size = sum(file.listed.size for file in files if (into / file.local).is_file())
    if size >= SAY_FROM:
        say(f"{into}: comparing {in_words(size)} that are there with their hashes")


def _say_begin(plan: Plan, files: list[File], missing: list[File], say: Callable[[str], None]) -> None:
    size, rest = (sum(file.listed.size for file in some) for some in (files, missing))
    say(
        f"{plan.repo} at {plan.commit[:12]}: {len(files):,} files, {in_words(size)}; to fetch: {len(missing):,}, "
        f"{in_words(rest)}"
    )


def _say_changes(before: LockedRepo | None, after: LockedRepo, repo: str, say: Callable[[str], None]) -> None:
    if before is None:
        say(f"{repo}: locked at commit {after.commit}")
        return
    old, new = ({path: file.sha256 for path, file in entry.files.items()} for entry in (before, after))
    what = changes(old, new)
    if before.commit != after.commit or what:
        say(f"{repo}: the lock had commit {before.commit[:12]}, has {after.commit[:12]}; {what or 'the same files'}")
