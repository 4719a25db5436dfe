"""Writing output shards from a plan: each shard alone, in any order, by any worker, with the same bytes.

Importing this module imports nothing but the core, see the package.
"""

from __future__ import annotations

import os

from dcfast._core import reshard as core_reshard
from dcfast.resharding.files import plain_path, temporary_name, write_file, write_flat_json
from dcfast.resharding.layout import EDIT_COUNTS, IDX_FORMAT, SHARD_FORMAT, STATS_FORMAT
from dcfast.resharding.plan import ReshardPlan, ShardSources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dcfast.resharding.contents import ShardContents
    from dcfast.resharding.edit import BlurOptions
    from dcfast.resharding.sources import SegmentItem, Subset

__all__ = ["write_output_shards"]

TOTALS = ("shards", "samples", "members", "payload_bytes", "tar_bytes", *EDIT_COUNTS)
# up to here the threads share in each shard: the workers' imports would take longer than they save
_SMALL_OUTPUT_BYTES = 1 << 30


def write_output_shards(
    plan: ReshardPlan | str | os.PathLike[str],
    subset: Subset,
    k_first: int,
    k_last: int,
    out_dir: str | os.PathLike[str],
    *,
    segments: Sequence[SegmentItem] | None = None,
    threads: int = 1,
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
        Counts: shards, samples, members, payload_bytes, tar_bytes, and of blur: blurred, injected, blur_failed (samples
        left out, because their picture has boxes and cannot be blurred), inject_failed (samples with boxes whose json
        cannot take them: written with it as it is); skipped: shards that were left alone; mended: shards that were
        there and not whole.
    Raises:
        IndexError: no such output shard.   CorruptDataError: an input shard changed or ends early (path, offset).
        OSError: reading or writing failed, a full disk included.   ValueError: subset or index is another one.
    Memory: see ShardSources, and for each shard under way 100 bytes a member and 0.5 MiB a thread.
    Cost: one read and one write of the payloads.
    """
    opened = plan if isinstance(plan, ReshardPlan) else ReshardPlan.load(plan)
    if not 0 <= k_first <= k_last <= opened.num_output_shards:
        raise IndexError(
            f"write_output_shards: shards {k_first} to {k_last} are not in a plan of {opened.num_output_shards}"
        )
    if k_first == k_last:
        return dict.fromkeys((*TOTALS, "skipped", "mended"), 0)
    sources = ShardSources(opened, subset, segments, keep=threads + 1)

    out = plain_path(out_dir)
    there = [k for k in range(k_first, k_last) if skip_whole and _is_there(out, k, idx)]
    whole = _whole_ones(sources, there, out, threads, blur, idx) if there else set()
    todo = [k for k in range(k_first, k_last) if k not in whole]
    plain = blur is None and not idx
    workers = 1 if plain and opened.counts["tar_bytes"] <= _SMALL_OUTPUT_BYTES else min(threads, max(1, len(todo)))
    # where there are fewer workers than threads, a shard is written by several
    writer = _Writer(sources, out, sync, check_mtime, max(1, threads // max(1, workers)), blur, idx)
    totals = dict.fromkeys(TOTALS, 0)
    for one in _written(writer, todo, workers):
        for name in TOTALS:
            totals[name] += one[name]
    return {**totals, "skipped": len(whole), "mended": len(there) - len(whole)}


def _written(writer: _Writer, todo: Sequence[int], threads: int) -> Iterator[dict[str, int]]:
    """The counts of each shard as it is written, in order; a few are under way ahead, however many there are."""
    if threads <= 1 or len(todo) <= 1:
        return map(writer.write, todo)
    from dcfast.process.read_ahead import read_ahead

    return read_ahead(writer.write, todo, threads=threads, ahead=4 * threads)


def _whole_ones(
    sources: ShardSources, there: list[int], out: str, threads: int, blur: BlurOptions | None, idx: bool
) -> set[int]:
    from dcfast.process.read_ahead import read_ahead
    from dcfast.resharding.resume import is_whole

    # several at a time: there may be a million shards
    step = min(64, 1 + len(there) // (8 * max(1, threads)))
    parts = (there[begin : begin + step] for begin in range(0, len(there), step))

    def whole(part: list[int]) -> list[int]:
        return [k for k in part if is_whole(sources, k, out, blur, idx)]

    return {k for found in read_ahead(whole, parts, threads=threads, ahead=4 * threads) for k in found}


def _is_there(out: str, k: int, idx: bool) -> bool:
    names = [SHARD_FORMAT.format(k), STATS_FORMAT.format(k)] + ([IDX_FORMAT.format(k)] if idx else [])
    return all(os.path.isfile(os.path.join(out, name)) for name in names)


class _Writer:
    def __init__(
        self,
        sources: ShardSources,
        out: str,
        sync: bool,
        check_mtime: bool,
        threads: int,
        blur: BlurOptions | None,
        idx: bool,
    ) -> None:
        self.sources, self.out, self.sync, self.check_mtime = sources, out, sync, check_mtime
        self.threads, self.blur, self.idx = threads, blur, idx

    def write(self, k: int) -> dict[str, int]:
        if self.blur is None and not self.idx:
            path = os.path.join(self.out, SHARD_FORMAT.format(k))
            counts = write_file(
                path, lambda place: self.sources.write(k, place, self.threads, self.check_mtime), sync=self.sync
            )
            return self.write_stats(k, counts, {})
        contents = self.sources.contents(k, check=True)
        if self.blur is None:
            return self.write_contents(k, contents, {})
        from pathlib import Path

        from dcfast.resharding.edit import edited_contents

        # a name that finish_reshard clears where a killed run left it
        spool = Path(self.out, temporary_name(SHARD_FORMAT.format(k)))
        os.makedirs(self.out, exist_ok=True)
        with edited_contents(contents, self.blur, spool, self.threads) as edited:
            failed = {"blur_failed": len(edited.failed), "inject_failed": edited.inject_failed}
            done = {"blurred": edited.blurred, "injected": edited.injected, **failed}
            return self.write_contents(k, edited.contents, done)

    def write_contents(self, k: int, contents: ShardContents, edits: dict[str, int]) -> dict[str, int]:
        text = contents.idx_text() if self.idx else b""
        times = contents.source_mtime_ns if self.check_mtime else contents.source_mtime_ns[:0]

        def write(place: str) -> int:
            tar_bytes: int = core_reshard.write_shard(
                os.fsencode(place),
                [os.fsencode(path) for path in contents.sources],
                contents.source_size,
                times,
                contents.source,
                contents.offset,
                contents.size,
                contents.names,
                contents.name_begin,
                threads=self.threads,
            )[0]
            return tar_bytes

        tar_bytes = write_file(os.path.join(self.out, SHARD_FORMAT.format(k)), write, sync=self.sync)
        if self.idx:
            write_file(os.path.join(self.out, IDX_FORMAT.format(k)), text, sync=self.sync)
        counts = (len(contents.uid), len(contents.size), int(contents.size.sum()), tar_bytes)
        return self.write_stats(k, counts, edits)

    def write_stats(self, k: int, counts: tuple[int, int, int, int], edits: dict[str, int]) -> dict[str, int]:
        path = os.path.join(self.out, STATS_FORMAT.format(k))
        write_flat_json(path, {"successes": counts[0], **edits}, sync=self.sync)
        edited = [edits.get(name, 0) for name in EDIT_COUNTS]
        return dict(zip(TOTALS, (1, *counts, *edited), strict=True))
