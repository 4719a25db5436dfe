"""Where output shards come from: index segments and a subset, as the core borrows them, and a plan's shards over both.

Importing this module imports nothing but the core, see the package.
"""

from __future__ import annotations

import os

import dcfast._core as _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    import numpy as np
    from numpy.typing import NDArray

    from dcfast.index.segments import Segment
    from dcfast.resharding.contents import ShardContents
    from dcfast.resharding.plan import ReshardPlan

    #: or the core's own, which mypy knows nothing of
    SegmentItem: TypeAlias = str | os.PathLike[str] | Segment
    Subset = NDArray[Any] | str | os.PathLike[str]

__all__ = ["ShardSources", "core_segments", "open_segment", "open_subset", "subset_array", "whole_number"]

# rows of a segment looked at together: bounds the memory of workers for segments of any size
ROWS_AT_ONCE = 1 << 18


class ShardSources:
    """The segments that a worker's output shards draw from; the last few stay open. Safe for many threads.

    Memory: the pages in use of at most ``keep`` mapped segments, for pools of any size.
    """

    def __init__(
        self, plan: ReshardPlan, subset: Subset, segments: Sequence[SegmentItem] | None = None, *, keep: int = 2
    ) -> None:
        self.plan = plan
        items = plan.segments if segments is None else segments
        if len(items) != len(plan.segment_first) - 1:
            raise ValueError(f"segments must be the {len(plan.segment_first) - 1} that were planned; got {len(items)}")
        count = plan.options["num_shards"]
        self._core = _core.PlannedShards(
            core_segments(items),
            open_subset(subset),
            **plan.buffers,
            shuffle_seed=plan.shuffle_seed,
            segment_first=plan.segment_first,
            shards_dir=os.fsencode(plan.shards_dir),
            first_shard=whole_number(plan.options["first_shard"]),
            num_shards=None if count is None else whole_number(count),
            keep=keep,
            rows_at_once=ROWS_AT_ONCE,
        )

    def row_ids(self, k: int) -> NDArray[np.uint64]:
        """Pool row ids of the samples of output shard k, in order, a row as often as it is written."""
        ids: NDArray[np.uint64] = self._core.row_ids(k)
        return ids

    def contents(self, k: int, *, check: bool = False) -> ShardContents:
        """Output shard k. Memory: about 100 bytes a member. Cost: look-ups of the rows between its two cuts.

        Args:
            check: raise ValueError where it does not hold what was planned (of a shuffled one: as many samples).
        """
        from dcfast.resharding.contents import ShardContents

        return ShardContents.of_core(self._core.contents(k, check=check))

    def write(self, k: int, path: str, threads: int, check_mtime: bool) -> tuple[int, int, int, int]:
        """Checks and writes output shard k; returns its samples, members, payload bytes and bytes."""
        done: tuple[int, int, int, int] = self._core.write(
            k, os.fsencode(path), threads=threads, check_mtime=check_mtime
        )
        return done


def whole_number(value: Any) -> int:
    """A count as the core takes it: what is larger than 64 bits counts as the largest number of them."""
    return min(int(-(-value // 1)), (1 << 64) - 1)


def core_segments(segments: Sequence[SegmentItem]) -> list[Any]:
    """Segments as the core takes them: bytes of a path, to be opened when it comes to it, or the core's own object."""
    found: list[Any] = []
    for item in segments:
        if isinstance(item, (str, os.PathLike)):
            found.append(os.fsencode(item))
        elif isinstance(item, _core.TarSegment):
            found.append(item)
        else:
            core = getattr(item, "_core", None)
            if not isinstance(core, _core.TarSegment):
                raise TypeError(f"a segment must be a path or a dcfast Segment; got {type(item).__name__}")
            found.append(core)
    return found


def open_segment(item: SegmentItem) -> Any:
    """The core's segment of an item, its checksums not read."""
    [core] = core_segments([item])
    return _core.TarSegment(core, False) if isinstance(core, bytes) else core


def open_subset(subset: Subset, *, check: bool = False) -> Any:
    """The subset as the core borrows it, files mapped; ``check`` makes sure that it is sorted.

    Raises:
        TypeError, ValueError: an array that is no subset.   SubsetError, OSError: a file that is none.
    """
    if isinstance(subset, _core.UidFile):
        return subset
    if isinstance(subset, (str, os.PathLike)):
        try:
            return _core.UidFile(os.fsencode(subset), check)
        except (OSError, ValueError):
            from dcfast.uids.files import borrowable, load_subset

            # a file without a header, or the words for what is wrong
            return borrowable(load_subset(subset, check=check))
    return _checked_array(subset, check)


def _checked_array(subset: NDArray[Any], check: bool) -> NDArray[Any]:
    import numpy as np

    from dcfast.uids.files import borrowable

    given = np.asarray(subset)
    if not isinstance(subset, np.ndarray) or given.dtype != np.dtype("u8,u8") or given.ndim != 1:
        raise TypeError(f'subset must be one-dimensional of dtype "u8,u8"; got {given.dtype} of shape {given.shape}')
    array: NDArray[Any] = borrowable(subset)
    if check and _core.uid_first_unsorted(array, 0) < len(array):
        raise ValueError("subset must be sorted by high then low half; pass dcfast.uid_sort(subset)")
    return array


def subset_array(subset: Any) -> NDArray[Any]:
    """What ``open_subset`` gave, as an array."""
    import numpy as np

    if isinstance(subset, np.ndarray):
        return subset
    return np.frombuffer(subset, np.dtype("u8,u8"))
