"""Which rows are in which shard: a pure function of the lists, as img2dataset has it, so that either goes on with the
other's work."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dcfast.acquire.rows import NEEDED, RowRange
from dcfast.errors import PoolError
from dcfast.index.metadata import METADATA, column_matches, metadata_schema, open_metadata
from dcfast.storage.inputs import open_input
from dcfast.storage.parquet import ParquetFile

if TYPE_CHECKING:
    import pyarrow as pa

MOST_SHARDS = 10**8
_FOOTER_BYTES = 64 << 10
_STATS = re.compile(r"(\d{8,})_stats\.json")
_SHARD = re.compile(r"(\d{8,})(?:\.tar|\.parquet)?")


@dataclass(frozen=True)
class ListFile:
    """A parquet file of rows: its name, how many, and a hash of its size and footer, which has each column's bounds."""

    name: str
    rows: int
    check: str


@dataclass(frozen=True)
class ShardRows:
    """The rows of a shard: a list's file, the first of them, how many."""

    shard: int
    name: str
    first: int
    count: int


@dataclass(frozen=True)
class Plan:
    """The shards of lists.

    Attributes:
        files: sorted by name.   uid_from: the rule of their uids.
    """

    files: tuple[ListFile, ...]
    shard_size: int
    uid_from: str

    @property
    def rows(self) -> int:
        """Of all lists."""
        return sum(file.rows for file in self.files)

    @property
    def num_shards(self) -> int:
        """Of all lists; none spans two."""
        return sum(-(-file.rows // self.shard_size) for file in self.files)

    def shards(self) -> Iterator[ShardRows]:
        """All of them, in order."""
        shard = 0
        for file in self.files:
            for first in range(0, file.rows, self.shard_size):
                yield ShardRows(shard, file.name, first, min(self.shard_size, file.rows - first))
                shard += 1

    def rows_of(self, folder: Path, one: ShardRows, subset: str | None = None) -> RowRange:
        """Where the rows of a shard stand; ``folder``: of the lists."""
        return RowRange(str(folder / one.name), one.first, one.count, one.shard, self.shard_size, self.uid_from, subset)

    @property
    def digest(self) -> str:
        """What tells these lists from others."""
        text = "\0".join(
            [*(f"{file.name}\0{file.rows}\0{file.check}" for file in self.files), str(self.shard_size), self.uid_from]
        )
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def plan_of(folder: Path, names: Sequence[str], shard_size: int) -> Plan:
    """The plan of the lists of a folder.

    PoolError: there are none, one lacks a column, their uids are not of one kind.   Cost: a footer a list.
    """
    uid_from = check_lists(folder, names)
    files = []
    for name in sorted(names):
        with open_metadata(folder / name) as file:
            files.append(ListFile(name, file.num_rows, footer_hash(folder / name)))
    plan = Plan(tuple(file for file in files if file.rows), shard_size, uid_from)
    if not plan.files:
        raise PoolError(f"the lists in {folder} have no rows; expected URLs, a row each")
    if plan.num_shards > MOST_SHARDS:
        raise PoolError(f"{plan.num_shards:,} shards have no names of 8 digits; give a larger --shard-size")
    return plan


def footer_hash(path: Path) -> str:
    """A hash of what tells a parquet file from others at little cost: its size and its last 64 KiB."""
    with open_input(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _FOOTER_BYTES))
        return hashlib.sha256(str(size).encode() + file.read()).hexdigest()


def check_lists(folder: Path, names: Sequence[str]) -> str:
    """The rule of the uids of lists: json where they have them, url where none has. PoolError: as ``plan_of``."""
    if not names:
        raise PoolError(f"{folder} has no *.parquet; expected lists of URLs")
    rules = {name: _check_list(folder / name) for name in names}
    if len(set(rules.values())) > 1:
        without = next(name for name, rule in rules.items() if rule == "url")
        raise PoolError(f"{folder / without} has no column uid, but others have; give all of them one, or none")
    return next(iter(rules.values()))


def check_hashes(folder: Path, names: Sequence[str]) -> None:
    """PoolError where a list has no SHA-256 that images could be held against."""
    for name in names:
        with open_metadata(folder / name) as file:
            kinds = [file.schema.field(i).type for i in file.schema.get_all_field_indices("sha256")]
        if len(kinds) != 1 or not column_matches("text", kinds[0]):
            had = f"it is {kinds[0]}" if kinds else "there is none"
            raise PoolError(
                f"--verify-sha256 needs a column sha256 of strings (hex digits) in {folder / name}, and {had}: leave "
                "the option out, or give a list with hashes"
            )


def _check_list(path: Path) -> str:
    with open_metadata(path) as file:
        _check_columns(path, file)
        if "uid" not in file.schema.names:
            return "url"
    metadata_schema(path)  # says what is wrong with its uids
    return "json"


def _check_columns(path: Path, file: ParquetFile) -> None:
    names = file.schema.names
    for name in NEEDED:
        option = "--caption-column" if name == "text" else "--url-column"
        if names.count(name) != 1 or not column_matches("text", file.schema.field(name).type):
            had = f"it is {file.schema.field(name).type}" if names.count(name) == 1 else f"it has {', '.join(names)}"
            raise PoolError(f"{METADATA.name} {path}: expected a column {name} of strings ({option} names it); {had}")
    boxes = [file.schema.field(i).type for i in file.schema.get_all_field_indices("face_bboxes")]
    if len(boxes) > 1 or any(not _may_have_boxes(kind) for kind in boxes):
        had = ", ".join(map(str, boxes))
        raise PoolError(
            f"{METADATA.name} {path}: expected one column face_bboxes, lists of boxes (x0, y0, x1, y1 in 0 to 1); got "
            f"{had}: nothing would be blurred. Write it so, or leave it out"
        )


def _may_have_boxes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_null(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def shard_numbers(out: Path) -> list[int]:
    """The numbers of the shards of a pool, whatever there is of them, sorted."""
    return _numbers(out, _SHARD)


def has_statistics(out: Path) -> bool:
    """Whether a shard of a pool has what img2dataset writes last."""
    return bool(_numbers(out, _STATS))


def _numbers(out: Path, pattern: re.Pattern[str]) -> list[int]:
    folder = out / "shards"
    names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
    return sorted({int(match[1]) for name in names if (match := pattern.fullmatch(name))})
