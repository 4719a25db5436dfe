"""Writing output shards from a plan: each shard alone, in any order, by any worker, with the same bytes.

Importing this module imports nothing but the core, see the package.
"""

from __future__ import annotations

import os

from dcfast._core import reshard as core_reshard
from dcfast.resharding.files import flat_json, write_bytes
from dcfast.resharding.layout import EDIT_COUNTS, IDX_FORMAT, SHARD_FORMAT, STATS_FORMAT
from dcfast.resharding.output import OutputShards
from dcfast.storage.listing import temporary_name
from dcfast.storage.whole import whole_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dcfast.resharding.contents import ShardContents
    from dcfast.resharding.edit import BlurOptions
    from dcfast.resharding.plan import ReshardPlan
    from dcfast.resharding.sources import OpenSubset, SegmentItem, StrPath, Subset

TOTALS = ("shards", "samples", "members", "payload_bytes", "tar_bytes", *EDIT_COUNTS)
# up to here the threads share in each shard: the workers' imports would take longer than they save
_SMALL_OUTPUT_BYTES = 1 << 30


def write_output_shards(
    plan: ReshardPlan | StrPath,
    subset: Subset | OpenSubset,
    k_first: int,
    k_last: int,
    out_dir: StrPath,
    *,
    segments: Sequence[SegmentItem] | None = None,
    threads: int | None = 1,
    sync: bool = True,
    check_mtime: bool = True,
    blur: BlurOptions | None = None,
    idx: bool = False,
    skip_whole: bool = False,
) -> dict[str, int]:
    """Writes output shards k_first .. k_last - 1 of a plan, each with its ``_stats.json``, atomically.

    Args:
        plan: the plan, or the directory it was saved in.
        subset: the subset that was planned, as array or file.
        out_dir: where ``{:08d}.tar`` and ``{:08d}_stats.json`` go; made where missing.
        segments: the index segments, where the plan does not name their files.
        threads: shards written at the same time; threads beyond the number of shards share in each.
        sync: fsync files and directory before the rename counts.
        check_mtime: refuse an input shard whose modification time is not the indexed one (its size always counts).
        blur: boxes injected or applied; see ``dcfast.resharding.edit``. What it changes in a shard lies in a temporary
            file beside it while that is written.
        idx: write ``{:08d}.idx`` for DALI along.
        skip_whole: leave output shards alone that are there, whole, with their companions (``resume.is_whole``): cut or
            altered ones are written again. Only where they are known to be of this very plan.
    Returns:
        Counts: shards, samples, members, payload_bytes, tar_bytes; of blur blurred, injected, blur_failed and
        inject_failed (see ``edit.edited_contents``); skipped: shards that were left alone; mended: that were not whole.
    Raises:
        IndexError: no such output shard.   CorruptDataError: an input shard changed or ends early (path, offset).
        OSError: reading or writing failed, a full disk included.   ValueError: subset or index is another one.
    Memory: see ShardSources, and for each shard under way 100 bytes a member and 0.5 MiB a thread.
    Cost: one read and one write of the payloads.
    """
    shards = OutputShards(plan, subset, out_dir, segments, threads, blur, idx)
    return write_shards(shards, k_first, k_last, sync=sync, check_mtime=check_mtime, skip_whole=skip_whole)


