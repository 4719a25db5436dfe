"""Shards of others into a pool: linked where a run can read them as they are, else written again with captions.

What a run cannot do without is a picture and a caption in ``txt``. A shard whose captions stand in its json alone is
written again with ``txt`` members; every payload is copied as it is. Metadata is linked where the parquet beside a
shard is one of its samples, else written from the shard.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dcfast._core import reshard as core_reshard
from dcfast.engine.piece import piece
from dcfast.errors import CorruptDataError, PoolError
from dcfast.importing.account import Account
from dcfast.importing.fields import captions_of
from dcfast.importing.samples import Written, own_file, sample_texts, usable_samples, write_metadata
from dcfast.index.build import index_tars
from dcfast.index.metadata import UID_SOURCES, check_uid_type, column_matches, open_metadata, parse_uids
from dcfast.index.rows import FLAGS_WITHOUT_UID, shard_damage
from dcfast.index.segments import SampleFlag, Segment
from dcfast.storage.atomic import atomic_path, link_or_copy
from dcfast.storage.inputs import check_input
from dcfast.storage.listing import temporary_name
from dcfast.storage.records import Count, Record
from dcfast.uids.sets import uid_isin, uid_sort

LEAST_LISTED = 0.5
"""Share of a shard's samples that the parquet beside it must have, to be taken for its metadata."""


class ShardLook(Record):
    """What a shard holds.

    Attributes:
        usable: samples with a picture.   with_uid: of these, with a uid in the json.
        with_txt, with_caption: with a caption in ``txt``, and with one there or in the json.
        fits: the rules of uids by which the parquet beside it is metadata.
        exts: of its members, for a message.
    """

    samples: Count
    usable: Count
    with_uid: Count
    with_txt: Count
    with_caption: Count
    damage: str = ""
    fits: list[str] = []
    exts: list[str] = []


class ShardLooks(Record):
    looks: list[ShardLook]


class PlacedShard(Record):
    """A shard on its way into the pool: what it is, its name there, and whether it is written again."""

    source: str
    name: str
    rewrite: bool = False
    metadata: str = ""


@piece(native=True)
def look_at_shards(out: Path, shards: Sequence[str], text_column: str) -> ShardLooks:
    """Piece: what some shards hold; nothing is written. Memory: the index of one, 100 bytes a sample."""
    return ShardLooks([_look(path, text_column) for path in shards])


def metadata_beside(path: str) -> str:
    """The parquet file of a shard's name beside it; empty where there is none."""
    beside = os.path.splitext(path)[0] + ".parquet"
    return beside if os.path.isfile(beside) else ""


def fitting_rules(path: str) -> list[str]:
    """The rules by which a parquet file is metadata with captions; none where it cannot be read."""
    fits = []
    for rule in UID_SOURCES:
        try:
            with open_metadata(path, rule) as file:
                check_uid_type(file)
                kinds = [file.schema.field(i).type for i in file.schema.get_all_field_indices("text")]
            if len(kinds) == 1 and column_matches("text", kinds[0]):
                fits.append(rule)
        except (PoolError, CorruptDataError, OSError):
            continue
    return fits


def _look(path: str, text_column: str) -> ShardLook:
    try:
        segment = index_tars([path], threads=1).segment
    except OSError as error:
        return ShardLook(0, 0, 0, 0, 0, damage=f"cannot be read: {error.strerror}")
    usable, flags = usable_samples(segment), np.asarray(segment.flags)
    has_txt = usable & ((flags & int(SampleFlag.NO_CAPTION)) == 0)
    captioned = has_txt.copy()
    if not np.array_equal(has_txt, usable):
        for i, (fields, _, _) in enumerate(sample_texts(segment)):
            captioned[i] = has_txt[i] or (usable[i] and bool(captions_of(fields, text_column)))
    beside, damage = metadata_beside(path), shard_damage(segment)
    return ShardLook(
        samples=segment.num_samples,
        usable=int(usable.sum()),
        with_uid=int((usable & ((flags & FLAGS_WITHOUT_UID) == 0)).sum()),
        with_txt=int(has_txt.sum()),
        with_caption=int(captioned.sum()),
        damage=damage[0].message if damage else "",
        fits=fitting_rules(beside) if beside else [],
        exts=sorted(segment.exts_lower)[:8],
    )


def names_in_pool(shards: Sequence[str]) -> list[str]:
    """A name for each of some paths, all different: the last part, or where two share it the whole path with ``_``."""
    last = [os.path.basename(path) for path in shards]
    repeated = {name for name, count in zip(*np.unique(last, return_counts=True), strict=True) if count > 1}
    names = [
        path.replace("_", "__").replace(os.sep, "_") if name in repeated else name
        for path, name in zip(shards, last, strict=True)
    ]
    if len(set(names)) < len(names):  # a name as another's path became
        names = [f"{number:08d}_{name}" for number, name in enumerate(last)]
    return names


