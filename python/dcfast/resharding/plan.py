"""The reshard plan: which pool rows go to which output shard, as a pure function of (index, subset, options).

Rows are taken in the canonical order (shard, then row in the shard), each as often as its uid stands in the
subset. The plan holds where each output shard begins, so that any worker can write output shard k alone. It is made by
the core (``csrc/core/reshard/reshard_plan.hpp``) in one pass over the index segments. Importing this module imports
nothing but the core, see the package.
"""

from __future__ import annotations

import os

from dcfast._core import reshard as core_reshard
from dcfast.errors import PoolError
from dcfast.process.compute import thread_count
from dcfast.resharding.sources import core_segment, open_subset, whole_number
from dcfast.storage.listing import say_losses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO, TypeVar

    import numpy as np
    from numpy.typing import NDArray

    from dcfast.index.reports import ShardDamage
    from dcfast.resharding.contents import ShardContents
    from dcfast.resharding.records import PlanArrays, PlanOptions, ReshardReport
    from dcfast.resharding.sources import OpenSubset, SegmentItem, StrPath, Subset

    T = TypeVar("T", bound=np.generic)

# rows of a segment looked at together: bounds the memory of plan and workers for segments of any size
ROWS_AT_ONCE = 1 << 18
_CUT_WORDS = 7  # of 8 bytes; samples is number 3, tar_bytes the last


