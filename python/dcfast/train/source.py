"""Sources of samples: what stands at each canonical position, read from new shards or from the indexed pool.

The canonical position of a sample is its rank in the reshard plan with multiplicity expanded. In new shards that is
simply the order in which they stand; of the pool, ``write_positions`` writes the row at each position, 8 bytes a
sample, memory-mapped.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.access.batch import Members
from dcfast.access.reader import PoolReader
from dcfast.errors import CorruptDataError, PoolError, RunError, SubsetError, first_line
from dcfast.images.costs import MAX_BYTES
from dcfast.index.build import write_segment
from dcfast.index.pool import shard_folder
from dcfast.index.pool_index import index_folder
from dcfast.index.rows import loss_notes, valid_uid_mask
from dcfast.index.segments import IMAGE_EXTS, SampleFlag, Segment
from dcfast.models.captions import MAX_CAPTION_BYTES
from dcfast.resharding.plan import ReshardPlan, ShardSources, make_plan
from dcfast.storage.listing import first_notes, list_pool_tars
from dcfast.storage.npz import load_array, write_npy
from dcfast.uids.sets import load_subset, open_records

if TYPE_CHECKING:
    from dcfast.train.settings import TrainSource

_AT_ONCE = 1 << 18
_READ_TOGETHER = 64 << 20  # bytes of members
_OTHER, _PICTURE, _CAPTION = range(3)
_NEEDED = {
    "caption (a member KEY.txt)": int(SampleFlag.NO_CAPTION),
    "picture (jpg, png, webp, ...)": int(SampleFlag.NO_IMAGE),
}
"""What a sample needs to be trained on, and the flag of one that lacks it."""
_LOG = logging.getLogger("dcfast.train")


def write_positions(plan: ReshardPlan, subset: npt.NDArray[np.void], path: str | os.PathLike[str]) -> int:
    """Writes the row ids of a reshard plan in canonical order, (n,) u64 npy; returns n.

    Memory: one output shard's rows (10,000 by default) and the segments in use.
    Raises CorruptDataError: the plan has another number of samples than it says.   OSError: the file is not written.
    Example: ``plan = make_plan(segments, uids, shards_dir="pool")``,
    ``write_positions(plan, uids, "positions.npy") == 6``
    """
    count = int(plan.counts["output_count"])
    sources = ShardSources(plan, subset)

    def blocks() -> Iterator[npt.NDArray[np.uint64]]:
        planned = 0
        for k in range(plan.num_output_shards):
            ids = sources.row_ids(k)
            planned += len(ids)
            if planned <= count:
                yield ids
        if planned != count:
            raise CorruptDataError(f"the plan says {count} samples and holds {planned}; plan it anew", path=str(path))

    write_npy(path, (count,), "<u8", blocks())
    return count


@dataclass(frozen=True)
class SourceFiles:
    """A source that is ready to be opened by any process.

    Attributes:
        segments: index segments in pool order.
        shards_dir: what their shard names are relative to.
        rows: npy of row ids by position, or None where positions are the samples of the segments in order.
        count: positions.
        name: for messages.
        notes: what among the shards was passed over, and what of them may hide samples, in words.
        fingerprint: ``OpenSource.fingerprint``, where it is known.
    """

    segments: tuple[str, ...]
    shards_dir: str
    rows: str | None
    count: int
    name: str
    notes: tuple[str, ...] = ()
    fingerprint: str = ""


def prepare_source(source: TrainSource, work: Path, number: int) -> SourceFiles:
    """Indexes the shards of a source, or plans its subset; files go to ``work``.

    Raises:
        PoolError: no shards, or no index.   SubsetError: no sample is left.   CorruptDataError: a damaged shard.
    """
    if source.shards is not None:
        return _prepare_shards(source.shards, work / f"shards-{number:02d}.dcx")
    folder = index_folder(str(source.index))
    segments = tuple(str(p) for p in sorted(folder.glob("*.dcx")))
    if not segments:
        raise PoolError(f"source {source}: no index segments (*.dcx) in {folder}; run the index stage first")
    rows = source.positions
    if rows is None:
        subset = load_subset(str(source.subset))
        pool = folder / "pool.npy"
        records = open_records(pool) if pool.exists() else None
        plan = make_plan(segments, subset, shards_dir=str(source.shards_dir), pool_records=records)
        rows = str(work / f"positions-{number:02d}.npy")
        write_positions(plan, subset, rows)
    count = len(load_array(rows, mmap=True))
    if count == 0:
        raise SubsetError(
            f"source {source}: the subset is empty, or none of its samples is in the pool: choose a looser filter"
        )
    losses = [note for path in segments for note in loss_notes(Segment.open(path, verify=False))]
    notes = _logged(first_notes(losses))
    shards_dir = os.path.abspath(str(source.shards_dir))
    return SourceFiles(segments, shards_dir, os.path.abspath(rows), count, str(source), notes)


def _logged(notes: list[str]) -> tuple[str, ...]:
    """Notes on a source, which the log has at once: training may end before its summary is written."""
    for note in notes:
        _LOG.warning("%s", note)
    return tuple(notes)


def _prepare_shards(directory: str, segment_path: Path) -> SourceFiles:
    folder = shard_folder(os.path.abspath(directory))
    if not folder.is_dir():
        raise PoolError(f"source {directory}: no such directory; expected one with *.tar")
    listing = list_pool_tars(os.path.abspath(directory))
    listing.check()
    names = listing.names
    if not names:
        expected = "expected shards of image-text pairs"
        raise PoolError(f"source {directory}: no .tar file in {folder}; {expected}{listing.hint}")

    def indexed(uid_from: str = "json") -> Segment:
        write_segment([(folder / name, name) for name in names], segment_path, uid_from=uid_from)
        return Segment.open(segment_path, verify=False)

    segment = _fresh_segment(segment_path, folder, names) or indexed()
    if segment.num_samples and not valid_uid_mask(segment).any():
        # shards of pools without uids: samples are told apart, in the log and where training goes on, by their keys
        segment = indexed(uid_from="key")
    if segment.shard_damage:
        report = segment.shard_damage[0]
        name = segment.shard_names[report.shard]
        raise CorruptDataError(
            f"{folder / name} is damaged at byte {report.offset}: {report.message}; write it anew (reshard)",
            path=str(folder / name),
            offset=report.offset,
        )
    losses = loss_notes(segment)
    if segment.num_samples == 0:
        why = f": {losses[0]}" if losses else "; the subset was empty: choose a looser filter"
        raise SubsetError(f"source {directory}: its {len(names)} shards hold no sample{why}")
    notes = _logged([*listing.notes, *first_notes(losses)])
    _refuse_unusable(segment, directory, losses)
    return SourceFiles((str(segment_path),), str(folder), None, segment.num_samples, directory, notes)


def _fresh_segment(path: Path, folder: Path, names: list[str]) -> Segment | None:
    """The segment of an earlier start, where it is whole and says what the shards are now."""
    try:
        segment = Segment.open(path)
    except (FileNotFoundError, CorruptDataError):
        return None
    return segment if segment.shard_names == names and not segment.check_fresh(folder) else None


def _refuse_unusable(segment: Segment, directory: str, losses: list[str]) -> None:
    """SubsetError with the commonest reason where no sample has both a picture and a caption."""
    flags = np.asarray(segment.flags)
    lacking = {what: int(((flags & flag) != 0).sum()) for what, flag in _NEEDED.items()}
    if ((flags & sum(_NEEDED.values())) == 0).any():
        return
    what, count = max(lacking.items(), key=lambda item: item[1])
    exts = ", ".join(sorted(set(segment.exts_lower))[:8])
    why = f". {losses[0]}" if losses else ""
    raise SubsetError(
        f"source {directory}: none of its {len(flags):,} samples has a picture and a caption: {count:,} have no "
        f"{what}; the members end in {exts}{why}: give shards of image-text pairs"
    )


class Ranges(NamedTuple):
    """Where a member of each of n samples lies in a buffer: (n,) int64 each; size -1 for a sample that has none."""

    begin: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]


@dataclass(frozen=True)
class RawSamples:
    """Encoded pictures and captions of n samples, as they were read.

    Attributes:
        data: flat uint8, read-only.
    """

    data: npt.NDArray[np.uint8]
    pictures: Ranges
    captions: Ranges

    def __len__(self) -> int:
        return len(self.pictures.begin)

    def picture(self, i: int) -> memoryview | None:
        """That of sample i; None where it has none."""
        return self._member(self.pictures, i)

    def caption(self, i: int) -> memoryview | None:
        """That of sample i; None where it has none."""
        return self._member(self.captions, i)

    def _member(self, ranges: Ranges, i: int) -> memoryview | None:
        begin, size = int(ranges.begin[i]), int(ranges.size[i])
        return None if size < 0 else self.data.data[begin : begin + size]


def _kind(ext: str) -> int:
    return _CAPTION if ext == "txt" else _PICTURE if ext.rpartition(".")[2] in IMAGE_EXTS else _OTHER


class OpenSource:
    """A source opened for reading by position. Memory: what ``PoolReader`` holds; the rows are mapped."""

    def __init__(self, files: SourceFiles) -> None:
        self.files = files
        self.reader: PoolReader = PoolReader(files.shards_dir, list(files.segments), verify=False)
        self._rows = None if files.rows is None else load_array(files.rows, mmap=True)
        self._kinds = np.array([_kind(ext) for ext in self.reader.exts], np.uint8)

    def rows(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Row ids at positions."""
        if self._rows is None:
            return self.reader.row_ids(positions)
        return np.ascontiguousarray(self._rows[positions], np.uint64)

    def fingerprint(self) -> str:
        """SHA-256 of the uids in canonical order, 16 bytes each, hex: equal for shards and for index + subset."""
        digest = hashlib.sha256()
        for first in range(0, self.files.count, _AT_ONCE):
            positions = np.arange(first, min(first + _AT_ONCE, self.files.count))
            digest.update(np.ascontiguousarray(self.reader.uids(self.rows(positions))).tobytes())
        return digest.hexdigest()

    def read(self, rows: npt.NDArray[np.uint64]) -> Iterator[RawSamples]:
        """Pictures and captions of some rows, in order, as many at a time as fit into 64 MiB.

        Of a caption no more is read than a model sees, of a picture no more than the decoder takes.
        Raises:
            RunError: a shard cannot be read, or is not what was indexed. That is no fault of a sample: others in its
                place would only hide that the data has gone.
        Memory: 64 MiB of members, or those of one sample.
        """
        for members in self._members(rows).batches(_READ_TOGETHER):
            yield self._samples(members)

    def _members(self, rows: npt.NDArray[np.uint64]) -> Members:
        """The first picture, whose size the index holds, and the caption of each row, as much as is read of them."""
        members = self.reader.locate(rows)  # by what the samples have: a pool may have an extension for each of its own
        kind = self._kinds[members.ext]
        owner = np.repeat(np.arange(len(rows)), np.diff(members.begin))
        pictures = np.flatnonzero(kind == _PICTURE)
        pictures = pictures[np.lexsort((members.offset[pictures], owner[pictures]))]
        _, first = np.unique(owner[pictures], return_index=True)
        at = np.sort(np.concatenate([pictures[first], np.flatnonzero(kind == _CAPTION)]))
        begin = np.concatenate([[0], np.cumsum(np.bincount(owner[at], minlength=len(rows)))])
        most = np.where(kind[at] == _CAPTION, MAX_CAPTION_BYTES, MAX_BYTES) + 1
        shard, offset, size, ext = (column[at] for column in (members.shard, members.offset, members.size, members.ext))
        return Members(members.rows, begin, shard, offset, size, ext, members.exts).cut(most)

    def _samples(self, members: Members) -> RawSamples:
        try:
            batch = self.reader.read_located(members, threads=1)
        except (CorruptDataError, OSError) as error:
            raise RunError(
                f"source {self.files.name}: a shard cannot be read as it was indexed ({first_line(error)}). See to the "
                "files, or index them anew; the same command goes on from the latest checkpoint"
            ) from error
        kinds, begin = self._kinds[members.ext], batch.offsets.astype(np.int64)
        owner = np.repeat(np.arange(len(members)), np.diff(members.begin))

        def of_kind(kind: int) -> Ranges:
            at = np.flatnonzero(kinds == kind)
            ranges = Ranges(np.zeros(len(members), np.int64), np.full(len(members), -1, np.int64))
            ranges.begin[owner[at]], ranges.size[owner[at]] = begin[at], begin[at + 1] - begin[at]
            return ranges

        return RawSamples(batch.data, of_kind(_PICTURE), of_kind(_CAPTION))
