"""What a reshard tells and writes down, with types: numbers of a plan, reports, and the JSON of an output directory.

Whoever writes shards imports this for type checkers alone: a short reshard is over before msgspec would be imported.
What callers of dcfast get is a dict of these names, so that it can be written as JSON.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from dcfast.index.reports import ShardDamage
from dcfast.storage.records import Count, Record

# one output shard: where it begins (segment, row in the segment, copy of that row) and what it holds
CUT_DTYPE = np.dtype(
    [("segment", "<u4"), ("reserved", "<u4")]
    + [(name, "<u8") for name in ("row", "copy", "samples", "members", "payload_bytes", "tar_bytes")]
)
# a selected pool row whose uid has other selected rows before it: its copies count on from first_copy
REPEAT_DTYPE = np.dtype([("row_id", "<u8"), ("first_copy", "<u8")])


class PlanOptions(TypedDict):
    """What a plan was made with, as it was given; a bound may be infinite. The seed where the output is shuffled."""

    shard_size: int | float
    max_bytes: int | float
    first_shard: int
    num_shards: int | None
    shuffle_seed: NotRequired[int | None]


class PlanArrays(TypedDict):
    """The arrays of a plan (see ``ReshardPlan``), or their bytes as the core made them."""

    cuts: bytes | npt.NDArray[np.void]
    repeats: bytes | npt.NDArray[np.void]
    exclude: bytes | npt.NDArray[np.uint64]
    rows: bytes | npt.NDArray[np.uint64]


class Mismatch(TypedDict):
    """Where an output shard is not what it should be; no member where it is about the whole shard."""

    shard: str
    key: str
    member: str
    problem: str


class VerifyReport(TypedDict):
    """What was compared, and where it differs: at most 20 mismatches of a shard, which are all counted."""

    shards: int
    samples: int
    members: int
    payload_bytes: int
    mismatch_count: int
    mismatches: list[Mismatch]


class ReshardReport(TypedDict):
    """The numbers of a plan, and in the report of a run what became of it.

    Samples in the asked input shards are ``no_uid``, ``cut``, ``excluded`` or processed.

    Attributes:
        selected_rows, output_count: rows of the subset, and the same with copies expanded; ``repeated_rows``: those
            whose uid has selected rows before it.
        missing_count: entries of the subset that are in no asked shard.
        tar_bytes: at most; exact for plain extensions, and of what was written.
        chosen_shards: of the input, with first_shard or num_shards.
        damage: what of the asked input shards may not have been read: samples behind the offset may be missing.
        notes: what was passed over or may hide samples otherwise, in words.
        boxes_refused: rows of metadata, told in ``notes``.
        skipped, mended: shards that a resumed run found done; found cut or altered, and wrote again.
        blur_failed: samples left out, whose picture has boxes and cannot be blurred.   inject_failed: samples whose
            json cannot take boxes, and is written as it is.
    """

    samples: int
    no_uid: int
    cut: int
    excluded: int
    processed_count: int
    selected_rows: int
    output_count: int
    subset_count: int
    missing_count: int
    repeated_rows: int
    output_shard_count: int
    member_count: int
    payload_bytes: int
    tar_bytes: int
    needed_bytes: NotRequired[int]
    free_bytes: NotRequired[int]
    chosen_shards: NotRequired[int]
    damage: NotRequired[list[ShardDamage]]
    notes: NotRequired[list[str]]
    boxes_refused: NotRequired[int]
    skipped: NotRequired[int]
    mended: NotRequired[int]
    blurred: NotRequired[int]
    injected: NotRequired[int]
    blur_failed: NotRequired[int]
    inject_failed: NotRequired[int]
    verified: NotRequired[VerifyReport]


class SavedPlan(Record):
    """``plan.json``; the segments are relative to its directory."""

    segments: list[str]
    segment_first: list[Count]
    shards_dir: str
    options: PlanOptions
    counts: ReshardReport


class ShardStats(Record):
    """``{:08d}_stats.json``: the samples of an output shard."""

    successes: Count


class EditedStats(ShardStats):
    """The same of a shard that was written with boxes; ``blur_failed`` samples were left out of it."""

    blurred: Count
    injected: Count
    blur_failed: Count
    inject_failed: Count


class RunKey(Record):
    """``reshard_key.json``: what a run that has not ended is a run of."""

    reshard_key: str = ""
