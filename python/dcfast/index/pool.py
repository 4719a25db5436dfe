"""The files of a pool: listed (its tars by ``dcfast.storage.listing``), and cut into pieces of work."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dcfast.errors import PoolError
from dcfast.process.options import one_of
from dcfast.process.shared_options import UID_FROM
from dcfast.storage.http import PATIENT
from dcfast.storage.listing import (
    PassedOver,
    TarListing,
    fault_of_name,
    is_shard_name,
    list_pool_tars,
    printable,
    shards_below,
)
from dcfast.storage.paths import absolute, is_url
from dcfast.storage.records import Record, read_record
from dcfast.storage.remote import RemoteState, shard_states

StrPath = str | os.PathLike[str]

POOL_FILE = "pool.json"
"""What an import says of a pool that it made; other pools have none."""


class PoolFile(Record):
    """``pool.json``: the rule by which the samples have uids, and what the import did."""

    uid_from: str
    imported: object = None


def pool_uid_rule(directory: StrPath, given: str = "json") -> str:
    """The rule of a pool's uids: what is given; of ``json``, the default, what the pool's own ``pool.json`` says.

    CorruptDataError: that cannot be read.   ValueError: it names no rule.
    """
    path = Path(directory) / POOL_FILE
    if given != "json" or not path.is_file():
        return given
    rule = read_record(path, PoolFile, advice="import the pool again").uid_from
    one_of(f"{path}: uid_from", rule, UID_FROM.choices)
    return rule


MAX_PIECES = 8192
"""A stage is cut into at most this many pieces, so that a million shards do not become millions of files."""


def group_files(files: list[str], limit: int = MAX_PIECES) -> list[tuple[int, list[str]]]:
    """Cuts a list of files into at most ``limit`` runs of neighbours: (ordinal of the first, files).

    The run length is a power of two, so that files added at the end leave the earlier groups as they were until
    the list has doubled.
    """
    size = 1
    while size * limit < len(files):
        size *= 2
    return [(i, files[i : i + size]) for i in range(0, len(files), size)]


MAX_SEGMENTS = 4096
"""Index segments a pool has at most; a segment covers a run of neighbouring shards."""


def check_name(name: str, where: str) -> None:
    """PoolError for a file name that is not UTF-8: the tables, whose strings are, could not hold it."""
    fault = fault_of_name(name)
    if fault:
        raise PoolError(f"{where}: {fault}")


def shard_folder(directory: StrPath) -> Path:
    """Where the shards of a pool lie: in ``shards`` below the directory, where there is one, else in it."""
    return Path(shards_below(os.fspath(directory)))


def metadata_folder(directory: StrPath) -> Path:
    """Where the metadata of a pool lies: in ``metadata`` below the directory, where there is one, or by the shards."""
    below = Path(directory) / "metadata"
    return below if below.is_dir() else shard_folder(directory)


def lacks_shards(directory: StrPath) -> bool:
    """Whether a pool holds no tar, as one whose metadata alone has been downloaded; a directory must be there."""
    return os.path.isdir(directory) and not list_pool_tars(directory).names


def refuse_url(directory: StrPath) -> None:
    """PoolError where a pool that is to be read as files is given by a URL."""
    if is_url(directory):
        raise PoolError(
            f"pool {directory}: expected a directory, got a URL; refresh_index and open_pool read shards behind URLs, "
            "a run by --shards-from URL beside a --pool DIR of metadata; for all else: download the pool"
        )


def list_parquet(directory: StrPath) -> list[str]:
    """The names of the parquet files of a directory, sorted; hidden ones are none. OSError where it cannot be read."""
    return sorted(n for n in os.listdir(directory) if n.endswith(".parquet") and not n.startswith("."))


def _parquet_below(entry: os.DirEntry[str]) -> list[str]:
    try:
        return list_parquet(entry.path) if entry.is_dir() else []
    except OSError:  # of no interest: it may be anything
        return []


def _passed_over_parquet(directory: StrPath) -> list[str]:
    """A sentence on what looks like metadata in a directory and is not taken; none where nothing does."""
    passed_over: list[PassedOver] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            name, reason = entry.name.lower(), ""
            if name.startswith(".") or entry.name.endswith(".parquet"):
                continue
            if name.endswith((".parquet", ".parq", ".pq")):
                reason = "the name must end in .parquet, in lower case"
            elif ".parquet." in name and entry.is_file():
                reason = "unfinished or compressed: the name must end in .parquet"
            elif below := _parquet_below(entry):
                reason = f"a directory, with {printable(below[0])} in it: metadata must lie side by side"
            if reason:
                passed_over.append(PassedOver(printable(entry.name), reason))
    return TarListing(os.fspath(directory), passed_over=sorted(passed_over)).notes


def import_command(place: Path) -> str:
    """What is typed to make a pool of what lies in a place, beside it."""
    return shlex.join(
        ["dcfast", "import", str(place), "--out", f"{place.with_suffix('') if place.is_file() else place}-pool"]
    )


@dataclass(frozen=True)
class Pool:
    """The files of a pool, listed once: in ``shards`` and ``metadata``, or side by side in one directory.

    Attributes:
        shard_dir: holds the tars; or its URL.
        shards: names of the tars, sorted; a shard's ordinal is its place here.
        metadata: absolute paths of the parquet files, sorted.
        notes: what among the shards and the metadata was passed over, in words.
        states: of shards behind a URL, name -> size and version; else empty.
    Raises PoolError, by ``open``: no shards, no metadata.   Memory: the names of the files.
    Example: ``[str(Pool.open("pool").shard_path(name)) for name in Pool.open("pool").shards]``
    """

    root: Path
    shard_dir: Path | str
    shards: list[str]
    metadata: list[str]
    notes: list[str] = field(default_factory=list)
    states: dict[str, RemoteState] = field(default_factory=dict)

    @classmethod
    def open(
        cls, directory: StrPath, uid_from: str = "json", *, metadata_only: bool = False, shards_from: str | None = None
    ) -> Pool:
        """Lists a pool; PoolError says what is missing and what was expected.

        Args:
            uid_from: which column the metadata must have, for the message.
            metadata_only: it may have no shards.
            shards_from: the URL of its shards, where the directory has the metadata alone.
        """
        refuse_url(directory)
        root = Path(absolute(directory))
        if root.is_file() and is_shard_name(root.name):
            raise PoolError(
                f"pool {root}: it is one shard; expected a directory with shards/*.tar and metadata/*.parquet, which "
                f"is made of it by: {import_command(root)}"
            )
        if not root.is_dir():
            raise PoolError(
                f"pool {root}: no such directory; expected one with shards/*.tar and metadata/*.parquet (--pool DIR)"
            )
        if shards_from is not None:
            return cls._behind_url(root, shards_from.rstrip("/"), uid_from)
        shard_dir = shard_folder(root)
        tars = list_pool_tars(root)
        before = (
            "; before they are downloaded, --to filter says which samples are wanted; of pictures, datasets and shards "
            f"that lie otherwise a pool is made by: {import_command(root)} (docs/import.md)"
        )
        if shard_dir == root and not tars.names and not metadata_only:
            raise PoolError(
                f"pool {root}: it has no directory shards/, and no .tar file itself; expected shards/*.tar and "
                f"metadata/*.parquet, or both side by side as img2dataset writes them{tars.hint}{before}"
            )
        if not tars.names and not metadata_only:
            raise PoolError(
                f"pool {root}: shards/ holds no .tar file; nothing to index{tars.hint}: download them{before}"
            )
        tars.check()
        metadata, notes = cls._metadata(root, uid_from)
        for name in tars.names:
            check_name(name, f"pool {root}")
        return cls(root, shard_dir, tars.names, metadata, [*tars.notes, *notes])

    @classmethod
    def _behind_url(cls, root: Path, url: str, uid_from: str) -> Pool:
        states, passed_over = shard_states(url, PATIENT)
        tars = TarListing(url, list(states), passed_over)
        if not tars.names:
            raise PoolError(f"pool {root}: {url} lists no .tar file{tars.hint}; give the URL of their directory")
        metadata, notes = cls._metadata(root, uid_from)
        return cls(root, url, tars.names, metadata, [*tars.notes, *notes], states)

    @staticmethod
    def _metadata(root: Path, uid_from: str) -> tuple[list[str], list[str]]:
        """The paths of the metadata, and notes on what was passed over."""
        shard_dir, table_dir = shard_folder(root), metadata_folder(root)
        metadata = [str(table_dir / name) for name in list_parquet(table_dir)]
        column = "a column uid (or url or key: --uid-from)" if uid_from == "json" else f"a column {uid_from}"
        if not metadata and table_dir == shard_dir:
            raise PoolError(
                f"pool {root}: it has no directory metadata/, and no .parquet file beside its shards; expected "
                f"metadata/*.parquet with at least {column}; it is written from the shards by: {import_command(root)} "
                "(docs/import.md)"
            )
        if not metadata:
            raise PoolError(
                f"pool {root}: metadata/ holds no .parquet file; a filter needs at least {column}: download it, or "
                f"have it written from the shards: {import_command(root)} (docs/import.md)"
            )
        for name in metadata:
            check_name(name, f"pool {root}")
        return metadata, _passed_over_parquet(table_dir)

    def segments(self) -> list[tuple[int, list[str]]]:
        """The shards cut into index segments: (ordinal of the first shard, names)."""
        return group_files(self.shards, MAX_SEGMENTS)

    def metadata_groups(self) -> list[tuple[int, list[str]]]:
        """The metadata files cut into pieces: (ordinal of the first file, paths)."""
        return group_files(self.metadata)

    def shard_path(self, name: str) -> str:
        return f"{self.shard_dir}/{name}" if self.states else os.path.join(self.shard_dir, name)

    def shard_input(self, name: str) -> str:
        """A shard as an input of a piece: its path, or its URL with size and version."""
        state = self.states.get(name)
        words = "" if state is None else f" ({state.size} bytes, version {state.stored_mtime_ns})"
        return self.shard_path(name) + words

    def bytes_of(self, names: Iterable[str]) -> int:
        """Of some shards together."""
        if self.states:
            return sum(self.states[name].size for name in names)
        return sum(os.path.getsize(self.shard_path(name)) for name in names)