class ReshardPlan:
    """Where each output shard begins, and all that a worker needs to write one.

    Attributes:
        cuts: (K,) CUT_DTYPE, one a shard, in order; shard k ends where k + 1 begins, the last with the index.
        repeats: (R,) REPEAT_DTYPE sorted by row_id; rows that are not in it have first_copy 0.
        exclude: (E,) u64 sorted pool row ids (shard ordinal << 32 | row) that are never written.
        rows: (N,) u64 pool row ids in plan order where the output is shuffled (each as often as it is written; place p
            of the output holds row permutation(p), ``csrc/core/reshard/permutation.hpp``), then cuts have in ``row``
            the first output place, and neither members nor payload bytes; else empty.
        arrays: the four, as arrays or as their bytes.
        segments: paths of the index segments in pool order, empty where they were given as objects.
        segment_first: (number of segments + 1) ordinals of each segment's first shard, then the number of shards.
        shards_dir: directory the shard names are relative to.
        damage: of a plan that was made, not loaded: whatever may not have been read of the asked input shards.
        notes: the same: what else may hide samples of theirs, in words.
        chosen_shards: the same: number of asked input shards.
        inputs: the same: a hash of name, size and time of all input shards.
    """

    def __init__(
        self,
        arrays: PlanArrays,
        segments: list[str],
        segment_first: list[int],
        shards_dir: str,
        options: PlanOptions,
        counts: ReshardReport,
    ) -> None:
        self.arrays: PlanArrays = arrays
        self.segments: list[str] = segments
        self.segment_first: list[int] = segment_first
        self.shards_dir: str = shards_dir
        self.options: PlanOptions = options
        self.counts: ReshardReport = counts
        self.damage: list[ShardDamage] = []
        self.notes: list[str] = []
        self.chosen_shards: int = 0
        self.inputs: tuple[int, int] = (0, 0)

    @property
    def cuts(self) -> NDArray[np.void]:
        from dcfast.resharding.records import CUT_DTYPE

        return _array(self.arrays["cuts"], CUT_DTYPE)

    @property
    def repeats(self) -> NDArray[np.void]:
        from dcfast.resharding.records import REPEAT_DTYPE

        return _array(self.arrays["repeats"], REPEAT_DTYPE)

    @property
    def exclude(self) -> NDArray[np.uint64]:
        return _row_ids(self.arrays["exclude"])

    @property
    def rows(self) -> NDArray[np.uint64]:
        return _row_ids(self.arrays["rows"])

    @property
    def shuffle_seed(self) -> int | None:
        return self.options.get("shuffle_seed")

    @property
    def num_output_shards(self) -> int:
        cuts = self.arrays["cuts"]
        return len(cuts) // (8 * _CUT_WORDS) if isinstance(cuts, bytes) else len(cuts)

    def samples(self) -> list[int]:
        """How many samples each output shard has, without NumPy where the plan was made here."""
        cuts = self.arrays["cuts"]
        if isinstance(cuts, bytes):
            return memoryview(cuts).cast("Q").tolist()[3::_CUT_WORDS] if cuts else []
        return [int(count) for count in cuts["samples"]]

    def check_range(self, k_first: int, k_last: int, function: str) -> None:
        """Raises IndexError where output shards k_first to k_last - 1 are not all in the plan."""
        count = self.num_output_shards
        if not 0 <= k_first <= k_last <= count:
            raise IndexError(f"{function}: shards {k_first} to {k_last} are not in a plan of {count}")

    def save(self, directory: StrPath) -> None:
        """Writes cuts.npy, repeats.npy, exclude.npy, rows.npy if shuffled, and plan.json: each atomically, in order.

        The segments are named relative to the directory: equal plans are equal bytes wherever they lie.
        """
        from dcfast.resharding.records import SavedPlan
        from dcfast.storage.atomic import write_json
        from dcfast.storage.npz import save_array
        from dcfast.storage.records import plain

        arrays = {"cuts": self.cuts, "repeats": self.repeats, "exclude": self.exclude}
        if self.shuffle_seed is not None:
            arrays["rows"] = self.rows
        for name, array in arrays.items():
            save_array(os.path.join(directory, f"{name}.npy"), array)
        saved = SavedPlan(
            segments=[os.path.relpath(segment, directory) for segment in self.segments],
            segment_first=self.segment_first,
            shards_dir=self.shards_dir,
            options=self.options,
            counts=self.counts,
        )
        write_json(os.path.join(directory, "plan.json"), plain(saved))

    @classmethod
    def load(cls, directory: StrPath) -> ReshardPlan:
        """Opens a saved plan; the arrays are memory-mapped."""
        from dcfast.resharding.records import SavedPlan
        from dcfast.storage.npz import load_array
        from dcfast.storage.records import read_record

        saved = read_record(os.path.join(directory, "plan.json"), SavedPlan)
        segments = [os.path.normpath(os.path.join(directory, segment)) for segment in saved.segments]
        names = ["cuts", "repeats", "exclude"] + ([] if saved.options.get("shuffle_seed") is None else ["rows"])
        cuts, repeats, exclude, *rows = (
            load_array(os.path.join(directory, f"{name}.npy"), mmap=True) for name in names
        )
        arrays: PlanArrays = {"cuts": cuts, "repeats": repeats, "exclude": exclude, "rows": rows[0] if rows else b""}
        return cls(arrays, segments, saved.segment_first, saved.shards_dir, saved.options, saved.counts)


def open_plan(plan: ReshardPlan | StrPath) -> ReshardPlan:
    """A plan, or the one that was saved in a directory."""
    return plan if isinstance(plan, ReshardPlan) else ReshardPlan.load(plan)


def _array(buffer: bytes | NDArray[T], dtype: np.dtype[T]) -> NDArray[T]:
    import numpy as np

    return np.frombuffer(buffer, dtype) if isinstance(buffer, bytes) else buffer


def _row_ids(buffer: bytes | NDArray[np.uint64]) -> NDArray[np.uint64]:
    import numpy as np

    return _array(buffer, np.dtype(np.uint64))


