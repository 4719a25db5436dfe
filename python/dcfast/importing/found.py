"""What lies in a folder: one walk, in the order of names. Memory: the names of shards and tables, and of one folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from dcfast.importing.account import Account
from dcfast.index.segments import IMAGE_EXTS
from dcfast.storage.listing import is_shard_name, printable, reason_passed_over

TABLE_EXTS = ("csv", "tsv", "jsonl", "ndjson")
SIDECAR_EXTS = ("txt", "json")
LINKED_FOLDER = "links to folders, which are not followed: give the folder itself"
LEADS_OUT = "links that lead out of the folder, which are not followed: copy what they lead to"
_IN_SNAPSHOT = re.compile(r"(.*/(?:datasets|models|spaces)--[^/]+)/snapshots/[^/]+(?:/.*)?")
_COMPANIONS = ("dataset_info.json", "state.json", "dataset_dict.json", "meta.json", "sizes.json")


@dataclass
class Found:
    """Files by kind, as paths relative to ``root``, sorted by folder and name.

    Attributes:
        pictures: how many there are.   sidecars: texts and json, which may be captions.
        alone: it is one shard that was named, and the rest of ``root`` was not looked at.
    """

    root: str
    tars: list[str] = field(default_factory=list)
    parquet: list[str] = field(default_factory=list)
    arrow: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    pictures: int = 0
    sidecars: int = 0
    passed: Account = field(default_factory=Account)
    alone: bool = False

    @property
    def words(self) -> str:
        """What there is, for a message."""
        counts = {
            ".tar": len(self.tars),
            ".parquet": len(self.parquet),
            ".arrow": len(self.arrow),
            "csv or jsonl": len(self.tables),
            "pictures": self.pictures,
            ".txt or .json": self.sidecars,
        }
        there = [f"{count:,} {name}" for name, count in counts.items() if count]
        return ", ".join([*there, *self.passed.record.lines]) or "nothing"


def extension(name: str) -> str:
    """The last dotted part of a name, in lower case."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def folders_of(root: str, passed: Account | None = None) -> Iterator[tuple[str, list[str]]]:
    """(folder relative to the root, "" for itself; names of its files, sorted), in the order of names.

    Hidden folders and files are left out; of links to folders, and of folders that cannot be read, ``passed`` is told.
    """
    told = passed or Account()

    def unreadable(error: OSError) -> None:
        told.add("folders that cannot be read", os.fspath(error.filename or ""))

    for folder, below, names in os.walk(root, onerror=unreadable):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in [name for name in below if os.path.islink(os.path.join(folder, name))]:
            below.remove(name)  # it may lead in a circle
            told.add(LINKED_FOLDER, name)
        place = os.path.relpath(folder, root)
        yield "" if place == "." else place, sorted(name for name in names if not name.startswith("."))


def leads_out(root: str, path: str) -> bool:
    """Whether links on the way from a folder to a file lead out of it. The folder's own path may have links.

    The blobs of a repository in Hugging Face's cache count as in each of its snapshots, whose files are links to them.

    Args:
        path: relative to ``root``, without ``..``.
    Cost: an ``lstat`` a part of the path.
    """
    parts = path.split(os.sep)
    if not any(os.path.islink(os.path.join(root, *parts[: n + 1])) for n in range(len(parts))):
        return False
    real, target = os.path.realpath(root), os.path.realpath(os.path.join(root, path))
    snapshot = _IN_SNAPSHOT.fullmatch(real)
    homes = [real, os.path.join(snapshot[1], "blobs")] if snapshot else [real]
    return all(os.path.commonpath([home, target]) != home for home in homes)


def folders_inside(
    root: str, passed: Account, below: str = "", *, again: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """As ``folders_of``, without links to files outside of the root, of which ``passed`` is told.

    Args:
        below: the folder below the root at which the walk begins.
        again: the folder was walked before, and of folders ``passed`` was told then.
    """
    for folder, names in folders_of(os.path.join(root, below), None if again else passed):
        place = os.path.join(below, folder) if folder else below
        kept: list[str] = []
        for name in names:
            if leads_out(root, path := os.path.join(place, name)):
                passed.add(LEADS_OUT, path)
            else:
                kept.append(name)
        yield place, kept


def look(root: str) -> Found:
    """Lists a folder, and those below it; a shard is as a folder of that one. OSError where it cannot be read."""
    if os.path.isfile(root):
        found = Found(os.path.dirname(root), alone=True)
        _sort_in(found, os.path.basename(root), os.path.basename(root))
        return found
    os.scandir(root).close()  # of the folder itself the error is raised
    found = Found(root)
    for folder, names in folders_of(root, found.passed):
        for name in names:
            _sort_in(found, os.path.join(folder, name), name)
    return found


def _sort_in(found: Found, path: str, name: str) -> None:
    kind = extension(name)
    if not _is_text(path):
        found.passed.add("files whose name is not UTF-8: rename them", printable(path))
    elif is_shard_name(name):
        found.tars.append(path)
    elif kind == "parquet":
        found.parquet.append(path)
    elif kind == "arrow":
        if name.startswith("cache-"):
            found.passed.add("caches of Hugging Face (cache-*.arrow), which are not the dataset", path)
        else:
            found.arrow.append(path)
    elif kind in TABLE_EXTS:
        found.tables.append(path)
    elif kind in IMAGE_EXTS:
        found.pictures += 1
    elif reason := reason_passed_over(name):
        found.passed.add(f"archives ({reason})", path)
    elif kind in SIDECAR_EXTS and name not in _COMPANIONS and not name.endswith("_stats.json"):
        found.sidecars += 1
    elif name not in _COMPANIONS and not name.endswith("_stats.json"):
        found.passed.add(f"files of a kind that is not read ({'.' + kind if kind else 'no extension'})", path)


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
