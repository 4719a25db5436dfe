"""The reshard plan: which pool rows go to which output shard, as a pure function of (index, subset, options).

Rows are taken in the canonical order (shard, then row in the shard), each as often as its uid stands in the
subset. The plan holds where each output shard begins, so that any worker can write output shard k alone. It is
made in one pass over the index segments: memory is one segment's columns, the cuts (56 bytes an output shard)
and the repeated uids (rare).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcfast.index.rows import FLAG_CUT, FLAGS_WITHOUT_UID, SegmentLike, iterate_segments, row_ids, uid_multiplicity
from dcfast.resharding.layout import BLOCK, RECORD
from dcfast.resharding.selection import (
    REPEAT_DTYPE,
    ROWS_AT_ONCE,
    check_shard_range,
    first_copies,
    repeated_uids,
    row_validity,
    select_rows,
    selected_rows,
    shard_numbers,
)
from dcfast.resharding.shuffle import RowSpool, shuffled_cuts
from dcfast.storage.atomic import write_json
from dcfast.storage.npz import load_array, save_array

__all__ = ["CUT_DTYPE", "ReshardPlan", "make_plan", "plan_cuts"]

# one output shard: where it begins (segment, row in the segment, copy of that row) and what it holds
CUT_DTYPE = np.dtype(
    [
        ("segment", "<u4"),
        ("reserved", "<u4"),
        ("row", "<u8"),
        ("copy", "<u8"),
        ("samples", "<u8"),
        ("members", "<u8"),
        ("payload_bytes", "<u8"),
        ("tar_bytes", "<u8"),
    ]
)


@dataclass
class ReshardPlan:
    """Where each output shard begins, and all that a worker needs to write one.

    Attributes:
        cuts: (K,) CUT_DTYPE, one a shard, in order; shard k ends where k + 1 begins, the last with the index.
        repeats: (R,) REPEAT_DTYPE sorted by row_id; rows that are not in it have first_copy 0.
        exclude: (E,) u64 sorted pool row ids (shard ordinal << 32 | row) that are never written.
        segments: paths of the index segments in pool order, empty where they were given as objects.
        segment_first: (number of segments + 1) ordinals of each segment's first shard, then the number of shards.
        shards_dir: directory the shard names are relative to.
        options: shard_size, max_bytes, first_shard, num_shards, and shuffle_seed where the output is shuffled.
        counts: see ``make_plan``.
        rows: (N,) u64 pool row ids in plan order where the output is shuffled (see ``dcfast.resharding.shuffle``), then
            cuts have in ``row`` the first output place, and neither members nor payload bytes; else empty.
    """

    cuts: NDArray[Any]
    repeats: NDArray[Any]
    exclude: NDArray[Any]
    segments: list[str]
    segment_first: list[int]
    shards_dir: str
    options: dict[str, Any]
    counts: dict[str, int] = field(default_factory=dict)
    rows: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    @property
    def shuffle_seed(self) -> int | None:
        return self.options.get("shuffle_seed")

    @property
    def num_output_shards(self) -> int:
        return len(self.cuts)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes cuts.npy, repeats.npy, exclude.npy, rows.npy if shuffled, and plan.json: each atomically, in order.

        The segments are named relative to the directory: equal plans are equal bytes wherever they lie.
        """
        for name in self._arrays(self.options):
            save_array(Path(directory) / f"{name}.npy", getattr(self, name))
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in (*_ARRAYS, "rows")}
        values["segments"] = [os.path.relpath(segment, directory) for segment in self.segments]
        write_json(Path(directory) / "plan.json", values)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> ReshardPlan:
        """Opens a saved plan; the arrays are memory-mapped."""
        values = json.loads((Path(directory) / "plan.json").read_text("utf-8"))
        values["segments"] = [os.path.normpath(os.path.join(directory, segment)) for segment in values["segments"]]
        names = cls._arrays(values["options"])
        arrays: dict[str, Any] = {name: load_array(Path(directory) / f"{name}.npy", mmap=True) for name in names}
        return cls(**arrays, **values)

    @staticmethod
    def _arrays(options: dict[str, Any]) -> tuple[str, ...]:
        return _ARRAYS if options.get("shuffle_seed") is None else (*_ARRAYS, "rows")


