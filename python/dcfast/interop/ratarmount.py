"""ratarmount's index of a tar: an SQLite file by which the tar is mounted without being read through."""

from __future__ import annotations

import json
import os
import posixpath
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from dcfast.errors import PoolError
from dcfast.index.segments import MemberKind, Segment
from dcfast.interop.shards import BLOCK, Entries, Index, PathLike, entries_of, file_name, refuse_kinds, shard_files
from dcfast.interop.sqlite_files import Database, is_place, open_database, text_of, written_database
from dcfast.storage.inputs import check_input
from dcfast.storage.json_files import parse_json

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".index.sqlite"
_BACKEND = "SQLiteIndexedTar"
_FILES = """CREATE TABLE files (path VARCHAR(65535) NOT NULL, name VARCHAR(65535) NOT NULL, offsetheader INTEGER,
  "offset" INTEGER, size INTEGER, mtime REAL, mode INTEGER, type INTEGER, linkname VARCHAR(65535), uid INTEGER,
  gid INTEGER, istar BOOL, issparse BOOL, isgenerated BOOL, recursiondepth INTEGER,
  PRIMARY KEY (path, name, offsetheader))"""
_METADATA = "CREATE TABLE metadata (key VARCHAR(65535) NOT NULL PRIMARY KEY, value VARCHAR(65535) NOT NULL)"
_VERSIONS = """CREATE TABLE versions (name VARCHAR(65535) NOT NULL PRIMARY KEY, version VARCHAR(65535) NOT NULL,
  major INTEGER, minor INTEGER, patch INTEGER)"""
_COMPRESSED = ("bzip2blocks", "gzipindex", "gzipindexes", "gztoolindex", "zstdblocks")
_UNTOLD = [MemberKind.SPARSE, MemberKind.HARD_LINK, MemberKind.SYMLINK, MemberKind.OTHER]
_Row = tuple[str, str, int, int, int, float, int, bytes | int, str, int, int, int, int, int, int]


def write_ratarmount(index: Index, directory: PathLike, *, out: PathLike = "", check_mtime: bool = True) -> list[Path]:
    """Writes the indexes by which ratarmount mounts shards at once: ``NAME.tar.index.sqlite``, one a shard.

    Args:
        index: a TarIndex, a Segment, or a sequence of segments or their paths.
        directory: that the shards lie in or below.
        out: where the indexes go (``--index-file``); empty: beside the shards, where ratarmount looks first.
        check_mtime: refuse a shard whose time is not the indexed one (its size always counts).
    Returns:
        The files, in the order of the shards, each written atomically.
    Raises:
        ValueError: a shard has members about which a dcfast index knows too little: links, devices, sparse ones; two
            shards of one file name would go to ``out``; names the shard.
        PoolError: a shard is not below the directory, not the file that was indexed, damaged, or without the end of an
            archive, as ratarmount would not take an index of it.
        OSError: a file cannot be written.
    Names are ratarmount's: normal paths, bytes that are not UTF-8 escaped by backslashes. What a dcfast index does not
    know is the same for all members: mode 0444 (directories 0555), user and group 0, the time that of the shard.
    Memory: of one shard, about 700 bytes a member. Cost: one stat a shard, no tar is read.
    Source: ratarmountcore 0.11.1, index version 0.7.0; docs/formats.md.

    Example: ``write_ratarmount(dcfast.index_tars("pool/shards"), "pool/shards")``
    """
    paths: dict[Path, None] = {}
    for segment, number, name, shard in shard_files(index, directory, check_mtime):
        path = (Path(out) / file_name(name) if os.fspath(out) else shard).with_name(shard.name + SUFFIX)
        if path in paths:
            raise ValueError(f"write_ratarmount: two shards would be written as {path}; leave out= out")
        entries = entries_of(segment, number)
        refuse_kinds(entries, _UNTOLD, shard, "ratarmount")
        size, mtime_ns = int(segment.shard_sizes[number]), int(segment.shard_mtimes_ns[number])
        if not len(entries.end) or entries.end[-1] + 2 * BLOCK > size:
            raise PoolError(f"shard {shard} has no end of an archive, or no members; write it anew, and index it again")
        # as os.stat gives it, which ratarmount compares
        mtime = mtime_ns // 10**9 + 1e-9 * (mtime_ns % 10**9)
        with written_database(path) as database:
            _write(database, _rows(segment, number, entries, mtime), size, mtime)
        paths[path] = None
    return list(paths)


