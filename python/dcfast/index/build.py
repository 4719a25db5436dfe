"""Index tars: ``index_tars`` for a look at some, ``write_segment`` for index files of a pool's shards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dcfast._core import index as core_index
from dcfast.errors import PoolError
from dcfast.index.segments import Segment, ShardReport
from dcfast.index.streams import sample_stream
from dcfast.process.compute import thread_count
from dcfast.process.renamed import Renamed, takes_old_names
from dcfast.storage.atomic import atomic_path
from dcfast.storage.http import RemoteOptions, remote_options
from dcfast.storage.listing import TarListing
from dcfast.storage.paths import is_url
from dcfast.storage.ranges import RemoteShard
from dcfast.storage.remote import list_shards
from dcfast.storage.shards import find_shards
from dcfast.storage.temporary import temporary_folder

if TYPE_CHECKING:
    import pyarrow as pa

    from dcfast.storage.listing import PassedOver
    from dcfast.storage.shards import Shards

StrPath = str | os.PathLike[str]


@takes_old_names(Renamed("out_path", "out"))
def write_segment(
    shards: Iterable[tuple[StrPath | ShardColumns, str]],
    out: StrPath,
    threads: int | None = 1,
    *,
    read_uid: bool = True,
    read_image_size: bool = True,
    sync: bool = True,
    remote: RemoteOptions | None = None,
    uid_from: str = "json",
) -> core_index.SegmentStats:
    """Indexes shards into one segment file, which appears whole or not at all.

    Args:
        shards: (what to open, name to store) of each, in the order wanted. To open: a local path; an fsspec URL
            (http, s3, ...), read by ranges; or ``ShardColumns``, a shard of an open segment, taken over unread.
        out: the file to write, by a temporary name beside it, fsync and rename.
        threads: shards indexed at a time; None = one per core. The bytes written do not depend on it.
        read_uid: parse the json members. Without it no sample has a uid (flag NO_UID).
        read_image_size: read the picture headers. Without it width and height are 0.
        sync: fsync the file and its directory; without it the file may be lost in a crash of the machine.
        remote: how URLs are read: credentials, window, retries.
        uid_from: ``json``, ``url`` or ``key``: see ``dcfast.index.metadata.UID_SOURCES``. Shards of a segment keep the
            uids they have there.
    Returns:
        What was written: num_shards, num_samples, num_members (of samples), num_strays, tar_bytes, reports (damage and
        notes, as ``Segment`` has them), flag_counts (samples of each ``SampleFlag``).
    Raises:
        OSError: a shard or the output cannot be read or written. Damaged shards do not raise: what is whole
            before the damage is indexed, and the damage is returned and stored. So is a shard that is replaced
            while it is read. Of a URL, after the retries; names URL and offset.
        PoolError: a server that does not answer range requests.   ValueError: more than 2**32 - 1 members.
    Memory: the columns once, about 60 bytes a sample, 8 a member, and the keys; a small window a thread, for URLs
    four times ``remote.window_bytes``.   Cost: one read per stretch of small members; the data of large ones are not
    read. Of a URL about (size of what is near headers) / window_bytes requests, and three more.   GIL: released.
    Example: ``write_segment([("pool/shards/00000000.tar", "00000000.tar")], "one.dcx").num_samples == 3``
    """
    options = remote_options(remote)
    pairs = [(_index_source(source, options), name) for source, name in shards]
    count = thread_count(threads)
    with atomic_path(out, sync=sync) as temporary:
        return core_index.write_segment(
            [(source, os.fsencode(name)) for source, name in pairs],
            os.fsencode(temporary),
            read_uid,
            read_image_size,
            count,
            options.window_bytes,
            uid_from,
        )


class ShardColumns(NamedTuple):
    """A shard of an open segment, as a source for ``write_segment``: its columns are copied, its tar is not read."""

    segment: Segment
    shard: int


def _index_source(
    source: StrPath | ShardColumns, options: RemoteOptions
) -> bytes | tuple[core_index.TarSegment, int] | RemoteShard:
    """What the core takes: the bytes of a path, a shard of a segment, or an object that reads ranges."""
    if isinstance(source, ShardColumns):
        return (source.segment._core, source.shard)
    path = os.fspath(source)
    return RemoteShard(path, options) if is_url(path) else os.fsencode(path)


class TarIndex:
    """What ``index_tars`` found. Tables are made when asked for.

    Attributes:
        segment: the Segment beneath, for arrays.
        damage, notes: lists of ShardReport; damage means that members may be missing.
        passed_over: (name, reason) of what looks like a shard in the directory that was given, and was not taken.
    Cost and errors: those of ``index_tars``; a table is a copy.
    Example: ``index_tars("pool").samples()["uid"].to_pylist()``
    """

    def __init__(self, segment: Segment, passed_over: Sequence[tuple[str, str]] = ()) -> None:
        self.segment = segment
        self.passed_over: list[tuple[str, str]] = list(passed_over)
        self.damage: list[ShardReport] = segment.shard_damage
        self.notes: list[ShardReport] = segment.shard_notes

    def __len__(self) -> int:
        return self.segment.num_samples

    def __repr__(self) -> str:
        s = self.segment
        return f"<TarIndex: {s.num_shards} shards, {s.num_samples} samples, {len(self.damage)} damaged>"

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The samples by Arrow's C interface: ``polars.DataFrame(index)``, ``pyarrow.table(index)``.

        Columns shard (u32, ordinal in ``segment.shard_names``), row (u32, in its shard, from 0), key (large_string),
        uid (fixed_size_binary(16), null where a sample has none), width, height (u32), flags (u16).
        Memory: of a batch of 262,144 samples, about 100 bytes each; width, height and flags are not copied.
        """
        return sample_stream(self.segment).__arrow_c_stream__(requested_schema)

    def members(self) -> pa.Table:
        """Every regular member: columns shard, name, offset, size; see ``Segment.members``."""
        return self.segment.members()

    def samples(self) -> pa.Table:
        """Every sample: columns shard, row, key, uid, width, height, flags; see ``Segment.samples``."""
        return self.segment.samples()

    def others(self) -> pa.Table:
        """Members that belong to no sample: columns shard, name, kind, offset, size; see ``Segment.others``."""
        return self.segment.others()


