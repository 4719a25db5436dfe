"""Arrays in mapped files: read where they are used, from files that are larger than memory.

Where a file is cut while it is mapped, Python would be ended by SIGBUS. The core catches that: what is gone reads as
zeros, and a CorruptDataError that names the file is raised in the main thread at its next step, and by every call of
the core for as long as an array of it is there.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from dcfast._core import system as core_system
from dcfast.errors import CorruptDataError
from dcfast.storage.inputs import StrPath


def map_array(
    path: StrPath, dtype: npt.DTypeLike, shape: tuple[int, ...], offset: int = 0, *, columns_first: bool = False
) -> npt.NDArray[Any]:
    """A read-only array over the bytes of a regular file from ``offset`` on; its base keeps the map.

    Raises:
        CorruptDataError: the file is shorter.   OSError: it is not there, no regular file, or cannot be mapped.
    Memory: none but the page cache.
    """
    kind, count = np.dtype(dtype), math.prod(shape)
    if count == 0:
        empty = np.empty(shape, kind)
        empty.flags.writeable = False
        return empty
    file: Any = core_system.MappedFile(os.fsencode(path))  # Any: a buffer, which its stub cannot say
    missing = offset + count * kind.itemsize - len(file)
    if missing > 0:
        raise CorruptDataError(f"{path} was cut while it was opened: {missing:,} bytes are missing", path=path)
    flat: npt.NDArray[Any] = np.frombuffer(file, kind, count, offset)
    return flat.reshape(shape, order="F" if columns_first else "C")