def _write(database: sqlite3.Connection, rows: Iterator[_Row], size: int, mtime: float) -> None:
    for text in (_FILES, _METADATA, _VERSIONS):
        database.execute(text)
    database.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    arguments = {
        "mountRecursively": False, "encoding": "utf-8", "stripRecursiveTarExtension": False,
        "transformRecursiveMountPoint": None, "transformPattern": None, "ignoreZeros": False, "hashes": [],
    }  # fmt: skip
    metadata = {
        "tarstats": json.dumps({"st_size": size, "st_mtime": mtime}),
        "arguments": json.dumps(arguments),
        "backendName": _BACKEND,
        "isGnuIncremental": "0",
    }
    database.executemany("INSERT INTO metadata VALUES (?, ?)", metadata.items())
    database.execute("INSERT INTO versions VALUES ('index', '0.7.0', 0, 7, 0)")


def _rows(segment: Segment, number: int, entries: Entries, mtime: float) -> Iterator[_Row]:
    first, last = (int(at) for at in segment.shard_sample_begin[number : number + 2])
    # the first header of a member: where the one before ends; a sample knows its own, also behind an end of an archive
    header = np.concatenate([[0], entries.end[:-1]])
    bases = segment.sample_base[first:last].astype(np.int64)
    header[np.searchsorted(entries.offset, bases, side="right")] = bases
    is_folder = entries.kind == MemberKind.DIRECTORY
    folders: dict[tuple[str, str], int] = {}
    known: set[tuple[str, str]] = set()
    places = zip(header.tolist(), entries.offset.tolist(), entries.size.tolist(), is_folder.tolist(), strict=True)
    for name, (at, offset, size, folder) in zip(entries.names, places, strict=True):
        path, base = ("/" + posixpath.normpath("/" + name).lstrip("/")).rsplit("/", 1)
        mode, kind = (stat.S_IFDIR | 0o555, b"5") if folder else (stat.S_IFREG | 0o444, b"0")
        yield path, base, at, offset, size, mtime, mode, kind, "", 0, 0, 0, 0, 0, 0
        if folder:
            known.add((path, base))
        while path:  # the folders that it is in need no members of their own
            path, base = path.rsplit("/", 1)
            if (path, base) in folders:
                break
            folders[path, base] = at
    for (path, base), at in sorted(folders.items()):
        if (path, base) not in known:
            # not the offset of data: the last data in the tar have to be a file's
            yield path, base, at, at, 0, 0.0, stat.S_IFDIR | 0o555, 5, "", 0, 0, 0, 0, 1, 0


class RatarmountIndex(NamedTuple):
    """Members of a ratarmount index, and size and time (None: not told) of the tar that it is of.

    ``members`` is a pyarrow table: name (string), offset (of the data) and size (uint64), in the order of the tar.
    Example: ``read_ratarmount("pool/shards/00000000.tar.index.sqlite").tar_size``
    """

    members: pa.Table
    tar_size: int | None
    tar_mtime: float | None


