"""NVIDIA Megatron-Energon's index of a webdataset: ``.tar.idx`` beside each shard, and the folder ``.nv-meta``."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dcfast.errors import PoolError
from dcfast.index.segments import MemberKind, Segment
from dcfast.interop.energon_files import META, read_energon_idx
from dcfast.interop.shards import Entries, Index, PathLike, entries_of, refuse_kinds, shard_files
from dcfast.interop.sqlite_files import written_database
from dcfast.storage.atomic import synced_together, write_bytes
from dcfast.storage.lock import locked
from dcfast.storage.whole import fsync

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = "7.4.1"
"""Of energon, whose files these are like."""
_SCHEMA = """
CREATE TABLE samples (tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE, sample_index INTEGER NOT NULL,
  byte_offset INTEGER, byte_size INTEGER);
CREATE TABLE sample_parts (tar_file_id INTEGER, sample_index INTEGER, part_name TEXT, content_byte_offset INTEGER,
  content_byte_size INTEGER);
"""
_INDEXES = """
CREATE INDEX idx_samples_by_tar_and_idx ON samples (tar_file_id, sample_index);
CREATE INDEX idx_sample_parts_seq ON sample_parts (tar_file_id, sample_index, content_byte_offset);
CREATE INDEX idx_sample_parts_full ON sample_parts
  (tar_file_id, sample_index, part_name, content_byte_offset, content_byte_size);