def make_plan(
    segments: Sequence[SegmentItem],
    subset: Subset | OpenSubset,
    *,
    shards_dir: StrPath,
    shard_size: int = 10_000,
    max_bytes: int = 3_000_000_000,
    first_shard: int = 0,
    num_shards: int | None = None,
    exclude: NDArray[np.integer] | None = None,
    pool_records: NDArray[np.void] | None = None,
    shuffle_seed: int | None = None,
    threads: int | None = None,
) -> ReshardPlan:
    """Plans the output shards of a subset of an indexed pool.

    Args:
        segments: index segments (paths or ``Segment`` objects) in pool order.
        subset: (s,) "u8,u8" sorted; a uid that stands m times is written m times, from each pool row that has it.
        shards_dir: directory the segments' shard names are relative to.
        shard_size, max_bytes: a new output shard begins before the sample at which the open one has shard_size samples
            or max_bytes of payload (it may be larger by one sample).
        first_shard, num_shards: take only input shards with these numbers in their names.
        exclude: (e,) u64 pool row ids that are not to be written, in any order.
        pool_records: (n,) the pool index (sorted records). Without it the selected uids are sorted in memory to
            find repeated ones, 40 bytes a selected row; with it only the repeated ones are held.
        shuffle_seed: 0 to 2^64 - 1: the output is in the order of a permutation of all samples, keyed by it, and cut
            by number: shard_size samples a shard, or what makes the mean shard max_bytes. Costs 8 bytes a written
            sample in a temporary file.
        threads: that look rows up in the subset; None means one per core.
    Returns:
        ReshardPlan; its counts: see ``records.ReshardReport``.
    Raises:
        PoolError: first_shard is beyond the numbers of all shards. A slice without a shard among them is empty.
    Memory: 10 MB for a block of rows, 56 bytes an output shard, 16 a repeated row, and what is said above; the segments
        are mapped one after the other, for pools of any size.   Cost: one read of the segments.
    """
    options = _plan_options(shard_size, max_bytes, first_shard, num_shards, shuffle_seed)
    paths = [os.fspath(s) for s in segments if isinstance(s, (str, os.PathLike))]
    if len(paths) not in (0, len(segments)):
        raise TypeError("make_plan: segments must be all paths or all objects")
    left_out = b"" if exclude is None else _sorted_rows(exclude)
    repeated = None if pool_records is None else _repeated_uids(pool_records)
    spool = None
    if shuffle_seed is not None:
        import tempfile

        spool = tempfile.TemporaryFile(prefix="dcfast-rows-")  # noqa: SIM115 (lives as long as the map)
    first, count = _slice(options)
    made = core_reshard.plan_reshard(
        [core_segment(item) for item in segments],
        open_subset(subset),
        shard_size=whole_number(shard_size, "shard_size", round_up=True),
        max_bytes=whole_number(max_bytes, "max_bytes", round_up=True),
        first_shard=first,
        num_shards=count,
        exclude=left_out,
        repeated=repeated,
        shuffled=None if spool is None else spool.write,
        rows_at_once=ROWS_AT_ONCE,
        threads=thread_count(threads),
    )
    _check_shard_range(made.segment_first[-1], made.numbers, first_shard)
    rows = b"" if spool is None else _mapped_rows(spool, made.counts["output_count"])
    arrays: PlanArrays = {"cuts": made.cuts, "repeats": made.repeats, "exclude": left_out, "rows": rows}
    plan = ReshardPlan(arrays, paths, made.segment_first, os.fspath(shards_dir), options, made.counts)
    losses = [(os.fsdecode(name), offset, archive, message) for name, offset, archive, message in made.damage]
    plan.damage = [{"shard": name, "offset": at, "message": text} for name, at, archive, text in losses if archive]
    plan.notes = say_losses((name, at, text) for name, at, archive, text in losses if not archive)
    plan.chosen_shards, plan.inputs = made.chosen_shards, made.inputs
    return plan


def _slice(options: PlanOptions) -> tuple[int, int | None]:
    """first_shard and num_shards as the core takes them."""
    first, count = options["first_shard"], options["num_shards"]
    return whole_number(first, "first_shard"), None if count is None else whole_number(count, "num_shards")