def write_shards(
    shards: OutputShards, k_first: int, k_last: int, *, sync: bool, check_mtime: bool, skip_whole: bool
) -> dict[str, int]:
    """See ``write_output_shards``."""
    shards.plan.check_range(k_first, k_last, "write_output_shards")
    present = [k for k in range(k_first, k_last) if skip_whole and _is_present(shards, k)]
    whole = _whole(shards, present) if present else set()
    todo = [k for k in range(k_first, k_last) if k not in whole]
    unchanged = shards.blur is None and not shards.idx
    is_small = unchanged and shards.plan.counts["tar_bytes"] <= _SMALL_OUTPUT_BYTES
    workers = 1 if is_small else min(shards.threads, max(1, len(todo)))
    # where there are fewer workers than threads, a shard is written by several
    writer = _Writer(shards, sync, check_mtime, max(1, shards.threads // max(1, workers)))
    totals = dict.fromkeys(TOTALS, 0)
    for counts in _written(writer, todo, workers):
        for name, count in zip(TOTALS, counts, strict=True):
            totals[name] += count
    return {**totals, "skipped": len(whole), "mended": len(present) - len(whole)}


def _is_present(shards: OutputShards, k: int) -> bool:
    forms = [SHARD_FORMAT, STATS_FORMAT] + ([IDX_FORMAT] if shards.idx else [])
    return all(os.path.isfile(shards.path(form, k)) for form in forms)


def _whole(shards: OutputShards, present: list[int]) -> set[int]:
    from dcfast.process.read_ahead import read_ahead
    from dcfast.resharding.resume import is_whole

    # several at a time: there may be a million shards
    step = min(64, 1 + len(present) // (8 * max(1, shards.threads)))
    parts = (present[begin : begin + step] for begin in range(0, len(present), step))

    def whole(part: list[int]) -> list[int]:
        return [k for k in part if is_whole(shards, k)]

    return {k for part in read_ahead(whole, parts, threads=shards.threads, ahead=4 * shards.threads) for k in part}


def _written(writer: _Writer, todo: Sequence[int], threads: int) -> Iterator[tuple[int, ...]]:
    """The counts of each shard as it is written, in order; a few are under way ahead, however many there are."""
    if threads <= 1 or len(todo) <= 1:
        return map(writer.write, todo)
    from dcfast.process.read_ahead import read_ahead

    return read_ahead(writer.write, todo, threads=threads, ahead=4 * threads)


class _Writer:
    """Writes output shards; the counts of each are those of ``TOTALS``, in order."""

    def __init__(self, shards: OutputShards, sync: bool, check_mtime: bool, threads: int) -> None:
        self.shards, self.sync, self.check_mtime, self.threads = shards, sync, check_mtime, threads

    def write(self, k: int) -> tuple[int, ...]:
        shards = self.shards
        is_far = "://" in shards.plan.shards_dir
        if shards.blur is None and not shards.idx and not is_far:
            with whole_file(shards.path(SHARD_FORMAT, k), sync=self.sync) as temporary:
                counts = shards.sources.write(k, temporary, self.threads, self.check_mtime)
            return self.write_stats(k, counts, {})
        contents = shards.sources.contents(k, check=True)
        if not is_far:
            return self.write_edited(k, contents)
        from dcfast.resharding.far import near_contents

        with near_contents(contents, self.spool(k), check_mtime=self.check_mtime) as near:
            return self.write_edited(k, near)

    def spool(self, k: int) -> Path:
        """A name that finish_reshard clears where a killed run left it."""
        from pathlib import Path

        os.makedirs(self.shards.out, exist_ok=True)
        return Path(self.shards.out, temporary_name(SHARD_FORMAT.format(k)))

    def write_edited(self, k: int, contents: ShardContents) -> tuple[int, ...]:
        """Writes a shard of members in files, with their boxes blurred or injected where that is asked for."""
        if self.shards.blur is None:
            return self.write_contents(k, contents, {})
        from dcfast.resharding.edit import edited_contents

        with edited_contents(contents, self.shards.blur, self.spool(k), self.threads) as (edited, counted):
            return self.write_contents(k, edited, counted)

    def write_contents(self, k: int, contents: ShardContents, edits: dict[str, int]) -> tuple[int, ...]:
        idx_text = contents.idx_text() if self.shards.idx else b""
        times = contents.source_mtime_ns if self.check_mtime else contents.source_mtime_ns[:0]
        with whole_file(self.shards.path(SHARD_FORMAT, k), sync=self.sync) as temporary:
            tar_bytes = core_reshard.write_shard(
                os.fsencode(temporary),
                [os.fsencode(path) for path in contents.sources],
                contents.source_size,
                times,
                contents.source,
                contents.offset,
                contents.size,
                contents.names,
                contents.name_begin,
                threads=self.threads,
            )
        if self.shards.idx:
            write_bytes(self.shards.path(IDX_FORMAT, k), idx_text, sync=self.sync)
        counts = (len(contents.uid), len(contents.size), int(contents.size.sum()), tar_bytes)
        return self.write_stats(k, counts, edits)

    def write_stats(self, k: int, counts: tuple[int, int, int, int], edits: dict[str, int]) -> tuple[int, ...]:
        stats = flat_json({"successes": counts[0], **edits})
        write_bytes(self.shards.path(STATS_FORMAT, k), stats, sync=self.sync)
        return (1, *counts, *(edits.get(name, 0) for name in EDIT_COUNTS))