def read_ratarmount(path: PathLike, *, tar: PathLike = "") -> RatarmountIndex:
    """The regular members that an index of ratarmount lists.

    Args:
        path: ``NAME.tar.index.sqlite``, not compressed.
        tar: the shard, if the index has to be one of it, by size and time; it is not read.
    Returns:
        RatarmountIndex. Names are normal paths, as ratarmount shows them: of ``./a.jpg`` and ``a.jpg`` both ``a.jpg``.
        Folders, links, sparse members and members of tars in the tar are left out.
    Raises:
        CorruptDataError: the file is damaged, above 1 GiB, or no SQLite file; tables, columns or values are not those
            of ratarmount; members overlap or lie beyond the end of the tar.
        PoolError: it is of another kind of archive or of a compressed one; of another file than ``tar``.
        OSError: a file cannot be read.
    Memory: about 300 bytes a member. The file is opened read-only, and nothing in it is run (views, triggers).

    Example: ``read_ratarmount("pool/shards/00000000.tar.index.sqlite").members``
    """
    import pyarrow as pa

    with open_database(path, "ratarmount index") as database:
        tar_size, tar_mtime = _tar_of(database)
        if os.fspath(tar):
            status = check_input(tar)
            if (tar_size, tar_mtime) != (status.st_size, status.st_mtime):
                is_of = f"is of a tar of {tar_size} bytes, time {tar_mtime}"
                now = f"{status.st_size} bytes, time {status.st_mtime}"
                raise PoolError(f"{database.what} {path} {is_of}; {tar} has {now}; make it again")
        members = sorted(_members(database))
        end = 0
        for offset, size, name in members:
            if offset < end or (tar_size is not None and offset + size > tar_size):
                got = f"{name!r:.80} at {offset}, {size} bytes"
                raise database.corrupt_database(
                    f"expected members one behind the other in {tar_size} bytes; got {got}; make it again"
                )
            end = offset + size
    columns = {
        "name": pa.array([name for _, _, name in members], pa.string()),
        "offset": pa.array([offset for offset, _, _ in members], pa.uint64()),
        "size": pa.array([size for _, size, _ in members], pa.uint64()),
    }
    return RatarmountIndex(pa.table(columns), tar_size, tar_mtime)


def _tar_of(database: Database) -> tuple[int | None, float | None]:
    """Size and time of the tar. Raises where the index is of another version or kind."""
    versions = [
        text_of(version) for name, version in database.rows("versions", ["name", "version"]) if name == b"index"
    ]
    parts = (versions or [None])[0]
    major, _, rest = (parts or "").partition(".")
    if major != "0" or rest.partition(".")[0] in ("", "0", "1"):
        raise database.corrupt_database(
            f"expected index version 0.2 to 0.7; got {str(parts)!r:.40}; make it with ratarmount 1.x"
        )
    compressed = [name for name in _COMPRESSED if name in database.tables()]
    metadata = {text_of(key): text_of(value) for key, value in database.rows("metadata", ["key", "value"])}
    backend = metadata.get("backendName", _BACKEND)
    if compressed or backend != _BACKEND:
        kind = f"a compressed archive ({compressed[0]})" if compressed else f"an archive of {backend!r:.40}"
        raise PoolError(
            f"{database.what} {database.path} is of {kind}; expected one of a plain tar: unpack the archive"
        )
    if "tarstats" not in metadata:
        return None, None
    try:
        stats = parse_json(metadata["tarstats"] or "")
        size, mtime = stats["st_size"], float(stats["st_mtime"])
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise database.corrupt_database(
            f"expected st_size and st_mtime in its tarstats; got none: {error}; make it again"
        ) from None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise database.corrupt_database(f"expected a number of bytes as st_size; got {size!r:.40}; make it again")
    return size, mtime


def _members(database: Database) -> Iterator[tuple[int, int, str]]:
    """Offset, size and name of the regular members of the tar itself."""
    columns = ["path", "name", "offset", "size", "mode", "issparse"]
    deep = "recursiondepth" in database.columns("files")
    for row in database.rows("files", [*columns, "recursiondepth"] if deep else columns):
        offset, size, mode, sparse = row[2:6]
        path, base = text_of(row[0]), text_of(row[1])
        if not isinstance(mode, int) or path is None or base is None:
            raise database.corrupt_database(
                f"expected texts and a mode in each row of 'files'; got {row!r:.80}; make it again"
            )
        if not stat.S_ISREG(mode & 0xFFFFFFFF) or sparse or (deep and row[6]):
            continue
        if not is_place(offset, size):
            raise database.corrupt_database(
                f"expected an offset in blocks of 512 and a size; got {row!r:.80}; make it again"
            )
        name = f"{path}/{base}".lstrip("/")
        if name != posixpath.normpath(name) or name.startswith("../") or name in ("", ".", ".."):
            raise database.corrupt_database(f"expected normal paths below the tar; got {name!r:.80}; make it again")
        yield cast(int, offset), cast(int, size), name