def _plan_options(
    shard_size: int, max_bytes: int, first_shard: int, num_shards: int | None, shuffle_seed: int | None
) -> PlanOptions:
    """What a plan records of its arguments; ValueError where one makes no sense."""
    if first_shard < 0 or (num_shards is not None and num_shards < 0):
        raise ValueError(f"make_plan: first_shard and num_shards must be 0 or more; got {first_shard} and {num_shards}")
    options: PlanOptions = {
        "shard_size": shard_size,
        "max_bytes": max_bytes,
        "first_shard": first_shard,
        "num_shards": num_shards,
    }
    if shuffle_seed is not None:
        if not 0 <= shuffle_seed < 1 << 64:
            raise ValueError(f"shuffle_seed must be 0 to 2^64 - 1; got {shuffle_seed}")
        options["shuffle_seed"] = whole_number(shuffle_seed, "shuffle_seed")
    if shard_size < 1 or max_bytes < 1:
        raise ValueError(f"make_plan: shard_size and max_bytes must be at least 1; got {shard_size} and {max_bytes}")
    return options


def _repeated_uids(records: NDArray[np.void]) -> NDArray[np.void]:
    """The uids that stand more than once in a pool index, sorted and without repeats. Cost: one pass."""
    from dcfast.uids.files import RECORD_DTYPE, borrowable

    if records.dtype != RECORD_DTYPE:
        raise TypeError(f'pool_records must have dtype "u8,u8,u8"; got {records.dtype}')
    return core_reshard.repeated_uids(borrowable(records))


def _sorted_rows(rows: NDArray[np.integer]) -> NDArray[np.uint64]:
    import numpy as np

    from dcfast.process.arguments import unsigned_array

    return np.sort(unsigned_array(rows, "exclude"))


def _mapped_rows(spool: BinaryIO, count: int) -> bytes | NDArray[np.uint64]:
    import numpy as np

    spool.flush()
    return np.memmap(spool, np.uint64, "r", 0, (count,)).view(np.ndarray) if count else b""


def _check_shard_range(count: int, numbers: tuple[int, int], first_shard: int) -> None:
    """Raises PoolError where ``first_shard`` is beyond all the numbers of a pool's shards: nothing could be written."""
    if first_shard and (count == 0 or first_shard > numbers[1]):
        between = f", numbered {numbers[0]} to {numbers[1]}" if count else ""
        held = f"{count} input shard{'s' if count != 1 else ''}{between}"
        raise PoolError(f"first_shard={first_shard} is beyond the pool: it has {held}; begin at one of these")


class ShardSources:
    """The segments that a worker's output shards draw from; the last few stay open. Safe for many threads.

    Memory: the pages in use of at most ``keep`` mapped segments, for pools of any size.
    """

    def __init__(
        self,
        plan: ReshardPlan,
        subset: Subset | OpenSubset,
        segments: Sequence[SegmentItem] | None = None,
        *,
        keep: int = 2,
    ) -> None:
        self.plan = plan
        items = plan.segments if segments is None else segments
        if len(items) != len(plan.segment_first) - 1:
            raise ValueError(f"segments must be the {len(plan.segment_first) - 1} that were planned; got {len(items)}")
        first, count = _slice(plan.options)
        self._core = core_reshard.PlannedShards(
            [core_segment(item) for item in items],
            open_subset(subset),
            **plan.arrays,
            first_shard=first,
            num_shards=count,
            shuffle_seed=plan.shuffle_seed,
            segment_first=plan.segment_first,
            shards_dir=os.fsencode(plan.shards_dir),
            keep=keep,
            rows_at_once=ROWS_AT_ONCE,
        )

    def row_ids(self, k: int) -> NDArray[np.uint64]:
        """Pool row ids of the samples of output shard k, in order, a row as often as it is written."""
        return self._core.row_ids(k)

    def contents(self, k: int, *, check: bool = False) -> ShardContents:
        """Output shard k. Memory: about 100 bytes a member. Cost: look-ups of the rows between its two cuts.

        Args:
            check: raise ValueError where it does not hold what was planned (of a shuffled one: as many samples).
        """
        from dcfast.resharding.contents import ShardContents

        return ShardContents(*self._core.contents(k, check=check))

    def write(self, k: int, path: str, threads: int, check_mtime: bool) -> tuple[int, int, int, int]:
        """Checks and writes output shard k; returns its samples, members, payload bytes and bytes."""
        return self._core.write(k, os.fsencode(path), threads=threads, check_mtime=check_mtime)