_ARRAYS = ("cuts", "repeats", "exclude")
_TOTALS = (("member_count", "members"), ("payload_bytes", "payload_bytes"), ("tar_bytes", "tar_bytes"))


def plan_cuts(
    chunks: Iterable[tuple[int, NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]],
    shard_size: int = 10_000,
    max_bytes: int = 3_000_000_000,
) -> NDArray[Any]:
    """Cuts the canonical order into output shards as the reference does.

    A new shard begins before the sample at which the open one already has ``shard_size`` samples or
    ``max_bytes`` payload bytes (so a shard may be larger than max_bytes by one sample).

    Args:
        chunks: (segment, rows, multiplicity, payload bytes, members, tar bytes) of the selected rows of one segment
            after the other; the last three are of one copy.
    Returns:
        (K,) CUT_DTYPE.
    Memory: one chunk and the result.   Cost: a few binary searches an output shard.
    """
    if shard_size < 1 or max_bytes < 1:
        raise ValueError(f"plan_cuts: shard_size and max_bytes must be at least 1; got {shard_size} and {max_bytes}")
    cuts: list[list[int]] = []
    for segment, rows, multiplicity, payload, members, tar in chunks:
        copies = multiplicity.astype(np.int64)
        weights = [np.ones(len(rows), np.int64), *(np.asarray(x).astype(np.int64) for x in (members, payload, tar))]
        # totals before each row and after the last: samples, members, payload bytes, tar bytes
        total = [np.concatenate([[0], np.cumsum(w * copies)]) for w in weights]
        sample, end = 0, int(total[0][-1])
        while sample < end:
            if not cuts or cuts[-1][3] >= shard_size or cuts[-1][5] >= max_bytes:
                row = int(np.searchsorted(total[0], sample, side="right")) - 1
                cuts.append([segment, int(rows[row]), sample - int(total[0][row]), 0, 0, 0, 0])
            shard = cuts[-1]
            upto = min(end, sample + shard_size - shard[3], _reach(total, weights, sample, max_bytes - shard[5]))
            for column in range(4):
                shard[3 + column] += _before(total, weights, column, upto) - _before(total, weights, column, sample)
            sample = upto
    result = np.zeros(len(cuts), CUT_DTYPE)
    names = [name for name in CUT_DTYPE.names or () if name != "reserved"]
    for name, values in zip(names, zip(*cuts, strict=True), strict=bool(cuts)):
        result[name] = values
    # two zero blocks, and padding to whole records
    result["tar_bytes"] = (
        (result["tar_bytes"] + np.uint64(2 * BLOCK + RECORD - 1)) // np.uint64(RECORD) * np.uint64(RECORD)
    )
    return result


def _before(total: list[NDArray[Any]], weights: list[NDArray[Any]], column: int, sample: int) -> int:
    """A column's total over the expanded samples before ``sample``."""
    row = int(np.searchsorted(total[0], sample, side="right")) - 1
    if row == len(weights[0]):
        return int(total[column][-1])
    return int(total[column][row]) + (sample - int(total[0][row])) * int(weights[column][row])


