"""Where output shards come from: index segments and a subset, as the core borrows them.

Importing this module imports nothing but the core, see the package.
"""

from __future__ import annotations

import os

from dcfast._core import index as core_index
from dcfast._core import reshard as core_reshard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np
    from numpy.typing import NDArray

    from dcfast.index.segments import Segment

    StrPath: TypeAlias = str | os.PathLike[str]
    SegmentItem: TypeAlias = StrPath | Segment | core_index.TarSegment
    Subset: TypeAlias = NDArray[np.void] | StrPath
    OpenSubset: TypeAlias = NDArray[np.void] | core_reshard.UidFile


def whole_number(value: object, name: str, *, round_up: bool = False) -> int:
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
    if not hasattr(value, "__index__"):  # what operator.index takes, without its import
        raise TypeError(f"{name} must be a whole number; got {type(value).__name__}")
    return min(int(value.__index__()), largest)


def core_segment(item: SegmentItem) -> bytes | core_index.TarSegment:
    """A segment as the core takes it: bytes of a path, to be opened when it comes to it, or the core's own object."""
    if isinstance(item, (str, os.PathLike)):
        return os.fsencode(item)
    core = getattr(item, "_core", item)
    if not isinstance(core, core_index.TarSegment):
        raise TypeError(f"a segment must be a path or a dcfast Segment; got {type(item).__name__}")
    return core


def open_segment(item: SegmentItem) -> core_index.TarSegment:
    """The core's segment of an item, its checksums not read."""
    core = core_segment(item)
    return core_index.TarSegment(core, False) if isinstance(core, bytes) else core


def open_subset(subset: Subset | OpenSubset, *, check: bool = False) -> OpenSubset:
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


def _checked_array(subset: NDArray[np.void], check: bool) -> NDArray[np.void]:
    import numpy as np

    from dcfast._core import uids as core_uids
    from dcfast.uids.files import borrowable

    given = np.asarray(subset)
    if not isinstance(subset, np.ndarray) or given.dtype != np.dtype("u8,u8") or given.ndim != 1:
        raise TypeError(f'subset must be one-dimensional of dtype "u8,u8"; got {given.dtype} of shape {given.shape}')
    array = borrowable(subset)
    if check and core_uids.uid_first_unsorted(array, 0) < len(array):
        raise ValueError("subset must be sorted by high then low half; pass dcfast.uid_sort(subset)")
    return array


def subset_array(subset: OpenSubset) -> NDArray[np.void]:
    """What ``open_subset`` gave, as an array."""
    import numpy as np

    if isinstance(subset, np.ndarray):
        return subset
    array: NDArray[np.void] = np.frombuffer(subset.view(), np.dtype("u8,u8"))
    return array
