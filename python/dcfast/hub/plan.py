"""What a fetch is to bring: the commit and its files, by the lock file, an earlier try of it, or the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from dcfast.errors import DcfastError, HubError
from dcfast.hub.lock_file import KINDS, HubLock, LockedRepo, fault_of_name, is_commit, is_repo_name
from dcfast.hub.repository import Listed, Repository
from dcfast.storage.atomic import write_json
from dcfast.storage.records import Record, plain, read_record

PLAN_FILE = "plan.json"


class Plan(Record):
    """What a fetch is to bring; stands in the folder that it is collected in, so that the same call goes on.

    Attributes:
        revision: that was asked for.   files: path in the repository -> the file.
    """

    repo: str
    kind: str
    revision: str
    commit: str
    patterns: list[str]
    files: dict[str, Listed]


def check_arguments(
    repo: str, kind: str, patterns: Sequence[str], required: Sequence[str], revision: str | None
) -> None:
    """ValueError, TypeError: an argument that makes no sense; by its name."""
    if not is_repo_name(repo):
        raise ValueError(f"repo must be a repository of the hub, owner/name; got {repo!r}")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    for name, given in (("patterns", patterns), ("required", required)):
        if isinstance(given, str):
            raise TypeError(f"{name} must be a list of patterns; got the text {given!r}: put it in brackets")
    if not patterns:
        raise ValueError('patterns must name files of the repository, as ["*.parquet"]; got none')
    if revision is not None and (not revision or not revision.isprintable() or len(revision) > 200):
        raise ValueError(f"revision must be a branch, a tag or a commit; got {revision!r}")


def make_plan(
    repository: Repository,
    lock: HubLock,
    staging: Path,
    patterns: Sequence[str],
    revision: str | None,
    *,
    update: bool,
    say: Callable[[str], None],
) -> Plan:
    """What is to be fetched. Asks the hub where neither the lock nor ``staging`` says it all.

    Raises:
        HubError: the lock says otherwise than the arguments, or than the hub does; or nothing matches.
    """
    entry = lock.repos.get(repository.name)
    if entry is not None and not update:
        plan = _locked(repository, entry, patterns, revision)
    else:
        begun = None if update else _begun(repository, staging, patterns, revision)
        if begun is not None:
            plan = begun
            repository.fixed_by = "with which this fetch was begun"
            say(f"{repository.name}: going on with commit {begun.commit[:12]}, as begun")
        else:
            commit = repository.commit_of(revision)
            files = _matching(repository, commit, patterns)
            plan = Plan(repository.name, repository.kind, revision or "", commit, list(patterns), files)
    if not plan.files:
        raise HubError(
            f"{repository.kind} {repository.name} at commit {plan.commit[:12]} has no file like "
            f"{' or '.join(plan.patterns)}; look at {repository.page}"
        )
    write_json(staging / PLAN_FILE, plain(plan))
    return plan


def _locked(repository: Repository, entry: LockedRepo, patterns: Sequence[str], revision: str | None) -> Plan:
    """What the lock says, and what the same commit has beside, of patterns that were not fetched before."""
    if revision is not None and is_commit(revision) and revision != entry.commit:
        raise HubError(
            f"{repository.lock}: {repository.name} is locked at commit {entry.commit}, and revision {revision} is "
            "asked for; leave it out, or --update-lock"
        )
    repository.fixed_by = f"that {repository.lock} names"
    files = {path: Listed(f.size, f.sha256, "") for path, f in entry.files.items() if matches(path, patterns)}
    if not set(patterns) <= set(entry.patterns):
        listed = _matching(repository, entry.commit, patterns)
        for path in listed.keys() & files.keys():
            same = not listed[path].sha256 or listed[path].sha256 == files[path].sha256
            if listed[path].size != files[path].size or not same:
                raise HubError(
                    f"{repository.lock}: {path} of {repository.name} is {files[path].said} there, and the hub says "
                    f"{listed[path].said} of the same commit; restore the lock file, or renew it by --update-lock"
                )
        files = {**listed, **files}
    return Plan(repository.name, repository.kind, "", entry.commit, list(patterns), files)


def _begun(repository: Repository, staging: Path, patterns: Sequence[str], revision: str | None) -> Plan | None:
    """The plan of an earlier try of the same fetch."""
    if not (staging / PLAN_FILE).is_file():
        return None
    try:
        plan = read_record(staging / PLAN_FILE, Plan)
    except DcfastError:
        return None
    same = (plan.repo, plan.kind, plan.revision, plan.patterns)
    return plan if same == (repository.name, repository.kind, revision or "", list(patterns)) else None


def _matching(repository: Repository, commit: str, patterns: Sequence[str]) -> dict[str, Listed]:
    """The files of a commit that are wanted; HubError where one has a name that no file may have."""
    found: dict[str, Listed] = {}
    for path, file in repository.files(commit):
        if matches(path, patterns):
            problem = "stands there twice" if path in found else fault_of_name(path)
            if problem:
                raise HubError(
                    f"{repository.name}: the file name {ascii(path)[:200]} {problem}; look at {repository.page}: "
                    "nothing was fetched"
                )
            found[path] = file
    return found


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path is like one of some patterns of fnmatch, in which ``*`` stands for slashes, too."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def check_required(repository: Repository, plan: Plan, required: Sequence[str]) -> None:
    """HubError names those of ``required`` that the commit lacks."""
    lacking = [pattern for pattern in required if not any(fnmatchcase(path, pattern) for path in plan.files)]
    if lacking:
        raise HubError(
            f"{repository.kind} {repository.name} at commit {plan.commit[:12]} lacks {', '.join(lacking)}; look "
            f"at {repository.page}"
        )


def local_names(plan: Plan, *, flat: bool) -> dict[str, str]:
    """Path in the repository -> path in the folder.

    HubError: two files would have one name, or a file would have that of another's folder.
    """
    taken: dict[str, str] = {}
    for path in sorted(plan.files):
        name = path.rpartition("/")[2] if flat else path
        if name in taken:
            raise HubError(
                f"{plan.repo}: {taken[name]} and {path} would both become {name}; leave one out of the patterns"
            )
        taken[name] = path
    for name in taken:
        above = name.rpartition("/")[0]
        while above:
            if above in taken:
                raise HubError(f"{plan.repo}: {above} is a file and a folder; leave one out of the patterns")
            above = above.rpartition("/")[0]
    return {path: name for name, path in taken.items()}


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """What differs between two sets of files (path -> hash), in words; empty where nothing does."""
    told = {
        "changed": sorted(path for path in before.keys() & after.keys() if before[path] != after[path]),
        "new": sorted(after.keys() - before.keys()),
        "no longer in it, which stay in the folder": sorted(before.keys() - after.keys()),
    }
    return "; ".join(
        f"{len(paths):,} {how}: {', '.join(paths[:5])}{', ...' if len(paths) > 5 else ''}"
        for how, paths in told.items()
        if paths
    )
