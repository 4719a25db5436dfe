"""``refresh_index``: a pool's index made, or brought up to date by reading only the shards that are new or changed.

``python -m dcfast.pool_refresh INDEX_DIR POOL`` does it from a shell.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dcfast.errors import CorruptDataError, PoolError, RunError
from dcfast.index.build import ShardColumns, write_segment
from dcfast.index.metadata import UID_SOURCES
from dcfast.index.pool import MAX_SEGMENTS, group_files, pool_uid_rule
from dcfast.index.pool_index import UIDS_NOTE, UidRule, build_pool_records, index_folder, segment_name, uid_rule
from dcfast.index.reports import RefreshReport, ShardDamage
from dcfast.index.rows import shard_damage
from dcfast.index.segments import Segment, shard_state
from dcfast.process.command import run_command
from dcfast.process.compute import MAX_THREADS, thread_count
from dcfast.process.exit_codes import DONE
from dcfast.process.options import add_options, given_options, made_of, option
from dcfast.process.parser import ArgumentParser
from dcfast.process.shared_options import UID_FROM
from dcfast.process.terminal import say
from dcfast.storage.atomic import link_or_copy, remove_leftovers, write_json
from dcfast.storage.http import RemoteOptions, remote_options
from dcfast.storage.json_files import read_json
from dcfast.storage.listing import first_notes, say_losses, temporary_name
from dcfast.storage.lock import locked
from dcfast.storage.paths import LOCK_NAME, is_url, make_directory, not_left_empty, path_argument
from dcfast.storage.records import as_record
from dcfast.storage.remote import shard_states
from dcfast.storage.shards import find_shards, is_pattern, relative_shards
from dcfast.storage.whole import fsync

if TYPE_CHECKING:
    from dcfast.storage.shards import Shards

PathLike = str | os.PathLike[str]
State = tuple[int, int]

_NS = 1_000_000_000
# File systems stamp times in ticks: a shard that was written again in the tick in which it was indexed looks unchanged.
_TICK_NS = 20_000_000
_COARSE_TICK_NS = 2 * _NS


def refresh_index(
    index_dir: PathLike,
    pool: Shards,
    *,
    threads: int | None = None,
    memory_bytes: int = 256 << 20,
    remote: RemoteOptions | None = None,
    uid_from: str = "json",
) -> RefreshReport:
    """Makes the index of a pool, or brings one up to date: only new and changed shards are read.

    A shard has changed where its size or modification time is not the one it was indexed with, or where it was written
    so shortly before it was indexed that its time cannot tell (20 ms; 2 s where times are whole seconds). Contents are
    not compared: what changes a shard and restores both goes unnoticed.

    Args:
        index_dir: made where missing; or a run's directory, whose ``index`` is meant. Other files in it stay.
        pool: a folder of tars, a pool, a tar, a pattern with braces or stars, or a sequence of these
            (``dcfast.storage.shards.find_shards``): names in the index are those from the folder that holds all of
            them, which ``open_pool`` takes as ``shards_dir``. Or the fsspec URL of a directory of tars
            (``s3://...``): the shards are read by ranges, and are told apart by ETag where the server gives one; where
            it gives neither ETag nor time, they are read every time.
        threads: shards indexed at a time; None = one per core.
        memory_bytes: for the merge of the uids; at least 4 MiB.
        remote: how URLs are read: credentials, window, retries.
        uid_from: ``json``, ``url`` or ``key``, see ``dcfast.index.metadata.UID_SOURCES``; as the index has it.
    Returns:
        What was done, as a dict that can be written as JSON (``index.reports.RefreshReport``).
    Raises:
        PoolError: no shards.   ValueError: threads or memory_bytes out of range.
        RunError: another refresh is at work there; the index has uids of another rule.
        OSError: a file cannot be read or written.
    The files are byte for byte those of an index made anew. After a kill at any moment, the next call completes the
    index; until then ``PoolIndex.open`` refuses it, where files were half exchanged.
    Memory: the columns of one segment (see ``write_segment``), memory_bytes, and about 500 bytes a shard.
    Cost: a stat a shard (a request, for URLs whose listing has no ETags), the old index read once (checksums), the new
    one written where it differs, and pool.npy.
    Example: ``refresh_index("index", "pool")["shards"]``
    """
    threads = thread_count(threads) or None  # before a folder is made
    if uid_from not in UID_SOURCES:
        raise ValueError(f"refresh_index: uid_from must be one of {', '.join(UID_SOURCES)}; got {uid_from!r}")
    folder = index_folder(index_dir)
    shards = (
        _RemoteShards(os.fspath(pool), remote_options(remote))
        if isinstance(pool, (str, os.PathLike)) and is_url(pool)
        else _LocalShards(pool)
    )
    names = shards.names
    busy = f"{folder}: another process refreshes this index; wait for it"
    with (
        not_left_empty(folder),
        locked(make_directory(folder, "index_dir") / LOCK_NAME, busy),
        _staging(folder) as staging,
    ):
        _refuse_other_uids(folder, uid_from)
        old = _OldIndex.open(folder, uid_from)
        work = _Refresh(shards, staging, old, threads, uid_from)
        groups = group_files(names, MAX_SEGMENTS)  # as the stage ``index`` cuts a pool into segments
        for number, (_, group) in enumerate(groups):
            work.segment(number, group)
        segments = [staging / segment_name(n) for n in range(len(groups))]
        rows = build_pool_records(segments, staging / "pool.npy", memory_bytes=memory_bytes, threads=threads).rows_out
        uids = {} if uid_from == "json" else {"uid_from": uid_from}
        if (uid_rule(folder) or "json") != uid_from:
            write_json(folder / UIDS_NOTE, {"uid_from": "mixed"})  # a kill from here on leaves segments of both
        layout = {"shards": len(names), "segments": [[first, len(group)] for first, group in groups]}
        write_json(staging / "index.json", {**layout, **uids})
        _exchange(folder, staging, len(groups))
        if uids:
            write_json(folder / UIDS_NOTE, uids)
        else:
            (folder / UIDS_NOTE).unlink(missing_ok=True)
    return {
        "shards": len(names),
        "samples": work.samples,
        "rows": rows,
        "indexed": work.indexed,
        "reused": len(names) - len(work.indexed),
        "removed": sorted(set(old.known) - set(names)),
        "segments_kept": work.segments_kept,
        "segments_written": len(groups) - work.segments_kept,
        "damaged_segments": old.damaged,
        "damage": work.damage,
        "notes": first_notes(work.notes),
        "passed_over": [{"name": name, "reason": reason} for name, reason in shards.passed_over],
    }


class _LocalShards:
    """Shards of this machine, by the folder that holds them all."""

    remote: RemoteOptions | None = None

    def __init__(self, pool: Shards) -> None:
        if isinstance(pool, (str, os.PathLike)) and not is_pattern(pool) and not os.path.exists(pool):
            raise PoolError(f"pool {os.fspath(pool)}: no such directory; expected one with *.tar or shards/*.tar")
        paths, self.passed_over = find_shards(pool)
        if not paths:
            raise PoolError("pool: an empty list of shards; give a folder, a pattern or some tars")
        base, self.names = relative_shards(paths)
        self._folder = Path(base)

    def source(self, name: str) -> PathLike:
        return self._folder / name

    def state(self, name: str) -> State:
        return shard_state(self._folder / name)


class _RemoteShards:
    """The shards behind a URL."""

    def __init__(self, url: str, remote: RemoteOptions) -> None:
        self._url = url.rstrip("/")
        self.remote = remote
        self._states, self.passed_over = shard_states(self._url, remote)
        self.names = list(self._states)
        if not self.names:
            raise PoolError(
                f"pool {url}: the listing has no .tar file; nothing to index: "
                "give the URL of a listing that names shards"
            )

    def source(self, name: str) -> str:
        return f"{self._url}/{name}"

    def state(self, name: str) -> State:
        state = self._states[name]
        return state.size, state.stored_mtime_ns


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A directory beside the files, for new ones; what killed refreshes left is removed first."""
    remove_leftovers(folder, below=False)
    staging = folder / temporary_name("refresh")
    staging.mkdir(0o700)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@dataclass
class _OldShard:
    """Where a shard stands in the old index, and how it was."""

    file: Path
    number: int
    state: State
    indexed_ns: int  # the segment's time: of one written here, when its shards began to be read


@dataclass
class _OldIndex:
    """What an index directory has: every readable segment counts, whether the index is whole or not."""

    known: dict[str, _OldShard] = field(default_factory=dict)
    layout: dict[Path, list[str]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, uid_from: str) -> _OldIndex:
        old = cls()
        if (uid_rule(folder) or "json") != uid_from:
            return old
        for path in sorted(folder.glob("segment-*.dcx")):
            try:
                segment = Segment.open(path)  # verified: nothing is copied from a damaged file
            except CorruptDataError:
                old.damaged.append(path.name)
                continue
            written = path.stat().st_mtime_ns
            old.layout[path] = segment.shard_names
            for number, name in enumerate(segment.shard_names):
                state = (int(segment.shard_sizes[number]), int(segment.shard_mtimes_ns[number]))
                old.known[name] = _OldShard(path, number, state, written)
        return old


def _refuse_other_uids(folder: Path, uid_from: str) -> None:
    """RunError where an index has uids of another rule, or is that of a run whose settings have another.

    One that is of several rules, left by a kill, is not refused: nothing of it is taken over.
    """
    run = folder.parent / "state" / "settings.json" if folder.absolute().name == "index" else None
    for path in (run, folder / "index.json", folder / UIDS_NOTE):
        try:
            value = {"uid_from": None} if path is None else read_json(path, names=True)
        except (OSError, ValueError):
            continue
        known = None if path is None else as_record(value, UidRule, str(path)).uid_from
        if known == uid_from or known == "mixed":
            return
        if known is not None:
            raise RunError(
                f"{folder}: the uids of this index come from {known} ({path}), but --uid-from is {uid_from}; "
                f"give --uid-from {known}, or another directory for an index of the others"
            )


class _Refresh:
    """Writes the segments of the new index."""

    def __init__(
        self, shards: _LocalShards | _RemoteShards, staging: Path, old: _OldIndex, threads: int | None, uid_from: str
    ) -> None:
        self._shards, self._staging, self._old, self._threads = shards, staging, old, threads
        self._uid_from = uid_from
        self.samples = self.segments_kept = 0
        self.indexed: list[str] = []
        self.damage: list[ShardDamage] = []
        self.notes: list[str] = []

    def segment(self, number: int, names: list[str]) -> None:
        kept = {name: old for name in names if (old := self._unchanged(name)) is not None}
        out = self._staging / segment_name(number)
        self.indexed += [name for name in names if name not in kept]
        file = kept[names[0]].file if names[0] in kept else None
        if len(kept) == len(names) and file is not None and self._old.layout[file] == names:
            link_or_copy(file, out)  # its time says until when the shards are known to be unchanged
            self.segments_kept += 1
        else:
            opened = {path: Segment.open(path, verify=False) for path in {old.file for old in kept.values()}}
            sources: list[tuple[PathLike | ShardColumns, str]] = []
            for name in names:
                old = kept.get(name)
                unread = None if old is None else ShardColumns(opened[old.file], old.number)
                sources.append((unread or self._shards.source(name), name))
            begin = self._staging / "begin"  # the file system's clock, not this machine's
            begin.touch()
            started = begin.stat().st_mtime_ns
            write_segment(sources, out, self._threads, remote=self._shards.remote, uid_from=self._uid_from)
            # what was written to a shard after it was read, but before the segment was whole, is not in it
            os.utime(out, ns=(started, started))
        segment = Segment.open(out, verify=False)
        self.samples += segment.num_samples
        for shard, offset, message in shard_damage(segment):
            self.damage.append({"shard": names[shard], "offset": offset, "message": message})
        named = ((names[loss.shard], loss.offset, loss.message) for loss in segment.losses if not loss.archive)
        self.notes += say_losses(named)

    def _unchanged(self, name: str) -> _OldShard | None:
        old = self._old.known.get(name)
        if old is None:
            return None
        now = self._shards.state(name)
        if self._shards.remote is not None and now[1] == 0:
            return None  # neither ETag nor time: the size alone does not tell
        tick = _COARSE_TICK_NS if now[1] % _NS == 0 else _TICK_NS
        return old if now == old.state and now[1] + tick < old.indexed_ns else None


def _exchange(folder: Path, staging: Path, segments: int) -> None:
    """Puts the new files in the place of the old ones; in between there is no index.json."""
    (folder / "index.json").unlink(missing_ok=True)
    fsync(folder)
    for number in range(segments):
        os.replace(staging / segment_name(number), folder / segment_name(number))
    for path in folder.glob("segment-*.dcx"):
        place = path.stem.removeprefix("segment-")
        if place.isdigit() and path.name == segment_name(int(place)) and int(place) >= segments:
            path.unlink()
    os.replace(staging / "pool.npy", folder / "pool.npy")
    fsync(folder)
    os.replace(staging / "index.json", folder / "index.json")
    fsync(folder)


@dataclass(frozen=True)
class RefreshOptions:
    """An index directory, and the pool that it is of."""

    index_dir: str = option(
        "", "directory of the index; made where missing", flags=("index_dir",), parse=path_argument, required=True
    )
    pool: str = option(
        "", "directory with *.tar, or with shards/*.tar", flags=("pool",), parse=path_argument, required=True
    )
    threads: int = option(0, "shards indexed at a time", usual="one per core", least=0, most=MAX_THREADS)
    uid_from: str = option("json", UID_FROM)


def parser() -> ArgumentParser:
    """The command line of ``python -m dcfast.pool_refresh``."""
    p = ArgumentParser(prog="python -m dcfast.pool_refresh", description=(__doc__ or "").split("\n")[0])
    add_options(p, RefreshOptions)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m dcfast.pool_refresh INDEX_DIR POOL``: prints the report as JSON; returns the exit status."""
    args = parser().parse_args(argv)
    return run_command(lambda: _refresh(args), "stopped; the same command brings it up to date")


def _refresh(arguments: argparse.Namespace) -> int:
    args = made_of(RefreshOptions, given_options(arguments, RefreshOptions))
    rule = args.uid_from if is_url(args.pool) else pool_uid_rule(args.pool, args.uid_from)
    report = refresh_index(args.index_dir, args.pool, threads=args.threads or None, uid_from=rule)
    say(json.dumps(report, sort_keys=True))
    return DONE