"""
_ESCAPED = re.compile(r"\\x[89a-f][0-9a-f]")
_DATASET = b"__module__: megatron.energon\n__class__: CrudeWebdataset\n"


def write_energon(
    index: Index,
    directory: PathLike,
    *,
    splits: Mapping[str, Sequence[str]] | None = None,
    check_mtime: bool = True,
) -> list[Path]:
    """Makes the shards of a directory a dataset that Megatron-Energon loads, as ``energon prepare`` would.

    Args:
        index: a TarIndex, a Segment, or a sequence of segments or their paths: of all the dataset's shards.
        directory: that the shards lie in or below; the files go there, each written atomically.
        splits: name -> shards, by their names below the directory; all are ``train`` where it is not given.
        check_mtime: refuse a shard whose time is not the indexed one (its size always counts).
    Returns:
        The ``NAME.tar.idx``, in the order of the shards. ``.nv-meta`` gets ``index.sqlite``, ``index.uuid``,
        ``split.yaml``, where there is none ``dataset.yaml`` (``CrudeWebdataset``), and ``.info.json``: it is removed
        before the rest changes and written last, so that a killed call leaves no dataset of two halves.
    Raises:
        ValueError: what energon refuses or cannot hold: a shard without samples, a key in two samples, a key that is
            not UTF-8, a shard's name with a brace or backslash, sparse members, bytes between members as joined
            archives have them; names the shard.
        PoolError: a shard is not below the directory, not the file that was indexed, or damaged; a split names none.
        RunError: another process is writing this dataset.
        OSError: a file cannot be written.
    Memory: of one shard, about 500 bytes a member. Cost: one stat a shard, no tar is read.
    Source: megatron-energon 7.4.1; docs/formats.md.

    Example: ``write_energon(dcfast.index_tars("pool/shards"), "pool/shards")``
    """
    root, meta = Path(directory), Path(directory) / META
    files = list(shard_files(index, directory, check_mtime))
    indexes = _idx_paths(files)
    parts = _split_parts(splits, [name for _, _, name, _ in files])
    counts: dict[str, int] = {}
    digest = hashlib.sha256()
    busy = f"energon dataset {root} is being written by another process; wait for it"
    with locked(root, busy, folder=True):
        with synced_together(root):
            with written_database(meta / "index.sqlite") as database:
                _execute(database, _SCHEMA)
                for number, (segment, shard, name, path) in enumerate(files):
                    begins, keys = _insert_shard(database, number, segment, shard, path)
                    counts[name] = len(keys)
                    digest.update(json.dumps([name, keys, begins.tolist()]).encode())
                _execute(database, _INDEXES)
                # all is well: only now what was there is changed
                (meta / ".info.json").unlink(missing_ok=True)
                fsync(meta)
                for (segment, shard, _, _), idx in zip(files, indexes, strict=True):
                    write_bytes(idx, _begins(segment, shard, entries_of(segment, shard)).astype("<u8").tobytes())
            # the same dataset has the same name, whoever made it and when
            write_bytes(meta / "index.uuid", str(uuid.uuid5(uuid.NAMESPACE_OID, digest.hexdigest())).encode())
            write_bytes(meta / "split.yaml", _json({"split_parts": parts, "exclude": []}))  # JSON is YAML
            if not (meta / "dataset.yaml").exists():
                write_bytes(meta / "dataset.yaml", _DATASET)
        write_bytes(meta / ".info.json", _json({"energon_version": VERSION, "shard_counts": counts}))
    return indexes


def _idx_paths(files: list[tuple[Segment, int, str, Path]]) -> list[Path]:
    paths: dict[Path, Path] = {}
    for _, _, name, path in files:
        if re.search(r"[{}\\]", name) or not _is_utf8(name):
            raise ValueError(
                f"shard {path}: energon takes no name with braces, backslashes or other than UTF-8; rename it"
            )
        idx = path.with_suffix(".tar.idx")
        if idx in paths:
            raise ValueError(f"shards {paths[idx]} and {path} would both have the index {idx}; rename one")
        paths[idx] = path
    if not paths:
        raise ValueError("write_energon: index must have shards; got none")
    return list(paths)


def _split_parts(splits: Mapping[str, Sequence[str]] | None, names: list[str]) -> dict[str, list[str]]:
    if splits is None:
        return {"train": names}
    if not isinstance(splits, Mapping):
        raise TypeError(f"write_energon: splits must be a mapping of names to shards; got {type(splits).__name__}")
    parts: dict[str, list[str]] = {}
    known = set(names)
    for part, shards in splits.items():
        if isinstance(shards, str) or not isinstance(shards, Iterable) or any(not isinstance(s, str) for s in shards):
            raise TypeError(f"write_energon: splits[{part!r}] must be a sequence of shards' names; got {shards!r:.80}")
        parts[part] = list(shards)
        absent = [name for name in shards if name not in known]
        if absent:
            raise PoolError(
                f"split {part!r} names shard {absent[0]!r}, which the index lacks; names are like {names[0]!r}"
            )
    return parts


def _insert_shard(
    database: sqlite3.Connection, number: int, segment: Segment, shard: int, path: Path
) -> tuple[NDArray[np.int64], list[str]]:
    """Where the samples of a shard begin, with the end of the last, and their keys."""
    entries = entries_of(segment, shard)
    refuse_kinds(entries, [MemberKind.SPARSE], path, "energon")
    first, last = (int(at) for at in segment.shard_sample_begin[shard : shard + 2])
    if first == last:
        raise ValueError(f"shard {path} has no samples, and energon refuses such a one; leave it out of the index")
    keys: list[str] = segment.keys(first, last).to_pylist()
    begins = _sample_begins(segment, shard, entries, path)
    _check_utf8(keys, "key", path)
    samples = zip(repeat(number), keys, range(len(keys)), begins[:-1].tolist(), np.diff(begins).tolist())
    reached = -1

    def counted() -> Iterator[tuple[int, str, int, int, int]]:
        nonlocal reached
        for reached, row in enumerate(samples):  # noqa: B007 (read where the row is refused)
            yield row

    try:
        database.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", counted())
    except sqlite3.IntegrityError:
        got = f"key {keys[reached]!r} is that of an earlier sample"
        raise ValueError(f"shard {path}: {got}; energon takes each key once: reshard the pool") from None
    offset, size, ext = segment.members_of(first, last)
    member_begin = segment.member_begin[first : last + 1].astype(np.int64)
    sample = np.repeat(np.arange(len(keys)), member_begin[1:] - member_begin[:-1])
    _check_utf8((segment.exts[i] for i in np.unique(ext).tolist()), "extension", path)
    names = (segment.exts[i] for i in ext.tolist())
    parts = zip(repeat(number), sample.tolist(), names, offset.tolist(), size.tolist())
    database.executemany("INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)", parts)
    return begins, keys


def _sample_begins(segment: Segment, shard: int, entries: Entries, path: Path) -> NDArray[np.int64]:
    begins = _begins(segment, shard, entries)
    # energon reads from the beginning of one sample to that of the next, headers all the way
    ends = np.concatenate([[0], entries.end])
    before = ends[np.searchsorted(entries.offset, begins[:-1], side="right")]
    for i in np.flatnonzero(before[1:] != begins[1:-1])[:1] + 1:
        raise ValueError(
            f"shard {path}: bytes {before[i]} to {begins[i]} are of no member (joined archives, a global header), and "
            "energon would stop there; write it anew"
        )
    return begins


def _check_utf8(names: Iterable[str], what: str, path: Path) -> None:
    for name in names:
        if _ESCAPED.search(name):
            raise ValueError(
                f"shard {path}: {what} {name!r} is not UTF-8 (or has these characters), and energon cannot hold it; "
                "rename it"
            )


def _begins(segment: Segment, shard: int, entries: Entries) -> NDArray[np.int64]:
    """(n + 1,): where each sample of a shard begins, and where the last ends."""
    first, last = (int(at) for at in segment.shard_sample_begin[shard : shard + 2])
    return np.append(segment.sample_base[first:last].astype(np.int64), entries.end[-1:])


def stale_energon_idx(index: Index, directory: PathLike, *, check_mtime: bool = True) -> list[str]:
    """The shards whose ``NAME.tar.idx`` is missing or other than ``write_energon`` would write it, by name.

    Args, errors: as ``write_energon``, and of ``read_energon_idx``. Cost: the idx files are read, no tar is.

    Example: ``stale_energon_idx(dcfast.index_tars("pool/shards"), "pool/shards") == []``
    """
    stale = []
    files = list(shard_files(index, directory, check_mtime))
    for (segment, shard, name, _), idx in zip(files, _idx_paths(files), strict=True):
        begins = _begins(segment, shard, entries_of(segment, shard))
        if not idx.exists() or not np.array_equal(read_energon_idx(idx), begins):
            stale.append(name)
    return stale


def _execute(database: sqlite3.Connection, script: str) -> None:
    for text in filter(str.strip, script.split(";")):  # executescript would end the transaction
        database.execute(text)


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
