"""Writing output shards from a plan: each shard alone, in any order, by any worker, with the same bytes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcfast._core import reshard as core_reshard
from dcfast.index.rows import SegmentLike
from dcfast.process.read_ahead import read_ahead
from dcfast.resharding.contents import ShardContents, ShardSources, open_subset
from dcfast.resharding.edit import edited_contents
from dcfast.resharding.idx import IDX_FORMAT, idx_text
from dcfast.resharding.layout import EDIT_COUNTS, SHARD_FORMAT, STATS_FORMAT
from dcfast.resharding.plan import ReshardPlan
from dcfast.resharding.resume import is_whole
from dcfast.storage.atomic import TEMPORARY_PREFIX, atomic_path, write_bytes, write_json

if TYPE_CHECKING:
    from dcfast.resharding.edit import BlurOptions

__all__ = ["check_planned", "write_output_shards"]

TOTALS = ("shards", "samples", "members", "payload_bytes", "tar_bytes", *EDIT_COUNTS)


def write_output_shards(
    plan: ReshardPlan | str | os.PathLike[str],
    subset: NDArray[Any] | str | os.PathLike[str],
    k_first: int,
    k_last: int,
    out_dir: str | os.PathLike[str],
    *,
    segments: Sequence[SegmentLike | str] | None = None,
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
        skip_whole: leave output shards alone that are there, whole, with their companions (``reshard_whole``): cut or
            altered ones are written again. Only where they are known to be of this very plan.
    Returns:
        Counts: shards, samples, members, payload_bytes, tar_bytes, and of blur: blurred, injected, blur_failed (samples
        left out, because their picture has boxes and cannot be decoded), inject_failed (samples with boxes whose json
        cannot take them: written with it as it is); skipped: shards that were left alone; mended: shards that were
        there and not whole.
    Raises:
        IndexError: no such output shard.   CorruptDataError: an input shard changed or ends early (path, offset).
        OSError: reading or writing failed, a full disk included.   ValueError: subset or index is another one.
    Memory: see ShardSources, and for each thread 100 bytes a member of one output shard and 0.5 MiB.
    Cost: one read and one write of the payloads.
    """
    opened = plan if isinstance(plan, ReshardPlan) else ReshardPlan.load(plan)
    if not 0 <= k_first <= k_last <= opened.num_output_shards:
        raise IndexError(
            f"write_output_shards: shards {k_first} to {k_last} are not in a plan of {opened.num_output_shards}"
        )
    if k_first == k_last:
        return dict.fromkeys((*TOTALS, "skipped", "mended"), 0)
    sources = ShardSources(opened, open_subset(subset), segments, keep=threads + 1)

    out = Path(out_dir)
    there = [k for k in range(k_first, k_last) if skip_whole and _is_there(out, k, idx)]
    whole = _whole_ones(sources, there, out, threads, blur, idx) if there else set()
    todo = [k for k in range(k_first, k_last) if k not in whole]
    # where there are fewer shards than threads, a shard is written by several
    writer = _Writer(sources, out, sync, check_mtime, max(1, threads // max(1, len(todo))), blur, idx)
    totals = dict.fromkeys(TOTALS, 0)
    for one in _written(writer, todo, threads):
        for name in TOTALS:
            totals[name] += one[name]
    return {**totals, "skipped": len(whole), "mended": len(there) - len(whole)}


def _written(writer: _Writer, todo: Sequence[int], threads: int) -> Iterator[dict[str, int]]:
    """The counts of each shard as it is written, in order; a few are under way ahead, however many there are."""
    if threads <= 1 or len(todo) <= 1:
        return map(writer.write, todo)
    return read_ahead(writer.write, todo, threads=threads, ahead=4 * threads)


def _whole_ones(
    sources: ShardSources, there: list[int], out: Path, threads: int, blur: BlurOptions | None, idx: bool
) -> set[int]:
    # several at a time: there may be a million shards
    step = min(64, 1 + len(there) // (8 * max(1, threads)))
    parts = (there[begin : begin + step] for begin in range(0, len(there), step))

    def whole(part: list[int]) -> list[int]:
        return [k for k in part if is_whole(sources, k, out, blur, idx)]

    return {k for found in read_ahead(whole, parts, threads=threads, ahead=4 * threads) for k in found}


def _is_there(out: Path, k: int, idx: bool) -> bool:
    names = [SHARD_FORMAT.format(k), STATS_FORMAT.format(k)] + ([IDX_FORMAT.format(k)] if idx else [])
    return all((out / name).is_file() for name in names)


@dataclass
class _Writer:
    sources: ShardSources
    out: Path
    sync: bool
    check_mtime: bool
    threads: int
    blur: BlurOptions | None
    idx: bool

    def write(self, k: int) -> dict[str, int]:
        contents = self.sources.contents(k)
        check_planned(self.sources.plan, k, contents)
        if self.blur is None:
            return self.write_contents(k, contents, {})
        # a name that finish_reshard clears where a killed run left it
        spool = self.out / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{SHARD_FORMAT.format(k)}"
        self.out.mkdir(parents=True, exist_ok=True)
        with edited_contents(contents, self.blur, spool) as edited:
            failed = {"blur_failed": len(edited.failed), "inject_failed": edited.inject_failed}
            done = {"blurred": edited.blurred, "injected": edited.injected, **failed}
            return self.write_contents(k, edited.contents, done)

    def write_contents(self, k: int, contents: ShardContents, edits: dict[str, int]) -> dict[str, int]:
        text = idx_text(contents) if self.idx else b""
        with atomic_path(self.out / SHARD_FORMAT.format(k), sync=self.sync) as temporary:
            tar_bytes, _ = core_reshard.write_shard(
                os.fsencode(temporary),
                [os.fsencode(path) for path in contents.sources],
                contents.source_size,
                contents.source_mtime_ns if self.check_mtime else np.zeros(0, np.int64),
                contents.source,
                contents.offset,
                contents.size,
                contents.names,
                contents.name_begin,
                threads=self.threads,
            )
        if self.idx:
            write_bytes(self.out / IDX_FORMAT.format(k), text, sync=self.sync)
        write_json(self.out / STATS_FORMAT.format(k), {"successes": len(contents.uid), **edits}, sync=self.sync)
        counts = (1, len(contents.uid), len(contents.size), int(contents.size.sum()), tar_bytes)
        edited = [edits.get(name, 0) for name in EDIT_COUNTS]
        return dict(zip(TOTALS, (*counts, *edited), strict=True))


def check_planned(plan: ReshardPlan, k: int, contents: ShardContents) -> None:
    """Raises ValueError where a shard does not hold what was planned (of a shuffled one: as many samples)."""
    planned = plan.cuts[k]
    found = [len(contents.uid), len(contents.size), int(contents.size.sum())]
    expected = [int(planned[name]) for name in ("samples", "members", "payload_bytes")]
    if plan.shuffle_seed is not None:
        found, expected = found[:1], expected[:1]
    if found != expected:
        raise ValueError(
            f"output shard {k}: the subset or the index is not the one that was planned: expected "
            f"(samples, members, bytes) {tuple(expected)}; got {tuple(found)}; plan again"
        )