def _reach(total: list[NDArray[Any]], weights: list[NDArray[Any]], sample: int, wanted: int) -> int:
    """The smallest count of expanded samples that has ``wanted`` payload bytes more than ``sample`` samples."""
    goal = _before(total, weights, 2, sample) + wanted
    row = int(np.searchsorted(total[2], goal, side="left")) - 1  # the first row whose end reaches the goal
    if row >= len(weights[0]):
        return int(total[0][-1])
    size = int(weights[2][row])
    return int(total[0][row]) + -(-(goal - int(total[2][row])) // size)


def make_plan(
    segments: Sequence[SegmentLike | str],
    subset: NDArray[Any],
    *,
    shards_dir: str | os.PathLike[str],
    shard_size: int = 10_000,
    max_bytes: int = 3_000_000_000,
    first_shard: int = 0,
    num_shards: int | None = None,
    exclude: NDArray[Any] | None = None,
    pool_records: NDArray[Any] | None = None,
    shuffle_seed: int | None = None,
) -> ReshardPlan:
    """Plans the output shards of a subset of an indexed pool.

    Args:
        segments: index segments (paths or objects) in pool order.
        subset: (s,) "u8,u8" sorted; a uid that stands m times is written m times, from each pool row that has it.
        shards_dir: directory the segments' shard names are relative to.
        shard_size, max_bytes: see ``plan_cuts``.
        first_shard, num_shards: take only input shards with these numbers in their names.
        exclude: (e,) u64 pool row ids that are not to be written, in any order.
        pool_records: (n,) the pool index (sorted records). Without it the selected uids are sorted in memory to
            find repeated ones, about 100 bytes a selected row; with it only the repeated ones are held.
        shuffle_seed: 0 to 2^64 - 1: the output is in the order of a permutation of all samples, keyed by it, and cut by
            number (``shuffled_cuts``). Costs 8 bytes a written sample in a temporary file.
    Returns:
        ReshardPlan. Its counts: samples (in the asked input shards), no_uid, cut, excluded, processed_count (the
        others), selected_rows, output_count (copies expanded), subset_count, missing_count (entries of the subset
        that are in no asked shard), repeated_rows, output_shard_count, member_count, payload_bytes, tar_bytes
        (at most; exact for plain extensions).
    Raises:
        PoolError: first_shard is beyond the numbers of all shards. A slice without a shard among them is empty.
    """
    if first_shard < 0 or (num_shards is not None and num_shards < 0):
        raise ValueError(f"make_plan: first_shard and num_shards must be 0 or more; got {first_shard} and {num_shards}")
    options = {"shard_size": shard_size, "max_bytes": max_bytes, "first_shard": first_shard, "num_shards": num_shards}
    spool = None
    if shuffle_seed is not None:
        if not 0 <= shuffle_seed < 1 << 64:
            raise ValueError(f"shuffle_seed must be 0 to 2^64 - 1; got {shuffle_seed}")
        options["shuffle_seed"] = shuffle_seed
        spool = RowSpool()
    left_out = np.sort(np.asarray([] if exclude is None else exclude, np.uint64))
    known = None if pool_records is None else repeated_uids(pool_records)
    counts = dict.fromkeys(("samples", "no_uid", "cut", "excluded", "processed_count", "selected_rows"), 0)
    maybe_repeated: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    segment_first = [0]
    numbers: list[int] = []

    def chunks() -> Iterator[tuple[int, NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]]:
        for number, ordinal, segment in iterate_segments(segments):
            segment_first.append(ordinal + segment.num_shards)
            if first_shard:
                numbers.extend(shard_numbers(segment, ordinal))
            valid = row_validity(segment, ordinal, options, left_out)
            _count_rows(counts, segment, ordinal, options, valid)
            for first in range(0, segment.num_samples, ROWS_AT_ONCE):
                last = min(first + ROWS_AT_ONCE, segment.num_samples)
                uids = np.asarray(segment.uid[first:last])
                rows, multiplicity = select_rows(uids, valid[first:last], subset)
                if len(rows) == 0:
                    continue
                counts["selected_rows"] += len(rows)
                picked = uids[rows]
                if known is None:
                    among = np.ones(len(rows), bool)
                else:
                    among = uid_multiplicity(picked, known) > 0 if len(known) else np.zeros(len(rows), bool)
                ids = row_ids(segment, ordinal, rows[among] + first)
                maybe_repeated.append((picked[among], ids, multiplicity[among]))
                if spool is not None:
                    spool.add(row_ids(segment, ordinal, rows + first), multiplicity)
                yield number, rows + first, multiplicity, *_row_weights(segment, first, last, rows)

    if spool is None:
        cuts = plan_cuts(chunks(), shard_size, max_bytes)
        totals = {name: int(cuts[column].sum()) for name, column in _TOTALS}
        order = np.empty(0, np.uint64)
    else:
        cuts, totals = shuffled_cuts(chunks(), CUT_DTYPE, shard_size, max_bytes)
        order = spool.rows()
    check_shard_range(numbers, first_shard)
    columns = [np.concatenate(parts) for parts in zip(*maybe_repeated, strict=True)]
    repeats = first_copies(*columns) if columns else np.empty(0, REPEAT_DTYPE)
    counts["output_count"] = int(cuts["samples"].sum())
    counts["subset_count"] = len(subset)
    # each uid's entries are found once; what its later rows add was counted beyond that
    extra = int(columns[2][np.isin(columns[1], repeats["row_id"])].sum()) if len(repeats) else 0
    counts["missing_count"] = len(subset) - (counts["output_count"] - extra)
    counts["repeated_rows"] = len(repeats)
    counts["output_shard_count"] = len(cuts)
    counts.update(totals)
    paths = [os.fspath(s) for s in segments if isinstance(s, (str, os.PathLike))]
    if len(paths) not in (0, len(segments)):
        raise TypeError("make_plan: segments must be all paths or all objects")
    return ReshardPlan(cuts, repeats, left_out, paths, segment_first, os.fspath(shards_dir), options, counts, order)


def _count_rows(
    counts: dict[str, int], segment: SegmentLike, ordinal: int, options: dict[str, Any], valid: Any
) -> None:
    flags = np.asarray(segment.flags)[selected_rows(segment, ordinal, options)]
    no_uid = int(((flags & FLAGS_WITHOUT_UID) != 0).sum())
    cut = int((((flags & FLAGS_WITHOUT_UID) == 0) & ((flags & FLAG_CUT) != 0)).sum())
    processed = int(valid.sum())
    for name, value in (("samples", len(flags)), ("no_uid", no_uid), ("cut", cut), ("processed_count", processed)):
        counts[name] += value
    counts["excluded"] += len(flags) - no_uid - cut - processed


def _row_weights(
    segment: SegmentLike, first: int, last: int, rows: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Of one copy of each row (counted from ``first``): payload bytes, members, bytes in the tar."""
    begin = np.asarray(segment.member_begin[first : last + 1]).astype(np.int64)
    begin -= begin[0]
    _, member_size, member_ext = segment.members_of(first, last)
    size = np.asarray(member_size).astype(np.int64)
    longest = 32 + 1 + 20 + 1  # of "UID-COPY."
    names = [ext.encode("utf-8", "surrogateescape") for ext in segment.exts_lower]
    plain = np.array([name.isascii() and longest + len(name) <= 100 for name in names], bool)
    # a pax header: its block, then the path record with its length and hdrcharset at most 64 bytes longer
    pax = [BLOCK + -(-(longest + len(name) + 64) // BLOCK) * BLOCK for name in names]
    header = BLOCK + np.where(plain, 0, np.array(pax, np.int64))
    in_tar = size + -size % BLOCK + header[np.asarray(member_ext)]
    members = begin[1:][rows] - begin[:-1][rows]
    return _sums(size, begin, rows), members, _sums(in_tar, begin, rows)


def _sums(values: NDArray[np.int64], begin: NDArray[np.int64], rows: NDArray[Any]) -> NDArray[np.int64]:
    total = np.concatenate([[0], np.cumsum(values)])[begin]
    sums: NDArray[np.int64] = (total[1:] - total[:-1])[rows]
    return sums