def index_tars(
    paths: Shards,
    *,
    threads: int | None = None,
    remote: RemoteOptions | None = None,
    uid_from: str = "json",
) -> TarIndex:
    """Indexes tars: members by name, offset and size, samples by webdataset's rule with uid and picture size.

    Args:
        paths: a tar, a folder of tars, a pool, a pattern with braces or stars, or a sequence of these
            (``dcfast.storage.shards.find_shards``). Tables name each shard by the path given here, or folder/name. A
            tar may be an fsspec URL (``https://...``, ``s3://...``): it is read by ranges. A URL that ends in a slash
            is a directory, whose ``*.tar`` are those that the server lists.
        threads: shards indexed at a time; None = one per core.
        remote: how URLs are read: credentials, window, retries.
        uid_from: see ``write_segment``.
    Returns:
        TarIndex. Damaged, empty or foreign files are in its ``damage``, with what is whole before the damage.
    Raises:
        OSError: a file cannot be read.   TypeError: not paths.   PoolError: a directory without tars, a server that
            does not answer range requests.
    Memory: see ``write_segment``; the index lies in an unlinked file in the directory for temporary files,
    about 100 bytes a sample.   Cost: see ``write_segment``.   GIL: released.
    Example: ``len(index_tars("pool/shards/{00000000..00000001}.tar").samples()) == 6``
    """
    shards, passed_over = _shards(paths, remote)
    threads = thread_count(threads) or None  # before a folder is made
    with temporary_folder("dcfast-segment-") as directory:
        # nobody needs these bytes after a crash, so they are not fsynced
        out, pairs = directory / "segment", [(path, path) for path in shards]
        write_segment(pairs, out, threads, sync=False, remote=remote, uid_from=uid_from)
        # the map outlives the name
        return TarIndex(Segment.open(out, verify=False), passed_over)


def _shards(paths: Shards, remote: RemoteOptions | None) -> tuple[list[str], list[PassedOver]]:
    path = os.fspath(paths) if isinstance(paths, (str, os.PathLike)) else ""
    if not (is_url(path) and path.endswith("/")):
        return find_shards(paths)
    states, passed_over = list_shards(path, remote)
    listing = TarListing(path, sorted(states), passed_over)
    if not listing.names:
        raise PoolError(
            f"index_tars: no .tar files in directory {path!r}{listing.hint}; give the directory that holds shards"
        )
    listing.check()
    return [path + name for name in listing.names], passed_over
