"""Where output shards come from: index segments and a subset, as the core borrows them.

Importing this module imports nothing but the core, see the package.
"""

from __future__ import annotations

import os

from dcfast._core import index as core_index
from dcfast._core import reshard as core_reshard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    from numpy.typing import NDArray

    from dcfast.index.segments import Segment

    #: or the core's own, which mypy knows nothing of
    SegmentItem: TypeAlias = str | os.PathLike[str] | Segment
    Subset = NDArray[Any] | str | os.PathLike[str]

__all__ = ["core_segments", "open_segment", "open_subset", "subset_array", "whole_number"]


def whole_number(value: Any, name: str, *, round_up: bool = False) -> int:
    """A count as the core takes it: what is larger than 64 bits, infinity too, counts as the largest number of them.

    Raises:
        TypeError: no whole number; a float that is one will do, with ``round_up`` any float.
    """
    largest = (1 << 64) - 1
    if isinstance(value, float):
        if value >= largest:
            return largest
        if value.is_integer() or (round_up and value == value):  # not NaN
            return int(-(-value // 1))
        raise TypeError(f"{name} must be a whole number; got {value}")
    try:
        return min(int(value.__index__()), largest)  # operator.index, without its import
    except AttributeError:
        raise TypeError(f"{name} must be a whole number; got {type(value).__name__}") from None


def core_segments(segments: Sequence[SegmentItem]) -> list[Any]:
    """Segments as the core takes them: bytes of a path, to be opened when it comes to it, or the core's own object."""
    found: list[Any] = []
    for item in segments:
        if isinstance(item, (str, os.PathLike)):
            found.append(os.fsencode(item))
        elif isinstance(item, core_index.TarSegment):
            found.append(item)
        else:
            core = getattr(item, "_core", None)
            if not isinstance(core, core_index.TarSegment):
                raise TypeError(f"a segment must be a path or a dcfast Segment; got {type(item).__name__}")
            found.append(core)
    return found


def open_segment(item: SegmentItem) -> Any:
    """The core's segment of an item, its checksums not read."""
    [core] = core_segments([item])
    return core_index.TarSegment(core, False) if isinstance(core, bytes) else core


def open_subset(subset: Subset, *, check: bool = False) -> Any:
    """The subset as the core borrows it, files mapped; ``check`` makes sure that it is sorted.

    Raises:
        TypeError, ValueError: an array that is no subset.   SubsetError, OSError: a file that is none.
    """
    if isinstance(subset, core_reshard.UidFile):
        return subset
    if isinstance(subset, bytes):
        raise TypeError("a path must be text; got bytes: pass os.fsdecode(path)")
    if isinstance(subset, (str, os.PathLike)):
        try:
            return core_reshard.UidFile(os.fsencode(subset), check)
        except (OSError, ValueError):
            from dcfast.uids.files import borrowable, load_subset

            # a file without a header, or the words for what is wrong
            return borrowable(load_subset(subset, check=check))
    return _checked_array(subset, check)


def _checked_array(subset: NDArray[Any], check: bool) -> NDArray[Any]:
    import numpy as np

    from dcfast._core import uids as core_uids
    from dcfast.uids.files import borrowable

    given = np.asarray(subset)
    if not isinstance(subset, np.ndarray) or given.dtype != np.dtype("u8,u8") or given.ndim != 1:
        raise TypeError(f'subset must be one-dimensional of dtype "u8,u8"; got {given.dtype} of shape {given.shape}')
    array: NDArray[Any] = borrowable(subset)
    if check and core_uids.uid_first_unsorted(array, 0) < len(array):
        raise ValueError("subset must be sorted by high then low half; pass dcfast.uid_sort(subset)")
    return array


def subset_array(subset: Any) -> NDArray[Any]:
    """What ``open_subset`` gave, as an array."""
    import numpy as np

    if isinstance(subset, np.ndarray):
        return subset
    return np.frombuffer(subset, np.dtype("u8,u8"))
