"""What stands at each canonical position of a source: its shards indexed, or its subset planned, before training.

The canonical position of a sample is its rank in the reshard plan with multiplicity expanded. In new shards that is
simply the order in which they stand; of the pool, ``write_positions`` writes the row at each position, 8 bytes a
sample, memory-mapped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.errors import CorruptDataError, PoolError, SubsetError
from dcfast.index.build import write_segment
from dcfast.index.pool import shard_folder
from dcfast.index.pool_index import index_folder
from dcfast.index.refresh import refresh_index
from dcfast.index.rows import loss_notes, valid_uid_mask
from dcfast.index.segments import SampleFlag, Segment
from dcfast.resharding.plan import ReshardPlan, ShardSources, make_plan
from dcfast.storage.http import RemoteOptions
from dcfast.storage.listing import PassedOver, TarListing, first_notes, list_pool_tars
from dcfast.storage.npz import load_array, write_npy
from dcfast.storage.paths import absolute, is_url
from dcfast.train.captions import TXT_ALONE, CaptionRule
from dcfast.uids.sets import load_subset, open_records

if TYPE_CHECKING:
    from dcfast.train.settings import TrainSource

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
        shards: how many the index has.
        captions: where they come from.   remote: how URLs are read.
    """

    segments: tuple[str, ...]
    shards_dir: str
    rows: str | None
    count: int
    name: str
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    shards: int = 0
    captions: CaptionRule = TXT_ALONE
    remote: RemoteOptions | None = None


def source_files(
    source: TrainSource, work: Path, number: int, captions: CaptionRule, remote: RemoteOptions | None
) -> SourceFiles:
    """See ``prepare_source``, which looks through the source afterwards."""
    if source.shards is not None and is_url(source.shards):
        return _prepare_remote(source.shards, work / f"shards-{number:02d}", captions, remote)
    if source.shards is not None:
        return _prepare_shards(source.shards, work / f"shards-{number:02d}.dcx", captions)
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
    opened = [Segment.open(path, verify=False) for path in segments]
    notes = logged(first_notes([note for segment in opened for note in loss_notes(segment)]))
    shards = sum(segment.num_shards for segment in opened)
    place = absolute(str(source.shards_dir))
    return SourceFiles(segments, place, os.path.abspath(rows), count, str(source), notes, shards=shards)


def logged(notes: list[str]) -> tuple[str, ...]:
    """Notes on a source, which the log has at once: training may end before its summary is written."""
    for note in notes:
        _LOG.warning("%s", note)
    return tuple(notes)


def _prepare_remote(url: str, folder: Path, captions: CaptionRule, remote: RemoteOptions | None) -> SourceFiles:
    """The same of a directory behind a URL: its index is made, or brought up to date."""
    report = refresh_index(folder, url, remote=remote)
    if report["samples"] and not report["rows"]:
        folder = folder.with_name(f"{folder.name}-keys")
        report = refresh_index(folder, url, remote=remote, uid_from="key")
    for damage in report["damage"]:
        raise CorruptDataError(
            f"{url}/{damage['shard']} is damaged at byte {damage['offset']}: {damage['message']}; write it anew "
            "(reshard)",
            path=url,
            offset=damage["offset"],
        )
    if report["samples"] == 0:
        raise SubsetError(f"source {url}: its {report['shards']} shards hold no sample; give shards that do")
    passed_over = [PassedOver(entry["name"], entry["reason"]) for entry in report["passed_over"]]
    notes = logged([*TarListing(url, passed_over=passed_over).notes, *report["notes"]])
    segments = [str(path) for path in sorted(folder.glob("*.dcx"))]
    flags = np.concatenate([np.asarray(Segment.open(path, verify=False).flags) for path in segments])
    _refuse_unusable(flags, Segment.open(segments[0], verify=False).exts_lower, url, [], captions)
    place = url.rstrip("/")
    return SourceFiles(tuple(segments), place, None, len(flags), url, notes, shards=report["shards"])


def _prepare_shards(directory: str, segment_path: Path, captions: CaptionRule) -> SourceFiles:
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
    notes = logged([*listing.notes, *first_notes(losses)])
    _refuse_unusable(np.asarray(segment.flags), segment.exts_lower, directory, losses, captions)
    count = segment.num_samples
    return SourceFiles((str(segment_path),), str(folder), None, count, directory, notes, shards=len(names))


def _fresh_segment(path: Path, folder: Path, names: list[str]) -> Segment | None:
    """The segment of an earlier start, where it is whole and says what the shards are now."""
    try:
        segment = Segment.open(path)
    except (FileNotFoundError, CorruptDataError):
        return None
    return segment if segment.shard_names == names and not segment.check_fresh(folder) else None


def _refuse_unusable(
    flags: npt.NDArray[np.uint16], exts_lower: list[str], directory: str, losses: list[str], captions: CaptionRule
) -> None:
    """SubsetError with the commonest reason where no sample has both a picture and a caption."""
    needed = {what: flag for what, flag in _NEEDED.items() if captions.is_txt or flag == int(SampleFlag.NO_IMAGE)}
    lacking = {what: int(((flags & flag) != 0).sum()) for what, flag in needed.items()}
    if ((flags & sum(needed.values())) == 0).any():
        return
    what, count = max(lacking.items(), key=lambda item: item[1])
    exts = ", ".join(sorted(set(exts_lower))[:8])
    why = f". {losses[0]}" if losses else ""
    raise SubsetError(
        f"source {directory}: none of its {len(flags):,} samples has a picture and a caption: {count:,} have no "
        f"{what}; the members end in {exts}{why}: give shards of image-text pairs"
    )