@piece(native=True)
def place_shards(
    out: Path, shards: Sequence[PlacedShard], how: str, uid_from: str, text_column: str, list_all: bool
) -> Written:
    """Piece: puts some shards and their metadata into the pool.

    Args:
        how: ``link``, ``copy``, or ``folder``: the pool's directory of shards is a link to theirs.
        list_all: metadata is made of shards that have none beside them; else there is one of the whole pool.
    Memory: the index of one shard, 100 bytes a sample, and what ``write_metadata`` and ``_rewrite`` take.
    """
    account = Account()
    rewritten = copied = linked = samples = 0
    for shard in shards:
        target = out / "shards" / shard.name if how == "folder" else own_file(out, "shards", shard.name)
        if shard.rewrite:
            samples += _rewrite(shard.source, target, text_column, account)
            rewritten += 1
        elif how == "copy":
            _copy(shard.source, target)
            copied += 1
        elif how == "link":
            _link(shard.source, target)
        segment = index_tars([target], threads=1, uid_from=uid_from).segment
        samples += 0 if shard.rewrite else segment.num_samples
        metadata = own_file(out, "metadata", f"{target.stem}.parquet")
        if shard.metadata and _lists(shard.metadata, segment, uid_from):
            _link(shard.metadata, metadata, may_copy=True)
            linked += 1
        elif list_all:
            if shard.metadata:
                account.add("parquet files beside shards whose rows are of other samples", shard.metadata)
            write_metadata(segment, metadata, uid_from, text_column)
    return Written(samples, len(shards) - rewritten - copied, rewritten, copied, linked, account.record)


def _link(source: str, target: Path, *, may_copy: bool = False) -> None:
    """A hard link, which appears whole: of a link to a file, to the file itself."""
    with atomic_path(target) as temporary:
        place = os.path.realpath(source)
        if may_copy:
            link_or_copy(place, temporary)
        else:
            os.link(place, temporary)


def _copy(source: str, target: Path) -> None:
    status = check_input(source)  # a device would be copied without end
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
        os.utime(temporary, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _lists(metadata: str, segment: Segment, uid_from: str) -> bool:
    """Whether a parquet file has rows of most samples of a shard. Memory: 16 bytes a row."""
    uids = segment.uid[(np.asarray(segment.flags) & FLAGS_WITHOUT_UID) == 0]
    if len(uids) == 0:
        return False
    try:
        with open_metadata(metadata, uid_from) as file:
            rows = [parsed[valid] for parsed, valid in map(parse_uids, file.batches(["uid"]))]
    except (PoolError, CorruptDataError, OSError):
        return False
    known = uid_sort(np.concatenate([np.empty(0, uids.dtype), *rows]), threads=1)
    return bool(uid_isin(uids, known, threads=1).mean() >= LEAST_LISTED)


def _rewrite(source: str, target: Path, text_column: str, account: Account) -> int:
    """Writes a shard again, its samples with a picture alone, with a ``txt`` where a caption stands in the json.

    Returns:
        its samples.
    Memory: the index of the shard, 250 bytes a member and the names. Cost: the shard is copied by the kernel.
    """
    segment = index_tars([source], threads=1).segment
    usable = usable_samples(segment)
    begin = segment.member_begin.astype(np.int64)
    offset, size, ext = segment.members_of(0, segment.num_samples)
    exts = [name.encode("utf-8", "backslashreplace") for name in segment.exts]
    rows: list[tuple[int, int, int, bytes]] = []  # source, offset, size, name
    spool_path = target.parent / temporary_name(f"{target.name}.txt")
    os.makedirs(target.parent, exist_ok=True)
    try:
        with open(spool_path, "wb") as spool:
            for i, (fields, caption, _) in enumerate(sample_texts(segment)):
                if not usable[i]:
                    continue
                key = segment.key(i).encode()
                members = range(begin[i], begin[i + 1])
                rows += [(0, int(offset[j]), int(size[j]), key + b"." + exts[ext[j]]) for j in members]
                found = [] if caption is not None else captions_of(fields, text_column)
                if found:
                    account.add("further captions of samples, whose first was taken", key.decode(), len(found) - 1)
                    data = found[0].encode("utf-8", "replace")
                    rows.append((1, spool.tell(), len(data), key + b".txt"))
                    spool.write(data)
        _write_members(target, [os.path.realpath(source), os.fspath(spool_path)], rows)
    finally:
        spool_path.unlink(missing_ok=True)
    lost = int((~usable).sum())
    account.add("samples of shards that were written again: no picture, or cut off", source, lost)
    return int(usable.sum())


def _write_members(target: Path, sources: list[str], rows: list[tuple[int, int, int, bytes]]) -> None:
    """A tar of (source, offset, size, name)."""
    status = [os.stat(path) for path in sources]
    names = [name for *_, name in rows]
    columns = np.array([row[:3] for row in rows], np.uint64).reshape(-1, 3)
    with atomic_path(target) as temporary:
        core_reshard.write_shard(
            os.fsencode(temporary),
            [os.fsencode(path) for path in sources],
            np.array([s.st_size for s in status], np.uint64),
            np.array([s.st_mtime_ns for s in status], np.int64),
            columns[:, 0].astype(np.uint32),
            np.ascontiguousarray(columns[:, 1]),
            np.ascontiguousarray(columns[:, 2]),
            np.frombuffer(b"".join(names), np.uint8),
            np.cumsum([0, *map(len, names)]).astype(np.uint64),
        )
